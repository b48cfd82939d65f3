"""What is kept of a trial's fine-tuned model: weights, and what else it needs to be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from orca_core.finetuning.loop import Finetuning, weights_of
from orca_core.finetuning.selection import BestWeights, Selection
from orca_core.model.cross_modal import CrossModalModel
from orca_core.rows import EpochRow
from orca_core.store import Artifact
from orca_core.tasks import TaskData
from orca_core.trajectory import rows_of

Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Shapes of an input and of an output of a model."""


def weights_at(epoch: int, selection: Selection, end: Artifact, tuning: Finetuning | None) -> Mapping[str, Tensor] | None:
    """The trained parameters after an epoch, by name, if they are still there.

    Args:
        epoch: The best one, or the last.
        selection: What the best one is best by.
        end: State at the end of the trajectory; may hold rows alone.
        tuning: What trained on the trajectory, or a part of it.
    """
    held = [BestWeights.from_state(selection, end.tensors), tuning.best if tuning else None]
    best = next((weights for weights in held if weights is not None and weights.epoch == epoch), None)
    if best is not None:
        return best.tensors
    if end.tensors and rows_of(end)[-1].epoch == epoch:
        return weights_of(end.tensors)
    return tuning.weights() if tuning is not None and tuning.epoch == epoch else None


SMALL = 4 << 20
"""Bytes up to which all weights of a network are kept, those that never trained too: then it is exported without being built again."""


def with_frozen(weights: Mapping[str, Tensor], model: CrossModalModel, trained: set[str]) -> Mapping[str, Tensor]:
    """The trained weights of an epoch, and of a small network those that never trained.

    Args:
        weights: Of the epoch, by name.
        model: As it is now.
        trained: Names of the parameters that have trained by now; what trained only after the epoch is not what it was then.
    """
    every = _floats(model)
    if sum(value.nbytes for value in every.values()) > SMALL or not trained <= weights.keys():
        return weights
    return every | dict(weights)


def is_complete(weights: Mapping[str, Tensor], model: CrossModalModel) -> bool:
    """Whether weights are all that the network has, so that it can be exported without being built again."""
    return _floats(model).keys() <= weights.keys()


def _floats(model: CrossModalModel) -> dict[str, Tensor]:
    """What of a model's state can have been trained or read: all but constants such as indices."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def shapes_of(data: TaskData) -> Shapes:
    """Shapes of an input and of an output of the model."""
    return data.input_shape, data.output_shape


def errors_of(row: EpochRow) -> dict[str, float]:
    """The errors and losses of an epoch of fine-tuning."""
    names = ("valid_error", "test_error", "valid_loss", "train_loss")
    cells = row.cells()
    return {name: cells[name] for name in names if name in cells}


def describe_data(data: TaskData) -> dict[str, Any]:
    """What a fine-tuned model needs of its task's data, as JSON data: shapes of inputs and outputs, and how raw data is prepared."""
    shapes = dict(zip(("input_shape", "output_shape"), map(list, shapes_of(data)), strict=True))
    assert data.preparation is not None, "TaskSpec.load sees to it"
    return shapes | {"preparation": data.preparation.to_json()}
