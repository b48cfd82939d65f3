"""The output of `sweeper plan NAME --decide N`: which further trials are expected to settle most open verdicts of a sweep."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orca_core.errors import ConfigError, Fault
from sweeper.analysis.comparison import compare_levels
from sweeper.analysis.contrasts import Contrast
from sweeper.analysis.paired import UNDECIDED
from sweeper.analysis.sweep_rows import SweepRows, read_sweep_rows
from sweeper.faults import Faults
from sweeper.planning.deciding import ContrastName, name_of
from sweeper.planning.outlook import Open, Step, choose_trials, describe
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace
from sweeper.show.plan_work import format_duration
from sweeper.show.question import name_contrast
from sweeper.show.tables import terminal_width, text_table
from sweeper.space.reading import parse_space
from sweeper.space.space import SearchSpace

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Advice:
    """Trials that are expected to settle most open verdicts.

    Args:
        space: The sweep's space.
        number: Number of trials that may be spent.
        verdicts: Number of contrasts.
        undecided: Those without a verdict.
        too_few: Those of them with fewer than two pairs, of which nothing can be expected.
        steps: What is done for which contrast.
        trials: The trials, as cells: task, arm, what the sweep varies, and what its seeds set.
        seconds: Expected work; None if no trial of these arms was timed.
    """

    space: SearchSpace
    number: int
    verdicts: int
    undecided: Sequence[ContrastName]
    too_few: Sequence[ContrastName]
    steps: Sequence[Step]
    trials: Sequence[Row]
    seconds: float | None


def describe_advice(
    name: str, number: int, settings: Mapping[str, Any], malformed: Iterable[Fault], workspace: Workspace, format: str
) -> str:
    """The advice as text, or its trials as JSON or CSV.

    Args:
        name: Name of a sweep with results.
        number: Number of trials that may be spent.
        settings: The options `--set`, by which a sweep without a question can be given one.
        malformed: Faults of options `--set` that are no settings; they are raised together with all others.
        workspace: Where the results are.
        format: `text`, `json` or `csv`.

    Raises:
        ConfigError: If the sweep is unknown, has no question or no results that answer it, or the format is unknown.
    """
    wrong = [] if format in ("text", "json", "csv") else [Fault("--format", "must be text, json or csv", format)]
    advice = advise(name, number, settings, workspace, [*malformed, *wrong])
    match format:
        case "json":
            return json.dumps(advice.trials, indent=1) + "\n"
        case "csv":
            text = io.StringIO()
            if advice.trials:
                writer = csv.DictWriter(text, fieldnames=list(advice.trials[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(advice.trials)
            return text.getvalue()
        case _:
            return _format_text(name, advice)


def advise(name: str, number: int, settings: Mapping[str, Any], workspace: Workspace, wrong: Iterable[Fault] = ()) -> Advice:
    """Choose trials; arguments and errors as for `describe_advice`, `wrong` are faults to be raised with all others."""
    faults = Faults()
    faults.extend(wrong)
    with faults.collecting():
        space = _find_space(name, settings, workspace.results)
    faults.raise_if_any()
    assert space.question is not None
    sweep = read_sweep_rows(workspace.results, name, [space.question.metric, "seconds"])
    compared = _compare(space, sweep)
    contrasts = [contrast for contrast, _ in compared]
    undecided = [contrast for contrast, verdict in compared if verdict == UNDECIDED]
    levels = (space.question.alpha / max(1, len(contrasts)),) * 2
    candidates, too_few = [], []
    for contrast in undecided:
        known = describe(space, contrast)
        if known is None:
            too_few.append(name_of(contrast))
        else:
            arms = frozenset(str(arm) for context in contrast.contexts for arm in contrast.arms[context])
            candidates.append(Open(name_of(contrast), arms, known, levels))
    steps, extra = choose_trials(candidates, number)
    rows_of = defaultdict(list)  # of the candidate by which a tuned arm is compared
    for row in (row for contrast in undecided for pair in contrast.all_pairs() for row in (pair.level, pair.baseline)):
        rows_of[str(row["arm"])].append(row)
    last = {key: max(row["seed"] for row in sweep.rows if str(row.get("arm")) == key) for key in extra}
    trials = [
        cells
        for arm, seeds in extra.items()
        for cells in _trials_of(space, arm, rows_of[arm][0], range(last[arm] + 1, last[arm] + 1 + seeds))
    ]
    names = [name_of(contrast) for contrast in undecided]
    return Advice(space, number, len(contrasts), names, too_few, steps, trials, _seconds(extra, rows_of))


def _find_space(name: str, settings: Mapping[str, Any], results: ResultStore) -> SearchSpace:
    """The search space of a sweep, which has a question.

    Raises:
        ConfigError: If the sweep is unknown, or has no plan or no question.
    """
    results.check_sweep(name)
    plan = results.latest_plan(name)
    if plan is None:
        raise ConfigError([Fault("--decide", "must be used with a sweep that has a plan in the results", name, "Run it once more.")])
    space = parse_space(plan["space"] | {"name": name}, overrides=settings)
    if space.question is None:
        remedy = "Give it one: --set sweep:question='{factor: KNOB, baseline: LEVEL}'."
        raise ConfigError([Fault("question", "must say what is to be decided", Fault.ABSENT, remedy)])
    return space


def _compare(space: SearchSpace, sweep: SweepRows) -> list[tuple[Contrast, str | None]]:
    """The contrasts of the question with their verdicts, as `sweeper compare` has them."""
    question = space.question
    assert question is not None
    comparison = compare_levels(
        sweep,
        question.factor,
        question.baseline,
        within=question.within,
        metric=question.metric,
        margin=question.margin,
        alpha=question.alpha,
        allow_unfair=True,
        looks=space.looks,
    )
    verdicts = [effect.verdict for effect in comparison.effects if effect.task is not None]
    return [(contrast, verdict) for contrast, verdict in zip(comparison.contrasts, verdicts, strict=True) if contrast.contexts]


def _trials_of(space: SearchSpace, arm: str, row: Row, seeds: Iterable[int]) -> Iterable[dict[str, Any]]:
    """Further trials of an arm, as one of its trials, with other seeds."""
    shown = [knob.replace(".", "_") for knob in space.varied if knob != "task"]
    cells = {"task": row.get("task"), "arm": arm} | {column: row.get(column) for column in shown}
    for seed in seeds:
        yield cells | dict.fromkeys(space.vary, seed)


def _seconds(extra: Mapping[str, int], rows_of: Mapping[str, Sequence[Row]]) -> float | None:
    total = 0.0
    for arm, seeds in extra.items():
        timed = [row["seconds"] for row in rows_of[arm] if row.get("status") == "COMPLETE" and row.get("seconds") is not None]
        if not timed:
            return None
        total += seeds * math.fsum(timed) / len(timed)
    return total


def _format_text(name: str, advice: Advice) -> str:
    if not advice.undecided:
        return f"{name}: all {advice.verdicts} verdicts are there; nothing is left to decide.\n"
    head = f"{name}: {len(advice.undecided)} of {advice.verdicts} verdicts are open."
    if advice.too_few:
        head += f" Of {len(advice.too_few)} there are fewer than two pairs, from which nothing can be expected."
    if not advice.steps:
        return f"{head} {advice.number} further trials are not expected to settle any of them.\n"
    settled = sum(step.probability for step in advice.steps)
    work = "" if advice.seconds is None else f", with about {format_duration(advice.seconds)} of work"
    head += f" {len(advice.trials)} further trials are expected to settle {settled:.1f} of them{work}.\n"
    contrasts = text_table(
        ["contrast", "seeds", "further", "trials", "settled"],
        (
            [name_contrast(advice.space, step.contrast.name), step.contrast.known.pairs, step.seeds, step.trials, f"{step.probability:.0%}"]
            for step in advice.steps
        ),
        terminal_width(),
        wrapped=0,
    )
    by_arm: dict[str, list[Row]] = {}
    for trial in advice.trials:
        by_arm.setdefault(str(trial["arm"]), []).append(trial)
    columns = [column for column in advice.trials[0] if column not in advice.space.vary]
    lines = ([of_arm[0][column] for column in columns] + [_spell_range([trial["seed"] for trial in of_arm])] for of_arm in by_arm.values())
    hint = "With `seeds: {until: decided}` in its file, a sweep adds seeds where they are needed by itself.\n"
    return f"{head}\n{contrasts}\n{text_table([*columns, 'seeds'], lines)}\n{hint}"


def _spell_range(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
