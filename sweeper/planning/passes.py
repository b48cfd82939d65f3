"""What an epoch costs beside a plain one of the same task and body: by the config of a trial, and by a row of the result tables.

A plain epoch of fine-tuning passes the training samples through the model and back, and after that those of validation and test set forward
only. Terms of the loss pass the training samples again; `train_samples` leaves some out, `finetune.test` the test set of some epochs. A
distance that is minimised costs by its kind rather than by passes, so epochs with and without it are told apart by name.
"""

from __future__ import annotations

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import value_of
from orca_core.stages import Stage
from orca_core.tasks import TASKS
from orca_core.tasks.spec import EpochSize
from sweeper.planning.trials import PlannedTrial

SMOOTH_PASSES = {"r3f": 1.0, "smart": 2.0}
"""Passes through the model and back that `finetune.smooth` takes beside that of the task's loss."""

FORWARD = 1 / 3
"""A pass forward only: the way back takes about twice as long. That of an evaluated sample, and of `finetune.distill`."""

MIX_PASSES = 1.0
"""Of `mix.share`: the mixed batch."""

TESTED = 0.4
"""Share of epochs that `finetune.test: best-and-last` tests: those with the lowest validation error so far. 0.3 of 60 epochs, 0.3 to 0.9 of
10, by `benchmarks/passes.py`."""

JOINT = 14.0
"""An epoch of fine-tuning that minimises the distance of each batch, too, over one that does not, where it was not measured: with OTDD 9.4
for mini-swin and 20.3 for mini-roberta, of which this is the geometric mean (`benchmarks/passes.py`). Of larger bodies it is less."""

PLAIN = "otdd-exact"
"""The objective of alignment that is not named in the kind of an epoch."""


def kind_of(trial: PlannedTrial, stage: Stage) -> str:
    """The kind of a stage and what is minimised there beside the usual: `align`, `align bilevel`, `finetune otdd-exact`."""
    config = trial.config
    if stage.kind == "finetune" and config.aligns_jointly:
        return f"finetune {config.align.objective}"
    if stage.kind != "align":
        return stage.kind
    names = [config.align.objective] if config.align.objective != PLAIN else []
    names += ["annealed"] if config.align.objective.startswith("otdd") and value_of(config, "align.solver") == "annealed" else []
    names += ["task"] if config.align.task_weight else []
    return " ".join(["align", *names])


KIND = (
    "if(stage = 'finetune' and align_weight > 0, 'finetune ' || align_objective, if(stage = 'align', concat_ws(' ', 'align', "
    f"if(align_objective != '{PLAIN}', align_objective, null), if(align_solver = 'annealed', 'annealed', null), "
    "if(align_task_weight > 0, 'task', null)), stage))"
)
"""`kind_of`, of a row."""


def passes_of(trial: PlannedTrial, stage: Stage) -> float:
    """The cost of an epoch over that of a plain one."""
    if stage.kind != "finetune":
        return 1.0
    config, passes = trial.config, 1.0 + SMOOTH_PASSES.get(trial.config.finetune.smooth.kind, 0.0)
    if set(config.phases[stage.phase].train) == {"predictor"}:  # the other two take no part
        return passes
    passes += FORWARD if config.finetune.distill else 0.0
    passes += MIX_PASSES if config.mix.share and not config.body_spec.is_bodiless else 0.0
    return _with_evaluation(config, passes)


def _with_evaluation(config: TrialConfig, passes: float) -> float:
    size = config.task_spec.epoch
    if size is None:
        return passes
    train, evaluated = size.train, float(size.valid + size.test)
    if config.reference_data:  # which validates on the test set
        train, evaluated = train + size.valid, size.test
    elif config.finetune.test != "each-epoch":
        evaluated = size.valid + TESTED * size.test
    return ((config.train_samples or train) * passes + FORWARD * evaluated) / plain_samples(size)


def plain_samples(size: EpochSize) -> float:
    """Samples of a plain epoch, evaluated ones by what they cost beside one that trains."""
    return size.train + FORWARD * (size.valid + size.test)


def _passes_of_a_row() -> str:
    forward = f"{FORWARD:.15e}"  # as SQL has it, a double: products of decimals overflow
    smooth = " ".join(f"when '{kind}' then {passes}" for kind, passes in SMOOTH_PASSES.items())
    passes = f"1 + case finetune_smooth_kind {smooth} else 0 end + if(finetune_distill > 0, {forward}, 0)"
    passes += f" + if(mix_share > 0, {MIX_PASSES}, 0)"
    tasks = ""
    for spec in TASKS.values():
        if (size := spec.epoch) is not None:
            train = f"coalesce(train_samples, {size.train} + if(reference_data, {size.valid}, 0))"
            evaluated = f"if(reference_data, 0, {size.valid}) + if(metrics.test_error is null, 0, {size.test})"
            tasks += f" when '{spec.name}' then ({train} * ({passes}) + {forward} * ({evaluated})) / {plain_samples(size)}"
    return f"if(stage = 'finetune', case task{tasks} else {passes} end, 1)"


PASSES = _passes_of_a_row()
"""`passes_of`, of a row of `metrics` joined with that of its trial."""

A_SECOND = {1: 134 * 512, 2: 273}
"""Training samples a second of an H100 in fp32 (docs/benchmarks.md): of series times their tokens, of images and fields."""


def guess_epoch(trial: PlannedTrial, stage: Stage) -> float | None:
    """Seconds that a plain epoch of fine-tuning takes an H100, if the body is as large as RoBERTa-base or Swin-B.

    None if the size of the data is not known ahead, and for bodies without a checkpoint.
    """
    config, size = trial.config, trial.config.task_spec.epoch
    if stage.kind != "finetune" or size is None or not config.body.name.startswith("hf:"):
        return None
    tokens = 1 if size.length is None else min(size.length, config.embedder.target_seq_len)
    return plain_samples(size) * tokens / A_SECOND[config.task_spec.dims]
