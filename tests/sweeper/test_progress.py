"""Progress of a sweep: what a line says, and that nothing follows the last one."""

from __future__ import annotations

from types import SimpleNamespace

from sweeper.planning.planner import make_plan
from sweeper.running.nodes import Node
from sweeper.running.packing import Packing
from sweeper.running.progress import Progress, describe_start
from sweeper.running.reasons import Reason, Reasons
from sweeper.running.recorder import Recorder
from sweeper.running.simulated_store import SimulatedTables
from sweeper.space.file import Resources
from sweeper.space.reading import parse_space

TRIALS = make_plan(parse_space({"name": "s", "base": {"task": "digits"}, "seeds": 4})).trials


def test_a_line_counts_what_runs_and_what_ended_and_has_the_best_score():
    recorder = Recorder(SimulatedTables(), "s", "valid_error")
    recorder.tally.recall([{"trial": "another", "status": "COMPLETE", "task": "digits", "valid_error": 0.3}], "valid_error")
    progress = Progress(recorder, total=5, quiet=True)
    for trial in TRIALS:
        recorder.start(trial, device="cpu")
    recorder.end(TRIALS[0].id, {"status": "COMPLETE", "valid_error": 0.5})
    recorder.end(TRIALS[1].id, {"status": "COMPLETE", "valid_error": 0.25})
    recorder.end(TRIALS[2].id, {"status": "FAIL", "cause": "user-error"})
    line = progress.line()
    assert line.startswith(
        f"3/5 trials, 1 running, [red]1 failed (last {TRIALS[2].id}: user-error)[/red], 1 from earlier runs, "
        "best valid_error of digits 0.25, "
    )
    recorder.pause(TRIALS[3].id)
    assert progress.line().startswith("3/5 trials, 0 running, 1 paused, ")
    recorder.end(TRIALS[3].id, {"status": "PRUNED", "cause": "asha after epoch 1", "valid_error": 0.1})
    assert "0 running" in progress.line()
    assert "1 pruned" in progress.line()


def test_where_seeds_are_added_until_a_question_is_decided_the_number_of_trials_is_a_range():
    progress = Progress(Recorder(SimulatedTables(), "s", "valid_error"), total=24, quiet=True)
    assert progress.line().startswith("0/24 trials, ")
    progress.least = 9
    assert progress.line().startswith("0 of 9 to 24 trials, ")


def test_a_trial_of_an_earlier_run_that_starts_again_counts_once():
    """Early stopping may let a trial go on that an earlier run had stopped."""
    recorder = Recorder(SimulatedTables(), "s", "valid_error")
    rows = [{"trial": trial.id, "status": "PRUNED", "task": "digits"} for trial in TRIALS[:2]]
    recorder.tally.recall(rows, "valid_error")
    progress = Progress(recorder, total=4, quiet=True)
    assert progress.line().startswith("2/4 trials, 0 running, 2 pruned, 2 from earlier runs, ")
    recorder.start(TRIALS[0], device="cpu")
    assert progress.line().startswith("1/4 trials, 1 running, 1 pruned, 1 from earlier runs, ")
    recorder.end(TRIALS[0].id, {"status": "COMPLETE", "valid_error": 0.5})
    assert progress.line().startswith("2/4 trials, 0 running, 1 pruned, 1 from earlier runs, ")


def test_a_cluster_that_was_joined_is_described_before_its_processes_run():
    assert describe_start([Node("a", "one", 1)]) == "processes are starting on 1 node, which has room for 1 trial at once"
    two = [Node("a", "one", 1), Node("b", "two", 3)]
    assert describe_start(two) == "processes are starting on 2 nodes, which have room for 4 trials at once"
    assert describe_start([]) == "connected; the cluster has no node for trials yet"


