"""What a trial reports: a row for each epoch, a row for each stage, and its result.

The columns of the result tables are the fields of these classes, with their meaning. None means that a column does not apply.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Self

_FOLD = "With `validation_folds`: the fold, from 0; null in the final training, which has no validation rows, and without folds."


class Cells:
    """Columns with their values, as JSON data and back."""

    TABLE: ClassVar[str]

    def cells(self) -> dict[str, Any]:
        """The row by column, without columns that do not apply."""
        values = {column.name: getattr(self, column.name) for column in row_columns(type(self))}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_cells(cls, cells: Mapping[str, Any]) -> Self:
        """A row from what `cells` returned, in this version or an older one; other keys are ignored."""
        return cls(**{column.name: cells[column.name] for column in row_columns(cls) if column.name in cells})


def row_columns(row: type[Any]) -> list[Field[Any]]:
    """The fields of a row type that are columns of its table."""
    return [column for column in fields(row) if column.metadata.get("is_column", True)]


@dataclass(frozen=True, kw_only=True)
class EpochRow(Cells):
    """One epoch of one stage."""

    TABLE: ClassVar[str] = "metrics"

    stage: Annotated[str, "pretrain, align, adapt or finetune."]
    phase: Annotated[int, "Phase of the freezing schedule, from 0; 0 in the other stages."] = 0
    fold: Annotated[int | None, _FOLD] = None
    epoch: Annotated[int, "Epoch of the stage, from 1; fine-tuning counts on through its phases."]
    train_loss: Annotated[
        float | None,
        "Mean training loss over the samples of the epoch; of alignment with `align_objective` none only; of adaptation, "
        "the mean squared error of what was masked.",
    ] = None
    valid_loss: Annotated[float | None, "Validation loss after the epoch; null in a final training after folds."] = None
    valid_error: Annotated[float | None, "Validation error after the epoch; lower is better. Null like the loss."] = None
    test_error: Annotated[
        float | None,
        "Test error after the epoch; lower is better. Fine-tuning only; with `finetune_test` best-and-last null after the others.",
    ] = None
    distance: Annotated[
        float | None,
        "Distance of the embedder's features to the proxy's, by `align_objective`. Of alignment; of fine-tuning with `align_weight`: the "
        "mean over its batches. With dispersion: the share of their variance that is within the target's classes.",
    ] = None
    gradient_cosine: Annotated[
        float | None,
        "Cosine of the gradients of the distance and of the task's loss in the embedder's parameters, in [-1, 1]: negative where they work "
        "against each other. With `align_agreement`; of fine-tuning with `align_weight` the mean over its batches, also with "
        "`align_gradient` project.",
    ] = None
    knowledge_loss: Annotated[
        float | None,
        "With `align_objective` bilevel: how far the proxy's classes are from being tight and spread in the body's features, after the "
        "inner steps; null while the embedder warms up. Lower is better.",
    ] = None
    label_entropy: Annotated[
        float | None,
        "With `align_label_entropy`: entropy of the proxy's labels given the target's, in nats; with information, less that of all.",
    ] = None
    mixed_share: Annotated[
        float | None, "With `mix_share`: share of the tokens of a mixed sequence that are the proxy's; null once there are none."
    ] = None
    source_loss: Annotated[
        float | None, "With `mix_share`: cross-entropy of the proxy's labels of mixed sequences, mean over the samples of the epoch."
    ] = None
    weight_distance: Annotated[
        float | None,
        "Squared distance of the trained weights of embedder and body from those that fine-tuning started with, the mean over its batches; "
        "with `finetune_l2_sp` only.",
    ] = None
    body_distance: Annotated[
        float | None,
        "Mean squared difference of the body's output from that of the model as fine-tuning started, over the training samples; with "
        "`finetune_distill` only.",
    ] = None
    roughness: Annotated[
        float | None,
        "How far outputs move if the embedder's tokens are perturbed, before the weight; the mean over its batches. With "
        "`finetune_smooth_kind` only.",
    ] = None
    proxy_distance: Annotated[float | None, "As in `trials`; in epoch 1 of alignment only."] = None
    proxy_distance_unlabelled: Annotated[float | None, "Likewise."] = None
    proxy_logme: Annotated[float | None, "Likewise; null for a proxy of one class and, as the three below, in rows of version 0.1."] = None
    proxy_h_score: Annotated[float | None, "Likewise."] = None
    target_logme: Annotated[float | None, "Likewise."] = None
    target_h_score: Annotated[float | None, "Likewise."] = None
    unconverged: Annotated[
        int | None, "Transport problems of the epoch whose solver stopped at its limit of iterations; null where none did."
    ] = None
    label_distances: Annotated[
        list[list[float] | None] | None,
        "Distances of the target's classes (rows) to the proxy's (columns), before the step of the epoch; labels ascending, without proxy "
        "classes of one sample. OTDD only; with more than 2500 of them in epochs 1, 10, 20, ... only.",
    ] = None
    lr: Annotated[float | None, "Learning rate at the end of the epoch."] = None
    seconds: Annotated[float, "Seconds the epoch took, where it was computed."] = 0.0
    memory_bytes: Annotated[int | None, "GPU memory: the largest amount held since the stage began; null on CPU."] = None
    is_reused: bool = field(default=False, compare=False, metadata={"is_column": False})
    """Whether the epoch was found in the store and not computed by this trial."""


@dataclass(frozen=True, kw_only=True)
class StageRow(Cells):
    """One stage of one trial, computed or reused."""

    TABLE: ClassVar[str] = "stages"

    stage: Annotated[str, "pretrain, source (the proxy's features), align, adapt or finetune."]
    phase: Annotated[int, "Phase of the freezing schedule, from 0; 0 in the other stages."] = 0
    fold: Annotated[int | None, _FOLD] = None
    key: Annotated[str, "Key of the stage: hash of all that its result depends on."]
    epochs: Annotated[int, "Epochs of the stage."]
    reused_epochs: Annotated[int, "Epochs of them that were found in the store."]
    seconds: Annotated[float, "Seconds of computing in this trial; 0 if the whole stage was reused."]
    saved_s: Annotated[float, "Compute time saved by reuse, in seconds."]
    memory_bytes: Annotated[
        int | None,
        "Largest amount of memory held: by the GPU during the stage, or by the process until its end; null if the whole stage was reused.",
    ] = None
    stored_bytes: Annotated[int | None, "Size of what the stage left in the store at its end; null if the whole stage was reused."] = None
    mixed_numerics: Annotated[
        bool | None,
        "Whether what was reused had been computed by another processor, instruction set or version of a library than this trial runs on, "
        "so that its bits may differ; false where nothing was reused, null where the store does not say what computed it (version 0.1).",
    ] = None


@dataclass(frozen=True, kw_only=True)
class ProbeRow(Cells):
    """One number that a probe measured, or why it measured none (`orca_core.probing`)."""

    TABLE: ClassVar[str] = "probes"

    probe: Annotated[str, "Name of the probe; docs/probes.md says what each measures."]
    moment: Annotated[
        str,
        "State of the model: `start`, before any training of the trial; `aligned`, as fine-tuning starts, in trials that align or adapt; "
        "`fine-tuned`, with the weights of the best epoch, or of the last with `keep: last`.",
    ]
    layer: Annotated[
        int | None, "0: what the embedder returns; k: what block k of the body returns, counted from 1; null: not by layer."
    ] = None
    param_group: Annotated[str | None, "Group of parameters; of `weight-change` only."] = None
    setting: Annotated[
        str | None, "What else tells the numbers of a probe apart: how inputs were changed, in which unit a distance is."
    ] = None
    split: Annotated[str | None, "Part of the data that was read: train, valid, test, or proxy; null if none was."] = None
    value: Annotated[float | None, "The number, in the unit of the probe; null if there is none, see `reason`."] = None
    samples: Annotated[int | None, "Number of samples that were read; of a `distance`, of the smaller side."] = None
    reason: Annotated[str | None, "Why there is no number, as a sentence; null if there is one."] = None
    key: Annotated[str, "Key of the probe: hash of the states it reads, its name, version, samples, layers and proxy."]
    seconds: Annotated[float, "Seconds that the probe took at this moment, all of its rows together, where it was computed."] = 0.0
    is_reused: bool = field(default=False, compare=False, metadata={"is_column": False})
    """Whether the row was found in the store and not computed by this trial."""


Row = EpochRow | StageRow | ProbeRow
"""What a trial reports while it runs."""


@dataclass(frozen=True, kw_only=True)
class TrialResult(Cells):
    """The scores and counts of a trial that came to its end."""

    TABLE: ClassVar[str] = "trials"

    best_epoch: Annotated[int, "Fine-tuning epoch with the lowest error on the `selection` split, from 1; ties by `selection_ties`."]
    valid_error: Annotated[
        float, "Validation error of the best epoch; lower is better, unit by `score`. With `validation_folds`: the mean over the folds."
    ]
    valid_loss: Annotated[float, "Validation loss of the best epoch; with `validation_folds` the mean over the folds."]
    train_loss: Annotated[float, "Mean training loss over the samples of the best epoch."]
    test_error: Annotated[float, "Test error of the best epoch; lower is better, unit by `score`."]
    last_valid_error: Annotated[float, "Validation error of the last epoch; with `validation_folds` the mean over the folds."]
    last_test_error: Annotated[
        float | None, "Test error of the last epoch; null with `validation_folds`, as the final training ends at the best epoch."
    ] = None
    valid_samples: Annotated[int | None, "Number of validation samples, of all folds together. Null in rows of version 0.1."] = None
    test_samples: Annotated[int | None, "Number of test samples."] = None
    valid_majority_error: Annotated[
        float | None,
        "Validation error of a model that has learned nothing: it always answers the most frequent training class, or the mean of the "
        "training targets. Null for dense tasks, with `validation_folds`, and where the score is not defined for it.",
    ] = None
    majority_error: Annotated[float | None, "The same on the test samples. A `test_error` that is not below it shows no learning."] = None
    pretrain_tokens: Annotated[
        int | None,
        "Tokens that the pretraining of a text body has seen, each as often as it was: of a mini body those of its training part, times "
        "epochs, without padding; of a checkpoint of Pythia, by its revision, 2,097,152 a step; 0 for random weights. Null where it is not "
        "known, and for other arms. Weights kept in part, or shuffled, count as the pretrained ones they come from.",
    ] = None
    pretrain_images: Annotated[int | None, "The same of image bodies, in images. Null for checkpoints."] = None
    params_total: Annotated[int, "Parameters of the model."]
    params_trained: Annotated[list[int], "Parameters that train, by phase of fine-tuning."]
    task_columns: Annotated[
        str | None,
        "Of a task made of a table: what became of its columns, as JSON. `target` and `kind`; `numbers`, the columns of numbers; `forms`, "
        "those of them written as percentages, dates, ...; `categories`, with the number of categories; `left_out`, with the reason. Null "
        "for other tasks.",
    ] = None

    @classmethod
    def of(cls, best: EpochRow, last: EpochRow, params_total: int, params_trained: list[int], facts: Mapping[str, Any] = {}) -> Self:
        """The result of a trial from its best and its last epoch of fine-tuning, and what is known of its data by column."""
        scores, ends = best.cells(), last.cells()
        return cls(
            best_epoch=best.epoch,
            valid_error=scores["valid_error"],
            valid_loss=scores["valid_loss"],
            train_loss=scores["train_loss"],
            test_error=scores["test_error"],
            last_valid_error=ends["valid_error"],
            last_test_error=ends.get("test_error"),
            params_total=params_total,
            params_trained=params_trained,
            **facts,
        )


def mean_rows(folds: Sequence[Sequence[EpochRow]]) -> list[EpochRow]:
    """For each epoch of fine-tuning, a row with the means over the folds of validation error and loss; all folds have the same epochs."""

    def mean(values: Iterable[float | None]) -> float:
        return math.fsum(value for value in values if value is not None) / len(folds)

    return [
        EpochRow(
            stage="finetune",
            phase=rows[0].phase,
            epoch=rows[0].epoch,
            valid_error=mean(row.valid_error for row in rows),
            valid_loss=mean(row.valid_loss for row in rows),
        )
        for rows in zip(*folds, strict=True)
    ]


def best_row(rows: Sequence[EpochRow], selection: str, ties: str = "earliest") -> EpochRow:
    """Of some epochs of fine-tuning the one with the lowest error on the selection split (`valid`, `test`); of equals by `ties`."""
    sign = -1 if ties == "latest" else 1
    return min(rows, key=lambda row: (getattr(row, f"{selection}_error"), sign * row.epoch))


_BY_TABLE: Mapping[str, type[EpochRow] | type[StageRow] | type[ProbeRow]] = {row.TABLE: row for row in (EpochRow, StageRow, ProbeRow)}


def row_to_json(row: Row) -> dict[str, Any]:
    """A row as JSON data that names its table, to travel between processes."""
    return {"table": row.TABLE} | row.cells()


def row_from_json(data: Mapping[str, Any]) -> Row:
    """The row that `row_to_json` wrote."""
    return _BY_TABLE[data["table"]].from_cells(data)
