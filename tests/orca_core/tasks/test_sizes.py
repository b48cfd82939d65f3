"""Sizes that files declare are held against memory and disk before anything is allocated, and nothing outside of a file is read."""

from __future__ import annotations

import gzip
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from published import WRITERS
from scipy.io import savemat

from orca_core.datafiles import room
from orca_core.datafiles.unpickling import read_pickle
from orca_core.errors import DataError
from orca_core.proxies import find_proxy
from orca_core.tasks import find_task
from orca_core.workbench import Workbench

MIB = 1 << 20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def npy_header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(root: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(root / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return root / "a.npz"


def hdf5(root: Path, create: Callable[[h5py.File], object]) -> None:
    with h5py.File(root / "ReacDiff_Nu0.5_Rho1.0.hdf5", "w") as file:
        create(file)


# Each: files of a few bytes that declare far more, what is loaded, and what is said


def small_files(root: Path) -> dict[str, tuple[Callable[[], object], str, str]]:
    labels = npy_header((4,), "<i8") + np.arange(4).tobytes()
    huge = npy_header((10**6, 10**6))
    zeros = bytes(16 * MIB)
    return {
        "npz header": (
            lambda: npz(root, x=huge, y=labels),
            f"npz:{root}/a.npz",
            r"x must have 8000000000\d+ bytes as its header says, but has \d+",
        ),
        "npz bomb": (
            lambda: npz(root, x=npy_header((4, MIB), "<f4") + zeros, y=labels),
            f"npz:{root}/a.npz",
            r"must take at most 4\.0 MiB, the limit that was set, but declares 16\.0 MiB",
        ),
        "npz bomb of features": (
            lambda: npz(root, x=npy_header((4, MIB), "<f4") + zeros, y=labels),
            f"proxy npz:{root}/a.npz",
            r"must take at most 4\.0 MiB.* declares 16\.0 MiB",
        ),
        "npy": (
            lambda: (WRITERS["nb360/ninapro"](root), (root / "ninaPro/ninapro_val.npy").write_bytes(huge)),
            "nb360/ninapro",
            r"ninapro_val\.npy: must be a complete npy file.*truncated: 128 of 8000000000128 bytes",
        ),
        "gzip bomb": (
            lambda: (root / "s2_cifar100.gz").write_bytes(gzip.compress(pickle.dumps({"train": {"images": [zeros] * 1}}), 1)),
            "nb360/spherical",
            r"s2_cifar100\.gz: must take at most 4\.0 MiB.* declares 16\.0 MiB",
        ),
        "gzip bomb of many parts": (
            lambda: (root / "s2_cifar100.gz").write_bytes(gzip.compress(pickle.dumps([zeros[: MIB + i] for i in range(32)]), 1)),
            "nb360/spherical",
            r"s2_cifar100\.gz: must take at most 4\.0 MiB.* declares \d+\.\d MiB",
        ),
        "mat 5 bomb": (
            lambda: [
                savemat(
                    root / f"piececonst_r421_N1024_smooth{n}.mat",
                    dict.fromkeys(("coeff", "sol"), np.zeros((4, 512, 512))),
                    do_compression=True,
                )
                for n in (1, 2)
            ],
            "nb360/darcy",
            r"smooth1\.mat: coeff: must take at most 4\.0 MiB.* declares \d+\.\d MiB",
        ),
        "hdf5 wide": (
            lambda: hdf5(root, lambda file: file.create_dataset("tensor", (10, 3, 10**9), "f4", chunks=(1, 1, 1000))),
            "pdebench/rd",
            r"tensor: must be written, but only 0 of the 30000000 blocks that its shape \(10, 3, 1000000000\) needs were",
        ),
        "hdf5 never written": (
            lambda: hdf5(root, lambda file: file.create_dataset("tensor", (20, 101, 32), "f4")),
            "pdebench/rd",
            r"tensor: must be written, but 258560 bytes are declared and 0 are stored",
        ),
        "hdf5 chunks": (
            lambda: hdf5(root, tensor_of((10, 3, MIB // 2), (1, 3, MIB // 2))),
            "pdebench/rd",
            r"tensor: must take at most 4\.0 MiB.* declares 6\.0 MiB",
        ),
        "hdf5 decoded": (
            lambda: hdf5(root, tensor_of((400, 3, 2048), (9, 3, 999))),
            "pdebench/rd",
            r"must take at most 4\.0 MiB.* declares 6\.2 MiB",
        ),
    }


def tensor_of(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Callable[[h5py.File], object]:
    return lambda file: file.create_dataset("tensor", data=np.zeros(shape, "f4"), chunks=chunks, compression=1)


def load(name: str) -> object:
    return find_proxy(name.removeprefix("proxy ")).load() if name.startswith("proxy ") else find_task(name).load(0)


@pytest.mark.parametrize("case", small_files(Path()))
def test_what_a_small_file_declares_is_refused_before_it_is_allocated(tmp_path, use_data, case):
    write, name, message = small_files(tmp_path)[case]
    write()
    bench = use_data(tmp_path, cache=tmp_path / "cache")
    bench.max_data_gib = 4 / 1024
    before = peak_bytes()
    with pytest.raises(DataError, match=message) as error:
        load(name)
    assert str(tmp_path) in str(error.value)
    assert peak_bytes() - before < 48 * MIB
    kept = sum(path.stat().st_blocks * 512 for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept < MIB


def test_without_a_bound_sizes_are_held_against_what_is_free(tmp_path, use_data, monkeypatch):
    use_data(tmp_path)
    monkeypatch.setattr(room, "free_memory", lambda: 2 * MIB)
    with pytest.raises(DataError, match=r"a: must take at most 1\.0 MiB, half of the memory that is free, but declares 1\.5 MiB"):
        room.require_memory("a", "", 3 * MIB // 2)
    room.require_memory("a", "", MIB)  # so little is not held against anything: data sets have a million such files
    with pytest.raises(DataError, match=r"a: must take at most .*, what is free on the disk of .*, but declares 1024\.0 TiB"):
        room.require_disk("a", tmp_path, 1 << 50)
    room.require_disk("a", tmp_path, 1)


def test_what_is_written_already_counts_once(tmp_path, monkeypatch):
    class Usage:
        free = 3 * MIB

    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: Usage)
    (tmp_path / "first.npy").write_bytes(b"a" * 2 * MIB)
    room.require_disk("a", tmp_path, 5 * MIB)
    with pytest.raises(DataError, match="declares"):
        room.require_disk("a", tmp_path, 5 * MIB + 4096)


def test_free_memory_is_bounded_by_the_limit_of_the_process():
    free = room.free_memory()
    assert 0 < free < 1 << 50
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 512 * MIB, hard))
    try:
        assert room.free_memory() <= 512 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("version", [0, 1])
def test_free_memory_is_bounded_by_the_control_group_less_its_cached_files(tmp_path, monkeypatch, version):
    monkeypatch.setattr(room, "CONTROL_GROUP", tmp_path)
    most, used, statistics = (tmp_path / name for name in room._CONTROL_GROUPS[version])
    most.parent.mkdir(exist_ok=True)
    most.write_text(f"{100 * MIB}\n")
    used.write_text(f"{90 * MIB}\n")
    statistics.write_text(f"anon 5\ninactive_file {20 * MIB}\nactive_file {10 * MIB}\n")
    assert room.free_memory() == 40 * MIB
    most.write_text("max\n")
    assert room.free_memory() > 40 * MIB


def test_a_bound_must_be_greater_than_0():
    with pytest.raises(ValueError, match="max_data_gib must be greater than 0"):
        Workbench(max_data_gib=0)


PICKLES = {
    "bytearray": (b"cbuiltins\nbytearray\n(I4000000000\ntR.", "a bytearray of int"),
    "ndarray": (b"cnumpy\nndarray\n((I100000\nI100000\nttR.", "TypeError"),
    "reconstruct": (b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I4000000000\ntVb\ntR.", "without values"),
    "bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b"abc.", "must take at most"),
    "memo": (b"\x80\x02]r\xff\xff\xff\x7f.", ""),
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_of_a_few_bytes_takes_little_memory(tmp_path, case):
    content, message = PICKLES[case]
    (tmp_path / "x.pkl").write_bytes(content)
    before = peak_bytes()
    if message:
        with pytest.raises(DataError, match=rf"{tmp_path}/x\.pkl: .*({message})"):
            read_pickle(tmp_path / "x.pkl")
    else:
        assert read_pickle(tmp_path / "x.pkl") == []
    assert peak_bytes() - before < 64 * MIB


def test_one_list_held_many_times_over_is_counted_before_it_is_expanded(root):
    held: object = [1] * 10
    for _ in range(12):
        held = [held] * 10
    (root / "cifar-100-python").mkdir()
    for part in ("train", "test"):
        (root / "cifar-100-python" / part).write_bytes(pickle.dumps({"data": held, "fine_labels": [0, 1]}))
    with pytest.raises(DataError, match=r"train: data: must take at most .* declares 72\.8 TiB"):
        find_task("nb360/cifar100").load(0)


@pytest.mark.parametrize("content", [b"]" * 100000 + b"a" * 99999, b"]q\x01h\x01a"], ids=["deep", "of itself"])
def test_lists_without_an_end_are_refused(root, content):
    (root / "cifar-100-python").mkdir()
    for part in ("train", "test"):
        (root / "cifar-100-python" / part).write_bytes(b"\x80\x02}U\x04data" + content + b"sU\x0bfine_labels]s.")
    with pytest.raises(DataError, match=r"cifar-100-python/train: .*(nested too deeply|must be \(n, d\))"):
        find_task("nb360/cifar100").load(0)


@pytest.mark.parametrize("label", [10**12, 100, -1])
def test_a_class_label_builds_no_model_of_its_size(root, label):
    WRITERS["nb360/cifar100"](root)
    path = root / "cifar-100-python/train"
    held = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**held, "fine_labels": [label, *held["fine_labels"][1:]]}))
    with pytest.raises(DataError, match=rf"fine_labels: must be whole numbers from 0 to 99, as published, but got \[{label}\]"):
        find_task("nb360/cifar100").load(0)


def test_a_wav_is_not_allocated_by_its_header(root):
    WRITERS["nb360/fsd50k"](root)
    path = root / "chunks/val/1_0.wav"
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", 3 << 30)
    path.write_bytes(content)
    before = peak_bytes()
    with pytest.raises(DataError, match=r"1_0\.wav: must be a complete \.wav file"):
        find_task("nb360/fsd50k").load(0)
    assert peak_bytes() - before < 256 * MIB


# Other files


@pytest.mark.parametrize("kind", ["storage", "link", "virtual"])
def test_hdf5_reads_no_other_file(tmp_path, use_data, kind):
    use_data(tmp_path)
    values = np.random.default_rng(0).normal(size=(20, 101, 32)).astype("f4")
    (tmp_path / "outside.raw").write_bytes(values.tobytes())
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file["tensor"] = values

    def create(file: h5py.File) -> None:
        if kind == "storage":
            file.create_dataset("tensor", values.shape, "f4", external=[(str(tmp_path / "outside.raw"), 0, values.nbytes)])
        elif kind == "link":
            file["tensor"] = h5py.ExternalLink(str(tmp_path / "outside.h5"), "tensor")
        else:
            layout = h5py.VirtualLayout(values.shape, "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "outside.h5"), "tensor", values.shape)
            file.create_virtual_dataset("tensor", layout)

    hdf5(tmp_path, create)
    with pytest.raises(DataError, match=r"ReacDiff_Nu0\.5_Rho1\.0\.hdf5: /?tensor: must (be|have its values) in the file itself"):
        find_task("pdebench/rd").load(0)


def test_a_part_of_a_file_that_was_never_written_is_told(tmp_path, use_data):
    use_data(tmp_path)

    def create(file: h5py.File) -> None:
        tensor = file.create_dataset("tensor", (20, 101, 32), "f4", chunks=(5, 101, 32), compression="gzip")
        tensor[:15] = np.random.default_rng(0).normal(size=(15, 101, 32))

    hdf5(tmp_path, create)
    with pytest.raises(DataError, match="only 3 of the 4 blocks"):
        find_task("pdebench/rd").check_files()


def test_a_compressed_matlab_element_is_measured_as_it_unpacks(tmp_path, use_data):
    """Its outer tag tells the compressed size alone."""
    from orca_core.datafiles.matlab import _measure_elements

    savemat(tmp_path / "a.mat", {"a": np.zeros((1000, 1000))}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 100_000
    assert 8e6 <= _measure_elements(tmp_path / "a.mat") < 8.1e6
