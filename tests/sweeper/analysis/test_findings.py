"""The questions of the papers, asked of sweeps whose truth was made up."""

from __future__ import annotations

import json
import shlex
import zlib

import numpy as np
import pytest
from typer.testing import CliRunner

from sweeper.analysis import findings
from sweeper.analysis.answers import DEPENDS, UNFAIR, answer, read_evidence, summarise
from sweeper.analysis.paired import HELPS, HURTS, NO_DIFFERENCE, UNDECIDED
from sweeper.cli import app

RUNNER = CliRunner()
SPACE = {"name": "s", "space": {"task": {"grid": ["digits", "mnist1d"]}, "align.epochs": {"grid": [0, 10, 20]}}, "seeds": 8}


def draw(*key: object) -> float:
    """A standard normal number for some values, the same in every call."""
    return float(np.random.default_rng([zlib.crc32(str(part).encode()) for part in key]).normal())


def found(workspace, name="s"):
    return {finding.name: finding for finding in answer(read_evidence(workspace.results, name))}


def test_verdicts_of_several_are_one():
    assert summarise([HELPS, HELPS]) == HELPS
    assert summarise([HELPS, HURTS]) == DEPENDS
    assert summarise([HELPS, NO_DIFFERENCE]) == DEPENDS
    assert summarise([NO_DIFFERENCE, UNDECIDED]) == UNDECIDED
    assert summarise([HELPS, UNDECIDED]) == UNDECIDED
    assert summarise([HELPS, HURTS, UNDECIDED]) == DEPENDS
    assert summarise([UNFAIR]) == UNFAIR
    assert summarise([]) == UNDECIDED


def test_training_the_embedder_is_answered_for_1d_and_2d_tasks_apart(simulate, workspace):
    """Planted: it helps on the series and does nothing on the images."""

    def outcome(cells):
        helps = 0.05 if cells["task"] == "mnist1d" and cells["align_epochs"] else 0.0
        return 0.3 - helps + 0.02 * draw(cells["seed"], cells["task"]) + 1e-3 * draw(cells["seed"], cells["task"], cells["align_epochs"])

    simulate(SPACE, outcome)
    answers = found(workspace)
    assert answers["embedder-training-1d"].verdict == HELPS
    assert answers["embedder-training-2d"].verdict == NO_DIFFERENCE
    assert [statement.task for statement in answers["embedder-training-1d"].statements] == ["mnist1d"]
    assert len(answers["embedder-training-1d"].statements[0].numbers) == 2, "an effect for each level"
    command = f"sweeper compare s --results {workspace.uri} --factor align.epochs --baseline 0 --where "
    assert answers["embedder-training-1d"].query == command + "\"task in ('mnist1d')\""


def test_the_command_behind_a_finding_gives_its_numbers(simulate, workspace):
    """The tasks have other proxies, so there are two families; each aligned length has the proxies, naive trials have none."""
    space = {
        "name": "s",
        "space": {
            "task": {"grid": ["digits", "mnist1d"]},
            "align.epochs": {"grid": [0, 5, 10]},
            "proxy": {"grid": ["recipe", "noise-matched"], "when": {"align.epochs": [5, 10]}},
        },
        "seeds": 6,
    }
    simulate(space, lambda cells: 0.3 - 0.002 * cells["align_epochs"] + 0.003 * draw(*map(str, cells.values())))
    asked = [finding for finding in answer(read_evidence(workspace.results, "s")) if "sweeper compare" in finding.query]
    assert {finding.name for finding in asked} >= {"embedder-training-1d", "embedder-training-2d", "proxy"}
    for finding in (finding for finding in asked if finding.name not in ("more-alignment", "variance")):
        shown = RUNNER.invoke(app, [*shlex.split(finding.query)[1:], "--format", "json"])
        assert shown.exit_code == 0, shown.output
        effects = [{key: effect[key] for key in NUMBERS} for effect in json.loads(shown.stdout)]
        stated = [{key: number[key] for key in NUMBERS} for statement in finding.statements for number in statement.numbers]
        assert sorted(effects, key=str) == sorted(stated, key=str)


NUMBERS = ("task", "level", "difference", "low", "high", "p", "p_adjusted", "n", "verdict")


def test_arms_that_are_not_compared_fairly_do_not_vary_less_either(simulate, workspace):
    def outcome(cells):
        noise = (0.001 if cells["align_epochs"] else 0.05) * draw(cells["seed"], cells["align_epochs"])
        return {"test_error": 0.3 + noise, "selection": "test" if cells["align_epochs"] else "valid"}

    simulate({"name": "s", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 10]}}, "seeds": 8}, outcome)
    assert found(workspace)["variance"].verdict == UNFAIR


def test_a_sweep_is_asked_only_what_it_varied(simulate, workspace):
    simulate(
        {"name": "s", "space": {"freezing": {"grid": ["full", "frozen-body"]}}, "base": {"task": "digits"}, "seeds": 4}, lambda cells: 0.1
    )
    assert found(workspace).keys() == {"what-to-train"}
    assert found(workspace)["what-to-train"].verdict == NO_DIFFERENCE


