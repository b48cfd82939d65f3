"""Collects faults, so that everything wrong with an input is reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from orca_core.errors import ConfigError, DataError, Fault


@dataclass(frozen=True)
class Faults:
    """The faults found so far, each once. Functions that check an input take one and add to it.

    Args:
        section: Dotted path that is prefixed to the paths of added faults.
        replaces_path: Whether `section` replaces these paths instead. Faults inside an entry of a list are reported at the entry.
    """

    section: str = ""
    replaces_path: bool = False
    _found: dict[str, Fault] = field(default_factory=dict)

    def at(self, section: str) -> Faults:
        """The same collection, for a check whose paths are relative to a section."""
        return replace(self, section=".".join(part for part in (self.section, section) if part))

    def exactly_at(self, path: str) -> Faults:
        """The same collection, for a check whose faults are all reported under one path."""
        return replace(self.at(path), replaces_path=True)

    def add(self, path: str, rule: str, value: Any = Fault.ABSENT, remedy: str = "") -> None:
        """Add a fault; the arguments are those of `Fault`."""
        self.extend([Fault(path, rule, value, remedy)])

    def extend(self, faults: Iterable[Fault]) -> None:
        """Add faults whose paths are relative to the section."""
        for fault in faults:
            located = replace(fault, path=self.section) if self.replaces_path else fault.at(self.section)
            self._found.setdefault(located.text(), located)

    @contextmanager
    def collecting(self, knob: str = "") -> Iterator[None]:
        """Within: a `ConfigError` is caught and its faults added; a `DataError`, too, with a fault of `knob` for each of its lines."""
        try:
            yield
        except ConfigError as error:
            self.extend(error.faults)
        except DataError as error:
            self.extend(Fault(knob or error.knob, line.rstrip("."), Fault.ABSENT) for line in str(error).splitlines())

    def raise_if_any(self, file: str = "") -> None:
        """Raise all faults, if there are any.

        Raises:
            ConfigError: With all faults found.
        """
        if self._found:
            raise ConfigError(self._found.values(), file)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)
