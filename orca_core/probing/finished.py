"""Probes of trials that have come to their end: which states the store still has, and the numbers of them."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from orca_core.probing.catalogue import Moment
from orca_core.probing.keys import TrialProbes
from orca_core.rows import ProbeRow
from orca_core.stages import stages_of_training
from orca_core.store import Store
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    from orca_core.rows import Row


def missing_states(probes: TrialProbes, store: Store) -> dict[Moment, list[str]]:
    """Moment -> what the store lacks of the states that probes read: `pretrain`, `source`, `align`, `adapt`, `weights`. Loads no torch.

    Args:
        probes: The probes.
        store: Where stages and fine-tuned weights are.
    """
    stages = stages_of_training(probes.config, probes.device)
    of_start = {"pretrain"} | ({"source"} if probes.config.matches else set())
    read = [stage for stage in stages if stage.kind in of_start | {"align", "adapt"}]
    absent = [stage.kind for stage in read if not store.has(stage.address)]
    found: dict[Moment, list[str]] = {}
    for moment in dict.fromkeys(stage.moment for stage in probes.stages):
        lacks: list[str] = [kind for kind in absent if kind in of_start or moment != "start"]
        if moment == "fine-tuned" and not store.has(probes.weights):
            lacks.append("weights")
        if lacks:
            found[moment] = lacks
    return found


def probe_finished(probes: TrialProbes, store: Store) -> Generator[ProbeRow, None, None]:
    """Measure the probes of a finished trial. What the store lacks of its states is computed again, to the same bits.

    Args:
        probes: The probes; leave out those whose states are missing and take long, see `missing_states`.
        store: Where stages and fine-tuned weights are, and rows of probes are kept.

    Raises:
        OrcaError: If data, body or store cannot be used.
    """

    def rows() -> Generator[Row, None, None]:
        from safetensors.torch import load

        from orca_core.export import find_weights
        from orca_core.probing.run import measure
        from orca_core.trial_stages import Earlier, TrialStages

        trial = TrialStages(probes.config, store, probes.device)
        data = trial.load_data()
        pretrained = yield from trial.pretrain()
        earlier, weights = Earlier(pretrained), None
        moments = {stage.moment for stage in probes.stages}
        begun = trial.stored(earlier)
        config = probes.config
        lacks = (config.aligns and begun.aligned is None) or (config.adapts and begun.adapted is None)
        if config.matches or (lacks and moments - {"start"}):
            source = yield from trial.embed_source(pretrained)
            earlier = earlier._replace(source=source)
        if moments - {"start"}:
            earlier = begun._replace(source=earlier.source)
            if lacks:
                aligned = yield from trial.align(pretrained, earlier.source)
                adapted = yield from trial.adapt(pretrained, earlier.source, aligned)
                earlier = earlier._replace(aligned=aligned, adapted=adapted)
        if "fine-tuned" in moments:
            weights = load(find_weights(probes.config, store, probes.request.weights, probes.device).files["tensors.safetensors"])
        yield from measure(probes, trial, store, data, earlier, weights)

    for row in Workbench.current().drive(rows()):
        if isinstance(row, ProbeRow):
            yield row
