"""`resources: {gpu: auto}` measures the memory of trials, packs as many on a GPU as fit, and falls back to fewer where one runs out."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction
from random import Random

import pytest
from simulated_sweep import SimulatedSweep

from orca_core.config.paths import KNOBS
from orca_core.errors import ConfigError
from orca_core.rows import EpochRow
from sweeper.planning.cost import CostModel
from sweeper.planning.planner import Planner
from sweeper.results import Workspace
from sweeper.running.losses import Loss
from sweeper.running.outcome import Outcome
from sweeper.running.packing import SAME_MEMORY, Need, Packing, kind_of
from sweeper.running.reconcile import reconcile
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.running.simulated_gpus import SimulatedGpus
from sweeper.running.simulation import Chances, Simulation
from sweeper.show.plan_work import work_lines
from sweeper.space.file import Resources
from sweeper.space.reading import parse_space
from sweeper.tune.cluster import Cluster

GIB = 2**30
WHOLE = Fraction(1)
SPACE = {
    "name": "packed",
    "base": {"task": "digits", "body.weights": "random", "align.epochs": 0, "finetune": {"epochs": 3, "warmup_epochs": 0}},
    "space": {"freezing": {"grid": ["full", "layernorm", "frozen-body"]}},
    "seeds": 6,
    "resources": {"gpu": "auto"},
}
PEAKS = {"full": 9 * GIB, "layernorm": 9 * GIB, "frozen-body": 4 * GIB}
"""On 40 GiB of memory, of which 36 are used, with 0.6 GiB for each process: 3, 3 and 7 trials share a GPU."""

NOTHING_HAPPENS = Chances()
COMPLETE = {"status": "COMPLETE", "valid_error": 0.25}
OUT_OF_MEMORY = {"status": "FAIL", "cause": "out-of-memory", "error": "CUDA out of memory", "traceback": ""}


def peak_of(trial) -> int:
    return PEAKS[trial.knobs()["freezing"]]


class Sweep(SimulatedSweep):
    """A sweep on simulated GPUs; `gpus` are those of the last run."""

    def __init__(self, peak_of=peak_of, count: int = 1, **keys: object) -> None:
        super().__init__(parse_space(SPACE | keys))
        self.peak_of, self.count = peak_of, count

    def run(self, chances: Chances = NOTHING_HAPPENS, seed: int = 0) -> Outcome:
        self.gpus = SimulatedGpus(self.count, 40 * GIB, self.peak_of)
        outcome = super().run(Random(seed), slots=1, chances=chances, gpus=self.gpus, watch=self._watch)
        self.freezing = {trial.id: trial.knobs()["freezing"] for trial in self.found.planner.plan.trials}
        return outcome

    def _watch(self, simulation: Simulation) -> None:
        for gpu in range(self.count):
            assert self.gpus.used(gpu) <= 1

    def shares(self) -> dict[str, list[Fraction]]:
        """The shares with which trials began, in their order, by freezing."""
        found = defaultdict(list)
        for trial, share in self.gpus.begun:
            found[self.freezing[trial]].append(share)
        return found

    def last(self) -> list[dict]:
        return [dict(row) for row in self.tables.live_trials()]


def test_the_first_trial_of_each_kind_has_a_whole_gpu_and_the_others_as_much_as_it_took():
    sweep = Sweep()
    assert sweep.run() is Outcome.FINISHED
    assert sweep.shares() == {
        "full": [WHOLE] + [Fraction(1, 3)] * 5,
        "layernorm": [WHOLE] + [Fraction(1, 3)] * 5,
        "frozen-body": [WHOLE] + [Fraction(1, 7)] * 5,
    }
    assert [share for _, share in sweep.gpus.begun[:3]] == [WHOLE] * 3, "kinds are measured before anything is packed"
    assert {row["status"] for row in sweep.last()} == {"COMPLETE"}
    rows = {(sweep.freezing[row["trial"]], row["gpu_share"]) for row in sweep.last()}
    assert ("frozen-body", 1 / 7) in rows
    assert {row["gpu_bytes"] for row in sweep.last()} == {9 * GIB, 4 * GIB}


def test_no_more_trials_share_a_gpu_than_the_space_allows():
    sweep = Sweep(peak_of=lambda trial: GIB)
    sweep.run()
    assert {share for _, share in sweep.gpus.begun[3:]} == {Fraction(1, 8)}
    sweep = Sweep(peak_of=lambda trial: GIB, resources={"gpu": "auto", "gpu_trials": 2})
    sweep.run()
    assert {share for _, share in sweep.gpus.begun[3:]} == {Fraction(1, 2)}


def test_a_trial_that_runs_out_of_its_share_starts_again_with_a_larger_one_and_so_do_others_of_its_kind():
    """The first trial of a kind says little if the others take more."""
    measured = set()

    def grows(trial) -> int:
        measured.add(trial.id)
        return 3 * GIB if next(iter(measured)) == trial.id else 15 * GIB

    sweep = Sweep(grows, space={"finetune.lr": {"grid": [0.1, 0.2]}}, seeds=5)
    assert sweep.run() is Outcome.FINISHED
    assert {row["status"] for row in sweep.last()} == {"COMPLETE"}
    shares = [share for _, share in sweep.gpus.begun]
    assert shares[:2] == [WHOLE, Fraction(1, 8)]
    assert set(shares[-3:]) == {Fraction(1, 2)}, "15 GiB are 2 on a GPU"
    lost = [row for row in sweep.tables.rows["trials"] if row["status"] == "INTERRUPTED"]
    assert lost
    assert {row["cause"] for row in lost} == {"out-of-memory"}
    assert all(row["error"].startswith("simulated: CUDA out of memory; the trial is started again with 1/") for row in lost)
    assert {row["gpu_share"] for row in lost} <= {1 / 8, 1 / 4}


def test_only_what_does_not_fit_on_a_whole_gpu_fails():
    def too_much(trial) -> int:
        return 41 * GIB if trial.knobs()["freezing"] == "full" else peak_of(trial)

    sweep = Sweep(too_much)
    assert sweep.run() is Outcome.FINISHED
    assert set(sweep.shares()["full"]) == {WHOLE}
    ends = {(sweep.freezing[row["trial"]], row["status"], row.get("cause"), row["attempt"]) for row in sweep.last()}
    assert ends == {("full", "FAIL", "out-of-memory", 1), ("layernorm", "COMPLETE", None, 1), ("frozen-body", "COMPLETE", None, 1)}


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_shares_fit_and_every_trial_ends_once(seed):
    random = Random(seed)
    keys = {"scheduler": {"name": "asha", "among": "task", "reduction_factor": 2}} if seed % 2 else {}
    sweep = Sweep(lambda trial: random.choice([2, 6, 14, 30]) * GIB, count=random.choice([1, 2]), **keys)
    outcomes = [
        sweep.run(Chances(lost=0.05, stop=0.01, held_back=0.1) if run < 3 else NOTHING_HAPPENS, seed=seed + run) for run in range(4)
    ]
    assert outcomes[-1] is Outcome.FINISHED
    assert {row["status"] for row in sweep.last()} <= {"COMPLETE", "PRUNED"}
    ends = Counter((row["trial"], row["attempt"]) for row in sweep.tables.rows["trials"] if row["sequence"] == 1)
    assert set(ends.values()) == {1}


# ---------------------------------------------------------------------------------------------------------------- in a session


class Run:
    """A session whose clock is set by hand, in hours, with its results in files."""

    def __init__(self, folder, packing: Packing | None = None, **keys: object) -> None:
        self.hour, self.workspace = 0.0, Workspace(folder / "results")
        self.planner = Planner(parse_space(SPACE | {"space": {}} | keys))
        self.recorder = Recorder(self.workspace.results, "packed", "valid_error", clock=self.clock)
        self.packing = packing or Packing(self.planner.space.resources)
        todo = self.planner.plan.trials
        self.session = Session(self.planner, todo, self.recorder, self.workspace, slots=8, packing=self.packing, clock=self.clock)

    def clock(self) -> float:
        return 3600 * self.hour

    def begin(self, gpu: float | None = None):
        trial = self.session.next()
        self.session.start(trial.id, gpu=gpu)
        return trial

    def report(self, trial, peak: int, phase: int = 0, total: int = 40 * GIB) -> None:
        row = EpochRow(stage="finetune", phase=phase, epoch=phase + 1)
        self.session.report(trial.id, [row], worker={"gpu_bytes": peak, "gpu_total_bytes": total})


def test_a_continued_sweep_and_another_one_with_such_trials_pack_at_once(tmp_path):
    run = Run(tmp_path)
    trial = run.begin()
    run.report(trial, 9 * GIB)
    run.session.end(trial.id, COMPLETE)
    run.recorder.flush()
    for keys in ({"name": "packed"}, {"name": "other", "base": SPACE["base"] | {"finetune.lr": 0.5}}):
        space = parse_space(SPACE | {"space": {}} | keys)
        packing = Packing.recall(space.resources, run.workspace)
        assert {packing.share(trial) for trial in Planner(space).plan.trials} == {1 / 3}
    larger = Planner(parse_space(SPACE | {"space": {}, "base": SPACE["base"] | {"finetune.batch_size": 999}})).plan.trials[0]
    assert packing.share(larger) == 1
    assert Packing.recall(Resources(gpu=0.5), run.workspace).share(larger) == 0.5


def test_that_trials_ran_out_of_memory_is_remembered(tmp_path):
    run = Run(tmp_path)
    trial = run.begin()
    run.report(trial, 2 * GIB)
    run.session.end(trial.id, COMPLETE)
    second = run.begin()
    assert run.session.packing.share(second) == 1 / 8
    run.session.end(second.id, OUT_OF_MEMORY)
    run.recorder.flush()
    assert Packing.recall(run.planner.space.resources, run.workspace).share(second) == 1 / 4


def test_a_phase_that_trains_less_than_the_last_one_does_not_count(tmp_path):
    run = Run(tmp_path, base=SPACE["base"] | {"freezing": "frozen-body:1"})
    trial = run.begin()
    run.report(trial, 2 * GIB)
    assert run.packing.share(trial) == 1
    run.report(trial, 9 * GIB, phase=1)
    assert run.packing.share(trial) == pytest.approx(1 / 3)


def test_the_smallest_gpu_decides(tmp_path):
    run = Run(tmp_path)
    first, second = run.begin(), run.begin()
    run.report(first, 9 * GIB, total=80 * GIB)
    assert run.packing.share(first) == 1 / 7
    run.report(second, 9 * GIB, total=24 * GIB)
    assert run.packing.share(first) == 1 / 2


def test_gpu_hours_are_what_processes_hold_whatever_trials_ask_for_by_now(tmp_path):
    run = Run(tmp_path, budget={"gpu_hours": 3.0})
    first, second = run.begin(), run.begin()
    run.hour = 1.0
    run.report(first, 9 * GIB)
    run.session.end(first.id, COMPLETE)
    third = run.begin()
    run.hour = 2.0
    assert run.session.processes.meter.hours == pytest.approx(1 + 2 + 1 / 3), "the second began with a whole GPU"
    run.session.end(second.id, COMPLETE)
    run.session.ending.check_deadline()
    assert run.session.is_ending
    run.session.cut(third.id)
    run.recorder.flush()
    rows = run.workspace.sql("select trial, gpu_share from trial_status where gpu_share is not null").rows()
    assert {row["trial"]: row["gpu_share"] for row in rows} == {first.id: 1.0, second.id: 1.0, third.id: 1 / 3}


def test_a_machine_that_runs_out_of_memory_gets_fewer_trials_at_once_too(tmp_path):
    run = Run(tmp_path)
    run.report(trial := run.begin(), 4 * GIB)
    lost = run.begin()
    run.session.lose(lost.id, Loss("out-of-memory", "Ray ended the worker's process", None))
    assert run.packing.share(trial) == pytest.approx(1 / 3), "7 trials on a GPU were too many"
    alone = run.begin(gpu=1.0)
    run.session.end(alone.id, OUT_OF_MEMORY)
    assert run.recorder.ended[alone.id].status == "FAIL"


def test_where_the_share_is_a_number_a_trial_that_runs_out_of_memory_fails(tmp_path):
    run = Run(tmp_path, resources={"gpu": 0.5})
    trial = run.begin()
    run.session.end(trial.id, OUT_OF_MEMORY)
    assert run.recorder.ended[trial.id].status == "FAIL"


# ------------------------------------------------------------------------------------------------------------------------ kinds


def test_a_row_has_the_kind_of_its_trial(tmp_path):
    """Numbers become columns of another type, lists of names texts; the kind must survive that."""
    knobs = {"freezing": [{"train": ["predictor"], "epochs": 1}, {"train": "all"}], "adapter": "lora", "finetune.mixout": 0.5}
    run = Run(tmp_path, base=SPACE["base"] | knobs)
    trial = run.begin()
    run.recorder.flush()
    (row,) = run.workspace.results.live_trials("packed")
    assert kind_of(row) == kind_of(trial.cells())


def test_knobs_that_do_not_change_the_memory_are_knobs():
    assert set(KNOBS) >= SAME_MEMORY


def test_progress_says_how_many_trials_share_a_gpu(tmp_path):
    run = Run(tmp_path, space=SPACE["space"])
    assert run.packing.describe() == "1 trial on a GPU until its memory is measured"
    for peak in (9, 4):
        run.report(run.begin(), peak * GIB)
    assert run.packing.describe() == "3 to 7 trials on a GPU, 1 kind of trials to be measured"
    assert Packing(Resources(gpu=0.5)).describe() == ""


def test_half_as_many_after_each_lack_of_memory():
    need = Need()
    for share, most in ((1 / 7, 3), (1 / 8, 3), (1 / 3, 1), (1.0, 1)):
        need.ran_out(share)
        assert need.most == most


# ------------------------------------------------------------------------------------------------------------------ what is said


def test_a_plan_says_how_many_trials_share_a_gpu_as_far_as_that_is_known(tmp_path):
    run = Run(tmp_path)
    todo = run.planner.plan.trials
    found, costs = reconcile(run.planner.space, run.workspace.results), CostModel()

    def gpus() -> str:
        packing = Packing.recall(run.planner.space.resources, run.workspace)
        lines = list(work_lines(found, todo, costs, packing=packing))
        assert lines[0] == "Needs    each trial 1 CPU, a GPU, shared once it is measured how many fit"
        return lines[-1]

    assert gpus() == "GPUs     at most about 0.005 GPU-hours, 1 trial on a GPU until its memory is measured"
    trial = run.begin()
    run.report(trial, 9 * GIB)
    run.session.end(trial.id, COMPLETE)
    run.recorder.flush()
    assert gpus() == "GPUs     about 0.002 GPU-hours, 3 trials on a GPU"


def test_auto_is_refused_where_there_is_no_gpu(monkeypatch):
    """The cluster of the tests has GPUs, so what Ray says of its nodes is given here."""
    node = {"Alive": True, "Resources": {"CPU": 4.0, "memory": 8.0 * GIB}, "Labels": {}, "NodeID": "a", "NodeManagerHostname": "a"}
    monkeypatch.setattr("ray.nodes", lambda: [node])
    monkeypatch.setattr("ray._private.state.state.get_draining_nodes", dict)
    monkeypatch.setattr("sweeper.tune.cluster.read_autoscaler", lambda: None)
    with pytest.raises(ConfigError, match=r"resources\.gpu: must be 0 where no node has a GPU, but got 'auto'\. Leave it out"):
        Cluster(Resources(gpu="auto")).check_fit()
