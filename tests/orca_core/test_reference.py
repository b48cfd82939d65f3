"""The reference's quirks, switch by switch, and its stage 2 as a whole beside a plain account of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from body_families import write_checkpoint
from torch import Tensor, nn

from orca_core.alignment.loop import Alignment
from orca_core.alignment.source import source_features
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config import KNOBS, REFERENCE_BEHAVIOUR, resolve_config
from orca_core.finetuning.loop import Finetuning
from orca_core.finetuning.optimizers import reference_warmup_decay, step_decay, warmup_cosine
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import run_trial, summarise
from orca_core.proxies import find_proxy
from orca_core.seeding import generator
from orca_core.stages import stages_of
from orca_core.tasks import Split, TaskData, find_task

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
    rows: list[dict] = []
    result = run_trial(config, store, rows.append)
    assert result["test_error"] == min(row["test_error"] for row in rows if row.get("stage") == "finetune" and "test_error" in row)
    distances = [row["label_distances"] for row in rows if row["table"] == "metrics" and row["stage"] == "align"]
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


@pytest.mark.parametrize(("switch", "read"), [({"align.lr_from": "finetune"}, "lr"), ({"align.class_sampling": "batches"}, "batch_size")])
@pytest.mark.parametrize("knob", ["lr", "batch_size"])
def test_alignment_depends_on_a_knob_of_fine_tuning_where_a_switch_says_so(switch, read, knob):
    values = {"lr": (0.0001, 0.0002), "batch_size": (4, 8)}[knob]
    keys = [
        {stage.kind: stage.key for stage in stages_of(resolve_config({**ALIGNED, **switch, f"finetune.{knob}": value}))}["align"]
        for value in values
    ]
    assert (keys[0] != keys[1]) == (knob == read)


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
    embedder = CrossModalModel(config, loaded, data.input_shape, data.output_shape).embedder
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
    theirs, ours = (CrossModalModel(made, body, (1, 22), (3,)).embedder.positions for made in (config, plain))
    assert torch.equal(theirs, table[2:24])
    assert torch.equal(ours, table[2 - skipped : 24 - skipped])
    assert CrossModalModel(config, body, (1, 23), (3,)).embedder.num_tokens == 1
    assert CrossModalModel(plain, body, (1, 23), (3,)).embedder.num_tokens == (23 if skipped else 1)


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
        tuning._outputs = lambda part: part
        tuning.loss = lambda outputs, y: outputs.mean()
        tuning.score = lambda outputs, y: outputs.mean().item()
        assert tuning._evaluate(values, torch.zeros(5), None) == pytest.approx((expected, expected))


def test_of_equal_epochs_the_reference_takes_the_last():
    rows = [
        {"epoch": epoch, "valid_error": 0.0, "test_error": error, "valid_loss": 0.0, "train_loss": 0.0}
        for epoch, error in enumerate([0.5, 0.1, 0.3, 0.1], start=1)
    ]
    assert summarise(rows, "test", "earliest")["best_epoch"] == 2
    assert summarise(rows, "test", "latest")["best_epoch"] == 4


@pytest.mark.parametrize(("ties", "epoch"), [("earliest", 1), ("latest", 3)])
def test_the_weights_kept_are_those_of_the_best_epoch_whichever_way_ties_go(tune, ties, epoch):
    tuning = tune({"selection_ties": ties})
    tuning.keep_best = True
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


# Stage 2


@pytest.fixture
def align(quick) -> Callable[..., Alignment]:
    """`align(task, knobs, keep)` is an alignment; of the classes in `keep` so many samples are left."""

    def make(task: str, knobs: dict, keep: dict[int, int]) -> Alignment:
        config = quick(task, {"body.weights": "random", "align.epochs": 10, "align.proxy_samples": 100, "proxy": "noise", **knobs})
        data = find_task(task).load()
        chosen = np.concatenate([np.flatnonzero(data.train.y == label)[:count] for label, count in keep.items()])
        data = TaskData(Split(data.train.x[chosen], data.train.y[chosen]), data.valid, data.test, data.num_classes)
        loaded = random_body(find_body(config.body.name), seed=0)
        features = source_features(find_proxy("noise"), loaded, samples=100, seed=0, device=CPU)
        model = CrossModalModel(config, loaded, data.input_shape, data.output_shape)
        return Alignment(config, model.embedder, *features, data, CPU)

    return make


@pytest.mark.parametrize(("most", "batch", "expected"), [(8, 4, 12), (7, 4, 8), (8, 3, 9), (64, 4, 30)])
def test_a_class_sample_is_whole_batches_until_there_are_more_than_asked_for(align, most, batch, expected):
    # As with 128 samples and batches of 16, which make 144; at most the whole class.
    knobs = {"align.class_sampling": "batches", "align.class_samples": most, "finetune.batch_size": batch}
    alignment, seen = align("openml/187", knobs, {0: 30, 1: 30}), []
    alignment.embedder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    alignment.run_epoch(2)  # the first also looks at the start
    assert seen == [expected, expected]


def test_a_class_of_one_sample_is_passed_over_and_the_other_shares_stay(align):
    alignment = align("openml/187", {"align.class_sampling": "batches"}, {0: 6, 1: 1, 2: 3})
    alignment.distance = lambda features, draws: (features.sum() * 0 + 1.0, features.new_ones(1, 2))
    result = alignment.run_epoch(1)
    assert result["distance"] == pytest.approx(0.6 + 0.3)
    assert result["label_distances"] == [[1.0, 1.0], None, [1.0, 1.0]]


def test_classes_take_turns_in_an_order_of_the_epochs_own(align):
    alignment, orders = align("digits", {"align.class_sampling": "batches"}, dict.fromkeys(range(10), 2)), []
    for epoch in (1, 2):
        draws = torch.Generator().manual_seed(epoch)
        orders.append(alignment._class_order(draws))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


def test_the_references_rate_falls_one_epoch_later(align):
    # It counts from 0 and asks for epoch > 20: that is the 22nd. Ours falls after 20 epochs.
    knobs = {"align.lr": 1.0, "align.lr_steps": [1, 2], "align.objective": "mmd", "align.lr_schedule": "reference"}
    alignment = align("openml/187", knobs, {0: 4, 1: 4})
    assert [alignment.run_epoch(epoch)["lr"] for epoch in (1, 2, 3, 4)] == pytest.approx([1, 1, 0.2, 0.04])
    assert [step_decay(epoch - 1, (20,)) for epoch in (21, 22)] == [1.0, 0.2]


def test_the_incomplete_batch_of_l2_counts_as_0_if_asked_for(align):
    # 100 source rows, classes of 30: 3 full batches and 10 rows left over.
    full, every = (align("openml/187", {"align.objective": "l2", "align.l2_batches": how}, {0: 30}) for how in ("full", "all"))
    assert every.run_epoch(1)["distance"] == pytest.approx(full.run_epoch(1)["distance"] * 3 / 4)


def test_many_label_distances_are_told_in_few_epochs(align):
    alignment = align("openml/187", {}, {0: 4, 1: 4})
    alignment.distance = lambda features, draws: (features.sum() * 0 + 1.0, features.new_ones(1, 1251))
    told = [epoch for epoch in range(1, 21) if "label_distances" in alignment.run_epoch(epoch)]
    assert told == [1, 10, 20]


# A plain account of the reference's stage 2, from what is known of its code: no part of ours.


def geomloss_divergence(costs: dict[str, Tensor], diameter: float, blur: float) -> Tensor:
    """Debiased, balanced, uniform; potentials f of the first cloud, g of the second."""
    n, m = costs["xy"].shape
    log_a, log_b = torch.full((n,), -math.log(n)), torch.full((m,), -math.log(m))

    def softmin(epsilon: float, cost: Tensor, h: Tensor) -> Tensor:
        return -epsilon * (h[None, :] - cost / epsilon).logsumexp(1)

    between = np.exp(np.arange(2 * np.log(diameter), 2 * np.log(blur), 2 * np.log(0.5)))
    epsilons = [diameter**2, *(float(e) for e in between), blur**2]
    with torch.no_grad():
        e = epsilons[0]
        g, f = softmin(e, costs["yx"], log_a), softmin(e, costs["xy"], log_b)
        p, q = softmin(e, costs["xx"], log_a), softmin(e, costs["yy"], log_b)
        for e in epsilons:
            new_f, new_g = softmin(e, costs["xy"], log_b + g / e), softmin(e, costs["yx"], log_a + f / e)
            new_p, new_q = softmin(e, costs["xx"], log_a + p / e), softmin(e, costs["yy"], log_b + q / e)
            f, g, p, q = (f + new_f) / 2, (g + new_g) / 2, (p + new_p) / 2, (q + new_q) / 2
    e = epsilons[-1]
    last_f, last_g = softmin(e, costs["xy"], log_b + g / e), softmin(e, costs["yx"], log_a + f / e)
    last_p, last_q = softmin(e, costs["xx"], log_a + p / e), softmin(e, costs["yy"], log_b + q / e)
    return (last_f - last_p).mean() + (last_g - last_q).mean()


def box(*clouds: Tensor) -> float:
    x = torch.cat(clouds).detach()
    return float((x.max(0).values - x.min(0).values).norm())


def squares(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None, :] - y[None, :, :]).square().sum(2)


def exact_label_distance(x: Tensor, y: Tensor) -> Tensor:
    costs = {"xy": squares(x, y), "yx": squares(y, x), "xx": squares(x, x), "yy": squares(y, y)}
    return geomloss_divergence(costs, box(x, y), math.sqrt(0.1))


def gaussian_label_distance(x: Tensor, y: Tensor) -> Tensor:
    """Bures distance; the root of a product's trace by the eigenvalues of S1 S2, which are those of S1^1/2 S2 S1^1/2."""
    cov_x, cov_y = torch.cov(x.mT).double(), torch.cov(y.mT).double()
    values, vectors = torch.linalg.eigh(cov_x.detach())
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.mT  # the source is constant
    inner = torch.linalg.eigvalsh(root @ cov_y @ root)
    cross = inner[inner > 1e-9 * inner.max()].sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross).float()


