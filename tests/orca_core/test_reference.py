"""The reference's quirks, switch by switch."""

from __future__ import annotations

import math

import pytest
import torch
from body_families import write_checkpoint
from torch import Tensor, nn

from orca_core.alignment.loop import Alignment
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS
from orca_core.config.resolve import REFERENCE_BEHAVIOUR, resolve_config
from orca_core.finetuning.loop import Finetuning
from orca_core.finetuning.selection import Selection
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import CrossModalModel, build_embedder
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row, best_row
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.tasks import find_task
from orca_core.training.optimizers import reference_warmup_decay, warmup_cosine

CPU = torch.device("cpu")
ALIGNED = {"task": "openml/187", "align.epochs": 3}
PLAIN_SGD = {"finetune.optimizer": "sgd", "finetune.momentum": 0.0, "finetune.weight_decay": 0.0, "finetune.lr": 0.1, "finetune.clip": None}


def value_of(config: object, path: str) -> object:
    for name in path.split("."):
        config = getattr(config, name)
    return config


# reference_behaviour


@pytest.mark.parametrize("task", [{}, {"task": "openml/1510", "recipe": "published", "body": "mini-roberta"}])
def test_the_shorthand_sets_every_switch(task):
    config = resolve_config({**ALIGNED, **task, "reference_behaviour": True})
    assert {path: value_of(config, path) for path in REFERENCE_BEHAVIOUR} == dict(REFERENCE_BEHAVIOUR)


@pytest.mark.parametrize("path", REFERENCE_BEHAVIOUR)
def test_a_value_of_your_own_wins_over_the_shorthand(path):
    default = KNOBS[path].default
    config = resolve_config({**ALIGNED, "reference_behaviour": True, path: default})
    assert value_of(config, path) == default != REFERENCE_BEHAVIOUR[path]
    others = REFERENCE_BEHAVIOUR.keys() - {path}
    assert all(value_of(config, other) == REFERENCE_BEHAVIOUR[other] for other in others)


def test_a_rate_of_your_own_is_read_under_the_shorthand():
    config = resolve_config({**ALIGNED, "reference_behaviour": True, "align.lr": 0.3})
    assert (config.align.lr_from, config.align_lr) == ("own", 0.3)


@pytest.mark.parametrize(("knob", "value"), [("align.optimizer", "sgd"), ("align.weight_decay", 0.3), ("align.momentum", 0.3)])
def test_an_optimiser_of_your_own_is_read_under_the_shorthand(knob, value):
    config = resolve_config({**ALIGNED, "reference_behaviour": True, "align.optimizer": "sgd", knob: value})
    assert config.align.optimizer_from == "own"
    assert canonical_knobs(config)[knob] == value


def optimizer_of_alignment(config: TrialConfig) -> torch.optim.Optimizer:
    body = random_body(find_body("mini-roberta"), seed=0)
    data = find_task("openml/187").load()
    settings = Settings.of(config, "align")
    embedder = build_embedder(settings, body, data.input_shape)
    source = torch.randn(20, body.body.geometry.width), torch.arange(20) % 2
    return Alignment(settings, embedder, *source, data, CPU).optimizer


@pytest.mark.parametrize(
    ("knobs", "kind", "values"),
    [
        ({"optimizer": "sgd", "momentum": 0.7, "weight_decay": 0.3}, torch.optim.SGD, {"momentum": 0.7, "weight_decay": 0.3}),
        ({"optimizer": "adam", "betas": [0.8, 0.88], "weight_decay": 0.2}, torch.optim.Adam, {"betas": (0.8, 0.88), "weight_decay": 0.2}),
        ({"betas": [0.8, 0.88]}, torch.optim.AdamW, {"betas": (0.8, 0.88)}),
    ],
)
def test_the_reference_aligns_by_the_optimiser_of_fine_tuning(knobs, kind, values):
    knobs = {**ALIGNED, **{f"finetune.{name}": value for name, value in knobs.items()}}
    (own,) = optimizer_of_alignment(resolve_config(knobs)).param_groups
    assert (type(optimizer_of_alignment(resolve_config(knobs))), own["betas"]) == (torch.optim.AdamW, (0.9, 0.98))
    optimizer = optimizer_of_alignment(resolve_config({**knobs, "reference_behaviour": True}))
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in values} == values


