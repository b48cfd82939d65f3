"""Soups: averages of the fine-tuned weights of an arm's runs, as rows of the role `derived` beside them.

A row is known by its recipe and the result keys of its members: the same soup is made once. It is not in the plan, so that nothing that
reads planned trials (`trials`, `best`, `compare`, `findings`, adaptive seeds) takes it for one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from orca_core.addresses import Address
from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault, nearest
from orca_core.identity import hash_of
from sweeper.analysis.factors import KNOB_OF
from sweeper.results.workspace import Workspace
from sweeper.running.reconcile import latest_space, reconcile
from sweeper.space.space import SearchSpace

if TYPE_CHECKING:
    from orca_core.soup import Soup

Row = Mapping[str, Any]

KINDS = ("uniform", "greedy")

VERSION = 1
"""Of the recipes, raised when their numbers change."""

_SAME_SAMPLES = ("task", "split_seed", "reference_data", "valid_share", "validation_fold")
"""Columns that members must agree in: a member trained on what another one is tested on would make the average look good."""

OF_THE_DATA = ("valid_samples", "test_samples", "valid_majority_error", "majority_error", "task_columns", "score", "params_total")
"""Columns that say the same of all trials on these samples."""


@dataclass(frozen=True)
class Group:
    """The members of a soup.

    Args:
        name: Name of the sweep.
        rows: Their rows, those with the lowest validation error first.
        kind: `uniform` or `greedy`.
        which: Which of their weights are averaged: those of the best epoch, or of the last.
        varied: Columns of the knobs that the sweep varies, the task aside, and of those that its seeds set.
    """

    name: str
    rows: Sequence[Row]
    kind: Literal["uniform", "greedy"]
    which: Literal["best", "last"]
    varied: Sequence[str] = ()

    @property
    def recipe(self) -> str:
        """What the column `derived_by` says."""
        return f"soup-{self.kind}"

    @property
    def _identity(self) -> dict[str, Any]:
        members = sorted(row["result_key"] for row in self.rows)
        return {"recipe": self.recipe, "version": VERSION, "weights": self.which, "members": members}

    @property
    def id(self) -> str:
        """Id of the derived row: hash of the recipe and the members' result keys."""
        return hash_of(self._identity)

    @property
    def common(self) -> dict[str, Any]:
        """The cells in which all members agree: knobs, arm and variant, and what is known of the data."""
        columns = [*KNOB_OF, "arm", "variant", *OF_THE_DATA]
        return {column: self.rows[0][column] for column in columns if all(row[column] == self.rows[0][column] for row in self.rows)}

    def row(self, soup: Soup, attempt: int, started: datetime, seconds: float, worker: Row) -> dict[str, Any]:
        """The derived row."""
        trials = [row["trial"] for row in self.rows]
        return {
            **self.common,
            **worker,
            **{"sweep": self.name, "trial": self.id, "attempt": attempt, "sequence": 0, "status": "COMPLETE", "in_plan": False},
            **{"role": "derived", "derived_by": self.recipe, "result_key": hash_of(self._identity, digits=32), "config_hash": self.id},
            **{"members": trials, "averaged": [trials[i] for i in soup.averaged], "shares_start": soup.shares_start},
            **{"valid_error": soup.valid_error, "valid_loss": soup.valid_loss, "test_error": soup.test_error},
            **{"started_at": started, "ended_at": datetime.now(UTC), "seconds": seconds, "saved_s": 0.0},
        }


@dataclass(frozen=True)
class Made:
    """A soup of a sweep.

    Args:
        group: Its members.
        row: Its row.
        news: `new`, `there already`, `the same again` or `new numbers`.
    """

    group: Group
    row: Row
    news: str


