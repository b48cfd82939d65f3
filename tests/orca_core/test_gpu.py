"""On a GPU the same config gives the same bits: twice, and stopped and continued. Skipped where torch sees none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

from body_families import FAMILIES, TEXT, VARIANTS, write_checkpoint
from trials import compared, differences, small, tiny_bodies

from orca_core.config.knobs import TrialConfig
from orca_core.declarations import STAGES
from orca_core.memory import free_bytes, limit_share, release, reserved_bytes
from orca_core.pipeline import trial_rows
from orca_core.rows import Row
from orca_core.stages import stages_of
from orca_core.store import Artifact, Store

KNOBS: dict[str, dict[str, Any]] = {
    "otdd-gaussian": {"align__epochs": 2, "align__objective": "otdd-gaussian"},
    "mmd": {"align__epochs": 2, "align__objective": "mmd"},
    "l2": {"align__epochs": 2, "align__objective": "l2"},
    "annealed": {"align__epochs": 2, "align__solver": "annealed"},
    "joint": {"align__weight": 0.1},
    "frozen body": {"freezing": "frozen-body:1"},
    "surgical": {"freezing": "surgical:1"},
    "lora": {"adapter": "lora"},
    "ia3": {"adapter": "ia3"},
    "vera": {"adapter": {"name": "vera", "r": 4}},
    "bottleneck": {"adapter": "bottleneck"},
    "ladder": {"adapter": "side", "freezing": "frozen-embedder:1"},
    "prefix": {"adapter": "prefix"},
    "dropout": {"finetune__dropout": 0.2},
    "mixout": {"finetune__mixout": 0.3},
    "checkpointing": {"finetune__checkpointing": True},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "flip and double": {"body__flip": True, "body__double": True},
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gpu")
    with tiny_bodies(folder):
        yield folder


def run(config: TrialConfig, store: Store, stop_after: int = 10**9) -> tuple[list[Row], dict[str, Artifact]]:
    """Rows and artifacts of a trial on the GPU, or of the part of it up to some row."""
    rows = trial_rows(config, store, device="cuda")
    seen = [compared(row) for _, row in zip(range(stop_after), rows, strict=False)]
    rows.close()
    found = {str(stage.address): store.get(stage.address) for stage in stages_of(config, "cuda")}
    return seen, {address: artifact for address, artifact in found.items() if artifact is not None}


def check_bits(config: TrialConfig, tmp_path: Path) -> None:
    rows, artifacts = run(config, Store(tmp_path / "one"))
    again, others = run(config, Store(tmp_path / "two"))
    assert rows == again
    assert artifacts.keys() == others.keys() != set()
    assert [differences(artifacts[address], others[address]) for address in artifacts] == [[]] * len(artifacts)
    run(config, Store(tmp_path / "three"), stop_after=len(rows) - 2)
    continued, _ = run(config, Store(tmp_path / "three"))
    assert continued == rows


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_bits_of_a_body(family, tmp_path):
    (tmp_path / "body").mkdir()
    _, body = write_checkpoint(family, tmp_path / "body")
    is_text = VARIANTS.get(family, (family,))[0] in TEXT
    task = "npz:tiny/series.npz" if is_text else "npz:tiny/images.npz"
    check_bits(small(task, body=body, align__epochs=1, embedder__target_seq_len=6), tmp_path)


@pytest.mark.parametrize("name", KNOBS)
def test_bits_with_knobs(name, tmp_path):
    check_bits(small("npz:tiny/series.npz", body="hf:tiny/bert", **KNOBS[name]), tmp_path)


def test_a_stage_that_is_declared_for_the_cpu_is_computed_there(tmp_path, monkeypatch):
    monkeypatch.setitem(STAGES, "source", replace(STAGES["source"], device="cpu"))
    config = small("digits", align__epochs=1, body__weights="random")
    _, artifacts = run(config, Store(tmp_path))
    kinds = {stage.kind: artifacts[str(stage.address)].data["made_by"] for stage in stages_of(config, "cuda")}
    assert kinds["source"] != kinds["align"] == kinds["finetune"]
    assert {str(stage.address) for stage in stages_of(config) if stage.kind == "source"} <= artifacts.keys()


@pytest.mark.parametrize("task", ["digits", "openml/187", "darcy-mini", "advection-mini"])
def test_bits_of_a_task(task, tmp_path):
    check_bits(small(task, align__epochs=2), tmp_path)


def test_a_process_is_held_to_its_share_and_gives_back_what_it_no_longer_needs():
    device = torch.device("cuda")
    total = reserved_bytes(device)[1]
    try:
        limit_share(device, 0.25, context_bytes=total // 8)
        held = torch.empty(total // 16, dtype=torch.uint8, device=device)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(total // 8, dtype=torch.uint8, device=device)
        assert reserved_bytes(device)[0] >= total // 16
        assert free_bytes(device) <= total // 16, "what others leave free is not for this process"
        del held
        release(device)
        assert reserved_bytes(device)[0] < total // 16
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