def test_the_last_line_says_how_the_run_has_ended(capsys, monkeypatch):
    monkeypatch.setattr("sweeper.running.progress.PLAIN_EVERY_S", 0.0)
    recorder = Recorder(SimulatedTables(), "s", "valid_error")
    with Progress(recorder, total=1) as progress:
        recorder.start(TRIALS[0], device="cpu")
        progress.update()
    assert "1 running" in capsys.readouterr().err
    recorder.end(TRIALS[0].id, {"status": "FAIL", "cause": "stopped"})
    recorder.flush()
    assert capsys.readouterr().err == ""
    progress.finish()
    line = capsys.readouterr().err
    assert line.startswith("0/1 trials, 0 running, 1 interrupted, ")
    assert "left" not in line


def test_trials_that_a_stop_cut_short_are_interrupted_and_not_done():
    recorder = Recorder(SimulatedTables(), "s", "valid_error")
    progress = Progress(recorder, total=4, quiet=True)
    for trial in TRIALS:
        recorder.start(trial, device="cpu")
    recorder.end(TRIALS[0].id, {"status": "COMPLETE", "valid_error": 0.5})
    recorder.end(TRIALS[1].id, {"status": "FAIL", "cause": "stopped"})
    line = progress.line()
    assert line.startswith("1/4 trials, 2 running, 1 interrupted, best valid_error of digits 0.5, ")
    assert "failed" not in line


def test_no_time_passes_for_the_time_left_while_no_trial_gets_on():
    now, reasons = [0.0], Reasons("s", clock=lambda: now[0])
    recorder = Recorder(SimulatedTables(), "s", "valid_error", clock=lambda: now[0])
    recorder.tally.work.expect(TRIALS)
    progress = Progress(recorder, total=4, reasons=reasons, clock=lambda: now[0])

    def pass_by(seconds: float, *found: Reason) -> str:
        for _ in range(int(seconds / 2)):
            reasons.see(found)
            progress.update()
            now[0] += 2.0
        progress.update()
        return progress.line().rpartition(", ")[2]

    recorder.start(TRIALS[0], device="cpu")
    assert pass_by(60) == "1:00 elapsed"
    recorder.end(TRIALS[0].id, {"status": "COMPLETE", "valid_error": 0.5})
    before = pass_by(2)
    assert before.startswith("about ")
    assert pass_by(600) == before, "no trial runs: there is no worker"
    recorder.start(TRIALS[1], device="cpu")
    pass_by(4, Reason("storage", "The driver is waiting for storage."))
    before = pass_by(0)
    assert pass_by(600, Reason("storage", "The driver is waiting for storage.")) == before


def test_the_time_left_goes_up_with_the_reason_when_seeds_are_added_or_slots_are_lost():
    now = [0.0]
    recorder = Recorder(SimulatedTables(), "s", "valid_error", clock=lambda: now[0])
    recorder.tally.work.expect(TRIALS)
    progress = Progress(recorder, total=4, clock=lambda: now[0])
    planner = SimpleNamespace(least_trials=4, most_trials=12, searched_later=0)
    session = SimpleNamespace(planner=planner, width=4, in_use=4, is_ending=False, space=SimpleNamespace(looks=(4, 12)))
    session.packing = Packing(Resources())

    def look(width: int = 4) -> tuple[float, str]:
        session.width = width
        now[0] += 2.0
        progress.update(session)  # type: ignore[arg-type]
        standing = progress.standing()
        assert standing.left_s is not None
        return standing.left_s, standing.why

    for trial in TRIALS:
        recorder.start(trial, device="cpu")
    now[0] += 60.0
    recorder.end(TRIALS[0].id, {"status": "COMPLETE", "valid_error": 0.5})
    before, why = look()
    assert why == ""
    planner.least_trials, planner.searched_later = 6, 2
    more, why = look()
    assert more > before
    assert why == "2 trials were added for open contrasts"
    even_more, why = look(width=1)
    assert even_more > more
    assert why == "1 slot instead of 4"
    assert look(width=0) == (even_more, why), "without a slot nothing is promised"
    assert progress.standing().waiting == 6 - 1 - 3
