"""What a trial costs beyond its own work, compared with plain Ray Tune.

    python benchmarks/overhead.py --trials 1000
    python benchmarks/overhead.py --trials 10000 --skip-tune

The trials are as small as real ones get: one epoch of fine-tuning a one-layer body of width 4 on 12 rows of 8 numbers, with no shared
stage, and without floors. The cost of such a trial by itself is measured by a plain loop over `run_trial`, in one process per slot, all at
the same time. The rest, (wall seconds x slots) / trials - own seconds, is the cost of scheduling and recording once workers are up: the
clock runs from the end of the first trial to the end of the last. Plain Ray Tune runs the same function in reused actors and discards the
rows, once with its loggers off and once with its defaults.

CPU seconds are those of all processes in that time, Ray's included: where there are no more processors than slots they are what the
rest comes to, and other work on the machine changes them less.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_AIR_NEW_OUTPUT": "0", "HF_HUB_OFFLINE": "1"}

import numpy as np
import psutil

SLOTS = 2
SEEDS = 10


def write_task(folder: Path) -> str:
    """Write a task of 12 rows and a body of one layer; return the sweep's base as YAML."""
    from transformers import BertConfig, BertModel

    draws = np.random.default_rng(0)
    y = np.arange(12) % 2
    np.savez(folder / "tiny.npz", x=(draws.normal(size=(12, 8)) + y[:, None]).astype(np.float32), y=y)
    shape = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4, "vocab_size": 8}
    BertModel(BertConfig(**shape, max_position_embeddings=8)).save_pretrained(folder / "body")
    return f"{{task: 'npz:{folder / 'tiny.npz'}', body: 'hf:{folder / 'body'}', align.epochs: 0, finetune.epochs: 1}}"


