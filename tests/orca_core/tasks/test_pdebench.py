"""PDEBench from small files in the real formats: which times and points are used, the splits, and two epochs of each equation."""

from __future__ import annotations

import math
import re

import h5py
import numpy as np
import pytest
import torch
from published import PDE_WRITERS

from orca_core.errors import DataError
from orca_core.scoring import LOSSES
from orca_core.tasks import TASKS, find_task
from orca_core.tasks import pdebench as pdebench_module

NAMES = list(PDE_WRITERS)
SHAPES = {
    "pdebench/advection": (1, 8),
    "pdebench/burgers": (1, 32),
    "pdebench/1dcfd": (1, 48),
    "pdebench/ds": (1, 32),
    "pdebench/rd": (1, 32),
    "pdebench/darcy": (1, 8, 8),
    "pdebench/rd2d": (1, 8, 8),
    "pdebench/sw": (1, 8, 8),
    "pdebench/2dcfd": (4, 8, 8),
}


def raw(name: str, field: str) -> np.ndarray:
    """(20, times, ...) of a field, or of `data` with its channels last."""
    with h5py.File(find_task(name).expects[0].find()) as file:
        return np.stack([file[f"{i:04d}/data"][:] for i in range(20)]) if field == "data" else file[field][:]


@pytest.mark.parametrize("name", NAMES)
def test_states_in_parts_of_the_promised_form(data, name):
    loaded = find_task(name).load(0)
    assert loaded.input_shape == loaded.output_shape == SHAPES[name]
    assert [len(part) for part in (loaded.train, loaded.valid, loaded.test)] == [16, 2, 2]
    reference = find_task(name).load(0, reference=True)
    assert [len(part) for part in (reference.train, reference.valid, reference.test)] == [18, 2, 2]
    assert np.array_equal(reference.valid.y, reference.test.y)
    for part in (loaded.train, loaded.valid, loaded.test, reference.test):
        assert part.x.dtype == part.y.dtype == np.float32
        assert np.isfinite(part.x).all()
        assert np.isfinite(part.y).all()
    rows = [row.tobytes() for part in (loaded.train, loaded.valid, loaded.test) for row in part.x]
    assert len(set(rows)) == 20


@pytest.mark.parametrize("name", NAMES)
def test_the_split_seed_deals_validation_alone(data, name):
    first, again, other = (find_task(name).load(seed) for seed in (0, 0, 1))
    assert (first.valid.y == again.valid.y).all()
    assert not np.array_equal(first.valid.y, other.valid.y)
    if not pdebench_module.EQUATIONS[name].scale:
        assert (first.test.y == other.test.y).all()


@pytest.mark.parametrize(
    ("name", "field", "target", "reference_target", "every"),
    [
        ("advection", "tensor", 10, 10, 4),  # of 13 times every fifth: 0, 5, 10
        ("burgers", "tensor", 10, 10, 1),
        ("ds", "data", 100, 99, 1),
        ("rd", "tensor", 29, 99, 1),
        ("sw", "data", 100, 99, 1),
    ],
)
def test_inputs_are_at_the_start_and_targets_at_their_time(data, name, field, target, reference_target, every):
    name = f"pdebench/{name}"
    values = raw(name, field)
    if field == "data":
        values, test = values[..., 0], slice(18, 20)
    else:
        test = slice(0, 2)
    loaded, reference = find_task(name).load(0), find_task(name).load(0, reference=True)
    assert (loaded.test.x[:, 0] == values[test, 0, ..., ::every]).all()
    assert (loaded.test.y[:, 0] == values[test, target, ..., ::every]).all()
    assert (reference.test.y[:, 0] == values[test, reference_target, ..., ::every]).all()
    rest = slice(2, 20) if test.start == 0 else slice(0, 18)
    assert (reference.train.y[:, 0] == values[rest, target, ..., ::every]).all()


def test_darcy_goes_from_coefficient_to_solution(data):
    test = find_task("pdebench/darcy").load().test
    assert (test.x[:, 0] == raw("pdebench/darcy", "nu")[:2, ::2, ::2]).all()
    assert (test.y == raw("pdebench/darcy", "tensor")[:2, :, ::2, ::2]).all()


def test_rd2d_goes_from_one_substance_to_the_other(data):
    values = raw("pdebench/rd2d", "data")
    test = find_task("pdebench/rd2d").load().test
    assert (test.x[:, 0] == values[18:, 0, :, :, 0]).all()
    assert (test.y[:, 0] == values[18:, 100, :, :, 1]).all()


