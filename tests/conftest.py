"""What all tests share: a quiet, offline, single-threaded process, and one store of pretrained mini bodies for the session."""

from __future__ import annotations

import os

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}  # before anything that reads them is imported

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cluster_nodes import LocalCluster, why_not

from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.rows import EpochRow, Row, TrialResult
from orca_core.store import Store
from orca_core.workbench import Workbench

MakeConfig = Callable[..., TrialConfig]

Run = tuple[list[EpochRow], TrialResult]
"""The epochs' rows of a run with their times set to 0, and its result."""

QUICK = {"pretrain.epochs": 1, "pretrain.fraction": 0.1, "finetune.epochs": 1, "finetune.warmup_epochs": 0, "finetune.decay_epochs": None}
"""Knobs that make a trial of a mini body take a second or so."""


SHARED = ("ray_session", "local_cluster")
"""Fixtures that are slow to start. Files that name one of them run in one process, and before all others."""


@cache
def group_of(file: str) -> str:
    """Return what a test file, as a path from the root, has to share a process with: itself, or files of the same slow fixture."""
    text = (Path(__file__).parents[1] / file).read_text()
    return next((name for name in SHARED if name in text), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the processes of `pytest -n` one group of files after another, as they become free."""
    from xdist.scheduler import LoadFileScheduling

    class Groups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(super()._split_scope(nodeid))

    config.option.loadscopereorder = False  # by number of tests, which says nothing about time
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `pytest -n` begin with the groups that take longest."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {name: number for number, name in enumerate(SHARED)}
        items.sort(key=lambda item: order.get(group_of(item.nodeid.partition("::")[0]), len(order)))


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that lives as long as the session, and that all of its processes share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def session_workbench(session_folder: Path) -> Iterator[Workbench]:
    """In use during the session, so that decoded data and digests of large files stay in its folder."""
    with Workbench(cache_root=session_folder / "cache").use() as bench:
        yield bench


@pytest.fixture
def use_data(session_workbench: Workbench) -> Iterator[Callable[..., Workbench]]:
    """`use_data(root)` makes a workbench with that data root the current one; `cache` gives it a cache of its own."""
    with ExitStack() as stack:

        def use(root: str | Path, cache: str | Path | None = None) -> Workbench:
            return stack.enter_context(Workbench(root, cache or session_workbench.cache_root).use())

        yield use


@pytest.fixture(scope="session")
def quick() -> MakeConfig:
    """`quick(task, knobs)` is the config of a short trial, one epoch long; `knobs` come on top, nested or dotted."""

    def make(task: str, knobs: Mapping[str, Any] = {}) -> TrialConfig:
        return resolve_config({**QUICK, "align.epochs": 0, "task": task, **knobs})

    return make


@pytest.fixture(scope="session")
def warm_store(session_folder: Path) -> Store:
    """A store that lives as long as the session, so that each mini body is pretrained once. For tests that only add to it."""
    return Store(session_folder / "warm-store")


@pytest.fixture
def store(tmp_path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def rows_of_cut_runs(tmp_path) -> Callable[..., tuple[Run, list[Run]]]:
    """`rows_of_cut_runs(config, cuts)`: what a whole run gives, and what each run gives that was cut after so many epochs and went on."""
    from orca_core.pipeline import run_trial, trial_rows

    def run(config: TrialConfig, store: Store) -> Run:
        rows: list[Row] = []
        result = run_trial(config, store, rows.append)
        return [replace(row, seconds=0.0) for row in rows if isinstance(row, EpochRow)], result

    def runs(config: TrialConfig, cuts: range) -> tuple[Run, list[Run]]:
        again = []
        for cut in cuts:
            store, epochs = Store(tmp_path / str(cut)), 0
            stopped = trial_rows(config, store)
            while epochs < cut:
                epochs += isinstance(next(stopped), EpochRow)
            stopped.close()
            again += [run(config, store), run(config, store)]  # going on, then from what is stored
        return run(config, Store(tmp_path / "whole")), again

    return runs


@pytest.fixture(scope="session")
def head_of_cluster() -> Iterator[LocalCluster]:
    """A cluster whose head, which has no CPUs, runs for the session; use `local_cluster`."""
    if reason := why_not():
        pytest.skip(reason)
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
def local_cluster(head_of_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """A cluster of nodes on this machine without any node yet but the head. Nodes that the test adds are gone after it."""
    yield head_of_cluster
    head_of_cluster.kill_added()
