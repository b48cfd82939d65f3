"""Tables: the readers of CSV, ARFF and Parquet, the layout of columns, OpenML's tasks and scores."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from published import WRITERS

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError, NotFiniteError
from orca_core.scoring import SCORES
from orca_core.tasks import TASKS, find_task
from orca_core.tasks.tables import read_columns, read_table, split_target

CSV = 'name,age,class\n"a, b",1.5,yes\nc,?,no\n"d",2,yes\n'


def write(root, name: str, text: str):
    place = root / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    return place


# Readers


def test_csv_has_numbers_texts_and_missing_entries(tmp_path):
    name, age, label = read_table(write(tmp_path, "t.csv", CSV))
    assert name.values.tolist() == ["a, b", "c", "d"]
    assert age.missing.tolist() == [False, True, False]
    assert age.values[[0, 2]].tolist() == [1.5, 2.0]
    assert not age.whole
    assert (name.is_text, age.is_text, label.is_text) == (True, False, True)


def test_arff_says_itself_what_is_a_category(tmp_path):
    text = "@RELATION x\n@ATTRIBUTE code {0,1}\n@attribute 'a b' REAL\n@DATA\n0, 1.5\n1,?\n"
    code, value = read_table(write(tmp_path, "t.arff", text))
    assert (code.name, value.name) == ("code", "a b")
    assert code.values.tolist() == ["0", "1"]
    assert np.isnan(value.values[1])


def test_parquet_has_types(tmp_path):
    columns = {"a": [1, None], "b": pa.array(["x", "y"]).dictionary_encode(), "c": [True, False], "d": [1, 2]}
    columns["e"] = pa.array(["x", "y"], pa.string_view())  # as polars writes texts
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    a, b, c, d, e = read_table(tmp_path / "t.parquet")
    assert (e.values.tolist(), e.doubt) == (["x", "y"], "")
    assert a.missing.tolist() == [False, True]
    assert b.values.tolist() == ["x", "y"]
    assert (c.is_text, d.whole) == (True, True)


def test_row_labels_of_pandas_are_no_column(tmp_path):
    pq.write_table(pa.table({"a": [1, 2], "class": ["x", "y"], "__index_level_0__": [7, 9]}), tmp_path / "t.parquet")
    assert [column.name for column in read_table(tmp_path / "t.parquet")] == ["a", "class"]


def test_the_target_is_named_or_last(tmp_path):
    columns = read_table(write(tmp_path, "t.csv", "Class,b\n1,2\n3,4\n"))
    assert split_target(columns, ("class",))[1].name == "Class"
    assert split_target(columns, ("label",))[1].name == "b"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "a,b\n1\n", r"row 1 has 1 entries, but there are 2 columns"),
        ("t.csv", "1,2\n3,4\n", r"its first line must be column names, but is \['1', '2'\]"),
        ("t.csv", "a,a\n3,4\n", r"must have columns with different names, but got \['a'\]"),
        ("t.csv", "a,b\n", r"must have rows, but got 0"),
        ("t.csv", 'a,b\n"x,1\n', r"must be a complete \.csv table, but cannot be read"),
        ("t.arff", "@attribute a real\n", r"it has no @data line"),
        ("t.arff", "@attribute a real\n@data\nx\n", r"numeric attributes \['a'\] hold texts"),
        ("t.arff", "@attribute a real\n@data\n{0 1}\n", r"sparse"),
        ("t.parquet", "text", r"must be a complete \.parquet table"),
        ("t.txt", "text", r"must be one of \.csv, \.arff"),
    ],
)
def test_a_broken_table_is_told(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, name, text))


# OpenML


def test_a_table_of_categories_has_a_point_for_each_column(data):
    loaded = find_task("openml/31").load(0)
    assert loaded.input_shape == (3, 4)  # three jobs at most; job, own, age, amount: the column with a gap is dropped
    assert [len(part) for part in (loaded.train, loaded.valid, loaded.test)] == [32, 4, 4]
    assert loaded.num_classes == 2
    x = np.concatenate([loaded.train.x, loaded.valid.x, loaded.test.x])
    assert (x[:, :, 0].sum(1) == 1).all()  # one job each
    assert (x[:, 2, 1] == 0).all()  # owning has two categories
    assert (x[:, 1:, 2:] == 0).all()  # a number is in the first channel
    assert loaded.train.x[:, 0, 2:].mean(0) == pytest.approx([0, 0], abs=1e-6)
    assert loaded.train.x[:, 0, 2:].std(0) == pytest.approx([1, 1], abs=1e-6)
    assert np.bincount(loaded.test.y).tolist() == [1, 3]  # bad, good


def test_reference_standardises_by_all_rows(data):
    loaded = find_task("openml/31").load(0, reference=True)
    assert len(loaded.train) == 36
    assert (loaded.valid.x == loaded.test.x).all()
    ages = np.concatenate([loaded.train.x, loaded.test.x])[:, 0, 2]
    expected = (np.arange(20, 60) - 39.5) / np.std(np.arange(20, 60))
    assert sorted(ages) == pytest.approx(sorted(expected), abs=1e-6)


def test_a_split_file_keeps_its_test_part(data):
    saved = np.load(data / "1464_dev_test_split.npy", allow_pickle=True)[()]
    loaded, other = find_task("openml/1464").load(0), find_task("openml/1464").load(1)
    assert loaded.input_shape == (4, 1)
    assert loaded.test.y.tolist() == other.test.y.tolist() == saved["y_test"].tolist()
    assert [len(part) for part in (loaded.train, loaded.valid, loaded.test)] == [44, 6, 10]
    assert loaded.train.x.mean((0, 2)) == pytest.approx(np.zeros(4), abs=1e-6)
    reference = find_task("openml/1464").load(0, reference=True)
    assert reference.train.x == pytest.approx(saved["X_norm_dev"][:, [0, 1, 3]], abs=1e-6)
    assert len(reference.train) == 50


def test_some_tables_are_scaled_twice_with_reference_data(root):
    WRITERS["openml/1464"](root)
    (root / "1464_dev_test_split.npy").rename(root / "54_dev_test_split.npy")
    saved = np.load(root / "54_dev_test_split.npy", allow_pickle=True)[()]["X_norm_dev"]
    expected = (saved - saved.mean(0)) / (saved.std(0, ddof=1) + 1e-5)
    assert find_task("openml/54").load(0, reference=True).train.x == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("place", ["openml/37.csv", "openml/37/dataset_37.csv", "openml/37/dataset.csv"])
def test_a_table_may_lie_in_a_folder_of_its_own(root, place):
    (root / "openml").mkdir()
    write(root, place, "a,class\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    assert find_task("openml/37").expects[0].find() == root / place
    assert find_task("openml/37").load(0).input_shape == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,class\n" + "1,x\n" * 20, r"class: must have at least two classes, but got \['x'\]"),
        ("a,class\n" + "1,x\n2,y\n" * 3, r"class: must have at least 10 rows, but got 6"),
        ("a,class\n" + "inf,x\n2,y\n" * 8, r"a: must have finite numbers"),
        ("a,class\n" + "?,x\n2,y\n" * 8, r"must have an input column without missing entries, but got \['a'\]"),
        ("class\n" + "1\n2\n" * 8, r"must have a column beside the target"),
        ("a,b\n" + "1,0.5\n2,1\n" * 8, r"b: must hold classes, texts or whole numbers, but got \[0\.5, 0\.5, 0\.5\]\. .*csv:"),
    ],
)
def test_a_table_that_does_not_serve_is_told(root, text, message):
    write(root, "openml/37.csv", text)
    with pytest.raises(DataError, match=rf"{re.escape(str(root))}/openml/37\.csv: .*({message})"):
        find_task("openml/37").load(0)


def test_rows_without_a_target_are_left_out(root):
    write(root, "openml/37.csv", "a,class\n" + "".join(f"{i},{'?' if i < 5 else i % 2}\n" for i in range(25)))
    loaded = find_task("openml/37").load(0)
    assert sum(map(len, (loaded.train, loaded.valid, loaded.test))) == 20


@pytest.mark.parametrize("change", ["key", "class", "NaN", "code"])
def test_a_broken_split_file_is_told(root, change):
    WRITERS["openml/1464"](root)
    place = root / "1464_dev_test_split.npy"
    held = np.load(place, allow_pickle=True)[()]
    if change == "key":
        del held["y_test"]
    elif change == "class":
        held["y_test"] = held["y_test"] + 5
    elif change == "NaN":
        held["X_norm_dev"] = held["X_norm_dev"] * np.nan
    else:
        held["X_norm_dev"] = eval  # a function, named in the pickle
    np.save(place, held)
    message = {"key": "y_test: must be in the file", "class": "only classes of y_dev", "NaN": "no NaN", "code": "refused"}[change]
    with pytest.raises(DataError, match=message):
        find_task("openml/1464").load(0)


@pytest.mark.parametrize("name", ["openml/31", "openml/1464"])
def test_two_epochs_train_with_and_without_reference_data(data, two_epochs, name):
    for reference in (False, True):
        assert two_epochs(name, {"reference_data": reference}).has_moved


def test_there_are_42_tables_with_the_published_recipes():
    known = {name for name in TASKS if name.startswith("openml/")}
    assert len(known) == 42
    knobs = TASKS["openml/40966"].recipes["published"]
    assert (knobs["embedder"]["target_seq_len"], knobs["finetune"]["lr"], knobs["align"]["epochs"]) == (8, 1e-4, 20)
    assert TASKS["openml/1049"].recipes["published"]["align"]["class_samples"] == 512
    for name in known:
        recipe = TASKS[name].recipes["published"]
        assert recipe["align"]["lr"] == pytest.approx(10 * recipe["finetune"]["lr"])
        assert recipe["finetune"]["decay_epochs"] >= recipe["finetune"]["epochs"]


def test_r2_by_hand():
    targets, outputs = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[2.0], [2.0], [4.0]])
    assert SCORES["1-r2"](outputs, targets) == pytest.approx((1 + 0 + 4) / (4 + 1 + 9))  # the mean is 3
    with pytest.raises(NotFiniteError, match="differ"):
        SCORES["1-r2"](outputs, torch.ones(3, 1))


def test_any_other_id_is_a_task_with_the_laptop_recipe_alone(root):
    write(root, "openml/40.csv", "a,class\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    config = resolve_config({"task": "openml/40"})
    assert (config.recipe, list(config.task_spec.recipes)) == ("laptop", ["laptop"])
    assert len(config.task_spec.load(0).train) == 16
    with pytest.raises(ConfigError, match="must be openml/ID with the number"):
        find_task("openml/forty")


@pytest.mark.parametrize(("number", "columns", "classes"), [(187, 13, 3), (1510, 30, 2)])
def test_the_split_file_of_a_table_that_scikit_learn_ships_is_read(root, number, columns, classes):
    shipped = find_task(f"openml/{number}")
    shipped_digest, shipped_recipes = shipped.digest(), shipped.recipes
    rng = np.random.default_rng(0)
    saved = {f"y_{part}": np.arange(n) % classes for part, n in (("dev", 45), ("test", 12))}
    saved |= {f"X_norm_{part}": rng.normal(size=(n, columns, 1)) for part, n in (("dev", 45), ("test", 12))}
    place = root / f"{number}_dev_test_split.npy"
    np.save(place, saved)
    spec = find_task(f"openml/{number}")
    loaded = spec.load(0)
    assert loaded.test.y.tolist() == saved["y_test"].tolist()
    assert len(loaded.train) + len(loaded.valid) == 45
    assert spec.digest() != shipped_digest
    assert (spec.recipes, spec.reference) == (shipped_recipes, "")  # no knob is read that was not read before
    assert resolve_config({"task": f"openml/{number}"}).task_spec.digest() == spec.digest()
    place.write_bytes(place.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{number}_dev_test_split\.npy: must be a complete"):
        find_task(f"openml/{number}").load(0)
    place.unlink()
    assert find_task(f"openml/{number}").digest() == shipped_digest


def test_rows_of_a_table_are_encoded_as_in_training(data):
    loaded = find_task("openml/31").load(0)
    rows = loaded.encoding.encode(read_columns(find_task("openml/31").expects[0].find()))
    trained = {row.tobytes() for part in (loaded.train, loaded.valid, loaded.test) for row in part.x}
    assert {row.tobytes() for row in rows} == trained
    assert loaded.encoding.target.classes == ("bad", "good")
    assert [name for name, _ in loaded.encoding.left_out] == ["gap"]
    assert find_task("openml/1464").load(0).encoding is None  # the split file has no columns as they were
