"""Interpolations: models between the start and the end of one fine-tuning (WiSE-FT), as rows of the role `derived`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from orca_core.config.knobs import TrialConfig
from orca_core.errors import ConfigError, Fault
from sweeper.results.workspace import Workspace
from sweeper.running.derived import SCORES, Derivation, Made, Row, add_derived, check_choice, finished_rows, kept_weights
from sweeper.space.space import SearchSpace

KINDS = ("wise", "wise-body")
"""What lies on the line: all weights; or those of embedder and body, with the predictor of the end."""

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Point(Derivation):
    """A model between the start and the end of a trial.

    Args:
        kind: One of `KINDS`.
        alpha: 0 at the start, 1 at the end.
    """

    kind: str = "wise"
    alpha: float = 1.0

    VERSION: ClassVar[int] = 1

    @property
    def recipe(self) -> str:
        return self.kind

    @property
    def member(self) -> Row:
        """The trial's row."""
        return self.rows[0]

    @property
    def settings(self) -> dict[str, Any]:
        return {"alpha": self.alpha}


def make_interpolations(
    workspace: Workspace,
    name: str,
    *,
    kind: str = "wise",
    alphas: Sequence[float] = ALPHAS,
    task: str | None = None,
    arm: str | None = None,
    where: str | None = None,
    recompute: bool = False,
    again: bool = False,
) -> list[Made[Point]]:
    """Evaluate models between start and end of every finished trial that is chosen, and add their rows.

    Args:
        workspace, name, task, arm, recompute, again: As of `make_soups`.
        kind: One of `KINDS`.
        alphas: Shares of the end, in [0, 1].
        where: A condition in SQL on `trials`.

    Raises:
        ConfigError: With all faults: unknown names, alphas out of range, nothing to do, weights that are not there.
        QueryError: If `where` is no condition.
    """
    faults = [] if kind in KINDS else [Fault("--kind", f"must be one of {', '.join(KINDS)}", kind)]
    faults += [Fault("--alphas", "must be numbers from 0 to 1", alpha) for alpha in alphas if not 0 <= alpha <= 1]
    check_choice(workspace, name, task, arm, where, faults)
    which, rows = kept_weights(workspace, name), finished_rows(workspace, name, task, arm, where)
    with_parts = [row for row in rows if row["validation_folds"] is None]
    if not with_parts:
        remedy = "Of a trial with validation.folds the final training has no validation part." if rows else ""
        raise ConfigError([Fault("", f"{name} must have finished trials of this choice with a validation part", Fault.ABSENT, remedy)])
    shares = sorted(set(map(float, alphas)))

    def compute(space: SearchSpace, batch: Sequence[Point], configs: Mapping[str, TrialConfig]) -> list[dict[str, Any]]:
        from orca_core.soup import interpolate  # loads torch

        first, wanted = batch[0], [point.alpha for point in batch]
        config, keep = configs[first.member["trial"]], kind == "wise-body"
        found = interpolate(config, workspace.artifacts, wanted, first.which, keep_predictor=keep, device=space.device)
        return [{score: getattr(one, score) for score in SCORES} for one in found]

    of_trials = [[Point(name, (row,), which, kind, alpha) for alpha in shares] for row in with_parts]
    return add_derived(workspace, name, of_trials, compute, recompute=recompute, again=again)
