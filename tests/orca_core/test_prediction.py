"""Exported models take raw data as the task had it, and answer in its terms; on the task's raw test file they have the row's error."""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from orca_core import load_model, run_trial, tuned_model
from orca_core.addresses import Address
from orca_core.config.resolve import resolve_config
from orca_core.datafiles.pictures import read_square
from orca_core.errors import DataError
from orca_core.export import export_model
from orca_core.keeping import with_frozen
from orca_core.prediction import TunedModel
from orca_core.rows import TrialResult
from orca_core.scoring import SCORES
from orca_core.stages import result_key, stages_of
from orca_core.store import Store
from orca_core.tasks import Split, TaskData, TaskSpec, find_task
from orca_core.tasks.preparation import Answers, Scale, from_json
from orca_core.tasks.raw_arrays import ArrayInputs
from orca_core.tasks.spec import _prepared
from orca_core.workbench import Workbench

TWO_EPOCHS = {
    "body.weights": "random",
    "align.epochs": 0,
    "finetune.epochs": 2,
    "finetune.lr": 3e-3,
    "finetune.warmup_epochs": 0,
    "finetune.decay_epochs": None,
    "finetune.batch_size": 8,
}
RNG = np.random.default_rng(0)


Trained = tuple[Path, TrialResult, TunedModel]
"""A raw test file, the trial's result, and its model, exported and read again."""


@pytest.fixture(scope="module")
def train(tmp_path_factory, session_workbench) -> Callable[..., Trained]:
    """`train(data, knobs)` writes raw data, trains on them for two epochs, exports the model and reads it; once for the same arguments."""
    known: dict[str, Trained] = {}

    def train(data: str, knobs: Mapping[str, Any] = {}) -> Trained:
        if (key := f"{data} {knobs}") not in known:
            root = tmp_path_factory.mktemp(data)
            with Workbench(root, session_workbench.cache_root).use():
                task, file = WRITERS[data](root)
                config = resolve_config({**TWO_EPOCHS, "task": task, **knobs})
                store = Store(root / "store")
                result = run_trial(config, store, lambda row: None, keep="best")
                _, computed = export_model(config, store, root / "model")
                built = tuned_model(config, store).model.state_dict()
            assert not computed
            model = load_model(root / "model")
            assert all(torch.equal(value, built[name]) for name, value in model.model.state_dict().items())
            known[key] = file, result, model
        return known[key]

    return train


# ---------------------------------------------------------------------------------------------- the row's error, on raw test files


