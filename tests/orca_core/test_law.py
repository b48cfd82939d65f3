"""The law of keys: same key, same rows; another computation, another key.

(a) What the code of every stage reads is among what its declaration names, and every read that is declared changes the key.
(b) Of random pairs of configs that differ in one or two knobs: equal ids give equal rows, and equal stage keys equal artifacts.
(c) These checks can fail: without any one read of any one declaration they do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from trials import TINY_BODIES, TINY_TASKS, VALUES, WINES_START, copy_pretraining, differences, run, small, tiny_bodies

from orca_core import declarations
from orca_core.bodies import BODILESS
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, value_of
from orca_core.declarations import STAGES
from orca_core.distances import find_distance
from orca_core.distances.builtin import OF_BODY
from orca_core.errors import OrcaError
from orca_core.identity import trial_id, unread_knobs
from orca_core.pipeline import run_trial
from orca_core.reads import COMMON, Declaration, Group, Kind, Read
from orca_core.settings import Settings, UndeclaredKnobError
from orca_core.stages import stage_key, stages_of
from orca_core.store import Store
from orca_core.tasks import TaskSpec

BERT, GPT2 = f"hf:{TINY_BODIES['bert']}", f"hf:{TINY_BODIES['gpt2']}"

Accesses = Mapping[Kind, set[str]]
"""Kind of stage -> names that its code asked its settings for."""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("law")
    with tiny_bodies(folder):
        yield folder


# ------------------------------------------------------------------------------------------- (a) reads, declarations, keys


def trials_of_all_reads() -> list[TrialConfig]:
    """Trials whose stages, together, read everything that is declared, where its condition holds."""
    return [
        small(align__epochs=1, align__optimizer="sgd", align__class_sampling="batches", finetune__optimizer="sgd", finetune__mixout=0.2),
        small(align__epochs=1, align__objective="l2", align__lr_from="finetune", finetune__accum=2, finetune__label_smoothing=0.1),
        small(align__epochs=1, align__objective="otdd-gaussian", finetune__schedule="reference", finetune__warmup_epochs=0.5, seed=1),
        small("darcy-mini", body=BERT, proxy="noise", align__epochs=1, align__weight=0.1, adapter="lora", train_samples=16),
        small(
            **{"align.weight": 0.1, "align.objective": "l2", "finetune.mixup.alpha": 0.4, "finetune.mixup.place": "tokens"},
            **{"finetune.smooth.kind": "smart"},
        ),
        small(body=GPT2, body__flip=True, body__double=True, body__weights="random", align__epochs=1),
        small("npz:tiny/series.npz", body=BERT, mix__share=0.5, mix__gate_epochs=1, finetune__test="best-and-last"),
        small(align__epochs=1, align__objective="bilevel", align__task_weight=0.5),
        small(align__epochs=1, align__label_entropy=0.5),
        small("digits", freezing="surgical:1", finetune__reinit_top=1, finetune__scoring="chunks", finetune__checkpointing=True),
        small(proxy="noise+near:10", align__epochs=1, align__objective="l2"),
        small(body=GPT2, align__epochs=1, align__objective="none", adapt__epochs=1, embedder__init="matched"),
        small(align__epochs=1, align__objective="sliced-wasserstein", align__agreement=True, align__weight=0.1, align__gradient="project"),
        small(
            **{"reference_data": True, "freezing": "frozen-both:1", "precision": "bf16", "train_samples": None},
            **{"finetune.l2_sp": 0.5, "finetune.distill": 0.5},
        ),
    ]


@pytest.fixture(scope="module")
def accesses(warm_store, tmp_path_factory) -> Accesses:
    """What the stages' code asked for in `trials_of_all_reads`, each trial computed in full."""
    found: defaultdict[Kind, set[str]] = defaultdict(set)
    require = Settings._require

    def recording(self: Settings, name: str) -> None:
        found[self.kind].add(name)
        require(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "_require", recording)
        for number, config in enumerate(trials_of_all_reads()):
            run_trial(config, Store(tmp_path_factory.mktemp(f"reads-{number}")), lambda row: None)
    return found


