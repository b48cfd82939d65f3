"""ECG (PhysioNet 2017): single-lead heart recordings of many lengths, cut into windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orca_core.datafiles.arrays import select_arrays
from orca_core.datafiles.decoding import Decoding, decode_once, refuse_not_finite
from orca_core.datafiles.expected import ArrayForm, ExpectedFile, refuse
from orca_core.datafiles.unpickling import read_pickle
from orca_core.errors import Fault
from orca_core.tasks.preparation import Answers, Preparation
from orca_core.tasks.raw_arrays import ArrayInputs
from orca_core.tasks.spec import Split, TaskData, TaskSpec
from orca_core.tasks.splitting import stratified_order
from orca_core.tasks.validation import hold_out_first

if TYPE_CHECKING:
    import numpy as np

CLASSES = ("N", "A", "O", "~")
"""Normal rhythm, atrial fibrillation, other rhythm, too noisy."""

WINDOW = 1000
STRIDE = 500
CLASS_STRIDES = (500, 83, 250, 25)
"""Points between the starts of windows, by class: rare classes have more windows."""

_ABOUT = f"windows of {WINDOW} points of records that were brought to mean 0 and variance 1"

FILES = (
    ExpectedFile(
        "challenge2017.pkl",
        "pickle",
        (ArrayForm("data", "n", "O", "1-D float arrays"), ArrayForm("label", "n", "UOS", "N A O ~")),
        "300 Hz",
        "150 MB",
        "NAS-Bench-360",
    ),
)


def load_ecg(spec: TaskSpec, split_seed: int, reference: bool) -> TaskData:
    """x (n, 1, 1000); a tenth of the records each for validation and test, stratified by the seed.

    Training records are cut at strides that depend on the class, those of validation and test at one stride. Differs from the
    reference, which cuts all by class, so that its score is on a re-weighted set.
    """
    import numpy as np

    arrays, _ = decode_once(spec, _decode)
    classes = arrays["classes"]
    if reference:
        from sklearn.model_selection import train_test_split

        train, test = train_test_split(np.arange(len(classes)), test_size=0.1, random_state=0)
        valid = test
    else:
        number = max(1, round(0.1 * len(classes)))
        order = stratified_order(classes, split_seed)
        test, (train, valid) = order[:number], hold_out_first(order[number:], classes, number)
    even = CLASS_STRIDES if reference else (STRIDE,) * len(CLASSES)
    parts = TaskData(
        train=_cut_windows(arrays, np.sort(train), CLASS_STRIDES),
        valid=_cut_windows(arrays, np.sort(valid), even),
        test=_cut_windows(arrays, np.sort(test), even),
        num_classes=len(CLASSES),
        preparation=Preparation(ArrayInputs((1, WINDOW), about=_ABOUT), Answers("classification", CLASSES)),
    )
    for name, part in (("train", parts.train), ("validation", parts.valid), ("test", parts.test)):
        if not len(part) and not (name == "validation" and not len(valid)):
            rule = f"must have a record longer than {WINDOW} points in {name}"
            refuse([Fault("data", rule, Fault.ABSENT, "Add records.").text(str(FILES[0].find()))])
    return parts


def _cut_windows(arrays: dict[str, np.ndarray], records: np.ndarray, strides: tuple[int, ...]) -> Split:
    """All windows of some records: starts from 0 up to, but without, length - 1000, as in the reference."""
    import numpy as np

    starts, classes = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]  # there may be no records
    for record in records:
        begin, end, label = arrays["ends"][record], arrays["ends"][record + 1], arrays["classes"][record]
        starts.append(np.arange(begin, end - WINDOW, strides[label]))
        classes.append(np.full(len(starts[-1]), label))
    start = np.concatenate(starts)
    x = np.lib.stride_tricks.sliding_window_view(arrays["signal"], WINDOW)[start][:, None]
    return Split(x, np.concatenate(classes).astype(np.int64))


def _decode(out: Decoding) -> None:
    """All records concatenated, each at mean 0 and variance 1; where each ends; their classes."""
    import numpy as np

    (file,) = FILES
    arrays = select_arrays(file.find(), read_pickle(file.find()), file.arrays)
    names = [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in arrays["label"]]
    if unknown := sorted(set(names) - set(CLASSES)):
        first = next(number for number, name in enumerate(names) if name in unknown)
        rule = f"must be one of {' '.join(CLASSES)}"
        refuse([Fault(f"label of record {first}", rule, unknown).text(str(file.find()))])
    records = [np.asarray(record) for record in arrays["data"]]
    wrong = [number for number, record in enumerate(records) if record.ndim != 1 or record.dtype.kind not in "fiu"]
    if wrong:
        refuse([Fault("data", "must hold 1-D arrays of numbers", f"others at {wrong[:5]}").text(str(file.find()))])
    ends = np.cumsum([0, *map(len, records)])
    signal = out.empty("signal", (int(ends[-1]),))
    for number, (record, start, end) in enumerate(zip(records, ends, ends[1:], strict=False)):
        if not len(record):
            refuse([Fault("data", "must have values in every record", f"none in record {number}").text(str(file.find()))])
        refuse_not_finite(file.find(), f"data of record {number}", record, "value")
        signal[start:end] = (record - record.mean()) / (record.std() or 1.0)
    out.save("ends", ends, "int64")
    out.save("classes", np.array([CLASSES.index(name) for name in names]), "int64")
