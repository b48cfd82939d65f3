"""Computes the floors of a task: from its name to a row for each model.

A model's settings are chosen on the validation part, or by the mean over folds, as a trial's epoch is; then it is scored on the test part.
How many training samples it is given follows from sizes alone, never from a clock, so the same data give the same rows.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from orca_core.errors import DataError, NotFiniteError, OrcaError
from orca_core.floors.boosting import Boosting, PatchBoosting
from orca_core.floors.constant import Majority, Mean, Persistence
from orca_core.floors.kernels import KernelRidge, SupportVectors
from orca_core.floors.linear import Logistic, PatchRidge, Ridge
from orca_core.floors.model import Candidate, Examples, FloorModel, Predict, Sizes
from orca_core.floors.neighbours import Neighbours
from orca_core.floors.rows import COMPLETE, FAIL, MODELS, TOO_LARGE, UNFIT, VERSIONS, FloorCase, FloorRow, sklearn_version
from orca_core.scoring import SCORES
from orca_core.scoring.groups import group_means
from orca_core.seeding import derive
from orca_core.tasks import Split, TaskData, TaskSpec, find_task
from orca_core.tasks.loading import load_parts
from orca_core.tasks.preparation import Kind
from orca_core.tasks.sizes import group_targets
from orca_core.tasks.splitting import stratified_order
from orca_core.tasks.validation import Validation

MAX_WORK = 2e11
"""Most that a model may take on one task and split, in multiplications of a matrix product: about ten seconds on one core."""

MAX_BYTES = 1 << 30
"""Most memory that inputs and targets may take, as float64."""

LEAST_SAMPLES = 256
"""Fewest training samples to which a model is cut before the task counts as too large for it."""

MAX_VALID = 5_000
"""Most validation samples on which settings are chosen."""

BLOCK = 2_048
"""Test samples that are answered at once."""

FLOOR_MODELS: Mapping[str, FloorModel] = {
    model.name: model
    for model in (Majority(), Mean(), Persistence(), Logistic(), Ridge(), PatchRidge(), Neighbours(), SupportVectors(), KernelRidge())
} | {"boosting": Boosting()}


def find_model(name: str, kind: Kind) -> FloorModel:
    """The model of that name for a kind of task."""
    return PatchBoosting() if (name, kind) == ("boosting", "dense") else FLOOR_MODELS[name]


@dataclass(frozen=True)
class _Parts:
    """The parts with which the floors of a case are computed.

    Args:
        choosing: With a training and a validation part each, on which settings are chosen: one, or one for each fold.
        final: With the training part that the chosen model is fitted to, and the test part.
    """

    choosing: Sequence[TaskData]
    final: TaskData

    @property
    def selection(self) -> str:
        """On what settings are chosen."""
        if self.final is not self.choosing[0]:
            return "folds"
        return "test" if self.final.valid.equals(self.final.test) else "valid"


def compute_floors(case: FloorCase, models: Sequence[str] | None = None) -> Iterator[FloorRow]:
    """Compute the floors of a task, one after the other, on one core.

    Args:
        case: The task and its parts.
        models: Names of models; None = all of the task's kind.

    Yields:
        A row for each model. What cannot be computed is a row, too, with the cause.

    Raises:
        ConfigError: If the task is unknown.
    """
    spec = find_task(case.task)
    names = MODELS[spec.kind] if models is None else models
    base = partial(
        FloorRow,
        **case.cells(),
        sklearn_version=sklearn_version(),
        numpy_version=np.__version__,
        score=spec.score_name(case.reference_data),
    )
    with _on_one_core():
        digest: str | None
        try:
            digest = spec.digest()
            parts = _load(spec, case)
        except (OrcaError, MemoryError) as error:
            digest = _digest_or_none(spec)
            for name in names:
                yield base(task_digest=digest, model=name, version=VERSIONS[name], status=FAIL, cause=_describe(error))
            return
        for name in names:
            model, start = find_model(name, spec.kind), time.process_time()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of steps that ran out, and of classes with one sample: that is what the floor is
                    cells = _compute(model, spec, case, parts)
            except Exception as error:  # whatever a library raises on unusual data: the other models are still computed
                cells = {"status": FAIL, "cause": _describe(error)}
            seconds = round(time.process_time() - start, 3)
            yield base(task_digest=digest, model=name, version=VERSIONS[name], seconds=seconds, **cells)


def _describe(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, OrcaError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _digest_or_none(spec: TaskSpec) -> str | None:
    try:
        return spec.digest()
    except DataError:
        return None


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Within: libraries use one thread, as the number of threads changes the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def _load(spec: TaskSpec, case: FloorCase) -> _Parts:
    load = partial(load_parts, spec, case.split_seed, case.reference_data)
    validation = case.validation
    if not validation.is_empty:
        data = load(validation, case.train_samples)
        return _Parts([data], data)
    folds = [Validation(validation.share, validation.folds, fold) for fold in range(validation.folds or 0)]
    return _Parts([load(fold, case.train_samples) for fold in folds], load(validation, case.train_samples))


def _compute(model: FloorModel, spec: TaskSpec, case: FloorCase, parts: _Parts) -> dict[str, Any]:
    """The cells of a model's row that come of computing it."""
    final, seed = parts.final, case.split_seed
    valid = [_thin(data.valid, data.num_classes, MAX_VALID, seed) for data in parts.choosing]
    sizes = Sizes(
        train=max(len(data.train) for data in (*parts.choosing, final)),
        valid=sum(map(len, valid)),
        test=len(final.test),
        input_shape=final.input_shape,
        output_shape=final.output_shape,
    )
    cells: dict[str, Any] = {"features": sizes.features, "selection": parts.selection}
    if not model.fits(sizes):
        rule = f"inputs of the shape {sizes.input_shape} and targets of the shape {sizes.output_shape} do not have the same positions"
        return cells | {"status": UNFIT, "cause": rule}
    cap = find_cap(model, sizes, len(parts.choosing))
    if cap is not None and cap < LEAST_SAMPLES:
        rows = min(sizes.train, LEAST_SAMPLES)
        return cells | {"status": TOO_LARGE, "cause": _describe_size(model, replace(sizes, train=rows), len(parts.choosing))}
    fit = partial(_fit, model, cap=cap, seed=seed)
    score = partial(_error, spec, case.reference_data)
    errors: dict[str, list[float]] = {}
    predictors: dict[str, Predict] = {}
    for data, held_out in zip(parts.choosing, valid, strict=True):
        inputs = _inputs(data, held_out) if model.most is not None else np.asarray(held_out.x)
        for settings, predict in fit(data):
            name = json.dumps(settings)
            errors.setdefault(name, []).append(score(data, held_out, predict(inputs)))
            if _is_best(errors, name):
                predictors = {name: predict}
    means = {name: sum(of_setting) / len(of_setting) for name, of_setting in errors.items() if len(of_setting) == len(valid)}
    chosen = min(means, key=means.__getitem__)
    if not math.isfinite(means[chosen]):
        raise NotFiniteError("with each of its settings an error is NaN or infinite")
    if parts.selection == "folds":
        predictors = {chosen: next(predict for settings, predict in fit(final) if json.dumps(settings) == chosen)}
    return cells | {
        "status": COMPLETE,
        "valid_error": means[chosen],
        "test_error": score(final, final.test, _answer(final, predictors[chosen])),
        "settings": chosen,
        "cap": cap,
        "fitted_samples": min(len(final.train), cap or len(final.train)),
        "valid_samples": sum(_count(part) for part in valid),
        "test_samples": _count(final.test),
    }


