"""Plans: canonical trials, shared stages, ids that are the same everywhere."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import RobertaConfig, RobertaModel

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.identity import trial_id
from sweeper.planning.cost import CostModel, Measured
from sweeper.planning.forecast import forecast
from sweeper.planning.measured import load_measured_costs
from sweeper.planning.passes import JOINT, passes_of
from sweeper.planning.planner import make_plan
from sweeper.planning.trials import PlannedTrial
from sweeper.results import ResultStore, Workspace
from sweeper.show.plan import describe_plan
from sweeper.space.reading import load_space

sys.path.append(str(Path(__file__).parents[1] / "orca_core" / "tasks"))

from published import WRITERS


def test_the_quickstart_is_48_combinations_and_40_trials():
    plan = make_plan(load_space("quickstart"))
    assert (plan.combinations, len(plan.trials), plan.proposed_later) == (48, 40, 0)
    assert len({trial.id for trial in plan.trials}) == 40
    proxies = {(trial.config.body.name, trial.config.proxy) for trial in plan.trials if trial.config.align.epochs}
    matched = {("mini-swin", "noise-matched:photos"), ("mini-roberta", "noise-matched:pydoc")}
    assert proxies == {("mini-swin", "photos"), ("mini-roberta", "pydoc"), *matched}


def test_the_quickstart_shares_its_stages():
    """By hand: (needed, distinct) of 40 trials. Of each task, body and seed there are three in full, two of them aligned, to one proxy
    each, and two with a frozen body, one of them aligned to the first of these proxies."""
    counts = make_plan(load_space("quickstart")).stage_counts
    bodies, seeds, proxies, tasks = 2, 2, 2, 2
    groups = tasks * 2 * seeds
    assert counts == {
        "pretrain": (40 // 2, bodies),  # half of the trials are random; each task has a mini body of its own
        "source": (groups * 3, groups * proxies),
        "align": (groups * 3, groups * proxies),
        "finetune": (groups * 5, groups * 5),
    }


def test_all_arms_of_a_seed_come_before_the_next_seed():
    seeds = [trial.config.seed for trial in make_plan(load_space("quickstart")).trials]
    assert seeds == sorted(seeds)


def test_ids_are_the_same_in_another_process_with_other_hashes():
    code = "from sweeper import load_space, plan; print([(t.id, t.arm, t.result_key) for t in plan(load_space('quickstart')).trials])"
    there = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True
    )
    here = make_plan(load_space("quickstart"))
    assert there.stdout.strip() == str([(trial.id, trial.arm, trial.result_key) for trial in here.trials])


def test_an_id_does_not_depend_on_how_the_config_was_written(load):
    (trial,) = make_plan(load("{base: {task: digits, align: {epochs: 0}}, space: {proxy: {grid: [noise]}}}")).trials
    assert trial.id == trial_id(resolve_config({"task": "digits", "align.epochs": 0, "proxy": "photos"}))


def test_an_arm_is_the_trial_without_seed_and_tuned_knobs(load):
    plan = make_plan(
        load("""
        base: {task: digits}
        space:
          freezing: {grid: [full, layernorm]}
          align.epochs: {choice: [0, 5]}
          body: {choice: [mini-swin, {name: mini-swin, weights: random}]}
        search: {algorithm: random, trials: 6}
        seeds: 2
        """)
    )
    assert len({(trial.arm, trial.config.freezing) for trial in plan.trials}) == 2
    assert len({trial.arm for trial in plan.trials}) == 2


def test_variants_that_ask_for_the_same_trial_are_joined(load):
    plan = make_plan(
        load("""
        base: {task: digits}
        variants: {a: {align.epochs: 0, proxy: noise}, b: {align.epochs: 1}, c: {align.epochs: 0}}
        """)
    )
    assert [(trial.variant, trial.config.align.epochs) for trial in plan.trials] == [("a,c", 0), ("b", 1)]
    assert plan.combinations == 3


def test_keep_at_names_the_epochs_at_which_trials_leave_a_shared_trajectory(load):
    plan = make_plan(load("{base: {task: digits, finetune.epochs: 3}, space: {align.epochs: {grid: [2, 9, 5]}}}"))
    (place,) = {stage.folder for trial in plan.trials for stage in trial.stages if stage.kind == "align"}
    assert plan.keep_at == {place: [2, 5, 9]}


@pytest.mark.parametrize(("allowed", "fits"), [(6, True), (5, False)])
def test_the_budget_counts_trials_that_tpe_proposes_later(load, allowed, fits):
    text = "space: {finetune.lr: {uniform: [0.1, 1]}}\nsearch: {algorithm: tpe, trials: 3, lag: 1}\nseeds: 2\nbase: {task: digits}"
    space = load(text, {"sweep:budget.trials": allowed})
    if fits:
        assert (len(make_plan(space).trials), make_plan(space).proposed_later) == (2, 4)
    else:
        with pytest.raises(ConfigError, match=r"budget.trials: must allow the 6 trials of the plan, but got 5"):
            make_plan(space)


BODILESS = """
    name: t
    base: {task: digits}
    space:
      body: {grid: [recipe, none, cnn]}
      align.epochs: {grid: [0, 10]}
      body.weights: {grid: [pretrained, random]}
      proxy: {grid: [photos, noise]}
    seeds: 2
