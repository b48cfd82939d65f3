"""FSD50K (Fonseca et al. 2022): sounds of 1 s, cut from clips, as mel spectrograms; 200 labels."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import struct
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from orca_core.datafiles.decoding import Decoding, decode_once
from orca_core.datafiles.expected import ExpectedFile, refuse
from orca_core.datafiles.file_lists import find_below, find_named_files
from orca_core.datafiles.reading import read_text, reading
from orca_core.datafiles.room import require_memory
from orca_core.errors import Fault
from orca_core.seeding import derive, generator
from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

RATE = 22050
"""Samples per second; a chunk is one second long."""

FFT, WINDOW, HOP, BANDS = 1920, 661, 220, 96
FRAMES = 1 + RATE // HOP + 1
"""Of one second, and an empty frame after them."""

PARTS = ("tr", "val", "eval")

CLIPS, CHUNKS = 36_796, (71_000, 201_000)
"""Clips of train, of each of which a chunk trains; chunks of validation and test: 9.9 and 27.9 hours of sound in steps of half a second."""

BLOCK = 256
"""Sounds that are in memory at once."""

_ABOUT = f"mel spectrograms of one second at {RATE} Hz in dB, each at mean 0, then an empty frame"

_COLUMNS = "columns files, labels, ext: a wav (data/...), its labels, its clip"
FILES = (
    *(
        ExpectedFile(f"chunks/{part}.csv", "csv", (), _COLUMNS, size, "NAS-Bench-360")
        for part, size in (("tr", "24 GB with its wavs"), ("val", ""), ("eval", ""))
    ),
    ExpectedFile("chunks/lbl_map.json", "json", (), "label -> number, 200", "", "NAS-Bench-360"),
    ExpectedFile("noise_22050", "folder", (), "*.wav, 22050 Hz, mono: background sounds", "", "NAS-Bench-360"),
)


def find_files() -> tuple[Path, ...]:
    """The tables, the label map, the wavs that the tables name, and the background sounds.

    Raises:
        DataError: If wavs are missing.
    """
    tables = tuple(file.find() for file in FILES[:4])
    return (*tables, *find_named_files(tables[:3], _list_wavs), *sorted(FILES[4].find().glob("*.wav")))


def _list_wavs(table: Path) -> list[Path]:
    return [wav for wav, _, _ in _read_rows(table)]


def _read_rows(table: Path) -> list[tuple[Path, list[str], str]]:
    """Wav, labels and clip of each row of a table. The first four characters of a path are replaced by the data root."""
    content = read_text(table)
    with reading(table, "a complete .csv table"):
        reader = csv.DictReader(io.StringIO(content))
        if missing := {"files", "labels", "ext"} - set(reader.fieldnames or ()):
            refuse([Fault(", ".join(sorted(missing)), "must be a column", reader.fieldnames).text(str(table))])
        rows = list(reader)
    if cut := [number for number, row in enumerate(rows, start=1) if None in row or None in row.values()]:
        refuse([Fault(f"row {cut[0]}", "must have an entry for each column", rows[cut[0] - 1], "Is the file truncated?").text(str(table))])
    found = [(row["files"], row["labels"].split(","), row["ext"]) for row in rows]
    if not found:
        refuse([Fault("", "must have rows", Fault.ABSENT).text(str(table))])
    root = Workbench.current().data_root
    return [
        (find_below(root, name[4:].lstrip("/"), table, f"row {number}"), names, clip)
        for number, (name, names, clip) in enumerate(found, start=1)
    ]


class MaskAndMix:
    """Training spectrograms with background sounds mixed in, and with bands and times masked, each with a probability.

    Args:
        noise: (m, 1, bands, frames) background spectrograms; with m = 0 nothing is mixed in.
    """

    def __init__(self, noise: np.ndarray) -> None:
        self.noise = noise

    def __call__(self, batch: Tensor, draws: torch.Generator) -> Tensor:
        import torch

        n, _, bands, frames = batch.shape
        mixed = batch.clone()
        if len(self.noise):
            share = 0.5 * torch.rand(n, generator=draws) * (torch.rand(n, generator=draws) < 0.75)
            chosen = torch.randint(len(self.noise), (n,), generator=draws)
            background = torch.from_numpy(self.noise[chosen.numpy()]).to(batch)
            mixed += share.view(n, 1, 1, 1).to(batch) * (background - batch)
        masked = torch.rand(n, generator=draws) < 0.5
        for _ in range(2):
            for size, most, axis in ((bands, int(0.15 * bands), 2), (frames, int(0.2 * frames), 3)):
                width = torch.randint(most + 1, (n,), generator=draws)
                start = (torch.rand(n, generator=draws) * (size - width + 1)).long()
                index = torch.arange(size)
                hidden = (index >= start[:, None]) & (index < (start + width)[:, None]) & masked[:, None]
                shape = (n, 1, size, 1) if axis == 2 else (n, 1, 1, size)
                mixed = mixed.masked_fill(hidden.view(shape).to(batch.device), 0.0)
        return mixed


def load_fsd50k(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 1, 96, 102) mel spectrograms in dB, each at mean 0; y (n, labels) 0 or 1.

    Training uses one chunk of each clip, drawn by the seed; validation and test use all, and average a clip's logits.
    Background sounds and masks are drawn again in each epoch. Differs from the reference, which draws them once.
    """
    import numpy as np

    arrays, _ = decode_once(spec, _decode)
    draws = np.random.Generator(np.random.PCG64(derive(split_seed, "data-draws")))

    def one_of_each(part: str) -> Split:
        order = draws.permutation(len(arrays[f"{part}_clip"]))
        _, first = np.unique(arrays[f"{part}_clip"][order], return_index=True)
        rows = np.sort(order[first])
        return Split(arrays[f"{part}_x"][rows], arrays[f"{part}_y"][rows])

    def all_of_each(part: str) -> Split:
        return Split(arrays[f"{part}_x"], arrays[f"{part}_y"], arrays[f"{part}_clip"])

    augment = MaskAndMix(arrays["noise"])
    test = all_of_each("eval")
    numbers = _read_label_numbers(FILES[3].find())
    answers = Answers("multilabel", tuple(name for name, _ in sorted(numbers.items(), key=lambda item: item[1])))
    preparation = Preparation(ArrayInputs((1, BANDS, FRAMES), about=_ABOUT), answers)
    if not reference:
        return TaskData(one_of_each("tr"), all_of_each("val"), test, None, augment=augment, preparation=preparation)
    import torch

    parts = one_of_each("tr"), one_of_each("val")
    x = torch.from_numpy(np.concatenate([part.x for part in parts]))
    once = augment(x, generator(split_seed, "data-draws")).numpy()
    return TaskData(Split(once, np.concatenate([part.y for part in parts])), test, test, None, preparation=preparation)


