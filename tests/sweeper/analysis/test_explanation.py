"""What explains a gap: Shapley values and chains worked out by hand, the rule that names causes, and the command."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from orca_core.errors import ConfigError
from sweeper.analysis import explain
from sweeper.analysis.body_parts import explain_parts
from sweeper.analysis.explanation import Explanation, explain_sweep
from sweeper.analysis.gap_arms import Options
from sweeper.analysis.margins import DEFAULT_MARGIN
from sweeper.analysis.number_ids import find_number
from sweeper.analysis.numbers import numbers_of
from sweeper.analysis.shapley import atoms, coalitions, first_in_weights, last_in_weights, main_effect_weights, shapley_values, weigh
from sweeper.analysis.sweep_rows import SweepRows, read_sweep_rows
from sweeper.analysis.terms import Term
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.show.explanation import _describe_gap
from sweeper.show.figures import NotInTablesError, find_figure, read_tables, render
from sweeper.show.report.making import make_report
from sweeper.space.reading import parse_space

RUNNER = CliRunner()
REST = "layernorm+embeddings+other"

# ------------------------------------------------------------------------------------------------------------------- games by hand


def game(**values: float) -> dict[frozenset[str], float]:
    return {frozenset(name.replace("_", "")): value for name, value in values.items()}


def test_three_players_that_interact_by_hand():
    """Marginal changes by a: -2 first, -5 after b, -2 after c, -6 last: (2 * -2 - 5 - 2 + 2 * -6) / 6 = -23 / 6."""
    values = game(_=12, a=10, b=9, c=12, ab=4, ac=10, bc=6, abc=0)
    assert shapley_values(values, "abc") == pytest.approx({"a": -23 / 6, "b": -38 / 6, "c": -11 / 6})
    assert weigh(main_effect_weights("a", "abc"), values) == (-2 - 5 - 2 - 6) / 4
    assert (weigh(first_in_weights("a", "abc"), values), weigh(last_in_weights("a", "abc"), values)) == (-2, -6)
    assert (weigh(first_in_weights("c", "abc"), values), weigh(last_in_weights("c", "abc"), values)) == (0, -4)


def test_values_add_up_to_the_gap_and_are_means_over_all_orders():
    draw = random.Random(0)
    for players in ("a", "ab", "abcd"):
        values = {one: draw.random() for one in coalitions(players)}
        expected = dict.fromkeys(players, 0.0)
        for order in itertools.permutations(players):
            for place, player in enumerate(order):
                expected[player] += values[frozenset(order[: place + 1])] - values[frozenset(order[:place])]
        found = shapley_values(values, players)
        assert found == pytest.approx({player: total / math.factorial(len(players)) for player, total in expected.items()})
        assert sum(found.values()) == pytest.approx(values[frozenset(players)] - values[frozenset()], abs=1e-12)


def test_a_missing_coalition_is_an_error():
    with pytest.raises(KeyError):
        shapley_values(game(_=1, a=2, b=3), "ab")


def test_parts_that_no_arm_tells_apart_are_one_player():
    assert atoms([frozenset(), frozenset("abc"), frozenset("a")], "abcd") == [("a",), ("b", "c")]
    assert atoms([frozenset("ab"), frozenset("a")], "abc") == [("b",)], "a is always there, c never"


# ------------------------------------------------------------------------------------------------------------ rows written by hand

PARTS_BY_SEED = {  # seed -> the errors of none, attention, ffn, and both
    0: (0.50, 0.44, 0.50, 0.30),
    1: (0.52, 0.44, 0.50, 0.32),
    2: (0.48, 0.42, 0.50, 0.31),
}


def part_rows(by_seed: Mapping[int, tuple[float, ...]] = PARTS_BY_SEED, names=("none", "attention", "ffn", "attention+ffn"), **more):
    return [
        {
            **{"trial": f"{name}-{seed}", "arm": name, "task": "digits", "seed": seed, "status": "COMPLETE", "test_error": error},
            **{"body_weights": "random" if name == "none" else "pretrained", "body_keep": None if name == "none" else name},
            **more,
        }
        for seed, errors in by_seed.items()
        for name, error in zip(names, errors, strict=True)
    ]


def terms_of(rows, **options) -> tuple[dict[str, Term], Explanation]:
    explanation = explain_sweep(SweepRows("s", rows), **options)
    return {term.term: term for term in explanation.terms}, explanation


def test_parts_by_hand_by_seed():
    """Attention in seed 0: ((0.44 - 0.50) + (0.30 - 0.50)) / 2 = -0.13; seeds 1, 2: -0.13, -0.125; ffn: -0.07, -0.07, -0.045."""
    terms, explanation = terms_of(part_rows())
    attention, ffn, gap = terms["attention"], terms["ffn"], terms["gap"]
    assert attention.by_seed == pytest.approx([-0.13, -0.13, -0.125])
    assert ffn.by_seed == pytest.approx([-0.07, -0.07, -0.045])
    assert gap.by_seed == pytest.approx([-0.20, -0.20, -0.17])
    assert [one + other for one, other in zip(attention.by_seed, ffn.by_seed, strict=True)] == pytest.approx(gap.by_seed)
    sd = math.sqrt((2 * 0.0083333333**2 + 0.0166666667**2) / 2)
    half = 4.302652729911275 * sd / math.sqrt(3)
    assert (ffn.value, ffn.low, ffn.high) == pytest.approx((-0.185 / 3, -0.185 / 3 - half, -0.185 / 3 + half))
    assert (attention.first_in, attention.last_in) == pytest.approx((-0.2 / 3, -0.57 / 3))
    assert attention.main_effect == pytest.approx(attention.value), "with two parts the two means are the same"
    assert (gap.baseline_mean, gap.relative) == pytest.approx((0.5, -0.38))
    assert attention.share == pytest.approx((0.385 / 3) / 0.19)
    assert len(attention.trials) == 12
    assert len(gap.trials) == 6
    assert gap.subject == "attention+ffn - random"
    assert not explanation.missing


def test_p_are_corrected_over_the_parts_and_gaps_apart():
    terms, _ = terms_of(part_rows())
    p = sorted([terms["attention"].p, terms["ffn"].p])
    adjusted = sorted([terms["attention"].p_adjusted, terms["ffn"].p_adjusted])
    assert adjusted == pytest.approx([2 * p[0], max(2 * p[0], p[1])])
    assert terms["gap"].p_adjusted == terms["gap"].p


def test_the_random_arm_serves_every_setting_that_it_does_not_read():
    """The share of pretraining is varied, which a random body does not read; the tasks stay apart."""
    rows = [row for share in (0.1, 1.0) for row in part_rows(pretrain_fraction=share) if row["body_weights"] == "pretrained"]
    rows = [{**row, "trial": f"{row['trial']}-{row['pretrain_fraction']}"} for row in rows]
    shared = [{**row, "pretrain_fraction": None} for row in part_rows() if row["body_weights"] == "random"]
    terms, _ = terms_of([*rows, *shared])
    assert terms["gap"].contexts == 2
    assert terms["attention"].by_seed == pytest.approx([-0.13, -0.13, -0.125])
    assert len(terms["attention"].trials) == 6 * 3 + 3


def test_missing_combinations_are_named_and_what_is_known_is_said():
    rows = part_rows({0: (0.5, 0.4, 0.2), 1: (0.5, 0.42, 0.2)}, ("none", "attention", "attention+ffn"))
    terms, explanation = terms_of(rows)
    (missing,) = explanation.missing
    assert (missing.arms, missing.values) == (("body.keep ffn",), (["ffn"],))
    assert (terms["attention"].value, terms["attention"].p) == (None, None)
    assert terms["attention"].first_in == pytest.approx(-0.09)
    assert terms["ffn"].last_in == pytest.approx(-0.21)
    assert (terms["ffn"].first_in, terms["attention"].last_in) == (None, None)
    assert terms["gap"].value == pytest.approx(-0.3)
    (cause,) = explanation.causes
    assert (cause.state, cause.causes) == ("cannot be told", ())


def test_an_arm_without_a_complete_trial_is_missing_and_a_seed_without_one_is_left_out():
    rows = part_rows()
    failed = [{**row, "status": "FAIL", "test_error": None} if row["trial"] == "ffn-2" else row for row in rows]
    terms, explanation = terms_of(failed)
    assert terms["gap"].seeds == (0, 1)
    assert terms["gap"].flags == ("missing-in-one-arm",)
    assert terms["attention"].verdict is None
    assert explanation.causes[0].state == "unfair"
    gone = [{**row, "status": "FAIL", "test_error": None} if row["arm"] == "ffn" else row for row in rows]
    assert terms_of(gone)[1].missing[0].arms == ("body.keep ffn",)


def test_shuffled_weights_split_the_gap_into_statistics_and_structure():
    rows = part_rows({0: (0.5, 0.2), 1: (0.5, 0.22), 2: (0.5, 0.18)}, ("none", "all"))
    shuffled = [{**row, "trial": f"x{row['seed']}", "arm": "x", "body_weights": "shuffled", "test_error": 0.45} for row in rows[1::2]]
    explanation = explain_sweep(SweepRows("s", [*rows, *[{**row, "body_keep": None} for row in shuffled]]))
    found = {term.term: term.value for term in explanation.terms if term.question == "statistics"}
    assert found == pytest.approx({"statistics": -0.05, "structure": -0.25, "gap": -0.3})


def chain_rows(by_objective: Mapping[str, tuple[float, ...]], start: str = "random", proxies: Mapping[str, float] = {"photos": 0.0}):
    """A naive arm, and arms of ten steps; a distance has an arm for each proxy."""
    return [
        {
            **{"trial": f"{objective}-{seed}-{proxy}-{start}", "arm": f"{objective}-{proxy}-{start}", "task": "digits", "seed": seed},
            **{"status": "COMPLETE", "align_epochs": 0 if objective == "naive" else 10, "embedder_init": start},
            **{"align_objective": None if objective == "naive" else objective, "proxy": proxy},
            "test_error": error + (0.0 if proxy is None else proxies[proxy]),
        }
        for objective, errors in by_objective.items()
        for seed, error in enumerate(errors)
        for proxy in (proxies if objective not in ("naive", "none", "dispersion") else [None])
    ]


CHAIN = {"naive": (0.50, 0.52, 0.51), "none": (0.45, 0.46, 0.47), "dispersion": (0.30, 0.30, 0.33), "mmd": (0.30, 0.31, 0.32)}


def test_a_chain_by_hand():
    terms, explanation = terms_of(chain_rows(CHAIN))
    assert terms["steps"].by_seed == pytest.approx([-0.05, -0.06, -0.04])
    assert terms["dispersion"].by_seed == pytest.approx([-0.15, -0.16, -0.14])
    assert terms["distance"].by_seed == pytest.approx([0.0, 0.01, -0.01])
    assert terms["gap"].by_seed == pytest.approx([-0.20, -0.21, -0.19])
    half = 4.302652729911275 * 0.01 / math.sqrt(3)
    assert (terms["steps"].low, terms["steps"].high) == pytest.approx((-0.05 - half, -0.05 + half))
    (cause,) = explanation.causes
    assert cause.causes == ("tidier classes", "more steps")
    assert cause.sentence.startswith("The error is lower with alignment because of tidier classes and more steps.")
    assert not explanation.missing


def test_rungs_without_a_proxy_serve_every_proxy():
    terms, _ = terms_of(chain_rows(CHAIN, proxies={"photos": 0.0, "fractals": 0.1}))
    assert terms["distance"].by_seed == pytest.approx([0.05, 0.06, 0.04])
    assert terms["gap"].contexts == 2
    assert terms["steps"].by_seed == pytest.approx([-0.05, -0.06, -0.04])


def test_a_chain_of_another_start_begins_with_the_start():
    """Naive at the start `matched` has 0.40: the start takes 0.1 away, and the steps are compared at that start."""
    matched = {"naive": (0.40, 0.41, 0.42), "none": (0.40, 0.41, 0.42), "dispersion": (0.40, 0.41, 0.42), "mmd": (0.39, 0.41, 0.41)}
    explanation = explain_sweep(SweepRows("s", [*chain_rows(CHAIN), *chain_rows(matched, "matched")]))
    found = {term.term: term for term in explanation.terms if "matched" in term.subject}
    assert found["start"].by_seed == pytest.approx([-0.10, -0.11, -0.09])
    assert found["steps"].value == 0.0
    assert found["gap"].by_seed == pytest.approx([-0.11, -0.11, -0.10])
    said = {cause.subject: cause.causes for cause in explanation.causes}
    assert "The error is lower with alignment from the start matched because of the start." in explanation.causes[1].sentence
    assert said["align.objective mmd, start matched - naive, start random"] == ("the start",)
    assert said["align.objective mmd, start random - naive, start random"] == ("tidier classes", "more steps")


@pytest.mark.parametrize(
    ("absent", "links", "why"),
    [
        (["none"], {"steps+dispersion", "distance"}, "More steps and tidier classes cannot be told apart."),
        (["dispersion"], {"steps", "dispersion+distance"}, "Tidier classes and closeness to the proxy cannot be told apart."),
        (["none", "dispersion"], set(), "More steps, tidier classes and closeness to the proxy cannot be told apart."),
    ],
)
def test_missing_rungs_leave_causes_together(absent, links, why):
    terms, explanation = terms_of(chain_rows({name: errors for name, errors in CHAIN.items() if name not in absent}))
    assert set(terms) == links | {"gap"}
    (missing,) = explanation.missing
    assert (missing.why, list(missing.values)) == (why, absent)
    if absent == ["none"]:
        assert explanation.causes[0].causes == ("more steps or tidier classes",)


def test_another_number_of_steps_is_no_rung():
    rows = [{**row, "align_epochs": 5} if row["align_objective"] == "none" else row for row in chain_rows(CHAIN)]
    terms, explanation = terms_of(rows)
    assert set(terms) == {"steps+dispersion", "distance", "gap"}
    assert explanation.missing[0].values == ("none",)


# -------------------------------------------------------------------------------------------------------------------- the rule


def wave(seed: int) -> float:
    return (0.004, -0.004, 0.002, -0.002, 0.0)[seed]


def chain_of(**levels: float) -> list[dict]:
    """Five seeds; each rung has its level, and a spread of its own."""
    shift = {"naive": 0, "none": 1, "dispersion": 2, "mmd": 3}
    return chain_rows({name: tuple(level + wave((seed + shift[name]) % 5) for seed in range(5)) for name, level in levels.items()})


@pytest.mark.parametrize(
    ("levels", "state", "causes"),
    [
        ({"naive": 0.5, "none": 0.3, "dispersion": 0.3, "mmd": 0.3}, "named", ("more steps",)),
        ({"naive": 0.5, "none": 0.5, "dispersion": 0.3, "mmd": 0.3}, "named", ("tidier classes",)),
        ({"naive": 0.5, "none": 0.5, "dispersion": 0.5, "mmd": 0.3}, "named", ("closeness to the proxy",)),
        ({"naive": 0.3, "none": 0.3, "dispersion": 0.3, "mmd": 0.5}, "named", ("closeness to the proxy",)),
        ({"naive": 0.5, "none": 0.5, "dispersion": 0.5, "mmd": 0.5}, "no gap", ()),
        ({"naive": 0.5, "none": 0.4, "dispersion": 0.5, "mmd": 0.5}, "no gap", ()),
    ],
)
def test_the_rule(levels, state, causes):
    _, explanation = terms_of(chain_of(**levels))
    (cause,) = explanation.causes
    assert (cause.state, cause.causes) == (state, causes)


def test_what_works_against_a_gap_is_no_cause_but_is_said():
    terms, explanation = terms_of(chain_of(naive=0.5, none=0.55, dispersion=0.3, mmd=0.3))
    assert explanation.causes[0].causes == ("tidier classes",)
    assert (terms["steps"].verdict, terms["steps"].is_cause) == ("hurts", False)
    assert "Against it: more steps." in explanation.causes[0].sentence


def test_a_gap_whose_terms_are_each_unclear_cannot_be_told():
    """The rung between takes up all of the gap or none of it, by seed."""
    naive, mmd = (0.5, 0.51, 0.49, 0.5, 0.5), (0.40, 0.41, 0.39, 0.4, 0.4)
    middle = (0.5, 0.40, 0.49, 0.41, 0.45)
    _, explanation = terms_of(chain_rows({"naive": naive, "none": middle, "dispersion": middle, "mmd": mmd}))
    (cause,) = explanation.causes
    assert (cause.state, cause.causes) == ("cannot be told", ())
    assert cause.sentence.endswith("Undecided: more steps and closeness to the proxy.")


def test_over_tasks_each_task_counts_once():
    rows = [
        {**row, "task": task, "trial": f"{row['trial']}-{task}", "arm": f"{row['arm']}-{task}"}
        for task in ("digits", "mnist1d", "openml/1510")
        for row in chain_of(naive=0.5, none=0.5, dispersion=0.5, mmd=0.3)
    ]
    explanation = explain_sweep(SweepRows("s", rows))
    over = {term.term: term for term in explanation.terms if term.task is None}
    assert set(over) == {"steps", "dispersion", "distance", "gap"}
    assert (over["gap"].n, over["gap"].relative, over["gap"].value) == (3, pytest.approx(-0.4), None)


def test_the_same_link_in_two_chains_is_one_test():
    """Two distances share their first links: the family is of four links, not six."""
    both = {**{name: (*errors, 0.505) for name, errors in CHAIN.items()}, "l2": (0.29, 0.29, 0.31, 0.51)}
    both["none"], both["dispersion"], both["mmd"] = (0.45, 0.46, 0.47, 0.45), (0.30, 0.30, 0.33, 0.31), (0.30, 0.31, 0.32, 0.30)
    explanation = explain_sweep(SweepRows("s", chain_rows(both)))
    links = [term for term in explanation.terms if term.term == "steps"]
    assert len(links) == 2
    assert links[0].p_adjusted == links[1].p_adjusted <= 4 * links[0].p + 1e-15


def test_faults():
    with pytest.raises(ConfigError) as error:
        explain_sweep(SweepRows("s", part_rows()), alpha=2.0, margin="-1%", metric="unknown")
    assert {fault.path for fault in error.value.faults} == {"--alpha", "--margin", "--metric"}
    same = [row for row in part_rows() if row["arm"] == "attention"]
    with pytest.raises(ConfigError, match="must vary pretrained and random bodies"):
        explain_sweep(SweepRows("s", same))


def test_bodiless_arms_and_layers_are_no_part_of_the_game():
    others = [
        {**row, "trial": f"{row['trial']}-x", "arm": "x", "body_weights": weights, "body_keep": keep, "test_error": 0.9}
        for row in part_rows()[:1]
        for weights, keep in ((None, None), ("pretrained", "layers:1"))
    ]
    assert terms_of([*part_rows(), *others])[0]["gap"].value == terms_of(part_rows())[0]["gap"].value


def test_a_table_of_trials_is_enough():
    table = explain(pa.Table.from_pylist(part_rows(embedder_weights=None)))
    rows = {row["term"]: row for row in table.to_pylist()}
    assert rows["attention"]["value"] == pytest.approx(-0.385 / 3)
    assert rows["gap"]["causes"] == ["attention", "ffn"]
    assert rows["attention"]["sentence"] is None
    assert json.loads(rows["gap"]["seeds"]) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------------ recorded sweeps

PARTS = [["attention"], ["ffn"], ["layernorm", "embeddings", "other"]]
KEEP = ["all", [], *PARTS, [*PARTS[0], *PARTS[1]], [*PARTS[0], *PARTS[2]], [*PARTS[1], *PARTS[2]]]
SPACE = {
    "name": "parts",
    "base": {"body": "mini-roberta-small"},
    "space": {"task": {"grid": ["digits", "mnist1d"]}, "body.keep": {"grid": KEEP}},
    "seeds": 4,
}


def only_attention(cells: Mapping) -> float:
    keep = cells["body_keep"] or "none"
    wobble = random.Random(json.dumps([cells["task"], cells["seed"], keep])).gauss(0, 0.004)
    return 0.4 - 0.1 * (keep == "all" or "attention" in keep) + 0.01 * cells["seed"] + wobble


@pytest.fixture
def swept(simulate: Callable, workspace):
    simulate(SPACE, only_attention)
    return workspace


def run(*arguments: str, code: int = 0):
    shown = RUNNER.invoke(app, [*arguments])
    assert shown.exit_code == code, shown.output
    return shown


def test_the_command_names_the_planted_part(swept):
    data = json.loads(run("explain", "parts", "--results", swept.uri, "--format", "json").stdout)
    assert [cause["causes"] for cause in data["causes"] if cause["task"]] == [["attention"], ["attention"]]
    terms = [term for term in data["terms"] if term["task"] == "digits"]
    assert [term["term"] for term in terms] == ["attention", "ffn", REST, "gap"]
    assert sum(term["value"] for term in terms[:-1]) == pytest.approx(terms[-1]["value"], abs=1e-12)
    text = run("explain", "parts", "--results", swept.uri).stdout
    assert "The error is lower with a pretrained body because of attention." in " ".join(text.split())
    assert "missing" not in text
    assert run("explain", "parts", "--results", swept.uri, "--format", "markdown").stdout.startswith("| question | task |")
    assert run("explain", "parts", "--results", swept.uri, "--format", "latex").stdout.startswith("% needs")
    head, *lines = run("explain", "parts", "--results", swept.uri, "--format", "csv").stdout.splitlines()
    assert head.startswith("question,task,subject,term,metric")
    assert len(lines) == len(data["terms"])


def test_its_numbers_have_ids_that_lead_back_to_the_trials(simulate, workspace):
    keep = {"body.keep": {"grid": [[], ["attention"], ["ffn"], ["attention", "ffn"]]}, "task": {"grid": ["digits"]}}
    simulate({**SPACE, "space": keep, "seeds": 2}, only_attention)
    data = json.loads(run("explain", "parts", "--results", workspace.uri, "--format", "json").stdout)
    term = data["terms"][0]
    (number,) = find_number(workspace.results, term["number"]).numbers
    assert (number.value, number.kind, len(number.trials)) == (term["value"], "term", 8)
    words = "What attention contributes to the gap in test_error on digits between attention+ffn and random, in the sweep parts (parts)."
    assert number.words == words
    (row,) = workspace.sql(number.sql).rows()
    assert (row["value"], row["low"], row["high"]) == pytest.approx((term["value"], term["low"], term["high"]))
    assert term["number"] in {known.id for known in numbers_of(workspace.results, "parts")}


def test_the_space_with_the_missing_arms_has_all_trials_that_were_there(simulate, workspace):
    space = {**SPACE, "space": {"task": {"grid": ["digits"]}, "body.weights": {"grid": ["pretrained", "random"]}}, "seeds": 2}
    simulate(space, only_attention)
    text = run("explain", "parts", "--results", workspace.uri).stdout
    assert "sweeper explain parts --results" in text
    assert "body.keep attention+ffn" in " ".join(text.split())
    more = yaml.safe_load(run("explain", "parts", "--results", workspace.uri, "--missing").stdout)
    old, new = make_plan(parse_space(space)), make_plan(parse_space(more))
    assert more["name"] == "parts"
    assert {trial.id for trial in old.trials} < {trial.id for trial in new.trials}
    assert len({trial.arm for trial in new.trials}) == 8
    simulate(more, only_attention)
    assert not explain_parts(SweepRows("parts", rows_of(workspace)), options())[1], "nothing is missing any more"
    assert run("explain", "parts", "--results", workspace.uri, "--missing", code=2).stderr.startswith("--missing: ")


def rows_of(workspace):
    return read_sweep_rows(workspace.results, "parts", ["test_error"]).rows


def options():
    return Options("test_error", DEFAULT_MARGIN, 0.05, False, {})


def test_a_sweep_without_either_gap_is_a_fault(simulate, workspace):
    space = {"freezing": {"grid": ["full", "layernorm"]}, "task": {"grid": ["digits"]}}
    simulate({"name": "s", "space": space, "seeds": 2}, lambda cells: 0.3)
    shown = run("explain", "s", "--results", workspace.uri, code=2)
    assert shown.stderr.startswith("NAME: must vary pretrained and random bodies, or aligned and naive embedders")
    assert run("explain", "unknown", "--results", workspace.uri, code=2).stderr.startswith("NAME: must be the name of a sweep")


def test_the_figure_has_the_values_of_the_command(swept):
    tables, kind = read_tables(swept, "parts", task="digits"), find_figure("explain")
    data = kind.read(tables)
    (panel,) = data.panels
    explanation = explain_sweep(tables.sweep)
    assert [(bar.label.replace(" + ", "+"), bar.value, bar.low) for bar in panel.bars[:-1]] == [
        (term.term, term.value, term.low) for term in explanation.terms if not term.is_gap
    ]
    assert [bar.is_cause for bar in panel.bars] == [True, False, False, False]
    assert "because of attention" in data.caption
    assert b"layernorm + embeddings +" in render(kind, data, "svg")


def test_a_gap_alone_is_no_figure(simulate, workspace):
    simulate({**SPACE, "space": {"task": {"grid": ["digits"]}, "body.keep": {"grid": ["all", []]}}}, only_attention)
    with pytest.raises(NotInTablesError, match="no gap has arms between its ends"):
        find_figure("explain").read(read_tables(workspace, "parts"))


def test_the_report_has_a_section(swept):
    report = make_report(swept, "parts", with_figures=False)
    (section,) = [section for section in report.sections if section.name == "explained"]
    tables = [block for block in section.all_blocks() if type(block).__name__ == "Table"]
    assert [table.name for table in tables] == ["explained-1", "explained-2", "explained-3"]
    assert tables[0].rows[0][2].text == "yes"
    assert tables[0].rows[0][3].number, "it has an id"


def test_no_name_of_a_part_is_broken_in_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    numbers = {"value": 0.000194, "low": -0.016, "high": 0.016, "p_adjusted": 0.9, "verdict": "undecided", "seeds_needed": 165, "n": 3}
    shared = {"question": "parts", "task": "mnist1d", "subject": "pretrained - random", "metric": "test_error", **numbers}
    terms = [Term(term=name, first_in=-0.000333, last_in=0.00267, **shared) for name in ("attention", "embeddings")]
    text = _describe_gap([*terms, Term(term="gap", **shared)], None)
    assert "\nattention   " in text
    assert "\nembeddings  " in text
    assert max(map(len, text.splitlines())) <= 80
