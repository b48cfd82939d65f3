"""What a plan says of probes: which there are, which trials cannot have them, and which finished trials lack them."""

from __future__ import annotations

from collections.abc import Iterator

from orca_core.probing.keys import refusals
from sweeper.planning.trials import Plan
from sweeper.results.workspace import Workspace
from sweeper.running.probes import describe_gone, find_lacking


def probe_lines(plan: Plan, workspace: Workspace) -> Iterator[str]:
    """The probes of a plan, a statement a line; none if it asks for no probes.

    Args:
        plan: The plan.
        workspace: Where results and stages are.
    """
    request = plan.space.probe_request
    if request is None:
        return
    layers = "" if request.layers is None else f", layers {', '.join(map(str, sorted(set(request.layers))))}"
    yield f"{', '.join(request.names)}: at most {request.samples} samples each{layers}"
    for name, (reason, count) in refusals((trial.config for trial in plan.trials), request).items():
        yield f"{name}: {'in no trial' if count == len(plan.trials) else 'not in all trials'}, as {reason}"
    lacking = find_lacking(plan.space, plan.trials, workspace)
    if ready := sum(bool(one.ready.stages or one.stored.stages) for one in lacking):
        yield f"{ready} finished trial{'s lack' if ready > 1 else ' lacks'} probes whose states are kept: the next run adds them"
    if gone := [one for one in lacking if one.gone.stages]:
        if plan.space.probes.recompute:
            minutes = sum(one.seconds for one in gone) / 60
            are = "trials are" if len(gone) > 1 else "trial is"
            yield f"{len(gone)} finished {are} trained again for probes: about {minutes:.1f} minutes"
        else:
            yield describe_gone(gone)