def reference_otdd(source_x: Tensor, source_y: Tensor, feats: Tensor, exact: bool) -> Tensor:
    classes = source_y.unique(sorted=True).tolist()
    number = torch.tensor([classes.index(label) for label in source_y.tolist()])
    clouds = [source_x[source_y == label] for label in classes]
    size = len(classes)
    label_distance = exact_label_distance if exact else gaussian_label_distance
    own = torch.zeros(size, size)
    for i in range(size):
        for j in range(size):
            own[i, j] = label_distance(clouds[i], clouds[j]) if i != j else 0.0
    across = torch.stack([label_distance(x, feats) for x in clouds])
    if exact:
        across = across.detach()
    labels = across[number][:, None].expand(-1, len(feats))
    fixed = feats.detach()
    costs = {
        "xy": (squares(source_x, fixed) + labels) / 2,
        "yx": (squares(feats, source_x) + labels.mT) / 2,
        "xx": (squares(source_x, source_x) + own[number][:, number]) / 2,
        "yy": squares(feats, fixed) / 2,
    }
    marked = torch.cat([source_x, number[:, None].float()], 1), torch.cat([fixed, torch.full((len(fixed), 1), float(size))], 1)
    return geomloss_divergence(costs, box(*marked), math.sqrt(0.1))


