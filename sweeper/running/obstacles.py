"""Finds the reasons why a run cannot go on, or is slowed, from what the driver knows of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from orca_core.patience import describe_seconds
from sweeper.running.driver import MAX_SKEW_S
from sweeper.running.nodes import Exclusion
from sweeper.running.reasons import Reason
from sweeper.running.session import Session

NAMED = 3
"""How many failures of the autoscaler, or nodes without room, are named."""


@dataclass(frozen=True)
class AutoscalerState:
    """The state of the autoscaler.

    Args:
        starting: Number of machines that are being started.
        failures: What could not be started, a line each: type of machine and reason, the newest last.
    """

    starting: int = 0
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sight:
    """What the driver sees of its surroundings, beside the machines that can run trials.

    Args:
        unfit: The machines that have CPUs and on which no trial fits, and what they have: `node-1 (1 CPU)`.
        autoscaler: Its state; None if there is none.
        idles: Whether trials have been waiting for room for a while, and the autoscaler has not been starting anything.
        unanswered: Host names of the machines that were asked what they have, and have not answered for long.
        waits_until_s: In how many seconds the wait for a first worker ends; None if it has no end.
        address: Of the cluster, for nodes that join; empty if it is unknown.
        skew: By how many seconds the clock of this machine is ahead of that of the results; None if that is unknown.
    """

    unfit: Sequence[str] = ()
    autoscaler: AutoscalerState | None = None
    idles: bool = False
    unanswered: Sequence[str] = ()
    waits_until_s: float | None = None
    address: str = ""
    skew: float | None = field(default=None)


def find_reasons(session: Session, sight: Sight) -> Iterator[Reason]:
    """The reasons that there are now; causes come before what follows from them."""
    yield from _storage_reasons(session, sight)
    yield from _node_reasons(session, sight)
    yield from _worker_reasons(session, sight)
    yield from _silent_trials(session)


def describe_lack(session: Session, sight: Sight) -> str:
    """What is missing for a first trial to run, and what the autoscaler does about it, in sentences."""
    if session.nodes.exclusions:
        causes = "; ".join(_describe_exclusion(one) for one in session.nodes.exclusions[:NAMED])
        return f"No node may run trials: {causes}{_more(session.nodes.exclusions)}. {_describe_autoscaler(sight)}"
    needs = f"A trial needs {session.space.resources.describe()}."
    return f"{needs} {_describe_nodes(session, sight)} {_describe_autoscaler(sight)}"


def _describe_nodes(session: Session, sight: Sight) -> str:
    if sight.unfit and session.nodes.is_empty:
        return f"None of the nodes has room for it: {', '.join(sight.unfit[:NAMED])}{_more(sight.unfit)}."
    if session.nodes.draining:
        return "All nodes are about to be taken away."
    return "The cluster has no node for trials."


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - NAMED} more" if len(found) > NAMED else ""


def _describe_exclusion(one: Exclusion) -> str:
    """`node-1: the code there is ...`, without a full stop."""
    return f"{one.host}: {one.why.rstrip('.')}"


def _describe_autoscaler(sight: Sight) -> str:
    state = sight.autoscaler
    if state is None:
        return "There is no autoscaler."
    if state.starting:
        return f"The autoscaler is starting {state.starting} node{'' if state.starting == 1 else 's'}."
    if state.failures:
        return f"The autoscaler could not start any: {'; '.join(state.failures[-NAMED:])}."
    if sight.idles:
        return "The autoscaler starts none: no node type of it has room for a trial, or it is at its limit."
    return "The autoscaler has been asked."


def _storage_reasons(session: Session, sight: Sight) -> Iterator[Reason]:
    if trouble := session.recorder.trouble:
        yield Reason("rows", f"The driver cannot write rows: {trouble.rstrip('.')}.")
    if waiting := session.storage_trouble:
        yield Reason("storage", f"The driver is {waiting.rstrip('.')}.")
    if sight.skew is not None and abs(sight.skew) > MAX_SKEW_S:
        order = "ahead of" if sight.skew > 0 else "behind"
        yield Reason("clock", f"The clock of this machine is {abs(sight.skew):.0f} s {order} that of the results.")


def _worker_reasons(session: Session, sight: Sight) -> Iterator[Reason]:
    state = sight.autoscaler
    if session.nodes.slots == 0:
        until = f" The wait ends in {describe_seconds(sight.waits_until_s)}." if sight.waits_until_s is not None else ""
        if exclusions := session.nodes.exclusions:
            causes = ", ".join(Reason(one.cause, "", about=one.host).clause for one in exclusions[:NAMED]) + _more(exclusions)
            text = f"None of the {len(exclusions)} nodes" if len(exclusions) > 1 else "The only node"
            is_able = "may run trials" if len(exclusions) > 1 else "may not run trials"
            text = f"{text} {is_able}: {causes}. {_describe_autoscaler(sight)}{until}"
            yield Reason("refused", text, f"Mend what is wrong with {'them' if len(exclusions) > 1 else 'it'}, or {_start_node(sight)}.")
        elif sight.unfit and session.nodes.is_empty:
            yield Reason("no-fit", f"No node has room for a trial. {describe_lack(session, sight)}{until}")
        elif session.had_worker:
            text = f"The last worker is gone, and trials wait for another one. {describe_lack(session, sight)}"
            yield Reason("workers-lost", text, _remedy(sight))
        else:
            remedy = f"{_remedy(sight)} --wait MINUTES bounds the wait."
            yield Reason("no-worker", f"No worker has joined yet. {describe_lack(session, sight)}{until}", remedy)
    elif state is not None and sight.idles and not state.failures and session.num_unplaced:
        needed = session.space.resources.describe()
        text = f"Trials wait for room ({needed} each), and the autoscaler starts no more nodes than the {session.nodes.count} there are."
        yield Reason("limit", text)
    if state is not None and state.failures and (session.nodes.slots == 0 or session.num_unplaced):
        yield Reason("launch", f"The autoscaler could not start nodes: {'; '.join(state.failures[-NAMED:])}.")


def _remedy(sight: Sight) -> str:
    """What to do where a node is missing: what the autoscaler says counts if there is one."""
    if sight.autoscaler is not None:
        return "See what the autoscaler says with `ray status`."
    return f"S{_start_node(sight)[1:]}."


def _start_node(sight: Sight) -> str:
    return f"start another node with `ray start --address={sight.address or 'HOST:PORT'}`"


def _node_reasons(session: Session, sight: Sight) -> Iterator[Reason]:
    for one in session.nodes.exclusions:
        yield Reason(one.cause, f"{one.host} gets no trials ({one.cause}): {one.why.rstrip('.')}.", about=one.host)
    for host in session.nodes.draining:
        yield Reason("draining", f"{host} is about to be taken away; its trials store their state and go on elsewhere.", about=host)
    for host in sight.unanswered:
        yield Reason(
            "no-answer", f"{host} joined more than a minute ago, but has not answered yet whether trials can run there.", about=host
        )


def _silent_trials(session: Session) -> Iterator[Reason]:
    if (minutes := session.space.budget.silent_minutes) is None:
        return
    for trial, seconds in session.processes.silent(minutes):
        host = session.nodes.host(session.nodes.node_of(trial))
        yield Reason("silent", f"Trial {trial} on {host} has not reported for {describe_seconds(seconds)}.", about=f"trial {trial}")