def test_one_optimiser_is_one_trial_wherever_its_settings_are_taken_from():
    """So trials of the published recipes, where both stages have the same, are known by what they were known by before."""
    plain, taken = (resolve_config({**ALIGNED, **knobs}) for knobs in ({}, {"align.optimizer_from": "finetune"}))
    assert plain.align.weight_decay == plain.finetune.weight_decay
    assert trial_id(plain) == trial_id(taken)
    assert stages_of(plain) == stages_of(taken)


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"reference_behaviour": True, "finetune.optimizer": "sgd"}, True),
        ({"reference_behaviour": True, "finetune.optimizer": "sgd", "align.optimizer_from": "own"}, None),
        ({"reference_behaviour": True, "align.optimizer_from": "own"}, True),  # of one optimiser
        ({"align.optimizer_from": "finetune"}, False),  # likewise
        ({"align.optimizer_from": "finetune", "finetune.optimizer": "sgd"}, None),
        ({"align.optimizer_from": "finetune", "finetune.optimizer": "sgd", "align.epochs": 0}, False),
    ],
)
def test_results_say_whether_the_optimiser_of_alignment_is_the_references(knobs, expected):
    assert canonical_knobs(resolve_config({**ALIGNED, **knobs}))["reference_behaviour"] is expected


def test_the_shorthand_is_no_part_of_a_trial_but_what_it_sets_is():
    short = resolve_config({**ALIGNED, "reference_behaviour": True})
    spelled_out = resolve_config({**ALIGNED, **REFERENCE_BEHAVIOUR})
    assert trial_id(short) == trial_id(spelled_out) != trial_id(resolve_config(ALIGNED))
    assert [stage.key for stage in stages_of(short)] == [stage.key for stage in stages_of(spelled_out)]
    assert canonical_knobs(short) == canonical_knobs(spelled_out)
    assert resolve_config(short.model_dump(mode="json")) == short


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, False),
        ({"reference_behaviour": True}, True),
        (REFERENCE_BEHAVIOUR, True),
        ({"reference_behaviour": True, "align.epochs": 0}, True),
        ({"reference_behaviour": True, "selection": "valid"}, None),
        ({"align.solver": "annealed"}, None),
        ({"align.solver": "annealed", "align.objective": "mmd"}, False),  # where nothing reads it
    ],
)
def test_results_say_whether_a_trial_behaves_as_the_reference_whoever_asked_for_it(knobs, expected):
    assert canonical_knobs(resolve_config({**ALIGNED, **knobs}))["reference_behaviour"] is expected


def test_switched_off_the_shorthand_leaves_the_trial_alone():
    assert trial_id(resolve_config({**ALIGNED, "reference_behaviour": False})) == trial_id(resolve_config(ALIGNED))


def test_a_trial_runs_as_the_reference_from_end_to_end(quick, store):
    config = quick("openml/187", {"body.weights": "random", "align.epochs": 2, "finetune.epochs": 2, "reference_behaviour": True})
    rows: list[Row] = []
    result = run_trial(config, store, rows.append)
    epochs = [row for row in rows if isinstance(row, EpochRow)]
    assert result.test_error == min(row.test_error for row in epochs if row.stage == "finetune")
    distances = [row.label_distances for row in epochs if row.stage == "align"]
    assert [len(epoch) for epoch in distances] == [3, 3]


# Which knobs are read, and by what


@pytest.mark.parametrize(
    ("knob", "value", "unread_with", "read_with"),
    [
        ("align.solver", "annealed", {"align.objective": "mmd"}, {}),
        ("align.l2_batches", "all", {}, {"align.objective": "l2"}),
        ("align.lr", 0.123, {"align.lr_from": "finetune"}, {}),
        ("align.class_sampling", "batches", {"align.epochs": 0}, {}),
        ("finetune.accumulation", "sum", {"finetune.accum": 1}, {"finetune.accum": 2}),
        ("finetune.schedule", "reference", {"finetune.warmup_epochs": 0, "finetune.decay_epochs": None}, {"finetune.decay_epochs": 50}),
        ("embedder.init", "reference", {}, {"align.epochs": 0}),
    ],
)
def test_a_switch_counts_only_where_it_is_read(knob, value, unread_with, read_with):
    for knobs, same in [(unread_with, True), (read_with, False)]:
        ids = {trial_id(resolve_config({**ALIGNED, "body.weights": "pretrained", **knobs, **more})) for more in ({}, {knob: value})}
        assert (len(ids) == 1) == same


