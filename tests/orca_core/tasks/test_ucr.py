"""Series of the UCR and UEA archives: both formats, gaps, lengths, and two epochs."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from orca_core.config.resolve import resolve_config
from orca_core.datafiles.packaged import find_package_file
from orca_core.errors import ConfigError, DataError
from orca_core.tasks import find_task
from orca_core.tasks.ucr import PACKAGE, PACKAGED, complete_series, list_packaged, list_ucr, read_series

TS = """# a comment
@problemName Two
@timeStamps false
@univariate false
@classLabel true left right
@data
"""


def write_tsv(root, name: str = "Waves", train: int = 30, test: int = 10) -> None:
    rng = np.random.default_rng(0)
    folder = root / "ucr" / name
    folder.mkdir(parents=True)
    for part, n in (("TRAIN", train), ("TEST", test)):
        lines = ["\t".join([str(-1 if i % 3 else 1), *(f"{v:.5f}" for v in rng.normal(i % 3, 1, 24))]) for i in range(n)]
        (folder / f"{name}_{part}.tsv").write_text("\n".join(lines) + "\n")


def write_ts(root, name: str = "Two") -> None:
    rng = np.random.default_rng(0)
    folder = root / "ucr" / name
    folder.mkdir(parents=True)
    for part, n in (("TRAIN", 20), ("TEST", 6)):
        lines = []
        for i in range(n):
            channels = [",".join("?" if t == 3 else f"{v:.4f}" for t, v in enumerate(rng.normal(size=12 + i % 5))) for _ in range(2)]
            lines.append(":".join([*channels, ("left", "right")[i % 2]]))
        (folder / f"{name}_{part}.ts").write_text(TS + "\n".join(lines) + "\n")


def test_a_gap_is_a_line_and_the_end_goes_on():
    series = complete_series(np.array([np.nan, 1.0, np.nan, 3.0, np.nan]), 6)
    whole = np.array([1.0, 1.0, 2.0, 3.0])  # before the first known value, it is that
    expected = (whole - 1.75) / whole.std()
    assert series == pytest.approx([*expected, expected[-1], expected[-1]])
    assert complete_series(np.array([4.0, 4.0]), 3).tolist() == [0, 0, 0]


def test_tsv_has_labels_first_and_series_come_out_scaled(root):
    write_tsv(root)
    loaded = find_task("ucr/Waves").load(0)
    assert (loaded.input_shape, loaded.num_classes) == ((1, 24), 2)
    assert [len(part) for part in (loaded.train, loaded.valid, loaded.test)] == [27, 3, 10]
    assert loaded.test.y.tolist() == [1 if i % 3 == 0 else 0 for i in range(10)]  # -1 before 1
    assert loaded.train.x.mean(2) == pytest.approx(np.zeros((27, 1)), abs=1e-6)
    assert loaded.train.x.std(2) == pytest.approx(np.ones((27, 1)), abs=1e-5)
    raw = np.loadtxt(root / "ucr/Waves/Waves_TEST.tsv")[4, 1:]
    assert loaded.test.x[4, 0] == pytest.approx((raw - raw.mean()) / raw.std(), abs=1e-5)
    assert np.bincount(loaded.valid.y).tolist() == [2, 1]
    other = find_task("ucr/Waves").load(1)
    assert (other.test.x == loaded.test.x).all()
    assert not np.array_equal(other.valid.x, loaded.valid.x)


def test_ts_has_channels_of_several_lengths(root):
    write_ts(root)
    loaded = find_task("ucr/Two").load(0)
    assert (loaded.input_shape, loaded.num_classes) == ((2, 16), 2)
    assert np.isfinite(loaded.train.x).all()
    assert (loaded.test.x[0, :, 11:] == loaded.test.x[0, :, 11:12]).all()  # twelve values, then the last
    first = read_series(root / "ucr/Two/Two_TEST.ts")[0]
    assert loaded.test.x[0, 1, 3] == pytest.approx(complete_series(first.channels[1], 16)[3], abs=1e-6)
    assert np.isnan(first.channels[1][3])
    assert first.label == "left"


@pytest.mark.parametrize("write", [write_tsv, write_ts])
def test_two_epochs_train(root, two_epochs, write):
    write(root)
    assert two_epochs("ucr/Waves" if write is write_tsv else "ucr/Two").has_moved


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Waves_TRAIN.tsv", "1\t2\tx\n", "line 1: must have numbers after the label"),
        ("Waves_TRAIN.tsv", "1\t2\tinf\n", "line 1: must have at least one value, all finite"),
        ("Waves_TRAIN.tsv", "  1.0  2.0  3.0\n", "line 1: must be a label and values, separated by tabs"),
        ("Waves_TRAIN.tsv", "1\tNaN\tNaN\n" * 3, "series 1: must have a value in each channel"),
        ("Waves_TRAIN.tsv", "1\t1\t2\n" * 3, "must have at least two classes"),
        ("Waves_TEST.tsv", "7\t1\t2\n", r"must have only labels of the training part, but got \['7'\]\. Those are -1, 1\."),
        ("Waves_TEST.tsv", "\n", "must have series"),
        ("Waves_TEST.tsv", "", "it is empty"),
    ],
)
def test_a_broken_file_is_told(root, file, text, message):
    write_tsv(root)
    (root / "ucr/Waves" / file).write_text(text)
    with pytest.raises(DataError, match=rf"{re.escape(str(root))}\S*{file}: .*{message}"):
        find_task("ucr/Waves").load(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("@data", "@date"), "must have an @data line"),
        (("@timeStamps false", "@timeStamps true"), "@timestamps: must be false"),
        (("@classLabel true", "@classLabel false"), "@classLabel: must be true"),
        (("@classLabel true", "@targetLabel true"), "@targetLabel: must be false"),
        ((":left\n", ":up\n"), r"line \d+: must have a label that @classLabel names \(left right\), but got 'up'"),
        ((":left\n", ":" * 20_000 + "\n"), "must have at most 10000 channels, but has 20001"),
        ((":left\n", "\n"), r"line 7: must have a label that @classLabel names \(left right\), but got"),
    ],
)
def test_a_broken_ts_file_is_told(root, change, message):
    write_ts(root)
    place = root / "ucr/Two/Two_TEST.ts"
    place.write_text(place.read_text().replace(*change))
    with pytest.raises(DataError, match=message):
        find_task("ucr/Two").load(0)


def test_a_byte_order_mark_is_no_part_of_a_label(root):
    write_tsv(root)
    place = root / "ucr/Waves/Waves_TRAIN.tsv"
    classes = find_task("ucr/Waves").load(0).num_classes
    place.write_bytes(b"\xef\xbb\xbf" + place.read_bytes())
    assert find_task("ucr/Waves").load(0).num_classes == classes


def test_labels_that_are_not_utf_8_do_not_become_one(root):
    write_tsv(root)
    place = root / "ucr/Waves/Waves_TRAIN.tsv"
    place.write_bytes(b"caf\xe9\t1\t2\n" * 3 + b"caf\xe8\t1\t2\n" * 3)
    with pytest.raises(DataError, match=r"Waves_TRAIN\.tsv: line 1: must have a label in UTF-8, but has caf\\xe9"):
        find_task("ucr/Waves").load(0)


def test_other_bytes_in_a_comment_are_no_fault(root):
    write_ts(root)
    place = root / "ucr/Two/Two_TRAIN.ts"
    before = find_task("ucr/Two").load(0).train.x
    place.write_bytes(b"# by Jos\xe9\n" + place.read_bytes())
    assert (find_task("ucr/Two").load(0).train.x == before).all()


def test_long_numbers_are_labels_of_their_own(root):
    write_tsv(root)
    place = root / "ucr/Waves/Waves_TRAIN.tsv"
    place.write_text("".join(f"{1234567 + i % 3}\t{i}\t2\t5\n" for i in range(30)))
    (root / "ucr/Waves/Waves_TEST.tsv").write_text("1234568.0\t1\t2\t7\n")
    data = find_task("ucr/Waves").load(0)
    assert (data.num_classes, data.test.y.tolist()) == (3, [1])


@pytest.mark.parametrize("folder", ["", "ucr", "Waves"])
def test_files_of_a_flat_archive_are_found(root, folder):
    write_tsv(root)
    digest = find_task("ucr/Waves").digest()
    (root / folder).mkdir(exist_ok=True)
    for part in ("TRAIN", "TEST"):
        (root / f"ucr/Waves/Waves_{part}.tsv").rename(root / folder / f"Waves_{part}.tsv")
    spec = find_task("ucr/Waves")
    assert (spec.digest(), spec.load(0).input_shape) == (digest, (1, 24))
    assert list_ucr() == ["Waves"]


def test_missing_files_and_names_that_are_none(root):
    assert resolve_config({"task": "ucr/Wafer"}).task == "ucr/Wafer"
    with pytest.raises(DataError, match=r"ucr/Wafer/Wafer_TRAIN\.tsv: must be an existing file.*It may also be ucr/Wafer/Wafer_TRAIN\.ts"):
        find_task("ucr/Wafer").check_files()
    with pytest.raises(ConfigError, match="must be ucr/NAME"):
        find_task("ucr/../etc")


# ------------------------------------------------------------------------------------------------- the package with real data


def test_the_sets_of_the_package_are_those_that_are_named():
    folder = find_package_file(PACKAGE, "data")
    assert {path.stem.removesuffix("_TRAIN") for path in folder.glob("*_TRAIN.tsv")} == PACKAGED == set(list_packaged())
    assert len(PACKAGED) == 51


def test_a_set_of_the_package_is_a_task_without_a_file_below_the_data_root(root):
    """ECG200 as the archive's page describes it: 100 training and 100 test series of length 96 in two classes."""
    data = find_task("ucr/ECG200").load(0)
    assert (len(data.train) + len(data.valid), len(data.test), data.input_shape, data.num_classes) == (100, 100, (1, 96), 2)
    line = (find_package_file(PACKAGE, "data") / "ECG200_TEST.tsv").read_text().splitlines()[7].split("\t")
    raw = np.array(line[1:], dtype=float)
    assert data.test.x[7, 0] == pytest.approx((raw - raw.mean()) / raw.std(), abs=1e-5)
    assert data.test.y[7] == (float(line[0]) > 0)
    assert list_ucr() == []


def test_the_same_files_below_the_data_root_are_the_same_data_and_others_come_first(root):
    packaged = find_task("ucr/ECG200")
    digest, folder = packaged.digest(), root / "ucr" / "ECG200"
    folder.mkdir(parents=True)
    for file in packaged.files():
        shutil.copy(file, folder)
    own = find_task("ucr/ECG200")
    assert [file.parent for file in own.files()] == [folder] * 2
    assert own.digest() == digest
    write_tsv(root, "Beef")
    assert find_task("ucr/Beef").load(0).input_shape == (1, 24)


def test_without_the_package_its_sets_are_named_with_the_way_to_get_them(root, monkeypatch):
    monkeypatch.setattr("orca_core.tasks.ucr.PACKAGE", "a_package_that_is_not_there")
    assert list_packaged() == []
    with pytest.raises(DataError, match=r"Crop_TRAIN\.tsv: must be an existing file.*`pip install orca-sweeper\[ucr\]`"):
        find_task("ucr/Crop").check_files()
    with pytest.raises(DataError) as other:
        find_task("ucr/Wafer").check_files()
    assert "pip install" not in str(other.value)
