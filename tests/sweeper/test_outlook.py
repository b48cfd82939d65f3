"""What further seeds are expected to bring, by counting and by simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from orca_core.errors import ConfigError
from sweeper.analysis import sequential
from sweeper.analysis.paired import equivalence, paired_t
from sweeper.analysis.sweep_rows import read_sweep_rows
from sweeper.cli import app
from sweeper.planning.deciding import ContrastName
from sweeper.planning.outlook import Known, Open, choose_trials, expect_trials, find_known
from sweeper.planning.planner import Planner
from sweeper.results import Workspace
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space

BASE = {"task": "digits", "finetune": {"epochs": 1, "warmup_epochs": 0, "decay_epochs": None}}
QUESTION = {"factor": "align.epochs", "baseline": 0, "margin": 0.02}


def space_of(**keys):
    grid = {"align.epochs": {"grid": [0, 1, 2]}}
    return parse_space({"name": "s", "base": BASE, "space": grid, "seeds": 4, "question": QUESTION} | keys)


def record(tmp_path: Path, space, effects=(0.0, 0.0, -0.2), sd: float = 0.02) -> Workspace:
    """A finished sweep in the results; the noise is drawn from the seed and the level."""
    workspace, planner = Workspace(tmp_path / "results"), Planner(space)
    recorder = Recorder(workspace.results, space.name, space.metric)
    for trial in planner.plan.trials:
        level = trial.config.align.epochs
        error = 0.5 + effects[level] + np.random.default_rng([level, trial.config.seed]).normal(0, sd)
        recorder.start(trial, device="cpu")
        row = {"valid_error": error, "test_error": error, "test_samples": 360, "valid_loss": 1.0, "train_loss": 1.0, "numpy_version": "2"}
        recorder.end(trial.id, {"status": "COMPLETE"} | row)
    recorder.flush()
    workspace.results.save_plan(space.name, planner.plan.hash, plan_note(planner.plan))
    return workspace


# ------------------------------------------------------------------------------------------------------- conditional power


def test_conditional_power_is_that_of_simulated_continuations():
    """With the deviation known, as the formula takes it: the same looks, continued many times."""
    first, random = np.array([0.9, -0.3, 1.2, 0.4]), np.random.default_rng(0)
    mean, deviation, last, margin, levels = first.mean(), first.std(ddof=1), 30, 0.9, (0.05, 0.05)
    rest = random.normal(mean, deviation, (20_000, last - 4))
    means = (first.sum() + rest.sum(1)) / last
    bounds = [stats.t.ppf(1 - level, last - 1) * deviation / np.sqrt(last) for level in (levels[0] / 2, levels[1])]
    share = np.mean((np.abs(means) > bounds[0]) | (np.abs(means) < margin - bounds[1]))
    assert float(sequential.conditional_power(mean, deviation, 4, margin, last, levels)) == pytest.approx(share, abs=0.01)


def test_the_levels_of_the_looks_are_those_at_which_simulated_nulls_pass_as_often_as_asked():
    looks, random = (3, 4, 6, 8, 12), np.random.default_rng(1)
    values, rates = random.standard_normal((40_000, 12)), sequential.pass_rates((3, 4, 6, 8, 12))
    two_sided = np.min([stats.ttest_1samp(values[:, :look], 0, axis=1).pvalue for look in looks], axis=0)
    one_sided = np.min([stats.ttest_1samp(values[:, :look], 0, axis=1, alternative="greater").pvalue for look in looks], axis=0)
    for rate in (0.05, 0.01):
        error = 3 * np.sqrt(rate / len(values)) + 3 * np.sqrt(rate / sequential.PATHS)
        assert np.mean(two_sided <= rates.two_sided_level(rate)) == pytest.approx(rate, abs=error)
        assert np.mean(one_sided <= rates.one_sided_level(rate)) == pytest.approx(rate, abs=error)
    assert rates.two_sided_level(0.05) == pytest.approx(0.0135, abs=0.0005)


def test_rare_rates_are_bounded_by_bonferroni():
    rates = sequential.pass_rates((3, 4, 6, 8, 12))
    assert rates.of_two_sided(1e-7) == pytest.approx(5e-7)
    assert rates.two_sided_level(1e-5) == pytest.approx(2e-6)
    assert rates.of_two_sided(1.0) == 1.0


def test_one_look_is_the_ordinary_test():
    rates = sequential.pass_rates((5,))
    assert rates.of_two_sided(0.03) == pytest.approx(0.03, abs=0.001)


def test_many_contrasts_at_once_are_judged_as_one_by_one():
    looks, values = (3, 4, 6), np.random.default_rng(2).standard_normal((60, 6)) - 0.8
    verdicts, seeds = sequential.judge_alone(values, 1.2, looks)
    names = {-1: "helps", 0: "no-difference", 1: "hurts", 2: "undecided"}
    for row, verdict, end in zip(values, verdicts, seeds, strict=True):
        decision = sequential.decide({0: [sequential.Look(row[:look], 1.2) for look in looks]}, looks)[0]
        assert (decision.verdict, decision.seeds) == (names[int(verdict)], end)


def test_a_decision_is_that_of_the_tests_worked_out_by_hand():
    """Two contrasts, one look: Holm over two-sided t tests of scipy, and over two one-sided ones."""
    one, other, looks = [-0.11, -0.08, -0.12, -0.1], [0.01, -0.012, 0.003, -0.004], (4,)
    decisions = sequential.decide({key: [sequential.Look(values, 0.05)] for key, values in {"a": one, "b": other}.items()}, looks)
    p = {key: stats.ttest_1samp(values, 0).pvalue for key, values in {"a": one, "b": other}.items()}
    assert p["a"] < p["b"]
    assert decisions["a"].p_adjusted == pytest.approx(min(1, 2 * p["a"]), rel=0.1)
    assert decisions["b"].p_adjusted == pytest.approx(p["b"], abs=0.01)
    assert [decisions[key].verdict for key in "ab"] == ["helps", "no-difference"]
    assert float(equivalence(other, 0.05)) < 0.025
    assert float(paired_t(one).mean) == pytest.approx(-0.1025)


def test_differences_that_are_all_zero_are_no_difference_without_a_p():
    decision = sequential.decide({0: [sequential.Look([0.0, 0.0, 0.0], 0.05)]}, (3, 6))[0]
    assert (decision.verdict, decision.p, decision.p_adjusted, decision.is_open) == ("no-difference", None, None, False)


def test_what_is_given_up_keeps_its_place_in_the_family():
    """A hopeless contrast is not tested again, but the others are not tested as if it had never been asked."""
    looks, hopeless, slow = (3, 6), [1.0, -1.0, 0.4], [-0.5, -0.45, -0.9, -0.5, -0.6, -0.55]
    family = {0: [sequential.Look(hopeless, 0.001)], 1: [sequential.Look(slow[:3], 0.001), sequential.Look(slow, 0.001)]}
    together, alone = sequential.decide(family, looks), sequential.decide({1: family[1]}, looks)
    assert (together[0].verdict, together[0].is_open, together[0].seeds) == ("undecided", False, 3)
    assert together[1].p_adjusted == pytest.approx(2 * alone[1].p_adjusted)


# ----------------------------------------------------------------------------------------------------- the expected number of trials


def test_the_expected_number_of_trials_is_the_mean_of_simulated_sweeps(tmp_path):
    space = space_of(seeds={"until": "decided", "from": 3, "to": 12})
    planner, names = Planner(space), [ContrastName("digits", 1), ContrastName("digits", 2)]
    known = {names[0]: Known(0.0, 0.02, 5, 0.02), names[1]: Known(-0.2, 0.02, 5, 0.02)}
    ends = {name: sequential.simulate_seeds(of.mean / 0.02, 1.0, space.looks, 0.05 / 2) for name, of in known.items()}
    assert ends[names[1]].mean() < 4 < ends[names[0]].mean()
    expected = ends[names[0]].mean() + ends[names[1]].mean() + np.maximum(*ends.values()).mean()
    assert expect_trials(space, planner.contrasts, known, planner.arm_keys) == pytest.approx(expected)


def test_earlier_results_of_the_same_contrasts_are_found_and_else_the_spread_of_other_arms(tmp_path):
    workspace = record(tmp_path, space_of(name="earlier"))
    rows = [read_sweep_rows(workspace.results, "earlier", ["test_error"])]
    adaptive = space_of(seeds={"until": "decided", "from": 3, "to": 12})
    known = find_known(adaptive, list(Planner(adaptive).contrasts), rows)
    assert {name.level: of.pairs for name, of in known.items()} == {1: 4, 2: 4}
    assert known[ContrastName("digits", 2)].mean == pytest.approx(-0.2, abs=0.05)
    assert find_known(adaptive, [ContrastName("digits", 7)], rows) == {}


def test_the_plan_says_at_least_at_most_and_what_is_expected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.yaml"
    text = {"name": "a", "base": BASE, "space": {"align.epochs": {"grid": [0, 1, 2]}}, "question": QUESTION}
    file.write_text(json.dumps(text | {"seeds": {"until": "decided", "from": 3, "to": 12}}))
    before = CliRunner().invoke(app, ["plan", str(file)])
    assert "at least 9 trials, at most 36: open contrasts are tested after 3, 4, 6, 8 and 12 seeds" in before.stdout
    assert "the expected number is unknown" in before.stdout
    record(tmp_path, space_of(name="earlier"))
    after = CliRunner().invoke(app, ["plan", str(file)])
    assert "trials are expected, from earlier results of 2 of the 2 contrasts" in after.stdout


# ----------------------------------------------------------------------------------------------------------------- --decide


def test_trials_go_where_they_settle_most():
    clear, hopeless = Known(0.05, 0.04, 3, 0.01), Known(0.001, 0.5, 3, 0.001)
    contrasts = [
        Open(ContrastName("t", 1), frozenset("ab"), hopeless, (0.05, 0.05)),
        Open(ContrastName("t", 2), frozenset("ac"), clear, (0.05, 0.05)),
    ]
    steps, extra = choose_trials(contrasts, 12)
    assert [step.contrast.name.level for step in steps if step.trials] == [2]
    assert extra == {"a": 6, "c": 6}
    assert steps[-1].probability > 0.8


def test_a_shared_baseline_is_paid_once():
    known = Known(0.05, 0.05, 3, 0.01)
    contrasts = [Open(ContrastName("t", level), frozenset({"base", str(level)}), known, (0.05, 0.05)) for level in (1, 2)]
    steps, extra = choose_trials(contrasts, 9)
    assert len(steps) == 2
    assert extra["base"] == max(extra["1"], extra["2"])
    assert sum(step.trials for step in steps) == sum(extra.values()) <= 9


def test_no_trials_are_spent_on_what_stays_open():
    assert choose_trials([Open(ContrastName("t", 1), frozenset("ab"), Known(0.0, 1.0, 3, 0.0001), (0.001, 0.001))], 4) == ([], {})


def test_the_command_names_the_trials_that_would_settle_most(tmp_path):
    workspace = record(tmp_path, space_of(question=QUESTION | {"margin": 0.03}), effects=(0.0, -0.1, -2.0), sd=0.15)
    options = ["plan", "s", "--results", workspace.uri, "--decide", "12"]
    told = CliRunner().invoke(app, options)
    assert told.exit_code == 0, told.output
    assert "1 of 2 verdicts are open" in told.stdout
    assert "digits: align.epochs 1 against 0" in told.stdout
    trials = json.loads(CliRunner().invoke(app, [*options, "--format", "json"]).stdout)
    assert len(trials) == 12
    assert {(trial["align_epochs"], trial["seed"]) for trial in trials} == {(level, seed) for level in (0, 1) for seed in range(4, 10)}


def test_a_sweep_without_a_question_can_be_given_one(tmp_path):
    workspace = record(tmp_path, space_of(question=None))
    options = ["plan", "s", "--results", workspace.uri, "--decide", "6"]
    refused = CliRunner().invoke(app, options)
    assert refused.exit_code == 2
    assert "question: must say what is to be decided" in refused.output
    asked = CliRunner().invoke(app, [*options, "--set", "sweep:question={factor: align.epochs, baseline: 0}"])
    assert asked.exit_code == 0, asked.output


def test_an_unknown_sweep_is_refused(tmp_path):
    workspace = record(tmp_path, space_of())
    refused = CliRunner().invoke(app, ["plan", "t", "--results", workspace.uri, "--decide", "6"])
    assert refused.exit_code == 2
    assert "must be the name of a sweep in the results" in refused.output


# ---------------------------------------------------------------------------------------------------------------- warm start


def test_a_sweep_learns_from_the_candidates_of_the_same_arms_as_they_were_at_its_first_plan(tmp_path):
    from sweeper.running.reconcile import reconcile

    tuned = {"freezing": {"grid": ["full", "layernorm"]}, "finetune.lr": {"loguniform": [1e-5, 1e-2]}}
    search = {"algorithm": "random", "trials": 12}
    earlier = space_of(name="earlier", space=tuned, search=search, question=None, seeds=1)
    workspace = record(tmp_path, earlier, effects=(0.0,) * 100)
    warm = space_of(
        name="warm", space=tuned, search={"algorithm": "tpe", "trials": 3, "lag": 1, "warm_start": ["earlier"]}, question=None, seeds=1
    )
    cold = space_of(name="cold", space=tuned, search={"algorithm": "tpe", "trials": 3, "lag": 1}, question=None, seeds=1)
    found, plain = reconcile(warm, workspace.results), reconcile(cold, workspace.results)
    assert {len(known) for known in found.planner.earlier.values()} == {12}
    assert {trial.config.finetune.lr for trial in found.plan.trials} != {trial.config.finetune.lr for trial in plain.plan.trials}
    workspace.results.save_plan("warm", found.plan.hash, plan_note(found.plan, found.planner.earlier))
    record(tmp_path, space_of(name="earlier", space=tuned, search=search | {"seed": 1}, question=None, seeds=1), effects=(0.0,) * 100)
    again = reconcile(warm, workspace.results)
    assert again.plan == found.plan
    assert again.planner.earlier == found.planner.earlier


def test_a_warm_start_from_what_is_not_there_is_refused(tmp_path):
    from sweeper.running.reconcile import reconcile

    workspace = record(tmp_path, space_of())
    tuned = {"finetune.lr": {"loguniform": [1e-5, 1e-2]}}
    space = space_of(space=tuned, search={"algorithm": "tpe", "warm_start": ["t"]}, question=None)
    with pytest.raises(ConfigError, match=r"search\.warm_start: must be the name of a sweep in the results"):
        reconcile(space, workspace.results)
