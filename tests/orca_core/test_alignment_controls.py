"""The controls of alignment: steps on the task's own loss, classes apart without a proxy, agreement of gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from body_families import write_checkpoint
from torch import Tensor, nn
from trials import TINY_BODIES, run, small, tiny_bodies

from orca_core.alignment.agreement import cosine, without_conflict
from orca_core.alignment.loop import Alignment
from orca_core.alignment.objectives import OfClasses
from orca_core.alignment.source import source_features
from orca_core.config.knobs import TrialConfig
from orca_core.distances.dispersion import dispersion
from orca_core.errors import ConfigError
from orca_core.identity import canonical_knobs, trial_id
from orca_core.model.cross_modal import CrossModalModel
from orca_core.pipeline import drain, model_before_tuning
from orca_core.proxies import find_proxy
from orca_core.rows import EpochRow
from orca_core.settings import Settings
from orca_core.stages import stages_of
from orca_core.store import Store
from orca_core.trial_stages import TrialStages, load_data

CPU = torch.device("cpu")
GPT2, BERT = f"hf:{TINY_BODIES['gpt2']}", f"hf:{TINY_BODIES['bert']}"
SERIES = "npz:tiny/series.npz"
STEP = {"align.optimizer": "sgd", "align.momentum": 0.0, "align.lr": 0.1, "align.epochs": 1, "align.class_samples": 100}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    with tiny_bodies(folder):
        Path("tiny/vit").mkdir()
        write_checkpoint("vit", Path("tiny/vit"))
        x = np.random.default_rng(0).normal(size=(40, 1, 12)).astype("float32")
        np.savez("tiny/dense.npz", x=x, y=np.cumsum(x, 2))
        yield folder


def trial(**knobs) -> TrialConfig:
    return small(SERIES, **{"body": GPT2, **knobs})


def aligned(config: TrialConfig) -> Alignment:
    """The alignment of a trial before its first step."""
    stages, settings = TrialStages(config, Store(Path("store")), "cpu"), Settings.of(config, "align")
    data, loaded = load_data(settings), stages.load_body(settings, None)
    source: tuple[Tensor | None, Tensor | None] = (None, None)
    if config.reads_proxy:
        source = source_features(find_proxy(config.proxy), loaded, samples=20, seed=0, device=CPU)
    model = CrossModalModel(settings, loaded, data.input_shape, data.output_shape, with_adapter=False)
    return Alignment(settings, model.embedder, *source, data, CPU, model)


# ------------------------------------------------------------------------------------------------------- which proxy is read


@pytest.mark.parametrize("knobs", [{"align__epochs": 2}, {"align__weight": 0.5}])
def test_dispersion_reads_no_proxy(knobs):
    config, other = (trial(align__objective="dispersion", proxy=proxy, **knobs) for proxy in ("noise", "pydoc"))
    assert "source" not in [stage.kind for stage in stages_of(config)]
    assert canonical_knobs(config)["proxy"] is None
    assert canonical_knobs(config)["align.proxy_samples"] is None
    assert trial_id(config) == trial_id(other)
    assert trial_id(config) != trial_id(trial(align__objective="mmd", **knobs))


def test_no_objective_reads_no_proxy_and_is_another_trial_than_no_alignment():
    config = trial(align__objective="none", align__epochs=2)
    assert [stage.kind for stage in stages_of(config)] == ["align", "finetune"]
    assert canonical_knobs(config)["proxy"] is None
    assert canonical_knobs(config)["align.agreement"] is None
    assert trial_id(config) != trial_id(trial())


def test_the_joint_form_needs_a_distance():
    with pytest.raises(ConfigError, match=r"align\.weight: must be 0 with align\.objective none"):
        trial(align__objective="none", align__weight=0.1)


# ---------------------------------------------------------------------------------------------------- steps on the task's loss


def test_a_step_without_a_distance_is_one_of_gradient_descent_on_the_loss_of_all_samples():
    """With every sample of each class, the sum of class share times mean loss is the mean loss of the training set."""
    config = small(SERIES, body=GPT2, **{name.replace(".", "__"): value for name, value in STEP.items()}, align__objective="none")
    alignment = aligned(config)
    model = alignment.task.model
    x, y = torch.from_numpy(alignment.data.train.x), torch.from_numpy(alignment.data.train.y)
    loss = nn.functional.cross_entropy(model(x), y)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if not n.startswith("body.")), strict=True)
    expected = [p.detach() - 0.1 * g for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True)]
    body = [p.detach().clone() for p in model.body.parameters()]
    row = alignment.run_epoch(1)
    assert row.train_loss == pytest.approx(loss.item(), rel=1e-5)
    assert row.distance is None
    for name, found, wanted in zip(names, parameters, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6), name
    assert all(map(torch.equal, body, model.body.parameters()))


def test_it_sees_the_samples_that_a_distance_would():
    seen = {}
    for objective in ("none", "dispersion", "mmd"):
        alignment = aligned(trial(align__objective=objective, align__epochs=3, align__class_samples=2))
        rows = seen[objective] = []
        batches = alignment._batches
        alignment._batches = lambda draws, rows=rows, batches=batches: (rows.append(b.rows.tolist()) or b for b in batches(draws))
        alignment.run_epoch(1)
    assert len(seen["mmd"]) == 3
    assert seen["none"][0] == seen["dispersion"][0] == seen["mmd"][0]  # later ones follow draws of the distance
    assert [len(rows) for rows in seen["none"]] == [len(rows) for rows in seen["mmd"]]


@pytest.mark.parametrize("body", [GPT2, BERT, "hf:tiny/vit"])
def test_only_the_embedder_is_left_of_it(body, warm_store):
    naive, steps = (trial(body=body, align__objective="none", align__epochs=epochs) for epochs in (0, 2))
    before, after = (dict(model_before_tuning(config, warm_store).named_parameters()) for config in (naive, steps))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name.partition(".")[0] for name in changed} == {"embedder"}


def test_steps_on_the_task_go_on_in_mid_stage_to_the_same_bits():
    one, other = (aligned(trial(align__objective="none", align__epochs=4)) for _ in range(2))
    rows = [one.run_epoch(epoch) for epoch in range(1, 5)]
    for epoch in (1, 2):
        other.run_epoch(epoch)
    third = aligned(trial(align__objective="none", align__epochs=4))
    third.load_state({name: tensor.clone() for name, tensor in other.state().items()})
    assert [third.run_epoch(epoch) for epoch in (3, 4)] == rows[2:]
    assert all(torch.equal(tensor, third.state()[name]) for name, tensor in one.state().items())


# ------------------------------------------------------------------------------------------------------------- classes apart


def test_the_gradient_of_dispersion_is_that_of_one_pass():
    alignment = aligned(trial(align__objective="dispersion", align__epochs=1))
    batches = list(alignment._batches(torch.Generator().manual_seed(0)))
    measured = OfClasses(alignment.embedder, dispersion).backward(iter(batches), torch.Generator())
    found = [p.grad.clone() for p in alignment.embedder.parameters()]
    features = torch.cat([alignment.embedder(batch.inputs).mean(1) for batch in batches])
    labels = torch.cat([torch.full((len(batch.rows),), batch.number) for batch in batches])
    weights = torch.cat([torch.full((len(batch.rows),), batch.share / len(batch.rows)) for batch in batches])
    value = dispersion(features, labels, weights)
    assert measured.value == pytest.approx(value.item(), rel=1e-6)
    for one, other in zip(found, torch.autograd.grad(value, list(alignment.embedder.parameters())), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("body", [GPT2, BERT, "hf:tiny/vit"])
def test_classes_move_apart(body, warm_store):
    rows: list = []
    config = trial(body=body, align__objective="dispersion", align__epochs=8, align__lr=1e-2, finetune__epochs=1)
    stages = TrialStages(config, warm_store, "cpu")
    drain(stages.align(drain(stages.pretrain()), None), rows.append)
    values = [row.distance for row in rows if isinstance(row, EpochRow) and row.stage == "align"]
    assert values[-1] < 0.9 * values[0]


def test_a_task_without_classes_has_clusters(warm_store):
    config = small("npz:tiny/dense.npz", align__objective="dispersion", align__epochs=1, body=BERT)
    rows, _, _ = run(config, warm_store)
    assert 0 < next(row.distance for row in rows if isinstance(row, EpochRow) and row.stage == "align") < 1


# --------------------------------------------------------------------------------------------------------- do gradients agree


def test_two_gradients_in_a_plane_by_hand():
    one, other = [torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]
    assert cosine(one, other).item() == pytest.approx(-(0.5**0.5))
    # (1, 0) loses its part along (-1, 1)/sqrt 2 and becomes (1/2, 1/2); (-1, 1) loses its part along (1, 0) and becomes (0, 1).
    (found,) = without_conflict(one, other)
    assert found.tolist() == [0.5, 1.5]
    assert (found @ one[0]) >= 0 <= (found @ other[0])
    assert without_conflict(one, [torch.tensor([1.0, 1.0])])[0].tolist() == [2.0, 1.0]  # no conflict: the sum
    assert cosine(one, [torch.zeros(2)]).item() == 0


def test_angles_are_those_of_all_parameters_together():
    one, other = [torch.tensor([1.0]), torch.tensor([2.0])], [torch.tensor([-3.0]), torch.tensor([1.0])]
    assert cosine(one, other).item() == pytest.approx(-1 / 50**0.5)
    inner, norms = -1.0, (5.0, 10.0)
    expected = [(1 - inner / norms[0]) * a + (1 - inner / norms[1]) * b for a, b in zip(one, other, strict=True)]
    assert all(torch.allclose(found, wanted) for found, wanted in zip(without_conflict(one, other), expected, strict=True))


@pytest.mark.parametrize("knobs", [{"align__epochs": 2}, {"align__weight": 0.5}])
def test_looking_at_the_gradients_changes_no_bit(knobs, tmp_path):
    plain, looked = (trial(align__objective="mmd", align__agreement=agreement, **knobs) for agreement in (False, True))
    assert trial_id(plain) != trial_id(looked)
    (rows, result, _), (other_rows, other_result, _) = (run(config, Store(tmp_path / str(i))) for i, config in enumerate((plain, looked)))
    assert result == other_result
    with_column = [row for row in other_rows if isinstance(row, EpochRow) and row.gradient_cosine is not None]
    assert [row.stage for row in with_column] == ["align" if "align__epochs" in knobs else "finetune"] * 2
    assert all(-1 <= row.gradient_cosine <= 1 for row in with_column)
    epochs, others = ([row.cells() for row in part if isinstance(row, EpochRow)] for part in (rows, other_rows))
    for row in others:
        row.pop("gradient_cosine", None)
    assert epochs == others


def test_the_cosine_of_alignment_is_that_of_the_two_gradients():
    alignment = aligned(trial(align__objective="mmd", align__agreement=True, **{k.replace(".", "__"): v for k, v in STEP.items()}))
    before = [p.detach().clone() for p in alignment.embedder.parameters()]
    model = alignment.task.model
    x, y = torch.from_numpy(alignment.data.train.x), torch.from_numpy(alignment.data.train.y)
    task = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(alignment.embedder.parameters()))
    found = alignment.run_epoch(1).gradient_cosine
    moved = [(p - q.detach()) / 0.1 for p, q in zip(before, alignment.embedder.parameters(), strict=True)]  # the distance's gradient
    assert found == pytest.approx(cosine(moved, task).item(), abs=1e-4)


def test_the_joint_step_takes_the_projected_gradients(tmp_path):
    """One step of plain descent on the whole training set, against one of each loss alone."""
    plain = {
        "finetune__optimizer": "sgd",
        "finetune__momentum": 0.0,
        "finetune__lr": 0.1,
        "finetune__batch_size": 1000,
        "finetune__clip": None,
        "finetune__weight_decay": 0.0,
    }
    shared = {**plain, "finetune__epochs": 1, "align__objective": "mmd", "freezing": "full"}

    def moved(**knobs) -> tuple[dict[str, Tensor], EpochRow]:
        config, rows = trial(**shared, **knobs), []
        store = Store(tmp_path / trial_id(config))
        stages = TrialStages(config, store, "cpu")
        pretrained = drain(stages.pretrain())
        tuned = drain(stages.tune(pretrained, drain(stages.embed_source(pretrained))), rows.append)
        start = dict(model_before_tuning(config, store).named_parameters())
        steps = {name: (start[name] - p).detach() / 0.1 for name, p in tuned.model.named_parameters()}
        return steps, next(row for row in rows if isinstance(row, EpochRow) and row.stage == "finetune")

    for seed, conflict in ((5, True), (7, False)):
        task, _ = moved(seed=seed)
        both, row = moved(seed=seed, align__weight=1.0, align__agreement=True)
        surgery, other = moved(seed=seed, align__weight=1.0, align__gradient="project")
        names = [name for name in task if name.startswith("embedder.")]
        of_task, of_distance = [task[name] for name in names], [both[name] - task[name] for name in names]
        assert row.gradient_cosine == pytest.approx(cosine(of_task, of_distance).item(), abs=1e-3)
        assert other.gradient_cosine == row.gradient_cosine
        for name, wanted in zip(names, without_conflict(of_task, of_distance), strict=True):
            assert torch.allclose(surgery[name], wanted, atol=1e-4), name
        assert all(torch.equal(surgery[name], both[name]) for name in task if not name.startswith("embedder."))
        assert (row.gradient_cosine < 0) == conflict


def test_a_compiled_pass_keeps_no_graph_for_a_second_look():
    with pytest.raises(ConfigError, match=r"finetune\.compile: must be none with align\.gradient project"):
        trial(align__objective="mmd", align__weight=0.1, align__gradient="project", finetune__compile="default")