def labelled_series(n: int, channels: int = 2, length: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Series of classes 5, 7 and 9 whose values are not standardised."""
    y = np.resize([5, 7, 9], n)
    return 30 + 8 * RNG.normal(size=(n, channels, length)) + 4 * y[:, None, None], y


def write_npz(path: Path, dense: bool = False, valid: bool = False) -> tuple[str, Path]:
    parts = {part: labelled_series(n) for part, n in (("train", 60), ("test", 30), ("valid", 15))[: 2 + valid]}
    arrays = {f"x_{part}": x for part, (x, _) in parts.items()}
    arrays |= {f"y_{part}": np.cumsum(x[:, :1], axis=2) / 100 if dense else y for part, (x, y) in parts.items()}
    np.savez(path / "mine.npz", **arrays)
    np.savez(path / "raw.npz", x=arrays["x_test"], y=arrays["y_test"])
    return f"npz:{path / 'mine.npz'}", path / "raw.npz"


def write_ucr(root: Path) -> tuple[str, Path]:
    (root / "ucr" / "Mine").mkdir(parents=True)
    for part, n in (("TRAIN", 48), ("TEST", 24)):
        x, y = labelled_series(n, channels=1)
        x[::4, 0, 20:] = np.nan  # padding, as the archive has it
        x[1, 0, 3] = np.nan
        lines = ["\t".join([str(label), *(f"{value:.5f}" for value in row[0])]) for row, label in zip(x, y, strict=True)]
        (root / "ucr" / "Mine" / f"Mine_{part}.tsv").write_text("\n".join(lines))
    return "ucr/Mine", root / "ucr" / "Mine" / "Mine_TEST.tsv"


def write_pictures(root: Path) -> tuple[str, Path]:
    for part, n in (("train", 12), ("test", 6)):
        for name, colour in (("sky", (90, 140, 220)), ("grass", (110, 150, 160))):
            (root / "pics" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.clip(np.array(colour) + RNG.normal(0, 50, size=(24, 30, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(root / "pics" / part / name / f"{i}.png")
    return f"images:{root / 'pics'}?size=16", root / "pics" / "test"


def write_table(root: Path, kind: str = "classes") -> tuple[str, Path]:
    lines = ["size,colour,weight,label"]
    for i in range(90):
        size, weight = RNG.normal(170, 10), RNG.normal(0.02, 0.001)
        label = {"classes": "tall" if size > 170 else "short", "whole": 7 if size > 170 else 3, "regression": f"{4 * size + 5:.3f}"}[kind]
        lines.append(f"{size:.2f},{('red', 'green', 'blue')[i % 3]},{weight:.6f},{label}")
    (root / "mine.csv").write_text("\n".join(lines) + "\n")
    rows = rows_of_test_part(f"csv:{root / 'mine.csv'}")
    (root / "raw.csv").write_text("\n".join([lines[0], *(lines[1 + row] for row in rows)]) + "\n")
    return f"csv:{root / 'mine.csv'}", root / "raw.csv"


def rows_of_test_part(task: str) -> list[int]:
    """Numbers of the rows of a table that are the test part, found by their inputs."""
    data = find_task(task).load(0)
    every = data.preparation.inputs.encode(data.preparation.inputs.read(Path(task.removeprefix("csv:"))).inputs)
    return [int(np.flatnonzero((every == row).all((1, 2)))[0]) for row in data.test.x]


WRITERS = {
    "table": write_table,
    "table-whole": lambda root: write_table(root, "whole"),
    "table-regression": lambda root: write_table(root, "regression"),
    "npz": write_npz,
    "npz-all-parts": lambda root: write_npz(root, valid=True),
    "npz-dense": lambda root: write_npz(root, dense=True),
    "ucr": write_ucr,
    "images": write_pictures,
}


@pytest.mark.parametrize(
    ("data", "knobs"),
    [
        ("table", {}),
        ("table-whole", {"body.name": "mini-swin", "proxy": "photos"}),
        ("table-regression", {"freezing": "frozen-body"}),
        ("npz", {}),
        ("npz", {"freezing": "frozen-body", "align.epochs": 1, "align.proxy_samples": 60}),
        ("npz", {"adapter": "lora", "freezing": "full"}),
        ("npz", {"adapter": '{"name":"vera","r":4}', "freezing": "full"}),
        ("npz", {"body.name": "mini-swin", "proxy": "photos", "freezing": "frozen-both"}),
        ("npz-all-parts", {}),
        ("npz-dense", {}),
        ("npz-dense", {"finetune.scoring": "chunks", "finetune.eval_batch_size": 8}),
        ("npz-dense", {"body.name": "mini-swin", "proxy": "photos"}),
        ("npz", {"body.name": "none"}),
        ("npz-dense", {"body.name": "cnn"}),
        ("images", {"body.name": "transformer-1", "freezing": "lp-ft:1"}),
        ("ucr", {}),
        ("images", {}),
        ("images", {"body.name": "mini-roberta", "proxy": "pydoc", "adapter": "lora"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())) or "plain",
)
def test_on_the_raw_test_file_an_exported_model_has_the_error_of_the_row(data, knobs, train):
    file, result, model = train(data, knobs)
    assert model.error(file) == result.test_error
    with Workbench(file.parents[2] if data == "ucr" else file.parent, Workbench.current().cache_root).use():
        loaded = find_task(model.config.task).load(0)
    with torch.no_grad():
        expected = model.model(loaded.inputs(torch.from_numpy(loaded.test.x)))
    assert torch.equal(model.outputs(model.read(file).inputs), expected)
    assert len(model.predict(file)) == len(expected)
    names = ("valid_error", "test_error", "valid_loss", "train_loss")
    assert model.errors == {name: getattr(result, name) for name in names}


def test_a_folder_is_complete_without_the_tasks_data_and_says_what_it_needs(train, tmp_path):
    _, result, model = train("table")
    model.save(tmp_path / "copy")
    contents = json.loads((tmp_path / "copy" / "model.json").read_text())
    assert contents["version"] == 2
    assert contents["task"]["score"] == "1-accuracy"
    assert contents["errors"]["test_error"] == result.test_error
    assert "size, number" in contents["expects"]
    assert contents["preparation"]["answers"]["names"] == ["short", "tall"]
    contents["config"]["task"] = "csv:/not/here.csv"
    (tmp_path / "copy" / "model.json").write_text(json.dumps(contents))
    rows = [{"size": "190", "colour": "red", "weight": "0.02"}]
    assert (load_model(tmp_path / "copy").predict_proba(rows) == model.predict_proba(rows)).all()
    readme = (tmp_path / "copy" / "README.md").read_text()
    assert all(text in readme for text in ("size, number", "short, tall", f"{result.test_error:.6g}"))
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["README.md", "model.json", "model.safetensors"]


def test_a_preparation_survives_json_to_the_last_bit(train):
    for data in WRITERS:
        preparation = train(data)[2].preparation
        again = from_json(json.loads(json.dumps(preparation.to_json())))
        assert type(again.inputs) is type(preparation.inputs)
        assert again.to_json() == preparation.to_json()
    scale = Scale(np.float32([[0.1], [1 / 3]]), np.float64([[np.pi], [2.0]]))
    again = from_json(json.loads(json.dumps(scale.to_json())))
    assert (again.mean.dtype, again.deviation.dtype) == (np.float32, np.float64)
    assert (again.mean == scale.mean).all()
    assert (again.deviation == scale.deviation).all()


# --------------------------------------------------------------------------------------------------------- what is answered, and how


def test_natural_calls_answer_with_names_and_probabilities(train):
    file, _, model = train("npz")
    x = np.load(file)["x"]
    assert model.classes == (5, 7, 9)
    assert model(x).tolist() == model.predict(x).tolist() == model.predict(x.astype("float64").tolist()).tolist()
    assert set(model.predict(x).tolist()) <= {5, 7, 9}
    shares = model.predict_proba(x, batch_size=7)
    assert shares.shape == (30, 3)
    assert shares.sum(1) == pytest.approx(np.ones(30))
    assert (np.array(model.classes)[shares.argmax(1)] == model.predict(x)).all()
    assert model.predict(x[:1]).shape == (1,)
    said = repr(model)
    assert all(text in said for text in ("1-accuracy", "(n, 2, 24)", "5, 7, 9", "test_error"))
    before = torch.get_num_threads()
    assert (model.predict(x, threads=before + 1) == model.predict(x)).all()
    assert torch.get_num_threads() == before
    assert not model.outputs(x).requires_grad


def test_a_regression_answers_in_the_unit_of_the_file(train):
    file, _, model = train("table-regression")
    truth = np.array([float(line.rpartition(",")[2]) for line in file.read_text().splitlines()[1:]])
    answers = model.predict(file)
    assert answers.shape == (18, 1)
    target = model.preparation.inputs.encoding.target
    assert answers == pytest.approx(target.mean + target.deviation * model.outputs(model.read(file).inputs).double().numpy())
    assert 600 < answers.mean() < 770  # labels are about 685
    ours = ((answers[:, 0] - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert model.error(file) == pytest.approx(ours, rel=1e-5)
    with pytest.raises(DataError, match="which have no probabilities"):
        model.predict_proba(file)


def test_rows_of_a_table_may_come_in_any_form_and_order(train):
    import pandas
    import polars
    import pyarrow

    file, _, model = train("table")
    expected = model.predict_proba(file)
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    frame = pandas.read_csv(file)[["weight", "label", "colour", "size"]]
    for data in (rows, frame, polars.from_pandas(frame), pyarrow.Table.from_pandas(frame), frame.drop(columns="label").to_dict("list")):
        assert (model.predict_proba(data) == expected).all()
    assert model.predict(rows[0]).tolist() == model.predict(file)[:1].tolist()
    assert train("table-whole", {"body.name": "mini-swin", "proxy": "photos"})[2].classes == (3, 7)


def test_series_may_be_arrays_lists_or_files_without_labels(train, tmp_path):
    file, _, model = train("ucr")
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    x = np.array([[float(entry) for entry in line[1:]] for line in lines])
    expected = model.predict_proba(file)
    assert (model.predict_proba(x) == expected).all()
    assert (model.predict_proba(x[:, None]) == expected).all()
    assert (model.predict_proba([series[: 20 if np.isnan(series[-1]) else 24] for series in x]) == expected).all()
    assert model.predict(x * 1000 + 5).tolist() == model.predict(x).tolist()  # each series is standardised by itself
    (tmp_path / "bare.tsv").write_text("\n".join("\t".join(line[1:]) for line in lines))
    assert (model.predict_proba(tmp_path / "bare.tsv") == expected).all()
    entries = "\n".join(",".join("?" if entry == "nan" else entry for entry in line[1:]) for line in lines)
    (tmp_path / "bare.ts").write_text(f"@classLabel false\n@data\n{entries}")
    assert (model.predict_proba(tmp_path / "bare.ts") == expected).all()
    assert model.classes == ("5", "7", "9")


def test_pictures_may_be_files_folders_images_or_bytes(train, tmp_path):
    folder, _, model = train("images")
    files = sorted(folder.rglob("*.png"))
    expected = model.predict_proba(files)
    assert (model.predict_proba(folder) == expected).all()
    assert (model.predict_proba([Image.open(file) for file in files]) == expected).all()
    assert model.predict_proba(str(files[3]))[0] == pytest.approx(expected[3])
    assert (model.predict_proba(np.stack([read_square(file, 16) for file in files])) == expected).all()
    for file in files:
        Image.open(file).save(tmp_path / f"{file.parent.name}-{file.name}")
    assert (model.predict_proba(tmp_path) == expected).all()
    assert model.classes == ("grass", "sky")


def test_pictures_of_16_bits_are_scaled_as_in_training(tmp_path):
    for name, level in (("dim", 300), ("lit", 2500)):
        (tmp_path / "pics" / name).mkdir(parents=True)
        for i in range(12):
            pixels = (level + RNG.integers(0, 200, size=(20, 20))).astype("uint16")
            Image.fromarray(pixels).save(tmp_path / "pics" / name / f"{i}.png")
    data = find_task(f"images:{tmp_path / 'pics'}?size=16").load(0)
    inputs = from_json(json.loads(json.dumps(data.preparation.to_json()))).inputs
    every = inputs.encode(inputs.read(tmp_path / "pics").inputs)
    for part in (data.train, data.valid, data.test):
        assert all((every == row).all((1, 2, 3)).any() for row in part.x)
    Image.new("RGB", (20, 20)).save(tmp_path / "plain.png")
    with pytest.raises(DataError, match=r"plain\.png: must have more than 8 bits like the training pictures"):
        inputs.encode([tmp_path / "plain.png"])
    deep, plain = Image.open(tmp_path / "pics" / "dim" / "0.png"), Image.open(tmp_path / "plain.png")
    assert (inputs.encode(deep) == inputs.encode([deep])).all()
    with pytest.raises(DataError, match=r"^picture 2: must have more than 8 bits like the training pictures"):
        inputs.encode([deep, plain])


def test_fields_are_in_their_own_unit(tmp_path, use_data):
    use_data(tmp_path)
    with h5py.File(tmp_path / "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", "w") as file:
        for key in ("density", "pressure", "Vx"):
            file[key] = (100 + 20 * np.random.default_rng(len(key)).normal(size=(20, 11, 16))).astype("float32")
    config = resolve_config({**TWO_EPOCHS, "task": "pdebench/1dcfd"})
    run_trial(config, Store(tmp_path / "store"), lambda row: None, keep="best")
    tuned_model(config, Store(tmp_path / "store")).save(tmp_path / "model")
    model = load_model(tmp_path / "model")
    answers = model.predict(tmp_path / "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5")
    assert answers.shape == (20, 1, 48)
    assert 60 < answers.mean() < 140  # the network's own outputs are about 0
    loaded = config.task_spec.load(0)
    scale = model.preparation.answers.scale
    raw_x, raw_y = (scale(torch.from_numpy(part)).numpy() for part in (loaded.test.x, loaded.test.y))
    assert model.predict(raw_x) == pytest.approx(answers[:2], rel=1e-4)  # the first tenth of the samples is the test part
    with torch.no_grad():
        expected = SCORES[model.score](model.model(torch.from_numpy(loaded.test.x)), torch.from_numpy(loaded.test.y))
    assert model.error(raw_x, raw_y) == pytest.approx(expected, rel=1e-4)


def test_samples_of_the_task_are_not_held_against_the_range_of_the_training_samples(tmp_path, use_data):
    use_data(tmp_path)
    with h5py.File(tmp_path / "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", "w") as file:
        for key in ("density", "pressure", "Vx"):
            values = np.random.default_rng(len(key)).normal(size=(20, 11, 16)).astype("float32")
            values[0] = 1e6  # the first tenth is the test part
            file[key] = values
    loaded = find_task("pdebench/1dcfd").load(0)
    assert loaded.test.x.max() > 1e5
    with pytest.raises(DataError, match="must be in the unit of the training samples"):
        loaded.preparation.inputs.encode(np.full((1, 1, 48), 1e6))


def test_a_task_whose_loader_says_nothing_takes_what_the_loader_makes(train):
    data = TaskData(*(Split(np.zeros((4, 1, 8), "float32"), np.zeros((4, 2), "float32")) for _ in range(3)), None)
    spec = replace(find_task("drug/ctrp"), kind="multilabel", loader="none")
    preparation = _prepared(spec, data)
    assert "as the loader of drug/ctrp makes them" in preparation.inputs.expected
    assert preparation.answers.names == (0, 1)
    assert preparation.answers.decode(torch.tensor([[1.0, -1.0]])).tolist() == [[1, 0]]
    assert preparation.inputs.encode(np.zeros((3, 8))).shape == (3, 1, 8)


# ------------------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("data", "samples", "message"),
    [
        ("npz", np.zeros((3, 24)), r"must have another shape, but got \(3, 24\)\. Expected arrays of shape \(n, 2, 24\)"),
        ("npz", np.zeros((0, 2, 24)), "must have samples"),
        ("npz", np.full((2, 2, 24), np.nan), "must have no NaN and no infinite value, but got 96"),
        ("npz", np.full((2, 2, 24), 5000.0), r"must be in the unit of the training samples \(.* to .*\), but got \(5000.0, 5000.0\)"),
        ("npz", 3.0, r"must have another shape, but got \(\)"),
        ("npz", [["a"]], "must be an array of real numbers"),
        ("npz", [[1.0], [1.0, 2.0]], "must be one array"),
        ("npz", "nowhere.npy", r"nowhere.npy: must be an existing file\. Expected arrays"),
        ("ucr", np.zeros((3, 2, 24)), "must have 1 channel like"),
        ("ucr", np.ones((3, 25)), "must have at most 24 values, as in training, but got 25"),
        ("ucr", np.ones(24), r"must have the axes .* Give one series as x\[None\]"),
        ("ucr", np.full((2, 24), np.nan), "must have a value in each channel"),
        ("ucr", [["a", "b"]], "must be numbers"),
        ("images", np.zeros((2, 3, 16, 16), "float32"), r"must be pictures, but got \('float32', .*bytes \(uint8, 0 to 255\)"),
        ("images", np.zeros((2, 16, 16, 3), "uint8"), r"of shape \(n, 3, 16, 16\)"),
        ("images", ["nowhere.png", "neither.png"], r"nowhere.png: .*\n.*neither.png"),
        ("table", [{"size": 1, "colour": "red"}], "weight: must be a column"),
        ("table", [{"size": 1, "colour": "pink", "weight": 1}], "row 1: colour: must be a category of the training data, but got 'pink'"),
        ("table", [{"size": "much", "colour": "red", "weight": 1}], "row 1: size: must be of its column's form"),
        ("table", np.zeros((2, 3)), "must be rows with the names of their columns, but got 'ndarray'"),
        ("table", {"size": [1, 2], "colour": ["red", "red"], "weight": [1]}, "weight: must have as many entries as colour, 2, but got 1"),
        ("table", {"size": [1, 2], "colour": ["red", "red"], "weight": 1}, "weight: must be a sequence of entries, one for each row"),
        ("table", {"size": [1, 2, 3], "colour": "red", "weight": [1, 2, 3]}, "colour: must be a sequence of entries"),
        ("table", [], "must have at least one row"),
        ("table", 3, "must be rows with the names of their columns, but got 'int'"),
        ("npz-dense", np.zeros((2, 2, 23)), "must have another shape"),
        ("ucr", np.zeros((2, 2, 24)), "series 1: must have 1 channel like the training series, but got 2"),
    ],
)
def test_what_the_model_does_not_expect_is_refused_with_what_it_does(data, samples, message, train):
    with pytest.raises(DataError, match=message):
        train(data)[2].predict(samples)


def test_an_error_about_the_samples_of_a_file_names_it(train, tmp_path):
    np.savez(tmp_path / "new.npz", x=np.full((2, 2, 24), np.nan))
    with pytest.raises(DataError, match=rf"^{tmp_path / 'new.npz'}: samples: must have no NaN"):
        train("npz")[2].predict(tmp_path / "new.npz")
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"^{tmp_path / 'a.png'}: must be a regular file, but is a FIFO"):
        train("images")[2].predict(tmp_path)


def test_answers_may_be_booleans():
    assert Answers("classification", ("False", "True")).encode([True, False]).tolist() == [1, 0]
    assert Answers("classification", (0, 1)).encode([True, False]).tolist() == [1, 0]


def test_a_range_that_is_meant_is_taken(train, tmp_path):
    train("npz")[2].save(tmp_path)
    far = np.full((2, 2, 24), 5000.0)
    with pytest.raises(DataError, match="load the model with any_range=True, or use --any-range"):
        load_model(tmp_path).predict(far)
    assert load_model(tmp_path, any_range=True).predict(far).shape == (2,)


def test_samples_of_a_much_narrower_range_are_warned_of():
    pixels = ArrayInputs((1, 2), (), 0, 255)
    with pytest.warns(UserWarning, match=r"the samples are 0 to 1, and the training samples .*\. Are they in the same unit\?"):
        pixels.encode([[0, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels.encode([[0, 4]])


def test_wrong_options_and_answers_are_refused(train):
    file, _, model = train("npz")
    x = np.load(file)["x"]
    with pytest.raises(DataError, match="batch_size: must be at least 1"):
        model.predict(x, batch_size=0)
    with pytest.raises(DataError, match="answers: must be given"):
        model.error(x)
    with pytest.raises(DataError, match=r"answers: must be classes of the model: 5, 7, 9, but got \['6'\]"):
        model.error(x, np.full(30, 6))
    texts = [f"{number}.0" for number in np.load(file)["y"]]  # as read from a CSV
    assert model.error(x, texts) == model.error(file)
    with pytest.raises(DataError, match="answers: must be as many as the 30 samples, but got 3"):
        model.error(x, [5, 7, 9])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "must be of version 2 or 1, but is of 3. Update this package"),
        ({"preparation": {"type": "os.system"}}, "model.json is damaged .its task or preparation is not what was written"),
        ({"task": {"name": "digits", "score": None}}, "model.json is damaged .its task or preparation is not what was written"),
        ({"output_shape": [float("inf")]}, "model.json is damaged"),
        ({"epoch": None, "config": ...}, "model.json lacks config"),
        ({"output_shape": [4]}, "model.safetensors must hold the weights that model.json describes"),
    ],
)
def test_a_folder_that_is_no_model_is_told(change, message, train, tmp_path):
    train("npz")[2].save(tmp_path)
    contents = json.loads((tmp_path / "model.json").read_text()) | change
    (tmp_path / "model.json").write_text(json.dumps({key: value for key, value in contents.items() if value is not ...}))
    with pytest.raises(DataError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("data", [{"type": "os.system"}, {"type": "preparation", "inputs": "x", "answers": "x"}, {"type": None}])
def test_only_what_is_written_as_a_preparation_is_read_as_one(data):
    with pytest.raises(DataError, match="must be a preparation as this version writes it"):
        from_json(data)


def test_any_change_of_how_data_is_prepared_is_found(train, tmp_path):
    train("table")[2].save(tmp_path)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"short"', '"tall"'))
    with pytest.raises(DataError, match="its task or preparation is not what was written"):
        load_model(tmp_path)


def test_a_folder_of_version_one_is_the_network_alone_and_says_how_to_get_more(train, tmp_path):
    file, _, model = train("npz")
    model.save(tmp_path)
    contents = json.loads((tmp_path / "model.json").read_text())
    first = {key: contents[key] for key in ("config", "epoch", "input_shape", "output_shape")}
    (tmp_path / "model.json").write_text(json.dumps(first))
    old = load_model(tmp_path)
    assert old.model(torch.zeros(1, 2, 24)).shape == (1, 3)
    with pytest.raises(DataError, match=r"written by version 0\.1.*Export it again"):
        old.predict(file)


def test_weights_that_version_one_kept_are_exported_with_what_the_data_says(tmp_path):
    task, file = write_npz(tmp_path)
    config = resolve_config({**TWO_EPOCHS, "task": task})
    store = Store(tmp_path / "store")
    result = run_trial(config, store, lambda row: None, keep="best")
    address = Address.model(result_key(config, stages_of(config)), "best")
    artifact = store.get(address)
    store.put(address, artifact.tensors, {"epoch": artifact.data["epoch"]})
    tuned = tuned_model(config, store)
    assert (tuned.computed, tuned.errors) == (False, {})
    assert tuned.error(file) == result.test_error


def test_exporting_kept_weights_reads_no_training_data(tmp_path, monkeypatch):
    config = resolve_config({**TWO_EPOCHS, "task": write_npz(tmp_path)[0]})
    store = Store(tmp_path / "store")
    run_trial(config, store, lambda row: None, keep="best")
    Workbench.current().clear()
    monkeypatch.setattr(TaskSpec, "load", lambda *_: pytest.fail("the data was loaded"))
    assert not tuned_model(config, store).computed


def test_all_weights_are_kept_where_they_are_few_and_known():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    trained = {"0.weight": torch.ones(2, 2)}
    every = with_frozen(trained, model, {"0.weight"})
    assert every.keys() == model.state_dict().keys()
    assert torch.equal(every["0.weight"], torch.ones(2, 2))
    assert torch.equal(every["1.bias"], model[1].bias)
    assert with_frozen(trained, model, {"0.weight", "1.bias"}) is trained  # 1.bias trained after the epoch: what it was then is gone
    large = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(1100, 1000))
    assert with_frozen(trained, large, {"0.weight"}) is trained
