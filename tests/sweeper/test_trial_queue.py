"""Leaders first: what a running trial is about to publish, no other one computes; and every trial gets its turn."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.stages import Stage
from sweeper.planning.queue import TrialQueue
from sweeper.planning.trials import PlannedTrial

CONFIG = resolve_config({"task": "digits"})
FUSED = resolve_config({"task": "digits", "finetune.fused": 4})


def trial(name: str, align: str = "", epochs: int = 5, body: str = "", config: TrialConfig = CONFIG, tuned: str = "") -> PlannedTrial:
    """A trial that fine-tunes by itself, or along `tuned`, after an alignment and a pretraining that others may share."""
    stages = [Stage("pretrain", body, end=1)] if body else []
    stages += [Stage("align", align, end=epochs)] if align else []
    return PlannedTrial(name, config, "", 0, "", (*stages, Stage("finetune", tuned or name, end=1)), name)


def handed(queue: TrialQueue) -> list[str]:
    """Everything that can run now."""
    return [given.id for given in iter(queue.next, None)]


def test_a_leader_goes_first_and_other_branches_fill_the_slots():
    queue = TrialQueue([trial("a1", "a"), trial("a2", "a"), trial("b1", "b"), trial("b2", "b"), trial("c")])
    assert handed(queue) == ["a1", "b1", "c"]
    assert (queue.num_running, queue.is_empty) == (3, False)


def test_followers_are_released_when_the_stage_is_published_while_the_leader_still_runs():
    queue = TrialQueue([trial("a1", "a"), trial("a2", "a"), trial("a3", "a")])
    assert handed(queue) == ["a1"]
    queue.publish("a1", "finetune", 0)
    assert handed(queue) == []
    queue.publish("a1", "align", 0)
    assert handed(queue) == ["a2", "a3"]
    assert queue.is_empty


def test_when_a_leader_dies_the_next_in_line_leads():
    queue = TrialQueue([trial("a1", "a"), trial("a2", "a"), trial("a3", "a")])
    assert handed(queue) == ["a1"]
    queue.end("a1")
    assert handed(queue) == ["a2"]
    queue.end("a2")
    assert handed(queue) == ["a3"]


def test_a_paused_trial_leads_no_more_and_goes_on_before_those_that_have_not_started():
    queue = TrialQueue([trial("a1", "a"), trial("b1", "b"), trial("a2", "a"), trial("c")])
    assert [queue.next().id, queue.next().id] == ["a1", "b1"]
    queue.publish("b1", "align", 0)
    queue.pause("a1")
    queue.pause("b1")
    assert queue.num_running == 0
    assert queue.next().id == "a2", "its leader is paused, so it leads"
    queue.resume("b1")
    queue.resume("b1")
    queue.resume("a1")
    assert handed(queue) == ["b1", "c"], "a1 waits for the one that leads now"
    queue.end("a2")
    assert handed(queue) == ["a1"]


def test_a_paused_trial_that_ends_is_not_handed_out_any_more():
    queue = TrialQueue([trial("a1"), trial("a2")])
    assert queue.next().id == "a1"
    queue.pause("a1")
    queue.end("a1")
    queue.resume("a1")
    assert handed(queue) == ["a2"]


def test_one_that_leaves_a_trajectory_on_its_way_starts_when_that_state_is_stored():
    queue = TrialQueue([trial("far", "a", epochs=9), trial("near", "a", epochs=2), trial("middle", "a", epochs=5)])
    assert handed(queue) == ["far"]
    queue.publish("far", "align", 0, epoch=2)
    assert handed(queue) == ["near"]
    queue.publish("far", "align", 0, epoch=5)
    assert handed(queue) == ["middle"]


def test_a_longer_trajectory_waits_for_the_shorter_one_that_leads_to_it():
    queue = TrialQueue([trial("near", "a", epochs=2), trial("far", "a", epochs=9)])
    assert handed(queue) == ["near"]
    queue.publish("near", "align", 0)
    assert handed(queue) == ["far"]


def test_trials_that_are_added_later_follow_a_leader_too():
    queue = TrialQueue([trial("a1", "a"), trial("a2", "a")])
    assert handed(queue) == ["a1"]
    queue.add([trial("a3", "a"), trial("d")])
    assert handed(queue) == ["d"]


# ------------------------------------------------------------------------------------------------------------------ groups


def fused(name: str, align: str = "", config: TrialConfig = FUSED, tuned: str = "") -> PlannedTrial:
    return trial(name, align, config=config, tuned=tuned)


def group(queue: TrialQueue, most: int = 4) -> list[str]:
    """The trials that start together now; none if none may start."""
    first = queue.next()
    return [] if first is None else [first.id, *(other.id for other in queue.beside(first, lambda _: most))]


def test_what_comes_before_fine_tuning_is_computed_one_by_one_then_the_group_starts():
    queue = TrialQueue([fused("a1", "a"), fused("b1", "b"), fused("a2", "a"), fused("c"), fused("b2", "b")])
    assert [group(queue), group(queue), group(queue)] == [["a1"], ["b1"], []], "c waits for the others: a group costs what a full one does"
    assert queue.is_preparing("a1")
    queue.publish("a1", "align")
    queue.complete_preparing("a1")
    assert not queue.is_preparing("a1")
    assert (queue.num_running, queue.num_groups, queue.num_waiting) == (1, 1, 4)
    assert group(queue) == [], "b2 may join them"
    queue.publish("b1", "align")
    assert group(queue) == ["a1", "a2", "c", "b2"]
    queue.complete_preparing("b1")
    assert group(queue) == ["b1"]
    assert not queue.is_preparing("b1")


def test_a_group_starts_in_the_turn_of_its_followers_not_in_that_of_the_leader():
    other = resolve_config({"task": "digits", "finetune.fused": 4, "finetune.batch_size": 7})
    queue = TrialQueue([fused("a1", "a"), fused("b1", "b", config=other), fused("a2", "a"), fused("b2", "b", config=other)])
    assert group(queue) == ["a1"]
    queue.publish("a1", "align")
    queue.complete_preparing("a1")
    assert group(queue) == ["b1"], "it stands before a2, as b2 waits for it"
    assert group(queue) == ["a1", "a2"]


def test_a_full_group_starts_while_others_prepare():
    queue = TrialQueue([fused("a1", "a"), fused("b1", "b"), *(fused(f"c{number}") for number in range(4)), fused("d1", "d")])
    assert group(queue) == ["a1"]
    assert group(queue) == ["b1"]
    assert group(queue) == ["c0", "c1", "c2", "c3"]
    assert group(queue) == ["d1"]
    assert queue.is_empty


def test_one_that_was_lost_while_it_prepared_prepares_again_and_one_that_failed_is_not_waited_for():
    queue = TrialQueue([fused("a1", "a"), fused("a2", "a"), fused("b")])
    assert group(queue) == ["a1"]
    queue.pause("a1")
    queue.resume("a1")
    assert group(queue) == ["a1"]
    assert queue.is_preparing("a1")
    queue.end("a1")
    assert group(queue) == ["a2"]
    queue.end("a2")
    assert group(queue) == ["b"]


def test_a_trial_prepares_once_even_if_its_stages_are_not_all_stored():
    queue = TrialQueue([fused("a", "a"), fused("b")])
    assert group(queue) == ["a"]
    queue.complete_preparing("a")
    assert group(queue) == ["a", "b"]


def test_trials_that_do_not_share_start_with_their_group():
    queue = TrialQueue([fused("a1", "a"), fused("a2", "a")], share=False)
    assert group(queue) == ["a1", "a2"]


def test_a_group_that_is_not_full_waits_for_those_that_a_leader_blocks_and_lets_others_go_first():
    queue = TrialQueue([trial("a", "a"), fused("b1"), fused("b2", "a"), fused("b3", "a"), fused("b4"), trial("c")])
    assert group(queue) == ["a"]
    assert group(queue) == ["c"]
    assert group(queue) == []
    queue.publish("a", "align")
    assert group(queue) == ["b1", "b2", "b3", "b4"]


def test_trials_that_cannot_train_as_one_model_start_apart():
    other = resolve_config({"task": "digits", "finetune.fused": 4, "finetune.batch_size": 7})
    queue = TrialQueue([fused("a"), fused("b", config=other), fused("c"), fused("d", tuned="a"), fused("e", config=other)])
    assert group(queue) == ["a", "c"], "d follows the same trajectory of fine-tuning as a"
    assert group(queue) == ["b", "e"]
    queue.publish("a", "finetune")
    assert group(queue) == ["d"]


def test_what_a_leader_leaves_undone_stays_with_its_group():
    queue = TrialQueue([fused("a1", "a"), fused("a2", "a"), trial("a3", "a")])
    assert group(queue) == ["a1"]
    queue.complete_preparing("a1")  # and yet the alignment is not there
    assert group(queue) == ["a2"]
    queue.complete_preparing("a2")
    assert group(queue) == ["a1", "a2"]
    queue.end("a1")
    assert group(queue) == []
    queue.end("a2")
    assert group(queue) == ["a3"]


def test_a_group_is_as_large_as_each_of_its_trials_allows():
    queue = TrialQueue([fused(name) for name in "abcdef"])
    most = {"a": 4, "b": 1, "c": 2, "d": 4, "e": 4, "f": 4}
    first = queue.next()
    assert [other.id for other in queue.beside(first, lambda one: most[one.id])] == ["c"]
    assert group(queue, most=1) == ["b"]
    assert group(queue) == ["d", "e", "f"]


@pytest.mark.parametrize("strange", ["never handed out", ""])
def test_news_of_a_trial_that_does_not_run_changes_nothing(strange):
    queue = TrialQueue([trial("a1", "a"), trial("a2", "a")])
    queue.publish(strange, "align", 0)
    queue.end(strange)
    assert handed(queue) == ["a1"]


@st.composite
def trees(draw: st.DrawFn) -> list[PlannedTrial]:
    """Trials whose stages form a tree: a body has alignments, an alignment has fine-tunings, at epochs of their own."""
    branches = st.tuples(st.sampled_from(["", "m", "n"]), st.sampled_from(["", "p", "q"]), st.integers(1, 3))
    drawn = draw(st.lists(branches, max_size=12))
    return [trial(str(number), align and body + align, epochs, body) for number, (body, align, epochs) in enumerate(drawn)]


@settings(max_examples=300, deadline=None)
@given(trials=trees(), slots=st.integers(1, 4), data=st.data())
def test_whatever_happens_every_trial_runs_once_and_no_stage_is_computed_twice_at_once(trials, slots, data):
    split = data.draw(st.integers(0, len(trials)))
    queue, late = TrialQueue(trials[:split]), trials[split:]
    running: dict[str, tuple[PlannedTrial, int]] = {}  # trial, and which of its stages it is at
    stored: set[str] = set()
    ran: list[str] = []
    while late or running or not queue.is_empty:
        while len(running) < slots and (new := queue.next()) is not None:
            running[new.id] = (new, 0)
            ran.append(new.id)
        at_work = [run.stages[at] for run, at in running.values()]
        computed = [stage.folder for stage in at_work if stage.address not in stored]
        assert len(set(computed)) == len(computed), "computed twice at once"
        assert running or late or queue.is_empty, "all wait, and nobody runs"
        if late and (not running or data.draw(st.booleans())):
            queue.add([late.pop(0)])
            continue
        if not running:
            continue
        chosen = data.draw(st.sampled_from(sorted(running)))
        run, at = running[chosen]
        stage = run.stages[at]
        match data.draw(st.sampled_from(["die", "pass an epoch", "publish", "publish"])):
            case "die":
                del running[chosen]
                queue.end(chosen)
            case "pass an epoch":
                stored.add(stage.address_at(1))
                queue.publish(chosen, stage.kind, stage.phase, epoch=1)
            case "publish":
                stored.add(stage.address)
                queue.publish(chosen, stage.kind, stage.phase)
                running[chosen] = (run, at + 1)
                if at + 1 == len(run.stages):
                    del running[chosen]
                    queue.end(chosen)
    assert sorted(ran) == sorted(known.id for known in trials)
    assert queue.next() is None


@st.composite
def fused_trees(draw: st.DrawFn) -> list[PlannedTrial]:
    """Such trials, some of which train in groups, and some of these along the trajectory of another one."""
    branches = st.tuples(st.sampled_from(["", "m", "n"]), st.sampled_from(["", "p", "q"]), st.booleans(), st.sampled_from(["", "", "t"]))
    drawn = draw(st.lists(branches, max_size=12))
    return [
        trial(str(number), align and body + align, body=body, config=FUSED if is_fused else CONFIG, tuned=tuned and body + align + tuned)
        for number, (body, align, is_fused, tuned) in enumerate(drawn)
    ]


def at_work(left: dict[str, tuple[PlannedTrial, list[Stage]]]) -> list[tuple[PlannedTrial, Stage]]:
    """What the members of a group are at: stages before fine-tuning come one by one, then all fine-tune.

    Args:
        left: Member -> its stages that are still to come.
    """
    before = [(member, stages[0]) for member, stages in left.values() if stages[0].kind != "finetune"]
    return before[:1] or [(member, stages[0]) for member, stages in left.values()]


@settings(max_examples=100, deadline=None)
@given(trials=fused_trees(), slots=st.integers(1, 4), data=st.data())
def test_whatever_happens_to_groups_every_trial_ends_and_no_stage_is_computed_twice_at_once(trials, slots, data):
    queue = TrialQueue(trials)
    groups: list[dict[str, tuple[PlannedTrial, list[Stage]]]] = []
    stored: set[str] = set()
    ended: list[str] = []
    steps = 0
    while groups or not queue.is_empty:
        while len(groups) < slots and (new := queue.next()) is not None:
            members = [new, *queue.beside(new, lambda one: one.config.finetune.fused or 1)]
            assert not queue.is_preparing(new.id) or len(members) == 1
            groups.append({member.id: (member, list(member.stages)) for member in members})
        assert groups, "all wait, and nobody runs"
        assert queue.num_groups == len(groups)
        assert queue.num_waiting + queue.num_running + len(ended) == len(trials)
        now = [pair for left in groups for pair in at_work(left) if not (queue.is_preparing(pair[0].id) and pair[1].kind == "finetune")]
        computed = [stage.folder for _, stage in now if stage.address not in stored]
        assert len(set(computed)) == len(computed), "computed twice at once"
        left = data.draw(st.sampled_from(groups))
        member, stage = data.draw(st.sampled_from(at_work(left)))
        steps += 1
        if queue.is_preparing(member.id) and stage.kind == "finetune":
            queue.complete_preparing(member.id)
            left.clear()
        else:
            match data.draw(st.sampled_from(["publish", "fail", "lose the process", "pause"] if steps < 40 else ["publish"])):
                case "publish":
                    stored.add(stage.address)
                    queue.publish(member.id, stage.kind)
                    left[member.id][1].pop(0)
                    if stage.kind == "finetune":
                        queue.end(member.id)
                        ended.append(member.id)
                        del left[member.id]
                case "fail":
                    queue.end(member.id)
                    ended.append(member.id)
                    del left[member.id]
                case "lose the process":
                    for lost in left:
                        queue.pause(lost)
                        queue.resume(lost)
                    left.clear()
                case "pause":
                    queue.pause(member.id)
                    queue.resume(member.id)
                    del left[member.id]
        groups = [left for left in groups if left]
    assert sorted(ended) == sorted(known.id for known in trials)
    assert queue.next() is None