def _is_best(errors: Mapping[str, Sequence[float]], name: str) -> bool:
    """Whether settings have the least error so far, of one validation part; the model fitted with them is then kept."""
    return all(errors[name][0] < of_others[0] for other, of_others in errors.items() if other != name)


def find_cap(model: FloorModel, sizes: Sizes, times: int = 1) -> int | None:
    """The largest number of training samples that a model is given on a task of this size.

    Args:
        model: The model.
        sizes: Of the task, with all of its training samples.
        times: How often the model is fitted with all settings.

    Returns:
        The model's own limit, or that halved until work and memory suffice; None if there is no limit. Less than `LEAST_SAMPLES` if even so
        few would be too many.
    """
    if model.most is None:
        return None
    cap = model.most
    while cap >= LEAST_SAMPLES:
        rows = replace(sizes, train=min(sizes.train, cap))
        if times * model.work(rows) <= MAX_WORK and _num_bytes(rows) <= MAX_BYTES:
            return cap
        cap //= 2
    return cap


def _num_bytes(sizes: Sizes) -> int:
    return 8 * ((sizes.train + sizes.valid) * (sizes.features + sizes.outputs) + sizes.test * sizes.outputs)


def _describe_size(model: FloorModel, sizes: Sizes, times: int) -> str:
    """Why a task is too large for a model."""
    held = f"{sizes.valid} validation and {sizes.test} test samples of {sizes.features} values"
    if _num_bytes(sizes) > MAX_BYTES:
        need = f"{_num_bytes(sizes) / 2**30:.1f} GiB, more than {MAX_BYTES / 2**30:g}"
    else:
        need = f"{times * model.work(sizes):.1e} multiplications, more than {MAX_WORK:.0e}"
    return f"with {held}, even {sizes.train} training samples would take {need}"


