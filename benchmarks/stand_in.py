"""A sweep whose trials sleep instead of computing: what the driver does on a cluster, without the cost of training.

    python benchmarks/stand_in.py search_spaces/quickstart.yaml --results /tmp/r --epoch-s 0.5 --save-s 2
    python benchmarks/stand_in.py SPACE --results /tmp/r --address 127.0.0.2:6379 --log /tmp/log

Planner, session, recorder, Ray Tune and its processes are the real ones; only the work of a trial is replaced: it reports rows that depend
on its config alone, and keeps its state in small files in the folder of the stages. Each epoch that is computed is a line of the log:
node, stage, epoch, and when it began and ended. Files in the folder `harm` make trials misbehave:

    no-data[-NODE]     trials fail since their data is missing, on this node or on all
    no-start[-NODE]    processes fail while they are set up
    no-process[-NODE]  processes end while they are set up
    memory-SEED        trials of this seed hold as many GiB as it says, for 30 s
    memory-tries       how often they do; always if the file is absent
    long-SEED          trials of this seed first sleep as many seconds as it says
    hold               trials that could begin wait as long as it is there

Each refusal of the first three kinds is a line in the file `refused`: node and kind.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import ray

from orca_core.errors import DataError
from orca_core.rows import EpochRow, Row, StageRow
from orca_core.stages import Stage, stages_of
from sweeper.results.workspace import Workspace
from sweeper.running.execution import cause_of
from sweeper.running.job import TrialJob
from sweeper.space.reading import load_space
from sweeper.sweep import run_space
from sweeper.tune import launch
from sweeper.tune.trainable import TrialRunner


class StandIn(TrialRunner):
    """Runs stand-ins. Settings reach it by its class: `launch` makes it from a text."""

    settings: ClassVar[dict[str, Any]] = {}

    def setup(self, config: dict[str, Any]) -> None:
        _refuse_to_start(self.settings)
        super().setup(config)

    def _execute(self, message: str) -> Generator[Row, None, dict[str, Any]]:
        self._has_reported = True  # what computes it would load torch
        return _run(TrialJob.from_json(message), self.settings)


def _run(job: TrialJob, settings: dict[str, Any]) -> Generator[Row, None, dict[str, Any]]:
    node = ray.get_runtime_context().get_node_id()
    try:
        _harm(job, settings, node)
        for stage in stages_of(job.config, job.device):
            yield from _stage(job, stage, settings, node)
    except Exception as error:  # as `execute` does
        return {"status": "FAIL", "cause": cause_of(error), "error": f"{type(error).__name__}: {error}", "traceback": ""}
    error = _error(job, stage.end)
    scores = {"valid_error": error, "test_error": error, "valid_loss": error, "train_loss": error, "best_epoch": stage.end}
    return {"status": "COMPLETE"} | scores


def _stage(job: TrialJob, stage: Stage, settings: dict[str, Any], node: str) -> Generator[Row, None, None]:
    """Run one stage, from the state that is stored."""
    file = Path(job.store) / "stand-in" / f"{stage.folder.replace('/', '-')}.json"
    stored = json.loads(file.read_text())["epoch"] if file.exists() else stage.start
    last = min(stored, stage.end)
    started, saved_at = time.monotonic(), time.monotonic()
    for epoch in range(stage.start + 1, last + 1):
        yield _row(job, stage, epoch, is_reused=True)
    for epoch in range(last + 1, stage.end + 1):
        began = time.time()
        time.sleep(settings["epoch_s"])
        if settings["log"]:
            with open(settings["log"], "a") as log:
                log.write(json.dumps([node, stage.folder, epoch, began, time.time()]) + "\n")
        last = epoch
        if time.monotonic() - saved_at >= settings["save_s"] or epoch in job.keep_at.get(stage.folder, ()):
            _save(file, epoch)
            saved_at = time.monotonic()
        try:
            yield _row(job, stage, epoch, is_reused=False)
        except GeneratorExit:
            _save(file, epoch)
            raise
    _save(file, stage.end)
    whole = {"key": stage.key, "epochs": stage.end - stage.start, "reused_epochs": 0, "saved_s": 0.0}
    yield StageRow(stage=stage.kind, phase=stage.phase, fold=stage.fold, seconds=time.monotonic() - started, **whole)


def _save(file: Path, epoch: int) -> None:
    if not file.exists() or json.loads(file.read_text())["epoch"] < epoch:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({"epoch": epoch}))
        draft.rename(file)


def _row(job: TrialJob, stage: Stage, epoch: int, *, is_reused: bool) -> EpochRow:
    error = _error(job, epoch) if stage.kind == "finetune" else None
    return EpochRow(stage=stage.kind, phase=stage.phase, fold=stage.fold, epoch=epoch, valid_error=error, is_reused=is_reused)


def _error(job: TrialJob, epoch: int) -> float:
    return (job.config.finetune.lr * 1e3 + job.config.seed) / (epoch + 1)


def _refuse_to_start(settings: dict[str, Any]) -> None:
    node = ray.get_runtime_context().get_node_id()
    if _refuses(settings, "no-start", node):
        raise ImportError("a planted error while the process starts")
    if _refuses(settings, "no-process", node):
        os._exit(1)


def _harm(job: TrialJob, settings: dict[str, Any], node: str) -> None:
    if _refuses(settings, "no-data", node):
        raise DataError("x.npz: is not there")
    folder = Path(settings["harm"] or "/nonexistent")
    if (file := folder / "hang").exists():
        file.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
    while _is_planted(settings, "hold", ""):
        time.sleep(0.1)
    if _is_planted(settings, "long", str(job.config.seed)):
        time.sleep(float((folder / f"long-{job.config.seed}").read_text()))
    if _is_planted(settings, "memory", str(job.config.seed)) and _take(folder / "memory-tries"):
        gib = int((folder / f"memory-{job.config.seed}").read_text())
        held = [bytearray(os.urandom(2**20)) * 1024 for _ in range(gib)]
        time.sleep(30)
        del held


def _refuses(settings: dict[str, Any], name: str, node: str) -> bool:
    if not _is_planted(settings, name, node):
        return False
    with open(Path(settings["harm"]) / "refused", "a") as refused:
        refused.write(f"{node} {name}\n")
    return True


def _is_planted(settings: dict[str, Any], name: str, of: str) -> bool:
    folder = Path(settings["harm"] or "/nonexistent")
    return (folder / name).exists() or (folder / f"{name}-{of}").exists()


def _take(tries: Path) -> bool:
    """Take one of the tries that a file counts. Without the file there is no end to them."""
    if not tries.exists():
        return True
    left = int(tries.read_text())
    tries.write_text(str(left - 1))
    return left > 0


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space")
    parser.add_argument("--results", required=True)
    parser.add_argument("--address")
    parser.add_argument("--max-concurrent", type=int)
    parser.add_argument("--wait", type=float, default=15.0, help="as for `sweeper run`")
    parser.add_argument("--notify", help="as for `sweeper run`")
    parser.add_argument("--epoch-s", type=float, default=0.2, help="seconds that an epoch takes")
    parser.add_argument("--save-s", type=float, default=1.0, help="seconds between stored states")
    parser.add_argument("--log", default="", help="file for a line per epoch")
    parser.add_argument("--harm", default="", help="folder of files that make trials misbehave")
    arguments = parser.parse_args()
    settings = {"epoch_s": arguments.epoch_s, "save_s": arguments.save_s, "log": arguments.log, "harm": arguments.harm}
    launch.TrialRunner = type("StandIn", (StandIn,), {"settings": settings})  # type: ignore[misc, attr-defined]
    from orca_core.errors import OrcaError

    try:
        options = {"address": arguments.address, "max_concurrent": arguments.max_concurrent}
        options |= {"wait_minutes": arguments.wait, "notify": arguments.notify}
        sys.exit(run_space(load_space(arguments.space), Workspace(arguments.results), **options))
    except OrcaError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
