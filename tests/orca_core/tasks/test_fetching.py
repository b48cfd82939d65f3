"""Tables that the `openml` package fetches: from its own cache, in its own format, as there is no network in tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_iris

from orca_core.errors import ConfigError, DataError
from orca_core.tasks import find_task
from orca_core.tasks.fetching import fetch_openml
from sweeper.show.catalogue import fetch_table

openml = pytest.importorskip("openml")

IRIS = load_iris()
SPECIES = [f"Iris-{IRIS.target_names[label]}" for label in IRIS.target]


@pytest.fixture
def root(tmp_path, use_data, monkeypatch) -> Path:
    use_data(tmp_path / "data")
    monkeypatch.setattr(openml.config, "_root_cache_directory", tmp_path / "openml")
    return tmp_path


def cache(root: Path, number: int, more: str, arff: str = "") -> Path:
    """The description of a data set, and its table if it is ARFF; the folder they are in."""
    folder = root / f"openml/org/openml/www/datasets/{number}"
    folder.mkdir(parents=True)
    values = {"id": number, "name": "iris", "version": 1, "format": "ARFF", "url": f"https://openml.org/data/{number}"}
    fields = "".join(f"<oml:{key}>{value}</oml:{key}>" for key, value in values.items()) + more
    if arff:
        (folder / "dataset.arff").write_text(arff)
        fields += f"<oml:md5_checksum>{hashlib.md5(arff.encode()).hexdigest()}</oml:md5_checksum>"
    text = f'<oml:data_set_description xmlns:oml="http://openml.org/openml">{fields}</oml:data_set_description>'
    (folder / "description.xml").write_text(text)
    return folder


def test_a_parquet_table_goes_below_the_data_root_with_its_target_last(root):
    more = "<oml:parquet_url>http://openml.org/dataset_61.pq</oml:parquet_url><oml:default_target_attribute>species</oml:default_target_attribute>"
    folder = cache(root, 61, f"{more}<oml:row_id_attribute>row</oml:row_id_attribute><oml:ignore_attribute>note</oml:ignore_attribute>")
    columns = {"species": SPECIES, "row": np.arange(150), "note": ["x"] * 150, "Class": IRIS.data[:, 0], "petal": IRIS.data[:, 2]}
    pq.write_table(pa.table(columns), folder / "dataset_61.pq")
    place = fetch_openml(61)
    assert place == root / "data/openml/61.parquet"
    table = pq.read_table(place)
    assert table.column_names == ["Class (input)", "petal", "class"]
    assert table["class"].to_pylist() == SPECIES
    loaded = find_task("openml/61").load(0)
    assert (loaded.input_shape, loaded.num_classes) == ((2, 1), 3)
    assert [len(part) for part in (loaded.train, loaded.valid, loaded.test)] == [120, 15, 15]


def test_an_arff_table_is_the_same_task_as_the_file_by_hand(root):
    rows = "".join(f"{','.join(map(str, row))},{name}\n" for row, name in zip(IRIS.data.tolist(), SPECIES, strict=True))
    names = "".join(f"@attribute a{number} real\n" for number in range(4))
    arff = f"@relation iris\n{names}@attribute species {{{','.join(sorted(set(SPECIES)))}}}\n@data\n{rows}"
    cache(root, 61, "<oml:default_target_attribute>species</oml:default_target_attribute>", arff)
    fetch_table("openml/61")
    fetched = find_task("openml/61").load(0)
    (root / "data/openml/61.parquet").unlink()
    (root / "data/openml/61.arff").write_text(arff)
    by_hand = find_task("openml/61").load(0)
    for part in ("train", "valid", "test"):
        assert np.array_equal(getattr(fetched, part).x, getattr(by_hand, part).x)
        assert np.array_equal(getattr(fetched, part).y, getattr(by_hand, part).y)


def test_a_table_without_one_target_is_refused(root):
    folder = cache(root, 7, "<oml:parquet_url>http://openml.org/dataset_7.pq</oml:parquet_url>")
    pq.write_table(pa.table({"a": [1.0, 2.0]}), folder / "dataset_7.pq")
    with pytest.raises(DataError, match="target: must be one of the columns of data set 7"):
        fetch_openml(7)
    assert not (root / "data").exists()


@pytest.mark.parametrize("name", ["", "digits", "openml/187"])
def test_other_tasks_have_nothing_to_fetch(name):
    with pytest.raises(ConfigError, match="--fetch: requires the name openml/ID"):
        fetch_table(name)
