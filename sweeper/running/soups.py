"""Soups: averages of the fine-tuned weights of an arm's runs, as rows of the role `derived` beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault
from sweeper.analysis.factors import KNOB_OF
from sweeper.results.workspace import Workspace
from sweeper.running.derived import SCORES, Derivation, Made, Row, add_derived, check_choice, finished_rows, kept_weights
from sweeper.running.reconcile import latest_space
from sweeper.space.space import SearchSpace

KINDS = ("uniform", "greedy")

_SAME_SAMPLES = ("task", "split_seed", "reference_data", "valid_share", "validation_fold")
"""Columns that members must agree in: a member trained on what another one is tested on would make the average look good."""


@dataclass(frozen=True)
class Group(Derivation):
    """The members of a soup, those with the lowest validation error first.

    Args:
        kind: `uniform` or `greedy`.
        varied: Columns of the knobs that the sweep varies, the task aside, and of those that its seeds set.
    """

    kind: Literal["uniform", "greedy"] = "uniform"
    varied: Sequence[str] = ()

    VERSION: ClassVar[int] = 1

    @property
    def recipe(self) -> str:
        return f"soup-{self.kind}"

    @property
    def identity(self) -> dict[str, Any]:
        return super().identity | {"members": sorted(row["result_key"] for row in self.rows)}


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
) -> list[Made[Group]]:
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
    which, space = kept_weights(workspace, name), latest_space(workspace.results, name)
    chosen = _choose(workspace, name, task, arm, where)
    order = "last_valid_error" if which == "last" else "valid_error"
    recipe: Literal["uniform", "greedy"] = "greedy" if kind == "greedy" else "uniform"
    columns = [column for knob in (*space.varied, *space.vary) if (column := knob.replace(".", "_")) != "task"]
    groups = [Group(name, sorted(rows, key=lambda row: (row[order], row["trial"])), which, recipe, columns) for rows in chosen]

    def compute(space: SearchSpace, batch: Sequence[Group], configs: Mapping[str, TrialConfig]) -> list[dict[str, Any]]:
        from orca_core.soup import make_soup  # loads torch: only when there is something to average

        found = []
        for group in batch:
            members = [configs[row["trial"]] for row in group.rows]
            soup = make_soup(members, workspace.artifacts, group.kind, group.which, device=space.device)
            averaged = [group.rows[i]["trial"] for i in soup.averaged]
            found.append({"averaged": averaged, "shares_start": soup.shares_start} | {score: getattr(soup, score) for score in SCORES})
        return found

    numbers = (*SCORES, "averaged", "shares_start")
    batches = [[group] for group in groups]
    return add_derived(workspace, name, batches, compute, recompute=recompute, again=again, numbers=numbers)


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
