"""What a node answers when it is asked whether trials can run on it. Runs there, in the trials' own environment; Ray is not needed.

Only the standard library is imported before the code has been compared, so that a node on which half of the packages are missing can still
say so.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.running.node import NodeFinding

Trouble = tuple[str, str]
"""(cause, one of `NODE_CAUSES`; what is wrong, in one line)"""

_CAUSES = {"data": "data", "content": "other-data", "disk": "disk", "cache": "disk", "memory": "data", "name": "import"}
"""Kind of a `NodeFinding` -> cause of failure that it would be."""

HEALING = frozenset({"data", "other-data", "store", "disk"})
"""Causes that may be mended while a process goes on; the others need a new process or node."""

_LOOK_AT_GPUS = """
import json, torch
count = torch.cuda.device_count()
found = [[torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory / 2**30] for i in range(count)]
print(json.dumps([torch.version.cuda, found]))
"""


@dataclass(frozen=True)
class Question:
    """What a node is asked; plain values, of which a node with other code can read the first.

    Args:
        code: The code with which the sweep was started, as `dataclasses.asdict(Code)`.
        store: Folder or URI of the stage store; empty = not asked for.
        probe: Name of a file in the store that the driver has written, and its content.
        needs: What trials read, a `NodeNeeds` as JSON; empty = not asked for.
        own_data: The user's own data that was sent, as for `TrialJob`.
        gpu: Share of a GPU that a trial asks for.
    """

    code: dict[str, Any]
    store: str = ""
    probe: str = ""
    needs: str = ""
    own_data: dict[str, str] = field(default_factory=dict)
    gpu: float = 0.0


@dataclass
class Answer:
    """What a node has.

    Args:
        troubles: Why trials cannot run there; nothing if they can.
        facts: What there is, by name, as text.
    """

    troubles: list[Trouble] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


def answer(question: Question, ray_gpus: float = 0.0) -> Answer:
    """Check this node.

    Args:
        question: What is asked.
        ray_gpus: GPUs that Ray says the node has.
    """
    found = Answer()
    try:
        _check_code(question, found)
        if found.troubles:
            return found
        _check_store(question, found)
        _check_needs(question, found)
        _check_memory(found)
        if question.gpu > 0 and ray_gpus > 0:
            _check_gpus(ray_gpus, found)
    except ImportError as error:
        found.troubles.append(("import", f"{error}"))
    return found


def _check_code(question: Question, found: Answer) -> None:
    from sweeper.running.code import code_here
    from sweeper.running.execution import OtherCodeError, check_code

    here = code_here()
    found.facts["code"] = here.digest
    found.facts["versions"] = f"Python {platform.python_version()}, " + ", ".join(
        f"{name} {version}" for name, version in here.versions.items() if name != "python"
    )
    try:
        check_code(question.code)
    except OtherCodeError as error:
        found.troubles.append(("other-code", str(error)))


def _check_store(question: Question, found: Answer) -> None:
    """Read what the driver has written there, and write and delete a file."""
    if not question.store:
        return
    from orca_core.errors import OrcaError
    from orca_core.filesystem import Files, shown_uri

    started, shown = time.monotonic(), shown_uri(question.store)
    try:
        files = Files(question.store)
        if files.read(question.probe) != question.probe.encode():
            why = "it is another folder there" if files.is_local else "it is another place there"
            found.troubles.append(("store", f"{shown}: does not show what the driver has written: {why}"))
            return
        own = f"{question.probe}-{platform.node()}-{os.getpid()}"
        files.write(own, b"")
        files.delete(own)
    except (OrcaError, OSError) as error:
        line = _line(error)
        found.troubles.append(("store", line if line.startswith(f"{shown}: ") else f"{shown}: cannot be read and written: {line}"))
    else:
        found.facts["store"] = f"{time.monotonic() - started:.2f} s"


def _check_needs(question: Question, found: Answer) -> None:
    """Check data and disk, and decode published data, as trials find them there."""
    if not question.needs:
        return
    from sweeper.running.node import NodeNeeds, prepare_node
    from sweeper.running.own_data import fetch_own_data
    from sweeper.workbench import open_on_worker

    needs = NodeNeeds.from_json(question.needs)
    bench = open_on_worker(needs.data_root, needs.cache_root, needs.max_data_gib)
    try:
        fetch_own_data(question.own_data, question.store, bench)
        findings: list[NodeFinding] = prepare_node(needs, bench)
    except Exception as error:
        from sweeper.running.execution import cause_of

        found.troubles.append((cause if (cause := cause_of(error)) in ("store", "disk") else "data", _line(error)))
        return
    found.troubles += [(_CAUSES[finding.kind], finding.what) for finding in findings]
    if needs.digests:
        found.facts["data"] = "wrong" if findings else "complete"
    free = shutil.disk_usage(_existing(Path(bench.cache_root).expanduser())).free / 2**30
    found.facts["disk"] = f"{free:.1f} GiB free"


def _check_memory(found: Answer) -> None:
    found.facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def _check_gpus(ray_gpus: float, found: Answer) -> None:
    """Compare the GPUs that torch sees with those that Ray says there are. In a process of its own: this one was given no GPU."""
    import json

    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run([sys.executable, "-c", _LOOK_AT_GPUS], env=environment, capture_output=True, text=True, timeout=60)
        build, gpus = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, OSError, IndexError, ValueError) as error:
        found.troubles.append(("cuda", f"torch could not be asked for its GPUs: {_line(error)}"))
        return
    found.facts["GPUs"] = ", ".join(f"{name} with {gib:.0f} GiB" for name, gib in gpus) or "none that torch sees"
    if len(gpus) < ray_gpus:
        of = "" if build else ", as it is a build without CUDA"
        found.troubles.append(("cuda", f"Ray sees {ray_gpus:g} of its GPUs, but torch {len(gpus)}{of}"))


def try_cuda() -> str:
    """Multiply two matrices on the GPU that this process was given. Returns the name of the GPU.

    Raises:
        RuntimeError: If CUDA does not work.
    """
    import torch

    matrix = torch.ones(256, 256, device="cuda")
    if float((matrix @ matrix)[0, 0]) != 256.0:
        raise RuntimeError("CUDA computes wrong products")
    return torch.cuda.get_device_name()


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _line(error: BaseException) -> str:
    from sweeper.running.secrets import conceal

    lines = str(error).strip().splitlines() or [type(error).__name__]
    return conceal(lines[0])
