"""Trials that share an invented GPU by `gpu: auto`, in Ray's own processes; what they take of its memory is invented, too."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from typing import Any

import pytest

from orca_core.errors import ConfigError
from orca_core.rows import EpochRow, Row, StageRow
from orca_core.stages import stages_of
from sweeper.results import Results
from sweeper.running.execution import cause_of
from sweeper.running.job import TrialJob
from sweeper.running.packing import CONTEXT_BYTES
from sweeper.space.reading import parse_space
from sweeper.sweep import run_space
from sweeper.tune import launch
from sweeper.tune.trainable import TrialRunner

pytestmark = pytest.mark.ray

GIB = 2**30
TOTAL = 40 * GIB
EPOCH_S = 0.2


class Trainer(TrialRunner):
    """Reports the rows of a trial without computing anything, and takes memory by its config."""

    def _execute(self, message: str) -> Generator[Row, None, dict[str, Any]]:
        self._has_reported = True  # what computes it would load torch
        job = TrialJob.from_json(message)
        self._peak = 3 * GIB if job.config.seed == 0 else 15 * GIB
        return self._train(job, self._gpu_share() or 0.0)

    def _train(self, job: TrialJob, share: float) -> Generator[Row, None, dict[str, Any]]:
        scores = {"valid_error": 0.5, "test_error": 0.5, "valid_loss": 1.0, "train_loss": 1.0, "best_epoch": 1}
        for stage in stages_of(job.config, job.device):
            time.sleep(EPOCH_S)
            if share < 1 and self._peak > share * TOTAL - CONTEXT_BYTES:
                error = MemoryError("no room on the GPU")
                return {"status": "FAIL", "cause": cause_of(error), "error": str(error), "traceback": ""}
            yield EpochRow(stage=stage.kind, phase=stage.phase, epoch=stage.end, valid_error=0.5)
            whole = {"key": stage.key, "epochs": 1, "reused_epochs": 0, "seconds": EPOCH_S, "saved_s": 0.0}
            yield StageRow(stage=stage.kind, phase=stage.phase, **whole)
        return {"status": "COMPLETE"} | scores

    def _measure(self, row: Row) -> None:
        self._memory = {"gpu_bytes": self._peak, "gpu_total_bytes": TOTAL}


def test_trials_are_measured_then_packed_and_started_again_where_memory_runs_out(ray_session, tmp_path, monkeypatch):
    """Processes hold the share with which they were started: those that hold another one must make room."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(launch, "TrialRunner", Trainer)
    space = {
        "name": "packed",
        "floors": False,
        "base": {"task": "openml/187", "body.weights": "random", "align.epochs": 0, "finetune": {"epochs": 1, "warmup_epochs": 0}},
        "seeds": 2,
        "resources": {"cpu": 0.5, "gpu": "auto", "gpu_trials": 4},
    }
    assert run_space(parse_space(space), str(tmp_path / "results"), quiet=True) == 0
    rows = Results(tmp_path / "results").sql("select seed, status, attempt, gpu_share from trial_status order by seed").rows()
    ended = [(row["seed"], row["status"], row["attempt"], row["gpu_share"]) for row in rows]
    assert ended == [(0, "COMPLETE", 1, 1.0), (1, "COMPLETE", 2, 0.5)], "15 GiB of 40 are less than half, more than 1/4"


def test_a_sweep_that_fits_on_no_machine_is_refused_before_anything_is_computed(ray_session, tmp_path, capsys):
    """Not even floors, which are computed beside the trials."""
    base = {"task": "openml/187", "body.weights": "random", "align.epochs": 0}
    space = {"name": "refused", "base": base, "seeds": 1, "resources": {"gpu": "auto", "custom": {"no-such-gpu": 1}}}
    with pytest.raises(ConfigError, match="must fit on one node"):
        run_space(parse_space(space), str(tmp_path / "results"))
    assert "floors" not in capsys.readouterr().err
