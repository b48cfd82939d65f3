"""Soups of small real trials: averages and choices against the same done by hand, and what leaves derived rows alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from orca_core.config.resolve import resolve_config
from orca_core.errors import DataError
from orca_core.export import tuned_model
from orca_core.pipeline import model_before_tuning, run_trial
from orca_core.soup import _between, make_soup
from orca_core.store import Store
from orca_core.tasks import find_task
from sweeper.analysis.arms import rank_arms
from sweeper.analysis.sweep_rows import read_sweep_rows
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.results import Results, ResultStore, Workspace
from sweeper.running.plan_note import plan_note
from sweeper.running.reconcile import reconcile
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space
from sweeper.upkeep.doctor import _find_missing

SPACE = {
    "name": "wine",
    "base": {
        "task": "openml/187",
        "body": "transformer-1",
        "finetune": {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None, "batch_size": 16},
    },
    "space": {"finetune.lr": {"grid": [1e-3, 3e-3]}},
    "seeds": 2,
}


def sweeper(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


def run(folder: Path, space: dict[str, Any], **columns: Any) -> None:
    """Run the trials of a space and record them as a driver would."""
    plan, results = make_plan(parse_space(space)), ResultStore(folder)
    results.save_plan(space["name"], plan.hash, plan_note(plan))
    recorder = Recorder(results, space["name"], "valid_error")
    for trial in plan.trials:
        recorder.start(trial, device="cpu")
        result = run_trial(trial.config, Store(folder / "artifacts"), lambda row: None, keep="best")
        recorder.end(trial.id, {"status": "COMPLETE"} | result.cells() | columns)
    recorder.flush()


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """The results of a sweep over two learning rates with two seeds; without a soup."""
    folder = tmp_path_factory.mktemp("soup") / "results"
    run(folder, SPACE)
    return folder


@pytest.fixture
def results(swept, tmp_path) -> Path:
    """A copy of them."""
    shutil.copytree(swept, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def members(swept) -> dict[tuple[int, float], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """(seed, learning rate) -> the row of a trial, and the weights that it left."""
    configs = {trial.id: trial.config for trial in make_plan(parse_space(SPACE)).trials}
    found = {}
    for row in Results(swept).sql("select * from trials").rows():
        model = tuned_model(configs[row["trial"]], Store(swept / "artifacts")).model
        weights = {name: value.double().numpy() for name, value in model.state_dict().items() if value.is_floating_point()}
        found[row["seed"], row["finetune_lr"]] = row, weights
    return found


def errors_by_hand(weights: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    """Validation and test error of the mean of some weights: 1 - AUROC, pairs of classes (Hand & Till)."""
    config = make_plan(parse_space(SPACE)).trials[0].config
    from orca_core.model.cross_modal import CrossModalModel
    from orca_core.settings import Settings
    from orca_core.trial_stages import random_body

    data = find_task("openml/187").load(0)
    body = random_body(config.body_spec, seed=0, dropout=0.0)
    model = CrossModalModel(Settings.of(config, "finetune"), body, data.input_shape, data.output_shape)
    mean = {name: torch.from_numpy(sum(each[name] for each in weights) / len(weights)).float() for name in weights[0]}
    model.load_state_dict(mean, strict=False)
    model.eval()
    with torch.no_grad():
        valid, test = (
            1 - roc_auc_score(part.y, model(torch.from_numpy(part.x)).softmax(1).numpy(), multi_class="ovo")
            for part in (data.valid, data.test)
        )
    return float(valid), float(test)


def weights_at_start(results: Path, lr: float) -> dict[str, np.ndarray]:
    """What the fine-tuning of seed 0 at a learning rate starts with."""
    (config,) = (t.config for t in make_plan(parse_space(SPACE)).trials if (t.config.seed, t.config.finetune.lr) == (0, lr))
    model = model_before_tuning(config, Store(results / "artifacts"))
    return {name: value.double().numpy() for name, value in model.state_dict().items() if value.is_floating_point()}


def _floats_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if value.is_floating_point()}


def derived(results: Path) -> list[dict[str, Any]]:
    return Results(results).sql("select * from trial_status where role = 'derived' order by trial").rows()


def test_a_uniform_soup_is_the_mean_of_the_seeds_of_each_arm(results, members):
    done = sweeper("soup", "wine", "--results", results)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "2 new." in done.stdout
    assert "began fine-tuning from different weights" in done.stdout
    rows = {row["finetune_lr"]: row for row in derived(results)}
    assert rows.keys() == {1e-3, 3e-3}
    for lr, row in rows.items():
        of_arm = [members[seed, lr] for seed in (0, 1)]
        assert (row["valid_error"], row["test_error"]) == pytest.approx(errors_by_hand([weights for _, weights in of_arm]))
        assert (row["derived_by"], row["shares_start"], row["seed"]) == ("soup-uniform", False, None)
        assert sorted(row["members"]) == sorted(row["averaged"]) == sorted(member["trial"] for member, _ in of_arm)
        assert (row["arm"], row["status"], row["in_plan"]) == (of_arm[0][0]["arm"], "COMPLETE", False)
        assert (row["test_samples"], row["torch_version"]) == (of_arm[0][0]["test_samples"], torch.__version__)
        assert row["seconds"] > 0


def test_trials_of_one_seed_share_their_start(results, members):
    assert sweeper("soup", "wine", "--results", results, "--where", "seed = 1").exit_code == 0
    (row,) = derived(results)
    assert (row["shares_start"], row["seed"], row["finetune_lr"], row["arm"]) == (True, 1, None, None)
    of_seed = [members[1, lr] for lr in (1e-3, 3e-3)]
    assert (row["valid_error"], row["test_error"]) == pytest.approx(errors_by_hand([weights for _, weights in of_seed]))
    best_first = sorted(of_seed, key=lambda member: (member[0]["valid_error"], member[0]["trial"]))
    assert row["members"] == [member["trial"] for member, _ in best_first]


def test_a_greedy_soup_takes_in_what_does_not_raise_the_validation_error(results, members):
    assert sweeper("soup", "wine", "--results", results, "--where", "true", "--kind", "greedy").exit_code == 0
    (row,) = derived(results)
    taken: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
    best = (np.inf, np.inf)
    for member in sorted(members.values(), key=lambda member: (member[0]["valid_error"], member[0]["trial"])):
        errors = errors_by_hand([weights for _, weights in [*taken, member]])
        if errors[0] <= best[0]:
            taken, best = [*taken, member], errors
    assert row["averaged"] == [member["trial"] for member, _ in taken]
    assert len(row["members"]) == 4
    assert (row["valid_error"], row["test_error"]) == pytest.approx(best)
    assert row["valid_error"] <= min(member["valid_error"] for member, _ in members.values())


def test_one_member_alone_scores_what_its_row_says(swept, members):
    config = make_plan(parse_space(SPACE)).trials[0].config
    soup = make_soup([config], Store(swept / "artifacts"))
    row, weights = members[config.seed, config.finetune.lr]
    assert (soup.valid_loss, soup.valid_error, soup.test_error) == tuple(row[name] for name in ("valid_loss", "valid_error", "test_error"))
    assert all((soup.weights[name].numpy() == value.astype(np.float32)).all() for name, value in weights.items())


def test_models_between_start_and_end_are_at_them_to_the_bit(swept):
    config = make_plan(parse_space(SPACE)).trials[0].config
    store = Store(swept / "artifacts")
    start, end = model_before_tuning(config, store).state_dict(), tuned_model(config, store).model.state_dict()
    line = {alpha: _between(_floats_of(start), _floats_of(end), alpha) for alpha in (0.0, 0.3, 1.0)}
    assert all(torch.equal(line[0.0][name], start[name]) and torch.equal(line[1.0][name], end[name]) for name in line[0.0])
    name = "predictor.linear.weight"
    assert not torch.equal(start[name], end[name])
    by_hand = start[name].double() + 0.3 * (end[name].double() - start[name].double())
    torch.testing.assert_close(line[0.3][name].double(), by_hand, rtol=1e-6, atol=1e-9)
    assert torch.equal(_between({"w": torch.tensor([0.1])}, {"w": torch.tensor([0.1])}, 1 / 3)["w"], torch.tensor([0.1]))


def test_of_each_trial_a_row_for_every_alpha(results, members):
    done = sweeper("soup", "wine", "--kind", "wise", "--alphas", "1,0,0.5", "--results", results)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "12 new." in done.stdout
    rows = derived(results)
    assert {(row["derived_by"], row["alpha"]) for row in rows} == {("wise", 0.0), ("wise", 0.5), ("wise", 1.0)}
    for (seed, lr), (member, weights) in members.items():
        mine = {row["alpha"]: row for row in rows if row["members"] == [member["trial"]]}
        copied = (seed, lr, member["arm"], False)
        assert all((row["seed"], row["finetune_lr"], row["arm"], row["in_plan"]) == copied for row in mine.values())
        scores = ("valid_error", "valid_loss", "test_error")
        assert [mine[1.0][score] for score in scores] == [member[score] for score in scores]
        if seed == 0:  # of which `errors_by_hand` builds the model
            start = weights_at_start(results, lr)
            assert (mine[0.0]["valid_error"], mine[0.0]["test_error"]) == pytest.approx(errors_by_hand([start]))
            assert (mine[0.5]["valid_error"], mine[0.5]["test_error"]) == pytest.approx(errors_by_hand([start, weights]))
    again = json.loads(sweeper("soup", "wine", "--kind", "wise", "--alphas", "0.5,0.75", "--results", results, "--format", "json").stdout)
    assert [(line["alpha"], line["news"]) for line in again] == [(0.5, "there already"), (0.75, "new")] * 4
    for trial in {line["member"] for line in again}:
        of_trial = [line for line in again if line["member"] == trial]
        best = min(of_trial, key=lambda line: (line["valid_error"], -line["alpha"]))
        assert [line["is_chosen"] for line in of_trial] == [line is best for line in of_trial]


def test_with_the_predictor_of_the_end_the_start_is_no_guess(results, members):
    sweeper("soup", "wine", "--kind", "wise-body", "--alphas", "0", "--where", "seed = 0", "--results", results)
    for row in derived(results):
        _, weights = members[0, row["finetune_lr"]]
        start = weights_at_start(results, row["finetune_lr"])
        mixed = {name: weights[name] if name.startswith("predictor.") else value for name, value in start.items()}
        assert (row["valid_error"], row["test_error"]) == pytest.approx(errors_by_hand([mixed]))
        assert row["derived_by"] == "wise-body"


def test_the_same_soup_is_made_once_and_can_be_made_again(results):
    sweeper("soup", "wine", "--results", results)
    before = derived(results)
    done = sweeper("soup", "wine", "--results", results, "--format", "json")
    assert [line["news"] for line in json.loads(done.stdout)] == ["there already"] * 2
    done = sweeper("soup", "wine", "--results", results, "--format", "json", "--again")
    assert [line["news"] for line in json.loads(done.stdout)] == ["the same again"] * 2
    assert derived(results) == before
    assert sweeper("soup", "wine", "--results", results, "--kind", "greedy", "--format", "csv").stdout.count(",new\n") == 2
    assert len(derived(results)) == 4


def test_a_row_with_other_numbers_is_replaced_when_it_is_made_again(results):
    sweeper("soup", "wine", "--results", results)
    row = derived(results)[0]
    ResultStore(results).append("trials", "wine", [row | {"attempt": 2, "test_error": 0.99}])
    done = sweeper("soup", "wine", "--results", results, "--format", "json", "--again")
    assert sorted(line["news"] for line in json.loads(done.stdout)) == ["new numbers", "the same again"]
    assert derived(results)[0]["test_error"] == row["test_error"]


def test_nothing_that_reads_trials_sees_a_soup(results):
    store, space = ResultStore(results), parse_space(SPACE)

    def seen() -> tuple[Any, ...]:
        ranked = [dict(arm.line) for arm in rank_arms(store, "wine").arms["openml/187"]]
        found = reconcile(space, store)
        views = [len(Results(results).sql(f"select * from {view}")) for view in ("trials", "distinct_trials")]
        status = sweeper("status", "wine", "--results", results).stdout
        compared = sweeper("compare", "wine", "--factor", "finetune.lr", "--baseline", "0.001", "--results", results).stdout
        findings = sweeper("findings", "wine", "--results", results).stdout
        missing = _find_missing(Workspace(results))
        return ranked, len(read_sweep_rows(store, "wine").rows), len(found.todo), found.dropped, views, status, compared, findings, missing

    before = seen()
    assert before[2:4] == (0, ())
    assert sweeper("soup", "wine", "--results", results).exit_code == 0
    assert seen() == before
    found = reconcile(space, store)
    recorder = Recorder(store, "wine", "valid_error")
    found.mark_planned(recorder)  # what the next run of the sweep does
    found.mark_dropped(recorder)
    recorder.flush()
    store.compact("wine")
    assert seen() == before
    assert len(derived(results)) == 2
    shown = sweeper("show", derived(results)[0]["trial"], "--results", results)
    assert shown.exit_code == 0
    assert "soup-uniform" in shown.stdout


def test_members_without_weights_are_named_with_the_remedy_and_trained_again_on_request(results):
    sweeper("soup", "wine", "--results", results)
    before = derived(results)
    shutil.rmtree(results / "artifacts" / "model")
    assert sweeper("soup", "wine", "--results", results).exit_code == 0  # they are there already
    done = sweeper("soup", "wine", "--results", results, "--again")
    assert done.exit_code == 2
    assert "the weights of 4 of 4 members are not in the store: not kept (`keep: none`), or cleaned since. --recompute" in done.stderr
    done = sweeper("soup", "wine", "--results", results, "--arm", before[0]["arm"][:6], "--again", "--recompute", "--format", "json")
    assert [line["news"] for line in json.loads(done.stdout)] == ["the same again"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wines",), "NAME: must be the name of a sweep in the results, but got 'wines'. Did you mean 'wine'?"),
        (("wine", "--kind", "thick"), "--kind: must be one of uniform, greedy, wise, wise-body, flip, but got 'thick'."),
        (("wine", "--alphas", "0.5"), "--alphas: must be given with --kind wise or wise-body alone, but got '0.5'."),
        (("wine", "--kind", "wise", "--alphas", "0.5,1.5"), "--alphas: must be numbers from 0 to 1, but got 1.5."),
        (("wine", "--kind", "wise", "--alphas", "0.5,half"), "--alphas: must be numbers from 0 to 1, joined by commas, but got 'half'."),
        (("wine", "--task", "openml/188"), "--task: must be a task of wine, but got 'openml/188'. Did you mean 'openml/187'?"),
        (("wine", "--arm", "zz"), "--arm: must be the start of the id of one arm of wine, but got 'zz'."),
        (("wine", "--where", "seed = 7"), "--where: must leave two finished trials or more of one task."),
        (("wine", "--where", "seeds = 7"), "seeds"),
        (("wine", "--where", "true", "--arm", "a"), "--where: must be given without --arm"),
    ],
)
def test_what_cannot_be_averaged_is_said(arguments, message, swept):
    done = sweeper("soup", *arguments, "--results", swept)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_members_on_other_splits_are_not_averaged(tmp_path):
    space = {**SPACE, "space": {}, "base": {**SPACE["base"], "body": "none"}, "seeds": {"count": 2, "vary": ["seed", "split_seed"]}}
    plan, results = make_plan(parse_space(space)), ResultStore(tmp_path / "results")
    results.save_plan("wine", plan.hash, plan_note(plan))
    recorder = Recorder(results, "wine", "valid_error")
    for trial in plan.trials:
        recorder.start(trial, device="cpu")
        recorder.end(trial.id, {"status": "COMPLETE", "valid_error": 0.1, "test_error": 0.1})
    recorder.flush()
    done = sweeper("soup", "wine", "--results", tmp_path / "results")
    assert done.exit_code == 2
    assert "wine has no arm with two finished runs. Runs on other splits are not averaged" in done.stderr
    done = sweeper("soup", "wine", "--results", tmp_path / "results", "--where", "true")
    assert done.exit_code == 2
    assert "--where: the members of a soup must have the same split_seed." in done.stderr


def test_members_of_other_architectures_are_refused(swept, tmp_path):
    one = make_plan(parse_space(SPACE)).trials[0].config
    knobs = {"task": "openml/187", "body": "none", "finetune.epochs": 1, "finetune.warmup_epochs": 0, "finetune.decay_epochs": None}
    other = resolve_config(knobs)
    with pytest.raises(DataError, match="must have one architecture, but member 2 differs from the first in"):
        make_soup([one, other], Store(swept / "artifacts"))


def test_the_candidates_of_a_tuned_arm_are_one_soup_for_each_seed(tmp_path):
    from sweeper.running.soups import _by_arm

    base = {"task": "t", "split_seed": 0, "reference_data": False, "valid_share": None, "validation_fold": None, "role": "trial"}
    rows = [base | {"arm": "a", "candidate": c, "seed": s, "trial": f"{c}{s}"} for c in (0, 1, 2) for s in (0, 1)]
    rows += [base | {"arm": "a", "candidate": 1, "seed": 5, "trial": "r", "role": "replicate"}]
    rows += [base | {"arm": "b", "candidate": 0, "seed": s, "trial": f"b{s}"} for s in (0, 1)]
    assert [[row["trial"] for row in group] for group in _by_arm(rows)] == [["00", "10", "20"], ["01", "11", "21"], ["b0", "b1"]]


def test_a_workspace_with_its_store_elsewhere_is_read_there(results, tmp_path):
    shutil.move(results / "artifacts", tmp_path / "stages")
    assert Workspace(results, tmp_path / "stages").artifacts.entries()
    done = sweeper("soup", "wine", "--results", results, "--store", tmp_path / "stages")
    assert done.exit_code == 0, done.output