KEY_ONLY = {
    # The version of a distance's code is in the key, but the code itself does not ask for it.
    ("align", "align.objective.version"),
    ("finetune", "align.objective.version"),
    # So is that of the solver that measures a proxy's distance and chooses its samples.
    ("align", "transport.version"),
    ("source", "transport.version"),
    # And that of what keeps the outputs of the lowest layers.
    ("finetune", "prefix.version"),
    # And that of a group's step.
    ("finetune", "fused.version"),
    # In the key since version 0.1, though the stage has them through the source features and the rate it starts with.
    ("align", "align.proxy_samples"),
    ("align", "align.lr_from"),
}
"""Reads that are in a key without the stage's code asking for them."""


VERSIONS = ("align.objective.version", "transport.version", "prefix.version", "fused.version")
"""Reads that are of the code and not of a config."""


def undeclared(stages: Mapping[Kind, Declaration], common: Group, accesses: Accesses) -> list[tuple[Kind, str]]:
    """What stages asked for that their declarations do not name."""
    return [
        (kind, name)
        for kind, declared in stages.items()
        for name in accesses[kind] - {read.name for group in (*declared.groups.values(), common) for read in group.reads}
    ]


def test_a_stage_reads_what_its_declaration_names_and_all_of_that(accesses):
    assert undeclared(STAGES, COMMON, accesses) == []
    declared = {(kind, read.name) for kind, stage in STAGES.items() for group in stage.groups.values() for read in group.reads}
    asked = {(kind, name) for kind, names in accesses.items() for name in names}
    assert declared - asked == KEY_ONLY


def test_settings_raise_on_what_is_not_declared():
    with pytest.raises(UndeclaredKnobError, match=r"finetune\.lr is not declared for the stage pretrain"):
        Settings.of(small(), "pretrain")["finetune.lr"]
    with pytest.raises(UndeclaredKnobError, match=r"body\.name is not declared for the stage x"):
        _ = Settings(small(), replace(STAGES["source"], kind="x", groups={})).body  # type: ignore[arg-type]


OTHER_VALUES: dict[str, tuple[dict[str, Any], Any]] = {
    "threads": ({}, 2),
    "bits": ({}, "portable"),
    "validation.folds": ({"validation.folds": 2, "validation.fold": 0}, 3),
    "validation.fold": ({"validation.folds": 2, "validation.fold": 0}, 1),
    "body.name": ({}, "mini-swin"),
    "task": ({}, "openml/1510"),
    "proxy": ({}, "pydoc"),
    "reference_data": ({"task": "nb360/ecg"}, True),
    "embedder.weights": ({}, WINES_START),
    "pretrain.label_noise": ({"pretrain.objective": "labels"}, 0.4),
    "align.lr_steps": ({}, [1]),
    "body.flip": ({"body": GPT2, "align.agreement": True}, True),
    "body.double": ({"body": GPT2}, True),
    "align.momentum": ({"align.optimizer": "sgd"}, 0.5),
    "align.l2_batches": ({"align.objective": "l2"}, "all"),
    "align.lr_from": ({"align.lr": 1e-2, "finetune.lr": 1e-3}, "finetune"),  # to the same rate
    "align.projections": ({"align.objective": "sliced-wasserstein"}, 20),
    "finetune.reinit_top": ({"align.agreement": True}, 1),
    **{f"mix.{name}": ({"mix.share": 0.5}, None) for name in ("end_share", "epochs", "weight", "gate", "gate_epochs")},
    **{f"align.{name}": ({"align.objective": "bilevel", "align.weight": 0.0}, None) for name in OF_BODY.knobs},
    "align.label_entropy_form": ({"align.label_entropy": 0.5}, "information"),
    "predictor.pool": ({"align.agreement": True}, "max"),
    "predictor.head": ({"align.agreement": True}, "mlp"),
    "finetune.batch_size": ({"align.class_sampling": "batches"}, 5),
    "finetune.lr": ({"align.lr_from": "finetune"}, 5e-4),
    "align.betas": ({}, [0.9, 0.999]),
    "finetune.betas": ({}, [0.9, 0.999]),
    "finetune.score_chunk": ({"finetune.scoring": "chunks"}, 16),
    "finetune.momentum": ({"finetune.optimizer": "sgd"}, 0.5),
    "finetune.accumulation": ({"finetune.accum": 2}, "sum"),
    "finetune.schedule": ({"finetune.warmup_epochs": 1.0}, "reference"),
    "finetune.compile": ({}, "default"),
    "finetune.checkpointing": ({}, True),
    "finetune.epochs": ({"finetune.test": "best-and-last"}, 7),
    "finetune.prefix": ({"freezing": "frozen-embedder"}, "once"),
    "finetune.smooth.weight": ({"finetune.smooth.kind": "r3f"}, 3.0),
    "finetune.smooth.noise": ({"finetune.smooth.kind": "r3f"}, 0.2),
    "finetune.smooth.radius": ({"finetune.smooth.kind": "smart"}, 0.05),
    "finetune.mixup.alpha": ({"finetune.mixup.place": "tokens"}, 0.4),
    "finetune.mixup.place": ({"finetune.mixup.alpha": 0.4, "align.weight": 0.0}, "tokens"),
    "finetune.fused": ({"align.weight": 0.0}, 2),
}
"""Knob -> settings under which it is read, and a value that is not the one of `small`; other knobs: the second of `VALUES`."""


