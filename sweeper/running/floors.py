"""Computes the floors that results lack: in this process, or in one of its own beside the trials of a sweep.

Beside trials it is a process of low priority, which takes of a core little more than what the trials leave: it delays none of them by more
than a few seconds, holds no slot, and can be ended at any moment. It writes its rows itself, whole files for each task and split, and ends
with its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from orca_core.config.knobs import TrialConfig
from orca_core.errors import DataError, OrcaError
from orca_core.floors.rows import FAIL, MODELS, VERSIONS, FloorCase, FloorRow, sklearn_version
from orca_core.tasks import find_task
from orca_core.workbench import Workbench
from sweeper.results.records import FLOOR_KEY
from sweeper.results.store import ResultStore
from sweeper.workbench import open_workbench

LOW_PRIORITY = 10
"""By how much the process beside trials is nicer than they are: it gets a tenth of a core that a trial keeps busy, all of an idle one."""

Missing = tuple[FloorCase, Sequence[str]]
"""A task and split, and the models of which results have no row."""


def cases_of(configs: Iterable[TrialConfig]) -> list[FloorCase]:
    """The tasks and splits of some trials, each once."""
    found: dict[FloorCase, None] = {}
    for config in configs:
        reference = config.reference_data and bool(config.task_spec.reference)
        found[FloorCase(config.task, reference, config.split_seed, config.train_samples, config.held_out)] = None
    return list(found)


def find_missing(results: ResultStore, cases: Iterable[FloorCase], *, retry_failed: bool = False) -> list[Missing]:
    """What results lack of some floors.

    Args:
        results: The result tables.
        cases: The tasks and splits.
        retry_failed: Whether floors that failed count as missing.

    Raises:
        ConfigError, DataError: If there is no such task, or a file of the user's own that names one is not there.
        StoreError: If a file of the results is damaged.
    """
    known = {tuple(row[name] for name in FLOOR_KEY) for row in results.floors(FLOOR_KEY) if not (retry_failed and row["status"] == FAIL)}
    missing: list[Missing] = []
    for case in cases:
        spec = find_task(case.task)
        try:
            digest = spec.digest()
        except DataError:
            digest = None  # its row will say which files are missing
        cells = case.cells() | {"task_digest": digest, "sklearn_version": sklearn_version()}
        models = [
            model
            for model in MODELS[spec.kind]
            if tuple((cells | {"model": model, "version": VERSIONS[model]})[name] for name in FLOOR_KEY) not in known
        ]
        if models:
            missing.append((case, models))
    return missing


def compute_missing(results: ResultStore, missing: Iterable[Missing], tell: Callable[[FloorRow], None] = lambda row: None) -> None:
    """Compute floors and write them to the results, a file for each task and split.

    Args:
        results: The result tables.
        missing: What is computed.
        tell: Called with each row when it is there.

    Raises:
        StoreError: If they cannot be written.
    """
    from orca_core.floors.compute import compute_floors  # loads torch and scikit-learn

    written = 0
    for case, models in missing:
        rows = []
        for row in compute_floors(case, models):
            tell(row)
            rows.append(row)
        results.append_floors(rows)
        written += 1
    if written > 1:
        results.compact_floors()


class FloorsBeside:
    """Floors that are computed in a process of their own while trials run. As a context, it ends that process if it has not ended.

    Args:
        results: The result tables.
        quiet: Say nothing.
    """

    def __init__(self, results: ResultStore, quiet: bool = False) -> None:
        self._results, self._quiet = results, quiet
        self._process: subprocess.Popen[str] | None = None
        self._output: IO[str] | None = None
        self._num_cases = 0

    def __enter__(self) -> FloorsBeside:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def start(self, cases: Iterable[FloorCase]) -> None:
        """Start to compute what the results lack, if they lack anything."""
        try:
            missing = find_missing(self._results, cases)
        except OrcaError as error:  # a damaged file of floors must not keep trials from running
            self._tell(f"warning: floors cannot be computed: {error}")
            return
        if not missing:
            return
        self._num_cases = len(missing)
        self._tell(f"floors: computing what models without a transformer reach on {self._describe()}, beside the trials")
        bench = Workbench.current()
        message: dict[str, Any] = {
            "results": self._results.uri,
            "folders": [str(bench.data_root), str(bench.cache_root), bench.max_data_gib],
            "missing": [[case.cells(), list(models)] for case, models in missing],
        }
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by `_stop`)
        paths = os.pathsep.join(str(Path(path or ".").resolve()) for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.running.floors"],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C reaches this process alone, which decides
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died; `finish` says of what
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()  # and stays open: its end is the sign to end

    def finish(self) -> None:
        """Wait until they are computed; Ctrl-C ends that, and leaves what is missing to `sweeper floors`."""
        if self._process is None:
            return
        try:
            if not self._ends_within(1.0):
                self._tell(f"floors: waiting for those of {self._describe()}; Ctrl-C leaves them to `sweeper floors`")
                self._process.wait()
        except KeyboardInterrupt:
            self._stop()
            return
        if self._process.returncode != 0 and self._output is not None:
            self._output.seek(0)
            lines = self._output.read().strip().splitlines() or [f"the process ended with code {self._process.returncode}"]
            self._tell(f"warning: floors could not be computed ({lines[-1]}); `sweeper floors` computes them")

    def _ends_within(self, seconds: float) -> bool:
        give_up_at = time.monotonic() + seconds
        while self._process is not None and self._process.poll() is None and time.monotonic() < give_up_at:
            time.sleep(0.05)
        return self._process is None or self._process.poll() is not None

    def _describe(self) -> str:
        return f"{self._num_cases} task{'' if self._num_cases == 1 else 's and splits'}"

    def _tell(self, line: str) -> None:
        if not self._quiet:
            sys.stderr.write(f"{line}\n")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                with suppress(BrokenPipeError):
                    self._process.stdin.close()
        if self._output is not None:
            self._output.close()
        self._process = self._output = None


def main() -> None:
    """The process beside the trials: computes what the first line of its input asks for."""
    message = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):
        os.nice(LOW_PRIORITY)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process goes before any trial
    data_root, cache_root, max_data_gib = message["folders"]
    with open_workbench(data_root, cache_root, max_data_gib).use():
        compute_missing(ResultStore(message["results"]), [(FloorCase.of_row(cells), models) for cells, models in message["missing"]])


def _end_with_parent() -> None:
    """End this process when its input ends, as it does when the process that started it is gone."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
