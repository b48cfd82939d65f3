"""A catalogue: everything of one kind (tasks, proxies, bodies, distances) that can be named in a config.

A name is looked up among the built-in specs, then among the forms of name that carry an argument (`npz:PATH`), then among the specs that
other packages register through entry points. An entry point that breaks the contract of its kind is left out with a warning, so that it
cannot take the others down, and is refused with the rule it breaks where it is named.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from orca_core.errors import ConfigError, Fault, nearest
from orca_core.plugins import entry_points_of


class Named(Protocol):
    """What every spec has."""

    @property
    def name(self) -> str:
        """As written in a config."""

    @property
    def summary(self) -> str:
        """One line for the list of its kind."""


Spec = TypeVar("Spec", bound=Named)


@dataclass(frozen=True)
class NameForm(Generic[Spec]):
    """Names that carry an argument.

    Args:
        written: How such names are written: `npz:PATH`.
        pattern: Regular expression that a whole name must match; its groups are the arguments of `make`.
        make: Makes the spec of a name.
        summary: One line for the list of the kind.
        facts: What else that list shows of each spec, by the name of the column.
    """

    written: str
    pattern: str
    make: Callable[..., Spec]
    summary: str
    facts: Mapping[str, str] = field(default_factory=dict)

    def match(self, name: str) -> tuple[str, ...] | None:
        """The arguments in a name; None if it is not of this form."""
        found = re.fullmatch(self.pattern, name, flags=re.DOTALL)
        return None if found is None else tuple(found.groups())


@dataclass
class _EntryPoints(Generic[Spec]):
    """What the entry points of a group hold: specs by name, and what is wrong with the others."""

    specs: dict[str, Spec] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


class Catalogue(Generic[Spec]):
    """All specs of one kind.

    Args:
        kind: What an entry is, for errors: `task`.
        knob: Dotted path of the knob that names an entry, for errors.
        group: Entry-point group of other packages' specs.
        spec_class: What an entry point must be.
        builtin: Specs that are always there.
        forms: Names that carry an argument. A name that is of several forms is of the last of them: `text:PATH+shuffled`.
        check: Raises TypeError with the rule that another package's spec breaks; it is also given the specs that are known already.
        suggest: A sentence about what a name that is not known may stand for; empty if it has no idea.
    """

    def __init__(
        self,
        *,
        kind: str,
        knob: str,
        group: str,
        spec_class: type[Spec],
        builtin: Iterable[Spec],
        forms: Iterable[NameForm[Spec]] = (),
        check: Callable[[Spec, Mapping[str, Spec]], None],
        suggest: Callable[[str], str] = lambda name: "",
    ) -> None:
        self.kind, self.knob, self.group = kind, knob, group
        self.builtin: Mapping[str, Spec] = {spec.name: spec for spec in builtin}
        self.forms = tuple(forms)
        self._spec_class, self._check, self._suggest = spec_class, check, suggest
        self._entry_points: _EntryPoints[Spec] | None = None

    def find(self, name: str) -> Spec:
        """The spec of that name.

        Raises:
            ConfigError: If there is none, with the nearest known name; or if the entry point of that name is broken, with the rule.
            DataError: If the name's argument is a file that is missing or not of the documented form.
        """
        others = self._read_entry_points()
        if name in self.builtin:
            return self.builtin[name]
        for form in reversed(self.forms):
            if (arguments := form.match(name)) is not None:
                return form.make(*arguments)
        if name in others.specs:
            return others.specs[name]
        if name in others.broken:
            raise ConfigError([Fault(self.knob, others.broken[name], Fault.ABSENT)])
        known = [*self.entries(), *(form.written for form in self.forms)]
        raise ConfigError([Fault(self.knob, f"must be the name of a {self.kind}", name, self._suggest(name) or nearest(name, known))])

    def entries(self) -> dict[str, Spec]:
        """Every spec that has a name of its own: the built-in ones, then those of other packages."""
        return {**self.builtin, **self._read_entry_points().specs}

    def check(self, spec: Spec) -> None:
        """That a spec of another package keeps the contract of its kind, whether it is registered yet or not.

        Raises:
            TypeError: With the rule that it breaks.
        """
        others = {name: other for name, other in self._read_entry_points().specs.items() if name != spec.name}
        self._check_entry(spec, {**self.builtin, **others})

    def forget_entry_points(self) -> None:
        """Look for entry points anew when next asked: packages have come or gone."""
        self._entry_points = None

    def _read_entry_points(self) -> _EntryPoints[Spec]:
        if self._entry_points is None:
            self._entry_points = found = _EntryPoints[Spec]()
            for entry in entry_points_of(self.group):
                names = {entry.name}
                try:
                    spec = entry.load()
                    names.add(getattr(spec, "name", entry.name))
                    self._check_entry(spec, {**self.builtin, **found.specs})
                    found.specs[spec.name] = spec
                except Exception as error:  # the code of another package: anything may go wrong in it
                    text = f"entry point {entry.name} of {self.group} ({entry.value}) is left out: {type(error).__name__}: {error}"
                    found.broken |= {name: text for name in names if isinstance(name, str)}
                    warnings.warn(text, stacklevel=4)
        return self._entry_points

    def _check_entry(self, spec: Any, known: Mapping[str, Spec]) -> None:
        if not isinstance(spec, self._spec_class):
            raise TypeError(f"must be a {self._spec_class.__name__} of {self._spec_class.__module__}, not {type(spec).__name__}")
        if not isinstance(spec.name, str) or not spec.name:
            raise TypeError(f"name must be a text, not {spec.name!r}")
        if spec.name in known:
            raise TypeError(f"name must not be that of another {self.kind}, but is {spec.name!r}")
        for form in self.forms:
            if form.match(spec.name) is not None:
                raise TypeError(f"name must not be of the form {form.written}, but is {spec.name!r}")
        self._check(spec, known)
