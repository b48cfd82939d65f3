"""The code that computes rows: which code this process has, and whether it is the code with which a sweep was started.

A row is only worth its name if the code that computed it is known. So the driver sends the digest of its own code with every trial, and a
worker that has other code runs nothing. Only the standard library is imported here, so that a node on which half of the packages are
missing can still say so.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Self

OWN_PACKAGES = ("orca_core", "sweeper")
"""The packages of this project that compute rows."""

PLUGIN_GROUPS = ("orca_core.tasks", "orca_core.proxies", "orca_core.bodies", "orca_core.distances")
"""The entry-point groups of plug-ins."""

COMPARED_VERSIONS = ("torch", "ray")
"""Distributions whose version must be the same everywhere. Those of other libraries stand in the rows."""


@dataclass(frozen=True)
class Code:
    """The code that a process has.

    Args:
        sources: Package -> digest of its source: this project's packages, and those of plug-ins.
        versions: `python` as major and minor number, and those of `COMPARED_VERSIONS` without their local part, as the build of torch for
            a GPU and that for a CPU are one release.
        releases: Package -> its version by its metadata. Only shown: equal source is equal code.
    """

    sources: Mapping[str, str]
    versions: Mapping[str, str]
    releases: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of sources and versions, cut to 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps([self.sources, self.versions], sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_data(cls, data: Mapping[str, Mapping[str, str]]) -> Self:
        """The code that `dataclasses.asdict` wrote."""
        return cls(dict(data["sources"]), dict(data["versions"]), dict(data["releases"]))

    def describe(self, package: str) -> str:
        """`0.1.0, source 5f3a...`."""
        return f"{self.releases.get(package, '?')}, source {self.sources[package]}"


@lru_cache(maxsize=1)
def code_here() -> Code:
    """The code of this process. It is read once: a process keeps the code that it was started with."""
    releases = dict.fromkeys(OWN_PACKAGES, package_version() or "?")
    releases |= {package: distribution.version for package, distribution in plugin_packages().items()}
    sources = {package: source_digest(package) for package in releases}
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    versions |= {name: (version_of(name) or "absent").partition("+")[0] for name in COMPARED_VERSIONS}
    return Code(sources, versions, releases)


def differences(wanted: Code, here: Code) -> list[str]:
    """What of a sweep's code is other here, a phrase for each package; empty if nothing is. More plug-ins than wanted do no harm."""
    found = []
    for name, value in wanted.versions.items():
        if (other := here.versions.get(name, "absent")) != value:
            found.append(f"{name} is {other} instead of {value}")
    for package, digest in wanted.sources.items():
        if package not in here.sources:
            found.append(f"the plug-in package {package} ({wanted.describe(package)}) is not installed")
        elif here.sources[package] != digest:
            found.append(f"{package} in {source_folder(package)} is {here.describe(package)} instead of {wanted.describe(package)}")
    return found


def differing_files(wanted: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The files of packages that differ here, as paths that begin with the name of the package.

    Args:
        wanted: Package -> what `file_digests` found for it where the sweep was started.
    """
    found = []
    for package, files in wanted.items():
        here = file_digests(package)
        found += sorted(f"{package}/{path}" for path in files.keys() | here.keys() if files.get(path) != here.get(path))
    return found


# -------------------------------------------------------------------------------------------------------------- packages


def plugin_packages() -> dict[str, Distribution]:
    """Top-level package -> distribution, of everything that registers plug-ins."""
    found = {}
    for entry in (entry for group in PLUGIN_GROUPS for entry in entry_points(group=group)):
        if entry.dist is not None:
            found[entry.module.partition(".")[0]] = entry.dist
    return dict(sorted(found.items()))


def source_folder(package: str) -> Path | None:
    """The folder of a top-level package, or the file of a module; None if there is none, or it has several. Nothing is imported."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    folders = list(spec.submodule_search_locations)
    return Path(folders[0]) if len(folders) == 1 else None


def file_digests(package: str) -> dict[str, str]:
    """Relative path -> SHA-256, of the `.py` files of a package, in the order of their paths; empty if it is absent."""
    at = source_folder(package)
    if at is None:
        return {}
    root, files = (at.parent, [at]) if at.is_file() else (at, list(at.rglob("*.py")))
    paths = sorted(file.relative_to(root).as_posix() for file in files)
    return {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths}


def source_digest(package: str) -> str:
    """SHA-256 over the paths and contents of a package's `.py` files, cut to 12 hexadecimal digits; `absent` if there are none."""
    files = file_digests(package)
    return hashlib.sha256(json.dumps(list(files.items())).encode()).hexdigest()[:12] if files else "absent"


def package_version() -> str | None:
    """The version of this package: as installed, or as its source tree says; None if neither is known."""
    if installed := version_of("orca-sweeper"):
        return installed
    try:
        with (Path(__file__).resolve().parents[2] / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return None


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, from its metadata."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
