"""Probes of trials that have come to their end: which states the store still has, and the numbers of them."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from orca_core.probing.catalogue import Moment
from orca_core.probing.keys import BEFORE_TUNING, TrialProbes
from orca_core.rows import ProbeRow
from orca_core.stages import stages_of_training
from orca_core.store import Store
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    from orca_core.rows import Row


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
        from orca_core.trial_stages import TrialStages

        trial = TrialStages(probes.config, store, probes.device)
        data = trial.load_data()
        pretrained = yield from trial.pretrain()
        source = yield from trial.embed_source(pretrained)
        weights = None
        if any(stage.moment == "fine-tuned" for stage in probes.stages):
            weights = load(find_weights(probes.config, store, probes.request.weights, probes.device).files["tensors.safetensors"])
        yield from measure(probes, trial, store, data, pretrained, source, weights)

    for row in Workbench.current().drive(rows()):
        if isinstance(row, ProbeRow):
            yield row
