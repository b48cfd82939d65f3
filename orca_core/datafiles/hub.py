"""Where a data set is that is named by a folder, or by its name on the Hugging Face hub: `hfds:NAME`.

A name of the hub is looked for in the cache of the package `datasets`, then in that of the hub, then fetched: its Parquet files alone, or
those of the hub's own conversion where it has none. Scripts are neither fetched nor run.
"""

from __future__ import annotations

import os
from pathlib import Path

from orca_core.errors import ConfigError, Fault
from orca_core.workbench import Workbench, memoize

CONVERTED = "refs/convert/parquet"
"""The branch to which the hub converts data sets."""


def is_path(source: str) -> bool:
    """Whether a name stands for a folder: one that exists, or one that can be no name of the hub."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or Workbench.current().locate(source).is_dir()


def find_data_folder(source: str, knob: str) -> Path:
    """The folder of a data set.

    Raises:
        ConfigError: If a name of the hub is in no cache and cannot be fetched.
    """
    return Workbench.current().locate(source) if is_path(source) else _from_hub(source, knob)


@memoize(maxsize=64)
def _from_hub(name: str, knob: str) -> Path:
    from huggingface_hub import constants, snapshot_download  # imported here: it is slow, and only hub names need it

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    if (folder := _in_cache(cache / name.replace("/", "___"))) is not None:
        return folder
    reason = "it has no Parquet files"
    for local_only in (True, False):
        for revision in (None, CONVERTED):
            try:
                snapshot = snapshot_download(
                    name,
                    repo_type="dataset",
                    revision=revision,
                    local_files_only=local_only,
                    allow_patterns=["*.parquet"],
                    etag_timeout=5,
                )
            except Exception as error:  # the hub client raises errors of many libraries; all mean that the name stands for no folder
                reason = type(error).__name__
                continue
            if next(Path(snapshot).rglob("*.parquet"), None) is not None:
                return Path(snapshot)
    remedy = f"It is neither a folder nor in a local cache, and fetching it failed ({reason})."
    raise ConfigError([Fault(knob, "must be a folder or a data set of the Hugging Face hub", f"hfds:{name}", remedy)])


def _in_cache(folder: Path) -> Path | None:
    """The latest version in a folder of the cache of `datasets`, CONFIG/VERSION/HASH, if there is one config; None if it has no data."""
    versions = {file.parent for file in folder.glob("*/*/*/*.arrow")}
    if len({path.parts[-3] for path in versions}) != 1:
        return None
    return max(versions, key=lambda path: (path.stat().st_mtime_ns, str(path)))
