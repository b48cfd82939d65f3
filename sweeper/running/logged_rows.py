"""Rows of a running sweep as event files for TensorBoard, too: `tensorboard: true`.

    <results>/tensorboard/sweep=<name>/<task>/<settings and id of a trial>/events.out.tfevents.<attempt>

They are written by the driver, with each batch of rows, once the rows themselves are written. They are a copy for watching: nothing reads
them again, and what goes wrong with them ends no sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orca_core.errors import ConfigError, Fault
from sweeper.results.store import ResultStore
from sweeper.results.views import shown_status
from sweeper.running.event_files import append_events, end_of, epoch_scalars, event_file, run_folder, settings_of
from sweeper.space.space import SearchSpace


def check_logging(space: SearchSpace, results: ResultStore) -> None:
    """Check that a sweep with `tensorboard: true` can be logged.

    Raises:
        ConfigError: If the package is missing, or the results are in an object store, whose files cannot be appended to.
    """
    faults = []
    if space.tensorboard and find_spec("tensorboard") is None:
        remedy = "Install it: pip install 'orca-sweeper[exports]'"
        faults.append(Fault("tensorboard", "needs the package tensorboard", Fault.ABSENT, remedy))
    if space.tensorboard and results.local_folder is None:
        remedy = f"Export them when you want to look: sweeper export {space.name} --to tensorboard -o runs"
        faults.append(Fault("tensorboard", "must be false where results are in an object store", True, remedy))
    if faults:
        raise ConfigError(faults, space.file)


class LoggedRows:
    """Result tables whose rows are logged as event files, too. What the recorder of a sweep writes to.

    Args:
        results: The result tables, on a local disk.
        space: The search space: its name, and the knobs that name the runs.
        tell: Called with a sentence if logging has to end.
        clock: The time, in seconds since 1970.
    """

    def __init__(
        self, results: ResultStore, space: SearchSpace, tell: Callable[[str], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._results, self._tell, self._clock, self._name = results, tell, clock, space.name
        self._root = Path(results.local_folder or "") / "tensorboard" / f"sweep={space.name}"
        varied = [knob.replace(".", "_") for knob in (*space.varied, *space.vary)]
        self._shown: Collection[str] = [column for column in dict.fromkeys(varied) if column != "task"]
        self._files: dict[str, Path] = {}
        self._has_failed = False

    def append(self, table: str, sweep: str, rows: list[dict[str, Any]]) -> None:
        """Write rows to the tables, then log them.

        Raises:
            StoreError: If the tables cannot be written. Nothing was logged then.
        """
        self._results.append(table, sweep, rows)
        if self._has_failed:
            return
        try:
            for row in rows if table == "trials" else ():
                self._log_trial(row)
            if table == "metrics":
                self._log_epochs(rows)
        except Exception as error:  # whatever it is: rows are what counts
            self._has_failed = True
            reason = " ".join(str(error).split()) or type(error).__name__
            command = f"sweeper export {self._name} --to tensorboard -o runs"
            self._tell(f"event files for TensorBoard are no longer written ({reason}). The sweep goes on; `{command}` has all of it.")

    def attempts(self, sweep: str) -> Mapping[str, int]:
        """Trial -> its last attempt."""
        return self._results.attempts(sweep)

    def compact(self, sweep: str) -> None:
        """Merge small files of the tables."""
        self._results.compact(sweep)

    def _log_trial(self, row: Mapping[str, Any]) -> None:
        trial, status = row["trial"], shown_status(row)
        if status == "RUNNING":
            folder = self._root / run_folder(row, self._shown)
            for earlier in folder.glob("events.out.tfevents.*"):  # this attempt reports all epochs again
                earlier.unlink()
            self._files[trial] = event_file(folder, row["attempt"])
            append_events(self._files[trial], [settings_of(row, self._shown)])
        elif status in ("COMPLETE", "PRUNED", "FAIL") and (file := self._files.pop(trial, None)) is not None:
            append_events(file, end_of(row))

    def _log_epochs(self, rows: list[dict[str, Any]]) -> None:
        now, by_file = self._clock(), dict[Path, list[Any]]()
        for row in rows:
            if (file := self._files.get(row["trial"])) is not None:
                by_file.setdefault(file, []).extend(epoch_scalars(row, now))
        for file, events in by_file.items():
            append_events(file, events)
