"""What keeps a sweep from going on is named, with a remedy, soon after it begins; and when it is over, that is said, too."""

from __future__ import annotations

import json
import re
import sys
import threading
from dataclasses import dataclass, field, replace

import pytest

from orca_core.errors import ConfigError, StoreError, StoreUnavailableError
from orca_core.rows import EpochRow
from sweeper.planning.planner import Planner
from sweeper.results import Workspace
from sweeper.running.claim import claim_sweep
from sweeper.running.lookout import IDLES_S, Lookout, NodeResult
from sweeper.running.losses import Loss
from sweeper.running.nodes import NODE_CAUSES, Node
from sweeper.running.notify import Notifier, parse_command
from sweeper.running.obstacles import AutoscalerState
from sweeper.running.outcome import Outcome
from sweeper.running.plan_note import plan_note
from sweeper.running.processes import OVERDUE_GRACE_S
from sweeper.running.progress import Progress
from sweeper.running.reasons import KINDS, Notice, Reason, Reasons
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.show.results import arms_status, describe_status, sweep_status
from sweeper.space.reading import parse_space

ONE, TWO = Node("1" * 8, "node-1"), Node("2" * 8, "node-2")
LOOK_S = 2.0
TOLD_WITHIN_S = 10.0


@dataclass
class Machines:
    """What Ray would say of a cluster."""

    now: list[Node] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    state: AutoscalerState | None = None

    def nodes(self, gpu: float | None = None) -> list[Node]:
        return self.now

    def unfit(self) -> list[str]:
        return self.small

    def autoscaler(self) -> AutoscalerState | None:
        return self.state

    address = "10.0.0.1:6379"


@dataclass
class Checks:
    """What nodes would answer."""

    results: list[NodeResult] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    def look(self, nodes: object) -> list[NodeResult]:
        found, self.results = self.results, []
        return found


class Sweep:
    """A run whose surroundings are set by hand, and its clock, too; `told` holds what was said."""

    def __init__(self, folder, skew: object = None, wait_minutes: float = 15.0, **keys: object) -> None:
        base = {"task": "digits", "body.weights": "random", "align.epochs": 0, "finetune.epochs": 2}
        self.clock = 0.0
        self.workspace = Workspace(folder / "results")
        planner = Planner(parse_space({"name": "s", "base": base, "seeds": 4, "resources": {"cpu": 2}} | keys))
        self.recorder = Recorder(self.workspace.results, "s", "valid_error", clock=lambda: self.clock)
        self.plan, trials = planner.plan, planner.plan.trials
        self.session = Session(planner, trials, self.recorder, self.workspace, slots=0, clock=lambda: self.clock)
        self.machines, self.checks, self.told = Machines([ONE]), Checks(), list[Notice]()
        self.reasons = Reasons("s", clock=lambda: self.clock)
        self.reasons.listeners.append(self.told.append)
        self.progress = Progress(self.recorder, 4, quiet=True, reasons=self.reasons)
        self.progress.nodes = self.session.nodes
        self.lookout = Lookout(
            self.session,
            self.machines,
            self.reasons,
            checks=self.checks,
            skew=skew,
            wait_minutes=wait_minutes,
            clock=lambda: self.clock,
        )

    def look(self, seconds: float = TOLD_WITHIN_S) -> list[Notice]:
        """Look every two seconds for so long; what was told meanwhile."""
        before, end = len(self.told), self.clock + seconds
        while self.clock < end:
            self.lookout.look()
            self.clock += LOOK_S
        return self.told[before:]

    def begin(self, node: str = ONE.id):
        trial = self.session.next()
        self.session.start(trial.id, node)
        return trial

    def names(self, kind: str, *words: str) -> Reason:
        """The one reason that is told within ten seconds: its kind, words of it, and that the progress line has it, too."""
        notices = self.look()
        assert [(notice.reason.kind, notice.is_over) for notice in notices] == [(kind, False)]
        reason = notices[0].reason
        for word in words:
            assert word in reason.text
        assert reason.remedy
        assert reason.clause in self.progress.line()
        assert not self.look(), "it is told once"
        return reason

    def is_over(self, kind: str) -> None:
        """It is told within ten seconds that the reason is over, and the progress line lacks it."""
        notices = self.look()
        assert [(notice.reason.kind, notice.is_over) for notice in notices] == [(kind, True)]
        assert notices[0].reason.clause not in self.progress.line()


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return Sweep(tmp_path)


