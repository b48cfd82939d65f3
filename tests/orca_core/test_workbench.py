"""A workbench says where data lies and keeps what was loaded; it is passed, and nothing else decides."""

from __future__ import annotations

import re
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orca_core
from orca_core import Workbench, run_trial
from orca_core.config.knobs import TrialConfig
from orca_core.export import tuned_model
from orca_core.pipeline import drain, measure_proxy, trial_rows
from orca_core.rows import EpochRow, Row
from orca_core.store import Store
from orca_core.tasks import find_task
from orca_core.workbench import memoize

KNOBS = {"body": "mini-roberta", "body.weights": "random", "finetune.batch_size": 4}


def write_series(root: Path, length: int) -> Path:
    """A data root with the UCR data set Mine: 12 series in each part."""
    (root / "ucr" / "Mine").mkdir(parents=True)
    for part in ("TRAIN", "TEST"):
        x = np.random.default_rng(0).normal(size=(12, length))
        lines = ["\t".join(map(str, [number % 2, *series])) for number, series in enumerate(x)]
        (root / "ucr" / "Mine" / f"Mine_{part}.tsv").write_text("\n".join(lines))
    return root


def losses(config: TrialConfig, store: Store, **options: Any) -> list[float]:
    """Training loss of each epoch of a trial."""
    rows: list[Row] = []
    run_trial(config, store, rows.append, **options)
    return [row.train_loss for row in rows if isinstance(row, EpochRow)]


@pytest.fixture
def benches(tmp_path) -> tuple[Workbench, Workbench]:
    """Two workbenches whose data roots hold different series under one name."""
    return tuple(Workbench(write_series(tmp_path / str(length), length), tmp_path / f"cache-{length}") for length in (16, 24))


def test_the_core_reads_no_environment_variable_of_the_sweepers():
    files = list(Path(orca_core.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    reads = re.compile(r"SWEEPER_|os\.environ(?!\.setdefault\(.CUBLAS)|getenv")  # what cuBLAS reads is set, not read
    assert [file for file in files if reads.search(file.read_text(encoding="utf-8"))] == []


def test_folders_are_absolute_from_where_the_workbench_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    bench = Workbench("mine")
    assert (bench.data_root, bench.cache_root) == (tmp_path / "mine", tmp_path / "home/.cache/orca-sweeper")
    assert Workbench().data_root == tmp_path / "data"


def test_the_innermost_workbench_is_current_and_the_one_before_after_it(benches):
    outside = Workbench.current()
    first, second = benches
    with first.use():
        with second.use():
            assert Workbench.current() is second
        assert Workbench.current() is first
        with pytest.raises(OSError), second.use():
            raise OSError
        assert Workbench.current() is first
    assert Workbench.current() is outside


def test_without_one_in_use_a_process_has_its_own():
    seen = []
    thread = threading.Thread(target=lambda: seen.extend([Workbench.in_use(), Workbench.current(), Workbench.current()]))
    thread.start()
    thread.join()
    assert seen[0] is None
    assert seen[1] is seen[2]


def test_two_workbenches_in_one_process_see_different_data(benches):
    shapes, digests = [], []
    for bench in benches:
        with bench.use():
            spec = find_task("ucr/Mine")
            shapes.append(spec.load().train.x.shape[1:])
            digests.append(spec.digest())
    assert shapes == [(1, 16), (1, 24)]
    assert digests[0] != digests[1]


def test_a_trial_reads_the_data_of_the_workbench_it_is_given(quick, store, benches):
    config = quick("ucr/Mine", KNOBS)
    given = [losses(config, store, workbench=bench) for bench in benches]
    assert given[0] != given[1]
    assert all(list((bench.cache_root / "decoded").iterdir()) for bench in benches)
    with benches[0].use():
        assert losses(config, store) == given[0]


def test_trials_that_take_turns_keep_their_workbenches_and_their_caller_keeps_its_own(quick, store, benches):
    config, outside = quick("ucr/Mine", KNOBS | {"finetune.epochs": 2}), Workbench.current()
    alone = [losses(config, store, workbench=bench) for bench in benches]
    trials = [trial_rows(config, Store(bench.cache_root / "stages"), workbench=bench) for bench in benches]
    in_turns: list[list[float]] = [[], []]
    for _ in range(2):
        for trial, so_far in zip(trials, in_turns, strict=True):
            so_far.append(next(trial).train_loss)
            assert Workbench.current() is outside
    for trial in trials:
        trial.close()
    assert Workbench.current() is outside
    assert in_turns == alone


def test_an_exported_model_and_a_proxys_distance_read_the_workbench_they_are_given(quick, store, benches):
    config = quick("ucr/Mine", KNOBS | {"align.epochs": 1, "proxy": "noise", "align.proxy_samples": 20})
    models = [tuned_model(config, store, workbench=bench) for bench in benches]
    assert [tuned.model.input_shape for tuned in models] == [(1, 16), (1, 24)]
    distances = [drain(measure_proxy(config, store, workbench=bench)) for bench in benches]
    assert distances[0] != distances[1]


def test_data_and_bodies_stay_loaded_until_the_workbench_is_cleared(quick, warm_store, benches, monkeypatch):
    bench, config = benches[0], quick("ucr/Mine", {"body": "mini-roberta", "finetune.batch_size": 4})
    kept = []
    recall = Workbench.recall

    def watch(self, cache, key, make, maxsize):
        entry = recall(self, cache, key, make, maxsize)
        if cache in ("tasks", "pretrained bodies"):
            kept.append((cache, weakref.ref(entry)))
        return entry

    monkeypatch.setattr(Workbench, "recall", watch)
    run_trial(config, warm_store, lambda row: None, workbench=bench)
    assert {cache for cache, _ in kept} == {"tasks", "pretrained bodies"}
    assert all(entry() is not None for _, entry in kept)
    bench.clear()
    assert [cache for cache, entry in kept if entry() is not None] == []


def test_the_least_recently_used_entries_go_first():
    bench, made = Workbench(), []

    @memoize(maxsize=2)
    def square(x: int) -> int:
        made.append(x)
        return x * x

    with bench.use():
        assert [square(x) for x in (1, 2, 1, 3, 1, 2)] == [1, 4, 1, 9, 1, 4]
        assert made == [1, 2, 3, 2]
        bench.clear()
        assert square(2) == 4
    with Workbench().use():
        assert square(2) == 4
    assert made == [1, 2, 3, 2, 2, 2]
