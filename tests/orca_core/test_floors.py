"""Floors: each model against the same computed another way, the choice of settings, and what becomes of tasks that do not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.kernel_ridge import KernelRidge as KernelRidgeOfSklearn
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as RidgeOfSklearn
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from orca_core.floors import compute
from orca_core.floors.boosting import Boosting
from orca_core.floors.compute import FLOOR_MODELS, compute_floors, find_cap, find_model
from orca_core.floors.constant import Mean, Persistence
from orca_core.floors.kernels import KernelRidge, SupportVectors
from orca_core.floors.linear import Logistic, PatchRidge, Ridge, patches
from orca_core.floors.model import Examples, FloorModel, Predict, Sizes
from orca_core.floors.neighbours import Neighbours
from orca_core.floors.rows import MODELS, SIMPLE_FIRST, VERSIONS, FloorCase, FloorRow
from orca_core.settings import Settings
from orca_core.tasks import find_task
from orca_core.tasks.loading import load_parts
from orca_core.tasks.sizes import find_sizes
from orca_core.tasks.validation import Validation
from orca_core.trial_stages import load_data

RNG = np.random.default_rng(0)
X, NEW = RNG.normal(size=(40, 2, 5)).astype("float32"), RNG.normal(size=(9, 2, 5)).astype("float32")
Y = RNG.normal(size=(40, 3)).astype("float32")
CLASSES = np.concatenate([np.arange(3), RNG.integers(0, 3, 37)])


def fitted(model: FloorModel, train: Examples, **settings: Any) -> Predict:
    """The model fitted with these settings."""
    return next(predict for found, predict in model.candidates(train) if found == settings)


def scaled(x: np.ndarray) -> np.ndarray:
    """Inputs as models see them, worked out anew: centred by the training mean, divided by the root of the mean variance."""
    flat = X.reshape(len(X), -1).astype("float64")
    return (x.reshape(len(x), -1) - flat.mean(0)) / np.sqrt(flat.var(0).mean())


# ------------------------------------------------------------------------------------------------------------------------ models


def test_one_neighbour_is_the_closest_sample():
    answers = fitted(Neighbours(), Examples(X, Y, None), neighbours=1)(NEW)
    for new, answer in zip(NEW, answers, strict=True):
        closest = min(range(len(X)), key=lambda i: float(np.linalg.norm(X[i] - new)))
        assert answer.tolist() == pytest.approx(Y[closest].tolist())


@pytest.mark.parametrize("number", Neighbours.NUMBERS)
def test_neighbours_vote_as_those_of_sklearn(number):
    votes = np.exp(fitted(Neighbours(), Examples(X, CLASSES, 3), neighbours=number)(NEW))
    expected = KNeighborsClassifier(number).fit(X.reshape(40, -1), CLASSES).predict_proba(NEW.reshape(9, -1))
    assert votes == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("samples", [40, 7], ids=["more samples than features", "fewer"])
@pytest.mark.parametrize("alpha", [1.0, 1e-2, 1e-6])
def test_ridge_solves_the_penalised_equations(samples, alpha):
    train = Examples(X[:samples], Y[:samples], None)
    flat = train.x.reshape(samples, -1).astype("float64")
    scale = np.sqrt(flat.var(0).mean())
    rows = (flat - flat.mean(0)) / scale
    penalty = alpha * np.square(rows).sum() / min(rows.shape)  # the trace of either matrix, over its size
    expected = RidgeOfSklearn(alpha=penalty, solver="svd").fit(rows, train.y).predict((NEW.reshape(9, -1) - flat.mean(0)) / scale)
    assert fitted(Ridge(), train, alpha=alpha)(NEW) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("samples", [40, 8], ids=["more samples than features", "fewer"])
def test_logistic_regression_is_that_of_sklearn_also_in_the_space_of_few_samples(samples):
    train = Examples(X[:samples], CLASSES[:samples], 3)
    flat = train.x.reshape(samples, -1).astype("float64")
    mean, scale = flat.mean(0), np.sqrt(flat.var(0).mean())
    model = LogisticRegression(C=1.0, max_iter=100).fit((flat - mean) / scale, train.y)
    expected = model.decision_function((NEW.reshape(9, -1) - mean) / scale)
    assert fitted(Logistic(), train, C=1.0)(NEW) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("width", KernelRidge.WIDTHS)
def test_kernel_ridge_is_that_of_sklearn(width):
    mean, features = Y.astype("float64").mean(0), 10
    model = KernelRidgeOfSklearn(kernel="rbf", gamma=width / features, alpha=1e-2).fit(scaled(X), Y - mean)
    answers = fitted(KernelRidge(), Examples(X, Y, None), width=width, alpha=1e-2)(NEW)
    assert answers == pytest.approx(model.predict(scaled(NEW)) + mean, rel=1e-6)


@pytest.mark.parametrize("penalty", SupportVectors.PENALTIES)
def test_support_vectors_are_those_of_sklearn(penalty):
    logits = fitted(SupportVectors(), Examples(X, CLASSES, 3), width=1.0, C=penalty)(NEW)
    model = SVC(C=penalty, gamma=1.0 / 10).fit(scaled(X), CLASSES)
    assert logits == pytest.approx(model.decision_function(scaled(NEW)), abs=1e-2)  # the solver stops within 1e-3


def test_of_two_classes_the_second_has_the_score():
    two = (CLASSES == 1).astype("int64")
    models = ((SupportVectors(), {"width": 1.0, "C": 1.0}), (Logistic(), {"C": 1.0}), (Boosting(), {"leaves": 7, "rounds": 20}))
    for model, settings in models:
        logits = fitted(model, Examples(X, two, 2), **settings)(X)
        assert logits.shape == (40, 2)
        assert (logits.argmax(1) == two).mean() > 0.7, model.name


def test_a_class_without_training_samples_is_never_answered():
    for name in MODELS["classification"]:
        for settings, predict in find_model(name, "classification").candidates(Examples(X, CLASSES, 5)):
            logits = predict(NEW)
            assert logits.shape == (9, 5), (name, settings)
            assert logits.argmax(1).max() < 3, (name, settings)
            assert np.isfinite(logits).all(), (name, settings)


def test_boosting_stops_after_the_rounds_that_it_says():
    flat, new = X.reshape(40, -1).astype("float64"), NEW.reshape(9, -1).astype("float64")
    short = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=7, max_bins=63, early_stopping=False, random_state=0).fit(
        flat, CLASSES
    )
    logits = fitted(Boosting(), Examples(X, CLASSES, 3), leaves=7, rounds=20)(NEW)
    assert logits == pytest.approx(short.decision_function(new))
    values = fitted(Boosting(), Examples(X, Y, None), leaves=7, rounds=50)(NEW)
    second = HistGradientBoostingRegressor(max_iter=50, max_leaf_nodes=7, max_bins=63, early_stopping=False, random_state=0).fit(
        flat, Y[:, 1]
    )
    assert values[:, 1] == pytest.approx(second.predict(new))


@pytest.mark.parametrize("shape", [(3, 2, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize("radius", [0, 1, 2])
def test_patches_are_what_lies_round_a_position(shape, radius):
    x = RNG.normal(size=shape)
    found = np.concatenate([block for _, block in patches(x, radius)])
    axes = shape[2:]
    row = 0
    for sample in x:
        for place in np.ndindex(*axes):
            expected = [
                channel[tuple(np.clip(np.add(place, step), 0, np.subtract(axes, 1)))]
                for channel in sample
                for step in np.ndindex(*(2 * radius + 1,) * len(axes))
                for step in [np.subtract(step, radius)]
            ]
            assert found[row].tolist() == expected
            row += 1
    assert row == len(found)


def test_patches_come_in_blocks_that_bound_memory(monkeypatch):
    monkeypatch.setattr("orca_core.floors.linear.PATCH_FLOATS", 100)
    x = RNG.normal(size=(7, 1, 10))
    blocks = list(patches(x, 1))
    assert [rows.start for rows, _ in blocks] == [0, 3, 6]
    monkeypatch.undo()
    assert np.concatenate([block for _, block in blocks]).tolist() == next(patches(x, 1))[1].tolist()


def test_patch_ridge_learns_a_local_rule_but_for_the_border():
    x = RNG.normal(size=(60, 1, 30)).astype("float32")
    y = 2 * np.roll(x, 1, axis=2) - np.roll(x, -2, axis=2) + 5
    y[0, 0, 4] = np.nan  # does not count
    predict = fitted(PatchRidge(), Examples(x[:50], y[:50], None), radius=2, alpha=1e-6)
    inside = (slice(None), slice(None), slice(2, -2))
    assert np.abs(predict(x[50:]) - y[50:])[inside].max() < 0.5
    exact = y.copy()
    exact[:, :, :2] = exact[:, :, -2:] = np.nan
    predict = fitted(PatchRidge(), Examples(x[:50], exact[:50], None), radius=2, alpha=1e-6)
    centred = (y - np.nanmean(y[:50], axis=0))[50:]
    assert np.abs(predict(x[50:]) - y[50:])[inside].max() < 0.01 * np.abs(centred).max()


def test_persistence_undoes_the_scale_of_each_channel():
    x = RNG.normal(size=(20, 3, 8)).astype("float32")
    y = np.stack([2 * x[:, 0] + 1, -x[:, 1] / 2], axis=1)
    y[3, 0, 2] = np.nan
    answers = fitted(Persistence(), Examples(x, y, None))(x)
    known = ~np.isnan(y)
    assert answers[known] == pytest.approx(y[known], abs=1e-5)
    assert Persistence().fits(Sizes(1, 1, 1, (3, 8), (2, 8)))
    assert not Persistence().fits(Sizes(1, 1, 1, (1, 8), (2, 8)))
    assert not Persistence().fits(Sizes(1, 1, 1, (3, 8), (2, 4)))


def test_the_mean_leaves_out_what_does_not_count():
    y = np.array([[[1.0, np.nan]], [[3.0, np.nan]], [[5.0, 4.0]]], dtype="float32")
    assert fitted(Mean(), Examples(np.empty((3, 0)), y, None))(np.empty((2, 0))).tolist() == [[[3.0, 4.0]]] * 2


# -------------------------------------------------------------------------------------------------------------------------- rows


def rows_of(case: FloorCase, models: list[str] | None = None) -> dict[str, FloorRow]:
    return {row.model: row for row in compute_floors(case, models)}


@pytest.fixture(scope="module")
def digits() -> dict[str, FloorRow]:
    return rows_of(FloorCase("digits"))


def test_digits_need_no_transformer(digits):
    assert list(digits) == list(MODELS["classification"])
    assert all(row.is_complete for row in digits.values())
    assert digits["svm"].test_error == pytest.approx(0.008, abs=0.006)
    assert digits["svm"].test_error < digits["logistic"].test_error < digits["majority"].test_error


def test_settings_are_chosen_on_validation_and_scored_on_test(digits):
    data = load_parts(find_task("digits"))
    errors = {}
    for number in Neighbours.NUMBERS:
        model = KNeighborsClassifier(number, algorithm="brute").fit(data.train.x.reshape(len(data.train), -1), data.train.y)
        errors[number] = [float((model.predict(part.x.reshape(len(part), -1)) != part.y).mean()) for part in (data.valid, data.test)]
    best = min(errors, key=lambda number: errors[number][0])
    row = digits["neighbours"]
    assert json.loads(row.settings) == {"neighbours": best}
    assert [row.valid_error, row.test_error] == pytest.approx(errors[best])
    assert (row.fitted_samples, row.valid_samples, row.test_samples) == (len(data.train), len(data.valid), len(data.test))
    assert (row.selection, row.features, row.score) == ("valid", 64, "1-accuracy")


@pytest.mark.parametrize("task", ["digits", "openml/1510", "openml/187", "mnist1d"])
def test_the_majority_is_that_of_the_column_majority_error(task):
    sizes, row = find_sizes(find_task(task)), rows_of(FloorCase(task), ["majority"])["majority"]
    assert [row.valid_error, row.test_error] == pytest.approx([sizes.valid_majority_error, sizes.majority_error])


@pytest.mark.parametrize(("task", "model", "error"), [("advection-mini", "ridge", 0.0), ("darcy-mini", "ridge", 0.07)])
def test_fields_need_no_transformer(task, model, error):
    assert rows_of(FloorCase(task), [model])[model].test_error == pytest.approx(error, abs=0.006)


def without_time(rows: Mapping[str, FloorRow]) -> list[FloorRow]:
    return [replace(row, seconds=None) for row in rows.values()]


def test_the_same_case_gives_the_same_rows_and_another_split_others():
    one, again, other = (rows_of(FloorCase("openml/1510", split_seed=seed)) for seed in (0, 0, 1))
    assert without_time(one) == without_time(again)
    assert one["svm"].task_digest == other["svm"].task_digest
    assert one["neighbours"].valid_error != other["neighbours"].valid_error


def test_train_samples_are_those_of_trials(quick):
    row = rows_of(FloorCase("openml/187", train_samples=20), ["neighbours"])["neighbours"]
    data = load_data(Settings.of(quick("openml/187", {"train_samples": 20}), "finetune"))
    number = json.loads(row.settings)["neighbours"]
    model = KNeighborsClassifier(number, algorithm="brute").fit(data.train.x.reshape(20, -1), data.train.y)
    expected = 1 - roc_auc_score(data.test.y, model.predict_proba(data.test.x.reshape(len(data.test), -1)), multi_class="ovo")
    assert (row.fitted_samples, row.test_error) == (20, pytest.approx(expected))


def test_with_folds_settings_are_chosen_by_the_mean_and_fitted_to_all_rows():
    folds, spec = 4, find_task("openml/187")
    row = rows_of(FloorCase("openml/187", validation=Validation(folds=folds)), ["neighbours"])["neighbours"]
    errors = {number: [] for number in Neighbours.NUMBERS}
    for fold in range(folds):
        data = load_parts(spec, validation=Validation(folds=folds, fold=fold))
        for number, of_number in errors.items():
            model = KNeighborsClassifier(number, algorithm="brute").fit(data.train.x[:, :, 0], data.train.y)
            of_number.append(1 - roc_auc_score(data.valid.y, model.predict_proba(data.valid.x[:, :, 0]), multi_class="ovo"))
    means = {number: np.mean(of_number) for number, of_number in errors.items()}
    best = min(means, key=means.__getitem__)
    assert (row.selection, json.loads(row.settings), row.valid_error) == ("folds", {"neighbours": best}, pytest.approx(means[best]))
    final = load_parts(spec, validation=Validation(folds=folds))
    assert (row.fitted_samples, row.valid_samples) == (len(final.train), len(final.train))
    model = KNeighborsClassifier(best, algorithm="brute").fit(final.train.x[:, :, 0], final.train.y)
    assert row.test_error == pytest.approx(1 - roc_auc_score(final.test.y, model.predict_proba(final.test.x[:, :, 0]), multi_class="ovo"))


# ------------------------------------------------------------------------------------------------------------------------- sizes


def test_large_tasks_get_fewer_samples_until_work_and_memory_suffice():
    small, large = Sizes(10_000, 500, 500, (1, 64), (10,)), Sizes(10_000, 500, 500, (1, 50_000), (10,))
    assert find_cap(SupportVectors(), small) == 2_048, "its own limit"
    cap = find_cap(SupportVectors(), large)
    assert cap is not None
    assert 256 <= cap < 2_048
    assert SupportVectors().work(replace(large, train=cap)) <= compute.MAX_WORK
    assert 8 * (cap + 500) * 50_000 <= compute.MAX_BYTES
    twice = SupportVectors().work(replace(large, train=2 * cap)) > compute.MAX_WORK or 8 * (2 * cap + 500) * 50_000 > compute.MAX_BYTES
    assert twice, "no more than needed is left out"
    assert find_cap(find_model("majority", "classification"), large) is None


def test_a_model_gets_its_cap_of_training_samples_drawn_by_the_split_seed(monkeypatch):
    monkeypatch.setattr(SupportVectors, "most", 512)
    one, again, other = (rows_of(FloorCase("digits", split_seed=seed), ["svm"])["svm"] for seed in (0, 0, 1))
    assert (one.cap, one.fitted_samples) == (512, 512)
    assert (one.valid_error, one.test_error) == (again.valid_error, again.test_error)
    assert one.test_error != other.test_error


def test_a_task_that_is_too_large_says_so_in_a_row(monkeypatch):
    monkeypatch.setattr(compute, "MAX_WORK", 1e5)
    rows = rows_of(FloorCase("openml/187"))
    assert rows["majority"].is_complete
    for name in ("logistic", "neighbours", "svm", "boosting"):
        row = rows[name]
        assert (row.status, row.test_error) == ("TOO_LARGE", None)
        assert "multiplications, more than 1e+05" in row.cause
        assert "13 values" in row.cause


def test_missing_data_are_rows_with_their_cause(tmp_path, use_data):
    use_data(tmp_path)
    rows = rows_of(FloorCase("nb360/satellite"))
    assert list(rows) == list(MODELS["classification"])
    assert {row.status for row in rows.values()} == {"FAIL"}
    assert all("satellite_train.npy" in row.cause and row.task_digest is None for row in rows.values())


def test_a_model_that_fails_leaves_the_others_alone(monkeypatch):
    monkeypatch.setattr(SupportVectors, "PENALTIES", (-1.0,))  # which scikit-learn refuses
    rows = rows_of(FloorCase("openml/187"))
    assert [row.model for row in rows.values() if row.status == "FAIL"] == ["svm"]
    assert rows["svm"].cause.startswith("InvalidParameterError: The 'C' parameter of SVC must be")
    assert all(row.is_complete for row in rows.values() if row.model != "svm")


def test_where_validation_is_the_test_part_the_row_says_so(tmp_path):
    x, y = RNG.normal(size=(60, 1, 6)).astype("float32"), np.arange(60) % 3
    np.savez(tmp_path / "same.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:], x_valid=x[40:], y_valid=y[40:])
    assert rows_of(FloorCase(f"npz:{tmp_path}/same.npz"), ["neighbours"])["neighbours"].selection == "test"


def test_every_model_has_a_version_and_a_place():
    names = {*FLOOR_MODELS}
    assert names == set(VERSIONS) == set(SIMPLE_FIRST)
    assert all(find_model(name, kind).name == name for kind, of_kind in MODELS.items() for name in of_kind)


def test_a_case_is_read_back_from_the_cells_of_its_row():
    case = FloorCase("digits", True, 3, 50, Validation(folds=5))
    assert FloorCase.of_row(case.cells()) == case
    assert case.settings() == " --set split_seed=3 --set train_samples=50 --set reference_data=true --set validation.folds=5"
    assert FloorCase.of_row({"task": "digits", "reference_data": None, "split_seed": 0}) == FloorCase("digits")
