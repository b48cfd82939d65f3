"""Published files that are missing, damaged or of another form are told before anything starts; whole ones are decoded once."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from published import WRITERS
from scipy.io import savemat, wavfile

from orca_core.config.resolve import resolve_config
from orca_core.datafiles.expected import read_headers
from orca_core.errors import DataError
from orca_core.tasks import find_task

# Missing


@pytest.mark.parametrize("name", WRITERS)
def test_a_task_without_its_files_is_known_and_names_them_all(root, name):
    spec = find_task(name)
    assert resolve_config({"task": name}).task_spec == spec
    for use in (spec.digest, spec.load, spec.check_files):
        with pytest.raises(DataError) as error:
            use()
        lines = str(error.value).splitlines()
        assert [line.partition(": must be an existing ")[0] for line in lines] == [str(file.find()) for file in spec.expects]
        assert all(f"The data root is {root}." in line for line in lines)


def test_files_are_looked_for_below_the_data_root_of_the_workbench_in_use(tmp_path, use_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use_data("elsewhere")
    assert find_task("nb360/ecg").expects[0].find() == tmp_path / "elsewhere" / "challenge2017.pkl"


# Broken: what is done to one file, and what is said of it


def cut(path: str, share: float = 0.6) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: int(share * len(content))])

    return act


def array(path: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda root: np.save(root / path, change(np.load(root / path, allow_pickle=True)))


def npz(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        content = dict(np.load(root / "deepsea_filtered.npz"))
        np.savez(root / "deepsea_filtered.npz", **change(content))

    return act


def pickled(path: str, change: Callable[[dict], object], zipped: bool = False) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        content = (root / path).read_bytes()
        changed = pickle.dumps(change(pickle.loads(gzip.decompress(content) if zipped else content)))
        (root / path).write_bytes(gzip.compress(changed) if zipped else changed)

    return act


def satellite(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        content = np.load(root / "satellite_train.npy", allow_pickle=True)[()]
        np.save(root / "satellite_train.npy", change(content))

    return act


def with_nan(values: np.ndarray) -> np.ndarray:
    changed = np.array(values, dtype="float32")
    changed[(0,) * changed.ndim] = np.nan
    return changed


class Trap:
    def __reduce__(self) -> tuple:
        return os.system, ("echo",)


def mat(**changes: object) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        content = {"coeff": np.ones((4, 41, 41), "f4"), "sol": np.ones((4, 41, 41), "f4")} | changes
        savemat(root / "piececonst_r421_N1024_smooth2.mat", {key: value for key, value in content.items() if value is not None})

    return act


def change_type(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"coeff") + 8  # the name, padded to 8 bytes; then the tag of the values
    content[at : at + 4] = b"\xff\xff\0\0"
    path.write_bytes(content)


def mat_compressed(root: Path) -> None:
    rng = np.random.default_rng(0)
    for number in (1, 2):
        content = {key: rng.normal(size=(4, 121, 121)) for key in ("coeff", "sol")}
        savemat(root / f"piececonst_r421_N1024_smooth{number}.mat", content, do_compression=True)


def spoil(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + 8] = bytes(byte ^ 0xFF for byte in content[at : at + 8])
    path.write_bytes(content)


NINA, LABEL = "ninaPro/ninapro_val.npy", "ninaPro/label_test.npy"
FEATURE, DISTANCE = "protein/deepcov/features/deepcov1.pkl", "protein/psicov/distance/psicov0-cb.npy"
IMAGE = "cosmic/npy_train/f435w/1000/with_sky/1_j8x.npy"
WAV = "chunks/val/1_0.wav"

BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "npy cut": (
        "ninapro",
        cut(NINA),
        rf"{NINA}: must be a complete npy file, but cannot be read \(it is truncated: \d+ of \d+ bytes\)",
    ),
    "npy of no numbers": (
        "ninapro",
        lambda root: (root / NINA).write_bytes(b"text"),
        rf"{NINA}: must be a complete npy file.*Expected npy: \(n, t, c\)",
    ),
    "npy axes": ("ninapro", array(NINA, lambda x: x[0]), rf"{NINA}: must be \(n, t, c\) float.*, but got \(12, 6\)"),
    "npy dtype": ("ninapro", array(NINA, lambda x: x.astype("complex64")), rf"{NINA}: must be \(n, t, c\) .*, but got 'complex64'"),
    "npy NaN": (
        "ninapro",
        array(NINA, with_nan),
        rf"{NINA}: must have no NaN and no infinite value, but has 1: the first in row 0, at \[0, 0\]\.",
    ),
    "npy rows": (
        "ninapro",
        array(NINA, lambda x: x[:, :5]),
        rf"{NINA}: must have rows of shape \(12, 6\) like the training part, but got \(5, 6\)",
    ),
    "labels rows": ("ninapro", array(LABEL, lambda y: y[:-1]), rf"{LABEL}: must have the 18 rows of ninapro_test\.npy, but got 17"),
    "labels unknown": ("ninapro", array(LABEL, lambda y: y + 1), rf"{LABEL}: must be 0 to 5 as in train, but got \[6\.0\]"),
    "labels not whole": ("ninapro", array(LABEL, lambda y: y + 0.5), rf"{LABEL}: must be 0 to 5 as in train, but got \[0\.5"),
    "gzip cut": ("spherical", cut("s2_cifar100.gz"), r"s2_cifar100\.gz: must be a complete pickle"),
    "no gzip": (
        "spherical",
        lambda root: (root / "s2_cifar100.gz").write_bytes(b"text"),
        r"s2_cifar100\.gz: must be a complete gzipped pickle file.*does not start like a gzip",
    ),
    "pickle key": (
        "spherical",
        pickled("s2_cifar100.gz", lambda held: {**held, "test": {"images": held["test"]["images"]}}, zipped=True),
        r"s2_cifar100\.gz: test\.labels: must be in the file, but got \['test\.images', 'train\.images', 'train\.labels'\]",
    ),
    "pickle shape": (
        "spherical",
        pickled("s2_cifar100.gz", lambda held: {**held, "test": {**held["test"], "images": held["test"]["images"][:, :, 1:]}}, zipped=True),
        r"s2_cifar100\.gz: test\.images: must be \(test, 3, h, w\) uint8 with h = 12.*, but got \(20, 3, 11, 12\)",
    ),
    "pickle of code": (
        "spherical",
        pickled("s2_cifar100.gz", lambda held: {**held, "more": Trap()}, zipped=True),
        r"names posix\.system, which is refused",
    ),
    "pickle of a list": (
        "cifar100",
        pickled("cifar-100-python/test", lambda held: [1]),
        r"test: must hold a mapping of data \(n, d\).*, but got 'list'",
    ),
    "labels too few": (
        "cifar100",
        pickled("cifar-100-python/test", lambda held: {**held, "fine_labels": [0]}),
        r"fine_labels: must be .* with n = 20, but got \(1,\)",
    ),
    "no squares": (
        "cifar100",
        pickled("cifar-100-python/test", lambda held: {**held, "data": held["data"][:, 1:]}),
        r"data: must have rows of three square images",
    ),
    "satellite label": (
        "satellite",
        satellite(lambda held: {**held, "label": held["label"] - 1}),
        r"label: must be whole numbers from 1 to 24, as published, but got \[0\]",
    ),
    "satellite NaN": (
        "satellite",
        satellite(lambda held: {**held, "data": with_nan(held["data"])}),
        r"satellite_train\.npy: data: must have no NaN",
    ),
    "satellite code": ("satellite", satellite(lambda held: {**held, "data": Trap()}), r"names posix\.system, which is refused"),
    "npz cut": ("deepsea", cut("deepsea_filtered.npz"), r"deepsea_filtered\.npz: must be a complete npz file"),
    "npz key": (
        "deepsea",
        npz(lambda held: {key: value for key, value in held.items() if key != "y_val"}),
        r"npz: y_val: must be in the file, but got",
    ),
    "npz rows": (
        "deepsea",
        npz(lambda held: {**held, "y_val": held["y_val"][1:]}),
        r"npz: y_val: must be .* with labels = 5, val = 8, but got \(7, 5\)",
    ),
    "npz labels": ("deepsea", npz(lambda held: {**held, "y_test": held["y_test"] * 2}), r"npz: y_test: must be 0 or 1"),
    "npz NaN": (
        "deepsea",
        npz(lambda held: {**held, "x_test": with_nan(held["x_test"])}),
        r"npz: x_test: must have no NaN.*, but has 1: the first in row 0",
    ),
    "npz bases": (
        "deepsea",
        npz(lambda held: {**held, "x_test": held["x_test"][:, :, :3]}),
        r"npz: x_test: must be \(test, l, 4\) one-hot.*, but got \(12, 100, 3\)",
    ),
    "mat cut": ("darcy", cut("piececonst_r421_N1024_smooth1.mat"), r"smooth1\.mat: (coeff|sol)?:? ?must be a complete"),
    "mat key": ("darcy", mat(sol=None), r"smooth2\.mat: sol: must be in the file, but got \['coeff'\]"),
    "mat shape": (
        "darcy",
        mat(sol=np.ones((4, 41, 40), "f4")),
        r"smooth2\.mat: sol: must be \(n, side, side\) .*, but got \(4, 41, 40\)",
    ),
    "mat NaN": ("darcy", mat(sol=with_nan(np.ones((4, 41, 41)))), r"smooth2\.mat: sol: must have no NaN"),
    "ecg label": (
        "ecg",
        pickled("challenge2017.pkl", lambda held: {**held, "label": np.array(["X", *held["label"][1:]])}),
        r"challenge2017\.pkl: label of record 0: must be one of N A O ~, but got \['X'\]",
    ),
    "ecg short": (
        "ecg",
        pickled("challenge2017.pkl", lambda held: {**held, "data": np.array([r[:1000] for r in held["data"]] + [None], dtype=object)[:-1]}),
        r"challenge2017\.pkl: data: must have a record longer than 1000 points in train",
    ),
    "ecg NaN": (
        "ecg",
        pickled("challenge2017.pkl", lambda held: {**held, "data": np.array([*held["data"][1:], with_nan(held["data"][0])], dtype=object)}),
        r"challenge2017\.pkl: data of record 39: must have no NaN",
    ),
    "protein missing": (
        "psicov",
        lambda root: (root / FEATURE).unlink(),
        rf"must have the 12 files that .*deepcov\.lst.* names, but 1 is missing: .*{FEATURE}",
    ),
    "protein key": (
        "psicov",
        pickled(FEATURE, lambda held: {**held, "sa": held["sa"][1:]}),
        rf"{FEATURE}: sa: must be \(l,\) with l = 34, but got \(33,\)",
    ),
    "protein range": (
        "psicov",
        pickled(FEATURE, lambda held: {**held, "sa": held["sa"] + 100}),
        rf"{FEATURE}: features: must be within \(-100, 100\)",
    ),
    "protein NaN": (
        "psicov",
        pickled(FEATURE, lambda held: {**held, "potential": with_nan(held["potential"])}),
        rf"{FEATURE}: maps: must be within",
    ),
    "protein distances": (
        "psicov",
        array(DISTANCE, lambda held: held[:2]),
        rf"{DISTANCE}: must hold l, sequence and \(32, 32\) distances",
    ),
    "image missing": (
        "cosmic",
        lambda root: (root / IMAGE).unlink(),
        rf"must have the 9 files that .* names, but 1 is missing: .*{IMAGE}",
    ),
    "image small": (
        "cosmic",
        array(IMAGE, lambda planes: planes[:, :150]),
        rf"{IMAGE}: must be numbers of shape \(2 or 3, h, w\) with h and w at least 192",
    ),
    "image NaN": ("cosmic", array(IMAGE, lambda planes: planes * np.nan), rf"{IMAGE}: must have no NaN"),
    "image mask": ("cosmic", array(IMAGE, lambda planes: planes[[1, 0, 2]]), rf"{IMAGE}: must have a mask of 0 and 1"),
    "image list": (
        "cosmic",
        array("cosmic/test_dirs.npy", lambda names: np.array(["./../secret.npy"], dtype=object)),
        r"test_dirs\.npy: entry 0: must be a path below .* that does not leave it, but got '\.\./secret\.npy'",
    ),
    "image sky": (
        "cosmic",
        array("cosmic/npy_train/f435w/1000/with_sky/sky.npy", lambda sky: sky[:0]),
        r"sky\.npy: must be of shape \(n,\) with an entry for 1_j8x\.npy",
    ),
    "wav missing": ("fsd50k", lambda root: (root / WAV).unlink(), rf"must have the 24 files that .* names, but 1 is missing: .*{WAV}"),
    "wav cut": ("fsd50k", lambda root: (root / WAV).write_bytes(b"RIFF"), rf"{WAV}: must be a complete .wav"),
    "wav ends early": ("fsd50k", cut(WAV), rf"{WAV}: must be a complete \.wav file.*truncated: a chunk claims 44100 bytes"),
    "wav rate": (
        "fsd50k",
        lambda root: wavfile.write(root / WAV, 44100, np.ones(50, "int16")),
        rf"{WAV}: must be mono at 22050 Hz, but got \(44100, \(50,\)\)",
    ),
    "csv column": ("fsd50k", lambda root: (root / "chunks/val.csv").write_text("files,labels\n"), r"val\.csv: ext: must be a column"),
    "csv label": (
        "fsd50k",
        lambda root: (root / "chunks/lbl_map.json").write_text(json.dumps({"Bark": 0})),
        r"tr\.csv: labels: must be in lbl_map\.json, but got \['Bell'\]",
    ),
    "json cut": ("fsd50k", cut("chunks/lbl_map.json"), r"lbl_map\.json: must be a JSON file"),
    "npy header": (
        "ninapro",
        lambda root: (root / NINA).write_bytes((root / NINA).read_bytes().replace(b"}", b"(", 1)),
        rf"{NINA}: must be a complete npy file, but cannot be read",
    ),
    "npy transposed": (
        "ninapro",
        lambda root: [array(f"ninaPro/ninapro_{part}.npy", lambda x: x.transpose(0, 2, 1))(root) for part in ("train", "val", "test")],
        r"ninapro_train\.npy: must have more times than channels, but got \(36, 6, 12\)",
    ),
    "npy transposed as published": (
        "ninapro",
        array(NINA, lambda x: np.zeros((18, 16, 52), "float32")),
        rf"{NINA}: must be \(n, t, c\) .*, of \(52, 16\), but got \(18, 16, 52\)\. Are its axes in another order",
    ),
    "labels from 1": (
        "ninapro",
        lambda root: [array(f"ninaPro/label_{part}.npy", lambda y: y % 3 + 16)(root) for part in ("train", "val", "test")],
        r"label_train\.npy: must be whole numbers from 0 to 17, as published, but got \[18\.0\]",
    ),
    "satellite labels": (
        "satellite",
        satellite(lambda held: {**held, "label": held["label"] + 20}),
        r"label: must be whole numbers from 1 to 24, as published, but got \[25\]",
    ),
    "npz transposed": (
        "deepsea",
        npz(lambda held: {key: x.transpose(0, 2, 1) if key[0] == "x" else x for key, x in held.items()}),
        r"npz: x_train: must be \(train, l, 4\) .*, but got \(24, 4, 100\)",
    ),
    "npz not one-hot": ("deepsea", npz(lambda held: {**held, "x_val": held["x_val"] * 2}), r"npz: x_val: must be one-hot"),
    "npz one of three": (
        "deepsea",
        npz(lambda held: {**held, "x_train": held["x_train"][:, 1:]}),
        r"npz: x_train: must be .* with .*l = 100, but got \(24, 99, 4\)",
    ),
    "zip method": (
        "deepsea",
        lambda root: (root / "deepsea_filtered.npz").write_bytes(
            (root / "deepsea_filtered.npz").read_bytes().replace(b"\x08\x00", b"\x63\x00")
        ),
        r"deepsea_filtered\.npz: must be a complete npz file, but cannot be read \(NotImplementedError",
    ),
    "type of values in a mat": (
        "darcy",
        lambda root: change_type(root / "piececonst_r421_N1024_smooth2.mat"),  # scipy ends the process by a segmentation fault
        r"smooth2\.mat: must be a complete mat file, but cannot be read \(an array has values of the unknown type 65535\)",
    ),
    "zlib in a mat": (
        "darcy",
        lambda root: [mat_compressed(root), spoil(root / "piececonst_r421_N1024_smooth1.mat", -9000)],
        r"smooth1\.mat: must be a complete mat file with the array (coeff|sol), but cannot be read \(error: Error -\d while decompressing",
    ),
    "pixels": (
        "cifar100",
        pickled("cifar-100-python/train", lambda held: {**held, "data": held["data"].astype("int64") + 45}),
        r"train: data: must be pixels from 0 to 255, but got \(45\.0, 300\.0\)",
    ),
    "scaled pixels": (
        "spherical",
        pickled("s2_cifar100.gz", lambda held: {**held, "train": {**held["train"], "images": held["train"]["images"] / 255}}, zipped=True),
        r"train\.images: must be pixels from 0 to 255, but got \(0\.0, 1\.0\)\. Are they scaled already",
    ),
    "ecg label of bytes": (
        "ecg",
        pickled("challenge2017.pkl", lambda held: {**held, "label": np.array([b"\xff", *[b"N"] * 39])}),
        r"challenge2017\.pkl: label of record 0: must be one of N A O ~",
    ),
    "protein of another length": (
        "psicov",
        array(DISTANCE, lambda held: np.array([31, *held[1:]], dtype=object)),
        rf"{DISTANCE}: must have the length 32 of its features, .* but got '31 and 32'",
    ),
    "protein of another sequence": (
        "psicov",
        array(DISTANCE, lambda held: np.array([held[0], "G" * 32, held[2]], dtype=object)),
        rf"{DISTANCE}: must have the sequence of its features, but got 'GGG.*Is it another protein",
    ),
    "protein list of bytes": (
        "psicov",
        lambda root: (root / "protein/psicov.lst").write_bytes(b"psicov0 32\n1psx\xe9A 58\n"),
        r"protein/psicov\.lst: line 2: must be UTF-8, but has the byte 0xe9",
    ),
    "protein outside": (
        "psicov",
        lambda root: (root / "protein/psicov.lst").write_text("../../secret 32\n"),
        r"psicov\.lst: must be a path below .* that does not leave it, but got 'features/\.\./\.\./secret\.pkl'",
    ),
    "wav of no channels": (
        "fsd50k",
        lambda root: (root / WAV).write_bytes((root / WAV).read_bytes()[:22] + b"\0\0" + (root / WAV).read_bytes()[24:]),
        rf"{WAV}: must be a complete \.wav file, but cannot be read",
    ),
    "wav outside": (
        "fsd50k",
        lambda root: (root / "chunks/val.csv").write_text("files,labels,ext\ndata/../../secret.wav,Bark,0\n"),
        r"val\.csv: row 1: must be a path below .* that does not leave it, but got '\.\./\.\./secret\.wav'",
    ),
    "csv of bytes": (
        "fsd50k",
        lambda root: (root / "chunks/val.csv").write_bytes(b"files,labels,ext\ndata/caf\xe9.wav,Bark,0\n"),
        r"val\.csv: line 2: must be UTF-8, but has the byte 0xe9",
    ),
    "json nested": (
        "fsd50k",
        lambda root: (root / "chunks/lbl_map.json").write_text('{"a":' * 100000),
        r"lbl_map\.json: must be a JSON file, but cannot be read \(it is nested too deeply",
    ),
    "empty": (
        "fsd50k",
        lambda root: (root / "chunks/tr.csv").write_text(""),
        r"tr\.csv: must be a complete csv file, but cannot be read \(it is empty\)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_by_place_rule_and_value(root, case):
    task, break_it, message = BROKEN[case]
    WRITERS[f"nb360/{task}"](root)
    break_it(root)
    with pytest.raises(DataError, match=rf"^{re.escape(str(root))}\S*.*{message}"):
        find_task(f"nb360/{task}").load(0)


@pytest.mark.parametrize("case", ["npy cut", "npy axes", "no gzip", "npz cut", "npz key", "npz rows", "mat key", "mat shape"])
def test_what_headers_tell_is_told_without_reading_values(root, case):
    task, break_it, _ = BROKEN[case]
    WRITERS[f"nb360/{task}"](root)
    find_task(f"nb360/{task}").check_files()
    break_it(root)
    with pytest.raises(DataError):
        find_task(f"nb360/{task}").check_files()


CUT = {
    "nb360/cifar100": "cifar-100-python/test",
    "nb360/ecg": "challenge2017.pkl",
    "nb360/satellite": "satellite_test.npy",
    "nb360/cosmic": "cosmic/train_dirs.npy",
    "nb360/darcy": "piececonst_r421_N1024_smooth2.mat",
}


@pytest.mark.parametrize("task", CUT)
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_cut_file_is_told_without_reading_it_where_its_end_tells(root, task, share):
    WRITERS[task](root)
    find_task(task).check_files()
    place = root / CUT[task]
    place.write_bytes(place.read_bytes()[: int(share * place.stat().st_size)])
    with pytest.raises(DataError, match=rf"^{place}: must be a complete .* file, but cannot be read \(it is truncated"):
        find_task(task).check_files()


@pytest.mark.parametrize(("form", "compressed"), [("5", False), ("5", True), ("4", False)])
def test_whole_matlab_files_of_every_kind_are_taken_for_whole(tmp_path, compressed, form):
    savemat(tmp_path / "a.mat", {"a": np.ones((3, 5)), "b": np.ones((2, 7), "f4")}, format=form, do_compression=compressed)
    assert {key: header.shape for key, header in read_headers(tmp_path / "a.mat", "mat").items()} == {"a": (3, 5), "b": (2, 7)}


def test_all_faults_of_all_files_are_told_at_once(root):
    WRITERS["nb360/ninapro"](root)
    cut(NINA)(root)
    (root / LABEL).unlink()
    with pytest.raises(DataError) as error:
        find_task("nb360/ninapro").load()
    assert len(str(error.value).splitlines()) == 2


def test_a_damaged_file_does_not_stop_the_others(root):
    """Whatever a reader or a list of files raises is an error of that file."""
    WRITERS["nb360/fsd50k"](root)
    spec = find_task("nb360/fsd50k")
    broken = replace(spec, files=lambda: 1 / 0)
    with pytest.raises(DataError, match=r"nb360/fsd50k: must be of the documented form, but cannot be used \(ZeroDivisionError"):
        broken.check_files()
