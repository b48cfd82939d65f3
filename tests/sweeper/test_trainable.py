"""When a worker reports: at once what others wait for, all else in batches."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from orca_core.config.resolve import resolve_config
from orca_core.rows import EpochRow, Row
from sweeper.running.job import TrialJob
from sweeper.tune.trainable import TrialRunner


class Scripted(TrialRunner):
    """Has five epochs of alignment; the first is a reused one."""

    def __init__(self, job: TrialJob) -> None:
        self._report_every_s = 60.0
        self._begin(job.to_json())

    def _execute(self, message: str) -> Generator[Row, None, dict[str, Any]]:
        self._has_reported = True  # the first report would ask Ray where it is
        for epoch in range(1, 6):
            yield EpochRow(stage="align", epoch=epoch, is_reused=epoch == 1)
        return {"status": "COMPLETE"}


def test_a_state_from_which_others_go_on_is_reported_at_once():
    runner = Scripted(TrialJob(resolve_config({"task": "digits"}), "", keep_at={"align/key": [1, 2, 4], "finetune/key": [3]}))
    reports = [runner.step() for _ in range(3)]
    assert [[row["epoch"] for row in json.loads(report["rows"])] for report in reports] == [[1, 2], [3, 4], [5]]
    assert "outcome" in reports[-1]