@pytest.mark.parametrize(
    ("switch", "read"),
    [
        ({"align.lr_from": "finetune"}, "lr"),
        ({"align.class_sampling": "batches"}, "batch_size"),
        ({"align.optimizer_from": "finetune"}, "weight_decay"),
        ({"align.optimizer_from": "finetune"}, "betas"),
        ({"align.optimizer_from": "finetune", "finetune.optimizer": "sgd"}, "momentum"),
        ({}, "none of them"),
    ],
)
@pytest.mark.parametrize("knob", ["lr", "batch_size", "weight_decay", "betas", "momentum"])
def test_alignment_depends_on_a_knob_of_fine_tuning_where_a_switch_says_so(switch, read, knob):
    values = {"lr": (0.0001, 0.0002), "batch_size": (4, 8), "betas": ([0.9, 0.99], [0.9, 0.98])}.get(knob, (0.1, 0.2))
    keys = [
        {stage.kind: stage.key for stage in stages_of(resolve_config({**ALIGNED, **switch, f"finetune.{knob}": value}))}["align"]
        for value in values
    ]
    also = {"weight_decay"} if "align.optimizer_from" in switch else set()
    also |= {"betas"} if "align.optimizer_from" in switch and "finetune.optimizer" not in switch else set()
    assert (keys[0] != keys[1]) == (knob in {read, *also})


def test_a_rate_cut_back_to_the_same_start_is_the_same_alignment():
    # 0.001 is tenfold 0.0001; from 0.01 nothing is made.
    starts = [resolve_config({**ALIGNED, "align.lr_from": "finetune", "finetune.lr": lr}).align_lr for lr in (1e-4, 1e-3, 2e-3, 1e-2)]
    assert starts == pytest.approx([1e-3, 1e-2, 2e-3, 1e-2])


# Initialisation


@pytest.mark.parametrize("task", ["openml/1510", "digits"])
@pytest.mark.parametrize("epochs", [0, 5])
def test_the_reference_copies_the_bodys_embedding_only_where_it_aligns(quick, task, epochs):
    config = quick(task, {"align.epochs": epochs, "embedder.init": "reference"})
    loaded = random_body(find_body(config.body.name), seed=7)
    for parameter in loaded.embedding.norm.parameters():
        nn.init.uniform_(parameter)
    data = find_task(task).load()
    embedder = CrossModalModel(Settings.of(config, "finetune"), loaded, data.input_shape, data.output_shape).embedder
    copied = epochs > 0
    for name, expected in [("weight", 1.0), ("bias", 0.0)]:
        own, bodys = getattr(embedder.norm, name), getattr(loaded.embedding.norm, name)
        assert torch.equal(own, bodys) == copied
        assert torch.equal(own, torch.full_like(own, expected)) != copied
    if task == "digits":
        assert torch.equal(embedder.projection.weight, loaded.embedding.projection.weight[:, :1]) == copied
        assert copied or 0.015 < embedder.projection.weight.std() < 0.025
    else:
        # Positions come from the body either way; the convolution never does: Xavier with gain sqrt 2 of fan in 30 and fan out 64.
        assert torch.equal(embedder.positions, loaded.embedding.positions[: len(embedder.positions)])
        assert embedder.projection.weight.abs().max() <= math.sqrt(2) * math.sqrt(6 / (30 + 64))


@pytest.mark.parametrize(("family", "skipped"), [("bert", 2), ("distilbert", 2), ("roberta", 0)])
@pytest.mark.parametrize("epochs", [0, 5])
def test_the_reference_takes_positions_from_the_third_row_of_any_text_bodys_table(tmp_path, family, skipped, epochs):
    model, name = write_checkpoint(family, tmp_path)
    table = model.embeddings.position_embeddings.weight
    knobs = {"task": "openml/187", "body": name, "align.epochs": epochs, "proxy": "noise"}
    config, plain = (resolve_config({**knobs, "embedder.init": init}) for init in ("reference", "pretrained"))
    body = random_body(config.body_spec, seed=0)
    body.embedding.embeddings.load_state_dict(model.embeddings.state_dict())
    # As many tokens as fit: of a table of 24 rows 22 count for the reference, and of 23 points 23 are tokens for BERT otherwise.
    theirs, ours = (CrossModalModel(Settings.of(made, "finetune"), body, (1, 22), (3,)).embedder.positions for made in (config, plain))
    assert torch.equal(theirs, table[2:24])
    assert torch.equal(ours, table[2 - skipped : 24 - skipped])
    assert CrossModalModel(Settings.of(config, "finetune"), body, (1, 23), (3,)).embedder.num_tokens == 1
    assert CrossModalModel(Settings.of(plain, "finetune"), body, (1, 23), (3,)).embedder.num_tokens == (23 if skipped else 1)