def test_what_has_to_be_trained_names_the_levels(simulate, workspace):
    def outcome(cells):
        return {"full": 0.1, "layernorm": 0.1, "frozen-body": 0.4}[cells["freezing"]] + 1e-3 * draw(cells["seed"], cells["freezing"])

    space = {"freezing": {"grid": ["full", "layernorm", "frozen-body"]}}
    simulate({"name": "s", "space": space, "base": {"task": "digits"}, "seeds": 8}, outcome)
    answer = found(workspace)["what-to-train"]
    assert answer.verdict == DEPENDS
    assert answer.by_level == {"frozen-body": HURTS, "layernorm": NO_DIFFERENCE}
    assert {number["level"]: number["verdict"] for number in answer.statements[0].numbers} == {
        "layernorm": NO_DIFFERENCE,
        "frozen-body": HURTS,
    }


def test_parts_that_are_kept_are_compared_with_all_of_the_pretrained_weights(simulate, workspace):
    def outcome(cells):
        loss = {"all": 0.0, "attention+embeddings": 0.0, "attention": 0.0, "ffn": 0.3, None: 0.3}[cells["body_keep"]]
        return 0.1 + loss + 1e-3 * draw(cells["seed"], cells["body_keep"])

    space = {"body.keep": {"grid": ["all", ["embeddings", "attention"], ["attention"], ["ffn"], []]}}
    simulate({"name": "s", "space": space, "base": {"task": "digits"}, "seeds": 8}, outcome)
    answers = found(workspace)
    assert answers["parts-of-pretraining"].by_level == {"attention+embeddings": NO_DIFFERENCE, "attention": NO_DIFFERENCE, "ffn": HURTS}


def test_what_a_body_was_pretrained_on_is_compared_with_noise(simulate, workspace):
    def outcome(cells):
        return (0.1 if cells["pretrain_corpus"] == "dyck" else 0.3) + 1e-3 * draw(cells["seed"], cells["pretrain_corpus"])

    space = {
        "body.weights": {"grid": ["pretrained", "random"]},
        "pretrain.corpus": {"grid": ["own", "dyck", "noise"], "when": {"body.weights": "pretrained"}},
    }
    simulate({"name": "s", "space": space, "base": {"task": "digits", "body": "mini-roberta"}, "seeds": 8}, outcome)
    assert found(workspace)["content-of-pretraining"].by_level == {"own": NO_DIFFERENCE, "dyck": HELPS}


def test_the_proxy_is_compared_with_a_real_one(simulate, workspace):
    space = {"align.epochs": {"grid": [0, 10]}, "proxy": {"grid": ["photos", "noise-matched"], "when": {"align.epochs": 10}}}
    outcome = lambda cells: 0.1 + 0.1 * (cells["proxy"] == "noise-matched:photos") + 1e-3 * draw(cells["seed"], cells["proxy"])  # noqa: E731
    simulate({"name": "s", "space": space, "base": {"task": "digits"}, "seeds": 8}, outcome)
    answer = found(workspace)["proxy"]
    assert "against photos" in answer.question
    assert answer.verdict == HURTS
    assert "--factor proxy --baseline photos" in answer.query


def test_a_lower_distance_is_ranked_with_the_error_within_seeds(simulate, workspace):
    """Planted: among five proxies the closer one has the lower error, in every seed."""
    names = ["photos", "fractals", "noise", "photos+shuffled", "noise-matched"]

    def outcome(cells):
        distance = 1.0 + names.index(cells["proxy"].partition(":")[0])
        return {"test_error": 0.1 * distance + 1e-3 * draw(cells["seed"], cells["proxy"]), "proxy_distance": distance}

    simulate({"name": "s", "space": {"proxy": {"grid": names}}, "base": {"task": "digits", "align.epochs": 10}, "seeds": 5}, outcome)
    answer = found(workspace)["closer-proxy"]
    assert answer.verdict == "yes"
    assert answer.statements[0].numbers[0]["correlation"] > 0.8


def test_distances_and_seconds_of_epochs_are_read_and_the_queries_printed_beside_them_run(simulate, workspace):
    """Planted: each epoch of alignment lowers distance and error alike, and LayerNorms alone train in half of the time."""
    space = {"align.epochs": {"grid": [0, 5, 10, 20, 40]}, "freezing": {"grid": ["full", "layernorm"]}}
    error = lambda cells: 0.5 - 0.005 * cells["align_epochs"] + 1e-3 * draw(*map(str, cells.values()))  # noqa: E731
    simulate({"name": "s", "base": {"task": "digits"}, "space": space, "seeds": 5}, error)
    rows = []
    for trial in workspace.results.live_trials("s"):
        of_trial = {"sweep": "s", "attempt": 1, "run": trial["run"], "trial": trial["trial"]}
        half = 0.5 if trial["freezing"] == "layernorm" else 1.0
        epochs = range(1, trial["align_epochs"] + 1)
        rows += [of_trial | {"stage": "align", "epoch": epoch, "distance": 60.0 - epoch, "seconds": 1.0} for epoch in epochs]
        tuned = of_trial | {"stage": "finetune", "seconds": half * (2 + 0.01 * trial["seed"]), "test_error": 0.5}
        rows += [tuned | {"epoch": epoch} for epoch in (1, 2)]
    workspace.results.append("metrics", "s", rows)
    answers = found(workspace)
    assert answers["lower-distance"].verdict == "yes"
    assert answers["speed"].verdict == "yes"
    assert answers["speed"].statements[0].numbers[0]["ratio"] == pytest.approx(0.5)
    queries = [answer.query for answer in answers.values() if answer.query.startswith("sweeper query")]
    assert len(queries) == 2
    for query in queries:
        shown = RUNNER.invoke(app, [*shlex.split(query)[1:], "--format", "json"])
        assert shown.exit_code == 0, shown.output
        assert json.loads(shown.stdout)