def test_a_sweep_that_goes_on_says_nothing(sweep):
    sweep.look(2)
    sweep.begin()
    assert not sweep.look(60)
    assert sweep.progress.line().startswith("0/4 trials, 1 running, 1 node, ")


# ------------------------------------------------------------------------------------------------------------ planted stalls


def test_no_worker_yet(sweep):
    sweep.machines.now = []
    sweep.machines.state = AutoscalerState(starting=1)
    reason = sweep.names("no-worker", "2 CPUs", "starting 1 node.", "The wait ends in 14 min.")
    assert "--wait" in reason.remedy
    sweep.machines.now = [ONE]
    sweep.is_over("no-worker")
    assert sweep.session.next() is not None


def test_the_wait_for_a_first_worker_ends_with_what_is_missing(tmp_path):
    sweep = Sweep(tmp_path, wait_minutes=1.0)
    sweep.machines.now, sweep.machines.state = [], AutoscalerState(failures=("gpu: InsufficientInstanceCapacity",))
    sweep.look(58)
    assert not sweep.session.is_ending
    sweep.look(6)
    sweep.session.close()
    assert sweep.session.outcome is Outcome.NO_WORKER
    assert sweep.session.ending.reason == (
        "A trial needs 2 CPUs. The cluster has no node for trials. The autoscaler could not start any: gpu: InsufficientInstanceCapacity."
    )


def test_a_wait_that_is_over_does_not_end_a_sweep_that_had_a_worker(tmp_path):
    sweep = Sweep(tmp_path, wait_minutes=0.1)
    sweep.look(4)
    sweep.machines.now = []
    sweep.look(60)
    assert not sweep.session.is_ending


def test_no_node_fits(sweep):
    sweep.machines.now, sweep.machines.small = [], ["node-1 (1 CPUs, 4 GiB)"]
    sweep.names("no-fit", "2 CPUs", "node-1 (1 CPUs, 4 GiB)", "There is no autoscaler.")
    sweep.machines.now = [TWO]
    sweep.is_over("no-fit")


def test_all_nodes_are_refused(tmp_path):
    """The causes come first; the headline does not repeat them, and says nothing of workers that are gone."""
    sweep = Sweep(tmp_path, wait_minutes=1.0)
    sweep.machines.now = [ONE, TWO]
    sweep.look(2)
    code, store = "the code of this worker is not that with which the sweep was started: x.", "s3://b: access is denied (403). Check."
    sweep.checks.results = [NodeResult(ONE.id, "other-code", code), NodeResult(TWO.id, "store", store)]
    told = [notice.reason for notice in sweep.look(8)]
    assert [reason.kind for reason in told] == ["other-code", "store", "refused"]
    assert told[0].text == f"node-1 gets no trials (other-code): {code}"
    assert told[2].text == (
        "None of the 2 nodes may run trials: node-1 has other code, node-2 cannot reach the store. There is no autoscaler. "
        "The wait ends in 56 s."
    )
    assert told[2].remedy == "Mend what is wrong with them, or start another node with `ray start --address=10.0.0.1:6379`."
    line = sweep.progress.line()
    assert line.startswith("[yellow]no node may run trials for 8 s (and 2 other problems)[/yellow], 0/4 trials, ")
    assert "0 of 2 nodes may run trials" in line
    sweep.look(60)
    sweep.session.close()
    assert sweep.session.outcome is Outcome.NO_WORKER, "no trial has got anywhere: the wait has an end"
    assert sweep.session.ending.reason == (
        "No node may run trials: node-1: the code of this worker is not that with which the sweep was started: x; "
        "node-2: s3://b: access is denied (403). Check. There is no autoscaler."
    )


