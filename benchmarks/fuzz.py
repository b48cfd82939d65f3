"""Reads data files that were damaged at random: every reader must read the file or refuse it, in bounded time and memory.

    python benchmarks/fuzz.py --cases 2000 --seed 0

Small files of every format are written. In each case one of them is damaged (bits flipped, cut, zeroed, spliced with itself or with another
file, its header overwritten) and the task or proxy is looked up, checked and loaded in a child process with limits of memory and time.
The child is forked from this process, which has imported the readers. Printed is, for each task and proxy, how many cases were read, were
refused with an error that names a file, ended in a traceback, crashed, did not end, or were refused with an error that names no file; and
the most memory that a case took. Exit code 1 if any case was neither read nor refused with the name of a file.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import h5py  # noqa: F401  # what readers import is imported once, before processes are forked
import numpy as np
import pyarrow.parquet as pq
import scipy.io
import transformers.audio_utils  # noqa: F401
from PIL import Image, ImageFile
from scipy.io import savemat

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "orca_core" / "tasks"))

from published import WRITERS, darcy

from orca_core.errors import OrcaError
from orca_core.proxies import find_proxy
from orca_core.tasks import find_task
from orca_core.workbench import Workbench

MEMORY_BYTES = 1 << 30
"""What a case may take beyond what the process has when it starts."""

SECONDS = 20
"""Longest time of a case."""

OUTCOMES = ("read", "refused", "traceback", "crash", "hang", "unnamed")


@dataclass
class Subject:
    """A task or proxy with small files of its own.

    Args:
        name: Of the task, or `proxy NAME`; `{root}` stands for the folder of its files.
        write: Writes the files into a folder.
        root: The folder, once they are written.
    """

    name: str
    write: Callable[[Path], object]
    root: Path = field(default_factory=Path)

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    def load(self) -> object:
        name = self.name.replace("{root}", str(self.root))
        return find_proxy(name.removeprefix("proxy ")).load() if name.startswith("proxy ") else find_task(name).load(0)


# Files


def write_pictures(folder: Path, number: int = 4) -> None:
    rng = np.random.default_rng(0)
    kinds = ("a.png", "b.jpg", "c.gif", "d.bmp", "e.webp", "f.tif", "g.ppm", "h.png")
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        for kind in kinds[: 2 * number]:
            mode, bands = ("RGBA", 4) if kind == "h.png" else ("RGB", 3)
            exif = Image.Exif()
            exif[0x0112] = 6
            options = {"exif": exif} if kind.endswith(("jpg", "webp", "tif")) else {}
            Image.fromarray(rng.integers(0, 256, (24, 20, bands)).astype("uint8"), mode).save(folder / name / kind, **options)


def write_deep_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            values = rng.integers(0, 40000, (20, 24))
            Image.fromarray(values.astype("uint16")).save(folder / name / f"{number}.png")
            Image.fromarray(values.astype("float32")).save(folder / name / f"{number}.tif")
            Image.fromarray(values.astype("int32")).save(folder / name / f"{number}i.tif")


def write_npz(root: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez_compressed(root / "a.npz", x=rng.normal(size=(40, 2, 12)).astype("f4"), y=np.arange(40) % 3)


def write_features(root: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(root / "a.npz", x=rng.normal(size=(20, 64)).astype("f4"), y=np.arange(20) % 3)


def write_csv(root: Path) -> None:
    rows = [f"{number},{'red' if number % 2 else 'blue'},{number * 0.5},{'ab'[number % 3 > 0]}" for number in range(40)]
    (root / "a.csv").write_text("size,colour,weight,label\n" + "\n".join(rows) + "\n")


def write_parquet(root: Path) -> None:
    import pyarrow as pa

    columns = {"size": [number * 0.5 for number in range(40)], "colour": ["red", "blue"] * 20, "label": ["a", "b"] * 20}
    pq.write_table(pa.table(columns), root / "a.parquet")


def write_tsv_series(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "ucr/Mine").mkdir(parents=True)
    for part in ("TRAIN", "TEST"):
        lines = ["\t".join(map(str, [number % 2, *rng.normal(size=16).round(3)])) for number in range(12)]
        (root / f"ucr/Mine/Mine_{part}.tsv").write_text("\n".join(lines))


def write_ts_series(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "ucr/Mine").mkdir(parents=True)
    for part in ("TRAIN", "TEST"):
        series = [":".join(",".join(map(str, rng.normal(size=9).round(3))) for _ in range(2)) for _ in range(12)]
        lines = [f"{values}:{('left', 'right')[number % 2]}" for number, values in enumerate(series)]
        (root / f"ucr/Mine/Mine_{part}.ts").write_text("@timeStamps false\n@classLabel true left right\n@data\n" + "\n".join(lines))


def write_domainnet(root: Path) -> None:
    write_pictures(root / "domainnet/sketch")
    pictures = sorted((root / "domainnet").rglob("*.*"))
    lines = [f"{path.relative_to(root / 'domainnet')} {number % 2}" for number, path in enumerate(pictures)]
    for part in ("train", "test"):
        (root / f"domainnet/sketch_{part}.txt").write_text("\n".join(lines))


def write_mat_73(root: Path) -> None:
    darcy(root, "v7.3")


def write_compressed_mat(root: Path) -> None:
    darcy(root)
    for path in root.glob("*.mat"):
        savemat(path, {key: scipy.io.loadmat(path)[key] for key in ("coeff", "sol")}, do_compression=True)


def write_cifar10(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "cifar-10-batches-py").mkdir()
    for number in range(1, 6):
        content = {"data": rng.integers(0, 256, (20, 192)).astype("uint8"), "labels": [i % 4 for i in range(20)]}
        (root / f"cifar-10-batches-py/data_batch_{number}").write_bytes(pickle.dumps(content, protocol=number - 1))


def write_tiny_imagenet(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("n01", "n02"):
        (root / "tiny-imagenet-200/train" / name / "images").mkdir(parents=True)
        for number in range(4):
            picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype("uint8"))
            picture.save(root / "tiny-imagenet-200/train" / name / "images" / f"{number}.JPEG")


def write_conll(root: Path) -> None:
    (root / "eng.train").write_text("-DOCSTART- -X- O O\n\n" + "EU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP I-MISC\n\n" * 8)


def write_reference_text(root: Path) -> None:
    np.save(root / "text_xs.npy", np.random.default_rng(0).normal(size=(20, 4, 64)).astype("f4"))
    np.save(root / "text_ys.npy", np.arange(20) % 3)


def write_texts(root: Path) -> None:
    rows = [(f"The {('cat', 'dog')[number % 2]} number {number}.", ("cats", "dogs")[number % 2]) for number in range(30)]
    (root / "a.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    (root / "a.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    (root / "a.jsonl").write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    for number, (text, label) in enumerate(rows[:6]):
        (root / "folder" / label).mkdir(parents=True, exist_ok=True)
        (root / "folder" / label / f"{number}.txt").write_text(text)


def text_only(suffix: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_texts(root)
        for path in [path for path in root.rglob("*") if path.is_file() and path.suffix != suffix]:
            path.unlink()

    return write


SUBJECTS: tuple[tuple[str, Callable[[Path], object]], ...] = (
    *WRITERS.items(),
    ("nb360/darcy", write_mat_73),
    ("nb360/darcy", write_compressed_mat),
    ("npz:{root}/a.npz", write_npz),
    ("csv:{root}/a.csv", write_csv),
    ("csv:{root}/a.parquet", write_parquet),
    ("images:{root}?size=16", write_pictures),
    ("images:{root}?size=16", write_deep_pictures),
    ("ucr/Mine", write_tsv_series),
    ("ucr/Mine", write_ts_series),
    ("domainnet/sketch?size=16", write_domainnet),
    ("proxy cifar10", write_cifar10),
    ("proxy tiny-imagenet", write_tiny_imagenet),
    ("proxy conll2003", write_conll),
    ("proxy reference-text", write_reference_text),
    ("proxy npz:{root}/a.npz", write_features),
    ("proxy text:{root}/a.csv", text_only(".csv")),
    ("proxy text:{root}/a.tsv", text_only(".tsv")),
    ("proxy text:{root}/a.jsonl", text_only(".jsonl")),
    ("proxy text:{root}/folder", text_only(".txt")),
)


# Damage


def flip_bits(content: bytearray, draws: random.Random, other: bytes) -> None:
    for _ in range(draws.choice((1, 1, 3, 20))):
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)


def cut(content: bytearray, draws: random.Random, other: bytes) -> None:
    del content[draws.randrange(len(content)) :]


def zero(content: bytearray, draws: random.Random, other: bytes) -> None:
    start, length = draws.randrange(len(content)), draws.choice((8, 64, 1024))
    content[start : start + length] = bytes(len(content[start : start + length]))


def splice(content: bytearray, draws: random.Random, other: bytes) -> None:
    source = draws.choice((bytes(content), other or bytes(content)))
    start, length = draws.randrange(len(source)), draws.choice((4, 32, 512))
    at = draws.randrange(len(content))
    content[at : at + draws.choice((0, length))] = source[start : start + length]


def edit_header(content: bytearray, draws: random.Random, other: bytes) -> None:
    for _ in range(draws.choice((1, 2, 4))):
        at = draws.randrange(min(len(content), draws.choice((32, 256, 2048))))
        value = draws.choice((b"\xff", b"\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80", b"9", b"(", b"\xff" * 8))
        content[at : at + len(value)] = value


DAMAGES = (flip_bits, cut, zero, splice, edit_header)


# Cases


@dataclass
class Tally:
    """What came of the cases of a subject.

    Args:
        outcomes: How often each was.
        most_bytes: Largest growth of resident memory in a case.
        bad: Descriptions of the cases that were neither read nor refused.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    most_bytes: int = 0
    bad: list[str] = field(default_factory=list)


