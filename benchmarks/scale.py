"""What the driver of a large sweep takes: 1,000 trials at once, and tens of thousands of trials in one run.

    python benchmarks/scale.py                                            # 1,000 trials at once
    python benchmarks/scale.py --at-once 16 --trials 20000 --epochs 1 --epoch-s 0    # many trials, as short as they can be

Planner, session, recorder, result files, Tune's loop and the messages through Ray are the real ones. Replaced is what does not fit on one
machine: the processes of the trials, and the machines. Trials run in a few Ray processes, each of which plays hundreds: starting one is a
call of `Host`, its reports are tasks of that process, awaited by Tune's loop as in a real run. They hold no resources of Ray's (slots
are counted instead), and report rows without computing anything.

Latency is the time from the moment a report is ready in its process until the session has it. Memory and processor time are those of the
driver's process, threads of Ray's included.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

import psutil
import ray
from ray.air.execution.resources.fixed import FixedAcquiredResources
from ray.air.execution.resources.resource_manager import ResourceManager

from orca_core.rows import EpochRow, StageRow, row_to_json
from orca_core.stages import stages_of
from sweeper.results.workspace import Workspace
from sweeper.running.job import TrialJob
from sweeper.running.nodes import Node
from sweeper.space.reading import load_space
from sweeper.sweep import run_space
from sweeper.tune import controller, hooks
from sweeper.tune.cluster import Cluster

SLOTS_OF_NODE = 8
LEAST_REPORT_S = 12.0
HOSTS = 2


class Host:
    """A Ray process that plays many processes of trials."""

    def __init__(self, epoch_s: float) -> None:
        self._epoch_s = epoch_s
        self._running: dict[int, tuple[TrialJob, int]] = {}

    async def call(self, process: int, method: str, *arguments: Any, **named: Any) -> Any:
        """Do what a process of a trial does when a method is called."""
        if method == "begin":
            self._begin(process, named["config"])
        if method == "train":
            return await self._train(process, *arguments)
        return {}

    def _begin(self, process: int, config: dict[str, Any]) -> None:
        self._running[process] = TrialJob.from_json(config["trial"]), 0

    async def _train(self, process: int, report_every_s: float, message: str | None = None) -> dict[str, Any]:
        if message is not None:
            self._begin(process, {"trial": message})
        job, epoch = self._running[process]
        stage = stages_of(job.config, job.device)[-1]
        rows: list[Any] = []
        started = time.monotonic()
        while epoch < stage.end and time.monotonic() - started < report_every_s:
            if self._epoch_s:
                await asyncio.sleep(self._epoch_s)
            epoch += 1
            rows.append(EpochRow(stage=stage.kind, phase=stage.phase, fold=stage.fold, epoch=epoch, valid_error=0.5, is_reused=False))
        self._running[process] = job, epoch
        result = {"pid": os.getpid(), "hostname": "h", "training_iteration": 1, "time_total_s": 0.0, "ready": time.time()}
        if epoch == stage.end:
            whole = {"key": stage.key, "epochs": stage.end, "reused_epochs": 0, "saved_s": 0.0, "seconds": 1.0}
            rows.append(StageRow(stage=stage.kind, phase=stage.phase, fold=stage.fold, **whole))
            scores = {"valid_error": 0.5, "test_error": 0.5, "valid_loss": 0.5, "train_loss": 0.5, "best_epoch": epoch}
            result |= {"outcome": json.dumps({"status": "COMPLETE"} | scores), "done": True}
        return result | {"rows": json.dumps([row_to_json(row) for row in rows])}


class Process:
    """What Tune takes for the handle of a trial's process."""

    def __init__(self, host: Any, number: int) -> None:
        self._host, self._number, self._actor_id = host, number, host._actor_id

    def __getattr__(self, method: str) -> Method:
        return Method(self, method)


class Method:
    """A method of such a process."""

    def __init__(self, process: Process, name: str) -> None:
        self._process, self._name = process, name

    def options(self, **options: Any) -> Method:
        return self

    def remote(self, *arguments: Any, **named: Any) -> Any:
        named.pop("storage", None)
        return self._process._host.call.remote(self._process._number, self._name, *arguments, **named)


class Slots(ResourceManager):
    """Counts slots, where Ray would find room on a machine."""

    def __init__(self, count: int) -> None:
        self._free = count

    def request_resources(self, resource_request: Any) -> None:
        """Nothing: what is asked for is there or not."""

    def cancel_resource_request(self, resource_request: Any) -> None:
        """Nothing."""

    def has_resources_ready(self, resource_request: Any) -> bool:
        return self._free > 0

    def acquire_resources(self, resource_request: Any) -> FixedAcquiredResources:
        self._free -= 1
        return FixedAcquiredResources(bundles=[{}], resource_request=resource_request)

    def free_resources(self, acquired_resource: Any) -> None:
        self._free += 1

    def clear(self) -> None:
        """Nothing: the run has ended."""


class ProcessClass(ray.actor.ActorClass):
    """What Tune takes for the class of these processes."""

    def __init__(self, hosts: list[Any]) -> None:
        self._hosts, self._numbers = itertools.cycle(hosts), itertools.count()

    def options(self, **options: Any) -> ProcessClass:
        return self

    def remote(self, config: dict[str, Any], **named: Any) -> Process:
        process = Process(next(self._hosts), next(self._numbers))
        process.begin.remote(config={"trial": config["trial"]})
        return process

    def get(self, trainable: Any) -> ProcessClass:
        """As Tune's cache of classes."""
        return self


