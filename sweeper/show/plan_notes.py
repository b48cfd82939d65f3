"""What a plan says of its tasks and knobs: sizes of the parts, small validation parts, and where the values of knobs come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from orca_core.config.methods import method_defaults
from orca_core.config.paths import flatten
from orca_core.config.resolve import REFERENCE_BEHAVIOUR
from orca_core.identity import DEFAULTS
from orca_core.tasks import find_task
from orca_core.tasks.published_style import PUBLISHED_STYLE, nearest_published, recipes_of
from sweeper.planning.trials import Plan, PlannedTrial
from sweeper.running.parts import parts_of

MAX_RECIPES = 6
"""Maximum number of recipes that are printed."""


def plan_notes(plan: Plan) -> Iterator[str]:
    """The parts of each task, warnings, and the sources of knobs; one statement a line, the first of each kind with its label."""
    parts = parts_of(trial.config for trial in plan.trials)
    warnings = [warning for of_task in parts if (warning := of_task.warning())]
    for label, lines in (("Tasks", [of_task.line() for of_task in parts]), ("Warning", warnings), ("Knobs", knob_sources(plan))):
        for number, line in enumerate(lines):
            yield f"{'' if number else label:<8} {line}"


def knob_sources(plan: Plan) -> list[str]:
    """The sources of a plan's knobs and what each sets, a line each; of recipes, the values that are not the default ones."""
    space = plan.space
    varied = [*dict.fromkeys(space.varied)]
    given = [knob for knob in space.base if knob not in space.options and knob not in varied]
    sources = [("search space", ", ".join([*given, *varied])), ("--set", ", ".join(space.options))]
    sources += _recipes(plan, {*space.base, *varied})
    sources += _methods(plan, {*space.base, *varied})
    if any(trial.config.reference_behaviour for trial in plan.trials):
        sources.append(("reference_behaviour", ", ".join(knob for knob in REFERENCE_BEHAVIOUR if knob not in {*space.base, *varied})))
    sources.append(("defaults", "all other knobs"))
    return [f"{source}: {knobs}" for source, knobs in sources if knobs]


def _recipes(plan: Plan, given: set[str]) -> Iterator[tuple[str, str]]:
    """Each recipe that provides values, and these values."""
    groups: dict[tuple[str, str], list[PlannedTrial]] = {}
    for trial in plan.trials:
        groups.setdefault((trial.config.task, trial.config.recipe), []).append(trial)
    for task, recipe in list(groups)[:MAX_RECIPES]:
        spec = find_task(task)
        values = flatten(recipes_of(spec)[recipe]).items()
        trials = groups[task, recipe]
        shown = [(knob, value) for knob, value in values if knob not in given and _is_used(trials, knob, value)]
        origin = f", after {nearest_published(spec)}" if recipe == PUBLISHED_STYLE else ""
        yield f"recipe {recipe} of {task}{origin}", ", ".join(f"{knob}={_spell(value)}" for knob, value in shown)
    if len(groups) > MAX_RECIPES:
        yield "other recipes", f"{len(groups) - MAX_RECIPES}; `sweeper tasks NAME` prints them"


def _methods(plan: Plan, given: set[str]) -> Iterator[tuple[str, str]]:
    """Each method that provides values, and the knobs it sets."""
    shown: dict[str, dict[str, None]] = {}
    for trial in plan.trials:
        config = trial.config
        if config.method is not None:
            spec = config.task_spec
            knobs = method_defaults(config.method, spec.dims, spec.kind, {})
            shown.setdefault(config.method, {}).update(dict.fromkeys(knob for knob in knobs if knob not in given))
    for method, names in shown.items():
        yield f"method {method}", ", ".join(names)


def _spell(value: Any) -> str:
    """A value as YAML has it, without spaces, so that no line breaks within it."""
    return json.dumps(value, separators=(",", ":")).strip('"')


def _is_used(trials: Sequence[PlannedTrial], knob: str, value: Any) -> bool:
    """Whether some trial has a recipe's value: it reads the knob, takes no other value, such as a proxy that fits, and not the default."""
    return value != DEFAULTS[knob] and any(trial.cell(knob) == value for trial in trials)
