"""Small files in the real formats of published data sets: `WRITERS[task](root)` writes what the task expects below a data root."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat, wavfile


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


def darcy(root: Path, version: str = "v5") -> None:
    rng = np.random.default_rng(0)
    for number, n in ((1, 10), (2, 4)):
        coefficient = np.where(rng.random((n, 41, 41)) < 0.5, 3.0, 12.0).astype("float32")
        content = {"coeff": coefficient, "sol": (rng.random((n, 41, 41)) + 1 / coefficient).astype("float32")}
        path = root / f"piececonst_r421_N1024_smooth{number}.mat"
        if version == "v5":
            savemat(path, content)
        else:
            with h5py.File(path, "w", userblock_size=512) as file:
                for key, array in content.items():
                    file[key] = array.T


def psicov(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name, lengths in (("deepcov", (30, 34, 30, 70)), ("psicov", (32, 30))):
        folder = root / "protein" / name
        (folder / "features").mkdir(parents=True)
        (folder / "distance").mkdir()
        (root / "protein" / f"{name}.lst").write_text("".join(f"{name}{i} {length}\n" for i, length in enumerate(lengths)))
        for i, length in enumerate(lengths):
            features: dict[str, object] = {"seq": "A" * length}
            shapes = {"ss": (3, length), "pssm": (length, 22), "sa": (length,), "entropy": (length,)}
            shapes |= dict.fromkeys(("ccmpred", "freecon", "potential"), (length, length))
            features |= {key: rng.normal(size=shape).astype("float32") for key, shape in shapes.items()}
            (folder / "features" / f"{name}{i}.pkl").write_bytes(pickle.dumps(features, protocol=4))
            points = rng.normal(size=(length, 3)) * 6
            held = np.empty(3, dtype=object)
            held[:] = [length, "A" * length, np.linalg.norm(points[:, None] - points, axis=-1)]
            np.save(folder / "distance" / f"{name}{i}-cb.npy", held)


def cosmic(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("test", 3)):
        names = []
        for k in range(1, n + 1):
            folder = f"cosmic/npy_{part}/f435w/1000/{'with_sky' if k % 2 else 'without'}"
            (root / folder).mkdir(parents=True, exist_ok=True)
            image = rng.normal(50, 5, (200, 195))
            planes = np.stack([image, rng.random(image.shape) < 0.1, rng.random(image.shape) < 0.05][: 2 if k == 2 else 3])
            np.save(root / folder / f"{k}_j8x.npy", planes.astype("float32"))
            names.append(f"./{folder}/{k}_j8x.npy")
        np.save(root / f"cosmic/npy_{part}/f435w/1000/with_sky/sky.npy", np.arange(1.0, n + 1))
        np.save(root / "cosmic" / f"{part}_dirs.npy", np.array(names, dtype=object))


def fsd50k(root: Path) -> None:
    rng = np.random.default_rng(0)
    labels = ["Bark", "Bell", "Rain", "Speech", "Wind"]
    (root / "noise_22050").mkdir()
    wavfile.write(root / "noise_22050" / "hum.wav", 22050, rng.integers(-900, 900, 23000).astype("int16"))
    for part, clips in (("tr", 4), ("val", 3), ("eval", 5)):
        (root / "chunks" / part).mkdir(parents=True)
        rows = ["files,labels,ext"]
        for clip in range(clips):
            for chunk in range(2):
                sound = rng.integers(-9000, 9000, 22050 if chunk or clip else 9000).astype("int16")
                wavfile.write(root / "chunks" / part / f"{clip}_{chunk}.wav", 22050, sound)
                rows.append(f'data/chunks/{part}/{clip}_{chunk}.wav,"{labels[clip]},{labels[(clip + 1) % 5]}",{clip}')
        (root / "chunks" / f"{part}.csv").write_text("\n".join(rows) + "\n")
    (root / "chunks" / "lbl_map.json").write_text(json.dumps({label: number for number, label in enumerate(labels)}))


def ecg(root: Path) -> None:
    rng = np.random.default_rng(0)
    records = np.empty(40, dtype=object)
    records[:] = [rng.normal(3.0, 2.0, 1100 + 7 * i) for i in range(40)]
    content = {"data": records, "label": np.array(list("NAO~") * 10)}
    (root / "challenge2017.pkl").write_bytes(pickle.dumps(content, protocol=2))


def satellite(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part, n in (("train", 45), ("test", 15)):
        np.save(root / f"satellite_{part}.npy", {"data": rng.normal(500, 90, (n, 46)), "label": np.arange(n) % 5 + 1})


def deepsea(root: Path) -> None:
    rng = np.random.default_rng(0)
    content = {}
    for part, n in (("train", 24), ("val", 8), ("test", 12)):
        content[f"x_{part}"] = np.eye(4, dtype="uint8")[rng.integers(0, 4, (n, 100))]
        content[f"y_{part}"] = (np.arange(n)[:, None] // 2 ** np.arange(5) % 2).astype("uint8")
    np.savez_compressed(root / "deepsea_filtered.npz", **content)


def pde_tensor(file: str, seed: int, times: int = 11) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        with h5py.File(root / file, "w") as out:
            out["tensor"] = np.random.default_rng(seed).normal(size=(20, times, 32)).astype("float32")
            out["x-coordinate"] = np.arange(32.0)

    return write


def pde_fields(file: str, fields: str, shape: tuple[int, ...]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        rng = np.random.default_rng(3)
        with h5py.File(root / file, "w") as out:
            for field in fields.split():
                out[field] = rng.normal(2.0, 3.0, shape if field != "nu" else (shape[0], *shape[2:])).astype("float32")

    return write


def pde_groups(file: str, shape: tuple[int, ...]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        rng = np.random.default_rng(len(file))
        (root / "pdebench").mkdir(exist_ok=True)
        with h5py.File(root / "pdebench" / file, "w") as out:
            for number in range(20):
                out[f"{number:04d}/data"] = rng.normal(size=shape).astype("float32")
                out[f"{number:04d}/grid/x"] = np.arange(4.0)

    return write


PDE_WRITERS: dict[str, Callable[[Path], None]] = {
    "pdebench/advection": pde_tensor("1D_Advection_Sols_beta0.4.hdf5", 1, times=13),
    "pdebench/burgers": pde_tensor("1D_Burgers_Sols_Nu1.0.hdf5", 2),
    "pdebench/1dcfd": pde_fields("1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", "density pressure Vx", (20, 11, 16)),
    "pdebench/ds": pde_groups("1D_diff-sorp_NA_NA.h5", (103, 32, 1)),
    "pdebench/rd": pde_tensor("ReacDiff_Nu0.5_Rho1.0.hdf5", 4, times=101),
    "pdebench/darcy": pde_fields("2D_DarcyFlow_beta0.1_Train.hdf5", "tensor nu", (20, 1, 16, 16)),
    "pdebench/rd2d": pde_groups("2D_diff-react_NA_NA.h5", (101, 8, 8, 2)),
    "pdebench/sw": pde_groups("2D_rdb_NA_NA.h5", (101, 8, 8, 1)),
    "pdebench/2dcfd": pde_fields("2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train.hdf5", "density pressure Vx Vy", (20, 4, 16, 16)),
}


def drug(key: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        rng = np.random.default_rng(len(key))
        (root / "drug_sep").mkdir(exist_ok=True)
        for part, n in (("train", 20), ("test", 8)):
            x = (rng.random((n, 1, 96)) < 0.2).astype("float32")
            np.save(root / "drug_sep" / f"{key}_{part}_feat.npy", x)
            np.save(root / "drug_sep" / f"{key}_{part}_label.npy", (x[:, :, :48].mean(2) + 0.3).astype("float32"))

    return write


def openml_split(root: Path) -> None:
    """Table 1464 as the reference saves its split: numbers alone, standardised over all 60 rows."""
    rng = np.random.default_rng(0)
    raw = rng.normal(5.0, 3.0, size=(60, 4))
    norm = ((raw - raw.mean(0)) / raw.std(0))[:, :, None]
    y = np.arange(60) % 2
    parts = {"dev": slice(0, 50), "test": slice(50, 60)}
    arrays = {"y": y, "X_raw": raw, "X_norm": norm}
    content = {f"{key}_{part}": values[rows] for part, rows in parts.items() for key, values in arrays.items()}
    np.save(root / "1464_dev_test_split.npy", content)


def openml_table(root: Path) -> None:
    """Table 31 as ARFF, 40 rows: two columns of categories, two of numbers, one with a missing entry; the target is in the middle."""
    (root / "openml").mkdir(exist_ok=True)
    head = """@relation 'credit'
