"""Small files in the real formats of NAS-Bench-360: `WRITERS[task](root)` writes what the task expects below a data root."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np


def cifar100(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "cifar-100-python").mkdir(parents=True)
    for part, n in (("train", 40), ("test", 20)):
        content = {"data": rng.integers(0, 256, (n, 3 * 8 * 8)).astype("uint8"), "fine_labels": [i % 4 for i in range(n)]}
        (root / "cifar-100-python" / part).write_bytes(pickle.dumps({**content, "filenames": ["a.png"] * n}, protocol=2))


def spherical(root: Path) -> None:
    rng = np.random.default_rng(0)
    content = {
        part: {"images": rng.integers(0, 256, (n, 3, 12, 12)).astype("uint8"), "labels": np.arange(n) % 4}
        for part, n in (("train", 40), ("test", 20))
    }
    with gzip.open(root / "s2_cifar100.gz", "wb") as file:
        pickle.dump(content, file)


def ninapro(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "ninaPro").mkdir()
    for part, n in (("train", 36), ("val", 18), ("test", 18)):
        np.save(root / "ninaPro" / f"ninapro_{part}.npy", rng.normal(size=(n, 12, 6)).astype("float32"))
        np.save(root / "ninaPro" / f"label_{part}.npy", (np.arange(n) % 6).astype("float64"))


WRITERS: dict[str, Callable[[Path], None]] = {
    "nb360/cifar100": cifar100,
    "nb360/spherical": spherical,
    "nb360/ninapro": ninapro,
}
