"""`reversed`: a task read from its end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trials import TINY_BODIES, run, small, tiny_bodies

from orca_core.export import tuned_model
from orca_core.pairing import combine
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow
from orca_core.scoring import SCORES
from orca_core.settings import Settings
from orca_core.store import Store
from orca_core.tasks import Split, TaskData
from orca_core.tasks.reversal import reverse
from orca_core.trial_stages import load_data

GPT2 = f"hf:{TINY_BODIES['gpt2']}"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reversal")
    rng = np.random.default_rng(0)
    with tiny_bodies(folder):
        for task in ("series", "images"):
            with np.load(f"tiny/{task}.npz") as data:
                x, y = data["x"], data["y"]
            np.savez(f"tiny/{task}-turned.npz", x=np.flip(x, tuple(range(2, x.ndim))), y=y)
        x = rng.normal(size=(40, 1, 12)).astype("float32")
        y = np.cumsum(x, 2)
        np.savez("tiny/dense.npz", x=x, y=y)
        np.savez("tiny/dense-turned.npz", x=x[..., ::-1], y=y[..., ::-1])
        yield folder


def epochs(config, folder) -> list[EpochRow]:
    return [row for row in run(config, Store(folder))[0] if isinstance(row, EpochRow)]


@pytest.mark.parametrize("task", ["series", "images", "dense"])
def test_it_is_the_task_of_turned_data(task, tmp_path):
    """Rows are those of a task whose file holds every input, and every dense target, from its end."""
    knobs = {"body": GPT2, "finetune__epochs": 1, "align__epochs": 1, "align__objective": "mmd"}
    found = epochs(small(f"npz:tiny/{task}.npz", reversed=True, **knobs), tmp_path / "a")
    assert found == epochs(small(f"npz:tiny/{task}-turned.npz", **knobs), tmp_path / "b")
    assert found != epochs(small(f"npz:tiny/{task}.npz", **knobs), tmp_path / "c")


@pytest.mark.parametrize("task", ["series", "dense"])
def test_an_exported_model_takes_and_gives_data_as_it_is(task, tmp_path):
    config, store = small(f"npz:tiny/{task}.npz", body=GPT2, reversed=True, finetune__epochs=1), Store(tmp_path)
    model = tuned_model(config, store)
    with np.load(f"tiny/{task}.npz") as data, np.load(f"tiny/{task}-turned.npz") as turned:
        found, network = model.outputs(data["x"][:5]), model.model
        with torch.no_grad():
            expected = network(torch.from_numpy(turned["x"][:5].copy()).float())
        assert torch.allclose(found, expected if task == "series" else expected.flip(2), atol=0.2)  # the loader scales inputs slightly
        assert model.error(data["x"], data["y"]) < (1.0 if task == "series" else 10.0)


def test_a_scale_by_position_stays_where_it_belongs():
    x = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    part, scale = Split(x, 10 * x), torch.tensor([[[1.0, 2.0, 4.0]]])
    data = TaskData(part, part, part, None, decode=lambda values: values * scale)
    turned = reverse(data)
    assert turned.test is turned.valid
    assert turned.decode is not None
    assert torch.equal(turned.decode(torch.from_numpy(turned.train.y)).flip(2), torch.from_numpy(part.y) * scale)


def test_numbers_and_rows_that_are_prepared_later():
    class Twice:
        shape = (1, 4)

        def __call__(self, rows):
            return torch.cat([rows, 2 * rows], -1).unsqueeze(1)

    part = Split(np.array([[1.0, 2.0]], dtype=np.float32), np.array([[5.0, 6.0]], dtype=np.float32))
    data = reverse(TaskData(part, part, part, None, prepare=Twice()))
    assert data.inputs(torch.from_numpy(data.train.x)).tolist() == [[[4.0, 2.0, 2.0, 1.0]]]
    assert data.train.y.tolist() == [[5.0, 6.0]]
    assert data.input_shape == (1, 4)


@pytest.mark.parametrize("task", ["series", "dense"])
def test_the_mean_answer_of_a_pair_is_that_of_its_outputs(task, tmp_path):
    """By hand, from what the two exported models answer."""
    store = Store(tmp_path)
    configs = [small(f"npz:tiny/{task}.npz", body=GPT2, reversed=reversed, finetune__epochs=1) for reversed in (False, True)]
    results = [run_trial(config, store, lambda row: None, keep="best") for config in configs]
    data = load_data(Settings.of(configs[0], "finetune"))
    models = [tuned_model(config, store).model for config in configs]
    x, y = torch.from_numpy(data.test.x), torch.from_numpy(data.test.y)
    with torch.no_grad():
        outputs = [models[0](x), models[1](x.flip(2))]
    found = combine(configs, store)
    if task == "series":
        mean = (outputs[0].softmax(1) + outputs[1].softmax(1)) / 2
        assert found.test_error == pytest.approx((mean.argmax(1) != y).double().mean().item())
    else:
        mean = (outputs[0] + outputs[1].flip(2)) / 2
        score = SCORES[configs[0].task_spec.score]
        decode = data.decode or (lambda values: values)
        assert found.test_error == pytest.approx(score(decode(mean), decode(y)), rel=1e-5)
    alone = combine(configs[1:] * 2, store)  # two times the same answers
    for column in ("test_error", "valid_error", "valid_loss"):
        assert getattr(alone, column) == pytest.approx(getattr(results[1], column), rel=1e-5)
