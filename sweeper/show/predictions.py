"""Answers of an exported model for the samples of a file, as a table or as an array."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.errors import ConfigError, DataError, Fault
from sweeper.show.tables import choose_format, write_table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from torch import Tensor

    from orca_core.prediction import TunedModel
    from orca_core.tasks.preparation import Samples


def predict_file(
    folder: Path,
    file: Path,
    *,
    format: str | None = None,
    output: Path | None = None,
    probabilities: bool = False,
    batch_size: int | None = None,
    device: str = "cpu",
    any_range: bool = False,
) -> None:
    """Write the answers of an exported model for the samples of a file; if that holds the true answers, too, the error goes to stderr.

    Args:
        folder: The exported model.
        file: What the model expects, a file or a folder.
        format: One of `sweeper.show.tables.FORMATS`; None = by the suffix of `output`.
        output: File to write to; None = standard output. With the suffix `.npy` it is an array.
        probabilities: Whether the probability of each class is written, too.
        batch_size, device: As of `TunedModel.predict`.
        any_range: As of `load_model`.

    Raises:
        ConfigError: If an option does not fit, or the file cannot be written.
        DataError: If the folder holds no model, or the file is not what it expects.
    """
    chosen = choose_format(format, output)
    from orca_core.export import load_model

    model = load_model(folder, any_range=any_range)
    samples = model.read(file)
    outputs = model.outputs(samples, batch_size=batch_size, device=device)
    answers = model.decode(outputs)
    shares = model.probabilities(outputs) if probabilities else None
    if output is not None and output.suffix == ".npy":
        _write_array(output, answers if shares is None else shares)
    elif answers.ndim > 2:
        remedy = "Fields have too many values for a table."
        raise ConfigError([Fault("--output", "must be a file that ends in .npy", str(output) if output else Fault.ABSENT, remedy)])
    else:
        write_table(_make_table(model, samples, answers, shares), chosen, output)
    if samples.answers is not None:
        sys.stderr.write(_score(model, outputs, samples.answers, file) + "\n")


def _score(model: TunedModel, outputs: Tensor, answers: Any, file: Path) -> str:
    """The error of the answers, in a line; or why there is none, as a file of new samples may have anything in place of true answers."""
    try:
        error = model.error_of(outputs, answers)
    except DataError as reason:
        return f"warning: {file}: no {model.score}: {reason}"
    return f"{model.score} of the {len(outputs)} samples, by the answers in {file}: {error:.6g}"


def _write_array(output: Path, array: np.ndarray) -> None:
    import numpy as np

    try:
        with output.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise ConfigError([Fault("--output", f"must be writable ({error.strerror})", str(output))]) from None


def _make_table(model: TunedModel, samples: Samples, answers: np.ndarray, shares: np.ndarray | None) -> pa.Table:
    """A line for each sample: its name or number, what is answered, the probabilities, and the true answer if the file holds it."""
    import numpy as np
    import pyarrow as pa

    columns: dict[str, Any] = {"sample": list(samples.names) if samples.names is not None else list(range(1, len(answers) + 1))}
    names = model.answer_names(answers.shape[1] if answers.ndim == 2 else 1)
    for name, values in zip(names, answers[:, None].T if answers.ndim == 1 else answers.T, strict=True):
        columns[name] = values.tolist()
    if shares is not None:
        columns |= {f"p({name})": values.tolist() for name, values in zip(model.classes, shares.T, strict=True)}
    truth = None if samples.answers is None else np.asarray(samples.answers)
    if truth is not None and truth.size == len(answers):
        columns["answer"] = truth.ravel().tolist()
    return pa.table({name: pa.array(values) for name, values in columns.items()})