def unhashed(declared: Declaration, read: Read) -> bool:
    """Whether the key of a stage stays the same where the knob of a read changes and the trial is the same otherwise."""
    under, other = OTHER_VALUES.get(read.knob, ({}, None))
    joint = {"align.weight": 0.1} if declared.kind == "finetune" else {}
    adapted = {"adapt.epochs": 1} if declared.kind == "adapt" else {}  # otherwise there is no such stage
    random = {"body.weights": "random"} if read.knob == "seed" and declared.kind == "source" else {}
    chosen = {"proxy": "noise+near:10"} if declared.kind == "source" else {}  # then the source reads what its choice does
    base = {"align.epochs": 1, **joint, **adapted, **random, **chosen, **under}
    value = other if other is not None else next(v for v in VALUES[read.knob] if v != value_of(small(**base_names(base)), read.knob))
    one, two = small(**base_names(base)), small(**base_names(base | {read.knob: value}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskSpec, "digest", lambda spec: spec.name)  # published files are not there
        # Inputs are held equal, so that a knob does not change the key through the stage before.
        before = {stage.kind: stage for stage in stages_of(one) if stage.kind != "finetune"}
        return stage_key(declared, one, before, "cpu") == stage_key(declared, two, before, "cpu")


def base_names(knobs: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace(".", "__"): value for name, value in knobs.items()}


READS = [
    (kind, name)
    for kind, declared in STAGES.items()
    for name in dict.fromkeys(read.name for group in declared.groups.values() for read in group.reads)
    if name not in VERSIONS
]


@pytest.mark.parametrize("kind", STAGES)
def test_everything_that_is_declared_changes_the_key(kind):
    declared = STAGES[kind]
    reads = [read for group in (*declared.groups.values(), COMMON) for read in group.reads if read.name not in VERSIONS]
    assert [read.name for read in reads if unhashed(declared, read)] == []


def addresses(kind: Kind, length: str, epochs: int) -> set[str]:
    config = small(**base_names({"align.epochs": 1, length: epochs}))
    return {str(stage.address) for stage in stages_of(config) if stage.kind == kind}


@pytest.mark.parametrize("kind", [kind for kind, declared in STAGES.items() if declared.length])
def test_how_far_a_stage_goes_is_in_its_address(kind):
    length = STAGES[kind].length
    assert not addresses(kind, length, 1) & addresses(kind, length, 2)


def test_a_new_version_of_a_distance_is_another_key(monkeypatch):
    config = small(align__epochs=1, align__objective="mmd")
    before = [stage.key for stage in stages_of(config) if stage.kind == "align"]
    monkeypatch.setattr(declarations, "find_distance", lambda name: replace(find_distance(name), version=2))
    assert [stage.key for stage in stages_of(config) if stage.kind == "align"] != before


# ------------------------------------------------------------------------------------------------------ (c) it can fail


@pytest.mark.parametrize(("kind", "name"), READS)
def test_without_any_one_read_the_law_is_broken(kind, name, accesses):
    """A read that is taken out of a declaration is missed by the code of the stage, or by the key."""
    declared = STAGES[kind]
    read = next(read for _, read in declared.reads() if read.name == name)
    groups = {
        key: replace(group, reads=tuple(other for other in group.reads if other.name != name)) for key, group in declared.groups.items()
    }
    without = replace(declared, groups=groups)
    assert (kind, name) in undeclared({kind: without}, COMMON, accesses) or unhashed(without, read)


def test_without_the_threads_the_law_is_broken(accesses):
    assert ("align", "threads") in undeclared(STAGES, Group(), accesses)


@pytest.mark.parametrize("kind", ["pretrain", "align"])
def test_without_its_length_a_stage_keeps_two_results_at_one_address(kind, monkeypatch):
    length = STAGES[kind].length
    assert addresses(kind, length, 1) != addresses(kind, length, 2)
    monkeypatch.setitem(STAGES, kind, replace(STAGES[kind], length=""))
    assert addresses(kind, length, 1) == addresses(kind, length, 2)


# --------------------------------------------------------------------------------------------------------- (b) random pairs

TASKS = tuple(TINY_TASKS)
BODIES = ("mini-roberta", "mini-swin", BERT, GPT2, f"hf:{TINY_BODIES['roberta-pad-0']}", *BODILESS)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[TrialConfig, TrialConfig]:
    """Two trials that differ in one or two knobs as they are written; about half of the changes are to knobs that are not read."""
    task, body = draw(st.sampled_from(TASKS)), draw(st.sampled_from(BODIES))
    chosen = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=4, max_size=14, unique=True))
    knobs: dict[str, Any] = {knob: draw(st.sampled_from(VALUES[knob])) for knob in chosen}
    # Exact OTDD is left to the pairs that draw it: it takes most of the time.
    objective = draw(st.sampled_from(["mmd", "mmd", "l2", "otdd-gaussian"]))
    knobs = {"align.epochs": draw(st.sampled_from([0, 1, 2])), "align.objective": objective, **knobs, "body": body}
    first = resolved(task, knobs)
    assume(first is not None)
    unread = sorted(unread_knobs(first) & VALUES.keys() - {"recipe"})
    for _ in range(draw(st.integers(1, 2))):
        pool = unread if unread and draw(st.booleans()) else sorted(VALUES.keys() - {"recipe"})
        knob = draw(st.sampled_from(pool))
        knobs[knob] = draw(st.sampled_from(VALUES[knob]))
    second = resolved(task, knobs)
    assume(second is not None and second != first)
    return first, second


