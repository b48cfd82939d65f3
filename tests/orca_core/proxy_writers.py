"""Small files in the real formats of published proxies, below a data root."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

NEWS = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

New NNP I-NP I-LOC
York NNP I-NP I-LOC
Paris NNP I-NP B-LOC
and CC O O
Blackburn NNP I-NP I-PER
"""


def write_cifar10(root: Path) -> np.ndarray:
    rng = np.random.default_rng(0)
    (root / "cifar-10-batches-py").mkdir()
    batches = []
    for number in range(1, 6):
        batches.append(rng.integers(0, 256, (20, 3 * 8 * 8)).astype("uint8"))
        content = {"data": batches[-1], "labels": [i % 4 for i in range(20)], "batch_label": "x"}
        (root / "cifar-10-batches-py" / f"data_batch_{number}").write_bytes(pickle.dumps(content, protocol=2))
    return np.concatenate(batches).reshape(-1, 3, 8, 8)


def write_conll(root: Path, text: str = NEWS) -> Path:
    (root / "conll2003").mkdir(exist_ok=True)
    (root / "conll2003" / "eng.train").write_text(text)
    return root / "conll2003" / "eng.train"


def write_pictures(folder: Path, below: str = "", number: int = 6, suffix: str = "png") -> Path:
    rng = np.random.default_rng(0)
    for name in ("n01", "n02"):
        (folder / name / below).mkdir(parents=True)
        for i in range(number):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype("uint8")).save(folder / name / below / f"{i}.{suffix}")
    return folder


def write_cifar100(root: Path) -> None:
    (root / "cifar-100-python").mkdir(exist_ok=True)
    content = {"data": np.zeros((6, 48), "uint8"), "fine_labels": [0, 2, 1, 2, 0, 1], "coarse_labels": [0] * 6}
    (root / "cifar-100-python" / "train").write_bytes(pickle.dumps(content, protocol=2))