"""


def test_a_bodiless_body_is_one_arm_whatever_is_said_of_proxies_and_alignment(load):
    """By hand, for a seed: mini-swin has 2 weights x (not aligned, or aligned to 2 proxies) = 6 arms, each bodiless body one."""
    plan = make_plan(load(BODILESS))
    assert (plan.combinations, len(plan.trials)) == (2 * 3 * 8, 2 * (6 + 1 + 1))
    arms = [(trial.config.body.name, trial.knobs()["align.epochs"], trial.knobs()["proxy"]) for trial in plan.trials]
    assert {arm for arm in arms if arm[0] != "mini-swin"} == {("none", None, None), ("cnn", None, None)}


@pytest.mark.parametrize("text", ["{base: {task: digits, body: none}}", "base: {task: digits}\nspace: {body: {grid: [none]}}"])
def test_none_is_the_name_of_a_body(load, text):
    assert [trial.config.body.name for trial in make_plan(load(text)).trials] == ["none"]


def test_a_freezing_schedule_that_needs_a_body_is_limited_to_arms_with_one(load, faults_in):
    text = "{base: {task: digits}, space: {body: {grid: [recipe, none]}, freezing: {grid: [full, frozen-body]%s}}}"
    (fault,) = faults_in(text % "")
    assert "freezing: must train embedder and body together for none" in fault
    plan = make_plan(load(text % ", when: {body.modality: [text, images]}"))
    arms = {(trial.config.body.name, trial.config.freezing) for trial in plan.trials}
    assert arms == {("mini-swin", "full"), ("mini-swin", "frozen-body"), ("none", "full")}


# ----------------------------------------------------------------------------------------------------------------------- shown

SPACE = "{base: {task: digits, finetune.epochs: 1}, space: {align.epochs: {grid: [0, 1]}, proxy: {grid: [photos, noise]}}, seeds: 2}"


def test_a_plan_as_csv_and_json_parses_back_to_the_same_rows(load, tmp_path):
    space = load(SPACE)
    as_json = json.loads(describe_plan(space, Workspace(tmp_path), "json"))
    as_csv = list(csv.DictReader(io.StringIO(describe_plan(space, Workspace(tmp_path), "csv"))))
    assert [row["trial"] for row in as_json] == [row["trial"] for row in as_csv] == [trial.id for trial in make_plan(space).trials]
    for plain, row in zip(as_csv, as_json, strict=True):
        texts = {key: json.dumps(value) if isinstance(value, list) else str(value) for key, value in row.items() if value is not None}
        assert plain == dict.fromkeys(row, "") | texts


def test_a_plan_as_text_says_what_is_shared_done_and_dropped(load, tmp_path):
    space, results = load(SPACE), ResultStore(tmp_path / "results")
    done, stale, *_ = make_plan(space).trials
    key = {"attempt": 1, "sequence": 1, "status": "COMPLETE", "valid_error": 0.5, "in_plan": True}
    rows = [
        key | {"trial": done.id, "result_key": done.result_key},
        key | {"trial": stale.id, "result_key": "of other code"},
        key | {"trial": "gone", "result_key": "gone"},
    ]
    results.append("trials", space.name, rows)
    text = describe_plan(space, Workspace(results.uri), "text")
    assert "8 combinations, 6 distinct (2 differ from others only in knobs that are not read)" in text
    assert "Results  1 done, 1 stale, 5 to run" in text
    assert "1 trials of earlier runs are no longer planned" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith((done.id, stale.id))] == ["done", "stale"]


TUNED = "{base: {task: digits, finetune.epochs: 8}, space: {finetune.lr: {uniform: [0.1, 1]}}, search: {algorithm: tpe}, %s}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TUNED % "scheduler: asha", "asha after epochs 1, 3 of fine-tuning, each arm by itself, in cohorts of 4 candidates"),
        (
            TUNED % "scheduler: {name: median, grace_period: 5, cohort: 2}",
            "median after epoch 5 of fine-tuning, each arm by itself, in cohorts of 2 candidates",
        ),
        (TUNED % "scheduler: {name: asha, grace_period: 8}", "asha compares nothing: no trial is longer than scheduler.grace_period = 8"),
        (
            "{base: {task: digits, finetune.epochs: 2}, scheduler: {name: asha, among: task}}",
            "asha after epoch 1 of fine-tuning, all arms of a task together",
        ),
    ],
)
def test_a_plan_says_what_is_compared_when(load, tmp_path, text, said):
    lines = describe_plan(load(text), Workspace(tmp_path), "text").splitlines()
    assert f"Stopping {said}" in lines
    assert next(line for line in lines if line.startswith("Work ")).startswith("Work     at most about ")


TREE = """
    name: t
    base: {task: digits, body.weights: pretrained}
    space: {align.epochs: {grid: [0, 2, 4]}, freezing: {grid: [full, "frozen-body:1"]}, finetune.epochs: {grid: [3]}}
    seeds: 2
