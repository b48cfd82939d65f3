"""What `sweeper status NAME --follow` shows: where a sweep stands, from its tables and the claim of its driver alone, until it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from orca_core.errors import StoreUnavailableError
from sweeper.analysis.floors import Floors
from sweeper.results.store import results_option
from sweeper.results.views import INTERRUPTED, shown_status
from sweeper.results.workspace import Workspace
from sweeper.running.driver import Driver, Watch
from sweeper.running.live import TerminalBlock, is_live_terminal
from sweeper.running.progress import PLAIN_EVERY_S, beside_floor
from sweeper.running.standing import Standing
from sweeper.running.tally import Tally

LOOK_EVERY_S, LOOK_SHARE = 2.0, 0.05
"""Seconds between two looks at the tables; more, if looking would otherwise take more than this share of the time."""

_CASE = ("reference_data", "split_seed", "train_samples", "valid_share", "validation_folds", "validation_fold")
"""Columns that say with which floor a trial is compared."""

_COLUMNS = ("trial", "in_plan", "status", "cause", "error", "task", "saved_s", "ended_at", *_CASE)

_COUNT_STAGES = """
    select coalesce(sum((not is_reused)::int), 0) as computed, coalesce(sum(is_reused::int), 0) as reused
    from (select case when epochs > 0 then reused_epochs >= epochs else seconds = 0 end as is_reused from stages where sweep = '{}')
"""


def read_standing(workspace: Workspace, name: str, driver: Driver | None) -> Standing:
    """Where a sweep stands, by its tables and, as long as it is run, by what its driver tells with its claim.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        driver: The run that drives it; None if there is none.

    Raises:
        StoreError: If a table is damaged or out of reach.
    """
    results, facts = workspace.results, driver.facts if driver is not None else {}
    plan = results.latest_plan(name) or {}
    metric = plan.get("metric", "valid_error")
    rows = [row for row in results.live_trials(name, {*_COLUMNS, metric}) if row["in_plan"]]
    begun = sum(row["status"] == "RUNNING" for row in rows)
    tally = Tally()
    ended = [row | {"status": shown_status(row)} for row in rows if row["status"] != "RUNNING"]
    tally.recall(sorted(ended, key=lambda row: row["ended_at"].timestamp() if row["ended_at"] else 0.0), metric)
    stages = workspace.sql(_COUNT_STAGES.format(name.replace("'", "''"))).rows()[0]
    floors = Floors.read(results)
    known = len(plan.get("trials", rows))
    total = _number(facts, "total") or known + plan.get("proposed_later", 0)
    paused = min(_number(facts, "paused") or 0, begun)
    return Standing(
        sweep=name,
        metric=metric,
        total=total,
        least=_number(facts, "least") or total,
        done=tally.done,
        pruned=tally.ended["PRUNED"],
        failed=tally.ended["FAIL"],
        interrupted=0 if driver is not None else tally.ended[INTERRUPTED] + begun,
        running=begun - paused if driver is not None else 0,
        paused=paused if driver is not None else 0,
        slots=_number(facts, "slots"),
        in_use=_number(facts, "in_use"),
        gpus=_text(facts, "gpus"),
        computed=int(stages["computed"]),
        reused=int(stages["reused"]),
        saved_s=sum(row["saved_s"] or 0.0 for row in rows),
        best=[beside_floor(task, best, metric, floors) for task, best in sorted(tally.best.items())],
        failure=tally.failure,
        trouble=_text(facts, "trouble"),
        elapsed_s=_number(facts, "elapsed_s"),
        left_s=_number(facts, "left_s"),
        why=_text(facts, "why"),
    )


def _number(facts: Mapping[str, Any], name: str) -> Any:
    """A number among the facts of a driver, which may be of another version."""
    value = facts.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    return value if isinstance(value, str) else ""


def follow(workspace: Workspace, name: str, sleep: Callable[[float], object] = time.sleep) -> int:
    """Show where a sweep stands until no process runs it any more: a live block on a terminal, plain lines elsewhere.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        sleep: Waits between two looks.

    Returns:
        Exit code: 0, or 130 after Ctrl-C, which does nothing to the sweep.

    Raises:
        ConfigError: If the sweep is unknown.
    """
    workspace.results.check_sweep(name)
    console = Console(file=sys.stdout)
    block = TerminalBlock(console) if is_live_terminal(console) else None
    watch, standing, printed_at, is_cut = Watch(workspace.results, name), None, -PLAIN_EVERY_S, False
    try:
        while True:
            began = time.monotonic()
            try:
                living = [driver for driver in watch.look() if not driver.is_dead]
                driver = max(living, key=lambda one: (one.holds, one.run), default=None)
                standing = read_standing(workspace, name, driver)
            except StoreUnavailableError:
                if standing is None:
                    raise
                sleep(LOOK_EVERY_S)  # it was in reach, and may be again
                continue
            if driver is None:
                break
            if block is not None:
                block.show(standing)
            elif began - printed_at >= PLAIN_EVERY_S:
                printed_at = began
                _print(console, standing)
            sleep(max(LOOK_EVERY_S, (time.monotonic() - began) / LOOK_SHARE))
    except KeyboardInterrupt:
        is_cut = True
    finally:
        if block is not None:
            block.close()
    if standing is not None:
        _print(console, standing)
    if is_cut:
        return 130
    console.print(_describe_end(standing, workspace.uri), highlight=False, soft_wrap=True, markup=False)
    return 0


def _print(console: Console, standing: Standing) -> None:
    console.print(standing.line(), highlight=False, soft_wrap=True)
    console.file.flush()


def _describe_end(standing: Standing | None, uri: str) -> str:
    assert standing is not None
    here = results_option(uri)
    missing = standing.total - standing.done
    if missing <= 0:
        return f"{standing.sweep}: all {standing.total} trials are done. See: sweeper findings {standing.sweep}{here}"
    are = "trial is" if missing == 1 else "trials are"
    return f"{standing.sweep}: no process runs it, and {missing} {are} not done. See: sweeper status {standing.sweep}{here}"
