"""What a node needs before trials run on it, prepared without a GPU: data with the content that the keys speak of, decoded, and room.

The driver describes what the trials of a sweep read (`NodeNeeds.of`); a task on the node that holds no GPU then calls `prepare_node`. So
digests are computed and published data are decoded once per node, while no trial waits for either with a GPU in its hands, and a node that
lacks data or has other data is known by its name before the first trial fails there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from orca_core.bodies import find_body
from orca_core.config.knobs import TrialConfig
from orca_core.datafiles.decoding import is_decoded
from orca_core.datafiles.embedder_weights import weights_digest
from orca_core.datafiles.reading import reason
from orca_core.errors import ConfigError, DataError, DiskFullError
from orca_core.proxies import ProxySpec, find_proxy
from orca_core.tasks import TaskSpec, find_task
from orca_core.workbench import Workbench
from sweeper.workbench import shorten_home

What = Literal["task", "proxy", "body", "weights"]
"""Kinds of what trials read: tasks, proxies, bodies, and files of `embedder.weights`."""

Kind = Literal["data", "content", "disk", "cache", "memory", "name"]
"""data: missing or damaged; content: other content than the driver has; disk: too little room; cache: its folder cannot be written; memory:
data does not fit; name: unknown there, as a plug-in is missing or of another version."""

REMEDIES: dict[Kind, str] = {
    "data": "Put the files there, or give a data root that all nodes see ($SWEEPER_DATA).",
    "content": "Copy the files of the driver there, or give a data root that all nodes see ($SWEEPER_DATA).",
    "disk": "Free some space there, choose a cache root on another disk ($SWEEPER_CACHE), or lower budget.free_gib.",
    "cache": "Choose a cache root that can be written ($SWEEPER_CACHE).",
    "memory": "Give the sweep nodes with more memory.",
    "name": "Install the same packages there as on the driver.",
}
"""What to do about a finding, by its kind."""


@dataclass(frozen=True)
class NodeFinding:
    """A reason why trials cannot run on a node.

    Args:
        kind: As listed for `Kind`.
        what: What is wrong, as a sentence.
        remedy: What to do about it, as a sentence.
    """

    kind: Kind
    what: str
    remedy: str


@dataclass(frozen=True)
class NodeNeeds:
    """What the trials of a sweep read, and the folders in which a node keeps it; plain values, to be sent to the node.

    Args:
        digests: (kind, name) -> digest of its content, of all tasks, proxies, bodies and files of embedder weights.
        reference: (task, whether `reference_data`) of the trials.
        folder: Working folder, against which relative paths are resolved where it exists; empty = unchanged.
        data_root, cache_root, max_data_gib: As for `Workbench`; `~` is the node's home folder.
        free_gib: Minimum free space, in GiB, on the disk of the cache root.
    """

    digests: dict[tuple[What, str], str]
    reference: tuple[tuple[str, bool], ...] = ()
    folder: str = ""
    data_root: str = "data"
    cache_root: str = "~/.cache/orca-sweeper"
    max_data_gib: float | None = None
    free_gib: float = 0.0

    @classmethod
    def of(cls, configs: Iterable[TrialConfig], free_gib: float = 0.0) -> NodeNeeds:
        """What some trials need, with the content that the current workbench has.

        Raises:
            DataError: If files are missing here.
        """
        digests: dict[tuple[What, str], str] = {}
        forms: dict[tuple[str, bool], None] = {}
        for config in configs:
            forms[config.task, config.reference_data] = None
            for what, name in _reads(config):
                if (what, name) not in digests:
                    digests[what, name] = _digest(what, name)
        bench = Workbench.current()
        return cls(digests, tuple(forms), os.getcwd(), str(bench.data_root), shorten_home(bench.cache_root), bench.max_data_gib, free_gib)

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self) | {"digests": [[*read, digest] for read, digest in self.digests.items()]})

    @classmethod
    def from_json(cls, text: str) -> NodeNeeds:
        """What `to_json` wrote, by the same code."""
        fields = json.loads(text)
        digests = {(what, name): digest for what, name, digest in fields["digests"]}
        return cls(**fields | {"digests": digests, "reference": tuple((task, is_so) for task, is_so in fields["reference"])})


def prepare_node(needs: NodeNeeds, bench: Workbench | None = None) -> list[NodeFinding]:
    """Check the node on which this runs, and decode published data into its cache; what is decoded already is not read again.

    Args:
        needs: What the trials need.
        bench: With which they read it there; None = one with the folders that `needs` names.

    Returns:
        What is wrong, each thing once; nothing if trials can run here.
    """
    findings: dict[NodeFinding, None] = {}

    def add(kind: Kind, what: str) -> None:
        findings[NodeFinding(kind, what, REMEDIES[kind])] = None

    is_there = bool(needs.folder) and Path(needs.folder).is_dir()
    bench = bench or Workbench(needs.data_root, needs.cache_root, needs.max_data_gib)
    with bench.use(), chdir(needs.folder) if is_there else nullcontext():
        _check_cache(bench, needs.free_gib, add)
        if findings:
            return list(findings)
        wrong = set()
        for (what, name), digest in needs.digests.items():
            with _collecting(f"{what} {name}", add) as failed:
                if _digest(what, name) != digest:
                    add("content", f"{what} {name}: its content is not that of the driver")
                    failed.append(name)
            wrong |= {(what, name)} if failed else set()
        for name in (name for what, name in needs.digests if what == "proxy" and ("proxy", name) not in wrong):
            with _collecting(f"proxy {name}", add):
                _decode_proxy(find_proxy(name))
        for name, reference in needs.reference:
            if ("task", name) not in wrong:
                with _collecting(f"task {name}", add):
                    _decode_task(find_task(name), reference)
    return list(findings)


def _reads(config: TrialConfig) -> Iterator[tuple[What, str]]:
    """What a trial reads."""
    yield "task", config.task
    yield "body", config.body.name
    if config.reads_proxy:
        yield "proxy", config.proxy
    if config.embedder.weights is not None:
        yield "weights", config.embedder.weights


def _digest(what: What, name: str) -> str:
    match what:
        case "task":
            return find_task(name).digest()
        case "proxy":
            return find_proxy(name).digest()
        case "body":
            return find_body(name).digest()
        case "weights":
            return weights_digest(name)


def _check_cache(bench: Workbench, free_gib: float, add: Callable[[Kind, str], None]) -> None:
    try:
        bench.cache_root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=bench.cache_root).close()
    except OSError as error:
        add("cache", f"{bench.cache_root}: must be a folder that can be written ({error.strerror})")
        return
    free = shutil.disk_usage(bench.cache_root).free / 2**30
    if free < free_gib:
        add("disk", f"{bench.cache_root}: must have {free_gib:g} GiB of free disk space (budget.free_gib), but has {free:.2f}")


@contextmanager
def _collecting(name: str, add: Callable[[Kind, str], None]) -> Iterator[list[str]]:
    """Within: errors become findings. Yields a list that is not empty at the end if there was any."""
    failed: list[str] = []
    try:
        yield failed
    except DiskFullError as error:
        failed.append(name)
        add("disk", f"{name}: {error}")
    except ConfigError as error:
        failed.append(name)
        for fault in error.faults:  # `hf:FOLDER` and the like name files
            add("data" if ":" in name else "name", f"{name}: {fault.text()}")
    except DataError as error:
        failed.append(name)
        for line in str(error).splitlines():
            add("data", f"{name}: {line}")
    except (MemoryError, RecursionError) as error:
        failed.append(name)
        add("memory", f"{name}: cannot be read: {reason(error)}")


def _decode_task(spec: TaskSpec, reference: bool) -> None:
    """Decode the data of a task, unless that was done or it ships with packages."""
    if (spec.expects or ":" in spec.name) and not is_decoded(spec):
        spec.load(0, reference)


def _decode_proxy(spec: ProxySpec) -> None:
    if spec.loader and (spec.expects or ":" in spec.name) and not is_decoded(spec):
        spec.load()
