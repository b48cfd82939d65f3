"""What can go wrong, in one tree.

    OrcaError                 every error this project raises on purpose
    ├── ConfigError           a config that breaks rules; carries every fault found (also a ValueError)
    │   └── UnpinnedError     portable bits in a process that was not started for them
    ├── DataError             a data file that is missing, damaged or not of the documented form
    ├── StoreError            an artifact store that cannot be read or written
    │   ├── DiskFullError           no space left on the disk
    │   ├── StoreUnavailableError   out of reach for now: no connection, too many requests, an error of the server
    │   ├── StoreAccessError        credentials that are missing, wrong, expired, or not allowed to do this
    │   └── MissingBucketError      a bucket that does not exist
    └── NotFiniteError        a loss, distance or score that is NaN or infinite

The sweeper adds QueryError (a question that the tables cannot answer) and SweepCutError (a sweep that could not come to its end).

A `Fault` is one broken rule: where, which rule, the value found, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One broken rule.

    Args:
        path: Dotted path of the knob or key, `finetune.lr`; empty for the file as a whole.
        rule: What must hold, as a clause: `must be greater than 0`.
        value: What was found; shown as `repr`, None as `null`. `Fault.ABSENT` when there is nothing to show.
        remedy: What to do about it, as a sentence; may be empty.
    """

    path: str
    rule: str
    value: Any
    remedy: str = ""

    ABSENT = object()

    def text(self, file: str = "") -> str:
        """`<file>: <path>: <rule>, but got <value>. <remedy>` with what is empty left out."""
        where = "".join(f"{part}: " for part in (file, self.path) if part)
        found = "" if self.value is Fault.ABSENT else f", but got {_short(self.value)}"
        rule = self.rule.rstrip(".")
        stop = "" if rule.endswith("?") and not found else "."  # a line of a DataError, its remedy included, may be the rule
        return f"{where}{rule}{found}{stop}{' ' + self.remedy if self.remedy else ''}"

    def at(self, prefix: str) -> Fault:
        """The same fault, with `prefix` put before its path."""
        path = ".".join(part for part in (prefix, self.path) if part)
        return Fault(path, self.rule, self.value, self.remedy)


class OrcaError(Exception):
    """Every error this project raises on purpose."""

    exit_code = 2
    """What a command that ends with this error exits with: 2 is bad input."""


class ConfigError(OrcaError, ValueError):
    """A config that breaks rules; `faults` has all of them, `file` is where it was read from."""

    def __init__(self, faults: Iterable[Fault], file: str = "") -> None:
        self.faults: Sequence[Fault] = tuple(faults)
        self.file = file
        super().__init__("\n".join(fault.text(file) for fault in self.faults))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.faults, self.file)


class UnpinnedError(ConfigError):
    """Portable bits in a process that was not started with their environment, `orca_core.numerics.PORTABLE`."""


class DataError(OrcaError):
    """A data file that is missing, damaged or not of the documented form."""

    knob = "task"
    """The knob that names the data."""


class StoreError(OrcaError):
    """An artifact store that cannot be read or written."""


class DiskFullError(StoreError):
    """No space is left on the disk that is written to."""


class StoreUnavailableError(StoreError):
    """A store is out of reach for now: no connection, no answer in time, too many requests, an error of the server.

    Attributes:
        waited: Whether it was waited for already, so that nobody else need wait.
    """

    waited = False


class StoreAccessError(StoreError):
    """A store refuses: credentials are missing, wrong or expired, or do not allow what was tried."""


class MissingBucketError(StoreError):
    """The bucket of a store does not exist."""


class NotFiniteError(OrcaError):
    """A loss, distance or score that is NaN or infinite."""


def nearest(name: object, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest known name, and lists all of them, or the nearest if there are many.

    >>> nearest("mini-swim", ["mini-swin", "mini-roberta"])
    "Did you mean 'mini-swin'? Known: mini-roberta, mini-swin."
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if len(names) > MAX_LISTED:
        near = difflib.get_close_matches(str(name), names, n=6, cutoff=0.0)
        return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(near)}, and {len(names) - len(near)} more."
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}."


MAX_LISTED = 24
"""Maximum number of known names that an error lists."""


def _short(value: Any, limit: int = 120) -> str:
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