def write_space(folder: Path, trials: int) -> Path:
    """Write a sweep with this number of trials: learning rates x seeds."""
    rates = ", ".join(f"{1e-4 * (1 + i / trials):.10f}" for i in range(trials // SEEDS))
    path = folder / "overhead.yaml"
    varied = f"space: {{finetune.lr: {{grid: [{rates}]}}}}\nseeds: {SEEDS}\n"
    path.write_text(f"name: overhead\nbase: {write_task(folder)}\n{varied}keep: none\nfloors: false\n")
    return path


class CpuSeconds:
    """Samples the processor time of a process and of all that descend from it, four times a second, while in its `with` block."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._samples: list[tuple[float, float]] = []
        self._seen: dict[int, float] = {}  # process -> its time, also after its end
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> CpuSeconds:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._is_over.wait(0.25):
            try:
                processes = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    times = process.cpu_times()
                except psutil.Error:
                    continue
                self._seen[process.pid] = times.user + times.system
            self._samples.append((time.time(), sum(self._seen.values())))

    def between(self, began: float, ended: float) -> float:
        """Seconds between two points in time, as `time.time` has them."""
        at, values = zip(*self._samples, strict=True)
        return float(np.interp(ended, at, values) - np.interp(began, at, values))


@dataclass(frozen=True)
class Cost:
    """What a trial takes.

    Args:
        slot: Seconds of a slot.
        cpu: Seconds of processors.
    """

    slot: float
    cpu: float

    def beyond(self, own: Cost) -> str:
        """As a text, with what it is beyond the trial's own work."""
        return (
            f"{self.slot:.4f} s, {self.slot - own.slot:.4f} s beyond its own work; CPU {self.cpu:.4f} s, {self.cpu - own.cpu:.4f} s beyond"
        )


def own_cost(configs: list[str], folder: str) -> Cost:
    """What a trial takes in a plain loop, with models and data already loaded."""
    from orca_core import Store, TrialConfig, run_trial

    parsed = [TrialConfig.model_validate_json(config) for config in configs]
    for config in parsed[:3]:
        run_trial(config, Store(folder), lambda row: None)
    started, cpu_started = time.perf_counter(), time.process_time()
    for config in parsed[3:]:
        run_trial(config, Store(folder), lambda row: None)
    return Cost((time.perf_counter() - started) / len(parsed[3:]), (time.process_time() - cpu_started) / len(parsed[3:]))


def measure_sweep(space: Path, results: str) -> tuple[Cost, dict[str, float]]:
    """Run the sweep from the command line; return what a trial takes, and wall and planning seconds, driver peak memory, files left."""
    command = [sys.executable, "-m", "sweeper.cli"]
    started = time.perf_counter()
    subprocess.run([*command, "plan", str(space), "--results", results, "--format", "csv"], check=True, stdout=subprocess.DEVNULL)
    planning = time.perf_counter() - started
    started = time.perf_counter()
    driver = psutil.Popen([*command, "run", str(space), "--results", results], stdout=subprocess.DEVNULL)
    peak = 0
    with CpuSeconds(driver) as cpu:
        while driver.poll() is None:
            try:
                peak = max(peak, driver.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.5)
    assert driver.wait() == 0, "the sweep failed"
    wall = time.perf_counter() - started
    from sweeper import Results

    query = "select count(*) as n, min(ended_at) as began, max(ended_at) as ended from trials where status = 'COMPLETE'"
    row = Results(results).sql(query).rows()[0]
    files = sum(len(names) for _, _, names in os.walk(results))
    began, ended, count = row["began"].timestamp(), row["ended"].timestamp(), row["n"] - 1
    cost = Cost((ended - began) * SLOTS / count, cpu.between(began, ended) / count)
    return cost, {"wall": wall, "planning": planning, "peak_gib": peak / 2**30, "files": files}


def measure_tune(configs: list[str], folder: str, loggers: bool) -> Cost:
    """What a trial takes under plain Ray Tune with reused actors, from the end of the first trial to the end of the last."""
    os.environ.pop("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", None)
    if not loggers:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    import ray
    from ray import tune

    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)  # without loggers it misses a file of each trial

    class Plain(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.task = config["trial"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.task = new_config["trial"]
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: a trial is one step."""

        def step(self) -> dict[str, Any]:
            from orca_core import Store, TrialConfig, run_trial

            result = run_trial(TrialConfig.model_validate_json(self.task), Store(folder), lambda row: None)
            return {"test_error": result.test_error, "done": True}

    ends: list[float] = []
    plain = tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0)

    class Clock(tune.Callback):
        def on_trial_complete(self, **info: Any) -> None:
            ends.append(time.time())

    ray.init(address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    with CpuSeconds(psutil.Process()) as cpu:
        tune.Tuner(
            tune.with_resources(Plain, {"cpu": 1}),
            param_space={"trial": tune.grid_search(configs)},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(storage_path=f"{folder}/tune", verbose=0, callbacks=[Clock()], checkpoint_config=plain),
        ).fit()
    ray.shutdown()
    count = len(ends) - 1
    return Cost((ends[-1] - ends[0]) * SLOTS / count, cpu.between(ends[0], ends[-1]) / count)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--skip-tune", action="store_true", help="only this engine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        space = write_space(folder, arguments.trials)
        from sweeper import load_space, plan

        configs = [trial.config.model_dump_json() for trial in plan(load_space(space)).trials]
        sample = configs[:203]
        with ProcessPoolExecutor(SLOTS) as pool:
            each = list(pool.map(own_cost, [sample] * SLOTS, [f"{name}/own{i}" for i in range(SLOTS)]))
        own = Cost(sum(cost.slot for cost in each) / SLOTS, sum(cost.cpu for cost in each) / SLOTS)
        cost, ours = measure_sweep(space, f"{name}/results")
        print(f"{'trials':<44} {len(configs)}")
        print(f"{'planned in':<44} {ours['planning']:.1f} s")
        print(f"{'a trial by itself':<44} {own.slot:.4f} s; CPU {own.cpu:.4f} s")
        print(f"{'a trial in the sweep':<44} {cost.beyond(own)}")
        print(f"{'driver, peak memory':<44} {ours['peak_gib']:.2f} GiB")
        print(f"{'files left, artifacts included':<44} {ours['files']:.0f}")
        print(f"{'entire command':<44} {ours['wall']:.0f} s")
        if not arguments.skip_tune:
            for loggers, label in ((False, "loggers off"), (True, "defaults")):
                theirs = measure_tune(configs, name, loggers)
                print(f"{'a trial in plain Ray Tune, ' + label:<44} {theirs.beyond(own)}", flush=True)


if __name__ == "__main__":
    main()
