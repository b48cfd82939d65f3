"""Files of NAS-Bench-360 in their published formats and shapes, of random content: all samples, or a share of them.

`WRITERS[task](root, share)` writes what the task reads below a data root. Sizes and formats are those of docs/tasks.md and of
`orca_core/tasks/nb360/`. The lengths of proteins are drawn from 50 to 300, the sides of Hubble images are taken to be 368: these are not
published, but with them the files are about as large as they are said to be.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat, wavfile

CHUNKS = {"tr": (36_796, 508_000), "val": (4_170, 71_000), "eval": (10_231, 201_000)}
"""Clips of FSD50K, and chunks: 70.5, 9.9 and 27.9 hours of sound, in steps of half a second."""

RHYTHMS = {"N": (5076, 9500), "A": (758, 9500), "O": (2415, 10200), "~": (279, 7200)}
"""Records of the ECG challenge by class, and their mean length in points."""


def _share_of(number: int, share: float) -> int:
    return max(12, round(number * share))


def cifar100(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    (root / "cifar-100-python").mkdir()
    for part, number in (("train", 50_000), ("test", 10_000)):
        n = max(200, _share_of(number, share))
        content = {"data": rng.integers(0, 256, (n, 3072), dtype="uint8"), "fine_labels": [i % 100 for i in range(n)]}
        (root / "cifar-100-python" / part).write_bytes(pickle.dumps(content, protocol=2))


def spherical(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    content = {}
    for part, number in (("train", 50_000), ("test", 10_000)):
        n = max(200, _share_of(number, share))
        # Seven pixels of ten are black, as they are outside of the sphere's view: the published file is compressed to 0.42.
        images = rng.integers(0, 256, (n, 3, 60, 60), dtype="uint8") * (rng.random((n, 3, 60, 60)) < 0.3)
        content[part] = {"images": images, "labels": np.arange(n) % 100}
    with gzip.open(root / "s2_cifar100.gz", "wb", compresslevel=1) as file:
        pickle.dump(content, file)


def ninapro(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    (root / "ninaPro").mkdir()
    for part, number in (("train", 2638), ("val", 659), ("test", 659)):
        n = max(36, _share_of(number, share))
        np.save(root / "ninaPro" / f"ninapro_{part}.npy", rng.standard_normal((n, 52, 16)))
        np.save(root / "ninaPro" / f"label_{part}.npy", np.arange(n) % 18)


def darcy(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    for number in (1, 2):
        shape = (_share_of(1024, share), 421, 421)
        coefficient = np.where(rng.random(shape, dtype="float32") < 0.5, np.float32(3), np.float32(12))
        savemat(root / f"piececonst_r421_N1024_smooth{number}.mat", {"coeff": coefficient, "sol": rng.random(shape, dtype="float32")})


def psicov(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    for name, number in (("deepcov", 3456), ("psicov", 150)):
        folder = root / "protein" / name
        (folder / "features").mkdir(parents=True)
        (folder / "distance").mkdir()
        lengths = rng.integers(50, 300, _share_of(number, share))
        (root / "protein" / f"{name}.lst").write_text("".join(f"{name}{i}\n" for i in range(len(lengths))))
        for i, length in enumerate(lengths):
            shapes = {"ss": (3, length), "pssm": (length, 22), "sa": (length,), "entropy": (length,)}
            shapes |= dict.fromkeys(("ccmpred", "freecon", "potential"), (length, length))
            features = {key: rng.standard_normal(shape, dtype="float32") for key, shape in shapes.items()}
            (folder / "features" / f"{name}{i}.pkl").write_bytes(pickle.dumps({"seq": "A" * length, **features}, protocol=4))
            points = rng.standard_normal((length, 3), dtype="float32") * 9
            held = np.empty(3, dtype=object)
            held[:] = [int(length), "A" * length, np.linalg.norm(points[:, None] - points, axis=-1)]
            np.save(folder / "distance" / f"{name}{i}-cb.npy", held)


def cosmic(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    for part, number in (("train", 4830), ("test", 420)):
        names, n = [], _share_of(number, share)
        for k in range(1, n + 1):
            folder = f"cosmic/npy_{part}/f435w/1000/{k // 50}"
            (root / folder).mkdir(parents=True, exist_ok=True)
            noise = rng.standard_normal((368, 368), dtype="float32")
            np.save(root / folder / f"{k}_j8x.npy", np.stack([50 + 5 * noise, noise > 2.2, noise < -3]).astype("float32"))
            np.save(root / folder / "sky.npy", np.arange(1.0, n + 1))
            names.append(f"./{folder}/{k}_j8x.npy")
        np.save(root / "cosmic" / f"{part}_dirs.npy", np.array(names, dtype=object))


def fsd50k(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    labels = [f"label{number}" for number in range(200)]
    (root / "noise_22050").mkdir()
    wavfile.write(root / "noise_22050" / "hum.wav", 22050, rng.integers(-900, 900, 600 * 22050 // 60).astype("int16"))
    for part, (clips, chunks) in CHUNKS.items():
        (root / "chunks" / part).mkdir(parents=True)
        rows, n = ["files,labels,ext"], _share_of(chunks, share)
        clip_of = np.sort(rng.integers(0, _share_of(clips, share), n))
        sound = rng.integers(-9000, 9000, 22050 + n, dtype="int16")
        for chunk, clip in enumerate(clip_of):
            wavfile.write(root / "chunks" / part / f"{chunk}.wav", 22050, sound[chunk : chunk + 22050])
            rows.append(f'data/chunks/{part}/{chunk}.wav,"{labels[clip % 200]},{labels[clip * 7 % 200]}",{clip}')
        (root / "chunks" / f"{part}.csv").write_text("\n".join(rows) + "\n")
    (root / "chunks" / "lbl_map.json").write_text(json.dumps({label: number for number, label in enumerate(labels)}))


def ecg(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    labels = [name for name, (number, _) in RHYTHMS.items() for _ in range(_share_of(number, share))]
    records = np.empty(len(labels), dtype=object)
    for i, name in enumerate(labels):
        records[i] = rng.integers(-900, 900, rng.integers(2700, 2 * RHYTHMS[name][1] - 2700), dtype="int16")
    (root / "challenge2017.pkl").write_bytes(pickle.dumps({"data": records, "label": np.array(labels)}, protocol=2))


def satellite(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    for part, number in (("train", 900_000), ("test", 100_000)):
        n = max(240, _share_of(number, share))
        np.save(root / f"satellite_{part}.npy", {"data": rng.normal(500, 90, (n, 46)), "label": np.arange(n) % 24 + 1})


def deepsea(root: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    content = {}
    for part, number in (("train", 71_750), ("val", 2490), ("test", 149_400)):
        n = max(200, _share_of(number, share))
        content[f"x_{part}"] = np.eye(4, dtype="uint8")[rng.integers(0, 4, (n, 1000), dtype="uint8")]
        content[f"y_{part}"] = (rng.random((n, 36)) < 0.05).astype("uint8")
    np.savez(root / "deepsea_filtered.npz", **content)


WRITERS: dict[str, Callable[[Path, float], None]] = {
    "cifar100": cifar100,
    "spherical": spherical,
    "ninapro": ninapro,
    "fsd50k": fsd50k,
    "darcy": darcy,
    "psicov": psicov,
    "cosmic": cosmic,
    "ecg": ecg,
    "satellite": satellite,
    "deepsea": deepsea,
}
