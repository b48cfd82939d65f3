"""The message that starts a trial, or a group of them, on a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from orca_core.config.knobs import TrialConfig
from orca_core.workbench import ARTIFACT_CACHE_GIB

if TYPE_CHECKING:
    from orca_core.pipeline import Keep


@dataclass(frozen=True)
class TrialJob:
    """One trial to run.

    Args:
        config: The trial.
        store: URI of the store where stages are found and kept.
        device: Device type, `cpu` or `cuda`.
        keep_at: Folder of a stage -> epochs whose states other trials need.
        keep: Which fine-tuned weights are kept.
        models: URI of the store for these weights; empty = `store`.
        rungs: Epochs of fine-tuning at which the trial may have to pause: it reports there, and goes on only when it is told to.
        limit: Of a member of a group: epoch of fine-tuning after which it pauses, 0 = before the first; None = it does not. The others go
            on without it.
        folder: Working folder, against which relative paths of tasks and bodies are resolved; empty = unchanged.
        data_root: Folder in which the worker finds data; empty = the one its process uses.
        cache_root: Folder in which the worker keeps decoded data, where `~` is its own home folder; read together with `data_root`.
        max_data_gib, artifact_cache_gib: As for `Workbench`; read together with `data_root`.
        storage_minutes: How long the worker waits for a store that is out of reach.
        code: The code with which the sweep was started, as `dataclasses.asdict(Code)`; empty = not compared.
        own_data: Path of the user's own data, as names have it -> digest of the copy beside `models` that the worker is to use.
        result_key: What the plan knows the trial's result by; empty = not compared.
        contents: Name of a task or proxy -> digest of its content, to tell what differs where the result key does.
        probes: What is measured beside the scores, as `ProbeRequest.to_json` has it; empty = nothing.
    """

    config: TrialConfig
    store: str
    device: str = "cpu"
    keep_at: Mapping[str, Sequence[int]] = field(default_factory=dict)
    keep: Keep = "none"
    models: str = ""
    rungs: Sequence[int] = field(default_factory=list)
    limit: int | None = None
    folder: str = ""
    data_root: str = ""
    cache_root: str = ""
    max_data_gib: float | None = None
    artifact_cache_gib: float = ARTIFACT_CACHE_GIB
    storage_minutes: float = 0.0
    code: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    own_data: Mapping[str, str] = field(default_factory=dict)
    result_key: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The job as a JSON string."""
        data = asdict(replace(self, config=None))  # type: ignore[arg-type]
        return json.dumps(data | {"config": self.config.model_dump(mode="json", by_alias=True)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The job that `to_json` wrote."""
        data = json.loads(text)
        # Validated from JSON, where pydantic's strict mode accepts a list for a tuple but stays strict otherwise.
        return cls(**data | {"config": TrialConfig.model_validate_json(json.dumps(data["config"]))})


PAUSED = "PAUSED"
"""Status of a member of a group that has stopped at its limit, with its state stored; the others have gone on."""

GROUP = "group"
"""Name under which the message of a group has the jobs of its members."""


def group_to_json(jobs: Mapping[str, TrialJob]) -> str:
    """The message that starts a group: trials that train as one model, by id. Even one alone, if it might have others beside it."""
    return json.dumps({GROUP: {name: json.loads(job.to_json()) for name, job in jobs.items()}})