def test_lower_variance_needs_evidence(simulate, workspace):
    """Planted: the deviation over seeds of the aligned arm is a tenth."""

    def outcome(cells):
        return 0.3 + (0.002 if cells["align_epochs"] else 0.02) * draw(cells["seed"], cells["align_epochs"])

    simulate(SPACE | {"seeds": 12, "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 10]}}}, outcome)
    assert found(workspace)["variance"].verdict == "yes"


def test_missing_evidence_is_undecided_and_says_what_would_change_it(simulate, workspace):
    simulate(SPACE | {"seeds": 3}, lambda cells: 0.3 + 0.05 * draw(cells["seed"], cells["task"], cells["align_epochs"]))
    answer = found(workspace)["embedder-training-1d"]
    assert answer.verdict == UNDECIDED
    assert "seeds" in answer.would_change


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_command_prints_every_finding(simulate, workspace, format):
    simulate(SPACE, lambda cells: 0.3 + 0.05 * draw(cells["seed"], cells["task"], cells["align_epochs"]))
    done = RUNNER.invoke(app, ["findings", "s", "--results", workspace.uri, "--format", format])
    assert done.exit_code == 0, done.output
    assert "Does training the embedder help on 1D tasks?" in done.output
    if format == "text":
        assert max(len(line) for line in done.output.splitlines() if "sweeper " not in line) <= 80


def test_no_arm_beats_the_floor_is_said_in_words(simulate, workspace):
    """The floor of digits is that of its real data; the errors of the arms are made up."""
    space = {"name": "s", "space": {"align.epochs": {"grid": [0, 10]}}, "base": {"task": "digits"}, "seeds": 4}
    simulate(space, lambda cells: 0.07 + 1e-3 * draw(cells["seed"], cells["align_epochs"]))
    assert "floors" not in found(workspace), "not known yet"
    assert RUNNER.invoke(app, ["floors", "digits", "--results", workspace.uri]).exit_code == 0
    answer = found(workspace)["floors"]
    assert answer.verdict == "no"
    assert "No evidence of transfer on digits" in answer.statements[0].text
    simulate(space | {"name": "better"}, lambda cells: 1e-4 * (2 + draw(cells["seed"], cells["align_epochs"])))
    assert found(workspace, "better")["floors"].verdict == "yes"


def test_the_function_on_tables_says_what_the_command_says(simulate, workspace):
    """On tables as a query returns them, without the plan: so its trials must all have ended."""
    simulate(SPACE, lambda cells: 0.3 + 0.05 * draw(cells["seed"], cells["task"], cells["align_epochs"]))
    trials = workspace.sql("from trial_status where sweep = 's' and in_plan").arrow()
    metrics = workspace.sql("from metrics where sweep = 's'").arrow()
    of_table = findings(trials, metrics=metrics).to_pylist()
    expected = [(f.name, f.verdict, s.task, s.verdict, s.text) for f in answer(read_evidence(workspace.results, "s")) for s in f.statements]
    assert [(row["name"], row["verdict"], row["task"], row["task_verdict"], row["text"]) for row in of_table] == expected


def test_a_section_of_which_one_knob_varies_is_compared(simulate, workspace):
    space = {"body": {"grid": ["mini-swin", "mini-roberta"]}}
    simulate({"name": "s", "space": space, "base": {"task": "digits"}, "seeds": 3}, lambda cells: 0.1)
    done = RUNNER.invoke(app, ["compare", "s", "--factor", "body", "--baseline", "mini-swin", "--results", workspace.uri])
    assert done.exit_code == 0, done.output
    assert "no difference" in done.output


def test_a_context_in_which_the_effect_is_another_one_is_named(simulate, workspace):
    """Planted: alignment helps only a frozen body."""

    def outcome(cells):
        helps = 0.1 if cells["align_epochs"] and cells["freezing"] == "frozen-body" else 0.0
        return 0.4 - helps + 1e-3 * draw(cells["seed"], cells["freezing"], cells["align_epochs"])

    space = {"align.epochs": {"grid": [0, 10]}, "freezing": {"grid": ["full", "layernorm", "frozen-body"]}}
    simulate({"name": "s", "space": space, "base": {"task": "digits"}, "seeds": 6}, outcome)
    text = found(workspace)["embedder-training-2d"].statements[0].text
    assert "depends on the context: with freezing frozen-body -0.0998, elsewhere" in text