def test_nodes_that_are_all_refused_after_a_trial_got_somewhere_are_waited_for(tmp_path):
    sweep = Sweep(tmp_path, wait_minutes=1.0)
    sweep.look(2)
    sweep.session.report(sweep.begin().id, [EpochRow(stage="finetune", epoch=1, valid_error=0.5)])
    sweep.checks.results = [NodeResult(ONE.id, "data", "no file x")]
    sweep.look(300)
    assert not sweep.session.is_ending
    assert "The only node may not run trials: node-1 lacks data. There is no autoscaler." in {
        reason.text for reason in sweep.reasons.current
    }
    sweep.machines.now = []
    told = sweep.look()
    assert {(notice.reason.kind, notice.is_over) for notice in told} == {("data", True), ("workers-lost", False)}, "no worker has joined"
    sweep.machines.now = [TWO]
    sweep.is_over("workers-lost")


def test_the_last_worker_is_lost(sweep):
    sweep.look(2)
    trial = sweep.begin()
    sweep.machines.now = []
    sweep.session.lose(trial.id, Loss(node=ONE.id))
    sweep.names("workers-lost", "The cluster has no node for trials.")
    assert "0 nodes, 1 lost" in sweep.progress.line()
    sweep.machines.now = [TWO]
    sweep.is_over("workers-lost")
    assert "1 node, 1 joined, 1 lost" in sweep.progress.line()
    assert sweep.session.next() is trial


def test_the_autoscaler_cannot_start_nodes(sweep):
    sweep.machines.state = AutoscalerState(failures=("spot: no capacity",))
    sweep.look(2)
    assert len([sweep.session.next() for _ in range(2)]) == 2
    sweep.names("launch", "spot: no capacity")
    sweep.machines.state = AutoscalerState()
    sweep.is_over("launch")


def test_the_autoscaler_is_at_its_limit(sweep):
    sweep.machines.state = AutoscalerState()
    sweep.look(2)
    running = sweep.begin()
    waiting = [sweep.session.next() for _ in range(3)]
    assert all(waiting), "more are offered than fit, as the cluster may grow"
    sweep.look(IDLES_S - LOOK_S)
    assert not sweep.told
    sweep.names("limit", "2 CPUs", "than the 1 there are")
    sweep.session.end(running.id, {"status": "COMPLETE", "valid_error": 0.5})
    for trial in waiting:
        sweep.session.start(trial.id, ONE.id)
    sweep.is_over("limit")


@pytest.mark.parametrize("cause", sorted({"data", "other-data", "store", "disk", "other-code", "import", "cuda"}))
def test_a_node_on_which_trials_cannot_run(sweep, cause):
    sweep.machines.now = [ONE, TWO]
    sweep.look(2)
    sweep.checks.results = [NodeResult(TWO.id, cause, f"what is wrong: {cause}")]
    sweep.names(cause, "node-2", f"what is wrong: {cause}")
    assert sweep.session.nodes.unusable == {TWO.id}
    assert sweep.session.slots == 1
    sweep.checks.results = [NodeResult(TWO.id)]
    sweep.is_over(cause)
    assert sweep.session.slots == 2


def test_a_node_on_which_processes_do_not_start(sweep):
    sweep.machines.now = [ONE, TWO]
    sweep.look(2)
    sweep.session.end(sweep.begin(ONE.id).id, {"status": "COMPLETE", "valid_error": 0.5})
    for _ in range(2):
        sweep.session.lose(sweep.begin(TWO.id).id, Loss("process-start", "the worker's process could not be started", TWO.id))
    sweep.names("process-start", "node-2", "could not be started")
    sweep.checks.results = [NodeResult(TWO.id)]
    assert not sweep.look(), "a check that finds nothing wrong does not bring back a node on which trials failed"
    sweep.machines.now = [ONE]
    sweep.is_over("process-start")


def test_a_node_that_does_not_answer(sweep):
    sweep.checks.unanswered = ["node-1"]
    sweep.names("no-answer", "node-1")
    sweep.checks.unanswered = []
    sweep.is_over("no-answer")


def test_a_node_that_drains(sweep):
    sweep.machines.now = [ONE, TWO]
    sweep.look(2)
    sweep.machines.now = [ONE, replace(TWO, is_draining=True)]
    sweep.names("draining", "node-2")
    sweep.machines.now = [ONE]
    sweep.is_over("draining")