"""


def test_the_tree_of_a_plan_counts_distinct_stages_and_their_trials(load, tmp_path):
    lines = [line.strip() for line in describe_plan(load(TREE), Workspace(tmp_path), "text").splitlines()]
    start = lines.index("pretrain mini-swin, to epoch 8: 1 for 12 trials")
    assert lines[start + 1 : start + 9] == [
        "finetune digits, mini-swin, all, to epoch 3: 2 for 2 trials",
        "finetune digits, mini-swin, embedder+predictor, to epoch 1: 2 for 2 trials",
        "finetune, all, to epoch 3: 2 for 2 trials",
        "source photos by mini-swin: 2 for 8 trials",
        "align digits, otdd-exact, to epoch 2, 4: 2 for 8 trials",
        "finetune digits, mini-swin, all, to epoch 3: 4 for 4 trials",
        "finetune digits, mini-swin, embedder+predictor, to epoch 1: 4 for 4 trials",
        "finetune, all, to epoch 3: 4 for 4 trials",
    ]


def test_the_disk_that_a_plan_takes_is_counted_from_what_was_measured(load):
    plan = make_plan(load(TREE))
    names = ("digits", "mini-swin")
    sizes = {("pretrain", *names): 1000.0, ("source", *names): 100.0, ("align", *names): 10.0}
    costs = CostModel(Measured(bytes=sizes, trained={(*names, "full"): 5, (*names, "frozen-body:1"): 5}))
    stays, shared, measured = costs.disk(plan, plan.trials)
    # pretraining once, features of two seeds, two alignments that are left at two epochs; the weights of 12 trials
    assert stays == 1000 + 2 * 100 + 2 * 2 * 10 + 12 * 5 * 4
    # first phases of 3 alignments x 2 seeds: weights, two moments, the best weights
    assert shared == 3 * 2 * 5 * 4 * 4
    assert measured == 1
    assert costs.disk(plan, ()) == (0, 0, 1)
    early = make_plan(load(TREE + "    scheduler: {name: asha, among: task, reduction_factor: 2}"))
    # every trial may pause after epoch 2, the full ones after epoch 1, too; after a first phase its state is stored anyway
    assert costs.disk(early, early.trials) == (stays, shared + (12 + 6) * 5 * 4 * 4, 1)


def write_measured(results: ResultStore, sweep: str, trial: PlannedTrial, **stages: dict[str, Any]) -> None:
    """Write the rows of a trial that came to its end, with what its stages report after an epoch."""
    key = {"trial": trial.id, "attempt": 1}
    done = {"sequence": 1, "status": "COMPLETE", "result_key": trial.result_key, "in_plan": True}
    results.append("trials", sweep, [trial.cells() | key | done])
    results.append("metrics", sweep, [key | {"stage": stage, "phase": 0, "epoch": 1} | row for stage, row in stages.items()])


def test_further_passes_through_the_model_count_in_estimates_and_are_taken_out_of_measurements(load, tmp_path):
    text = """
        name: p
        base: {task: digits, body.weights: random, align.epochs: 0, finetune.epochs: 6}
        variants:
          plain: {}
          r3f: {finetune.smooth: r3f}
          smart: {finetune.smooth: smart}
          distilled: {finetune.distill: 0.5}
          mixed: {method: pare}
          both: {finetune.smooth: smart, finetune.distill: 0.5}
          probe: {freezing: frozen-both, finetune.distill: 0.5, method: pare}
          bodiless: {body: none, method: pare}
    """
    space, passes = (
        load(text),
        {"plain": 1, "r3f": 2, "smart": 3, "distilled": 4 / 3, "mixed": 2, "both": 10 / 3, "probe": 1, "bodiless": 1},
    )
    trials = {trial.variant: trial for trial in make_plan(space).trials}
    assert {name: CostModel().seconds(trial, trial.finetuning[0]) for name, trial in trials.items()} == pytest.approx(
        {name: 6 * number for name, number in passes.items()}
    )
    results = ResultStore(tmp_path / "results")
    for trial in trials.values():  # on a machine where a pass takes a tenth of a second, an epoch takes that by pass
        write_measured(results, "p", trial, finetune={"seconds": 0.1 * passes[trial.variant]})
    measured = load_measured_costs(Workspace(results.uri))
    assert measured.seconds == pytest.approx({("finetune", "digits", body): 0.1 for body in ("mini-swin", "none")})


def test_evaluation_counts_in_estimates_where_it_is_much_of_an_epoch(load, tmp_path, use_data):
    WRITERS["nb360/fsd50k"](tmp_path)
    use_data(tmp_path)
    # FSD50K: 36796 samples train, and 71000 and 201000 are evaluated, each at a third of the cost: 0.289 and 0.186 + 0.526 of an epoch.
    text = """
        name: f
        base: {task: nb360/fsd50k, recipe: laptop, body.weights: random, align.epochs: 0, finetune.epochs: 10}
        variants:
          plain: {}
          r3f: {finetune.smooth: r3f}
          few: {train_samples: 3680}
          seldom: {finetune.test: best-and-last}
    """
    trials = {trial.variant: trial for trial in make_plan(load(text)).trials}
    passes = {name: passes_of(trial, trial.finetuning[0]) for name, trial in trials.items()}
    assert passes == pytest.approx({"plain": 1, "r3f": 1.289, "few": 0.740, "seldom": 0.684}, abs=1e-3)
    results = ResultStore(tmp_path / "results")
    for trial in trials.values():
        untested = trial.variant == "seldom"
        seconds = 0.474 if untested else passes[trial.variant]  # of an epoch whose test error nobody asks for
        write_measured(results, "f", trial, finetune={"seconds": seconds, "test_error": None if untested else 0.5})
    measured = load_measured_costs(Workspace(results.uri)).seconds
    assert measured == pytest.approx({("finetune", "nb360/fsd50k", "mini-swin"): 1}, abs=1e-3)


def test_what_another_objective_takes_is_measured_and_estimated_by_itself(load, tmp_path):
    text = """
        name: o
        base: {task: digits, body.weights: random, align.epochs: 4, finetune.epochs: 2}
        variants:
          plain: {}
          bilevel: {align.objective: bilevel}
          task: {align.task_weight: 1}
          joint: {align.epochs: 0, align.weight: 1}
    """
    trials = {trial.variant: trial for trial in make_plan(load(text)).trials}
    seconds = {"plain": (2.0, 3.0), "bilevel": (20.0, 3.0), "task": (9.0, 3.0), "joint": (0.0, 30.0)}
    results = ResultStore(tmp_path / "results")
    for name, trial in trials.items():
        stages = {stage: {"seconds": each} for stage, each in zip(("align", "finetune"), seconds[name], strict=True) if each}
        write_measured(results, "o", trial, **stages)
    assert CostModel().seconds(trials["joint"], trials["joint"].finetuning[0]) == JOINT * 2  # a guess
    costs = CostModel(load_measured_costs(Workspace(results.uri)))
    found = {name: [costs.seconds(trial, stage) for stage in trial.stages if stage.kind != "source"] for name, trial in trials.items()}
    assert found == {"plain": [8, 6], "bilevel": [80, 6], "task": [36, 6], "joint": [60]}


def test_an_epoch_of_published_size_is_guessed_by_what_passes_the_model(load, tmp_path, use_data):
    """On paper DeepSEA trains on 71750 pieces of 500 tokens and evaluates 151890, at 134 pieces of 512 tokens a second."""
    WRITERS["nb360/deepsea"](tmp_path)
    use_data(tmp_path)
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 40}
    RobertaModel(RobertaConfig(**shape, max_position_embeddings=514, pad_token_id=1)).save_pretrained(tmp_path / "body")
    base = f"{{task: nb360/deepsea, body: 'hf:{tmp_path / 'body'}', align.epochs: 0}}"
    text = f"name: g\nbase: {base}\nspace: {{freezing: {{grid: [full]}}}}\n"
    (trial,) = make_plan(load(text)).trials
    (stage,) = trial.finetuning
    assert stage.end == 13
    assert CostModel().seconds(trial, stage) == pytest.approx(13 * (71750 + 151890 / 3) / 134, rel=0.03)


def test_rows_of_version_0_1_are_not_taken_for_an_arm_that_shared_its_key(load, tmp_path):
    """Its rows have no `numpy_version`: of an aligned BERT they may be those of `embedder.init: reference`."""
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "pad_token_id": 0}')
    (folder / "model.safetensors").write_bytes(b"")
    text = (
        f"name: t\nbase: {{task: openml/187, recipe: laptop, body: 'hf:{folder}', proxy: noise}}\nspace: {{align.epochs: {{grid: [0, 1]}}}}"
    )
    naive, aligned = sorted(make_plan(load(text)).trials, key=lambda trial: trial.config.align.epochs)
    old, new = {"numpy_version": None}, {"numpy_version": "2.4.6"}
    accepted = [trial.accepts(row | {"result_key": trial.result_key}) for trial in (naive, aligned) for row in (old, new)]
    assert accepted == [True, True, False, True]
    assert not naive.accepts(new | {"result_key": aligned.result_key})


def test_a_plan_says_which_groups_cannot_be_filled_and_counts_their_copies(load, tmp_path):
    text = """
        name: groups
        base:
          task: mnist1d
          body: mini-roberta-small
          body.weights: random
          align.epochs: 0
          finetune: {epochs: 2, fused: 4, warmup_epochs: 0, decay_epochs: null}
        space: {finetune.lr: {grid: [0.001, 0.01, 0.1]}}
        seeds: 2
    """
    lines = describe_plan(load(text), Workspace(tmp_path), "text").splitlines()
    groups = lines.index("Groups   6 trials in 2 groups of up to 4, each on one slot; 75% of the places are taken")
    assert not lines[groups + 1].startswith("Warning  mnist1d")
    wide = load(text, {"finetune.fused": 9})
    (warning,) = [line for line in describe_plan(wide, Workspace(tmp_path), "text").splitlines() if "fill 67% of a group of 9" in line]
    assert warning.startswith("Warning  mnist1d, mini-roberta-small, full: only 6 trials can train together")
    of_one = describe_plan(load(text.replace("0.001, 0.01, 0.1", "0.1").replace("seeds: 2", "seeds: 1")), Workspace(tmp_path), "text")
    assert "Groups   1 trial in 1 group of up to 4, " in of_one
    assert "Warning  mnist1d, mini-roberta-small, full: a single trial fills 25% of a group of 4: " in of_one
    costs = CostModel(Measured(fused={("mnist1d", "mini-roberta-small", 9): 3.0}))
    trials = make_plan(wide).trials
    assert [costs.seconds(trial, trial.finetuning[0]) for trial in trials] == [6.0] * 6
    assert costs.totals(trials) == (9 * 6.0, 9 * 6.0, 1.0), "three of nine members are copies"
    assert forecast(trials, costs.seconds, 2) == 9 * 6.0