def run(cases: int, seed: int, folder: Path, only: str = "", isolated: bool = True) -> dict[str, Tally]:
    """Damage a file and load it, `cases` times, one subject after the other.

    Args:
        cases: How many.
        seed: Decides every damage.
        folder: An empty folder to work in.
        only: Part of a subject's name; empty = all.
        isolated: Load each in a process of its own, with limits; otherwise in this one.
    """
    draws = random.Random(seed)
    subjects = [Subject(name, write) for name, write in SUBJECTS if only in name]
    for number, subject in enumerate(subjects):
        subject.root = folder / f"{number}"
        subject.root.mkdir()
        subject.write(subject.root)
    tallies: dict[str, Tally] = {}
    for case in range(cases):
        subject = subjects[case % len(subjects)]
        path = draws.choice(subject.files())
        other = draws.choice(draws.choice(subjects).files()).read_bytes()
        damage = draws.choice(DAMAGES)
        whole = path.read_bytes()
        content = bytearray(whole)
        if content:
            damage(content, draws, other)
        path.write_bytes(content)
        outcome, grown, text = run_case(subject, folder) if isolated else _run_here(subject, folder)
        path.write_bytes(whole)
        if outcome == "refused" and str(subject.root) not in text:
            outcome = "unnamed"
        tally = tallies.setdefault(f"{subject.name} ({subject.write.__name__})".replace("{root}/", ""), Tally())
        tally.outcomes[outcome] += 1
        tally.most_bytes = max(tally.most_bytes, grown)
        if outcome not in ("read", "refused"):
            tally.bad.append(f"case {case}, {damage.__name__} of {path.relative_to(folder)}: {outcome}\n{text}")
    return tallies