@pytest.mark.parametrize(
    ("family", "same"),
    [("bert", False), ("distilbert", False), ("electra", False), ("roberta", True), ("roberta-pad-0", False), ("gpt2", True)],
)
def test_an_aligned_arm_of_the_reference_has_an_id_of_its_own_where_its_model_differs(tmp_path, family, same):
    name = write_checkpoint(family, tmp_path)[1]
    knobs = {"task": "openml/187", "body": name, "align.epochs": 5, "proxy": "noise"}
    configs = [resolve_config({**knobs, "embedder.init": init}) for init in ("reference", "pretrained")]
    assert (trial_id(configs[0]) == trial_id(configs[1])) == same
    keys = [{stage.kind: stage.key for stage in stages_of(config)} for config in configs]
    assert keys[0]["source"] == keys[1]["source"]
    assert [keys[0][kind] == keys[1][kind] for kind in ("align", "finetune")] == [same, same]
    body = random_body(configs[0].body_spec, seed=0)
    models = [CrossModalModel(Settings.of(config, "finetune"), body, (1, 23), (3,)).state_dict() for config in configs]
    equal = models[0].keys() == models[1].keys() and all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert equal == same, "what the key says is so"


# Fine-tuning


def test_the_references_warm_up_starts_at_0_and_its_decay_goes_below():
    # 4 batches an epoch, 1.5 epochs up, down to 0 at 3: 6 batches up, 6 down; 50 % past the decay it is -1.
    factors = [reference_warmup_decay(batch, 4, 1.5, 3) for batch in (0, 3, 6, 9, 12, 18)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0, -1])
    assert [reference_warmup_decay(batch, 4, 0, 2) for batch in (0, 4)] == [1, 0.5]


def test_a_cosine_falls_slowly_at_both_ends_and_stays_at_0():
    assert warmup_cosine(1, 2, 6) == 0.5
    assert warmup_cosine(3, 2, 6) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert [warmup_cosine(at, 2, 6) for at in (2, 6, 60)] == pytest.approx([1, 0, 0])
    with pytest.raises(Exception, match=r"finetune\.decay_epochs: must be a number if the schedule is cosine, but got null"):
        resolve_config({"task": "digits", "finetune.schedule": "cosine", "finetune.decay_epochs": None})


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"schedule": "cosine"}, [0.5, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.5 - math.sqrt(0.125), 0.0, 0.0, 0.0]),
        ({"schedule": "reference"}, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, -0.25]),
        # Of groups of 2 batches, the rate of a step is that of its last batch.
        ({"schedule": "reference", "accum": 2}, [0.5, 0.75, 0.25, -0.25]),
    ],
)
def test_the_rate_of_every_step_by_schedule(tune, knobs, expected):
    # 8 samples in batches of 4: 2 batches an epoch; up in 1 epoch, down to 0 at epoch 3, one more after that.
    knobs = {"lr": 1.0, "epochs": 4, "warmup_epochs": 1, "decay_epochs": 3, **knobs}
    tuning, found = tune({f"finetune.{name}": value for name, value in knobs.items()}), []
    tuning.optimizer.register_step_pre_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    for epoch in range(1, 5):
        tuning.run_epoch(epoch)
    assert found == pytest.approx(expected, abs=1e-12)


def test_summed_batches_make_a_step_as_many_times_as_long(tune):
    knobs = PLAIN_SGD | {"finetune.batch_size": 4, "finetune.accum": 2}
    mean, summed = (change_of(tune(knobs | {"finetune.accumulation": how})) for how in ("mean", "sum"))
    torch.testing.assert_close(summed, 2 * mean, rtol=1e-3, atol=1e-6)


def test_an_incomplete_group_of_batches_makes_no_step_and_leaves_nothing(tune):
    # Batches of 3, 3 and 2: one step of two batches; the third is lost, in the next epoch too.
    tuning, steps = tune(PLAIN_SGD | {"finetune.batch_size": 3, "finetune.accum": 2, "finetune.accumulation": "sum"}), []
    tuning.optimizer.register_step_pre_hook(lambda *_: steps.append(gradient_of(tuning.model)))
    seen: list[Tensor] = []
    tuning.model.embedder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    tuning.run_epoch(1)
    assert (len(steps), [len(batch) for batch in seen]) == (1, [3, 3, 2])
    tuning.run_epoch(2)
    assert len(steps) == 2
    fresh = tune(PLAIN_SGD | {"finetune.batch_size": 3, "finetune.accum": 2, "finetune.accumulation": "sum"})
    fresh.run_epoch(1)
    fresh.optimizer.zero_grad()
    fresh.optimizer.register_step_pre_hook(lambda *_: steps.append(gradient_of(fresh.model)))
    fresh.run_epoch(2)
    assert torch.equal(steps[1], steps[2])


