"""Published files that are missing, damaged or of another form are told before anything starts; whole ones are decoded once."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from published import WRITERS
from scipy.io import savemat, wavfile

from orca_core.config.resolve import resolve_config
from orca_core.datafiles import digests
from orca_core.datafiles.decoding import CHECKS, decode_once
from orca_core.datafiles.digests import digest_content
from orca_core.datafiles.expected import read_headers
from orca_core.errors import DataError
from orca_core.finetuning.evaluation import group_means
from orca_core.finetuning.loop import Finetuning
from orca_core.identity import trial_id, unread_knobs
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.tasks import find_task
from orca_core.tasks.nb360 import NB360_TASKS
from orca_core.workbench import Workbench

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


# Decoded once


def test_files_are_decoded_once_and_again_when_their_content_changes(root):
    WRITERS["nb360/ninapro"](root)
    spec = find_task("nb360/ninapro")
    before = spec.load().valid.x.copy()
    decode_once(spec, lambda out: pytest.fail("decoded again"))
    array(NINA, lambda x: x + 1)(root)
    assert np.allclose(spec.load().valid.x, before + 1, atol=1e-5)


def test_decoded_data_are_mapped_and_what_is_done_to_them_reaches_no_file(root):
    WRITERS["nb360/ninapro"](root)
    spec = find_task("nb360/ninapro")
    first = spec.load().test.x
    assert isinstance(first.base, np.memmap)
    before = first.copy()
    torch.from_numpy(first).add_(1)
    assert (spec.load().test.x == before).all()


def test_a_sky_file_that_moves_is_another_data_set(root):
    WRITERS["nb360/cosmic"](root)
    folder = root / "cosmic/npy_test/f435w/1000"
    spec = find_task("nb360/cosmic")
    before, images = spec.digest(), spec.load().test.content.copy()
    (folder / "with_sky/sky.npy").rename(folder / "without/sky.npy")
    after = spec.digest()
    assert after != before
    assert np.array_equal(spec.load().test.content, images)
    for part in ("train", "test"):  # with one beside all images, as published, the digest is that of version 0.1
        for name in ("with_sky", "without"):
            np.save(root / f"cosmic/npy_{part}/f435w/1000/{name}/sky.npy", np.arange(9.0))
    Workbench.current().clear()
    assert spec.digest() == digest_content(spec._label(has_content=True), spec.files())


def test_a_decoding_that_fails_leaves_nothing(root, tmp_path, use_data):
    use_data(root, cache=tmp_path / "cache")
    WRITERS["nb360/ninapro"](root)
    array(LABEL, lambda y: y + 1)(root)
    with pytest.raises(DataError):
        find_task("nb360/ninapro").load()
    assert [path.suffix for path in (tmp_path / "cache" / "decoded").iterdir()] == [".lock"]


def test_processes_that_decode_at_once_decode_once(root, tmp_path, use_data):
    use_data(root, cache=tmp_path / "cache")
    WRITERS["nb360/ninapro"](root)
    code = (
        "from orca_core.tasks import find_task\n"
        "from orca_core.tasks.nb360 import arrays\n"
        "decode = arrays._decode_ninapro\n"
        "def told(out):\n"
        "    print('decoded')\n"
        "    decode(out)\n"
        "arrays._decode_ninapro = told\n"
        "from orca_core import Workbench\n"
        f"with Workbench({str(root)!r}, {str(tmp_path / 'cache')!r}).use():\n"
        "    print(find_task('nb360/ninapro').load().valid.x.sum())"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].split() for process in processes]
    assert sum(lines.count("decoded") for lines in said) == 1
    assert len({lines[-1] for lines in said}) == 1


def test_what_a_killed_process_left_is_cleared_by_the_next(root, tmp_path, use_data):
    use_data(root, cache=tmp_path / "cache")
    WRITERS["nb360/ninapro"](root)
    spec = find_task("nb360/ninapro")
    left = tmp_path / "cache" / "decoded" / f"{spec.digest()[:32]}-{CHECKS}.partial"
    left.mkdir(parents=True)
    spec.load()
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_told(root, tmp_path, use_data):
    (tmp_path / "file").write_text("")
    use_data(root, cache=tmp_path / "file")
    WRITERS["nb360/ninapro"](root)
    with pytest.raises(DataError, match=r"must be a folder that can be written .*cache root"):
        find_task("nb360/ninapro").load()


def test_the_digest_of_a_large_file_is_kept_for_other_processes(tmp_path, use_data):
    bench = use_data(tmp_path, cache=tmp_path / "cache")
    path = tmp_path / "large"
    path.write_bytes(b"a" * (1 << 20))
    first = digest_content("x", (path,))
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_text("0" * 64)
    bench.clear()
    assert digest_content("x", (path,)) != first  # it was taken from there
    os.utime(path, ns=(1, 1))
    assert digest_content("x", (path,)) == first  # another time: taken anew


def test_whether_a_digest_is_known_is_found_out_without_reading(tmp_path, use_data, monkeypatch):
    use_data(tmp_path, cache=tmp_path / "cache")
    large, many = tmp_path / "large", tuple(tmp_path / str(number) for number in range(digests.MANY_FILES + 1))
    for file in (large, *many):
        file.write_bytes(b"a" * (1 << 20 if file is large else 1))
    assert [digests.is_known("x", files) for files in ((large,), many, many[:5])] == [False, False, True]
    digest_content("x", (large,))
    digest_content("x", many)
    assert [digests.is_known("x", files) for files in ((large,), many)] == [True, True]
    os.utime(large, ns=(1, 1))
    assert not digests.is_known("x", (large,))


def test_many_files_are_looked_at_once_in_a_process(tmp_path):
    files = tuple(tmp_path / str(number) for number in range(digests.MANY_FILES + 1))
    for file in files:
        file.write_bytes(b"a")
    first = digest_content("many", files)
    assert digest_content("many", files) == first
    assert digest_content("other", files) != first
    Workbench.current().clear()
    files[7].write_bytes(b"bb")
    assert digest_content("many", files) != first


# reference_data, and the hooks of fine-tuning


@pytest.mark.parametrize("name", ["nb360/cosmic", "nb360/ninapro"])
def test_reference_data_makes_other_trials_and_other_stages(data, name):
    plain, reference = (resolve_config({"task": name, "align.epochs": 2, "reference_data": value}) for value in (False, True))
    assert trial_id(plain) != trial_id(reference)
    keys = [{stage.kind: stage.key for stage in stages_of(config)} for config in (plain, reference)]
    assert {kind for kind in keys[0] if keys[0][kind] != keys[1][kind]} == {"align", "finetune"}


def test_reference_data_is_not_read_where_a_task_has_no_such_form():
    plain, reference = (resolve_config({"task": "digits", "reference_data": value}) for value in (False, True))
    assert "reference_data" in unread_knobs(reference)
    assert trial_id(plain) == trial_id(reference)
    assert stages_of(plain) == stages_of(reference)
    assert all(spec.reference for spec in NB360_TASKS)


def test_outputs_of_a_group_are_averaged_and_its_first_target_stands_for_it():
    outputs = torch.tensor([[1.0, 0.0], [5.0, 2.0], [3.0, 4.0]])
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    means, targets = group_means(outputs, y, np.array([7, 2, 7]))
    assert means.tolist() == [[5.0, 2.0], [2.0, 2.0]]
    assert targets.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def tuning_of(quick, name: str, **knobs: object) -> Finetuning:
    from orca_core.bodies import find_body
    from orca_core.bodies.loading import random_body
    from orca_core.model.cross_modal import CrossModalModel

    config = quick(name, {"body.weights": "random", **knobs})
    loaded = find_task(name).load()
    model = CrossModalModel(
        Settings.of(config, "finetune"), random_body(find_body("mini-swin"), seed=0, dropout=0.0), loaded.input_shape, loaded.output_shape
    )
    tuning = Finetuning(Settings.of(config, "finetune"), model, loaded, torch.device("cpu"))
    tuning.start_phase(tuning.settings)
    return tuning


def test_scores_are_taken_of_decoded_values(data, quick):
    tuning = tuning_of(quick, "nb360/darcy")
    loaded = tuning.data
    scaled = torch.from_numpy(loaded.test.y)
    _, error = tuning._evaluate(torch.from_numpy(loaded.test.x), scaled, None)
    with torch.no_grad():
        outputs = tuning.model(torch.from_numpy(loaded.test.x))
    deviation, mean = (torch.from_numpy(values) for values in (loaded.decode.deviation, loaded.decode.mean))
    predicted, true = outputs * deviation + mean, scaled * deviation + mean
    expected = [(p - t).norm().item() / t.norm().item() for p, t in zip(predicted, true, strict=True)]
    assert error == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_a_clip_is_scored_by_its_mean_logits(data, quick):
    from sklearn.metrics import average_precision_score

    tuning = tuning_of(quick, "nb360/fsd50k")
    test = tuning.data.test
    row = tuning.run_epoch(1)
    with torch.no_grad():
        logits = tuning.model(torch.from_numpy(test.x)).view(5, 2, 5).mean(1)
    truth = test.y[::2]
    expected = [average_precision_score(truth[:, label], logits[:, label]) for label in range(5)]
    assert row.test_error == pytest.approx(1 - np.mean(expected))


def test_a_predictor_that_trains_alone_sees_augmented_inputs(data, quick):
    tuning = tuning_of(quick, "nb360/cifar100", freezing="frozen-both")
    tuning.run_epoch(1)
    assert tuning.inputs[0] is tuning.train[0]  # rows, not features that were computed once
    assert tuning_of(quick, "nb360/spherical", freezing="frozen-both")._features_are_fixed


def test_augmentation_is_drawn_anew_each_epoch_from_the_seed(data, quick):
    seen: list[torch.Tensor] = []

    def epoch(number: int, seed: int) -> torch.Tensor:
        tuning = tuning_of(quick, "nb360/cifar100", seed=seed)
        augment = tuning.data.augment
        object.__setattr__(tuning.data, "augment", lambda batch, draws: seen.append(augment(torch.ones_like(batch), draws)) or seen[-1])
        tuning.run_epoch(number)
        return seen[-1]

    assert torch.equal(epoch(1, 0), epoch(1, 0))
    assert not torch.equal(epoch(1, 0), epoch(2, 0))
    assert not torch.equal(epoch(1, 0), epoch(1, 1))
