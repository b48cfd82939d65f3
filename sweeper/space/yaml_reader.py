"""Reads YAML with the scalars of YAML 1.2, safely, and refuses duplicate keys.

PyYAML follows YAML 1.1, which reads `1e-5` as a string, `no` as false and `12:30` as 750, and keeps the last of two equal keys.
Here only `true` and `false` are booleans, `1e-5` is a number, and `no` and `12:30` are strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orca_core.errors import ConfigError, Fault


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own interface

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        for key, _ in node.value:
            key.tag = "tag:yaml.org,2002:str"  # keys are always strings, as written


def _check_keys(node: yaml.Node | None, path: str = "", inside: tuple[yaml.Node, ...] = ()) -> Iterator[Fault]:
    """Faults of duplicate keys and of nodes that contain themselves. Checked before merge keys are resolved, which repeats keys on purpose.

    Raises:
        ConstructorError: If a key is a list or a mapping.
    """
    if node in inside:
        yield Fault(path, "must not contain itself", Fault.ABSENT)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _check_keys(item, f"{path}.{number}".lstrip("."), (*inside, node))
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain string", key.start_mark)
            where, line = f"{path}.{key.value}".lstrip("."), key.start_mark.line + 1
            if key.value in first and key.tag != _MERGE:
                second = _At(f"a second one on line {line}")
                yield Fault(where, "must be given once", second, f"The first is on line {first[key.value]}.")
            first.setdefault(key.value, line)
            yield from _check_keys(value, where, (*inside, node))


_MERGE = "tag:yaml.org,2002:merge"


class _At(str):
    def __repr__(self) -> str:
        return str(self)


_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("merge", r"<<", "<"),
)
for _tag, _pattern, _first in _RESOLVERS:
    for _character in _first:
        _key = "" if _character == "\0" else _character
        _Loader.yaml_implicit_resolvers.setdefault(_key, []).append((f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$")))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value, 16) if "x" in node.value else int(node.value)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def _load(text: str) -> tuple[Any, list[Fault]]:
    """The data of one YAML document, and the faults of its keys.

    Raises:
        ValueError: If it is not YAML; the message says where.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        faults = list(_check_keys(node))
        return (None if node is None or faults else loader.construct_document(node)), faults
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        of_tag = "tag" in f"{getattr(error, 'context', None)} {problem}"  # which a `!` begins, unless it is in quotes
        raise ValueError(f"{problem}{where}{'; a value that begins with ! needs quotes' if of_tag else ''}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
        # Raised by PyYAML's constructors if a value does not fit its tag: `!!bool maybe`.
        raise ValueError(f"{type(error).__name__} {error}") from None


def parse_value(text: str) -> Any:
    """Parse one value as YAML, for `--set knob=value`; a string that is not valid YAML is returned as it is.

    >>> parse_value("1e-5"), parse_value("no"), parse_value("[0, 10]")
    (1e-05, 'no', [0, 10])
    """
    try:
        value, faults = _load(text)
    except ValueError:
        return text
    return text if faults else value


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains one mapping.

    Raises:
        ConfigError: If the file is missing, not text, not YAML, not a mapping, or has duplicate keys.
    """
    file = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            [Fault("", "must be an existing file", Fault.ABSENT, "`sweeper spaces` lists the available ones.")], file
        ) from None
    except IsADirectoryError:
        raise ConfigError([Fault("", "must be a file, not a folder", Fault.ABSENT)], file) from None
    except UnicodeDecodeError:
        raise ConfigError([Fault("", "must be text in UTF-8", Fault.ABSENT)], file) from None
    except OSError as error:
        raise ConfigError([Fault("", f"must be readable ({error.strerror})", Fault.ABSENT)], file) from None
    try:
        data, faults = _load(text)
    except ValueError as error:
        raise ConfigError([Fault("", f"must be valid YAML: {error}", Fault.ABSENT)], file) from None
    if faults:
        raise ConfigError(faults, file)
    if not isinstance(data, dict):
        raise ConfigError([Fault("", "must be a mapping with keys like base and space", data)], file)
    return data
