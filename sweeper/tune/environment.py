"""What the driver gives to the workers: settings, and on a cluster its code.

Ray writes a runtime environment to the logs of every node, so nothing secret may be in it. Local workers inherit the driver's environment
from their parent process; the nodes of a cluster have secrets of their own.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from orca_core.numerics import PORTABLE
from sweeper.running.code import OWN_PACKAGES, package_version, plugin_packages, source_folder
from sweeper.running.provenance import COMMIT_VARIABLE, code_commit
from sweeper.running.secrets import is_secret
from sweeper.space.file import Bits

SENT_SETTINGS = frozenset(
    {
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "GOOGLE_CLOUD_PROJECT",
        "STORAGE_EMULATOR_HOST",
        "TRANSFORMERS_OFFLINE",
        "TOKENIZERS_PARALLELISM",
    }
)
"""Settings of the driver that reach the workers, beside Ray's own and all of Hugging Face (`HF_...`), unless they are secret."""

PACKAGE_MIB = 64
"""Largest size of a plug-in's package that is shipped, in MiB: Ray keeps what is shipped in the memory of the head node."""

_NOT_SHIPPED = ("__pycache__", "*.pyc")

_COMPILED = (".so", ".pyd", ".dylib")


@contextmanager
def runtime_environment(settings: Mapping[str, str], bits: Bits) -> Iterator[dict[str, Any]]:
    """Within: the runtime environment for joining a cluster, whose packages are read from a folder that is removed afterwards. The driver's
    code is shipped with it: this package, and the packages of plug-ins.

    Args:
        settings: Ray's own variables that workers need.
        bits: The sweep's `bits`; worker processes are started accordingly.
    """
    environment: dict[str, Any] = {"env_vars": worker_settings(settings, bits)}
    with tempfile.TemporaryDirectory(prefix="sweeper-ship-") as folder:
        environment["py_modules"] = [*shipped_modules(Path(folder)), *_modules_of_job()]
        environment["excludes"] = list(_NOT_SHIPPED)
        yield environment


def worker_settings(settings: Mapping[str, str], bits: Bits) -> dict[str, str]:
    """The variables that the processes of trials are started with. None of them is secret.

    Args:
        settings: As for `runtime_environment`.
        bits: The sweep's `bits`.
    """
    sent = {
        name: value
        for name, value in os.environ.items()
        if (name in settings or name in SENT_SETTINGS or name.startswith(("HF_", "AWS_ENDPOINT_URL_"))) and not is_secret(name, value)
    }
    if commit := code_commit():
        sent[COMMIT_VARIABLE] = commit
    if bits == "portable":
        sent |= PORTABLE  # Ray starts the worker processes with it, so libraries see it when they are loaded
    return sent


def kept_secrets() -> list[str]:
    """The secret variables of this process that a worker may need and is not given."""
    wanted = ("HF_", "AWS_", "GOOGLE_")
    return sorted(name for name, value in os.environ.items() if name.startswith(wanted) and is_secret(name, value))


# ---------------------------------------------------------------------------------------------------------------- shipping


def shipped_modules(folder: Path) -> list[str]:
    """The folders and files that are shipped: packages as they are, and metadata of each, by which plug-ins are found.

    Warns of each plug-in that is not one folder of pure Python of at most `PACKAGE_MIB`. A node without it runs nothing.

    Args:
        folder: Where the metadata is written.
    """
    modules = [str(source_folder(package)) for package in OWN_PACKAGES]
    modules.append(_write_metadata(folder, "orca-sweeper", package_version() or "0", ""))
    described = set[str]()
    for package, distribution in plugin_packages().items():
        name, version = distribution.name, distribution.version
        if obstacle := _obstacle(package):
            text = f"the plug-in {name} {version} is not sent to the nodes, as {obstacle}: every node must have it installed"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            continue
        modules.append(str(source_folder(package)))
        if name not in described:
            described.add(name)
            modules.append(_write_metadata(folder, name, version, distribution.read_text("entry_points.txt") or ""))
    return modules


def _obstacle(package: str) -> str:
    """Why a package cannot be shipped; empty if it can."""
    at = source_folder(package)
    if at is None:
        return "it is not one folder or file of Python"
    files = [at] if at.is_file() else [file for file in at.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    if compiled := next((file.name for file in files if file.suffix in _COMPILED), None):
        return f"it has compiled code ({compiled})"
    size = sum(file.stat().st_size for file in files) / 2**20
    return f"it has {size:.0f} MiB, more than {PACKAGE_MIB}" if size > PACKAGE_MIB else ""


def _write_metadata(folder: Path, name: str, version: str, entry_points: str) -> str:
    """A folder with what `importlib.metadata` needs to find a distribution and its entry points."""
    at = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    at.mkdir()
    (at / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    if entry_points:
        (at / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    return str(at)


def _modules_of_job() -> list[str]:
    """The modules that a job of Ray's job submission, within which this process runs, was submitted with."""
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    return list((job.get("runtime_env") or {}).get("py_modules") or [])
