"""Published files are decoded once, into a cache by their content, however many processes want them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published import WRITERS

from orca_core.datafiles import digests
from orca_core.datafiles.decoding import CHECKS, decode_once
from orca_core.datafiles.digests import digest_content
from orca_core.errors import DataError
from orca_core.tasks import find_task
from orca_core.workbench import Workbench

NINA, LABEL = "ninaPro/ninapro_val.npy", "ninaPro/label_test.npy"


def add_one(root: Path, path: str) -> None:
    """Change the values of a file."""
    np.save(root / path, np.load(root / path) + 1)


def test_files_are_decoded_once_and_again_when_their_content_changes(root):
    WRITERS["nb360/ninapro"](root)
    spec = find_task("nb360/ninapro")
    before = spec.load().valid.x.copy()
    decode_once(spec, lambda out: pytest.fail("decoded again"))
    add_one(root, NINA)
    assert np.allclose(spec.load().valid.x, before + 1, atol=1e-5)


def test_decoded_data_are_mapped_and_what_is_done_to_them_reaches_no_file(root):
    WRITERS["nb360/ninapro"](root)
    spec = find_task("nb360/ninapro")
    first = spec.load().test.x
    assert isinstance(first.base, np.memmap)
    before = first.copy()
    torch.from_numpy(first).add_(1)
    assert (spec.load().test.x == before).all()


def test_a_sky_file_that_moves_is_another_data_set(root):
    WRITERS["nb360/cosmic"](root)
    folder = root / "cosmic/npy_test/f435w/1000"
    spec = find_task("nb360/cosmic")
    before, images = spec.digest(), spec.load().test.content.copy()
    (folder / "with_sky/sky.npy").rename(folder / "without/sky.npy")
    after = spec.digest()
    assert after != before
    assert np.array_equal(spec.load().test.content, images)
    for part in ("train", "test"):  # with one beside all images, as published, the digest is that of version 0.1
        for name in ("with_sky", "without"):
            np.save(root / f"cosmic/npy_{part}/f435w/1000/{name}/sky.npy", np.arange(9.0))
    Workbench.current().clear()
    assert spec.digest() == digest_content(spec._label(has_content=True), spec.files())


def test_a_decoding_that_fails_leaves_nothing(root, tmp_path, use_data):
    use_data(root, cache=tmp_path / "cache")
    WRITERS["nb360/ninapro"](root)
    add_one(root, LABEL)
    with pytest.raises(DataError):
        find_task("nb360/ninapro").load()
    assert [path.suffix for path in (tmp_path / "cache" / "decoded").iterdir()] == [".lock"]


def test_processes_that_decode_at_once_decode_once(root, tmp_path, use_data):
    use_data(root, cache=tmp_path / "cache")
    WRITERS["nb360/ninapro"](root)
    code = (
        "from orca_core.tasks import find_task\n"
        "from orca_core.tasks.nb360 import arrays\n"
        "decode = arrays._decode_ninapro\n"
        "def told(out):\n"
        "    print('decoded')\n"
        "    decode(out)\n"
        "arrays._decode_ninapro = told\n"
        "from orca_core import Workbench\n"
        f"with Workbench({str(root)!r}, {str(tmp_path / 'cache')!r}).use():\n"
        "    print(find_task('nb360/ninapro').load().valid.x.sum())"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].split() for process in processes]
    assert sum(lines.count("decoded") for lines in said) == 1
    assert len({lines[-1] for lines in said}) == 1


def test_what_a_killed_process_left_is_cleared_by_the_next(root, tmp_path, use_data):
    use_data(root, cache=tmp_path / "cache")
    WRITERS["nb360/ninapro"](root)
    spec = find_task("nb360/ninapro")
    left = tmp_path / "cache" / "decoded" / f"{spec.digest()[:32]}-{CHECKS}.partial"
    left.mkdir(parents=True)
    spec.load()
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_told(root, tmp_path, use_data):
    (tmp_path / "file").write_text("")
    use_data(root, cache=tmp_path / "file")
    WRITERS["nb360/ninapro"](root)
    with pytest.raises(DataError, match=r"must be a folder that can be written .*cache root"):
        find_task("nb360/ninapro").load()


def test_the_digest_of_a_large_file_is_kept_for_other_processes(tmp_path, use_data):
    bench = use_data(tmp_path, cache=tmp_path / "cache")
    path = tmp_path / "large"
    path.write_bytes(b"a" * (1 << 20))
    first = digest_content("x", (path,))
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_text("0" * 64)
    bench.clear()
    assert digest_content("x", (path,)) != first  # it was taken from there
    os.utime(path, ns=(1, 1))
    assert digest_content("x", (path,)) == first  # another time: taken anew


def test_whether_a_digest_is_known_is_found_out_without_reading(tmp_path, use_data, monkeypatch):
    use_data(tmp_path, cache=tmp_path / "cache")
    large, many = tmp_path / "large", tuple(tmp_path / str(number) for number in range(digests.MANY_FILES + 1))
    for file in (large, *many):
        file.write_bytes(b"a" * (1 << 20 if file is large else 1))
    assert [digests.is_known("x", files) for files in ((large,), many, many[:5])] == [False, False, True]
    digest_content("x", (large,))
    digest_content("x", many)
    assert [digests.is_known("x", files) for files in ((large,), many)] == [True, True]
    os.utime(large, ns=(1, 1))
    assert not digests.is_known("x", (large,))


def test_many_files_are_looked_at_once_in_a_process(tmp_path):
    files = tuple(tmp_path / str(number) for number in range(digests.MANY_FILES + 1))
    for file in files:
        file.write_bytes(b"a")
    first = digest_content("many", files)
    assert digest_content("many", files) == first
    assert digest_content("other", files) != first
    Workbench.current().clear()
    files[7].write_bytes(b"bb")
    assert digest_content("many", files) != first


# reference_data, and the hooks of fine-tuning
