"""From a YAML file to a search space: what it means, and what is said about every broken rule."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from sweeper.planning.planner import make_plan
from sweeper.space.reading import find_space, load_space

DIGITS = "base: {task: digits}\n"

FAULTS = {
    "unknown key": ("spase: {}", "spase: must be a known key. Did you mean 'space'? Known: base, "),
    "unknown key of a part": (
        "resources: {gpus: 1}",
        "resources.gpus: must be a known key. Did you mean 'gpu'? Known: cpu, custom, gpu, gpu_trials, labels, memory.",
    ),
    "trials on one GPU beside a share": (
        "resources: {gpu: 0.5, gpu_trials: 4}",
        "resources.gpu_trials: must be left out unless resources.gpu is auto, but got 4. Set resources.gpu to auto, or leave this out",
    ),
    "portable bits of fused trials": (
        "base: {task: digits, finetune.fused: 4}\nbits: portable",
        "bits: must be native with finetune.fused, but got 'portable'.",
    ),
    "unknown key of an axis": (
        "space: {proxy: {gird: [noise]}}",
        "space.proxy: must have exactly one of grid, choice, uniform, loguniform, int, but got {'gird': ['noise']}. Did you mean 'grid'?",
    ),
    "unknown knob": ("base: {task: digits, finetun.lr: 1}", "base.finetun.lr: must be a known knob. Did you mean 'finetune.lr'?"),
    "key of the sweep in base": (
        "base: {task: digits, seeds: 2}",
        "base.seeds: must be a known knob. `seeds` is a key of the sweep: write it",
    ),
    "unknown knob in an axis": ("space: {finetune: {lrr: {grid: [1]}}}", "space.finetune.lrr: must be a known knob. Did you mean 'fin"),
    "unknown task": ("base: {task: digitz}", "base.task: must be the name of a task, but got 'digitz'. Did you mean 'digits'?"),
    "unknown task in a grid": ("base: {}\nspace: {task: {grid: [digitz]}}", "space.task.grid.0: must be the name of a task, but got"),
    "no task": ("base: {}", "base.task: must be given, here or in `space`. See `sweeper tasks`."),
    "unknown proxy": (
        "base: {task: digits, proxy: photo}",
        "base.proxy: must be the name of a proxy data set, but got 'photo'. Did you mean 'photos'?",
    ),
    "unknown body": ("base: {task: digits, body: mini-swim}", "base.body.name: must be the name of a body, but got 'mini-swim'. Did you m"),
    "unknown freezing": (
        "base: {task: digits, freezing: frozen-bdy}",
        "base.freezing: must be a freezing schedule, but got 'frozen-bdy'. Did you mean 'frozen-body'?",
    ),
    "freezing no": ("base: {task: digits, freezing: no}", "base.freezing: must be a freezing schedule, but got 'no'. Known: attention, "),
    "freezing false": ("base: {task: digits, freezing: false}", "base.freezing: must be a name or a list of phases, but got False."),
    "freezing longer than fine-tuning": (
        "base: {task: digits, finetune.epochs: 2, freezing: frozen-body:5}",
        "base.freezing: must name 1 to 2 epochs (finetune.epochs) after the colon, but got 'frozen-body:5'.",
    ),
    "proxy of the wrong modality": (
        "base: {task: digits, proxy: pydoc}",
        "base.proxy: must be a proxy of images, but got 'pydoc'. mini-swin reads images; omit the proxy, or take photos or noise-matched.",
    ),
    "wrong type": ("base: {task: digits, finetune.epochs: ten}", "base.finetune.epochs: must be a whole number, but got 'ten'."),
    "wrong type in a grid": ("space: {finetune.lr: {grid: [0.1, abc]}}", "space.finetune.lr.grid.1: must be a number, but got 'abc'."),
    "out of range": ("base: {task: digits, finetune.lr: -1e-5}", "base.finetune.lr: must be greater than 0, but got -1e-05."),
    "two knobs that disagree": (
        "base: {task: digits, finetune: {warmup_epochs: 5, decay_epochs: 4}}",
        "base.finetune.decay_epochs: must be greater than warmup_epochs (5), but got 4.",
    ),
    "empty grid": ("space: {align.epochs: {grid: []}}", "space.align.epochs.grid: must be a list of at least one value, but got []."),
    "level twice": ("space: {align.epochs: {grid: [0, 5, 0]}}", "space.align.epochs.grid.2: must be listed once, but got 0."),
    "knob twice": (
        "space: {align: {epochs: {grid: [0]}}, align.epochs: {grid: [1]}}",
        "space.align.epochs: must not vary a knob that another entry varies, but got ['align.epochs'].",
    ),
    "list without grid": (
        "space: {freezing: [full, layernorm]}",
        "space.freezing: must be a mapping with one of grid, choice, uniform, loguniform, int, but got ['full', 'layernorm']. "
        "Write {grid: ['full', 'layernorm']}, or set it in `base`.",
    ),
    "log range from 0": (
        "search: random\nspace: {finetune.lr: {loguniform: [0, 1]}}",
        "space.finetune.lr.loguniform: must have low > 0 on a logarithmic scale, but got [0, 1].",
    ),
    "log range backwards": (
        "search: random\nspace: {finetune.lr: {loguniform: [1, 1e-5]}}",
        "space.finetune.lr.loguniform: must have low < high, but got [1, 1e-05]. Swap the bounds: [1e-05, 1].",
    ),
    "range beyond the knob's": (
        "search: random\nspace: {finetune.dropout: {uniform: [0, 2]}}",
        "space.finetune.dropout.uniform: must be less than 1, but got 2.",
    ),
    "range of one number": (
        "search: random\nspace: {finetune.lr: {uniform: 0.1}}",
        "space.finetune.lr.uniform: must be a list of two finite numbers, [low, high], but got 0.1.",
    ),
    "int range of parts": (
        "search: random\nspace: {finetune.epochs: {int: [1, 5.5]}}",
        "space.finetune.epochs.int: must be two whole numbers, but got [1, 5.5].",
    ),
    "step of 0": (
        "search: random\nspace: {finetune.epochs: {int: [1, 5], step: 0}}",
        "space.finetune.epochs.step: must be a whole number of at least 1, but got 0.",
    ),
    "step on a log scale": (
        "search: random\nspace: {finetune.epochs: {int: [1, 5], step: 2, log: true}}",
        "space.finetune.epochs.step: must be left out on a logarithmic scale, but got 2.",
    ),
    "distribution under grid": (
        "space: {finetune.lr: {uniform: [1e-5, 1]}}",
        "space.finetune.lr.uniform: must be a grid under search.algorithm grid, but got 'uniform'. "
        "Write a grid, or set search.algorithm to random or tpe.",
    ),
    "nothing to tune": (
        "search: {algorithm: tpe}",
        "search.algorithm: must be grid when nothing is tuned, but got 'tpe'. Give a knob a choice, uniform, loguniform or int.",
    ),
    "no candidates": (
        "search: {algorithm: tpe, trials: 0}\nspace: {finetune.lr: {uniform: [1e-5, 1]}}",
        "search.trials: must be at least 1, but got 0.",
    ),
    "no CPU": ("resources: {cpu: 0}", "resources.cpu: must be greater than 0, but got 0."),
    "two GPUs": ("resources: {gpu: 2}", "resources.gpu: must be at most 1, but got 2."),
    "more threads than CPUs": ("base: {task: digits, threads: 4}", "resources.cpu: must be at least base.threads = 4, but got 1.0."),
    "no memory": ("resources: {memory: 0}", "resources.memory: must be greater than 0, but got 0."),
    "GPU as a custom resource": (
        "resources: {custom: {GPU: 1}}",
        "resources.custom.GPU: must be a custom resource; gpu has a key of its own, but got 'GPU'. Write resources.gpu.",
    ),
    "custom resource less than Ray counts": (
        "resources: {custom: {licence: 0}}",
        "resources.custom.licence: must be at least 0.0001, but got 0.",
    ),
    "label of Ray, misspelled": (
        "resources: {labels: {ray.io/market_type: spot}}",
        "resources.labels.ray.io/market_type: must be a label that nodes can have, but got 'ray.io/market_type'. "
        "Did you mean 'ray.io/market-type'?",
    ),
    "key of a label": ("resources: {labels: {-a: b}}", "resources.labels.-a: must be the key of a node label: letters, digits, dots"),
    "selector of a label": (
        "resources: {labels: {zone: in(a}}",
        "resources.labels.zone: must be a value of a node label or a selector of some (letters, digits, dots, dashes and underscores, "
        "at most 63, the first and the last a letter or digit), but got 'in(a'. Write a value, \"!value\", a list of values, or",
    ),
    "number as a label": ("resources: {labels: {zone: 3}}", "resources.labels.zone: must be a value of a node label or a selector of"),
    "no labels in a list": ("resources: {labels: {zone: []}}", "resources.labels.zone: must be a list of values of a node label, at least"),
    "seeds true": ("seeds: true", "seeds: must be a count, a list of whole numbers or a mapping, but got True."),
    "no seeds": ("seeds: 0", "seeds: must be at least 1, but got 0."),
    "seed twice": ("seeds: [1, 1]", "seeds: must be a list of different whole numbers from 0, at least one, but got [1, 1]."),
    "seed as a knob": ("base: {task: digits, seed: 3}", "base.seed: must not be set here, but got 3. Use `seeds`."),
    "seed as an axis": ("space: {seed: {grid: [1]}}", "space.seed: must not vary here, but got {'grid': [1]}. Use `seeds`."),
    "name that is no file name": ("name: a/b", "name: must be usable as a file name: letters, digits, dots, dashes, underscores, at most"),
    "unknown metric": ("metric: accuracy", "metric: must be a metric that tasks report, but got 'accuracy'. Known: test_error, train_lo"),
    "metric on the test set": ("metric: test_error", "metric: must not use the test set, but got 'test_error'. Select on validation"),
    "unknown scheduler": (
        "scheduler: ahsa",
        "scheduler.name: must be one of fifo, asha, hyperband, median, but got 'ahsa'. Did you mean 'asha'?",
    ),
    "early stopping with nothing tuned": (
        "scheduler: asha",
        "scheduler.among: must be task for asha when nothing is tuned: each arm has one candidate then, and nothing to compare it with, "
        "but got 'arm'. Tune a knob (choice, uniform, loguniform or int) with search.algorithm random or tpe; or set scheduler.among to "
        "task, and arms of a task stop each other.",
    ),
    "cohort that tpe cannot propose at once": (
        "search: {algorithm: tpe, lag: 3}\nscheduler: {name: median, cohort: 4}\nspace: {finetune.lr: {uniform: [1e-5, 1]}}",
        "scheduler.cohort: must be at most search.lag = 3 under tpe, which proposes no more candidates before it has seen results, "
        "but got 4. Lower it, or raise search.lag.",
    ),
    "no cohort": ("scheduler: {cohort: 0}", "scheduler.cohort: must be at least 1, but got 0."),
    "unknown group": ("scheduler: {among: all}", "scheduler.among: must be one of arm, task, but got 'all'."),
    "unknown design": ("design: ofat", "design: must be one of factorial, one-factor-at-a-time, but got 'ofat'."),
    "budget too small": (
        "budget: {trials: 2}\nseeds: 3",
        "budget.trials: must allow the 3 trials of the plan, but got 2. Raise it, or vary fewer knobs.",
    ),
    "condition on what is no knob": (
        "space: {finetune.lr: {grid: [1], when: {task.dim: 1}}}",
        "space.finetune.lr.when.task.dim: must be a knob, body.modality or task.dims. Did you mean 'task.dims'?",
    ),
    "condition that never holds": (
        "space: {finetune.lr: {grid: [1], when: {body.modality: {not: [text, picture]}}}}",
        "space.finetune.lr.when.body.modality: must be text or images or none, but got 'picture'.",
    ),
    "condition that is no value": (
        "require: [{if: {freezing: full}, then: {align.epochs: {nott: 0}}}]",
        "require.0.then.align.epochs: must be a value, a list of values, or {not: ...}, but got {'nott': 0}.",
    ),
    "condition on a tuned knob": (
        "search: random\nspace: {align.epochs: {choice: [0, 1]}, proxy: {grid: [noise], when: {align.epochs: 1}}}",
        "space.proxy.when.align.epochs: must not depend on a tuned knob, but got 1.",
    ),
    "conditions in a circle": (
        "space: {proxy: {grid: [noise], when: {align.epochs: 1}}, align.epochs: {grid: [1], when: {proxy: noise}}}",
        "space.proxy.when: must not form a cycle with other conditions, but got 'proxy depends on align.epochs depends on proxy'.",
    ),
    "rule without then": ("require: [{if: {freezing: full}}]", "require.0.then: must be given."),
    "rules that leave nothing": (
        "require: [{if: {freezing: full}, then: {freezing: layernorm}}]",
        "require: must leave at least one combination.",
    ),
    "base that is no mapping": ("base: \nspace: {task: {grid: [digits]}}", "base: must be a mapping of knobs, but got null."),
    "space that is no mapping": ("space: [task]", "space: must be a mapping of knobs, but got ['task']."),
    "variant that is no mapping": ("variants: {orca: 60}", "variants.orca: must be a mapping of knobs, but got 60."),
    "variant of what also varies": (
        "variants: {a: {align.epochs: 1}}\nspace: {align.epochs: {grid: [0]}}",
        "variants.a.align.epochs: must not also vary in `space`, but got 1.",
    ),
    "own arrays that are missing": ("base: {task: 'npz:mine.npz'}", "base.task: mine.npz: must be an existing file. A relative path"),
}


@pytest.mark.parametrize(("text", "said"), FAULTS.values(), ids=FAULTS)
def test_a_broken_rule_is_said_once_with_path_rule_value_and_remedy(faults_in, text, said):
    (found,) = faults_in(text if "base" in text else DIGITS + text)
    assert found.startswith(said)


def test_all_faults_are_said_at_once(faults_in):
    text = """
    nme: x
    name: a/b
    base: {task: digits, finetune: {lr: 0, epochs: true}, proxy: pydoc}
    space:
      align.epochs: {grid: []}
      freezing: {grid: [full, frozen]}
    variants: {a: {body: mini-swim}}
    seeds: true
    search: {algorithm: tpe, trials: 1.5}
    metric: accuracy
    resources: {cpu: 0, gpu: 2, custom: {GPU: 1, a: 0}, labels: {-b: c, d: 3, e: []}}
    """
    assert [line.partition(": ")[0] for line in faults_in(text)] == [
        "seeds",
        "search.trials",
        "resources.cpu",
        "resources.gpu",
        "resources.custom.GPU",
        "resources.custom.a",
        "resources.labels.-b",
        "resources.labels.d",
        "resources.labels.e",
        "nme",
        "base.finetune.lr",
        "base.finetune.epochs",
        "variants.a.body.name",
        "space.align.epochs.grid",
        "space.freezing.grid.1",
        "name",
        "metric",
    ]


def test_combinations_are_checked_beside_the_keys_of_the_sweep(faults_in):
    found = faults_in("{base: {task: digits}, space: {proxy: {grid: [photos, pydoc]}}, seeds: 0}")
    assert [line.partition(",")[0] for line in found] == ["seeds: must be at least 1", "space.proxy: must be a proxy of images"]


# ------------------------------------------------------------------------------------------------------------------------ what it means


def combinations(space, *knobs) -> Counter:
    """How many trials have which values of some knobs."""
    return Counter(tuple(trial.knobs()[knob] for knob in knobs) for trial in make_plan(space).trials)


def test_a_factorial_takes_all_combinations_for_every_seed(load):
    space = load("""
    base: {task: digits, align.epochs: 1}
    space: {proxy: {grid: [photos, noise, fractals]}, finetune.epochs: {grid: [1, 2]}}
    seeds: 2
    """)
    assert space.seeds == (0, 1)
    found = combinations(space, "proxy", "finetune.epochs", "seed")
    assert found == Counter((proxy, epochs, seed) for proxy in ("photos", "noise", "fractals") for epochs in (1, 2) for seed in (0, 1))


def test_one_factor_at_a_time_takes_the_baseline_and_each_level_by_itself_for_every_task(load):
    space = load("""
    base: {align.epochs: 1, finetune.epochs: 2}
    space:
      task: {grid: [digits, openml/187]}
      proxy: {grid: [recipe, noise]}
      freezing: {grid: [full, frozen-both, layernorm]}
    design: one-factor-at-a-time
    """)
    found = combinations(space, "task", "proxy", "freezing")
    baseline = {"digits": "photos", "openml/187": "pydoc"}
    assert found == Counter(
        (task, proxy, freezing)
        for task, recipe in baseline.items()
        for proxy, freezing in [(recipe, "full"), ("noise", "full"), (recipe, "frozen-both"), (recipe, "layernorm")]
    )
    assert make_plan(space).combinations == 2 * (1 + 2 + 3)


@pytest.mark.parametrize(
    "text",
    [
        "space: {proxy: {grid: [recipe, noise]}}",
        "space: {proxy: {grid: [recipe, noise]}}\ndesign: one-factor-at-a-time",
        "space: {proxy: {grid: [recipe, noise], when: {task.dims: 2}}}",
        "space: {proxy: {choice: [recipe, noise]}}\nsearch: random",
        "space: {body: {grid: [recipe]}}\nbase: {task: digits, align.epochs: 1, body: mini-roberta}",
    ],
)
def test_the_level_recipe_leaves_the_knob_to_the_recipe_whatever_base_says(load, text):
    space = load(text if "base" in text else f"base: {{task: digits, align.epochs: 1, proxy: fractals}}\n{text}")
    assert ("mini-swin", "photos") in combinations(space, "body.name", "proxy")


@pytest.mark.parametrize("order", [("align.objective", "align.epochs"), ("align.epochs", "align.objective")])
def test_a_condition_may_ask_for_a_knob_with_a_condition_in_either_order(load, order):
    entries = {
        "align.objective": "{grid: [mmd, l2], when: {align.epochs: 2}}",
        "align.epochs": "{grid: [0, 2], when: {task: digits}}",
    }
    space = load(f"""
    base: {{align.epochs: 0}}
    space:
      {order[0]}: {entries[order[0]]}
      {order[1]}: {entries[order[1]]}
      task: {{grid: [digits, openml/187]}}
    """)
    found = combinations(space, "task", "align.epochs", "align.objective")
    assert set(found) == {("digits", 2, "mmd"), ("digits", 2, "l2"), ("digits", 0, None), ("openml/187", 0, None)}


@pytest.mark.parametrize(
    ("condition", "tasks"),
    [
        ("{task.dims: 1}", {"openml/187"}),
        ("{body.modality: images}", {"digits"}),
        ("{body.modality: {not: images}}", {"openml/187"}),
        ("{task: [digits, openml/187]}", {"digits", "openml/187"}),
        ("{task: {not: [digits, openml/187]}}", set()),
        ("{task: digits, align: {epochs: 0}}", set()),
        ("{task: digits, align: {epochs: {not: 0}}}", {"digits"}),
    ],
)
def test_an_axis_varies_only_where_its_condition_holds(load, condition, tasks):
    space = load(f"""
    base: {{align.epochs: 2}}
    space:
      finetune.epochs: {{grid: [1, 2], when: {condition}}}
      task: {{grid: [digits, openml/187]}}
    """)
    levels = combinations(space, "task")
    assert {task for (task,), count in levels.items() if count == 2} == tasks


@pytest.mark.parametrize(
    ("condition", "longer"),
    [
        ("noise-matched", {"noise-matched:photos"}),
        ("[noise-matched]", {"noise-matched:photos"}),
        ("{not: noise-matched}", {"photos", "noise-matched:photos+k:50"}),
        ("noise-matched+k:50", {"noise-matched:photos+k:50"}),
        ("noise-matched:photos", {"noise-matched:photos"}),
        ("noise", set()),
    ],
)
def test_a_condition_may_name_matched_noise_as_the_axis_does(load, condition, longer):
    space = load(f"""
    base: {{task: digits, align.epochs: 1}}
    space:
      proxy: {{grid: [recipe, noise-matched, noise-matched+k:50]}}
      finetune.epochs: {{grid: [30, 31], when: {{proxy: {condition}}}}}
    """)
    trials = make_plan(space).trials
    assert {trial.config.proxy for trial in trials if trial.config.finetune.epochs == 31} == longer


def test_require_leaves_out_combinations_that_match_if_and_not_then(load):
    space = load("""
    base: {task: digits}
    space: {freezing: {grid: [full, frozen-both]}, align.epochs: {grid: [0, 5]}}
    require: [{if: {freezing: frozen-both}, then: {align.epochs: 0}}]
    """)
    assert set(combinations(space, "freezing", "align.epochs")) == {("full", 0), ("full", 5), ("frozen-both", 0)}


def test_variants_are_an_axis_of_their_own_between_base_and_the_axes(load):
    space = load("""
    base: {task: digits, align.epochs: 7}
    space: {finetune.epochs: {grid: [2, 3]}}
    variants: {orca: {freezing: layernorm}, naive: {align: {epochs: 0}}}
    """)
    found = {(t.variant, t.config.align.epochs, t.config.freezing, t.config.finetune.epochs) for t in make_plan(space).trials}
    assert found == {(*variant, epochs) for variant in [("orca", 7, "layernorm"), ("naive", 0, "full")] for epochs in (2, 3)}


REFERENCE = [
    ("{base: {task: digits, reference_behaviour: true, selection: valid}}", {}, {("annealed", "valid")}),
    (
        "{base: {task: digits, align.solver: converged}, space: {reference_behaviour: {grid: [false, true]}}}",
        {},
        {("converged", "valid"), ("converged", "test")},
    ),
    ("{base: {task: digits}, space: {reference_behaviour: {grid: [false, true]}}}", {}, {("converged", "valid"), ("annealed", "test")}),
    (
        "{base: {task: digits}, variants: {ours: {}, theirs: {reference_behaviour: true, selection: valid}}}",
        {},
        {("converged", "valid"), ("annealed", "valid")},
    ),
    ("{base: {task: digits}}", {"reference_behaviour": True}, {("annealed", "test")}),
]


@pytest.mark.parametrize(("text", "overrides", "expected"), REFERENCE, ids=["base", "own value", "axis", "variant", "set"])
def test_the_behaviour_of_the_reference_is_a_layer_under_your_own_values_wherever_it_is_asked_for(load, text, overrides, expected):
    assert set(combinations(load(text, overrides), "align.solver", "selection")) == expected


def test_the_metric_may_look_at_the_test_set_with_the_behaviour_of_the_reference(load, faults_in):
    assert load("{base: {task: digits, reference_behaviour: true}, metric: test_error}").metric == "test_error"
    assert faults_in("{base: {task: digits, reference_behaviour: true, selection: valid}, metric: test_error}")


def test_a_level_of_body_may_be_a_mapping(load):
    space = load("""
    base: {task: digits}
    space: {body: {grid: [mini-roberta, {name: mini-swin, weights: random}]}}
    """)
    assert set(combinations(space, "body.name", "body.weights")) == {("mini-roberta", "pretrained"), ("mini-swin", "random")}


def test_seeds_may_be_a_list(load):
    assert load(DIGITS + "seeds: [7, 3]").seeds == (7, 3)


def test_scheduler_and_search_may_be_given_as_a_name(load):
    space = load("{base: {task: digits}, scheduler: asha, search: random, space: {finetune.lr: {uniform: [0.1, 1]}}}")
    assert (space.scheduler.name, space.search.algorithm) == ("asha", "random")


def test_without_tuned_knobs_arms_may_stop_each_other_if_the_file_says_so(load):
    space = load("{base: {task: digits}, scheduler: {name: asha, among: task}, space: {finetune.lr: {grid: [0.1, 1]}}}")
    assert space.scheduler.among == "task"


@pytest.mark.parametrize(("keys", "cohort"), [("", 4), ("scheduler: {cohort: 9}", 9), ("search: {lag: 2}", 2)])
def test_candidates_are_decided_in_cohorts_as_large_as_the_lag_unless_the_file_says_so(load, keys, cohort):
    assert load(DIGITS + keys).cohort == cohort


# ----------------------------------------------------------------------------------------------------------------- from the command line


def test_set_reaches_knobs_and_with_sweep_the_keys_of_the_sweep(load):
    overrides = {"body": "mini-roberta", "finetune.epochs": 3, "sweep:seeds": 2, "sweep:search.trials": 5, "sweep:budget.hours": 1.5}
    space = load("{base: {task: digits}, search: tpe, space: {finetune.lr: {uniform: [0.1, 1]}}}", overrides, name="other")
    config = resolve_config(space.base)
    assert (config.body.name, config.finetune.epochs, space.seeds, space.name) == ("mini-roberta", 3, (0, 1), "other")
    assert (space.search.algorithm, space.search.trials, space.budget.hours) == ("tpe", 5, 1.5)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("align.epochs", 3, "--set align.epochs: must not be a knob that the space varies, but got 3. Edit the file instead."),
        ("align", {"epochs": 3}, "--set align.epochs: must not be a knob that the space varies, but got 3. Edit the file instead."),
        ("body", "mini-swin", "--set body.name: must not be a knob that the space varies, but got 'mini-swin'. Edit the file instead."),
        ("freezing", "full", "--set freezing: must not be a knob that the space varies, but got 'full'. Edit the file instead."),
        ("finetune.lr", 0, "base.finetune.lr: must be greater than 0, but got 0."),
        ("sweep:seeds", True, "seeds: must be a count, a list of whole numbers or a mapping, but got True."),
        ("sweep:sedes", 1, "sedes: must be a known key. Did you mean 'seeds'?"),
    ],
)
def test_set_is_checked_like_the_file_and_refused_on_what_the_file_varies(faults_in, path, value, said):
    text = """
    base: {task: digits}
    space: {align.epochs: {grid: [0, 1]}, body.name: {grid: [mini-swin, mini-roberta]}}
    variants: {a: {freezing: full}, b: {freezing: layernorm}}
    """
    (found,) = faults_in(text, {path: value})
    assert found.startswith(said)


def test_a_name_means_a_file_here_or_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_space("quickstart").name == "quickstart"
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "quickstart.yaml").write_text(DIGITS + "description: mine")
    assert load_space("quickstart").description == "mine"
    with pytest.raises(ConfigError, match=r"must be a file or the name of a search space, but got 'quikstart'. Did you mean 'quickstart'"):
        find_space("quikstart")


# -------------------------------------------------------------------------------------------------------------- from Python, as a dict


def test_a_dict_is_read_as_the_file_with_the_same_content(load):
    text = "name: s\nbase: {task: digits, finetune.lr: 1e-3}\nspace: {align.epochs: {grid: [0, 5]}}\n"
    data = {"name": "s", "base": {"task": "digits", "finetune": {"lr": 1e-3}}, "space": {"align.epochs": {"grid": [0, 5]}}}
    assert [trial.id for trial in make_plan(load_space(data)).trials] == [trial.id for trial in make_plan(load(text)).trials]


def test_a_dict_may_have_what_python_has_instead_of_lists_and_plain_numbers():
    grid = {
        "finetune.lr": {"grid": np.logspace(-4, -2, 3)},
        "align.epochs": {"grid": range(0, 20, 10)},
        "freezing": {"grid": ("full", "bias")},
    }
    space = load_space({"name": "s", "base": {"task": "digits", "finetune.epochs": np.int64(3)}, "space": grid, "seeds": np.arange(2)})
    assert [axis.values for axis in space.axes] == [(1e-4, 1e-3, 1e-2), (0, 10), ("full", "bias")]
    assert space.seeds == (0, 1)
    assert json.loads(json.dumps(space.source)) == space.source, "results store it with the plan"


def test_faults_of_a_dict_name_its_paths_and_all_of_them(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_space({"name": "s", "base": {"task": "digist"}, "seeds": True, "space": {"proxy": {"grid": ()}}})
    places = [line.partition(": ")[0] for line in str(caught.value).splitlines()]
    assert sorted(places) == ["base.task", "seeds", "space.proxy.grid"]


def test_a_dict_needs_a_name_as_there_is_no_file_to_name_the_sweep_after():
    data = {"base": {"task": "digits"}}
    with pytest.raises(ConfigError, match=r"^name: must be given in a search space that is a dict"):
        load_space(data)
    assert load_space(data, name="s").name == load_space(data | {"name": "s"}).name == "s"


def test_the_overrides_of_a_dict_are_those_of_a_file():
    space = load_space({"name": "s", "base": {"task": "digits"}}, {"sweep:seeds": 3, "finetune.lr": 0.5})
    assert (len(space.seeds), space.base["finetune.lr"]) == (3, 0.5)
