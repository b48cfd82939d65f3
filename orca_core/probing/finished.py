"""Which states of a finished trial the store still has."""

from __future__ import annotations

from orca_core.probing.catalogue import Moment
from orca_core.probing.keys import BEFORE_TUNING, TrialProbes
from orca_core.stages import stages_of_training
from orca_core.store import Store


def missing_states(probes: TrialProbes, store: Store) -> dict[Moment, list[str]]:
    """Moment -> what the store lacks of the states that a trial's probes read: `pretrain`, `align`, `adapt`, `weights`. Loads no torch.

    Args:
        probes: The probes.
        store: Where stages and fine-tuned weights are.
    """
    stages = [stage for stage in stages_of_training(probes.config, probes.device) if stage.kind in {"pretrain"} | BEFORE_TUNING]
    absent = [stage.kind for stage in stages if not store.has(stage.address)]
    found: dict[Moment, list[str]] = {}
    for moment in dict.fromkeys(stage.moment for stage in probes.stages):
        lacks: list[str] = [kind for kind in absent if kind == "pretrain" or moment != "start"]
        if moment == "fine-tuned" and not store.has(probes.weights):
            lacks.append("weights")
        if lacks:
            found[moment] = lacks
    return found
