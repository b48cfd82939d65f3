"""Probes of trials that have come to their end."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from orca_core.probing.keys import TrialProbes
from orca_core.rows import ProbeRow
from orca_core.store import Store
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    from orca_core.rows import Row


def probe_finished(probes: TrialProbes, store: Store) -> Generator[ProbeRow, None, None]:
    """Measure the probes of a finished trial. What the store lacks of its states is computed again, to the same bits.

    Args:
        probes: The probes; leave out those whose states are missing and take long, see `orca_core.probing.finished`.
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