def test_1dcfd_lays_fields_end_to_end_and_scales_both_sides_by_the_inputs(data):
    fields = np.concatenate([raw("pdebench/1dcfd", field) for field in ("density", "pressure", "Vx")], axis=2).astype("float64")
    reference = find_task("pdebench/1dcfd").load(0, reference=True)
    mean, deviation = fields[2:, 0].mean(0), fields[2:, 0].std(0, ddof=1) + 1e-5
    assert reference.test.x[:, 0] == pytest.approx((fields[:2, 0] - mean) / deviation, abs=1e-5)
    assert reference.test.y[:, 0] == pytest.approx((fields[:2, 10] - mean) / deviation, abs=1e-5)
    train = find_task("pdebench/1dcfd").load(0).train.x
    assert train.mean(0) == pytest.approx(np.zeros((1, 48)), abs=1e-5)


def test_2dcfd_scales_each_time_by_itself(data, monkeypatch):
    monkeypatch.setattr(pdebench_module, "SCALED_BY", 5)
    fields = np.stack([raw("pdebench/2dcfd", field)[..., ::2, ::2] for field in ("density", "pressure", "Vx", "Vy")], axis=1)
    test = find_task("pdebench/2dcfd").load(0, reference=True).test
    for side, time in ((test.x, 0), (test.y, 3)):
        values = fields[:, :, time].astype("float64")
        expected = (values[18:] - values[:5].mean(0)) / (values[:5].std(0, ddof=1) + 1e-5)
        assert side == pytest.approx(expected, abs=1e-4)
    own = find_task("pdebench/2dcfd").load(0).train
    assert own.y.std(0, ddof=1) == pytest.approx(np.ones((4, 8, 8)), abs=1e-4)


def test_blocks_make_no_difference(root, use_data, monkeypatch, tmp_path):
    expected = {}
    for name in ("pdebench/ds", "pdebench/2dcfd"):
        PDE_WRITERS[name](root)
        expected[name] = find_task(name).load(0)
    monkeypatch.setattr(pdebench_module, "BLOCK_BYTES", 1)
    use_data(root, cache=tmp_path / "other")
    for name, before in expected.items():
        after = find_task(name).load(0)
        assert (after.train.x == before.train.x).all()
        assert (after.train.y == before.train.y).all()


def test_rmse_is_the_mean_over_samples_of_each_ones_root():
    outputs, targets = torch.tensor([[[3.0, 4.0]], [[1.0, 1.0]]]), torch.tensor([[[0.0, 0.0]], [[1.0, 3.0]]])
    loss = LOSSES["rmse"](targets)(outputs, targets)
    assert loss.item() == pytest.approx((math.sqrt(25 / 2) + math.sqrt(4 / 2)) / 2)
    assert {name for name in NAMES if TASKS[name].loss == "rmse"} == {"pdebench/burgers", "pdebench/1dcfd"}


@pytest.mark.parametrize("name", NAMES)
def test_two_epochs_train(data, two_epochs, name):
    knobs = {"align.epochs": 1, "align.objective": "mmd", "align.class_samples": 4, "align.proxy_samples": 50}
    assert two_epochs(name, knobs).has_moved


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [
        ("burgers", "finetune.lr", 1e-5),
        ("ds", "embedder.target_seq_len", 32),
        ("rd", "finetune.optimizer", "sgd"),
        ("darcy", "finetune.epochs", 100),
        ("darcy", "finetune.clip", None),
        ("sw", "finetune.warmup_epochs", 10),
        ("2dcfd", "align.lr", 1e-2),
    ],
)
def test_published_recipes_are_the_reference_yamls(name, knob, value):
    section, key = knob.split(".")
    assert TASKS[f"pdebench/{name}"].recipes["published"][section][key] == value


def rewritten(name: str, change) -> None:
    with h5py.File(find_task(name).expects[0].find(), "r+") as file:
        change(file)


def replace(file: h5py.File, key: str, values: np.ndarray) -> None:
    del file[key]
    file[key] = values


