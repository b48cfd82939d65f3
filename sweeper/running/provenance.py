"""The provenance of a row: the versions of this code and of Ray. The worker reports the hardware and libraries it computes with."""

from __future__ import annotations

import os
import subprocess
import tomllib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMIT_VARIABLE = "SWEEPER_CODE_COMMIT"
"""Variable with the commit, set where the code has come without its history; deploy/Dockerfile sets it."""


@lru_cache(maxsize=1)
def provenance() -> dict[str, str | None]:
    """The columns about the code that ran a sweep. Versions are read from package metadata, without importing anything heavy."""
    return {
        "code_version": package_version(),
        "code_commit": code_commit(),
        "ray_version": _version("ray"),
    }


def package_version() -> str | None:
    """The version of this package: as installed, or as its source tree says; None if neither is known."""
    if installed := _version("orca-sweeper"):
        return installed
    try:
        with (Path(__file__).resolve().parents[2] / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return None


def code_commit() -> str | None:
    """The commit of the source tree, `+dirty` if it has uncommitted changes; outside a checkout what COMMIT_VARIABLE says, else None."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return f"{commit}+dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(COMMIT_VARIABLE) or None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
