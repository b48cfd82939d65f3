"""Broken rules are collected, so that everything wrong with an input is reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from orca_core.errors import ConfigError, DataError, Fault


@dataclass(frozen=True)
class Faults:
    """Faults found so far, each once. Functions that check something take one, and add to it.

    Args:
        section: Dotted path that is put before the paths of what is added.
        is_whole_path: Whether `section` is the path of whatever is added: one entry of a list has one path, however deep its fault.
    """

    section: str = ""
    is_whole_path: bool = False
    _found: dict[str, Fault] = field(default_factory=dict)

    def at(self, section: str) -> Faults:
        """The same faults, for a checker whose paths lie below a section."""
        return replace(self, section=".".join(part for part in (self.section, section) if part))

    def exactly_at(self, path: str) -> Faults:
        """The same faults, for a checker whose faults are all reported under one path."""
        return replace(self.at(path), is_whole_path=True)

    def add(self, path: str, rule: str, value: Any = Fault.ABSENT, remedy: str = "") -> None:
        """Add a fault; the arguments are those of `Fault`."""
        self.extend([Fault(path, rule, value, remedy)])

    def extend(self, faults: Iterable[Fault]) -> None:
        """Add faults whose paths lie below the section."""
        for fault in faults:
            placed = replace(fault, path=self.section) if self.is_whole_path else fault.at(self.section)
            self._found.setdefault(placed.text(), placed)

    @contextmanager
    def collecting(self, knob: str = "") -> Iterator[None]:
        """Within: a `ConfigError` is added, and so is a `DataError`, a fault of `knob` for each of its lines."""
        try:
            yield
        except ConfigError as error:
            self.extend(error.faults)
        except DataError as error:
            self.extend(Fault(knob or error.knob, line.rstrip("."), Fault.ABSENT) for line in str(error).splitlines())

    def raise_if_any(self, file: str = "") -> None:
        """Raise what was found.

        Raises:
            ConfigError: With all of it, if there is any.
        """
        if self._found:
            raise ConfigError(self._found.values(), file)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)
