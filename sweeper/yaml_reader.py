"""YAML as people mean it: YAML 1.2 in spirit, read safely, with duplicate keys refused.

PyYAML follows YAML 1.1, which reads `1e-5` as a text, `no` as false, `12:30` as 750 and keeps the last of two equal keys.
Here only `true` and `false` are booleans, `1e-5` is a number, and the rest are texts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from orca_core.errors import ConfigError, Fault


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own interface

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.faults: list[Fault] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                self.faults.append(
                    Fault(
                        str(key.value),
                        "must be given once",
                        _At(f"a second one on line {line}"),
                        f"The first is on line {first[key.value]}.",
                    )
                )
            first.setdefault(key.value, line)
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain text", key.start_mark)
        mapping = super().construct_mapping(node, deep)
        return {key if isinstance(key, str) else _spelled(key): value for key, value in mapping.items()}


class _At(str):
    def __repr__(self) -> str:
        return str(self)


def _spelled(key: object) -> str:
    return {True: "true", False: "false", None: "null"}.get(key, str(key)) if isinstance(key, bool | None) else str(key)


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
    return float(node.value.replace(".inf", "inf").replace(".nan", "nan").lower())


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_value(text: str) -> Any:
    """One value as YAML, for `--set knob=value`.

    >>> parse_value("1e-5"), parse_value("no"), parse_value("[0, 10]")
    (1e-05, 'no', [0, 10])
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError:
        return text
    finally:
        loader.dispose()


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises:
        ConfigError: If the file is missing, not text, not YAML, not a mapping, or has duplicate keys.
    """
    file = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            [Fault("", "must be an existing file", Fault.ABSENT, "See `sweeper spaces` for the ones there are.")], file
        ) from None
    except IsADirectoryError:
        raise ConfigError([Fault("", "must be a file, not a folder", Fault.ABSENT)], file) from None
    except UnicodeDecodeError:
        raise ConfigError([Fault("", "must be text in UTF-8", Fault.ABSENT)], file) from None
    except OSError as error:
        raise ConfigError([Fault("", f"must be readable ({error.strerror})", Fault.ABSENT)], file) from None
    loader = _Loader(text)
    try:
        data = loader.get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError([Fault("", f"must be valid YAML: {problem}{where}", Fault.ABSENT)], file) from None
    finally:
        loader.dispose()
    if loader.faults:
        raise ConfigError(loader.faults, file)
    if not isinstance(data, dict):
        raise ConfigError([Fault("", "must be a mapping with keys such as base and space", data)], file)
    return data