class Measured:
    """Samples of the driver while it runs."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.latencies: list[tuple[float, float]] = []
        self.turns: list[tuple[float, float]] = []
        """When, and seconds."""
        self.running: list[tuple[float, float, int, int]] = []
        """When, processor seconds, memory in bytes, trials that run."""
        self.is_over = False

    def sample(self, controllers: list[Any]) -> None:
        """Look twice a second."""
        while not self.is_over:
            times = self.process.cpu_times()
            count = len(controllers[-1]._running_trials) if controllers else 0
            self.running.append((time.monotonic(), times.user + times.system, self.process.memory_info().rss, count))
            time.sleep(0.5)


def stand_in(measured: Measured, at_once: int, hosts: list[Any]) -> list[Any]:
    """Replace processes and machines. Returns a list that will have the controller."""
    controllers: list[Any] = []

    class Scaled(controller.SweepController):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._class_cache = ProcessClass(hosts)  # type: ignore[assignment]
            self._actor_manager._resource_manager = Slots(at_once)
            controllers.append(self)

        def step(self) -> None:
            started = time.perf_counter()
            super().step()
            measured.turns.append((time.monotonic(), time.perf_counter() - started))

    kill = ray.kill
    ray.kill = lambda actor, **named: None if isinstance(actor, Process) else kill(actor, **named)
    report = hooks.StopWithSession.__call__

    def timed(self: Any, trial_id: str, result: dict[str, Any]) -> bool:
        answer = report(self, trial_id, result)
        measured.latencies.append((time.monotonic(), time.time() - result["ready"]))
        return answer

    nodes = [Node(f"n{number}", f"n{number}", SLOTS_OF_NODE) for number in range(-(-at_once // SLOTS_OF_NODE))]
    look = Cluster.nodes
    controller.SweepController = Scaled  # type: ignore[misc]
    hooks.StopWithSession.__call__ = timed  # type: ignore[method-assign]
    Cluster.nodes = lambda self: look(self) and nodes  # type: ignore[method-assign]
    return controllers


def write_space(folder: Path, trials: int, epochs: int) -> Path:
    """Write a sweep of so many trials that share nothing."""
    seeds = min(trials, 100)
    rates = ", ".join(f"{1e-4 * (1 + number / 1000):.9f}" for number in range(trials // seeds))
    path = folder / "scale.yaml"
    path.write_text(
        f"name: scale\nbase: {{task: digits, body.weights: random, align.epochs: 0, "
        f"finetune: {{epochs: {epochs}, warmup_epochs: 0, decay_epochs: null}}}}\n"
        f"space: {{finetune.lr: {{grid: [{rates}]}}}}\nseeds: {seeds}\n"
    )
    return path


def percentiles(samples: list[tuple[float, float]], since: float, until: float) -> str:
    """Median, 99th percentile and maximum of the seconds in a span of time."""
    values = [value for at, value in samples if since <= at <= until]
    cuts = statistics.quantiles(values, n=100)
    return f"{cuts[49]:.3f} s median, {cuts[98]:.3f} s 99th percentile, {max(values):.3f} s most"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--epoch-s", type=float, default=1.0)
    parser.add_argument("--profile", default="", help="file for a profile of the driver's thread")
    arguments = parser.parse_args()
    measured = Measured()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    options = {"num_cpus": 0, "max_concurrency": 2 * arguments.at_once}
    hosts = [ray.remote(Host).options(**options).remote(arguments.epoch_s) for _ in range(HOSTS)]
    controllers = stand_in(measured, arguments.at_once, hosts)
    threading.Thread(target=measured.sample, args=(controllers,), daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        space = load_space(write_space(Path(name), arguments.trials, arguments.epochs))
        started = time.monotonic()
        if arguments.profile:
            import cProfile

            profile = cProfile.Profile()
            code = profile.runcall(run_space, space, Workspace(f"{name}/results"))
            profile.dump_stats(arguments.profile)
        else:
            code = run_space(space, Workspace(f"{name}/results"))
        seconds = time.monotonic() - started
    measured.is_over = True
    count = min(arguments.at_once, arguments.trials)
    busy = [sample for sample in measured.running if sample[3] >= count]
    print(
        f"{arguments.trials} trials of {arguments.epochs} epochs of {arguments.epoch_s:g} s, {arguments.at_once} at once: exit code {code}"
    )
    print(f"{'entire run':<34} {seconds:.0f} s, {1e3 * seconds / arguments.trials:.1f} ms a trial")
    print(f"{'reports':<34} {len(measured.latencies)}, {len(measured.latencies) / seconds:.0f} a second")
    if len(busy) > 10:
        (since, used, *_), (until, used_then, *_) = busy[0], busy[-1]
        print(f"{'all slots were busy':<34} after {since - started:.0f} s, for {until - since:.0f} s; then:")
        print(f"{'    driver':<34} {(used_then - used) / (until - since):.2f} cores")
        since += LEAST_REPORT_S  # the first reports of all trials come together
        print(f"{'    latency of a report':<34} {percentiles(measured.latencies, since, until)}")
        print(f"{'    turn of the loop':<34} {percentiles(measured.turns, since, until)}")
    memory = [sample[2] / 2**30 for sample in measured.running]
    loop = [sample[2] / 2**30 for sample in measured.running if sample[3]]
    print(f"{'driver memory':<34} {loop[0]:.2f} GiB when trials began, {max(loop):.2f} GiB while they ran, {max(memory):.2f} GiB at most")
    print(f"{'machine':<34} {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
