"""`hfds:NAME`, read from what the package `datasets` writes: layouts, splits, columns of every kind, and what is refused."""

from __future__ import annotations

import doctest
import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orca_core.config.resolve import resolve_config
from orca_core.datafiles import arrow_folders
from orca_core.errors import ConfigError, DataError
from orca_core.pipeline import run_trial
from orca_core.proxies import find_proxy
from orca_core.tasks import find_task, spell_task

ROWS = {"train": 40, "validation": 12, "test": 15}
NAMES = ["cat", "dog"]


def png(seed: int, label: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 100, (9, 9, 3), dtype=np.uint8) + np.uint8(100 * label)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "png")
    return held.getvalue()


def cells(rows: int, seed: int) -> dict:
    rng, label = np.random.default_rng(seed), np.arange(rows) % 2
    return {
        "image": [{"bytes": png(1000 * seed + row, row % 2), "path": None} for row in range(rows)],
        "text": [f"{NAMES[row % 2]} number {row}" for row in range(rows)],
        "length": (rng.normal(size=rows) + label).tolist(),
        "count": (10 * label + np.arange(rows)).tolist(),
        "price": rng.normal(5, 2, size=rows).tolist(),
        "series": (rng.normal(size=(rows, 8)) + label[:, None]).tolist(),
        "ragged": [[1.0] * (3 + row % 4) for row in range(rows)],
        "leads": (rng.normal(size=(rows, 2, 8)) + label[:, None, None]).tolist(),
        "label": label.tolist(),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Folders as the package writes them: `saved` and `single` by save_to_disk, `repo` by to_parquet, `cache` by load_dataset."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("hub")
    types = {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    types |= {name: datasets.Value(kind) for name, kind in (("length", "float32"), ("count", "int64"), ("price", "float64"))}
    types |= {"series": datasets.List(datasets.Value("float32"), length=8), "ragged": datasets.List(datasets.Value("float32"))}
    types |= {"leads": datasets.Array2D((2, 8), "float32")}
    features = datasets.Features({name: types[name] for name in cells(1, 0)})
    parts = {name: datasets.Dataset.from_dict(cells(n, seed), features=features) for seed, (name, n) in enumerate(ROWS.items())}
    whole = datasets.DatasetDict(parts)
    whole.save_to_disk(str(root / "saved"), num_shards={name: 2 if name == "train" else 1 for name in ROWS})
    parts["train"].save_to_disk(str(root / "single"))
    (root / "repo/data").mkdir(parents=True)
    for name, part in parts.items():
        part.to_parquet(str(root / f"repo/data/{name}-00000-of-00001.parquet"))
    datasets.load_dataset(str(root / "repo"), cache_dir=str(root / "cache"))
    return root


@pytest.fixture(scope="module")
def truth() -> dict:
    return {name: cells(rows, seed) for seed, (name, rows) in enumerate(ROWS.items())}


# ------------------------------------------------------------------------------------------------------------------ layouts


def test_the_examples_of_layouts_hold():
    (example,) = doctest.DocTestFinder().find(arrow_folders.locate_split, globs=vars(arrow_folders))
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("layout", ["saved", "repo", "cache/repo"])
def test_every_layout_is_the_same_data(written, truth, layout):
    folder = next((path.parent for path in sorted((written / layout).rglob("*-train.arrow"))), written / layout)
    data = find_task(f"hfds:{folder}?inputs=series").load()
    for part, split in (("train", "train"), ("valid", "validation"), ("test", "test")):
        held = getattr(data, part)
        assert held.x[:, 0] == pytest.approx(np.float32(truth[split]["series"]))
        assert held.y.tolist() == truth[split]["label"]
    assert data.preparation.answers.names == ("cat", "dog")


def test_a_single_saved_data_set_is_split_by_the_seed(written, truth):
    data, again, other = (find_task(f"hfds:{written}/single?inputs=series").load(seed) for seed in (0, 0, 1))
    assert [len(part) for part in (data.train, data.valid, data.test)] == [28, 4, 8]
    assert np.array_equal(data.test.x, again.test.x)
    assert not np.array_equal(data.test.x, other.test.x)
    everything = np.concatenate([part.x[:, 0] for part in (data.train, data.valid, data.test)])
    assert sorted(everything[:, 0]) == pytest.approx(sorted(np.float32(truth["train"]["series"])[:, 0]))


def test_identity_is_content_and_what_is_made_of_it(written, tmp_path):
    shutil.copytree(written / "repo", tmp_path / "other")
    name = f"hfds:{written}/repo?inputs=series"
    assert find_task(name).digest() == find_task(f"hfds:{tmp_path}/other?inputs=series").digest()
    names = (name, f"hfds:{written}/repo", f"{name}&test=validation", f"hfds:{written}/repo?inputs=leads", f"hfds:{written}/repo?size=32")
    assert len({find_task(one).digest() for one in names}) == len(names)
    other = tmp_path / "other/data"
    shutil.copy(other / "validation-00000-of-00001.parquet", other / "test-00000-of-00001.parquet")
    assert find_task(f"hfds:{tmp_path}/other?inputs=series").digest() != find_task(name).digest()


def test_options_have_one_order(written):
    name = f"hfds:{written}/repo?test=validation&inputs=series"
    assert spell_task(name) == f"hfds:{written}/repo?inputs=series&test=validation"
    assert resolve_config({"task": name}).task == spell_task(name)


def test_a_name_of_the_hub_is_found_in_its_local_caches(written, monkeypatch, tmp_path):
    """The layout of the hub's cache, with the Parquet files of a snapshot; and that of `datasets`. Nothing is fetched."""
    from huggingface_hub import constants

    snapshot = tmp_path / "hub/datasets--own--animals/snapshots/0123456789012345678901234567890123456789"
    shutil.copytree(written / "repo", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(snapshot.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    shutil.copytree(written / "cache/repo", tmp_path / "datasets/own___cached")
    wanted = find_task(f"hfds:{written}/repo?inputs=series").load()
    for name in ("own/animals", "own/cached"):
        spec = find_task(f"hfds:{name}?inputs=series")
        assert np.array_equal(spec.load().test.x, wanted.test.x)
        assert spec.own_path == "", "each node looks for it"
    with pytest.raises(ConfigError, match="task: must be a folder or a data set of the Hugging Face hub, but got 'hfds:own/nothing'"):
        find_task("hfds:own/nothing")


def test_configs_must_be_told_apart(written, tmp_path):
    for config in ("small", "large"):
        shutil.copytree(written / "repo/data", tmp_path / config)
    with pytest.raises(DataError, match="config: must be given, as there are several, but got 'large, small'"):
        find_task(f"hfds:{tmp_path}")
    with pytest.raises(DataError, match=r"config: must be a config.*Did you mean 'small'"):
        find_task(f"hfds:{tmp_path}?config=smal")
    assert find_task(f"hfds:{tmp_path}?config=small&inputs=series").load().num_classes == 2


# ------------------------------------------------------------------------------------------------------------------ columns


def test_pictures_go_the_way_of_picture_files(written, truth, tmp_path):
    data = find_task(f"hfds:{written}/repo?size=8").load()
    assert (data.train.x.shape, data.train.x.dtype, data.input_shape) == ((40, 3, 8, 8), np.uint8, (3, 8, 8))
    for row in range(40):
        (tmp_path / NAMES[row % 2]).mkdir(exist_ok=True)
        (tmp_path / NAMES[row % 2] / f"{row:03}.png").write_bytes(truth["train"]["image"][row]["bytes"])
    of_files = find_task(f"images:{tmp_path}?size=8").load()
    everything = np.concatenate([of_files.train.x, of_files.valid.x, of_files.test.x])
    assert sorted(row.tobytes() for row in everything) == sorted(row.tobytes() for row in data.train.x)


def test_numbers_are_channels_standardised_by_train_and_raw_ones_are_taken_later(written, truth):
    data = find_task(f"hfds:{written}/repo?inputs=length,count").load()
    raw = np.array([truth["test"]["length"], truth["test"]["count"]]).T
    train = np.array([truth["train"]["length"], truth["train"]["count"]]).T
    expected = (raw - train.mean(0)) / train.std(0)
    assert data.input_shape == (2, 1)
    assert data.test.x[:, :, 0] == pytest.approx(expected, abs=1e-3)
    assert data.preparation.inputs.encode(raw) == pytest.approx(data.test.x, abs=1e-5)


def test_several_axes_are_channels(written, truth):
    data = find_task(f"hfds:{written}/saved?inputs=leads").load()
    assert data.input_shape == (2, 8)
    assert data.test.x == pytest.approx(np.float32(truth["test"]["leads"]))


def test_real_numbers_are_a_regression(written, truth):
    spec = find_task(f"hfds:{written}/repo?inputs=series&label=price")
    data = spec.load()
    price = np.array(truth["train"]["price"])
    assert (spec.kind, spec.score, data.num_classes) == ("regression", "1-r2", None)
    assert data.test.y[:, 0] == pytest.approx((np.array(truth["test"]["price"]) - price.mean()) / price.std(), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?input=series", r"must have options of a data set after the `\?`.*Did you mean 'inputs'"),
        ("?size=4", "must have a size from 8 to 1024"),
        ("?inputs=serie", "inputs: must be columns, but got 'serie'. Did you mean 'series'"),
        ("?label=lable", "label: must be a column, but got 'lable'. Did you mean 'label'"),
        ("?label=lable&inputs=serie", r"(?s)label: must be a column.*inputs: must be columns"),
        ("?test=tset", "test: must be a split of the data set, but got 'tset'. Did you mean 'test'"),
        ("?inputs=series,length", "inputs: must be one column, or several of numbers"),
        ("?inputs=label", "inputs: must not be the label"),
        ("?label=series", "label: must hold classes or numbers"),
        ("?test=train", "train: must be another split"),
        ("?inputs=text", "must not be texts.*take it as a proxy: hfds:"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_read(written, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        find_task(f"hfds:{written}/repo{options}")


def test_wrong_values_are_refused_with_the_split(written, tmp_path):
    with pytest.raises(DataError, match=r"repo \(train\): ragged: must have arrays of one shape, but got 'lengths from 3 to 6'"):
        find_task(f"hfds:{written}/repo?inputs=ragged").load()
    hidden = pq.read_table(written / "repo/data/test-00000-of-00001.parquet")
    at = hidden.column_names.index("label")
    hidden = hidden.set_column(at, hidden.schema.field("label"), pa.array([-1] * len(hidden), pa.int64()))
    shutil.copytree(written / "repo", tmp_path / "hidden")
    pq.write_table(hidden, tmp_path / "hidden/data/test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"hidden \(test\): label: must have a label in each of the 15 rows, but got '15 without'"):
        find_task(f"hfds:{tmp_path}/hidden?inputs=series").load()
    assert len(find_task(f"hfds:{tmp_path}/hidden?inputs=series&test=validation").load().test) == 12
    paths = pa.table({"image": [{"bytes": None, "path": "/etc/passwd"}] * 20, "label": [0, 1] * 10})
    (tmp_path / "paths").mkdir()
    pq.write_table(paths, tmp_path / "paths/train.parquet")
    with pytest.raises(DataError, match="image: must hold its pictures, but got 'none in row 1'"):
        find_task(f"hfds:{tmp_path}/paths").load()
    pq.write_table(paths.slice(0, 0), tmp_path / "paths/train.parquet")
    with pytest.raises(DataError, match="label: must have at least two classes"):
        find_task(f"hfds:{tmp_path}/paths").load()
    (tmp_path / "paths/train.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(DataError, match=r"train\.parquet: must be a complete \.parquet file"):
        find_task(f"hfds:{tmp_path}/paths")


def test_scripts_are_not_looked_at(written, tmp_path):
    shutil.copytree(written / "repo", tmp_path / "repo")
    (tmp_path / "repo/repo.py").write_text("raise SystemExit('a script was run')")
    assert find_task(f"hfds:{tmp_path}/repo?inputs=series").load().num_classes == 2
    (tmp_path / "script").mkdir()
    (tmp_path / "script/script.py").write_text("raise SystemExit('a script was run')")
    with pytest.raises(DataError, match="must have Parquet or Arrow files"):
        find_task(f"hfds:{tmp_path}/script")


# ------------------------------------------------------------------------------------------------------------------ proxies


def test_proxies_are_the_training_split(written, truth):
    images, texts, features = (find_proxy(f"hfds:{written}/repo{options}") for options in ("?size=16", "?inputs=text", "?inputs=series"))
    assert [spec.modality for spec in (images, texts, features)] == ["images", "text", "any"]
    assert images.load().inputs.shape == (40, 3, 16, 16)
    assert texts.load().inputs == truth["train"]["text"]
    assert features.width() == 8
    assert features.load().inputs == pytest.approx(np.float32(truth["train"]["series"]))
    assert all(spec.load().labels.tolist() == truth["train"]["label"] for spec in (images, texts, features))
    assert len(find_proxy(f"hfds:{written}/repo?inputs=text*0.5+pydoc*0.5+k:20+shuffled").sources()) == 2
    with pytest.raises(DataError, match="label: must hold classes"):
        find_proxy(f"hfds:{written}/repo?inputs=text&label=price")
    with pytest.raises(DataError, match="inputs: must be pictures, texts or features"):
        find_proxy(f"hfds:{written}/repo?inputs=length")


def test_a_trial_on_one_aligned_to_another(written, warm_store):
    knobs = {"body": "mini-swin", "body.weights": "random", "align.epochs": 1, "align.objective": "l2", "finetune.epochs": 1}
    config = resolve_config({"task": f"hfds:{written}/saved?size=16", "proxy": f"hfds:{written}/repo?size=32+shuffled", **knobs})
    result = run_trial(config, warm_store, lambda row: None)
    assert (result.valid_samples, result.test_samples) == (12, 15)
    assert 0 <= result.test_error <= 1
