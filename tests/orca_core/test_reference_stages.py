"""Stages 2 and 3 with all switches on, beside a plain account of the reference's that shares no code with ours."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_core.alignment.loop import Alignment
from orca_core.alignment.source import source_features
from orca_core.bodies import find_body
from orca_core.bodies.loading import random_body
from orca_core.config.resolve import resolve_config
from orca_core.finetuning.loop import Finetuning
from orca_core.model.cross_modal import CrossModalModel
from orca_core.proxies import find_proxy
from orca_core.seeding import generator
from orca_core.settings import Settings
from orca_core.tasks import Split, TaskData, find_task
from orca_core.training.optimizers import step_decay

CPU = torch.device("cpu")


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
        model = CrossModalModel(Settings.of(config, "finetune"), loaded, data.input_shape, data.output_shape)
        return Alignment(Settings.of(config, "align"), model.embedder, *features, data, CPU)

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
    alignment.objective.distance = lambda features, draws: (features.sum() * 0 + 1.0, features.new_ones(1, 2))
    result = alignment.run_epoch(1)
    assert result.distance == pytest.approx(0.6 + 0.3)
    assert result.label_distances == [[1.0, 1.0], None, [1.0, 1.0]]


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
    assert [alignment.run_epoch(epoch).lr for epoch in (1, 2, 3, 4)] == pytest.approx([1, 1, 0.2, 0.04])
    assert [step_decay(epoch - 1, (20,)) for epoch in (21, 22)] == [1.0, 0.2]


def test_the_incomplete_batch_of_l2_counts_as_0_if_asked_for(align):
    # 100 source rows, classes of 30: 3 full batches and 10 rows left over.
    full, every = (align("openml/187", {"align.objective": "l2", "align.l2_batches": how}, {0: 30}) for how in ("full", "all"))
    assert every.run_epoch(1).distance == pytest.approx(full.run_epoch(1).distance * 3 / 4)


def test_many_label_distances_are_told_in_few_epochs(align):
    alignment = align("openml/187", {}, {0: 4, 1: 4})
    alignment.objective.distance = lambda features, draws: (features.sum() * 0 + 1.0, features.new_ones(1, 1251))
    told = [epoch for epoch in range(1, 21) if alignment.run_epoch(epoch).label_distances is not None]
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
        ours.append(alignment.run_epoch(epoch).distance)
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
    model = CrossModalModel(
        Settings.of(config, "finetune"), random_body(find_body("mini-swin"), seed=0), data.input_shape, data.output_shape
    )
    plain = copy.deepcopy(model).requires_grad_(True).eval()
    tuning = Finetuning(Settings.of(config, "finetune"), model, data, CPU)
    tuning.start_phase(tuning.settings)
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
        metrics = {name: value for name, value in mine.cells().items() if name not in ("stage", "phase", "epoch", "seconds")}
        assert metrics == pytest.approx(their, rel=1e-4)
    assert len({row.train_loss for row in ours}) == 3


def labels_of(keep: dict[int, int]) -> list[int]:
    return [label for label, count in keep.items() for _ in range(count)]


def alignment_body(task: str):
    return find_body(resolve_config({"task": task}).body.name)