class PlainEmbedder(nn.Module):
    """What both embedders of the test are: a convolution, LayerNorm, and positions for a series."""

    def __init__(self, weights: dict[str, Tensor], image_size: int) -> None:
        super().__init__()
        kernel = weights["projection.weight"]
        kind = nn.Conv1d if kernel.dim() == 3 else nn.Conv2d
        self.image_size = image_size
        self.projection = kind(kernel.shape[1], kernel.shape[0], kernel.shape[2:], kernel.shape[2:])
        self.norm = nn.LayerNorm(kernel.shape[0])
        self.positions = nn.Parameter(weights["positions"].clone()) if "positions" in weights else None
        self.load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = nn.functional.interpolate(x, (self.image_size, self.image_size), mode="bilinear", align_corners=False)
        x = self.norm(self.projection(x).flatten(2).mT)
        return x if self.positions is None else x + self.positions


def reference_stage_2(
    embedder: nn.Module, epochs: list[list[tuple[Tensor, float]]], score: Callable[[Tensor], Tensor], finetune_lr: float, sched: list[int]
) -> list[float]:
    """Loss by epoch; `epochs` holds, by epoch, the samples of every class in its turn, and the class's weight."""
    lr = finetune_lr * 10 if finetune_lr <= 0.001 else finetune_lr
    optimizer = torch.optim.Adam(embedder.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=1e-5)

    def factor(epoch: int) -> float:
        for i in reversed(range(len(sched))):
            if epoch > sched[i]:
                return math.pow(0.2, i + 1)
        return 1.0

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses = []
    optimizer.zero_grad()
    for classes in epochs:
        total = 0.0
        for x, weight in classes:
            loss = weight * score(embedder(x).mean(1))
            loss.backward()
            total += loss.item()
        losses.append(total)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize("objective", ["otdd-exact", "otdd-gaussian"])
