"""The stage store: an artifact is whole or absent, whatever happens to its files."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from orca_core.addresses import Address
from orca_core.errors import StoreError
from orca_core.store import Store

ADDRESS = Address.after("align", "abc", 3)


def files_of(store: Store, address: Address = ADDRESS) -> dict[str, Path]:
    """Files of a local artifact, by name."""
    return {path.name: path for path in Path(store.uri, str(address)).rglob("*") if path.is_file()}


def put(store: Store, value: float = 1.0, address: Address = ADDRESS) -> None:
    store.put(address, {"x": torch.full((100,), value)}, {"rows": [{"value": value}]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_come_back_bit_for_bit(store, dtype):
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).mul(10).to(dtype)
    store.put(ADDRESS, {"matrix": values, "view": values.T, "scalar": values[0, 0].clone()}, {})
    found = store.get(ADDRESS).tensors
    assert found["matrix"].dtype == dtype
    assert torch.equal(found["matrix"], values)
    assert torch.equal(found["view"], values.T)
    assert found["scalar"].shape == ()


def test_data_comes_back_with_every_digit(store):
    data = {"rows": [{"epoch": 1, "loss": 0.1 + 0.2, "name": "é"}], "seconds": 1e-17}
    store.put(ADDRESS, {}, data)
    artifact = store.get(ADDRESS)
    assert (artifact.data, artifact.tensors) == (data, {})


def test_an_address_without_an_artifact_is_absent(store):
    assert store.get(ADDRESS) is None


@pytest.mark.parametrize("name", ["tensors.safetensors", "data.json", "COMPLETE.json"])
@pytest.mark.parametrize("damage", ["truncated", "gone", "empty"])
def test_an_artifact_with_a_damaged_file_is_absent(store, name, damage):
    put(store)
    path = files_of(store)[name]
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-5] if damage == "truncated" else b"")
    assert store.get(ADDRESS) is None


@pytest.mark.parametrize("name", ["tensors.safetensors", "data.json"])
def test_a_flipped_bit_is_noticed(store, name):
    put(store)
    path = files_of(store)[name]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert store.get(ADDRESS) is None


@pytest.mark.parametrize("marker", ["[]", "{}", '{"attempt": "x", "files": []}', '{"attempt": "x", "files": {"data.json": 5}}', "null"])
def test_a_marker_of_another_form_counts_as_none(store, marker):
    put(store)
    files_of(store)["COMPLETE.json"].write_text(marker)
    assert store.get(ADDRESS) is None


def test_a_damaged_artifact_is_whole_again_after_it_is_written_anew(store):
    put(store, 1.0)
    files_of(store)["data.json"].unlink()
    put(store, 2.0)
    assert store.get(ADDRESS).data == {"rows": [{"value": 2.0}]}


def test_files_of_a_writer_that_died_are_not_seen(store):
    put(store)
    marker = files_of(store)["COMPLETE.json"]
    marker.unlink()
    assert store.get(ADDRESS) is None
    assert len(files_of(store)) == 2


def test_two_writers_do_no_harm(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: put(Store(store.uri), value), map(float, range(40))))
    artifact = store.get(ADDRESS)
    assert torch.equal(artifact.tensors["x"], torch.full((100,), artifact.data["rows"][0]["value"]))
    assert not [name for name in files_of(store) if name.endswith(".tmp")]


def test_a_reader_beside_a_writer_sees_whole_artifacts_only(store):
    put(store, 0.0)
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [put(store, float(value)) for value in range(1, 30)])
        seen = [store.get(ADDRESS)]
        while not writing.done():
            seen.append(store.get(ADDRESS))
    assert all(artifact.tensors["x"].unique().tolist() == [artifact.data["rows"][0]["value"]] for artifact in seen)


def test_epochs_of_a_trajectory_are_listed_in_order(store):
    for name in ("e00010", "e00002", "whole", "extra"):
        put(store, address=Address("align", "abc", name))
    assert [address.epoch for address in store.states("align/abc")] == [2, 10]
    assert [address.epoch for address in store.states("align/nothing")] == []


def test_what_is_dropped_is_gone_and_dropping_it_again_is_no_fault(store):
    put(store)
    put(store, address=Address.after("align", "abc", 4))
    store.drop(ADDRESS)
    store.drop(ADDRESS)
    assert [address.epoch for address in store.states("align/abc")] == [4]


def test_a_file_uri_is_the_same_place_as_its_path(store):
    put(store)
    assert Store(f"file://{store.uri}").get(ADDRESS) is not None


@pytest.mark.parametrize("uri", ["floppy://bucket/place", "s4://bucket"])
def test_an_unknown_scheme_is_refused_with_what_to_give(uri):
    with pytest.raises(StoreError, match=f"^{uri}: cannot be opened as a store .* Give a folder, or a URI like s3://bucket/folder"):
        Store(uri)


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "store").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"align/abc/e00003/.* cannot be written"):
        put(Store(tmp_path / "store"))


def test_a_marker_names_the_files_it_vouches_for(store):
    put(store)
    marker = json.loads(files_of(store)["COMPLETE.json"].read_text())
    sizes = {name: path.stat().st_size for name, path in files_of(store).items() if name != "COMPLETE.json"}
    assert {name: entry["size"] for name, entry in marker["files"].items()} == sizes
