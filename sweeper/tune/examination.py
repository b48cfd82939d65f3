"""Examines the nodes of a cluster for `sweeper doctor --address`: all at once, each in a process of the trials' own environment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orca_core.config.knobs import TrialConfig
from sweeper.results.workspace import Workspace
from sweeper.running.driver import MAX_SKEW_S
from sweeper.running.node_check import Answer, Question, answer, try_cuda
from sweeper.running.preflight import check_data
from sweeper.space.file import Resources
from sweeper.space.space import SearchSpace
from sweeper.tune.cluster import open_cluster, ray_environment
from sweeper.tune.node_checks import make_question, probed, read_answer
from sweeper.tune.ray_log import RayLog

LIMIT_S = 20.0
"""Seconds in which every node has to answer."""

COLUMNS = ("node", "trials", "code", "store", "data", "disk", "memory", "GPUs", "CUDA", "clock", "versions")
"""Columns of the table. `trials`: how many fit at once; `clock`: by how much it is ahead of this machine's."""


@dataclass
class NodeReport:
    """What was found on a node.

    Args:
        host: Its host name.
        facts: Column of the table -> text.
        troubles: What is wrong, in lines.
    """

    host: str
    facts: dict[str, str] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


class _Examiner:
    """Answers on a node, in a process of its own."""

    def answer(self, question: Question, gpus: float) -> Answer:
        return answer(question, gpus)

    def clock(self) -> float:
        return time.time()


def examine_cluster(
    address: str, workspace: Workspace, space: SearchSpace | None = None, configs: Sequence[TrialConfig] = (), limit_s: float = LIMIT_S
) -> list[NodeReport]:
    """Examine all live nodes of a cluster that have CPUs.

    Args:
        address: As for `run`.
        workspace: Whose stage store the nodes must reach.
        space: A search space, whose resources and budget count; None = one CPU, and a whole GPU where there are any.
        configs: Its trials, whose data the nodes must have.
        limit_s: Seconds in which the nodes have to answer.

    Raises:
        ConfigError: If the cluster cannot be joined, or data is missing on this machine.
        StoreError: If the store cannot be written.
    """
    resources, bits = (space.resources, space.bits) if space is not None else (Resources(), "native")
    check_data(configs)
    free_gib = space.budget.free_gib if space is not None else 0.0
    question = make_question(configs, workspace.artifacts_uri, free_gib=free_gib, own_data={}, gpu=resources.most_gpu or 1.0)
    with (
        probed(question) as asked,
        ray_environment(),
        RayLog(None, "doctor").writing(),
        open_cluster(address, resources, bits, name="sweeper doctor"),
    ):
        return _examine(asked, resources, limit_s)


def _examine(question: Question, resources: Resources, limit_s: float) -> list[NodeReport]:
    deadline = time.monotonic() + limit_s
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    make: Any = ray.remote(num_cpus=0)(_Examiner)
    cuda = ray.remote(num_cpus=0, num_gpus=question.gpu, max_retries=0)(try_cuda)
    asked = []
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        gpus = node["Resources"].get("GPU", 0.0)
        examiner: Any = make.options(scheduling_strategy=where).remote()
        tried = cuda.options(scheduling_strategy=where, name="doctor").remote() if gpus >= question.gpu else None
        asked.append((node, examiner, examiner.answer.remote(question, gpus), tried))
    reports = []
    for node, examiner, reference, tried in asked:
        report = NodeReport(node["NodeManagerHostname"])
        report.facts["trials"] = str(resources.count_on(node["Resources"], node["Labels"]))
        _take_answer(report, reference, deadline, node)
        if report.facts.get("code"):
            _take_clock(report, examiner)
        if tried is not None:
            _take_cuda(report, tried, deadline)
        reports.append(report)
    if reports and all(report.facts["trials"] == "0" for report in reports):
        for report in reports:
            report.troubles.append(f"a trial does not fit: it needs {resources.describe()}")
    return sorted(reports, key=lambda report: report.host)


def _is_ready(reference: Any, deadline: float) -> bool:
    ready, _ = ray.wait([reference], timeout=max(0.0, deadline - time.monotonic()))
    return bool(ready)


def _take_answer(report: NodeReport, reference: Any, deadline: float, node: Mapping[str, Any]) -> None:
    if not _is_ready(reference, deadline):
        free = ray._private.state.state.available_resources_per_node().get(node["NodeID"])
        report.troubles.append(describe_silence(node["Resources"]["CPU"], None if free is None else free.get("CPU", 0.0)))
        return
    found = read_answer(reference)
    if found is None:
        report.troubles.append(f"it was lost while it was examined, or its processes do not start. {_LOGS}")
        return
    report.facts |= found.facts
    report.troubles += [f"{why} ({cause})" for cause, why in found.troubles]


_LOGS = "Ray's logs are there in /tmp/ray/session_latest/logs."


def describe_silence(cpus: float, free_cpus: float | None) -> str:
    """Why a node may not have answered, as far as Ray knows, and what to do about it.

    Args:
        cpus: CPUs of the node.
        free_cpus: Those that nothing runs on; None if Ray no longer hears from the node.
    """
    text = "it has not answered in time"
    if free_cpus is None:
        return f"{text}, and Ray no longer hears from it: it is gone, or the network is. Start its Ray again. {_LOGS}"
    if free_cpus < cpus:
        busy = f"{cpus - free_cpus:g} of its {cpus:g} CPUs are in use, so it may only be busy"
        return f"{text}: {busy}. Examine it again once they are free, or look at its load and memory with `uptime` and `free -h`."
    return (
        f"{text}, though none of its CPUs is in use: it is overloaded by something else, short of memory, or hangs. "
        f"Look at it with `uptime` and `free -h`, then start its Ray again. {_LOGS}"
    )


def _take_clock(report: NodeReport, examiner: Any) -> None:
    """Compare the clocks, now that the process is up: the time that the question takes is the uncertainty."""
    try:
        before = time.time()
        there = ray.get(examiner.clock.remote(), timeout=5)
        after = time.time()
    except RayError:
        return
    ahead = there - before if there < before else max(0.0, there - after)
    report.facts["clock"] = f"{ahead:+.1f} s"
    if abs(ahead) > MAX_SKEW_S:
        report.troubles.append(
            f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of this machine; set it by NTP"
        )


def _take_cuda(report: NodeReport, tried: Any, deadline: float) -> None:
    if not _is_ready(tried, deadline):
        report.facts["CUDA"] = "not tried: its GPUs are busy"
        ray.cancel(tried)
        return
    try:
        report.facts["CUDA"] = f"works on {ray.get(tried, timeout=5)}"
    except RayError as error:
        report.facts["CUDA"] = "fails"
        report.troubles.append(f"CUDA does not work: {str(error).strip().splitlines()[-1].strip()} (cuda)")


def describe_reports(reports: Sequence[NodeReport]) -> Iterator[tuple[list[str], list[list[str]]] | str]:
    """The table, as its columns and lines, then what is wrong, a line each."""
    columns = [column for column in COLUMNS if column == "node" or any(column in report.facts for report in reports)]
    yield columns, [[report.host, *(report.facts.get(column, "-") for column in columns[1:])] for report in reports]
    for report in reports:
        for trouble in report.troubles:
            yield f"WRONG  {report.host}: {trouble}"