def make_soups(
    workspace: Workspace,
    name: str,
    *,
    kind: str = "uniform",
    task: str | None = None,
    arm: str | None = None,
    where: str | None = None,
    recompute: bool = False,
    again: bool = False,
) -> list[Made]:
    """Average the weights of an arm's runs, for each arm of a sweep, evaluate the averages and add their rows.

    Members are finished trials of the plan. Of a tuned arm they are its candidates, in one soup for each seed: these start from the same
    weights as long as nothing that is tuned concerns the alignment. Of any other arm they are its seeds, which do not. `where` chooses
    others.

    Args:
        workspace: Where the results and the weights are.
        name: Name of the sweep.
        kind: `uniform`: the average of all; `greedy`: of those with which the validation error does not rise.
        task, arm: Only this task, only this arm (the first digits of its id are enough).
        where: A condition in SQL on `trials`: all trials that meet it are one soup for each task, whatever their arms.
        recompute: Train again what is needed of members whose weights are not in the store.
        again: Make soups that are there already once more, and add a row only if the numbers differ.

    Raises:
        ConfigError: With all faults: unknown names, nothing to average, members on other samples, weights that are not there.
        QueryError: If `where` is no condition.
        DataError: If members are not of one architecture.
    """
    faults = [] if kind in KINDS else [Fault("--kind", f"must be one of {', '.join(KINDS)}", kind)]
    check_choice(workspace, name, task, arm, where, faults)
    space = latest_space(workspace.results, name)
    which: Literal["best", "last"] = "last" if space.keep == "last" else "best"
    chosen = _choose(workspace, name, task, arm, where)
    order = "last_valid_error" if which == "last" else "valid_error"
    recipe: Literal["uniform", "greedy"] = "greedy" if kind == "greedy" else "uniform"
    columns = [column for knob in (*space.varied, *space.vary) if (column := knob.replace(".", "_")) != "task"]
    groups = [Group(name, sorted(rows, key=lambda row: (row[order], row["trial"])), recipe, which, columns) for rows in chosen]
    known = {row["trial"]: row for row in workspace.results.live_trials(name) if row["role"] == "derived"}
    todo = [group for group in groups if again or group.id not in known]
    configs = configs_of(workspace, space, (row for group in todo for row in group.rows)) if todo else {}
    if not recompute:
        check_weights(workspace, which, (row for group in todo for row in group.rows))
    made = []
    for group in groups:
        before = known.get(group.id)
        if before is not None and not again:
            made.append(Made(group, before, "there already"))
            continue
        row = _make(workspace, space, group, configs, before["attempt"] + 1 if before is not None else 1)
        numbers = ("valid_error", "valid_loss", "test_error", "averaged", "shares_start")
        if before is not None and all(row[column] == before[column] for column in numbers):
            made.append(Made(group, before, "the same again"))
            continue
        workspace.results.append("trials", name, [row])
        made.append(Made(group, row, "new numbers" if before is not None else "new"))
    return made


def _make(workspace: Workspace, space: SearchSpace, group: Group, configs: Mapping[str, TrialConfig], attempt: int) -> dict[str, Any]:
    from orca_core.soup import make_soup  # loads torch: only when there is something to average

    check_device(space)
    started, clock = datetime.now(UTC), time.perf_counter()
    members = [configs[row["trial"]] for row in group.rows]
    soup = make_soup(members, workspace.artifacts, group.kind, group.which, device=space.device)
    return group.row(soup, attempt, started, time.perf_counter() - clock, facts_of_this_process(space))


def check_device(space: SearchSpace) -> None:
    """Check that the device that a sweep ran on is here.

    Raises:
        ConfigError: If not.
    """
    if space.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            rule = f"the trials of {space.name} ran on a GPU, and torch sees none here"
            raise ConfigError([Fault("", rule, Fault.ABSENT, "Call it on a machine with one.")])


def facts_of_this_process(space: SearchSpace) -> dict[str, Any]:
    """The cells of a row that say where its numbers were computed."""
    from sweeper.running.worker import report_text, worker_facts

    return json.loads(report_text(worker_facts(), space.device)) | {"device": space.device}


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
        workspace.results.check_sweep(name, "NAME")
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


