"""What a config reads follows from the conditions without parts that hold in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from orca_core.conditions import Condition
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, flatten
from orca_core.config.resolve import resolve_config
from orca_core.config.spellings import in_hash
from orca_core.declarations import STAGES, USES, is_read
from orca_core.facts import facts_of, groups_read, knobs_read
from orca_core.identity import DEFAULTS, CanonicalConfig, canonical_knob, canonical_knobs, trial_id
from orca_core.reads import COMMON
from orca_core.stages import hashed_reads, stages_of
from orca_core.tasks import TaskSpec

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"align.epochs": 5, "finetune.optimizer": "sgd", "align.optimizer_from": "finetune"},
    {"align.epochs": 1, "align.objective": "mmd", "align.agreement": True, "freezing": "frozen-embedder"},
    {"align.weight": 0.1, "body.weights": "random", "finetune.smooth.kind": "smart"},
    {"align.epochs": 1, "proxy": "noise+near:10", "embedder.init": "random", "finetune.scoring": "chunks"},
    {"mix.share": 0.5, "mix.gate": "learned", "adapt.epochs": 1, "finetune.test": "best-and-last"},
    {"validation.folds": 2, "finetune.accum": 2, "finetune.warmup_epochs": 1.0},
)


def configs() -> Iterator[TrialConfig]:
    for settings, task, body in product(SETTINGS, ("digits", "burgers-mini"), ("mini-roberta", "mini-swin")):
        yield resolve_config({"task": task, "body": body, **settings})
    yield from (resolve_config({"task": "digits", "body": body}) for body in ("none", "attention-1"))


def test_a_condition_follows_from_facts_where_it_holds():
    conditions: set[Condition] = {condition for uses in USES.values() for use in uses for condition in (use.exists, use.when)}
    assert any(condition.parts for condition in conditions)
    for config in configs():
        facts = facts_of(config)
        assert {condition for condition in conditions if condition.follows_from(facts)} == {
            condition for condition in conditions if condition.holds(config)
        }
        assert knobs_read(facts) == {path for path in USES if is_read(path, config)}


@pytest.mark.parametrize("kind", STAGES)
def test_settings_enter_a_key_as_their_reads_have_them(kind):
    """The knobs of the id that a group reads are, by their names in the key, what its reads give one by one."""
    declared = STAGES[kind]
    for config in configs():
        if not declared.exists.holds(config):
            continue
        expected = [hashed_reads(group, config, 0) for group in (*declared.groups.values(), COMMON) if group.when.holds(config)]
        found = groups_read(declared, facts_of(config))
        assert [
            {*group.settings.values()} & values.keys() | {read.key_name for read in group.others if read.key_name in values}
            for group, values in zip(found, expected, strict=True)
        ] == [values.keys() for values in expected]


def test_an_id_is_made_of_the_canonical_knobs_that_are_not_at_their_default():
    for config in configs():
        canonical, knobs = CanonicalConfig.of(config), canonical_knobs(config)
        assert {path: canonical_knob(config, path, canonical.read) for path in KNOBS} == knobs
        changed = {path: value for path, value in knobs.items() if value is not None and value != DEFAULTS[path]}
        assert canonical.hashed.keys() == changed.keys() - {"method", "reference_behaviour"}
        assert all(canonical.hashed[path] == in_hash(path, changed[path]) for path in canonical.hashed.keys() - {"freezing"})


@pytest.mark.parametrize("knobs", [("seed",), ("seed", "split_seed")])
def test_another_seed_changes_nothing_else(knobs):
    for config in configs():
        for seed in (0, 3):
            reseeded = CanonicalConfig.of(config.model_copy(update={"seed": 7})).with_seed(knobs, seed)
            alone = resolve_config(flatten(config.model_dump()) | dict.fromkeys(knobs, seed))
            assert reseeded == CanonicalConfig.of(alone)
            assert stages_of(reseeded) == stages_of(alone)
            assert (reseeded.config.phases, reseeded.config.body_spec) == (alone.phases, alone.body_spec)


def test_data_is_looked_at_once_for_many_trials(monkeypatch):
    config = resolve_config({"task": "digits", "body": "mini-swin", "align.epochs": 1})
    seeds = [config.model_copy(update={"seed": seed}) for seed in range(3)]
    alone = [stages_of(one) for one in seeds]
    looked: list[str] = []
    digest = TaskSpec.digest
    monkeypatch.setattr(TaskSpec, "digest", lambda spec: looked.append(spec.name) or digest(spec))
    digests: Any = {}
    assert [stages_of(one, digests=digests) for one in seeds] == alone
    assert len(looked) < len(seeds)
    other = resolve_config({"task": "mnist1d", "body": "mini-swin", "align.epochs": 1})
    assert stages_of(other, digests=digests) == stages_of(other)
    assert trial_id(other) != trial_id(config)
