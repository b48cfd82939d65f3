"""PSICOV: from features of a protein's chain to the distances between its residues (PDNET, Adhikari 2020)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.arrays import select_arrays
from orca_core.datafiles.decoding import Decoding, decode_once
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, refuse
from orca_core.datafiles.file_lists import find_below, find_named_files
from orca_core.datafiles.reading import read_text
from orca_core.datafiles.unpickling import read_object_npy, read_pickle
from orca_core.errors import DataError, Fault
from orca_core.seeding import derive
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WINDOW = 512
"""Side of inputs and targets, in residues and padding."""

PADDING = 5
"""Positions before the first and after the last residue."""

CAP = 16.0
"""Upper limit of training distances, in Angstrom."""

MAX_OTHER_RESIDUES = 0.5
"""Share of residues that may differ between the sequences of one protein's two files: unknown ones are written in several ways."""

VALID_SHARE = 100 / 3456

PARTS = {"train": "deepcov", "test": "psicov"}

FEATURES = (
    ArrayForm("ss", "3 l", "fiu"),
    ArrayForm("pssm", "l 22", "fiu"),
    ArrayForm("sa", "l", "fiu"),
    ArrayForm("entropy", "l", "fiu"),
    ArrayForm("ccmpred", "l l", "fiu"),
    ArrayForm("freecon", "l l", "fiu"),
    ArrayForm("potential", "l l", "fiu"),
)
FILES = tuple(
    ExpectedFile(f"protein/{name}.lst", "list", (), "first word of a line: the id of a protein", size, "NAS-Bench-360")
    for name, size in (("deepcov", "1.1 GB in all"), ("psicov", ""))
)
FOLDERS = tuple(
    ExpectedFile(f"protein/{name}/{kind}", "folder", (), about)
    for name in PARTS.values()
    for kind, about in (
        ("features", f"<id>.pkl, pickles of {'; '.join(form.text for form in FEATURES)}; values in (-100, 100)"),
        ("distance", "<id>-cb.npy, object arrays of l, sequence and distances (l, l) in Angstrom"),
    )
)


def find_files() -> tuple[Path, ...]:
    """The lists and all files that they name.

    Raises:
        DataError: If files are missing.
    """
    lists = tuple(file.find() for file in FILES)
    return (*lists, *find_named_files(lists, _list_files))


def _list_files(file: Path) -> list[Path]:
    return [path for protein in _read_ids(file) for path in _build_paths(file, protein)]


def _read_ids(file: Path) -> list[str]:
    ids = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
    if not ids:
        refuse([Fault("", "must name proteins", Fault.ABSENT).text(str(file))])
    return ids


def _build_paths(file: Path, protein: str) -> tuple[Path, Path]:
    folder = file.with_suffix("")
    features, distances = (f"features/{protein}.pkl", f"distance/{protein}-cb.npy")
    return find_below(folder, features, file), find_below(folder, distances, file)


class PairInputs:
    """Numbers of proteins (n, 1) -> their inputs (n, 57, side, side); 3000 inputs as such would take 180 GB.

    Channels: each of 27 residue features twice, for the column's residue and for the row's; then three maps of pairs.

    Args:
        features: (residues of all proteins, 27).
        maps: (pairs of all proteins, 3).
        ends: (proteins + 1,) where each protein's residues end.
        starts: (proteins, 2) first row and column of the window.
        side: Of the window.
    """

    def __init__(self, features: np.ndarray, maps: np.ndarray, ends: np.ndarray, starts: np.ndarray, side: int) -> None:
        import numpy as np

        self.features, self.maps, self.starts, self.side = features, maps, starts, side
        self.ends = ends
        self.pair_ends = np.concatenate([[0], np.cumsum(np.diff(ends) ** 2)])
        self.shape: tuple[int, ...] = (2 * features.shape[1] + maps.shape[1], side, side)

    def __call__(self, rows: Tensor) -> Tensor:
        import numpy as np
        import torch

        # What a protein is described by goes to the device, and is spread out there: it is a hundredth of the input.
        shape, on_cpu = (len(rows), *self.shape), rows.device.type == "cpu"
        # Of numpy's zeros, most of which nothing is written to, the system makes no pages.
        batch = torch.from_numpy(np.zeros(shape, dtype=np.float32)) if on_cpu else torch.zeros(shape, device=rows.device)
        for inputs, number in zip(batch, rows[:, 0].long().tolist(), strict=True):
            features = torch.from_numpy(self.features[self.ends[number] : self.ends[number + 1]]).to(rows.device).T
            length = features.shape[1]
            pairs = torch.from_numpy(self.maps[self.pair_ends[number] : self.pair_ends[number + 1]]).to(rows.device)
            singles = 2 * len(features)
            window, kept = _place_window(length, self.starts[number], self.side)
            inputs[:singles:2, *window] = features[:, None, kept[1]]  # of the column's residue
            inputs[1:singles:2, *window] = features[:, kept[0], None]  # of the row's
            inputs[singles:, *window] = pairs.T.unflatten(1, (length, length))[:, *kept]
        return batch


