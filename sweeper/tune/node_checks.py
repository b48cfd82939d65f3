"""Asks the nodes of a cluster whether trials can run on them: each as it joins, in the background, in a task without CPUs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orca_core.config.knobs import TrialConfig
from orca_core.errors import StoreError
from orca_core.filesystem import Files
from sweeper.running.code import code_here
from sweeper.running.lookout import NodeResult
from sweeper.running.node import NodeNeeds
from sweeper.running.node_check import HEALING, Answer, Question, answer
from sweeper.running.nodes import Node

UNANSWERED_S = 60.0
"""Seconds after which it is told that a node has not answered."""

AGAIN_S = 60.0
"""Seconds after which a node is asked again about what may have been mended."""


def make_question(configs: Iterable[TrialConfig], store: str, *, free_gib: float, own_data: dict[str, str], gpu: float) -> Question:
    """What a node is asked before trials of a sweep run there.

    Args:
        configs: The trials.
        store: Folder or URI of the stage store.
        free_gib: As for `NodeNeeds`.
        own_data: As for `TrialJob`.
        gpu: Share of a GPU that a trial asks for.
    """
    needs = NodeNeeds.of(configs, free_gib).to_json()
    return Question(asdict(code_here()), store=store, needs=needs, own_data=own_data, gpu=gpu)


@contextmanager
def probed(question: Question) -> Iterator[Question]:
    """Within: the question with a file in the store that nodes must see; the file is removed afterwards.

    Raises:
        StoreError: If it cannot be written.
    """
    probe, files = f".probe-{uuid.uuid4().hex}", Files(question.store)
    files.write(probe, probe.encode())
    try:
        yield replace(question, probe=probe)
    finally:
        with suppress(StoreError):
            files.delete(probe)


@dataclass
class _Asked:
    node: Node
    reference: Any
    at: float


class NodeChecks:
    """Checks nodes as they join, and those again on which something was missing that may have been mended.

    Args:
        question: What they are asked.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, question: Question, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ask = ray.remote(num_cpus=0, max_retries=0)(answer)
        self._question = ray.put(question)
        self._asked: dict[str, _Asked] = {}
        self._again_at: dict[str, float] = {}
        self._done: set[str] = set()

    def look(self, nodes: Iterable[Node]) -> list[NodeResult]:
        """Ask those that have not been asked; returns what has been answered since the last call. Does not wait."""
        current = {node.id: node for node in nodes}
        for known in (self._asked, self._again_at):
            for id in known.keys() - current.keys():
                del known[id]
        now = self._clock()
        for id, node in current.items():
            is_due = id not in self._done or now >= self._again_at.get(id, now + 1)
            if is_due and id not in self._asked and not node.is_draining:
                self._again_at.pop(id, None)
                self._done.add(id)
                self._asked[id] = _Asked(node, ask_node(self._ask, id, self._question), now)
        return [result for id in list(self._asked) if (result := self._take(id)) is not None]

    @property
    def unanswered(self) -> list[str]:
        """Host names of the nodes that have not answered for long."""
        return sorted(asked.node.host for asked in self._asked.values() if self._clock() - asked.at >= UNANSWERED_S)

    def _take(self, id: str) -> NodeResult | None:
        asked = self._asked[id]
        ready, _ = ray.wait([asked.reference], timeout=0)
        if not ready:
            return None
        del self._asked[id]
        found = read_answer(asked.reference)
        if found is None:  # the node is gone, or has ended the process: trials find out
            return None
        if not found.troubles:
            return NodeResult(id)
        cause = found.troubles[0][0]
        if all(of in HEALING for of, _ in found.troubles):
            self._again_at[id] = self._clock() + AGAIN_S
        return NodeResult(id, cause, "; ".join(dict.fromkeys(why.rstrip(".") for _, why in found.troubles)))


def ask_node(task: Any, node_id: str, question: Any) -> Any:
    """Submit the task of a question to a node. Returns the reference to its answer."""
    gpus = next((node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["NodeID"] == node_id), 0.0)
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return task.options(scheduling_strategy=where, name="check node").remote(question, gpus)


def read_answer(reference: Any) -> Answer | None:
    """What a node answered; None if its process or the node was lost.

    A node that cannot even run the question lacks a package.
    """
    try:
        return ray.get(reference, timeout=5)
    except RayTaskError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Answer([("import", lines[-1].strip())])
    except (RayError, GetTimeoutError):
        return None
