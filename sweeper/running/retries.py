"""Whether a trial that failed, or whose process was lost, is started again in the same run: on another machine, with a larger share of a
GPU, or just once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweeper.planning.trials import PlannedTrial
from sweeper.running.losses import Loss
from sweeper.running.nodes import NODE_CAUSES, Nodes
from sweeper.running.packing import Packing, describe_share
from sweeper.running.processes import Processes


class Retries:
    """Decides whether a trial is started again, and records whose fault it was that it did not come to its end.

    Args:
        nodes: The machines: another one may do better.
        processes: How often the process of a trial was lost.
        packing: The share of a GPU of each trial: a larger one may do.
    """

    def __init__(self, nodes: Nodes, processes: Processes, packing: Packing) -> None:
        self._nodes, self._processes, self._packing = nodes, processes, packing

    def after_end(self, trial: PlannedTrial, result: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result of the attempt, if the trial is started again after it; None if the trial has ended.

        A failure for which the machine may be to blame is the loss of an attempt, as long as another machine may do better. So is a lack of
        memory on a GPU that the trial shared by `gpu: auto`.
        """
        cause = result.get("cause")
        if cause in NODE_CAUSES:
            if self._nodes.blame(trial.id, cause, result["error"]):
                host = self._nodes.host(self._nodes.node_of(trial.id))
                error = f"{host}: {cause}: {result['error']}; the trial is started again on another machine"
                return dict(result) | {"cause": "infrastructure", "error": error}
        elif cause == "out-of-memory" and self._may_have_more(trial):
            return dict(result) | self._with_more(trial, result["error"])
        elif cause != "stopped":
            self._nodes.complete(trial.id, is_well=result["status"] != "FAIL")
        return None

    def after_loss(self, trial: PlannedTrial, loss: Loss, *, is_first: bool) -> dict[str, Any] | None:
        """The same after the process or machine of a trial was lost; None if that happened too often in a row.

        Args:
            trial: The trial.
            loss: What happened.
            is_first: Whether the loss has not been recorded for another trial of its group: a machine is blamed once.
        """
        self._nodes.place(trial.id, loss.node)
        if loss.cause == "process-start" and self._nodes.blame(trial.id, loss.cause, loss.error, counts=is_first):
            return {"cause": "infrastructure", "error": f"{loss.error}; the trial is started again on another machine"}
        if loss.cause == "out-of-memory" and self._may_have_more(trial):
            return self._with_more(trial, loss.error)
        is_announced = loss.is_announced or self._nodes.was_draining(loss.node)
        if self._processes.lose(trial.id, replace(loss, is_announced=is_announced)):
            return {"cause": loss.cause, "error": f"{loss.error}; the trial is started again"}
        return None

    def _may_have_more(self, trial: PlannedTrial) -> bool:
        """Whether a trial that ran out of memory is to have a larger share of a GPU from now on."""
        held = self._processes.gpu(trial.id)
        return self._packing.ran_out(trial, self._packing.share(trial) if held is None else held)

    def _with_more(self, trial: PlannedTrial, error: str) -> dict[str, Any]:
        error = f"{error}; the trial is started again with {describe_share(self._packing.share(trial))}"
        return {"cause": "out-of-memory", "error": error}