def run_case(subject: Subject, folder: Path) -> tuple[str, int, str]:
    """Outcome, growth of resident memory in bytes, and the traceback or error."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.close(reader)
        _load_and_exit(subject, folder, writer)
    os.close(writer)
    deadline, status = time.monotonic() + SECONDS, 0
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            os.close(reader)
            return "hang", 0, f"did not end in {SECONDS} s"
        time.sleep(0.001)
    with os.fdopen(reader, "rb") as pipe:
        report = pipe.read().decode(errors="replace")
    if os.WIFSIGNALED(status):
        return "crash", 0, f"signal {os.WTERMSIG(status)}"
    before, _, text = report.partition("\n")
    return OUTCOMES[os.WEXITSTATUS(status)], max(0, usage.ru_maxrss * 1024 - int(before or 0)), text


def _run_here(subject: Subject, folder: Path) -> tuple[str, int, str]:
    try:
        _load(subject, folder)
    except OrcaError as error:
        return "refused", 0, str(error)
    except Exception:
        return "traceback", 0, traceback.format_exc()
    return "read", 0, ""


def _load(subject: Subject, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=folder) as own, Workbench(subject.root, own).use():
        subject.load()


def _load_and_exit(subject: Subject, folder: Path, writer: int) -> NoReturn:
    code = 2
    try:
        used = [int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in Path("/proc/self/statm").read_text().split()[:2]]
        os.write(writer, f"{used[1]}\n".encode())
        resource.setrlimit(resource.RLIMIT_AS, (used[0] + MEMORY_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.simplefilter("ignore")
        _load(subject, folder)
        code = 0
    except OrcaError as error:
        code = 1
        os.write(writer, str(error).encode(errors="replace")[:4000])
    except BaseException:
        os.write(writer, traceback.format_exc().encode(errors="replace")[-4000:])
    finally:
        os._exit(code)


def _lines(tallies: dict[str, Tally]) -> Iterator[str]:
    total: Counter[str] = Counter()
    yield f"{'subject':<52}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES) + f"{'MiB':>8}"
    for name, tally in tallies.items():
        total += tally.outcomes
        yield f"{name:<52}" + "".join(f"{tally.outcomes[outcome]:>10}" for outcome in OUTCOMES) + f"{tally.most_bytes / 2**20:>8.0f}"
    most = max(tally.most_bytes for tally in tallies.values())
    yield f"{'all':<52}" + "".join(f"{total[outcome]:>10}" for outcome in OUTCOMES) + f"{most / 2**20:>8.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the name of a task or proxy")
    options = parser.parse_args()
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.init()
    with tempfile.TemporaryDirectory() as folder:
        tallies = run(options.cases, options.seed, Path(folder), options.only)
    print("\n".join(_lines(tallies)))
    bad = [text for tally in tallies.values() for text in tally.bad]
    print("\n".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
