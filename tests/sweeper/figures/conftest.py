"""Sweeps for figures: one that feeds many of them, read once."""

from __future__ import annotations

import pytest
from recorded import RICH, record, record_floor, rich_error

from sweeper.results import Workspace
from sweeper.show.figures import FigureTables, read_tables


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "results")


@pytest.fixture(scope="session")
def rich(tmp_path_factory) -> Workspace:
    """Results with the sweep `rich`."""
    workspace = Workspace(tmp_path_factory.mktemp("rich") / "results")
    record(
        workspace,
        RICH,
        rich_error,
        curve=lambda cells, epoch: rich_error(cells) + 0.5 / epoch,
        distance=lambda cells, epoch: 10.0 - epoch + cells["seed"],
        labels=lambda cells, epoch: [[float(row + column + epoch + 2 * cells["seed"]) for column in range(3)] for row in range(2)],
        probe=lambda cells, moment, layer: float(layer + len(moment) + 2 * cells["seed"]),
        params=lambda cells: [10, 1000] if cells["freezing"] == "full" else [10],
    )
    record_floor(workspace, "digits", "svm", 0.02)
    record_floor(workspace, "digits", "majority", 0.9)
    return workspace


@pytest.fixture(scope="session")
def rich_tables(rich: Workspace) -> FigureTables:
    """The tables of `rich`."""
    return read_tables(rich, "rich")
