"""Every built-in task against the promises of `TaskData`, the solvers against their equations, own arrays against each rule."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from orca_core.errors import DataError
from orca_core.proxies import PROXIES
from orca_core.tasks import TASKS as ALL_TASKS
from orca_core.tasks import TaskData, find_task, mnist1d, pde
from orca_core.tasks.splitting import deal, standardise, stratified_order
from orca_core.testing import TaskContract

TASKS = {name: spec for name, spec in ALL_TASKS.items() if not spec.expects}  # published data sets: see tasks/
PARTS = ("train", "valid", "test")
FROM_FILES = [name for name, spec in TASKS.items() if spec.files()]
GENERATED = [name for name in TASKS if name not in FROM_FILES]
SIZES = {
    "digits": (1258, 180, 359),
    "digits-shifted": (2516, 360, 718),
    "openml/1510": (455, 57, 57),
    "openml/187": (142, 18, 18),
    "mnist1d": (3600, 400, 1000),
    "advection-mini": (600, 100, 100),
    "burgers-mini": (600, 100, 100),
    "darcy-mini": (400, 50, 50),
    "darcy-16": (400, 50, 50),
}
SHAPES = {
    "digits": ((1, 8, 8), (10,)),
    "digits-shifted": ((1, 16, 16), (10,)),
    "openml/1510": ((30, 1), (2,)),
    "openml/187": ((13, 1), (3,)),
    "mnist1d": ((1, 40), (10,)),
    "advection-mini": ((1, 128), (1, 128)),
    "burgers-mini": ((1, 128), (1, 128)),
    "darcy-mini": ((3, 32, 32), (1, 32, 32)),
    "darcy-16": ((3, 16, 16), (1, 16, 16)),
}


@lru_cache
def load(name: str, split_seed: int = 0) -> TaskData:
    return TASKS[name].load(split_seed)


def digest_of(data: TaskData) -> str:
    arrays = [array for part in PARTS for array in (getattr(data, part).x, getattr(data, part).y)]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


# Every task


class TestTasks(TaskContract):
    """Every built-in task that needs no files of its own."""

    test_an_entry_point_can_register_it = None  # they are built in

    @pytest.fixture(autouse=True, params=TASKS)
    def _spec(self, request):
        self.spec = TASKS[request.param]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_the_shapes_and_sizes_of_its_data_set(name):
    data = load(name)
    assert (data.input_shape, data.output_shape) == SHAPES[name]
    assert tuple(len(getattr(data, part)) for part in PARTS) == SIZES[name]


@pytest.mark.parametrize("name", [name for name, spec in TASKS.items() if spec.kind == "classification"])
def test_every_class_is_in_every_part_in_its_proportion(name):
    data = load(name)
    share = np.bincount(data.train.y) / len(data.train)
    assert len(share) == data.num_classes
    for part in (data.valid, data.test):
        assert np.abs(np.bincount(part.y, minlength=len(share)) / len(part) - share).max() < 0.04


@pytest.mark.parametrize("name", TASKS)
def test_no_row_stands_twice(name):
    data = load(name)
    rows = [{row.tobytes() for row in getattr(data, part).x} for part in PARTS]
    assert len(set.union(*rows)) == sum(SIZES[name])


@pytest.mark.parametrize("name", TASKS)
def test_generated_tasks_keep_their_test_rows_and_others_split_all_rows_anew(name):
    data, other = load(name), load(name, 1)
    rows, other_rows = (part.y if data.num_classes is None else part.x for part in (data.test, other.test))
    assert np.allclose(rows, other_rows, atol=0.01) == (name in GENERATED)  # inputs are scaled by the training rows of each split


@pytest.mark.parametrize("name", TASKS)
def test_recipes_fit_the_task(name):
    spec = TASKS[name]
    for recipe in spec.recipes.values():
        assert {"body", "embedder", "align", "finetune"} <= set(recipe)
        assert recipe["finetune"]["decay_epochs"] >= recipe["finetune"]["epochs"]
    laptop = spec.recipes["laptop"]
    assert laptop["body"]["name"] == {1: "mini-roberta", 2: "mini-swin"}[spec.dims]
    assert PROXIES[laptop["proxy"]].fits({1: "text", 2: "images"}[spec.dims])


@pytest.mark.parametrize("name", ["openml/1510", "openml/187"])
def test_published_alignment_learns_ten_times_faster_than_fine_tuning(name):
    published = TASKS[name].recipes["published"]
    assert published["align"]["lr"] == pytest.approx(10 * published["finetune"]["lr"])


def test_shifted_digits_are_those_of_digits_at_other_places():
    """Both fields of an image follow one another, in the part of the image and with its class; every place occurs."""
    plain, shifted = load("digits"), load("digits-shifted")
    corners = set()
    for part in PARTS:
        images, fields = getattr(plain, part), getattr(shifted, part)
        assert fields.y.tolist() == images.y.repeat(2).tolist()
        for number, field in enumerate(fields.x[:, 0]):
            image = images.x[number // 2, 0]
            windows = np.lib.stride_tricks.sliding_window_view(field, (8, 8))
            at = np.argwhere((windows == image).all((2, 3)))
            assert len(at) == 1
            assert field.sum() == pytest.approx(image.sum())
            corners.add(tuple(at[0]))
    assert corners == {(row, column) for row in range(9) for column in range(9)}


def test_generated_data_are_the_same_bits_in_another_process_with_other_threads():
    code = "import tests.orca_core.test_tasks as t; print(*(t.digest_of(t.load(name)) for name in t.GENERATED))"
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    root = Path(__file__).parents[2]
    there = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.split() == [digest_of(load(name)) for name in GENERATED]


def test_naming_tasks_and_proxies_imports_no_heavy_package():
    code = (
        "import sys, orca_core.tasks, orca_core.proxies\n"
        "tasks = [spec for spec in orca_core.tasks.TASKS.values() if not spec.expects]\n"
        "proxies = [spec for spec in orca_core.proxies.PROXIES.values() if not spec.expects]\n"
        "[spec.digest() for spec in [*tasks, *proxies]]\n"
        "print(*{'numpy', 'scipy', 'sklearn', 'torch', 'PIL'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_damaged_table_is_told_with_what_to_do(tmp_path, monkeypatch):
    table = tmp_path / "wine_data.csv"
    table.write_text("178,13\n14.2,oops,0\n")
    monkeypatch.setattr("orca_core.tasks.builtin.find_package_file", lambda *parts: table)
    with pytest.raises(DataError, match=r"wine_data\.csv: cannot be read as a table of numbers .*Reinstall scikit-learn"):
        TASKS["openml/187"].load(0)


# Splitting and standardising


def test_every_prefix_holds_the_classes_in_their_proportions():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    order = stratified_order(labels, seed=3)
    assert sorted(order) == list(range(100))
    for size in (10, 20, 50):
        assert np.abs(np.bincount(labels[order[:size]], minlength=3) - size * np.array([0.6, 0.3, 0.1])).max() <= 1


def test_the_last_rows_are_one_of_each_class_even_if_a_class_has_but_one():
    labels = np.array([7, 7, 7, 7, 7, 7, 2, 2, 9])
    assert sorted(labels[stratified_order(labels, seed=0)[-3:]]) == [2, 7, 9]


def test_dense_targets_are_dealt_at_random_and_stay_with_their_inputs():
    x = np.arange(20, dtype=np.float32).reshape(20, 1, 1)
    parts = deal(x, 2 * x, seed=0, num_valid=3, num_test=4)
    assert [len(part) for part in parts] == [13, 3, 4]
    assert all((part.y == 2 * part.x).all() for part in parts)


def test_standardising_looks_at_train_alone():
    x = np.array([[[1.0], [5.0]], [[3.0], [5.0]], [[4.0], [6.0]]], dtype=np.float32)
    parts = [deal(x[rows], np.arange(len(x[rows])), 0, num_valid=0)[0] for rows in (slice(0, 2), slice(2, 3), slice(2, 3))]
    data = standardise(TaskData(*parts, num_classes=2))
    # Channel 0 of train is (1, 3): mean 2, deviation 1. Channel 1 is constant: only its mean, 5, is taken off.
    assert sorted(data.train.x[:, 0, 0]) == [-1, 1]
    assert (data.train.x[:, 1] == 0).all()
    assert data.test.x.ravel().tolist() == [2, 1]


# The solvers


def test_advection_moves_the_state_to_the_right():
    x = np.arange(pde.GRID) / pde.GRID
    moved = pde.advect(np.sin(2 * np.pi * x) + 0.5 * np.cos(10 * np.pi * x), distance=0.8)
    assert moved == pytest.approx(np.sin(2 * np.pi * (x - 0.8)) + 0.5 * np.cos(10 * np.pi * (x - 0.8)), abs=1e-12)


def test_a_whole_number_of_grid_steps_rolls_the_advection_state():
    data = load("advection-mini")
    start = data.test.x.astype(np.float64)
    assert pde.advect(start, 3 / pde.GRID) == pytest.approx(np.roll(start, 3, axis=-1), abs=1e-6)
    assert pde.advect(start, pde.ADVECTION_SPEED * pde.ADVECTION_TIME) == pytest.approx(data.test.y, abs=1e-5)


def cole_hopf(u: np.ndarray, viscosity: float, time: float) -> np.ndarray:
    """Burgers' equation by way of the heat equation: u = -2 viscosity (log phi)_x, phi the heat flow of exp(-integral of u)."""
    wave = 2 * np.pi * np.arange(u.shape[-1] // 2 + 1)
    spectrum = np.fft.rfft(u)
    integral = np.fft.irfft(np.divide(spectrum, 1j * wave, where=wave > 0, out=np.zeros_like(spectrum)), n=u.shape[-1])
    heat = np.fft.rfft(np.exp(-integral / (2 * viscosity))) * np.exp(-viscosity * wave**2 * time)
    return -2 * viscosity * np.fft.irfft(1j * wave * heat, n=u.shape[-1]) / np.fft.irfft(heat, n=u.shape[-1])


def test_burgers_agrees_with_the_cole_hopf_solution():
    start = pde.random_waves(np.random.Generator(np.random.PCG64(2)), samples=800, modes=4, points=pde.GRID)[:200]
    solved = pde.solve_burgers(start, pde.BURGERS_VISCOSITY, pde.BURGERS_TIME, pde.BURGERS_STEPS)
    exact = cole_hopf(start, pde.BURGERS_VISCOSITY, pde.BURGERS_TIME)
    error = np.sqrt(((solved - exact) ** 2).mean(axis=1) / (exact**2).mean(axis=1))
    assert error.max() < 1e-4


def test_burgers_changes_little_on_a_finer_grid_in_finer_steps():
    fine = pde.random_waves(np.random.Generator(np.random.PCG64(5)), samples=20, modes=4, points=2 * pde.GRID)
    coarse_end = pde.solve_burgers(fine[:, ::2], pde.BURGERS_VISCOSITY, pde.BURGERS_TIME, pde.BURGERS_STEPS)
    fine_end = pde.solve_burgers(fine, pde.BURGERS_VISCOSITY, pde.BURGERS_TIME, 2 * pde.BURGERS_STEPS)
    assert coarse_end == pytest.approx(fine_end[:, ::2], abs=1e-4)


def test_burgers_keeps_the_mean():
    start = 0.3 + pde.random_waves(np.random.Generator(np.random.PCG64(6)), samples=5, modes=4, points=64)
    assert pde.solve_burgers(start, 0.02, 0.2, 50).mean(axis=1) == pytest.approx(np.full(5, 0.3), abs=1e-12)


def test_darcy_with_one_rock_is_the_series_solution_of_poisson():
    side = 65
    odd = np.arange(1, 400, 2)
    i, j = odd[:, None], odd[None, :]
    centre = (16 / np.pi**4 * np.sin(i * np.pi / 2) * np.sin(j * np.pi / 2) / (i * j * (i**2 + j**2))).sum()
    assert centre == pytest.approx(0.07367, abs=1e-5)
    pressure = pde.solve_darcy(np.ones((side, side)))
    assert pressure[side // 2, side // 2] == pytest.approx(centre, rel=1e-3)
    assert pressure == pytest.approx(pressure.T, abs=1e-12)
    assert pressure == pytest.approx(pressure[::-1, ::-1], abs=1e-12)


def test_darcy_solves_its_equation_in_every_cell():
    side = 8
    a = pde.random_coefficients(np.random.Generator(np.random.PCG64(1)), samples=1, side=side)[0]
    assert set(np.unique(a)) == {3.0, 12.0}
    u = pde.solve_darcy(a)
    for row in range(side):
        for column in range(side):
            outflow = 0.0
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= r < side and 0 <= c < side:
                    outflow += 2 / (1 / a[row, column] + 1 / a[r, c]) * (u[row, column] - u[r, c])
                else:
                    outflow += 2 * a[row, column] * u[row, column]
            assert outflow == pytest.approx(1 / side**2)


def test_darcy_flows_more_easily_through_a_pervious_square():
    assert pde.solve_darcy(np.full((9, 9), 12.0)) == pytest.approx(pde.solve_darcy(np.full((9, 9), 3.0)) / 4)


# MNIST-1D


def test_mnist1d_templates_start_at_zero_with_variance_one_36th():
    templates = mnist1d.templates()
    assert templates.shape == (10, 12)
    assert (templates[:, 0] == 0).all()
    assert templates.var(axis=1) == pytest.approx(np.full(10, 1 / 36))


def test_mnist1d_is_balanced_and_standardised_by_its_training_rows():
    _, y = mnist1d.draw(1000, np.random.Generator(np.random.PCG64(0)))
    assert np.bincount(y).tolist() == [100] * 10
    data = load("mnist1d")
    assert (data.train.x.mean(dtype="float64"), data.train.x.std(dtype="float64")) == pytest.approx((0, 1), abs=1e-7)
    whole = np.concatenate([getattr(data, part).x for part in PARTS])
    assert abs(whole.mean(dtype="float64")) > 1e-5


def test_mnist1d_is_as_hard_for_a_linear_model_as_the_paper_says():
    from sklearn.linear_model import LogisticRegression

    data = load("mnist1d")
    linear = LogisticRegression(max_iter=200).fit(data.train.x[:, 0], data.train.y)
    assert linear.score(data.test.x[:, 0], data.test.y) == pytest.approx(0.32, abs=0.03)


# Own arrays


def good_arrays(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Six training and four test series of two classes; `changes` replaces arrays, None drops one."""
    arrays = {
        "x_train": np.arange(30.0).reshape(6, 1, 5),
        "y_train": np.arange(6) % 2,
        "x_test": -np.arange(20.0).reshape(4, 1, 5),
        "y_test": np.arange(4) % 2,
    } | changes
    return {key: array for key, array in arrays.items() if array is not None}


def save(folder: Path, arrays: dict[str, np.ndarray]) -> str:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


def faults_of(folder: Path, arrays: dict[str, np.ndarray]) -> list[str]:
    """The lines of the error, without the path of the file."""
    with pytest.raises(DataError) as error:
        find_task(save(folder, arrays)).load(0)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{folder / 'own.npz'}: ") for line in lines)
    return [line.removeprefix(f"{folder / 'own.npz'}: ") for line in lines]


def test_own_series_with_their_own_test_part(tmp_path):
    spec = find_task(save(tmp_path, good_arrays()))
    assert (spec.dims, spec.kind, spec.loss, spec.score) == (1, "classification", "cross-entropy", "1-accuracy")
    data = spec.load(0)
    assert (data.input_shape, data.num_classes) == ((1, 5), 2)
    assert [len(getattr(data, part)) for part in PARTS] == [5, 1, 4]
    assert (data.test.x == good_arrays()["x_test"]).all()
    assert data.train.x.dtype == np.float32
    assert data.train.y.dtype == np.int64


def test_own_validation_part_is_taken_as_it_is(tmp_path):
    valid = {"x_valid": np.full((2, 1, 5), 7), "y_valid": np.array([1, 0])}
    data = find_task(save(tmp_path, good_arrays(**valid))).load(0)
    assert (data.valid.x == 7).all()
    assert [len(getattr(data, part)) for part in PARTS] == [6, 2, 4]


@pytest.mark.parametrize("split_seed", [0, 1])
def test_own_rows_keep_their_order_where_nothing_is_split_off(tmp_path, split_seed):
    valid = {"x_valid": np.full((2, 1, 5), 7), "y_valid": np.array([1, 0])}
    spec = find_task(save(tmp_path, good_arrays(**valid)))
    data = spec.load(split_seed)
    assert (data.train.x == good_arrays()["x_train"]).all()
    assert data.train.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert spec.version == 2  # version 1 shuffled them
    assert find_task(save(tmp_path, good_arrays())).version == 1


def test_own_whole_set_is_split_by_the_seed(tmp_path):
    spec = find_task(save(tmp_path, {"x": np.arange(120).reshape(40, 3), "y": np.arange(40) % 2}))
    data, again, other = spec.load(0), spec.load(0), spec.load(1)
    assert [len(getattr(data, part)) for part in PARTS] == [28, 4, 8]
    assert data.input_shape == (1, 3)
    assert digest_of(data) == digest_of(again) != digest_of(other)
    assert len({row.tobytes() for part in PARTS for row in getattr(data, part).x}) == 40


def test_own_labels_become_ids_in_sorted_order(tmp_path):
    data = find_task(save(tmp_path, good_arrays(y_train=np.array([5, -3] * 3), y_test=np.array([5, 5, -3, 5])))).load(0)
    assert data.test.y.tolist() == [1, 1, 0, 1]


def test_own_dense_images(tmp_path):
    spec = find_task(save(tmp_path, {"x": np.random.default_rng(0).random((10, 3, 4, 6)), "y": np.zeros((10, 2, 4, 6), np.float16)}))
    assert (spec.dims, spec.kind, spec.loss, spec.score) == (2, "dense", "nrmse", "nrmse")
    data = spec.load(0)
    assert (data.input_shape, data.output_shape, data.num_classes) == ((3, 4, 6), (2, 4, 6), None)
    assert data.train.y.dtype == np.float32


def test_a_class_of_one_row_stays_in_train(tmp_path):
    spec = find_task(save(tmp_path, {"x": np.arange(60).reshape(20, 3), "y": np.array([0] * 19 + [1])}))
    assert all(1 in spec.load(seed).train.y for seed in range(5))


KEYS = "The keys are either x, y, or x_train, y_train, x_test, y_test and optionally x_valid, y_valid."
FORMS = "must have the shape (n, length), (n, channels, length) or (n, channels, height, width)"
Y_FORMS = "must be integer labels of shape (n,), or float targets with one value for each position of x"
Y_REMEDY = "Convert labels with .astype('int64'), targets with .astype('float32')."


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"y_test": None}, f"y_test: must be in the file, but got ['x_train', 'y_train', 'x_test']. {KEYS}"),
        (
            {"x_valid": np.zeros((2, 1, 5))},
            f"y_valid: must be in the file, but got ['x_train', 'y_train', 'x_test', 'y_test', 'x_valid']. {KEYS}",
        ),
        ({"mask": np.zeros(3)}, f"mask: must not be in the file. {KEYS}"),
        ({"x_train": np.zeros(6)}, f"x_train: {FORMS}, but got (6,). Reshape it."),
        ({"x_test": np.zeros((4, 1, 5, 2, 2))}, f"x_test: {FORMS}, but got (4, 1, 5, 2, 2). Reshape it."),
        ({"x_test": np.zeros((0, 1, 5))}, "x_test: must not be empty, but got (0, 1, 5). Add rows."),
        (
            {"x_train": np.array([1, "a"] * 3, dtype=object)},
            "x_train: must be an array of numbers, but got 'object'. Pickled objects are refused. Stack them into one numeric array.",
        ),
        ({"y_train": np.array(list("ababab"))}, "y_train: must be an array of real numbers, but got '<U1'. Convert it with .astype."),
        ({"y_train": np.zeros(6)}, f"y_train: {Y_FORMS}, but got ('float64', (6,)). {Y_REMEDY}"),
        ({"y_test": np.zeros((4, 5), int)}, f"y_test: {Y_FORMS}, but got ('int64', (4, 5)). {Y_REMEDY}"),
        ({"y_train": np.arange(5) % 2}, "y_train: must have the 6 rows of x_train, but got 5. Pair each x with its y."),
        ({"x_test": np.zeros((4, 1, 6))}, "x_test: must have rows of shape (1, 5) like x_train, but got (1, 6). Reshape it."),
        ({"y_test": np.zeros((4, 1, 5))}, "y_test: must have rows of shape () like y_train, but got (1, 5). Reshape it."),
        (
            {"y_train": np.zeros(6, int), "y_test": np.zeros(4, int)},
            "y_train: must have at least two classes, but got [0]. Add rows of another.",
        ),
        ({"y_test": np.array([0, 1, 8, 9])}, "y_test: must have only labels of y_train, but got [8, 9]. Add rows of it to train."),
        (
            {"x_train": np.array([np.nan, np.inf, 1e300, 0, 0] * 6).reshape(6, 1, 5)},
            "x_train: must have no NaN and no infinite value in float32, but got 18. Remove or fill them.",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "+".join(value),
)
def test_a_fault_of_own_arrays_is_told(tmp_path, changes, fault):
    assert faults_of(tmp_path, good_arrays(**changes)) == [fault]


def test_dense_targets_must_have_the_positions_of_the_inputs(tmp_path):
    faults = faults_of(tmp_path, {"x": np.zeros((10, 1, 5)), "y": np.zeros((10, 1, 4))})
    assert faults == ["y: must have one target for each position of x, (5,), but got (4,). Resample it."]


def test_too_few_rows_to_hold_some_out(tmp_path):
    faults = faults_of(tmp_path, {"x": np.zeros((4, 5)), "y": np.array([0, 1, 2, 3])})
    rule = "must have rows for 1 of validation, 1 of test and one of each class in train"
    assert faults == [f"y: {rule}, but got 4. Add rows."]


def test_all_faults_are_told_at_once(tmp_path):
    faults = faults_of(tmp_path, good_arrays(y_test=None, extra=np.zeros(1), x_train=np.zeros(6)))
    assert [fault.split(":")[0] for fault in faults] == ["y_test", "extra", "x_train"]


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"\x93NUMPY\x01\x00v\x00"])
def test_what_is_no_npz_is_refused_when_the_task_is_named(tmp_path, content):
    path = tmp_path / "own.npz"
    rule = "must be an existing file"
    if content is not None:
        path.write_bytes(content)
        rule = "must be an .npz file"
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: {rule}.* Write one with numpy\.savez"):
        find_task(f"npz:{path}")


def test_damaged_values_are_told_when_the_task_is_loaded(tmp_path):
    x = np.arange(3000.0).reshape(6, 500)  # more than what is read of a zip's member at a time
    name = save(tmp_path, {"x": x, "y": np.arange(6) % 2})
    path = tmp_path / "own.npz"
    content = bytearray(path.read_bytes())
    content[content.index(x[-1].tobytes())] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"own\.npz: must be a complete \.npz file.*x\.npy.* Write it again"):
        find_task(name).load(0)


def test_naming_own_arrays_reads_no_values(tmp_path):
    name = save(tmp_path, good_arrays(x_train=np.full((6, 1, 5), np.nan)))
    assert find_task(name).kind == "classification"


def test_own_arrays_are_known_by_their_content(tmp_path):
    first = find_task(save(tmp_path, good_arrays())).digest()
    (tmp_path / "elsewhere").mkdir()
    assert find_task(save(tmp_path / "elsewhere", good_arrays())).digest() == first
    assert find_task(save(tmp_path, good_arrays(y_test=np.array([1, 1, 0, 0])))).digest() != first