def _choose(workspace: Workspace, name: str, task: str | None, arm: str | None, where: str | None) -> list[list[Row]]:
    """The members of each soup, in the order of tasks and arms."""
    rows = finished_rows(workspace, name, task, arm, where)
    groups = list(_by_task(rows) if where is not None else _by_arm(rows))
    several = [group for group in groups if len(group) > 1]
    if not several:
        rule = "must leave two finished trials or more of one task" if where is not None else f"{name} has no arm with two finished runs"
        remedy = "Runs on other splits are not averaged, as one is tested on what another has learned."
        raise ConfigError([Fault("--where" if where is not None else "", rule, Fault.ABSENT, remedy)])
    faults = []
    for group in several:
        mixed = [column for column in _SAME_SAMPLES if len({row[column] for row in group}) > 1]
        if mixed:
            rule = f"the members of a soup must have the same {', '.join(KNOB_OF[column] for column in mixed)}"
            faults.append(Fault("--where", rule, Fault.ABSENT, "Choose trials that were trained and tested on the same samples."))
        if any(row["validation_folds"] is not None for row in group):
            rule = "members must have a validation part, but with validation.folds the final training has none"
            faults.append(Fault("--where" if where is not None else "", rule, Fault.ABSENT))
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return several


def finished_rows(workspace: Workspace, name: str, task: str | None, arm: str | None, where: str | None) -> list[Row]:
    """The chosen trials of a sweep that are in its plan and have finished, in the order of tasks and arms."""
    escaped = name.replace("'", "''")
    condition = f"select * from trials where sweep = '{escaped}'" + (f" and (\n{where}\n)" if where is not None else "")
    rows = workspace.sql(f"{condition} order by task, arm, candidate, seed, trial").rows()
    return [row for row in rows if task in (None, row["task"]) and (arm is None or (row["arm"] or "").startswith(arm))]


def _by_task(rows: Sequence[Row]) -> Iterator[list[Row]]:
    for task in dict.fromkeys(row["task"] for row in rows):
        yield [row for row in rows if row["task"] == task]


def _by_arm(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Of a tuned arm the candidates, for each seed; of any other its runs; each on the same samples."""
    for key in dict.fromkeys((row["task"], row["arm"]) for row in rows):
        of_arm = [row for row in rows if (row["task"], row["arm"]) == key]
        is_tuned = len({row["candidate"] for row in of_arm}) > 1
        if is_tuned:
            of_arm = [row for row in of_arm if row["role"] != "replicate"]
        columns = (*_SAME_SAMPLES, "seed") if is_tuned else _SAME_SAMPLES
        samples = [tuple(row[column] for column in columns) for row in of_arm]
        for sample in dict.fromkeys(samples):
            yield [row for row, own in zip(of_arm, samples, strict=True) if own == sample]


def configs_of(workspace: Workspace, space: SearchSpace, rows: Iterable[Row]) -> dict[str, TrialConfig]:
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


def check_weights(workspace: Workspace, which: Literal["best", "last"], members: Iterable[Row]) -> None:
    """Check that the weights of all members are in the store.

    Raises:
        ConfigError: If not; it says how many are missing, and how long it takes to train them again.
    """
    rows = {row["trial"]: row for row in members}
    missing = [row for row in rows.values() if not workspace.artifacts.has(Address.model(row["result_key"], which))]
    if missing:
        minutes = sum((row["seconds"] or 0.0) + (row["saved_s"] or 0.0) for row in missing) / 60
        rule = f"the weights of {len(missing)} of {len(rows)} members are not in the store: not kept (`keep: none`), or cleaned since"
        trials = ", ".join(row["trial"] for row in missing[:3]) + (", ..." if len(missing) > 3 else "")
        remedy = f"--recompute trains them again, to the same bits: about {minutes:.1f} minutes for {trials}."
        raise ConfigError([Fault("", rule, Fault.ABSENT, remedy)])
