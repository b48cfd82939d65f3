"""Rows of the role `derived`: what is made of finished trials, such as averages of their weights, and is no trial itself.

A row is known by its recipe and the result keys of its members, so that the same one is made once. It is not in the plan, so that nothing
that reads planned trials (`trials`, `best`, `compare`, `findings`, adaptive seeds) takes it for one.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Literal, TypeVar

from orca_core.addresses import Address
from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault, nearest
from orca_core.identity import hash_of
from sweeper.analysis.factors import KNOB_OF
from sweeper.results.workspace import Workspace
from sweeper.running.reconcile import latest_space, reconcile
from sweeper.space.space import SearchSpace

Row = Mapping[str, Any]

Which = Literal["best", "last"]
"""Weights of which epoch of a trial."""

SCORES = ("valid_error", "valid_loss", "test_error")

_OF_THE_DATA = ("valid_samples", "test_samples", "valid_majority_error", "majority_error", "task_columns", "score", "params_total")
"""Columns that say the same of all trials on these samples."""


@dataclass(frozen=True)
class Derivation(ABC):
    """What a derived row is made of, and how.

    Args:
        name: Name of the sweep.
        rows: Rows of its members.
        which: Which of their weights are read: those of the best epoch, or of the last.
    """

    name: str
    rows: Sequence[Row]
    which: Which

    VERSION: ClassVar[int]
    """Of the recipe, raised when its numbers change."""

    @property
    @abstractmethod
    def recipe(self) -> str:
        """What the column `derived_by` says."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the recipe is given beside its members: cells of the row, and part of what it is known by."""
        return {}

    @property
    def identity(self) -> dict[str, Any]:
        """What the row is known by."""
        members = [row["result_key"] for row in self.rows]
        return {"recipe": self.recipe, "version": self.VERSION, "weights": self.which, "members": members} | self.settings

    @property
    def id(self) -> str:
        """Id of the derived row."""
        return hash_of(self.identity)

    @property
    def common(self) -> dict[str, Any]:
        """The cells in which all members agree: knobs, arm and variant, and what is known of the data."""
        columns = [*KNOB_OF, "arm", "variant", *_OF_THE_DATA]
        return {column: self.rows[0][column] for column in columns if all(row[column] == self.rows[0][column] for row in self.rows)}

    def row(self, found: Mapping[str, Any], attempt: int, started: datetime, seconds: float, worker: Row) -> dict[str, Any]:
        """The derived row.

        Args:
            found: Its scores, and other cells of its recipe.
            attempt: Its number.
            started, seconds: When it was made, and how long that took.
            worker: Cells that say where.
        """
        return {
            **self.common,
            **worker,
            **{"sweep": self.name, "trial": self.id, "attempt": attempt, "sequence": 0, "status": "COMPLETE", "in_plan": False},
            **{"role": "derived", "derived_by": self.recipe, "result_key": hash_of(self.identity, digits=32), "config_hash": self.id},
            **{"members": [row["trial"] for row in self.rows], **self.settings, **found},
            **{"started_at": started, "ended_at": datetime.now(UTC), "seconds": seconds, "saved_s": 0.0},
        }


D = TypeVar("D", bound=Derivation)


@dataclass(frozen=True)
class Made(Generic[D]):
    """A derived row of a sweep.

    Args:
        of: What it is made of.
        row: The row.
        news: `new`, `there already`, `the same again` or `new numbers`.
    """

    of: D
    row: Row
    news: str


Compute = Callable[[SearchSpace, Sequence[D], Mapping[str, TrialConfig]], Sequence[Mapping[str, Any]]]
"""From the sweep's space, derivations and the configs of their members by id to the scores of each, and other cells of its recipe."""


def add_derived(
    workspace: Workspace,
    name: str,
    batches: Sequence[Sequence[D]],
    compute: Compute[D],
    *,
    recompute: bool,
    again: bool,
    numbers: Sequence[str] = SCORES,
) -> list[Made[D]]:
    """Make what is not there yet, and add its rows.

    Args:
        workspace: Where the results and the weights are.
        name: Name of the sweep.
        batches: Derivations; those of a batch are computed together.
        compute: Computes those of a batch that are to be made.
        recompute: Train again what is needed of members whose weights are not in the store.
        again: Make what is there already once more, and add a row only if the numbers differ.
        numbers: Columns that are compared for this.

    Raises:
        ConfigError: If weights are not there, the device is not, or the plan has changed.
    """
    space = latest_space(workspace.results, name)
    known = {row["trial"]: row for row in workspace.results.live_trials(name) if row["role"] == "derived"}
    todo = [[one for one in batch if again or one.id not in known] for batch in batches]
    members = [row for batch in todo for one in batch for row in one.rows]
    configs = _configs_of(workspace, space, members) if members else {}
    if not recompute:
        _check_weights(workspace, batches, members)
    made = []
    for batch, missing in zip(batches, todo, strict=True):
        new = _computed(space, missing, compute, configs, known) if missing else {}
        for one in batch:
            before, row = known.get(one.id), new.get(one.id)
            if row is None:
                assert before is not None, "what is not made now was made before"
                made.append(Made(one, before, "there already"))
            elif before is not None and all(row[column] == before[column] for column in numbers):
                made.append(Made(one, before, "the same again"))
            else:
                workspace.results.append("trials", name, [row])
                made.append(Made(one, row, "new numbers" if before is not None else "new"))
    return made