def _decode(out: Decoding) -> None:
    """All chunks of one second; those of another length are left out, as in the reference."""
    import numpy as np

    numbers = _read_label_numbers(FILES[3].find())
    for part, table in zip(PARTS, FILES[:3], strict=True):
        rows = [row for row in _read_rows(table.find()) if len(_read_sound(row[0])) // HOP == RATE // HOP]
        if not rows:
            refuse([Fault("files", "must name sounds one second long", Fault.ABSENT).text(str(table.find()))])
        x = out.empty(f"{part}_x", (len(rows), 1, BANDS, FRAMES))
        y = np.zeros((len(rows), len(numbers)))
        for number, (_, names, _) in enumerate(rows):
            if unknown := [name for name in names if name not in numbers]:
                refuse([Fault("labels", f"must be in {FILES[3].find().name}", unknown).text(str(table.find()))])
            y[number, [numbers[name] for name in names]] = 1
        _fill(x, (_read_sound(path) for path, _, _ in rows))
        _, clip = np.unique([clip for _, _, clip in rows], return_inverse=True)
        out.save(f"{part}_y", y)
        out.save(f"{part}_clip", clip, "int64")
    sounds = [_read_sound(path) for path in sorted(FILES[4].find().glob("*.wav"))]
    seconds = [sound[start : start + RATE] for sound in sounds for start in range(0, len(sound) - RATE + 1, RATE)]
    noise = out.empty("noise", (len(seconds), 1, BANDS, FRAMES)) if seconds else np.zeros((0, 1, BANDS, FRAMES), dtype=np.float32)
    _fill(noise, seconds)
    if not seconds:
        np.save(out.folder / "noise.npy", noise)


def _fill(target: np.ndarray, sounds: Iterable[np.ndarray]) -> None:
    """Write the spectrograms of sounds of one second into (n, 1, bands, frames), computed on all processors of this process."""
    mel, sounds = make_mel_spectrogram(), iter(sounds)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # most of the time numpy computes, and other threads may
        for start in range(0, len(target), BLOCK):
            for number, spectrum in enumerate(pool.map(mel, itertools.islice(sounds, BLOCK)), start):
                target[number, 0] = spectrum


def make_mel_spectrogram() -> Callable[[np.ndarray], np.ndarray]:
    """A function from one second of sound (22050,) to (bands, frames): dB of mel bands at mean 0, then a frame of zeros.

    As in torchaudio: frames are centred, sound is reflected at its ends, and the Hann window is centred in the FFT's.
    """
    import numpy as np
    from transformers.audio_utils import mel_filter_bank, power_to_db, window_function

    filters = mel_filter_bank(1 + FFT // 2, BANDS, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk")
    window = window_function(WINDOW, "hann", frame_length=FFT).astype(np.float64)

    def mel(sound: np.ndarray) -> np.ndarray:
        # To the bits `transformers.audio_utils.spectrogram`, which transforms one frame after the other and takes twice as long.
        padded = np.pad(sound, FFT // 2, mode="reflect").astype(np.float64)
        frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
        transformed = np.fft.rfft(frames * window).astype(np.complex64)
        power = np.abs(transformed, dtype=np.float64) ** 2.0
        decibels = power_to_db(np.maximum(1e-10, np.dot(filters.T, power.T))) + 75
        return np.pad(decibels - decibels.mean(), ((0, 0), (0, 1))).astype(np.float32)

    return mel


def _read_sound(path: Path) -> np.ndarray:
    """Samples of a wav in [-1, 1], repeated until they last a second."""
    import numpy as np
    from scipy.io import wavfile

    with reading(path, "a complete .wav file"), warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
        require_memory(path, "", path.stat().st_size)
        content = path.read_bytes()
        _require_whole_chunks(content)
        # From memory: from a file scipy allocates as much as the header claims.
        rate, samples = wavfile.read(io.BytesIO(content))
    if rate != RATE or samples.ndim != 1 or not len(samples):
        refuse([Fault("", f"must be mono at {RATE} Hz", (rate, samples.shape)).text(str(path))])
    scaled = samples / (np.iinfo(samples.dtype).max + 1.0) if samples.dtype.kind == "i" else samples.astype(np.float64)
    if not np.isfinite(scaled).all():
        refuse([Fault("", "must have no NaN and no infinite value", Fault.ABSENT, "Get it again.").text(str(path))])
    return np.tile(scaled, -(-RATE // len(scaled)))[:RATE] if len(scaled) < RATE else scaled


def _require_whole_chunks(content: bytes) -> None:
    """Check that the chunks of a wav are as long as they claim; scipy returns what there is.

    Raises:
        ValueError: If one is not.
    """
    order, at = ">" if content[:4] == b"RIFX" else "<", 12
    while at + 8 <= len(content) and content[:4] != b"RF64":  # whose sizes are in another place
        (size,) = struct.unpack(f"{order}I", content[at + 4 : at + 8])
        if at + 8 + size > len(content):
            raise ValueError(f"it is truncated: a chunk claims {size} bytes, but {len(content) - at - 8} are left")
        at += 8 + size + size % 2


def _read_label_numbers(path: Path) -> dict[str, int]:
    with reading(path, "a JSON file"):
        numbers = json.loads(read_text(path))
    expected = set(range(len(numbers))) if isinstance(numbers, dict) else set()
    if not expected or {number for number in numbers.values() if type(number) is int} != expected:
        refuse([Fault("", "must map labels to the numbers 0, 1 and so on", numbers).text(str(path))])
    return {str(name): int(number) for name, number in numbers.items()}
