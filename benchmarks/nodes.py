"""Add, kill, freeze and drain nodes of a cluster at random while a sweep runs, and compare its rows with those of an undisturbed run.

    python benchmarks/nodes.py --minutes 5 --seed 1

The nodes are Ray's, on this machine (`tests/cluster_nodes.py`); the trials sleep (`benchmarks/stand_in.py`), everything else is real. The
number of nodes goes 2, 0, 3, 1 and then at random between 0 and 3. Four promises are checked:

    rows      the tables are those of the undisturbed run, but for time, host and attempt
    slots     the slot-seconds offered until the end are at most 1.15 times those of the undisturbed run
    losses    no hard loss of a node, a kill or a long freeze, costs more work than one save interval and the epoch in which it falls
    attempts  a node that was drained costs no trial an attempt

Offered are the slots of nodes that Ray knows to live and that do not drain, summed over the time from the first epoch of the sweep to its
end, and looked up five times a second. In this measure what a disturbance costs is lost work, the start of a process on a node that
joins, and the time until a loss is noticed; so epochs are sized that a node lives for many of them. A frozen node offers its slots until
Ray takes it for dead. Exit code 1 if a promise is not kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from cluster_nodes import LocalCluster, Node
from storm import tables

from sweeper.results import Results

EPOCH_S = 1.0
SAVE_S = 3.0
FIRST_COUNTS = (2, 0, 3, 1)
MOST = 3
MAX_RATIO = 1.15
FREEZE_S = 20.0
"""A freeze is this long or a quarter of it: Ray takes a node for dead that has not answered for some seconds."""


def write_space(folder: Path, seconds: float) -> Path:
    """Write a sweep that takes two slots about this long: trials of 10 epochs, every third of which continues another's alignment."""
    seeds = max(2, round(seconds * 2 / EPOCH_S / (10 + 10 + 4)))
    path = folder / "nodes.yaml"
    path.write_text(
        "name: nodes\n"
        "base: {task: digits, body.weights: random, finetune: {epochs: 10, warmup_epochs: 0, decay_epochs: null}}\n"
        f"space: {{align.epochs: {{grid: [0, 4]}}}}\nseeds: {seeds}\n"
    )
    return path


