"""The allow-list unpickler: arrays of all ages come through, anything else is refused and not run."""

from __future__ import annotations

import gzip
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from orca_core.datafiles.unpickling import read_object_npy, read_pickle
from orca_core.errors import DataError

ARRAYS = {
    "uint8": np.arange(6, dtype="uint8").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "objects": np.array([np.arange(2.0), "text", None], dtype=object),
    "texts": np.array(["N", "~"]),
    "scalar": np.float64(2.5),
    "containers": {"a": [1, (2.5, "b")], 3: {4}, "bytes": b"\xff\x00"},
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_and_plain_containers_come_through(tmp_path, name, protocol):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(ARRAYS[name], protocol=protocol))
    read = read_pickle(path)
    as_items = list if name == "objects" else lambda value: value
    np.testing.assert_equal(as_items(read), as_items(ARRAYS[name]))
    assert getattr(read, "dtype", None) == getattr(ARRAYS[name], "dtype", None)


def test_old_and_new_module_paths_of_numpy_are_read(tmp_path):
    array = np.arange(3)
    new = pickle.dumps(array, protocol=2)
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    for content in (new, old):
        (tmp_path / "x").write_bytes(content)
        assert read_pickle(tmp_path / "x").tolist() == [0, 1, 2]


def test_a_python_2_pickle_of_byte_strings_is_read_as_latin1(tmp_path):
    (tmp_path / "x").write_bytes(b"(dp0\nS'caf\\xe9'\np1\nI7\ns.")
    assert read_pickle(tmp_path / "x") == {"café": 7}
    assert read_pickle(tmp_path / "x", encoding="bytes") == {b"caf\xe9": 7}


class Runs:
    """Pickles to a call of a function, as any program can be hidden in a pickle."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


class Harmless:
    pass


def traps(mark: Path) -> dict[str, tuple[object, str]]:
    return {
        "os.system": (Runs(os.system, f"touch {mark}"), "posix.system"),
        "eval": (Runs(eval, f"open({str(mark)!r}, 'w')"), "builtins.eval"),
        "getattr": (Runs(getattr, "", "join"), "builtins.getattr"),
        "a class": (Harmless(), "Harmless"),
        "a known container": (OrderedDict(a=1), "collections.OrderedDict"),
    }


@pytest.mark.parametrize("form", ["plain", "gzip", "npy", "inside an array"])
@pytest.mark.parametrize("trap", traps(Path("/")))
def test_anything_else_is_refused_by_its_name_and_not_run(tmp_path, trap, form):
    mark = tmp_path / "was-run"
    content, name = traps(mark)[trap]
    path = tmp_path / "x"
    if form == "npy":
        np.save(tmp_path / "x.npy", np.array({"data": content}, dtype=object), allow_pickle=True)
        path = tmp_path / "x.npy"
    else:
        held = np.array([content], dtype=object) if form == "inside an array" else {"data": content}
        packed = pickle.dumps(held)
        path.write_bytes(gzip.compress(packed) if form == "gzip" else packed)
    with pytest.raises(DataError, match=rf"{path}: names .*{name.partition('.')[2] or name}.*, which is refused and was not run"):
        read_object_npy(path) if form == "npy" else read_pickle(path)
    assert not mark.exists()


def test_codecs_are_not_looked_up_by_any_name(tmp_path):
    (tmp_path / "x").write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(DataError, match="bytes in 'rot13'"):
        read_pickle(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps(np.arange(100.0))[:-50], gzip.compress(pickle.dumps([1] * 500))[:-20]],
    ids=["empty", "no pickle", "cut", "cut gzip"],  # gzip's bytes hold the time: as an id they would differ between the processes of a run
)
def test_a_damaged_pickle_is_said_to_be_one(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=r"x: must be a complete pickle"):
        read_pickle(tmp_path / "x")


def test_a_damaged_npy_of_objects_is_said_to_be_one(tmp_path):
    np.save(tmp_path / "x.npy", np.array(["a", None], dtype=object))
    content = (tmp_path / "x.npy").read_bytes()
    for damaged in (content[:20], content[:-5], b"no npy"):
        (tmp_path / "x.npy").write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.npy: must be a complete"):
            read_object_npy(tmp_path / "x.npy")
