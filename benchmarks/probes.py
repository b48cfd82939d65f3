"""What probes cost: the time of all probes of a trial, relative to that of the trial, in one run.

    python benchmarks/probes.py                 the laptop recipes of mnist1d and digits, with 10 epochs of alignment
    python benchmarks/probes.py --repeats 5

Each trial runs with all probes at their default number of samples, into an empty store that holds the pretrained body. Times are CPU
seconds of this process, so other work on the machine changes the ratio little. The trial's are those of source features, alignment and
fine-tuning; pretraining, which trials share, is left out, as it would make the ratio look smaller. The ratio is the median of the repeats.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.pipeline import trial_rows
from orca_core.probing import PROBES, ProbeRequest
from orca_core.rows import ProbeRow
from orca_core.stages import stages_of
from orca_core.store import Store

LIMIT = 0.10
"""Share of a trial's time that all of its probes may take together."""

TRIALS = {"mini-roberta on mnist1d": {"task": "mnist1d"}, "mini-swin on digits": {"task": "digits"}}


@dataclass
class Cost:
    """What one run took.

    Args:
        trial_s, probes_s: CPU seconds of the trial without its pretraining, and of its probes.
        by_probe: Wall seconds of each probe. The first one that reads features of a layer pays for them.
    """

    trial_s: float
    probes_s: float
    by_probe: Counter[str] = field(default_factory=Counter)


def measure(config: TrialConfig, pretrained: Store) -> Cost:
    """Run a trial with all probes."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for stage in stages_of(config):
            if stage.kind == "pretrain" and (artifact := pretrained.get(stage.address)) is not None:
                store.put(stage.address, artifact.tensors, artifact.data)
        started = begun = time.process_time()
        cost = Cost(0.0, 0.0)
        seen: set[tuple[str, str]] = set()
        for row in trial_rows(config, store, keep="best", probes=ProbeRequest(tuple(PROBES))):
            if not isinstance(row, ProbeRow):
                begun = time.process_time()
                if row.stage == "pretrain":
                    started = begun
            elif (row.probe, row.moment) not in seen:
                seen.add((row.probe, row.moment))
                cost.by_probe[row.probe] += row.seconds  # type: ignore[assignment]
        cost.trial_s, cost.probes_s = begun - started, time.process_time() - begun
        return cost


def main(repeats: int = 3) -> int:
    """Measure, print, and say whether the limit is kept."""
    worst = 0.0
    for name, knobs in TRIALS.items():
        config = resolve_config({**knobs, "align.epochs": 10})
        with tempfile.TemporaryDirectory() as folder:
            pretrained = Store(Path(folder))
            for _ in trial_rows(config, pretrained):
                pass
            costs = [measure(config, pretrained) for _ in range(repeats)]
        ratio = statistics.median(cost.probes_s / cost.trial_s for cost in costs)
        worst = max(worst, ratio)
        trial_s, probes_s = (statistics.median(getattr(cost, part) for cost in costs) for part in ("trial_s", "probes_s"))
        print(f"{name}: trial {trial_s:.1f} s, all probes {probes_s:.2f} s, {ratio:.1%} of it")
        for probe in PROBES:
            print(f"  {probe:<18} {statistics.median(cost.by_probe[probe] for cost in costs):.3f} s")
    print("within" if worst < LIMIT else "OVER", f"the limit of {LIMIT:.0%}")
    return 0 if worst < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[sys.argv.index("--repeats") + 1]) if "--repeats" in sys.argv else 3))