BROKEN = {
    "no array": ("advection", lambda file: file.move("tensor", "u"), r"tensor: must be in the file, but got \['u'"),
    "axes": ("burgers", lambda file: replace(file, "tensor", file["tensor"][0]), r"tensor: must be \(n, t, x\) float, but got \(11, 32\)"),
    "dtype": ("rd", lambda file: replace(file, "tensor", file["tensor"][:].astype("int32")), r"must be \(n, t, x\) float, but got 'int32'"),
    "sizes": ("1dcfd", lambda file: replace(file, "Vx", file["Vx"][:, :5]), r"Vx: must be \(n, t, x\) float with n = 20, t = 11"),
    "few": ("burgers", lambda file: replace(file, "tensor", file["tensor"][:5]), r"must have at least 10 samples, but got 5"),
    "one time": (
        "burgers",
        lambda file: replace(file, "tensor", file["tensor"][:, :1]),
        r"must have a later time than the first, but got 1",
    ),
    "NaN": ("darcy", lambda file: replace(file, "nu", file["nu"][:] * np.nan), r"nu: must have no NaN"),
    "no groups": ("ds", lambda file: [file.pop(name) for name in list(file)], r"cannot be read \(it has no group of arrays\)"),
    "group": (
        "sw",
        lambda file: replace(file, "0007/data", np.zeros((101, 4, 8, 1), "f")),
        r"0007/data: must have 101 states of the shape .*, but got \(101, 4, 8, 1\)",
    ),
    "short group": (
        "sw",
        lambda file: replace(file, "0007/data", np.zeros((50, 8, 8, 1), "f")),
        r"0007/data: must have 101 states of the shape .*, but got \(50, 8, 8, 1\)",
    ),
    "no array in a group": ("sw", lambda file: file.move("0007/data", "0007/u"), r"data: must be in the group of every sample.*0007"),
    "NaN in a sample": (
        "rd",
        lambda file: file["tensor"].__setitem__((13, 29, 4), np.nan),
        r"tensor: must have no NaN and no infinite value, but has 1: the first in sample 13, at \[0, 4\]",
    ),
    "swapped axes": (
        "burgers",
        lambda file: replace(file, "tensor", file["tensor"][:].transpose(0, 2, 1)),
        r"x-coordinate: must have as many points as the states, 11, but got 32\. Are the axes in another order",
    ),
    "swapped axes as published": (
        "burgers",
        lambda file: [replace(file, "tensor", np.zeros((10, 1024, 201), "f")), file.pop("x-coordinate")],
        r"tensor: must be \(n, t, x\) float, of \(201, 1024\), but got \(10, 1024, 201\)",
    ),
    "another group": (
        "sw",
        lambda file: file.copy("0001/data", file.create_group("meta"), "data"),
        r"must have its samples in groups whose names are numbers, but got \['meta'\]",
    ),
    "channels": ("rd2d", lambda file: replace(file, "0000/data", np.zeros((101, 8, 8, 1), "f")), r"data: must be \(t, h, w, 2\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_by_place_rule_and_value(root, case):
    key, change, message = BROKEN[case]
    name = f"pdebench/{key}"
    PDE_WRITERS[name](root)
    rewritten(name, change)
    with pytest.raises(DataError, match=rf"^{re.escape(str(root))}\S*: .*{message}"):
        find_task(name).load(0)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_what_hdf5_raises_on_damaged_content_is_told(root, share):
    PDE_WRITERS["pdebench/sw"](root)
    place = find_task("pdebench/sw").expects[0].find()
    content = bytearray(place.read_bytes())
    at = int(share * len(content))
    content[at : at + 4096] = bytes(4096)
    content[600:1800] = bytes(1200)  # in the tree of groups
    place.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{re.escape(str(place))}: "):
        find_task("pdebench/sw").load(0)


def test_a_truncated_file_is_told_by_its_header(root):
    PDE_WRITERS["pdebench/burgers"](root)
    place = find_task("pdebench/burgers").expects[0].find()
    place.write_bytes(place.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"must be a complete hdf5 file, but cannot be read .*truncated"):
        find_task("pdebench/burgers").check_files()


def test_a_file_is_found_at_the_root_and_in_the_folder(root):
    PDE_WRITERS["pdebench/ds"](root)
    spec = find_task("pdebench/ds")
    assert spec.expects[0].find().parent == root / "pdebench"
    before = spec.digest()
    spec.expects[0].find().rename(root / spec.expects[0].path)
    assert spec.expects[0].find().parent == root
    assert spec.digest() == before
    spec.expects[0].find().unlink()
    with pytest.raises(DataError, match=r"The data root is \S*\. It may also be pdebench/1D_diff-sorp_NA_NA\.h5\."):
        spec.check_files()
