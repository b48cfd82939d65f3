"""What a row says about the process that computed it: the machine, and the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from orca_core.rows import Cells


@dataclass(frozen=True, kw_only=True)
class WorkerFacts(Cells):
    """The machine and the code of the process that computes a trial."""

    TABLE: ClassVar[str] = "trials"

    host: Annotated[str, "Name of the machine."]
    pid: Annotated[int, "Process id of the worker."]
    node_id: Annotated[str | None, "Ray's id of the node; null for a trial that was run without Ray."] = None
    instance_type: Annotated[str | None, "Type of the machine as the cloud names it, where that is known."] = None
    zone: Annotated[str | None, "Availability zone of the machine, where that is known."] = None
    code_digest: Annotated[
        str | None,
        "Digest of the worker's code: the source of this package and of installed plug-ins, and the versions of Python, torch and Ray.",
    ] = None
    code_version: Annotated[str | None, "Version of this package on the worker."] = None
    code_commit: Annotated[
        str | None,
        "Git commit of the worker's copy of this package; outside a checkout what $SWEEPER_CODE_COMMIT says, which the driver sends.",
    ] = None
    ray_version: Annotated[str | None, "Version of Ray on the worker; null for a trial that was run without it."] = None
