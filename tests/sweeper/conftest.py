"""What the sweeper's tests share: search spaces from text, and one Ray for the session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from orca_core.errors import ConfigError
from sweeper.planning.planner import make_plan
from sweeper.space.reading import load_space
from sweeper.space.space import SearchSpace

LoadSpace = Callable[..., SearchSpace]


@pytest.fixture
def load(tmp_path: Path) -> LoadSpace:
    """`load(text)` writes a search-space file and reads it; `overrides` are those of `--set`."""

    def load(text: str, overrides: Mapping[str, Any] = {}, name: str | None = None) -> SearchSpace:
        file = tmp_path / "space.yaml"
        file.write_text(dedent(text))
        return load_space(file, overrides, name)

    return load


@pytest.fixture
def faults_in(load: LoadSpace, tmp_path: Path) -> Callable[..., list[str]]:
    """`faults_in(text)` is what is said about a search space, line by line, without the file's name."""

    def faults_in(text: str, overrides: Mapping[str, Any] = {}, name: str | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            make_plan(load(text, overrides, name))
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{tmp_path}/space.yaml: ") for line in lines), lines
        return [line.removeprefix(f"{tmp_path}/space.yaml: ") for line in lines]

    return faults_in


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray with two CPUs and an invented GPU, started once; sweeps in this process join it."""
    import ray

    from sweeper.tune.cluster import RAY_ENVIRONMENT

    os.environ |= RAY_ENVIRONMENT
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
