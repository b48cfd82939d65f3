"""Which version and commit of this package runs here."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

from sweeper.running.code import package_version, version_of

COMMIT_VARIABLE = "SWEEPER_CODE_COMMIT"
"""Variable with the commit of the code, for machines to which it was copied without its `.git`."""


@lru_cache(maxsize=1)
def provenance() -> dict[str, str | None]:
    """Version and commit of this package and the version of Ray, by the name of the column. Nothing heavy is imported."""
    return {
        "code_version": package_version(),
        "code_commit": code_commit(),
        "ray_version": version_of("ray"),
    }


def code_commit() -> str | None:
    """The commit of the source tree, `+dirty` if it has uncommitted changes; outside a checkout, what $SWEEPER_CODE_COMMIT says."""
    this = Path(__file__).resolve()
    try:
        _git(this.parent, "ls-files", "--error-unmatch", this.name)  # an environment may lie in the checkout of another project
        commit = _git(this.parent, "rev-parse", "--short=12", "HEAD")
        return f"{commit}+dirty" if _git(this.parent, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(COMMIT_VARIABLE) or None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