@dataclass
class Sweep:
    """A sweep that runs on a cluster, and what is offered to it meanwhile."""

    cluster: LocalCluster
    folder: Path
    space: Path
    offered: float = 0.0
    seconds: float = 0.0
    process: subprocess.Popen[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        stand_in = Path(__file__).with_name("stand_in.py")
        command = [sys.executable, str(stand_in), str(self.space), "--results", str(self.results), "--address", self.cluster.address]
        command += ["--log", str(self.log), "--epoch-s", str(EPOCH_S), "--save-s", str(SAVE_S)]
        with (self.folder / "out.txt").open("wb") as out:
            self.process = self.cluster.start(command, folder=self.folder, stdout=out, stderr=subprocess.STDOUT)

    @property
    def results(self) -> Path:
        """Folder of its results."""
        return self.folder / "results"

    @property
    def log(self) -> Path:
        """File of its computed epochs."""
        return self.folder / "epochs.jsonl"

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def epochs(self) -> list[list[Any]]:
        """Its computed epochs: node, stage, epoch, when it began and ended."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("]")]


class Cluster(LocalCluster):
    """A cluster whose number of slots is counted all the time. Its observer answers one question at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._asking = threading.Lock()
        self.draining: set[str] = set()

    def _ask(self, *request: Any) -> Any:
        with self._asking:
            return super()._ask(*request)

    def slots(self) -> int:
        """The slots of the nodes that live and do not drain."""
        return sum(int(node["Resources"].get("CPU", 0)) for node in self.nodes() if node["Alive"] and node["NodeID"] not in self.draining)

    def count_until_the_end(self, sweep: Sweep) -> None:
        """Sum up what is offered from the first epoch to the end."""
        while not sweep.epochs() and not sweep.is_over:
            time.sleep(0.05)
        began = last = time.monotonic()
        while not sweep.is_over:
            now = time.monotonic()
            sweep.offered += self.slots() * (now - last)
            last = now
            time.sleep(0.2)
        sweep.seconds = time.monotonic() - began


class Storm:
    """What happens to the nodes. Each is killed, drained and killed, or frozen for a while."""

    def __init__(self, cluster: Cluster, dice: Random, least_s: float, most_s: float) -> None:
        self._cluster, self._dice, self._pause = cluster, dice, (least_s, most_s)
        self._live: list[Node] = []
        self._counts = list(FIRST_COUNTS)
        self.events: Counter[str] = Counter()
        self.hard: list[tuple[str, float]] = []
        """Node and time of each hard loss."""
        self.drained: set[str] = set()

    def begin(self) -> None:
        """Start the first nodes."""
        self._set_count(self._counts.pop(0))

    def rage(self, sweep: Sweep) -> None:
        """Go on until the sweep ends, from its first epoch on."""
        while not sweep.epochs() and not sweep.is_over:
            time.sleep(0.1)
        while not self._wait(sweep, self._dice.uniform(*self._pause)):
            if self._live and not self._counts and self._dice.random() < 0.25:
                self._freeze(sweep, self._dice.choice(self._live))
                continue
            count = self._counts.pop(0) if self._counts else self._dice.choice([n for n in range(MOST + 1) if n != len(self._live)])
            self._set_count(count)
            if count == 0:
                self._wait(sweep, 3.0)
                self._set_count(self._counts.pop(0) if self._counts else self._dice.randint(1, MOST))

    def _set_count(self, count: int) -> None:
        while len(self._live) > count:
            node = self._live.pop(self._dice.randrange(len(self._live)))
            if self._dice.random() < 0.5:
                self._kill(node)
            else:
                self._drain(node)
        if len(self._live) < count:
            added = [self._cluster.add_node(cpus=1, wait=False) for _ in range(count - len(self._live))]
            self._cluster.wait_for_nodes()
            self.events["added"] += len(added)
            self._live += added

    def _kill(self, node: Node) -> None:
        self.events["killed"] += 1
        self.hard.append((node.node_id, time.time()))
        node.kill()

    def _drain(self, node: Node) -> None:
        self.events["drained"] += 1
        ident = node.node_id
        self.drained.add(ident)
        node.drain(15)
        self._cluster.draining.add(ident)
        threading.Timer(15, node.kill).start()

    def _freeze(self, sweep: Sweep, node: Node) -> None:
        """Freeze a node: Ray may take it for dead; then it ends by itself once it goes on."""
        seconds = self._dice.choice([FREEZE_S, FREEZE_S / 4])
        self.events["frozen"] += 1
        ident = node.node_id
        self.hard.append((ident, time.time()))
        node.freeze()
        self._wait(sweep, seconds)
        node.thaw()
        self._wait(sweep, 2.0)
        if not node.alive:
            self._live.remove(node)
            self.events["frozen to death"] += 1

    def _wait(self, sweep: Sweep, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not sweep.is_over and time.monotonic() < until:
            time.sleep(0.1)
        return sweep.is_over


def lost_work(epochs: list[list[Any]], hard: list[tuple[str, float]]) -> list[float]:
    """Seconds of work that each hard loss cost: epochs that its node had computed and another node computed once more."""
    computed: defaultdict[tuple[str, int], list[list[Any]]] = defaultdict(list)
    for epoch in epochs:
        computed[epoch[1], epoch[2]].append(epoch)
    lost = []
    for node, at in hard:
        again = [
            done
            for done in computed.values()
            for first in done
            if first[0] == node and first[4] <= at + EPOCH_S and len(done) > 1 and first is not done[-1]
        ]
        lost.append(sum(done[0][4] - done[0][3] for done in again))
    return lost


def calm_run(folder: Path, space: Path) -> Sweep:
    """The undisturbed run, on two nodes."""
    with Cluster() as cluster:
        for _ in range(2):
            cluster.add_node(cpus=1, wait=False)
        cluster.wait_for_nodes()
        sweep = Sweep(cluster, folder, space)
        cluster.count_until_the_end(sweep)
    return sweep


def main() -> int:
    """Run both sweeps and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="about how long the undisturbed run takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, nargs=2, default=(20.0, 40.0), metavar=("LEAST", "MOST"), help="seconds between events")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nodes-storm-"))
    space = write_space(folder, arguments.minutes * 60)
    calm = calm_run(folder / "calm", space)
    with Cluster() as cluster:
        storm = Storm(cluster, Random(arguments.seed), *arguments.every)
        storm.begin()
        sweep = Sweep(cluster, folder / "storm", space)
        counting = threading.Thread(target=cluster.count_until_the_end, args=(sweep,))
        counting.start()
        storm.rage(sweep)
        counting.join()
    return report(calm, sweep, storm, folder)


def report(calm: Sweep, sweep: Sweep, storm: Storm, folder: Path) -> int:
    """Print what was promised and what was found."""
    lost = lost_work(sweep.epochs(), storm.hard)
    expected, found = tables(calm.results), tables(sweep.results)
    differing = {name: len(set(rows) ^ set(found[name])) for name, rows in expected.items() if found[name] != rows}
    attempts = Results(sweep.results).sql("select coalesce(sum(attempt - 1), 0) as extra from trial_status").rows()[0]["extra"]
    ratio = sweep.offered / calm.offered
    most = SAVE_S + 2 * EPOCH_S
    promises = {
        "both runs end with exit code 0": (
            f"{calm.process.returncode}, {sweep.process.returncode}",
            calm.process.returncode == sweep.process.returncode == 0,
        ),
        "rows equal those of the undisturbed run": (f"{differing or 'all equal'}, {len(expected['trials'])} trials", not differing),
        f"slot-seconds at most {MAX_RATIO} times": (f"{sweep.offered:.0f} / {calm.offered:.0f} = {ratio:.3f}", ratio <= MAX_RATIO),
        f"work lost by a hard loss at most {most:g} s": (
            f"{max(lost, default=0):.1f} s at most, {sum(lost):.0f} s in all",
            max(lost, default=0) <= most,
        ),
        "attempts are of hard losses alone": (f"{attempts} more than trials, {len(storm.hard)} hard losses", attempts <= len(storm.hard)),
    }
    print(
        f"events: {', '.join(f'{count} {name}' for name, count in storm.events.items())}; {calm.seconds:.0f} s calm, "
        f"{sweep.seconds:.0f} s in the storm"
    )
    for name, (said, holds) in promises.items():
        print(f"{'kept' if holds else 'NOT KEPT':<9} {name:<46} {said}")
    print(f"logs: {folder}")
    return 0 if all(holds for _, holds in promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