def test_summed_batches_are_clipped_after_each(tune):
    # The gradient after a batch is cut to 0.01 twice, so a step is at most 0.01 long; unclipped it is far longer.
    knobs = PLAIN_SGD | {"finetune.batch_size": 4, "finetune.accum": 2, "finetune.accumulation": "sum"}
    tuning = tune(knobs | {"finetune.clip": 0.01})
    clips: list[float] = []
    original = nn.utils.clip_grad_norm_

    def counted(parameters, most):
        clips.append(gradient_of(tuning.model).norm().item())
        return original(parameters, most)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", counted)
        change = change_of(tuning)
    assert len(clips) == 2
    assert change.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_scores_of_chunks_are_averaged_unweighted(tune):
    # 5 samples in chunks of 4: losses and errors 1, 1, 1, 1 and 6: the mean of chunks is (1 + 6) / 2, of samples 10 / 5.
    values = torch.tensor([1.0, 1.0, 1.0, 1.0, 6.0])
    for scoring, expected in [("whole", 2.0), ("chunks", 3.5)]:
        tuning = tune({"finetune.scoring": scoring, "finetune.eval_batch_size": 3, "finetune.batch_size": 2})  # 3 is rounded up to 4
        tuning.passes.inferred = lambda part: part
        tuning.loss = lambda outputs, y: outputs.mean()
        tuning.score = lambda outputs, y: outputs.mean().item()
        assert tuning._evaluate(values, torch.zeros(5), None) == pytest.approx((expected, expected))


def test_a_chunk_of_the_score_is_not_a_forward_pass(tune):
    values = torch.tensor([1.0, 1.0, 1.0, 1.0, 6.0])
    chunks = {"finetune.scoring": "chunks", "finetune.batch_size": 1}
    for knobs, expected in [({"score_chunk": 4, "eval_batch_size": 1}, 3.5), ({"score_chunk": 1, "eval_batch_size": 5}, 2.0)]:
        tuning = tune({**chunks, **{f"finetune.{name}": value for name, value in knobs.items()}})
        passes = []
        tuning.passes.inferred = lambda part, passes=passes: passes.append(len(part)) or part
        tuning.loss = lambda outputs, y: outputs.mean()
        tuning.score = lambda outputs, y: outputs.mean().item()
        assert tuning._evaluate(values, torch.zeros(5), None) == pytest.approx((expected, expected))
        assert max(passes) == knobs["eval_batch_size"]


def test_a_chunk_of_the_score_is_part_of_a_trial_only_where_scores_are_of_chunks():
    def identity(**knobs: object) -> str:
        return trial_id(resolve_config({"task": "openml/187", **{f"finetune.{name}": value for name, value in knobs.items()}}))

    assert identity(score_chunk=7) == identity()
    assert identity(scoring="chunks", score_chunk=256) == identity(scoring="chunks") != identity(scoring="chunks", score_chunk=7)


def test_of_equal_epochs_the_reference_takes_the_last():
    rows = [
        EpochRow(stage="finetune", epoch=epoch, valid_error=0.0, test_error=error)
        for epoch, error in enumerate([0.5, 0.1, 0.3, 0.1], start=1)
    ]
    assert best_row(rows, "test", "earliest").epoch == 2
    assert best_row(rows, "test", "latest").epoch == 4


@pytest.mark.parametrize(("ties", "epoch"), [("earliest", 1), ("latest", 3)])
def test_the_weights_kept_are_those_of_the_best_epoch_whichever_way_ties_go(tune, ties, epoch):
    tuning = tune({"selection_ties": ties})
    tuning.selection = Selection.of(tuning.config)
    tuning.score = lambda outputs, y: 0.5
    for number in (1, 2, 3):
        tuning.run_epoch(number)
    assert tuning.best.epoch == epoch
    state = tuning.state()
    tuning.load_state(state)
    assert tuning.best.epoch == epoch


def gradient_of(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def change_of(tuning: Finetuning) -> Tensor:
    before = nn.utils.parameters_to_vector(tuning.model.parameters()).clone()
    tuning.run_epoch(1)
    return nn.utils.parameters_to_vector(tuning.model.parameters()) - before
