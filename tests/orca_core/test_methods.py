"""`method`: the knobs of a published method in one line."""

from __future__ import annotations

from typing import get_args

import pytest

from orca_core.config.methods import Method, method_of
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.identity import canonical_knobs, trial_id

METHODS = get_args(Method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["digits", "mnist1d", "darcy-mini"])
def test_a_methods_name_is_short_for_its_knobs_and_no_more(method, task):
    short = resolve_config({"task": task, "method": method})
    written = {knob: value for knob, value in canonical_knobs(short).items() if value is not None and knob not in ("method", "freezing")}
    long = resolve_config({**written, "reference_behaviour": False})
    assert long.method is None
    assert trial_id(long) == trial_id(short)
    assert method_of(long) == canonical_knobs(long)["method"] == method
    assert len({trial_id(resolve_config({"task": task, "method": other})) for other in METHODS}) == len(METHODS)


def test_a_users_values_and_the_recipes_number_of_steps_count():
    assert resolve_config({"task": "digits", "method": "mona"}).align.epochs == resolve_config({"task": "digits"}).align.epochs > 0
    mona = resolve_config({"task": "digits", "method": "mona", "align.epochs": 8, "align.task_weight": 0.0})
    assert (mona.align.objective, mona.align.epochs, mona.align.warmup_epochs, mona.align.task_weight) == ("bilevel", 8, 2, 0.0)
    pare = resolve_config({"task": "digits", "method": "pare", "finetune.epochs": 7, "mix.gate": "random"})
    assert (pare.mix.epochs, pare.mix.gate, pare.align.epochs) == (7.0, "random", 0)


def test_the_shares_are_those_of_the_reference():
    """2000 of 3136 patches that fall to 500, 1000 that fall to 500 in dense tasks, 32 of 64 tokens of series that fall to 0."""
    mixes = {task: resolve_config({"task": task, "method": "pare"}).mix for task in ("digits", "darcy-mini", "mnist1d")}
    assert [round(mixes[task].share, 2) for task in mixes] == [round(2000 / 3136, 2), round(1000 / 3136, 2), 32 / 64]
    assert [round(mixes[task].end_share, 2) for task in mixes] == [round(500 / 3136, 2)] * 2 + [0.0]
    assert [(mixes[task].weight, mixes[task].gate_epochs) for task in mixes] == [(1.0, 10), (1.0, 10), (0.1, 5)]


def test_what_is_no_method_has_no_name():
    def name(**knobs):
        return method_of(resolve_config({"task": "digits"} | {knob.replace("__", "."): value for knob, value in knobs.items()}))

    assert name(align__epochs=0) == "naive"
    assert name() == "orca"
    assert name(align__objective="none") is None
    assert name(align__weight=0.1) is None
    assert name(method="pare", align__epochs=5) is None
    assert name(method="recraft", align__task_weight=1.0) is None
    assert name(method="pare", body="none") is None
    with pytest.raises(ConfigError, match="method: must be"):
        name(method="pear")
