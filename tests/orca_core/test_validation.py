"""Which rows validate: the share, the folds, and a trial whose epoch is chosen by folds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from orca_core import pipeline, trial_stages
from orca_core.config.knobs import TrialConfig
from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError
from orca_core.export import tuned_model
from orca_core.pipeline import run_trial
from orca_core.rows import EpochRow, Row, StageRow, TrialResult, best_row, mean_rows
from orca_core.stages import stages_of
from orca_core.store import Store
from orca_core.tasks import Split, TaskData, TaskSpec, find_task
from orca_core.tasks.splitting import deal, hold_out
from orca_core.tasks.validation import Validation, hold_out_first

NUM_ROWS, NUM_TEST, FOLDS = 30, 6, 3


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> str:
    """30 series of 3 classes, of which 6 are the test part."""
    path = tmp_path_factory.mktemp("series") / "series.npz"
    y = np.arange(NUM_ROWS) % 3
    x = np.random.default_rng(0).normal(size=(NUM_ROWS, 1, 12)) + y[:, None, None]
    np.savez(path, x=x.astype("float32"), y=y)
    return f"npz:{path}"


def small(task: str, **knobs: object) -> TrialConfig:
    """A trial of a second; `knobs` are spelled with `__` for a dot."""
    base = {
        "task": task,
        "proxy": "noise",
        "body.weights": "random",
        "align.epochs": 1,
        "align.objective": "mmd",
        "align.proxy_samples": 20,
        "finetune.epochs": 2,
        "finetune.batch_size": 8,
        "finetune.warmup_epochs": 1,
        "finetune.decay_epochs": 3,
    }
    return resolve_config(base | {name.replace("__", "."): value for name, value in knobs.items()})


def run(config: TrialConfig, store: Store) -> tuple[list[Row], TrialResult]:
    rows: list[Row] = []
    result = run_trial(config, store, rows.append)
    return rows, result


def bare(row: Row) -> Row:
    """A row without times and without its fold."""
    row = replace(row, fold=None, seconds=0.0, memory_bytes=None)
    return replace(row, saved_s=0.0, reused_epochs=0, stored_bytes=None) if isinstance(row, StageRow) else row


# ---------------------------------------------------------------------------------------------------------------- dividing


def test_folds_are_dealt_class_by_class():
    # By class the rows are 0 1 2 3 | 4 5 6; every third of these is in one fold, and the others train in their given order.
    rows, strata = np.array([4, 0, 5, 1, 2, 6, 3]), np.array([0, 0, 0, 0, 1, 1, 1])
    expected = [([4, 5, 1, 2], [0, 6, 3]), ([0, 5, 2, 6, 3], [4, 1]), ([4, 0, 1, 6, 3], [5, 2])]
    for fold, (train, valid) in enumerate(expected):
        with Validation(folds=3, fold=fold).use() as request:
            found = hold_out_first(rows, strata, number=2)
        assert request.is_met
        assert [part.tolist() for part in found] == [train, valid]


def test_without_a_wish_the_first_rows_validate():
    train, valid = hold_out_first(np.array([2, 0, 1]), np.zeros(3), number=1)
    assert (train.tolist(), valid.tolist()) == ([0, 1], [2])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [2, 3, 7])
def test_each_row_validates_in_one_fold_and_classes_are_spread_evenly(seed, folds):
    y = np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], [23, 9, 2]))
    held = []
    for fold in range(folds):
        with Validation(folds=folds, fold=fold).use():
            train, valid = hold_out(y, 0.1, split_seed=seed)
        assert sorted([*train, *valid]) == list(range(len(y)))
        assert set(y[train]) == {0, 1, 2}
        held.append(valid)
    assert sorted(np.concatenate(held)) == list(range(len(y)))
    for counts in [[len(valid) for valid in held], *([(y[valid] == label).sum() for valid in held] for label in range(3))]:
        assert max(counts) - min(counts) <= 1


def test_another_split_seed_draws_other_folds():
    y = np.arange(40) % 2
    with Validation(folds=4, fold=0).use():
        assert hold_out(y, 0.1, 0)[1].tolist() != hold_out(y, 0.1, 1)[1].tolist()


@pytest.mark.parametrize(("share", "number"), [(None, 3), (0.5, 12), (0.01, 1), (0.99, 23)])
def test_the_share_is_of_the_rows_outside_the_test_part(share, number):
    x = np.arange(30.0)[:, None, None]
    with Validation(share).use():
        train, valid, test = deal(x, np.zeros(30, int), 0, num_valid=3, num_test=6)
    assert (len(train), len(valid), len(test)) == (24 - number, number, 6)
    assert sorted(np.concatenate([part.x.ravel() for part in (train, valid, test)])) == list(range(30))


def test_the_share_of_own_arrays_changes_with_the_knob_alone(task):
    sizes = {share: [len(getattr(find_task(task).load(0, validation=Validation(share)), part)) for part in ("train", "valid", "test")]
             for share in (None, 0.25)}  # fmt: skip
    assert sizes == {None: [21, 3, NUM_TEST], 0.25: [18, 6, NUM_TEST]}


def test_too_few_rows_are_refused():
    with Validation(folds=5, fold=0).use(), pytest.raises(ConfigError, match=r"validation\.folds: must be at most the 4 rows"):
        hold_out(np.array([0, 0, 1, 1]), 0.1, 0)
    with Validation(folds=2, fold=0).use(), pytest.raises(ConfigError, match="only one row of a class"):
        hold_out(np.array([0, 0, 0, 1]), 0.1, 0)


def test_a_share_that_leaves_a_class_without_training_rows_is_refused(task):
    with pytest.raises(ConfigError, match=r"valid_share: must leave a row of each of the 3 classes"):
        find_task(task).load(0, validation=Validation(0.95))


def test_too_large_a_share_of_a_table_is_a_fault_of_the_share(tmp_path):
    (tmp_path / "mine.csv").write_text("a,label\n" + "".join(f"{row},{'yes' if row % 3 else 'no'}\n" for row in range(30)))
    with pytest.raises(ConfigError, match=r"valid_share: must leave a row of each of the 2 classes"):
        find_task(f"csv:{tmp_path / 'mine.csv'}").load(0, validation=Validation(0.99))


# ------------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("knobs", "path", "text"),
    [
        ({"validation.fold": 1}, "validation.fold", "must be null without validation.folds"),
        ({"validation.folds": 3, "validation.fold": 3}, "validation.fold", "must be below validation.folds = 3"),
        ({"validation.folds": 1}, "validation.folds", "must be at least 2"),
        ({"validation.folds": 3, "valid_share": 0.2}, "valid_share", "must be null with validation.folds"),
        ({"validation.folds": 3, "selection": "test"}, "selection", "must be valid with validation.folds"),
        ({"valid_share": 1.0}, "valid_share", "must be less than 1"),
        ({"task": "nb360/ninapro", "valid_share": 0.2}, "valid_share", "The benchmark says which samples validate."),
        ({"task": "nb360/satellite", "reference_data": True, "validation.folds": 3}, "validation.folds", "with reference_data"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(knobs, path, text):
    with pytest.raises(ConfigError) as caught:
        resolve_config({"task": "digits", **knobs})
    (fault,) = caught.value.faults
    assert fault.path == path
    assert text in fault.text()


def test_one_fold_may_be_selected_on_the_test_set():
    assert resolve_config({"task": "digits", "validation": {"folds": 3, "fold": 1}, "selection": "test"}).held_out.fold == 1


def test_a_given_validation_part_is_kept(tmp_path):
    x, y = np.zeros((12, 1, 4), "float32"), np.arange(12) % 2
    np.savez(
        tmp_path / "given.npz", **{f"{name}_{part}": rows for part in ("train", "valid", "test") for name, rows in (("x", x), ("y", y))}
    )
    with pytest.raises(ConfigError, match="The file has x_valid and y_valid"):
        resolve_config({"task": f"npz:{tmp_path / 'given.npz'}", "valid_share": 0.5})


def load_fixed(spec: TaskSpec, split_seed: int) -> TaskData:
    part = Split(np.zeros((4, 1, 8), "float32"), np.arange(4) % 2)
    return TaskData(part, part, part, num_classes=2)


def test_a_loader_that_splits_by_itself_is_refused_when_it_is_asked_for_more():
    spec = replace(find_task("mnist1d"), loader=f"{__name__}:load_fixed", name="fixed")
    assert len(spec.load(0).valid) == 4
    with pytest.raises(ConfigError, match=r"valid_share: must be null for fixed.* validation part of its own"):
        spec.load(0, validation=Validation(0.5))


# ------------------------------------------------------------------------------------------------------------------ choice


def test_the_epoch_has_the_lowest_mean_over_the_folds():
    errors = [(0.5, 0.1, 0.4), (0.3, 0.5, 0.4)]  # means 0.4, 0.3, 0.4
    folds = [
        [EpochRow(stage="finetune", epoch=at, valid_error=error, valid_loss=2 * error) for at, error in enumerate(of, 1)] for of in errors
    ]
    means = mean_rows(folds)
    assert [(row.epoch, row.valid_error, row.valid_loss) for row in means] == [(1, 0.4, 0.8), (2, 0.3, 0.6), (3, 0.4, 0.8)]
    assert best_row(means, "valid").epoch == 2
    assert [best_row([means[0], means[2]], "valid", ties).epoch for ties in ("earliest", "latest")] == [1, 3]


@pytest.fixture(scope="module")
def folded(task, tmp_path_factory) -> tuple[TrialConfig, Path, list[Row], TrialResult]:
    """A trial by folds, the folder of its store, its rows and its result."""
    config, folder = small(task, validation__folds=FOLDS), tmp_path_factory.mktemp("folded")
    rows: list[Row] = []
    return config, folder, rows, run_trial(config, Store(folder), rows.append, keep="best")


def test_folds_are_trials_on_their_splits(folded, task, tmp_path):
    _, _, rows, _ = folded
    for fold in range(FOLDS):
        theirs, _ = run(small(task, validation__folds=FOLDS, validation__fold=fold), Store(tmp_path / str(fold)))
        of_fold = [bare(row) for row in rows if row.fold == fold]
        assert len(of_fold) == 5  # an epoch of alignment, two of fine-tuning, and the row of each stage
        assert of_fold == [bare(row) for row in theirs if row.stage != "source"]


def test_the_final_training_runs_the_schedule_up_to_the_chosen_epoch(folded):
    _, _, rows, result = folded
    tuning = [row for row in rows if isinstance(row, EpochRow) and row.stage == "finetune"]
    final = [row for row in tuning if row.fold is None]
    means = {epoch: np.mean([row.valid_error for row in tuning if row.fold is not None and row.epoch == epoch]) for epoch in (1, 2)}
    assert result.valid_error == pytest.approx(min(means.values()), abs=1e-12)
    assert result.best_epoch == min(means, key=lambda epoch: (means[epoch], epoch))
    assert result.last_valid_error == pytest.approx(means[2], abs=1e-12)
    assert [row.epoch for row in final] == list(range(1, result.best_epoch + 1))
    assert [row.lr for row in final] == [row.lr for row in tuning if row.fold == 0][: len(final)]
    assert {(row.valid_error, row.valid_loss) for row in final} == {(None, None)}
    assert (result.test_error, result.train_loss) == (final[-1].test_error, final[-1].train_loss)
    assert (result.valid_samples, result.test_samples, result.last_test_error) == (NUM_ROWS - NUM_TEST, NUM_TEST, None)


def test_rows_of_stages_name_the_planned_stages(folded):
    config, _, rows, _ = folded
    planned = [(stage.kind, stage.phase, stage.fold, stage.key) for stage in stages_of(config)]
    assert [(row.stage, row.phase, row.fold, row.key) for row in rows if isinstance(row, StageRow)] == planned
    assert [fold for *_, fold, _ in planned] == [None, 0, 0, 1, 1, 2, 2, None, None]
    assert len({key for *_, key in planned}) == len(planned)


def test_the_kept_model_is_that_of_the_final_training(folded, tmp_path):
    config, folder, _, result = folded
    kept, again = tuned_model(config, Store(folder)), tuned_model(config, Store(tmp_path))
    assert (kept.epoch, kept.computed, again.epoch, again.computed) == (result.best_epoch, False, result.best_epoch, True)
    assert all(tensor.equal(again.model.state_dict()[name]) for name, tensor in kept.model.state_dict().items())


def test_rows_that_are_held_out_reach_no_alignment(task, store, monkeypatch):
    aligned: list[TaskData] = []
    build = trial_stages.Alignment

    def record(settings, embedder, x, y, data, device):
        aligned.append(data)
        return build(settings, embedder, x, y, data, device)

    monkeypatch.setattr(trial_stages, "Alignment", record)
    run(small(task, validation__folds=FOLDS), store)
    spec = find_task(task)
    pool, test = rows_in(spec.load(0).train) | rows_in(spec.load(0).valid), rows_in(spec.load(0).test)
    assert len(pool) == NUM_ROWS - NUM_TEST
    assert len(aligned) == FOLDS + 1
    *folds, final = aligned
    held = [rows_in(data.valid) for data in folds]
    assert [rows_in(data.train) for data in folds] == [pool - rows for rows in held]
    assert set().union(*held) == pool
    assert sum(map(len, held)) == len(pool)
    assert (rows_in(final.train), rows_in(final.valid)) == (pool, set())
    assert not test & set().union(*(rows_in(data.train) for data in aligned))


def rows_in(part: Split) -> set[bytes]:
    return {row.tobytes() for row in part.x}


def test_a_trial_by_folds_that_is_cut_anywhere_goes_on_to_the_same_rows(task, rows_of_cut_runs):
    whole, again = rows_of_cut_runs(small(task, validation__folds=2, finetune__epochs=1), (2, 3, 5))
    assert {(row.stage, row.fold) for row in whole[0]} == {(stage, fold) for stage in ("align", "finetune") for fold in (0, 1, None)}
    assert len(again) == 6  # cut between two folds, within one, and in the final training
    assert all(one == whole for one in again)


def test_a_final_training_of_several_phases_ends_in_the_phase_of_the_chosen_epoch(task, store, monkeypatch):
    monkeypatch.setattr(pipeline, "best_row", lambda rows, *_: rows[2])
    knobs = {"align__epochs": 0, "freezing": "frozen-both:2", "finetune__epochs": 4, "validation__folds": 2}
    rows, result = run(small(task, **knobs), store)
    final = [row for row in rows if row.fold is None and isinstance(row, StageRow)]
    assert [(row.phase, row.epochs) for row in final] == [(0, 2), (1, 1)]
    assert [row.epoch for row in rows if row.fold is None and isinstance(row, EpochRow)] == [1, 2, 3]
    assert (result.best_epoch, len(result.params_trained)) == (3, 2)
    assert all(before < after for before, after in pairwise(result.params_trained))


# -------------------------------------------------------------------------------------------------------------------- keys


def test_every_wish_has_keys_of_its_own(task):
    wishes = [{}, {"valid_share": 0.3}, {"validation__folds": 2}, {"validation__folds": 3}, {"validation__folds": 3, "validation__fold": 0}]
    keys = [{stage.key for stage in stages_of(small(task, **wish)) if stage.kind in ("align", "finetune")} for wish in wishes]
    shared = {(one, other) for one in range(5) for other in range(one) if keys[one] & keys[other]}
    assert shared == {(4, 3)}  # a trial on one fold has the stages of that fold