def _computed(
    space: SearchSpace, batch: Sequence[D], compute: Compute[D], configs: Mapping[str, TrialConfig], known: Mapping[str, Row]
) -> dict[str, dict[str, Any]]:
    """Rows of the derivations of a batch, by id."""
    _check_device(space)
    started, clock = datetime.now(UTC), time.perf_counter()
    found = compute(space, batch, configs)
    seconds, worker = (time.perf_counter() - clock) / len(batch), _facts_of_this_process(space)
    attempts = [known[one.id]["attempt"] + 1 if one.id in known else 1 for one in batch]
    return {one.id: one.row(cells, attempt, started, seconds, worker) for one, cells, attempt in zip(batch, found, attempts, strict=True)}


def kept_weights(workspace: Workspace, name: str) -> Which:
    """Which weights of its trials a sweep keeps, so that they are what is derived from."""
    return "last" if latest_space(workspace.results, name).keep == "last" else "best"


def check_choice(
    workspace: Workspace, name: str, task: str | None, arm: str | None, where: str | None, others: Sequence[Fault] = ()
) -> None:
    """Check that what is chosen of a sweep exists.

    Raises:
        ConfigError: If not, or if there are other faults.
    """
    faults = list(others)
    if where is not None and arm is not None:
        faults.append(Fault("--where", "must be given without --arm: it chooses the trials by itself", Fault.ABSENT))
    try:
        workspace.results.check_sweep(name)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults]) from None
    rows = workspace.results.live_trials(name, ["task", "arm", "in_plan"])
    tasks, arms = ({row[column] for row in rows if row["in_plan"] and row[column]} for column in ("task", "arm"))
    if task is not None and task not in tasks:
        faults.append(Fault("--task", f"must be a task of {name}", task, nearest(task, tasks)))
    if arm is not None and len(fitting := sorted(one for one in arms if one.startswith(arm))) != 1:
        remedy = f"It could be {', '.join(fitting)}." if fitting else f"`sweeper status {name} --arms --format csv` lists them."
        faults.append(Fault("--arm", f"must be the start of the id of one arm of {name}", arm, remedy))
    if faults:
        raise ConfigError(faults)


def finished_rows(workspace: Workspace, name: str, task: str | None, arm: str | None, where: str | None) -> list[Row]:
    """The chosen trials of a sweep that are in its plan and have finished, in the order of tasks and arms."""
    escaped = name.replace("'", "''")
    condition = f"select * from trials where sweep = '{escaped}'" + (f" and (\n{where}\n)" if where is not None else "")
    rows = workspace.sql(f"{condition} order by task, arm, candidate, seed, trial").rows()
    return [row for row in rows if task in (None, row["task"]) and (arm is None or (row["arm"] or "").startswith(arm))]


def _check_device(space: SearchSpace) -> None:
    """Check that the device that a sweep ran on is here.

    Raises:
        ConfigError: If not.
    """
    if space.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            rule = f"the trials of {space.name} ran on a GPU, and torch sees none here"
            raise ConfigError([Fault("", rule, Fault.ABSENT, "Call it on a machine with one.")])


def _facts_of_this_process(space: SearchSpace) -> dict[str, Any]:
    """The cells of a row that say where its numbers were computed."""
    from sweeper.running.worker import report_text, worker_facts

    return json.loads(report_text(worker_facts(), space.device)) | {"device": space.device}


def _configs_of(workspace: Workspace, space: SearchSpace, rows: Iterable[Row]) -> dict[str, TrialConfig]:
    """The configs of trials, by their ids."""
    found = reconcile(space, workspace.results)
    wanted = {row["trial"] for row in rows}
    if missing := sorted(wanted - found.plan.by_id.keys()):
        rule = f"the latest plan of {space.name} must contain trial {missing[0]}"
        raise ConfigError([Fault("", rule, Fault.ABSENT, "Run the sweep again.")])
    if stale := sorted(wanted & found.stale):
        rule = f"the data, body and code of trial {stale[0]} must be those that its results come from"
        raise ConfigError([Fault("", rule, Fault.ABSENT, f"One of them has changed since. Run {space.name} again.")])
    return {trial: found.plan.by_id[trial].config for trial in wanted}


def _check_weights(workspace: Workspace, batches: Sequence[Sequence[Derivation]], members: Iterable[Row]) -> None:
    """Check that the weights of all members are in the store.

    Raises:
        ConfigError: If not; it says how many are missing, and how long it takes to train them again.
    """
    rows = {row["trial"]: row for row in members}
    which: Which = next((one.which for batch in batches for one in batch), "best")
    missing = [row for row in rows.values() if not workspace.artifacts.has(Address.model(row["result_key"], which))]
    if missing:
        minutes = sum((row["seconds"] or 0.0) + (row["saved_s"] or 0.0) for row in missing) / 60
        rule = f"the weights of {len(missing)} of {len(rows)} members are not in the store: not kept (`keep: none`), or cleaned since"
        trials = ", ".join(row["trial"] for row in missing[:3]) + (", ..." if len(missing) > 3 else "")
        remedy = f"--recompute trains them again, to the same bits: about {minutes:.1f} minutes for {trials}."
        raise ConfigError([Fault("", rule, Fault.ABSENT, remedy)])
