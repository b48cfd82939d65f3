"""Exported models take raw data as the task had it, and answer in its terms; on the task's raw test file they have the row's error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from orca_core import load_model, run_trial, tuned_model
from orca_core.config.resolve import resolve_config
from orca_core.prediction import TunedModel
from orca_core.rows import TrialResult
from orca_core.tasks import find_task

TWO_EPOCHS = {
    "body.weights": "random",
    "align.epochs": 0,
    "finetune.epochs": 2,
    "finetune.lr": 3e-3,
    "finetune.warmup_epochs": 0,
    "finetune.decay_epochs": None,
    "finetune.batch_size": 8,
}
RNG = np.random.default_rng(0)


@pytest.fixture
def exported(tmp_path, store) -> Callable[..., tuple[TrialResult, TunedModel]]:
    """`exported(task, knobs)` trains for two epochs, exports the model and reads it again: the trial's result, and the model."""

    def export(task: str, knobs: Mapping[str, Any] = {}) -> tuple[TrialResult, TunedModel]:
        config = resolve_config({**TWO_EPOCHS, "task": task, **knobs})
        result = run_trial(config, store, lambda row: None, keep="best")
        tuned = tuned_model(config, store)
        assert not tuned.computed
        tuned.save(tmp_path / "model")
        return result, load_model(tmp_path / "model")

    return export


# ---------------------------------------------------------------------------------------------- the row's error, on raw test files


def labelled_series(n: int, channels: int = 2, length: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Series of classes 5, 7 and 9 whose values are not standardised."""
    y = np.resize([5, 7, 9], n)
    return 30 + 8 * RNG.normal(size=(n, channels, length)) + 4 * y[:, None, None], y


def write_npz(path: Path, dense: bool = False) -> tuple[str, Path]:
    parts = {part: labelled_series(n) for part, n in (("train", 60), ("test", 30))}
    arrays = {f"x_{part}": x for part, (x, _) in parts.items()}
    arrays |= {f"y_{part}": np.cumsum(x[:, :1], axis=2) / 100 if dense else y for part, (x, y) in parts.items()}
    np.savez(path / "mine.npz", **arrays)
    np.savez(path / "raw.npz", x=arrays["x_test"], y=arrays["y_test"])
    return f"npz:{path / 'mine.npz'}", path / "raw.npz"


def write_ucr(root: Path) -> tuple[str, Path]:
    (root / "ucr" / "Mine").mkdir(parents=True)
    for part, n in (("TRAIN", 48), ("TEST", 24)):
        x, y = labelled_series(n, channels=1)
        x[::4, 0, 20:] = np.nan  # padding, as the archive has it
        x[1, 0, 3] = np.nan
        lines = ["\t".join([str(label), *(f"{value:.5f}" for value in row[0])]) for row, label in zip(x, y, strict=True)]
        (root / "ucr" / "Mine" / f"Mine_{part}.tsv").write_text("\n".join(lines))
    return "ucr/Mine", root / "ucr" / "Mine" / "Mine_TEST.tsv"


def write_pictures(root: Path) -> tuple[str, Path]:
    for part, n in (("train", 12), ("test", 6)):
        for name, colour in (("sky", (90, 140, 220)), ("grass", (110, 150, 160))):
            (root / "pics" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.clip(np.array(colour) + RNG.normal(0, 50, size=(24, 30, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(root / "pics" / part / name / f"{i}.png")
    return f"images:{root / 'pics'}?size=16", root / "pics" / "test"


def write_table(root: Path, kind: str = "classes") -> tuple[str, Path]:
    lines = ["size,colour,weight,label"]
    for i in range(90):
        size, weight = RNG.normal(170, 10), RNG.normal(0.02, 0.001)
        label = {"classes": "tall" if size > 170 else "short", "whole": 7 if size > 170 else 3, "regression": f"{4 * size + 5:.3f}"}[kind]
        lines.append(f"{size:.2f},{('red', 'green', 'blue')[i % 3]},{weight:.6f},{label}")
    (root / "mine.csv").write_text("\n".join(lines) + "\n")
    rows = rows_of_test_part(f"csv:{root / 'mine.csv'}")
    (root / "raw.csv").write_text("\n".join([lines[0], *(lines[1 + row] for row in rows)]) + "\n")
    return f"csv:{root / 'mine.csv'}", root / "raw.csv"


def rows_of_test_part(task: str) -> list[int]:
    """Numbers of the rows of a table that are the test part, found by their inputs."""
    data = find_task(task).load(0)
    every = data.preparation.inputs.encode(data.preparation.inputs.read(Path(task.removeprefix("csv:"))).inputs)
    return [int(np.flatnonzero((every == row).all((1, 2)))[0]) for row in data.test.x]


WRITERS = {
    "table": write_table,
    "table-whole": lambda root: write_table(root, "whole"),
    "table-regression": lambda root: write_table(root, "regression"),
    "npz": write_npz,
    "npz-dense": lambda root: write_npz(root, dense=True),
    "ucr": write_ucr,
    "images": write_pictures,
}


@pytest.mark.parametrize(
    ("data", "knobs"),
    [
        ("table", {}),
        ("table-whole", {"body.name": "mini-swin", "proxy": "photos"}),
        ("table-regression", {"freezing": "frozen-body"}),
        ("npz", {}),
        ("npz", {"freezing": "frozen-body", "align.epochs": 1, "align.proxy_samples": 60}),
        ("npz", {"adapter": "lora", "freezing": "full"}),
        ("npz", {"body.name": "mini-swin", "proxy": "photos", "freezing": "frozen-both"}),
        ("npz-dense", {}),
        ("npz-dense", {"body.name": "mini-swin", "proxy": "photos"}),
        ("ucr", {}),
        ("images", {}),
        ("images", {"body.name": "mini-roberta", "proxy": "pydoc", "adapter": "lora"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())) or "plain",
)
def test_on_the_raw_test_file_an_exported_model_has_the_error_of_the_row(data, knobs, exported, use_data, tmp_path):
    use_data(tmp_path)
    task, file = WRITERS[data](tmp_path)
    result, model = exported(task, knobs)
    assert model.error(file) == result.test_error
    test = find_task(task).load(0).test
    expected = model.model(torch.from_numpy(test.x) if data != "images" else find_task(task).load(0).inputs(torch.from_numpy(test.x)))
    assert torch.equal(model.outputs(model.read(file).inputs), expected)
    assert model.errors == {name: getattr(result, name) for name in ("valid_error", "test_error", "valid_loss", "train_loss")}
