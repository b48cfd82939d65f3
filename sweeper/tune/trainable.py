"""The Ray side of a trial: a Tune trainable that runs the ORCA core step by step."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ray import tune

from orca_core.config.knobs import TrialConfig
from sweeper.running.execution import execute

REPORT_EVERY_S = 1.0
"""Seconds for which rows are gathered into one report, where no scheduler waits for each epoch."""


class TrialRunner(tune.Trainable):
    """Runs one trial after the other in one process, so that bodies and data stay loaded.

    Tune hands it `{"trial": JSON}`, one opaque text: Tune interprets dicts in configs, and a one-key dict named `eval` even
    executes. A step runs until there is something the driver should know, and reports the rows since the last one.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        task = json.loads(config["trial"])
        if Path(task["folder"]).is_dir():
            os.chdir(task["folder"])  # relative paths of tasks and bodies mean the folder the sweep was started in
        self._each_epoch = task["each_epoch"]
        # Configs travel as JSON: pydantic's strict mode reads lists as tuples there, and nothing else is let through.
        trial = TrialConfig.model_validate_json(json.dumps(task["config"]))
        self._rows = execute(
            trial, task["store"], device=task["device"], keep_at=task["keep_at"], keep=task["keep"], models_uri=task["models"]
        )

    def step(self) -> dict[str, Any]:
        """Rows as JSON; `outcome` with the last ones; `epoch` and the metrics where a scheduler judges each epoch."""
        started = time.monotonic()
        rows: list[dict[str, Any]] = []
        while True:
            try:
                row = next(self._rows)
            except StopIteration as stop:
                return {"rows": json.dumps(rows), "outcome": json.dumps(stop.value), "done": True}
            rows.append(row)
            if row["table"] == "stages" and row["stage"] != "finetune":
                break  # other trials may wait for this stage
            if self._each_epoch and row["table"] == "metrics" and row["stage"] == "finetune":
                metrics = {name: value for name, value in row.items() if isinstance(value, float)}
                return {"rows": json.dumps(rows), "epoch": row["epoch"]} | metrics
            if time.monotonic() - started >= REPORT_EVERY_S:
                break
        return {"rows": json.dumps(rows)}

    def cleanup(self) -> None:
        self._rows.close()