Region = tuple[slice, slice]


def _place_window(length: int, start: np.ndarray, side: int) -> tuple[Region, Region]:
    """Which region of the window a protein fills, and which of its map is seen, if the window starts at `start` of the padded map."""
    seen, kept = [], []
    for first in (int(start[0]), int(start[1])):
        low, high = max(PADDING - first, 0), min(PADDING - first + length, side)
        seen.append(slice(low, high))
        kept.append(slice(low + first - PADDING, high + first - PADDING))
    return (seen[0], seen[1]), (kept[0], kept[1])


def load_psicov(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 1) numbers of proteins, prepared to (57, window, window); y (n, 1, window, window) distances, at most 16 in train.

    The PSICOV proteins are the test part; 100 of 3456 of the others are validation, drawn by the seed. Positions outside of a protein
    are NaN in y: neither loss nor score sees them. Of a protein longer than the window, a part on the diagonal is seen. The targets are
    decoded once for each division into parts, and mapped.
    Differs from the reference, where padding is a target of 100 (in train 16), rows and columns are cropped independently, and the
    score assumes that every protein is as long as the first.
    """
    import numpy as np

    arrays, _ = decode_once(spec, _decode)
    ends, number_train = arrays["ends"], int(arrays["number_train"][0])
    lengths = np.diff(ends)
    draws = np.random.Generator(np.random.PCG64(derive(split_seed, "data-draws")))
    room = np.maximum(lengths + 2 * PADDING - WINDOW, 0)
    starts = draws.integers(0, room[:, None] + 1, (len(room), 2))
    if not reference:
        starts[:, 1] = starts[:, 0]
    # By content, as a protein may have another name in the other list.
    residues = (arrays["features"][start:end] for start, end in itertools.pairwise(ends))
    identities = np.array([[int.from_bytes(hashlib.blake2b(rows.tobytes(), digest_size=7).digest())] for rows in residues])
    inputs = PairInputs(arrays["features"], arrays["maps"], ends, starts, WINDOW)
    test = np.arange(number_train, len(lengths))
    train, valid = hold_out(np.zeros((number_train, 1)), VALID_SHARE, split_seed)
    if reference:
        train, valid = np.arange(number_train), test

    test_length = int(lengths[test[0]])

    def fill(y: np.ndarray, rows: np.ndarray, cap: float) -> None:
        """The targets (n, 1, window, window) of some proteins, whose distances end at a cap."""
        for target, number in zip(y[:, 0], rows, strict=True):
            target[:] = min(100.0, cap) if reference else np.nan
            length = lengths[number]
            distances = arrays["distances"][inputs.pair_ends[number] : inputs.pair_ends[number + 1]].reshape(length, length)
            seen, kept = _place_window(length, starts[number], WINDOW)
            target[seen] = np.minimum(distances[kept], cap)
            if reference and rows is test:
                target[PADDING + test_length :, :] = target[:, PADDING + test_length :] = np.nan

    parts = {"train": (train, CAP), "valid": (valid, np.inf), "test": (test, np.inf)}

    def write(out: Decoding) -> None:
        out.require_room(4 * WINDOW**2 * sum(len(rows) for rows, _ in parts.values()))
        for name, (rows, cap) in parts.items():
            fill(out.empty(name, (len(rows), 1, WINDOW, WINDOW)), rows, cap)

    described = [
        spec.digest(),
        str(reference),
        str(WINDOW),
        *(hashlib.sha256(part.tobytes()).hexdigest() for part in (train, valid, test, starts)),
    ]
    targets, _ = decode_once(_Targets(spec.name, hashlib.sha256(" ".join(described).encode()).hexdigest()), write)
    splits = (Split(rows[:, None].astype(np.float32), targets[name], content=identities[rows]) for name, (rows, _) in parts.items())
    return TaskData(*splits, None, prepare=inputs)


@dataclass(frozen=True)
class _Targets:
    """The targets of one division into parts, 1 MiB a protein: they stay on the node's disk, as they would take 4 GB of each process.

    Args:
        name: Of the task.
        key: Hash of what they depend on.
    """

    name: str
    key: str

    def digest(self) -> str:
        """Identifies them."""
        return self.key

    def has_known_digest(self) -> bool:
        """It needs no file to be read."""
        return True


def _decode(out: Decoding) -> None:
    """All proteins concatenated, those of train first."""
    import numpy as np

    proteins = [_build_paths(file.find(), protein) for file in FILES for protein in _read_ids(file.find())]
    lengths = [len(select_arrays(path, read_pickle(path), FEATURES)["sa"]) for path, _ in proteins]
    out.require_room(4 * (27 * sum(lengths) + 4 * sum(length**2 for length in lengths)))
    ends = np.cumsum([0, *lengths])
    pair_ends = np.cumsum([0, *(length**2 for length in lengths)])
    features, maps = out.empty("features", (int(ends[-1]), 27)), out.empty("maps", (int(pair_ends[-1]), 3))
    distances = out.empty("distances", (int(pair_ends[-1]),))
    for number, (path, distance_path) in enumerate(proteins):
        held = read_pickle(path)
        found = select_arrays(path, held, FEATURES)
        pairs = np.stack([found[name].ravel() for name in ("ccmpred", "freecon", "potential")], axis=1)
        singles = np.column_stack([found["ss"].T, found["pssm"], found["sa"], found["entropy"]])
        for name, values in (("features", singles), ("maps", pairs)):
            if not (np.abs(values) < 100).all():  # false for NaN, too
                refuse([Fault(name, "must be within (-100, 100) and not NaN", Fault.ABSENT, "Get the file again.").text(str(path))])
        features[ends[number] : ends[number + 1]] = singles
        maps[pair_ends[number] : pair_ends[number + 1]] = pairs
        distances[pair_ends[number] : pair_ends[number + 1]] = _read_distances(distance_path, lengths[number], held.get("seq")).ravel()
    out.save("ends", ends, "int64")
    out.save("number_train", np.array([len(_read_ids(FILES[0].find()))]), "int64")


def _letters(sequence: object) -> str:
    """A sequence as a text; it may be written as one, or as letters in a list or array."""
    return "".join(map(str, sequence)) if isinstance(sequence, Iterable) else ""


def _read_distances(path: Path, length: int, sequence: object) -> np.ndarray:
    """(l, l) Angstrom, at least 1; a residue's distance to itself is the mean of those to its neighbours.

    Args:
        path: The file.
        length: Residues of the protein.
        sequence: The sequence in its features; None if they have none.
    """
    import numpy as np

    held = read_object_npy(path)
    found = np.asarray(held[2], dtype=np.float64) if held.shape == (3,) else held
    if held.shape != (3,) or found.shape != (length, length) or length < 2:
        refuse([Fault("", f"must hold l, sequence and ({length}, {length}) distances", found.shape).text(str(path))])
    here, there = _letters(held[1]), _letters(sequence)
    if int(held[0]) != length or len(here) != length:
        rule = f"must have the length {length} of its features, and a sequence of that length"
        refuse([Fault("", rule, f"{int(held[0])} and {len(here)}").text(str(path))])
    if len(there) == length and sum(a != b for a, b in zip(here, there, strict=True)) > MAX_OTHER_RESIDUES * length:
        refuse([Fault("", "must have the sequence of its features", here, "Is it another protein's?").text(str(path))])
    if not np.isfinite(found).all() or found.max() > 500:
        raise DataError(f"{path}: must have distances of at most 500 Angstrom, and no NaN. Get the file again.")
    found = np.maximum(found, 1.0)
    inner = np.arange(1, length - 1)
    diagonal = (found[inner, inner - 1] + found[inner, inner + 1]) / 2
    found[inner, inner] = diagonal
    found[0, 0], found[-1, -1] = found[0, 1], found[-1, -2]
    return found
