"""What `bits: portable` costs: the same trials with the libraries held to AVX2, beside those with what they choose themselves.

    python benchmarks/portable.py --rounds 3

Each round starts a native and a portable process, one after the other; each computes all trials from an empty store, on one thread.
Seconds are of the processor, so what else runs on the machine counts little; its load is printed all the same. The ratio of a trial is the
median over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from orca_core import Store, resolve_config, run_trial
from orca_core.numerics import PORTABLE, numerical_kind

SHORT = {"pretrain.epochs": 1, "finetune.epochs": 3, "finetune.warmup_epochs": 0, "finetune.decay_epochs": None, "align.epochs": 3}

TRIALS: dict[str, dict[str, Any]] = {
    "images, mini-swin, otdd-exact": {"task": "digits"},
    "table, mini-roberta, otdd-gaussian": {"task": "openml/187", "align.objective": "otdd-gaussian"},
    "table, mini-roberta, bf16": {"task": "openml/187", "precision": "bf16", "align.epochs": 0},
}


def measure(bits: str) -> dict[str, float]:
    """Seconds of the processor, by trial."""
    seconds = {}
    for name, knobs in TRIALS.items():
        config = resolve_config({**SHORT, **knobs, "bits": bits})
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            run_trial(config, Store(folder), lambda row: None)
            seconds[name] = time.process_time() - started
    return seconds


def in_a_process(bits: str) -> dict[str, float]:
    """What `measure` finds in a fresh process with the environment of these bits."""
    environment = {name: value for name, value in os.environ.items() if name not in PORTABLE} | {"OMP_NUM_THREADS": "1"}
    if bits == "portable":
        environment |= PORTABLE
    done = subprocess.run([sys.executable, __file__, "--measure", bits], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=["native", "portable"], help="only compute, and print seconds as JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    load = os.getloadavg()[0]
    rounds = [(in_a_process("native"), in_a_process("portable")) for _ in range(options.rounds)]
    for name in TRIALS:
        ratios = sorted(portable[name] / native[name] for native, portable in rounds)
        seconds = statistics.median(native[name] for native, _ in rounds)
        ratio = f"{statistics.median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name:36} {seconds:6.2f} s native; portable {ratio}")
    kind, load_after = numerical_kind(), os.getloadavg()[0]
    print(f"{kind.device_name}, native {kind.cpu_capability}, {os.cpu_count()} cores, load {load:.1f}, after {load_after:.1f}")


if __name__ == "__main__":
    main()