@pytest.mark.parametrize(("task", "keep"), [("openml/187", {0: 30, 1: 1, 2: 21}), ("digits", {0: 12, 4: 9, 7: 14})])
def test_stage_2_with_all_switches_on_is_the_references_at_every_epoch(align, task, keep, objective):
    knobs = {
        "reference_behaviour": True,
        "align.objective": objective,
        "align.optimizer": "adam",
        "align.weight_decay": 1e-5,
        "align.class_samples": 8,
        "align.lr_steps": [2, 4],
        "finetune.lr": 5e-4,
        "finetune.batch_size": 4,
    }
    alignment = align(task, knobs, keep)
    source = source_features(find_proxy("noise"), random_body(alignment_body(task), seed=0), samples=100, seed=0, device=CPU)
    start = {name: tensor.clone() for name, tensor in alignment.embedder.state_dict().items()}
    epochs: list[list[tuple[Tensor, float]]] = []
    rows = {tuple(x.flatten().tolist()): y for x, y in zip(alignment.inputs(alignment.x), labels_of(keep), strict=True)}

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if not torch.is_grad_enabled():
            return  # the look at the start, which takes no part
        (label,) = {rows[tuple(x.flatten().tolist())] for x in inputs[0]}  # one class at a time
        assert len(inputs[0]) == min(12, keep[label])
        epochs[-1].append((inputs[0].clone(), keep[label] / sum(keep.values())))

    hook = alignment.embedder.register_forward_pre_hook(note)
    ours = []
    for epoch in range(1, 9):
        epochs.append([])
        ours.append(alignment.run_epoch(epoch)["distance"])
    hook.remove()
    assert {len(classes) for classes in epochs} == {sum(count > 1 for count in keep.values())}

    plain = PlainEmbedder(start, getattr(alignment.embedder, "image_size", 0))
    theirs = reference_stage_2(plain, epochs, lambda feats: reference_otdd(*source, feats, objective == "otdd-exact"), 5e-4, [2, 4])
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[-1] < ours[0]
    for name, tensor in plain.state_dict().items():
        moved = (alignment.embedder.state_dict()[name] - start[name]).norm()
        assert (alignment.embedder.state_dict()[name] - tensor).norm() < 0.02 * moved


# The same of its stage 3.