% a comment
@attribute job {'un skilled',skilled,none}
@attribute Class {good,bad}
@attribute age numeric
@attribute 'amount of it' real
@attribute own {yes,no}
@attribute gap numeric
@data
"""
    jobs = ("'un skilled'", "skilled", "none")
    rows = [
        (jobs[i % 3], "bad" if i % 4 == 0 else "good", 20 + i, i * i / 2, "yes" if i % 2 else "no", "?" if i == 7 else i) for i in range(40)
    ]
    (root / "openml" / "31.arff").write_text(head + "".join(",".join(map(str, row)) + "\n" for row in rows))


WRITERS: dict[str, Callable[[Path], None]] = {
    "nb360/cifar100": cifar100,
    "nb360/spherical": spherical,
    "nb360/ninapro": ninapro,
    "nb360/darcy": darcy,
    "nb360/psicov": psicov,
    "nb360/cosmic": cosmic,
    "nb360/fsd50k": fsd50k,
    "nb360/ecg": ecg,
    "nb360/satellite": satellite,
    "nb360/deepsea": deepsea,
    **PDE_WRITERS,
    "drug/ctrp": drug("ctrp"),
    "drug/gdsc": drug("gdsc"),
    "openml/1464": openml_split,
    "openml/31": openml_table,
}
