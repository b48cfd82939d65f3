"""Pictures as tasks and proxies see them: their range, transparency and orientation, and that only pictures are opened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orca_core.datafiles.pictures import BACKGROUND, open_picture, read_square
from orca_core.errors import DataError
from orca_core.proxies import find_proxy
from orca_core.tasks import find_task

READERS = {
    "task": lambda folder: find_task(f"images:{folder}?size=8").load(0).train.x,
    "proxy": lambda folder: find_proxy(f"images:{folder}?size=8").load().inputs,
}


def write_two_classes(folder: Path, make, suffix: str = "png", number: int = 8) -> Path:
    """`make(class number, picture number)` is an array or picture."""
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            made = make(label, i)
            (made if isinstance(made, Image.Image) else Image.fromarray(made)).save(folder / name / f"{i}.{suffix}")
    return folder


@pytest.mark.parametrize(("dtype", "suffix"), [("uint16", "png"), ("uint16", "tif"), ("int32", "tif"), ("float32", "tif")])
@pytest.mark.parametrize("reader", READERS)
def test_grey_pictures_of_more_than_8_bits_keep_their_range(tmp_path, reader, dtype, suffix):
    """From 5000 to 40007 here: the least value becomes 0, the largest 255."""
    folder = write_two_classes(tmp_path / "deep", lambda label, i: np.full((10, 10), (5000, 40000)[label] + i, dtype), suffix)
    values = np.unique(READERS[reader](folder))
    assert set(values.tolist()) <= {0, 255}
    assert len(values) == 2
    folder = write_two_classes(tmp_path / "ramp", lambda label, i: np.full((10, 10), 1000 * (8 * label + i), dtype), suffix)
    assert set(np.unique(READERS[reader](folder)).tolist()) <= {17 * step for step in range(16)}


def test_the_scale_is_that_of_the_training_part(tmp_path):
    for part, values in (("train", (0, 1000)), ("test", (500, 5000))):
        write_two_classes(tmp_path / part, lambda label, i, values=values: np.full((10, 10), values[label], "uint16"))
    data = find_task(f"images:{tmp_path}?size=8").load(0)
    assert [np.unique(part.x).tolist() for part in (data.train, data.test)] == [[0, 255], [128, 255]]


def test_pictures_of_8_bits_and_of_more_are_not_mixed(tmp_path):
    write_two_classes(tmp_path, lambda label, i: np.full((10, 10), 10 * i, "uint16" if label else "uint8"))
    with pytest.raises(DataError, match=r"a/\d\.png: must have more than 8 bits like .*b/\d\.png.*convert one"):
        find_task(f"images:{tmp_path}").load(0)


def test_a_deep_picture_with_nan_is_refused(tmp_path):
    write_two_classes(tmp_path, lambda label, i: np.full((10, 10), np.nan if label and i == 3 else i, "float32"), "tif")
    with pytest.raises(DataError, match=r"b/3\.tif: must be a picture .*NaN"):
        find_task(f"images:{tmp_path}").load(0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_the_background(tmp_path, mode):
    """A black icon whose shape is in its alpha channel."""
    pixels = np.zeros((8, 8, 4), "uint8")
    pixels[:, :4, 3] = 255
    image = Image.fromarray(pixels, "RGBA")
    if mode == "P":
        image = image.quantize(4)
    image.convert(mode).save(tmp_path / "icon.png")
    seen = np.asarray(open_picture(tmp_path / "icon.png"))
    assert (seen[:, :4] == 0).all()
    assert (seen[:, 4:] == BACKGROUND).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_turned_upright(tmp_path, suffix, orientation):
    from PIL import ImageOps

    pixels = np.zeros((16, 24, 3), "uint8")
    pixels[:8, :8] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif)
    seen = open_picture(tmp_path / f"a.{suffix}")
    assert seen.size == ((16, 24) if orientation > 4 else (24, 16))
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert (np.asarray(ImageOps.exif_transpose(image).convert("RGB")) == np.asarray(seen)).all()


def test_exif_data_that_cannot_be_read_is_no_fault(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert open_picture(tmp_path / "a.jpg").size == (9, 9)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_with_eps_content_starts_no_program(tmp_path, monkeypatch, reader, suffix):
    """Pillow runs Ghostscript on EPS content, whatever the file is called."""
    (tmp_path / "bin").mkdir()
    gs = tmp_path / "bin" / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    folder = write_two_classes(tmp_path / "mine", lambda label, i: np.full((10, 10), 40 * label + i, "uint8"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    (folder / "a" / f"eps.{suffix}").write_bytes(eps)
    with pytest.raises(DataError, match=rf"eps\.{suffix}: must be a picture"):
        READERS[reader](folder)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("reader", READERS)
def test_pictures_that_are_all_the_same_are_refused(tmp_path, reader):
    folder = write_two_classes(tmp_path / "mine", lambda label, i: np.full((10, 10), 7, "uint8"))
    with pytest.raises(DataError, match="must be pictures that differ, but all 16 are the same once they are 8 x 8"):
        READERS[reader](folder)


def test_what_is_not_a_regular_file_is_refused(tmp_path):
    """Opening a FIFO would wait for ever."""
    folder = write_two_classes(tmp_path / "mine", lambda label, i: np.full((10, 10), 40 * label + i, "uint8"))
    os.mkfifo(folder / "a" / "x.png")
    for name in (f"images:{folder}", f"images:{folder}?size=8"):
        with pytest.raises(DataError, match=r"x\.png: must be a regular file, but is a FIFO"):
            find_task(name).load(0)
    os.remove(folder / "a" / "x.png")
    (folder / "a" / "x.png").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"x\.png: must be a regular file, but is a device"):
        find_proxy(f"images:{folder}").load()


def test_files_beside_the_pictures_are_left_out_with_a_warning(tmp_path):
    folder = write_two_classes(tmp_path / "mine", lambda label, i: np.full((10, 10), 40 * label + i, "uint8"))
    assert find_task(f"images:{folder}").notes == ()
    (first, *_) = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    (first / "x.heic").write_bytes(b"ftypheic")
    (first / ".hidden").write_text("")
    (note,) = find_task(f"images:{folder}").notes
    assert note.startswith("1 file is left out, without the name of a picture (.jpg ")
    assert note.endswith(f": {first.name}/x.heic")


def test_names_of_classes_must_be_utf_8(tmp_path):
    folder = write_two_classes(tmp_path / "mine", lambda label, i: np.full((10, 10), 40 * label + i, "uint8"))
    os.rename(os.fsencode(folder / "a"), os.fsencode(folder) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"caf\\xe9: must have a name in UTF-8"):
        find_task(f"images:{folder}")


def test_a_picture_larger_than_memory_is_refused_by_its_header(tmp_path, use_data):
    Image.new("L", (4000, 4000)).save(tmp_path / "a.png")
    use_data(tmp_path).max_data_gib = 0.05
    with pytest.raises(DataError, match=r"a\.png: must take at most 51\.2 MiB, the limit that was set, but declares 61\.0 MiB"):
        read_square(tmp_path / "a.png", 8)
