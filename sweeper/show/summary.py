"""The summary that `run` prints at its end."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from orca_core.errors import ConfigError
from sweeper.analysis.machines import describe_differences
from sweeper.results.store import results_option
from sweeper.results.views import INTERRUPTED, shown_status
from sweeper.results.workspace import Workspace
from sweeper.running.outcome import Outcome
from sweeper.running.reconcile import Reconciliation
from sweeper.running.unfinished import Unfinished
from sweeper.show.answer import describe_answer
from sweeper.show.question import decision_lines
from sweeper.show.results import describe_best


def summarise_run(
    found: Reconciliation,
    workspace: Workspace,
    taken: int,
    outcome: Outcome,
    planned: Sequence[Mapping[str, Any]],
    unfinished: Sequence[Unfinished] = (),
) -> str:
    """Summarise what a run did, which trials did not finish, and the best arms.

    Args:
        found: The trials there were to run.
        workspace: Where the results are.
        taken: Number of trials taken over from other sweeps.
        outcome: How the run ended.
        planned: Current rows of the planned trials.
        unfinished: The planned trials that are neither COMPLETE nor PRUNED.
    """
    space, lines, here = found.plan.space, [], results_option(workspace.uri)
    if taken:
        lines.append(f"{space.name}: took over {taken} trials from other sweeps in these results.")
    if not found.todo:
        lines.append(f"{space.name}: nothing to run, all {len(found.done)} trials are in the results.")
    shown = Counter(shown_status(row) for row in planned)
    if outcome is Outcome.STOPPED:
        cut = (
            f", {shown[INTERRUPTED]} of {len(found.plan.trials) + found.plan.proposed_later} trials interrupted"
            if shown[INTERRUPTED]
            else ""
        )
        lines.append(f"{space.name}: stopped{cut}. Run the same command to continue.")
    lines += _describe_unfinished(unfinished, outcome, here)
    if outcome is Outcome.FINISHED and found.planner.proposed_later:
        what = "the question" if space.looks else space.search.algorithm
        lines.append(f"{found.planner.proposed_later} trials were never proposed: {what} lacks scores of earlier ones.")
    lines += decision_lines(found.planner)
    if note := describe_differences(planned):
        lines.append(f"{space.name}: {note}")
    text = "".join(f"{line}\n" for line in lines)
    if outcome is Outcome.FINISHED:
        with suppress(ConfigError):  # no candidate is complete
            text += _sections(describe_answer(workspace, space.name), describe_best(workspace, space.name, top=3))
    return text + advise_query(space.name, space.varied, planned, workspace.uri)


def _sections(*parts: str) -> str:
    """Parts with an empty line between them and at the end."""
    return "".join(f"{part}\n" for part in parts if part)


def _describe_unfinished(unfinished: Sequence[Unfinished], outcome: Outcome, here: str) -> Iterator[str]:
    """A line for each cause. After a stop it is no news that trials were interrupted or did not start."""
    if outcome is Outcome.STOPPED:
        unfinished = [trial for trial in unfinished if trial.status == "FAIL"]
    by_cause: dict[tuple[str, str], list[Unfinished]] = {}
    for trial in unfinished:
        by_cause.setdefault((trial.status, trial.cause), []).append(trial)
    for (status, cause), of_cause in by_cause.items():
        names = ", ".join(trial.trial for trial in of_cause[:NAMED])
        if len(of_cause) > NAMED:
            names += f" and {len(of_cause) - NAMED} more"
        first = of_cause[0]
        text = f"{len(of_cause)} {'failed' if status == 'FAIL' else 'did not finish'} ({cause}): {names}."
        text += f" {first.trial}: {first.error}." if first.error else ""
        yield text if status == "NONE" else f"{text} See: sweeper show {first.trial}{here}"


NAMED = 3
"""How many trials are named that did not finish for one cause."""

ADVISED_WIDTH = 80
"""Maximum length of a line of the advised query and of its answer. If too many knobs vary for it, the widest are averaged over."""


def advise_query(sweep: str, varied: Sequence[str], planned: Sequence[Mapping[str, Any]], uri: str) -> str:
    """Where the tables are, and a query that shows what varies, of one task.

    Args:
        sweep: Name of the sweep.
        varied: The knobs that it varies.
        planned: Current rows of the planned trials.
        uri: Folder or URI of the results.
    """
    complete = [row for row in planned if row["status"] == "COMPLETE"]
    text = f"Tables: trials, metrics and stages in {uri}."
    if not complete:
        return f"{text} See: sweeper status {shlex.quote(sweep)}{results_option(uri)}\n"
    task = complete[0]["task"]
    of_task = [row for row in complete if row["task"] == task]
    knobs = [knob for knob in (path.replace(".", "_") for path in varied) if len({str(row[knob]) for row in of_task}) > 1]
    widths = {knob: 2 + max(len(knob), *(len(str(row[knob])) for row in of_task)) for knob in knobs}
    while len(knobs) > 1 and max(sum(widths[knob] for knob in knobs) + 20, len(f"  select {', '.join(knobs)},")) > ADVISED_WIDTH:
        knobs.remove(max(knobs, key=widths.__getitem__))
    sql = f"""
  select {", ".join(knobs or ["seed"])},
    avg(test_error) as error, count(*) as trials
  from trials where sweep = {_quote(sweep)}
    and task = {_quote(task)}
  group by all order by error"""
    return f"{text} For example:\nsweeper query{results_option(uri)} {_quote_shell(sql)}\n"


def _quote(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _quote_shell(text: str) -> str:
    """A text in double quotes for the shell, which leave the single quotes of SQL alone."""
    return '"' + re.sub(r'([$`"\\])', r"\\\1", text) + '"'