def test_rows_that_cannot_be_written(sweep, monkeypatch):
    sweep.look(2)

    def fail(*_: object) -> None:
        raise StoreError("results: the disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(sweep.workspace.results, "append", fail)
        sweep.begin()
        sweep.names("rows", "results: the disk is full.")
    sweep.is_over("rows")
    assert sweep.workspace.sql("select count(*) as n from trial_status").rows() == [{"n": 1}]


def test_storage_out_of_reach(sweep):
    sweep.look(2)
    is_back, patience = threading.Event(), sweep.workspace.patience

    def read() -> None:
        if not is_back.is_set():
            raise StoreUnavailableError("s3://bucket: 503 Slow Down")

    with patience.lasting(5):
        waiting = threading.Thread(target=patience.wait_for, args=("s3://bucket", read))
        waiting.start()
        while patience.trouble is None:
            pass
        sweep.names("storage", "waiting for storage since", "503 Slow Down")
        assert sweep.session.next() is None, "no new trial meanwhile"
        is_back.set()
        waiting.join()
        sweep.is_over("storage")
        assert sweep.session.next() is not None


def test_a_trial_that_is_silent(tmp_path):
    sweep = Sweep(tmp_path, budget={"silent_minutes": 5})
    sweep.look(2)
    trial = sweep.begin()
    sweep.look(280)
    assert not sweep.told
    sweep.clock += 20
    reason = sweep.names("silent", trial.id, "node-1")
    assert reason.clause == f"trial {trial.id} has not reported for long"
    sweep.session.report(trial.id, [EpochRow(stage="finetune", epoch=1, valid_error=0.5)])
    sweep.is_over("silent")


def test_clocks_that_differ(tmp_path):
    ahead = [90.0]
    sweep = Sweep(tmp_path, skew=lambda: ahead[0])
    for _ in range(500):
        sweep.lookout.look()
        if sweep.lookout._skew.value is not None:
            break
    sweep.names("clock", "90 s ahead of that of the results")
    ahead[0] = 0.0
    sweep.clock += 601
    sweep.lookout.look()
    while sweep.lookout._skew.value:
        pass
    sweep.look()
    assert (sweep.told[-1].reason.kind, sweep.told[-1].is_over) == ("clock", True)


# ------------------------------------------------------------------------------------------------------------- time limit


def test_a_trial_that_hangs_is_ended_at_its_time_limit(tmp_path):
    sweep = Sweep(tmp_path, budget={"trial_minutes": 10})
    sweep.look(2)
    hangs, works = sweep.begin(), None
    sweep.machines.now = [ONE, TWO]
    sweep.look(2)
    works = sweep.begin(TWO.id)
    sweep.clock = 605.0 + OVERDUE_GRACE_S
    sweep.session.report(works.id, [EpochRow(stage="finetune", epoch=1, valid_error=0.5)])
    sweep.look(2)
    assert sweep.session.processes.hung == {hangs.id}, "the other one has just reported: it is asked to stop"
    assert sweep.session.wants_stop(works.id)
    sweep.session.time_out(hangs.id)
    sweep.recorder.flush()
    (row,) = sweep.workspace.sql("select trial, cause from trial_status where status = 'FAIL'").rows()
    assert row == {"trial": hangs.id, "cause": "timeout"}
    assert not sweep.session.processes.hung


# ---------------------------------------------------------------------------------------------------------- where it is said


def test_what_comes_and_goes_at_once_is_not_told(sweep):
    for second in range(40):
        sweep.clock = float(second)
        sweep.reasons.see([Reason("rows", "No.")] if second % 2 else [])
    assert not sweep.told


def test_the_most_important_reason_comes_first_and_the_others_are_counted(sweep):
    for _ in range(4):
        sweep.reasons.see([Reason("draining", "D.", about="node-2"), Reason("rows", "R."), Reason("data", "X.", about="node-1")])
        sweep.clock += 2
    assert sweep.progress.line().startswith("[yellow]rows held back for 8 s (and 2 other problems)[/yellow], ")
    assert [reason.kind for reason in sweep.reasons.current] == ["rows", "data", "draining"]


def test_status_says_it_on_any_machine(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.machines.now = []
    sweep.look()
    with claim_sweep(sweep.workspace.results, "s") as claim:
        sweep.workspace.results.save_plan("s", sweep.plan.hash, plan_note(sweep.plan))
        with claim.connect(lambda: None, lambda: sweep.recorder.counts() | {"reasons": sweep.reasons.facts()}):
            claim.write()
            text = describe_status(Workspace(sweep.workspace.uri), None)
    assert "s: No worker has joined yet. A trial needs 2 CPUs." in text
    assert (
        "There is no autoscaler. The wait ends in 14 min. Start another node with `ray start --address=10.0.0.1:6379`. --wait MINUTES"
        in text
    )


def test_a_lost_trial_waits_while_its_driver_lives_and_is_interrupted_if_the_driver_dies(sweep):
    sweep.look(2)
    trial = sweep.begin()
    results = sweep.workspace.results
    results.save_plan("s", sweep.plan.hash, plan_note(sweep.plan))
    sweep.session.lose(trial.id, Loss(node=ONE.id))
    sweep.recorder.flush()
    (row,) = sweep.workspace.sql("select status, cause, error from trial_status").rows()
    error = "the worker's process or machine was lost; the trial is started again"
    assert row == {"status": "INTERRUPTED", "cause": "infrastructure", "error": error}
    with claim_sweep(results, "s"):
        (line,) = sweep_status(sweep.workspace, "s").to_pylist()
        assert (line["pending"], line["fail"], line["interrupted"]) == (4, 0, 0)
        assert [arm["failed"] for arm in arms_status(sweep.workspace, "s").to_pylist()] == [0]
    (line,) = sweep_status(sweep.workspace, "s").to_pylist()
    assert (line["pending"], line["fail"], line["interrupted"]) == (3, 0, 1)


def test_progress_says_a_reason_in_a_line_of_its_own_once(capsys, sweep):
    shown = Progress(sweep.recorder, 4, reasons=sweep.reasons)
    sweep.machines.now = []
    sweep.look(60)
    sweep.machines.now = [ONE]
    sweep.look()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("s: No worker has joined yet. ")
    assert re.fullmatch(r"s: a worker has joined \(after \d+ s\)\.", lines[1]), "not what is no longer so"
    assert shown.nodes is None


def test_every_cause_for_which_a_node_may_be_to_blame_is_a_kind_of_reason():
    assert KINDS.keys() >= NODE_CAUSES


# ------------------------------------------------------------------------------------------------------------------- notify

WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.argv[-1] + '|' + sys.stdin.read() + '\\n')"


def test_a_command_gets_the_text_and_json_and_no_shell_sees_them(tmp_path):
    notices = [Notice("s", Reason("rows", "It's $HOME; `rm`."), 0.0), Notice("s", Reason("rows", "R."), 0.0, is_over=True)]
    command = parse_command(f'{sys.executable} -c "{WRITE}" {tmp_path / "said"}')
    notifier = Notifier(command)
    with notifier.running():
        for notice in notices:
            notifier.tell(notice)
    first, second = (tmp_path / "said").read_text().splitlines()
    text, data = first.split("|", 1)
    assert text == f"s: It's $HOME; `rm`. {KINDS['rows'].remedy}"
    assert json.loads(data) == {
        "sweep": "s",
        "kind": "rows",
        "about": "",
        "text": "It's $HOME; `rm`.",
        "remedy": KINDS["rows"].remedy,
        "since": 0.0,
        "is_over": False,
        "message": text,
    }
    text, data = second.split("|", 1)
    assert text.startswith("s: the rows could be written (after ")
    over = json.loads(data)
    assert (over["is_over"], over["text"], over["remedy"], over["message"]) == (True, "the rows could be written.", "", text)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import sys; sys.exit('no network')", r"ended with exit code 1 \(no network\)"),
        ("import time; time.sleep(9)", "took longer than 0.5 s"),
    ],
)
def test_a_command_that_fails_or_hangs_is_a_warning(code, problem, recwarn):
    notifier = Notifier([sys.executable, "-c", code], timeout_s=0.5 if "sleep" in code else 20)
    with notifier.running():
        notifier.tell(Notice("s", Reason("rows", "R."), 0.0))
    (warning,) = [str(one.message) for one in recwarn if "--notify" in str(one.message)]
    assert re.search(problem, warning)


@pytest.mark.parametrize("command", ["", "no-such-program --x", "'open"])
def test_a_command_that_cannot_be_run_is_refused_before_anything_starts(command):
    with pytest.raises(ConfigError, match="--notify: must be a command"):
        parse_command(command)