def reference_stage_3(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: tuple[Split, Split, Split],
    orders: list[Tensor],
    *,
    lr: float,
    batch: int,
    chunk: int,
    accum: int,
    clip: float,
    warmup: float,
    decay: float,
) -> list[dict[str, float]]:
    """What each epoch gives; `orders` are those of the training rows, `warmup` and `decay` epochs."""
    train, valid, test = (tuple(torch.from_numpy(rows) for rows in (part.x, part.y)) for part in parts)
    per_epoch = math.ceil(len(train[1]) / batch)
    begin, end = int(warmup * per_epoch), int(decay * per_epoch)
    told, passed, factor = [], 0, 0.0

    def evaluate(x: Tensor, y: Tensor) -> tuple[float, float]:
        losses, errors, outputs, labels = [], [], [], []
        with torch.no_grad():
            for start in range(0, len(y), batch):
                outputs.append(model(x[start : start + batch]))
                labels.append(y[start : start + batch])
                if sum(map(len, labels)) >= chunk or start + batch >= len(y):
                    losses.append(nn.functional.cross_entropy(torch.cat(outputs), torch.cat(labels)).item())
                    errors.append((torch.cat(outputs).argmax(1) != torch.cat(labels)).double().mean().item())
                    outputs, labels = [], []
        return sum(losses) / len(losses), sum(errors) / len(errors)

    for order in orders:
        optimizer.zero_grad()
        total = 0.0
        for number, rows in enumerate(order.split(batch), start=1):
            factor = passed / begin if passed < begin else (end - passed) / max(1, end - begin)
            passed += 1
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            loss = nn.functional.cross_entropy(model(train[0][rows]), train[1][rows])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            total += loss.item() * len(rows)
            if number % accum == 0:
                optimizer.step()
                optimizer.zero_grad()
        valid_loss, valid_error = evaluate(*valid)
        told.append({"train_loss": total / len(order), "valid_loss": valid_loss, "valid_error": valid_error, "lr": lr * factor})
        told[-1]["test_error"] = evaluate(*test)[1]
    return told


@pytest.mark.parametrize(
    ("optimizer", "lr", "accum", "warmup", "decay"),
    [("adam", 2e-4, 1, 1, 3), ("adamw", 2e-4, 3, 0.5, 1.5), ("sgd", 0.05, 4, 1, 2)],  # in the second the rate goes below 0
)
def test_stage_3_with_all_switches_on_is_the_references_at_every_epoch(quick, optimizer, lr, accum, warmup, decay):
    knobs = {"optimizer": optimizer, "lr": lr, "weight_decay": 1e-2, "momentum": 0.9, "clip": 0.5, "batch_size": 8, "eval_batch_size": 20}
    knobs |= {"accum": accum, "warmup_epochs": warmup, "decay_epochs": decay, "epochs": 3}
    config = quick(
        "digits", {"reference_behaviour": True, "body.weights": "random", **{f"finetune.{name}": value for name, value in knobs.items()}}
    )
    whole = find_task("digits").load()
    parts = tuple(Split(part.x[:count], part.y[:count]) for part, count in ((whole.train, 90), (whole.valid, 30), (whole.test, 50)))
    data = TaskData(*parts, whole.num_classes)
    model = CrossModalModel(config, random_body(find_body("mini-swin"), seed=0), data.input_shape, data.output_shape)
    plain = copy.deepcopy(model).requires_grad_(True).eval()
    tuning = Finetuning(config, model, data, CPU)
    tuning.start_phase(0)
    ours = [tuning.run_epoch(epoch) for epoch in (1, 2, 3)]

    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    theirs_optimizer = (
        torch.optim.SGD(plain.parameters(), lr, momentum=0.9, weight_decay=1e-2)
        if optimizer == "sgd"
        else kinds[optimizer](plain.parameters(), lr, betas=(0.9, 0.98), weight_decay=1e-2)
    )
    orders = [torch.randperm(90, generator=generator(0, "data-order", epoch)) for epoch in (1, 2, 3)]
    settings = {"lr": lr, "batch": 8, "chunk": 20, "accum": accum, "clip": 0.5, "warmup": warmup, "decay": decay}
    theirs = reference_stage_3(plain, theirs_optimizer, parts, orders, **settings)
    for mine, their in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(their, rel=1e-4)
    assert len({row["train_loss"] for row in ours}) == 3


def labels_of(keep: dict[int, int]) -> list[int]:
    return [label for label, count in keep.items() for _ in range(count)]


def alignment_body(task: str):
    return find_body(resolve_config({"task": task}).body.name)