def resolved(task: str, knobs: Mapping[str, Any]) -> TrialConfig | None:
    try:
        return small(task, **base_names(knobs))
    except OrcaError:
        return None


def check_pairs(count: int, warm_store: Store, folder: Path) -> None:
    """Hold `count` random pairs to the law, each trial computed from an empty store (pretraining aside, which a few pairs are about)."""
    seen = {"pairs": 0, "equal ids": 0, "computed": 0}

    @settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(pairs())
    def hold(pair: tuple[TrialConfig, TrialConfig]) -> None:
        one, two = pair
        seen["pairs"] += 1
        same_id = trial_id(one) == trial_id(two)
        seen["equal ids"] += same_id
        stages = [{str(stage.address): stage.kind for stage in stages_of(config)} for config in pair]
        shared = {address for address in stages[0].keys() & stages[1].keys() if stages[0][address] != "pretrain"}
        if not same_id and not shared:
            return
        seen["computed"] += 1
        results = []
        for number, config in enumerate(pair):
            store = Store(folder / f"{seen['pairs']}-{number}")
            copy_pretraining(config, warm_store, store)
            try:
                results.append(run(config, store))
            except OrcaError as error:
                results.append(([], str(error), {}))
        (rows, result, artifacts), (other_rows, other_result, other_artifacts) = results
        if same_id:
            assert rows == other_rows
            assert result == other_result
        for address in shared & artifacts.keys() & other_artifacts.keys():
            assert differences(artifacts[address], other_artifacts[address]) == [], address

    hold()
    assert seen["equal ids"] >= seen["pairs"] / 3, seen
    assert seen["computed"] >= seen["pairs"] / 3, seen


def test_equal_keys_give_equal_rows_and_artifacts(warm_store, tmp_path):
    check_pairs(100, warm_store, tmp_path)


@pytest.mark.slow
def test_equal_keys_give_equal_rows_and_artifacts_in_thousands_of_pairs(warm_store, tmp_path):
    check_pairs(3000, warm_store, tmp_path)


def test_every_knob_is_drawn_or_left_out_for_a_reason():
    assert KNOBS.keys() - VALUES.keys() == {"task", "body.name", "embedder.weights", "threads", "bits", "finetune.compile"}