def _thin(part: Split, num_classes: int | None, most: int, seed: int) -> Split:
    """At most so many samples of a part, stratified by class. Samples that are evaluated in groups stay together, so all of them."""
    if len(part) <= most or part.group is not None:
        return part
    rows = _draw(part.y, num_classes, most, seed)
    return Split(part.x[rows], part.y[rows])


def _draw(y: np.ndarray, num_classes: int | None, number: int, seed: int) -> np.ndarray:
    labels = y if num_classes is not None else np.zeros(len(y), dtype=np.int64)
    return np.sort(stratified_order(labels, derive(seed, "floor-subset"))[-number:])


def _fit(model: FloorModel, data: TaskData, cap: int | None, seed: int) -> Iterator[Candidate]:
    train = data.train
    if model.most is None:  # it looks at targets alone
        targets = group_targets(train)
        return model.candidates(Examples(np.empty((len(targets), 0)), targets, data.num_classes))
    if cap is not None and len(train) > cap:
        rows = _draw(train.y, data.num_classes, cap, seed)
        train = Split(train.x[rows], train.y[rows])
    return model.candidates(Examples(_inputs(data, train), np.asarray(train.y), data.num_classes))


def _inputs(data: TaskData, part: Split) -> np.ndarray:
    """What a transformer's embedder gets: (n, *input_shape)."""
    return np.asarray(part.x) if data.prepare is None else np.asarray(data.inputs(torch.from_numpy(np.asarray(part.x))))


def _answer(data: TaskData, predict: Predict) -> np.ndarray:
    """Answers for the test part, block by block, as a model may hold a value for each pair of a training and a test sample."""
    blocks = [slice(first, first + BLOCK) for first in range(0, len(data.test), BLOCK)]
    return np.concatenate([predict(_inputs(data, Split(data.test.x[rows], data.test.y[rows]))) for rows in blocks])


def _count(part: Split) -> int:
    """Number of samples, or of groups of them."""
    return len(part) if part.group is None else len(np.unique(part.group))


def _error(spec: TaskSpec, reference: bool, data: TaskData, part: Split, answers: np.ndarray) -> float:
    """The error of a part in the task's own score, as for the outputs of a trial."""
    if spec.kind == "multilabel" or (spec.kind == "dense" and spec.loss.startswith("bce")):
        answers = answers - 0.5  # predicted 0 or 1 become logits: positive for 1
    outputs, y = torch.from_numpy(np.ascontiguousarray(answers, dtype=np.float32)), torch.from_numpy(np.asarray(part.y))
    if part.group is not None:
        outputs, y = group_means(outputs, y, part.group)
    decode: Callable[[torch.Tensor], torch.Tensor] = data.decode or (lambda values: values)
    error = SCORES[spec.score_name(reference)](decode(outputs), decode(y))
    return error if math.isfinite(error) else math.inf
