"""Tables and pictures of one's own, DomainNet's lists, the drug data: what becomes of them, what is refused, two epochs of each."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published import WRITERS

from orca_core.datafiles.pictures import read_square
from orca_core.errors import ConfigError, DataError
from orca_core.tasks import TASKS, TaskData, find_task
from orca_core.tasks.own.images import DEVIATION, MEAN


def sizes(data: TaskData) -> list[int]:
    return [len(part) for part in (data.train, data.valid, data.test)]


# Tables


def table(place: Path, rows: int = 40, target: str = "label", kind: str = "class") -> str:
    values = {"class": lambda i: "abc"[i % 3], "whole": lambda i: i % 3 + 5, "float": lambda i: 100 + i / 4}[kind]
    place.write_text(f"size,{target},weight\n" + "".join(f"{i},{values(i)},{i * i}.5\n" for i in range(rows)))
    return f"csv:{place}"


@pytest.mark.parametrize(("kind", "expected"), [("class", "classification"), ("whole", "classification"), ("float", "regression")])
def test_the_target_decides_the_kind(tmp_path, kind, expected):
    name = table(tmp_path / "mine.csv", kind=kind)
    spec, loaded = find_task(name), find_task(name).load(0)
    assert spec.kind == expected
    assert sizes(loaded) == [28, 4, 8]
    assert loaded.input_shape == (2, 1)
    assert loaded.num_classes == (3 if expected == "classification" else None)
    assert loaded.output_shape == ((3,) if expected == "classification" else (1,))
    assert loaded.train.x.mean(0) == pytest.approx(np.zeros((2, 1)), abs=1e-6)
    if expected == "regression":
        assert (loaded.train.y.mean(), loaded.train.y.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    other = find_task(name).load(1)
    assert not np.array_equal(other.test.x, loaded.test.x)


def test_without_a_column_label_the_last_is_the_target(tmp_path):
    assert find_task(table(tmp_path / "mine.csv", target="colour")).kind == "regression"  # weight has points


def test_a_table_that_changes_is_read_again(tmp_path):
    name = table(tmp_path / "mine.csv")
    before = find_task(name).digest()
    table(tmp_path / "mine.csv", rows=50)
    assert find_task(name).digest() != before
    assert sum(sizes(find_task(name).load(0))) == 50


@pytest.mark.parametrize("kind", ["class", "float"])
def test_two_epochs_of_a_table(tmp_path, two_epochs, kind):
    assert two_epochs(table(tmp_path / "mine.csv", kind=kind)).has_moved


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "must be an existing file"),
        ("a,label\n1,2\n", "label: must have at least 10 rows, but got 1"),
        ("label\n" + "1\n" * 20, "must have two columns at least, .* Separate entries by commas, semicolons or tabs"),
        ("a,label\n" + "1,x\n" * 20, r"label: must have at least two classes"),
        ("a,label\n" + "1,1.5\n" * 20, r"label: must have finite numbers, not all equal"),
        ("a,label\n" + "".join(f"{i},c{i}\n" for i in range(20)), "must have rows for test, validation and one of each class"),
    ],
)
def test_a_table_that_does_not_serve_is_told(tmp_path, text, message):
    place = tmp_path / "mine.csv"
    if text is not None:
        place.write_text(text)
    with pytest.raises(DataError, match=rf"^{re.escape(str(place))}: .*{message}"):
        find_task(f"csv:{place}").load(0)


# Pictures


def pictures(root: Path, classes: str = "ab", number: int = 10) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(number):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype("uint8")).save(root / name / f"{i}.png")
    return root


def test_pictures_of_a_folder_for_each_class(tmp_path):
    folder = pictures(tmp_path / "mine")
    spec, loaded = find_task(f"images:{folder}?size=16"), find_task(f"images:{folder}?size=16").load(0)
    assert (loaded.input_shape, loaded.num_classes, spec.dims) == ((3, 16, 16), 2, 2)
    assert sizes(loaded) == [14, 2, 4]
    assert np.bincount(loaded.test.y).tolist() == [2, 2]
    assert find_task(f"images:{folder}").load(0).input_shape == (3, 64, 64)
    assert find_task(f"images:{folder}").digest() != spec.digest()


def test_a_picture_is_cut_in_its_middle_and_normalised(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_square(tmp_path / "a.png", 20) == pixels[:, 5:25].transpose(2, 0, 1)).all()
    loaded = find_task(f"images:{pictures(tmp_path / 'mine')}?size=16").load(0)
    inputs = loaded.inputs(torch.from_numpy(loaded.test.x))
    assert inputs[1, 2, 3, 4].item() == pytest.approx((loaded.test.x[1, 2, 3, 4] / 255 - MEAN[2]) / DEVIATION[2], rel=1e-5)


def test_folders_train_and_test_are_the_parts(tmp_path):
    for part, number in (("train", 10), ("val", 3), ("test", 4)):
        pictures(tmp_path / "mine" / part, number=number)
    assert sizes(find_task(f"images:{tmp_path / 'mine'}").load(0)) == [20, 6, 8]
    (tmp_path / "mine" / "val").rename(tmp_path / "mine" / "other")
    assert sizes(find_task(f"images:{tmp_path / 'mine'}").load(0)) == [18, 2, 8]


def test_the_place_of_a_picture_is_part_of_the_data(tmp_path):
    folder = pictures(tmp_path / "mine")
    before = find_task(f"images:{folder}").digest()
    (folder / "a/0.png").rename(folder / "b/zz.png")
    after = find_task(f"images:{folder}")
    assert after.digest() != before
    assert "20 pictures" in after.summary


def test_two_epochs_of_pictures(tmp_path, two_epochs):
    assert two_epochs(f"images:{pictures(tmp_path / 'mine')}?size=16").has_moved


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: None, "must be an existing folder"),
        (lambda root: pictures(root, classes="a"), "must have folders of pictures of at least two classes, but got 1"),
        (lambda root: (pictures(root) / "b/3.png").write_bytes(b"text"), r"b/3\.png: must be a picture"),
        (lambda root: pictures(root, number=1), "must have pictures for test, validation and one of each class"),
        (lambda root: (pictures(root / "train"), pictures(root / "test", classes="c")), r"only classes of train, but got \['c'\]"),
    ],
)
def test_pictures_that_do_not_serve_are_told(tmp_path, spoil, message):
    spoil(tmp_path / "mine")
    with pytest.raises(DataError, match=message):
        find_task(f"images:{tmp_path / 'mine'}").load(0)


@pytest.mark.parametrize("option", ["size=x", "size=4", "side=32", "size=²"])
def test_an_option_that_is_none_is_refused(tmp_path, option):
    with pytest.raises(ConfigError, match=r"must end in \?size=N"):
        find_task(f"images:{tmp_path}?{option}")


def test_domainnet_reads_lists(root, two_epochs):
    pictures(root / "domainnet" / "sketch", classes="xy")
    for part, numbers in (("train", range(8)), ("test", range(8, 10))):
        lines = [f"sketch/{name}/{i}.png {label}" for label, name in ((3, "x"), (7, "y")) for i in numbers]
        (root / "domainnet" / f"sketch_{part}.txt").write_text("\n".join(lines) + "\n")
    loaded = find_task("domainnet/sketch?size=16").load(0)
    assert (sizes(loaded), loaded.num_classes, loaded.input_shape) == ([14, 2, 4], 2, (3, 16, 16))
    assert loaded.test.y.tolist() == [0, 0, 1, 1]
    assert (loaded.test.x[3] == read_square(root / "domainnet/sketch/y/9.png", 16)).all()
    assert two_epochs("domainnet/sketch?size=16").has_moved
    (root / "domainnet/sketch_test.txt").write_text("sketch/y/9.png 7\nsketch/y/none.png 7\n")
    with pytest.raises(DataError, match=r"1 is missing: .*y/none\.png"):
        find_task("domainnet/sketch").load(0)
    (root / "domainnet/sketch_test.txt").write_text("../secret.png 1\n")
    with pytest.raises(DataError, match=r"line 1: must be a path below .*domainnet that does not leave it"):
        find_task("domainnet/sketch").load(0)


# Drug response


def test_drug_rows_are_as_published(data, two_epochs):
    for key in ("ctrp", "gdsc"):
        spec = find_task(f"drug/{key}")
        loaded, reference = spec.load(0), spec.load(0, reference=True)
        assert (spec.kind, loaded.input_shape, loaded.output_shape) == ("regression", (1, 96), (1,))
        assert (sizes(loaded), sizes(reference)) == ([18, 2, 8], [20, 8, 8])
        assert (loaded.test.y == np.load(data / f"drug_sep/{key}_test_label.npy")).all()
        assert two_epochs(f"drug/{key}").has_moved
    assert TASKS["drug/ctrp"].recipes["published"]["finetune"]["clip"] == 5.0
    assert TASKS["drug/gdsc"].recipes["published"]["embedder"]["target_seq_len"] == 8


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("ctrp_test_feat", lambda x: x[:, :, :50], "must have rows of length 96"),
        ("ctrp_test_label", lambda x: x[:5], "must have the 8 rows of ctrp_test_feat"),
        ("ctrp_train_feat", lambda x: x * np.nan, "no NaN"),
        ("ctrp_train_label", lambda x: x[:, 0], r"must be \(n, 1\) float, but got \(20,\)"),
    ],
)
def test_a_broken_drug_file_is_told(root, file, change, message):
    WRITERS["drug/ctrp"](root)
    place = root / "drug_sep" / f"{file}.npy"
    np.save(place, change(np.load(place)))
    with pytest.raises(DataError, match=rf"{file}\.npy: .*{message}"):
        find_task("drug/ctrp").load(0)
