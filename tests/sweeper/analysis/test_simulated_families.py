"""The simulations of `benchmarks/statistics.py` judge as `sweeper compare` does, and Student's t keeps its promises in them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sweeper.analysis.comparison import compare
from sweeper.analysis.paired import HELPS, HURTS, NO_DIFFERENCE, UNDECIDED

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
import families


def rows_of(errors):
    """The trials of one family as rows; a missing one has failed."""
    tasks, levels, contexts, seeds = errors.shape
    return [
        {"trial": f"{t}-{n}-{c}-{seed}", "task": f"task{t}", "align_epochs": n, "freezing": f"top-layers:{c}", "seed": seed}
        | ({"status": "FAIL"} if math.isnan(errors[t, n, c, seed]) else {"status": "COMPLETE", "test_error": float(errors[t, n, c, seed])})
        for t in range(tasks)
        for n in range(levels)
        for c in range(contexts)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("name", ["normal", "missing pairs", "all of these"])
@pytest.mark.parametrize("noise", [0.01, 0.002])
def test_simulated_verdicts_are_those_of_compare(name, noise):
    sweeps = families.simulate(families.CASES[name], families.MIXED, 4, 4, np.random.default_rng(5), noise)
    judged = families.judge(sweeps.errors)
    names = {-1.0: HELPS, 1.0: HURTS, 0.0: NO_DIFFERENCE}
    for family, errors in enumerate(sweeps.errors):
        found = compare(rows_of(errors), "align.epochs", 0, allow_unfair=True).effects
        verdicts = [UNDECIDED if math.isnan(verdict) else names[verdict] for verdict in judged.verdict[family]]
        assert [effect.verdict for effect in found] == verdicts
        for field in ("p", "p_adjusted", "p_equivalence_adjusted", "low", "high"):
            np.testing.assert_allclose([getattr(effect, field) for effect in found], getattr(judged, field)[family], rtol=1e-8)
        single = [effect.difference for effect in found if effect.task is not None]
        np.testing.assert_allclose(single, judged.mean[family, : len(single)], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["normal", "heavy-tailed", "missing pairs", "effects by context"])
def test_promises_are_kept(name, monkeypatch):
    """In 1000 families, up to three standard errors, or 2.1 %, as many rates are looked at. The benchmark has the rates of 10,000."""
    monkeypatch.setattr(families, "STANDARD_ERRORS", 3.0)
    faults: list[str] = []
    families.measure(families.CASES[name], name, 5, 1000, faults)
    assert faults == []


def test_power_is_as_stated(monkeypatch):
    monkeypatch.setattr(families, "STANDARD_ERRORS", 3.0)
    faults: list[str] = []
    families.measure_power(3000, faults)
    assert faults == []


def test_a_broken_promise_is_told():
    faults: list[str] = []
    assert families.rate(np.arange(1000) < 90, 0.05, True, faults, "false verdicts") == "9.0*"
    assert faults == ["false verdicts: 9.00 %"]


def test_other_scripts_beside_the_benchmark_still_find_the_standard_library():
    folder = str(Path(families.__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import statistics; print(statistics.median([3, 1, 2]))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "2\n"
