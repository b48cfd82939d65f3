"""Published values: the file says where each comes from, and none stands beside scores of another kind."""

from __future__ import annotations

import math
import re

import pytest
from recorded import record

from orca_core.errors import ConfigError
from orca_core.scoring.scores import SCORES
from orca_core.tasks import TASK_CATALOGUE
from sweeper.analysis.arms import rank_arms
from sweeper.analysis.published import (
    CAUTION,
    CERTAINTIES,
    COPY,
    UNCHECKED,
    VERIFIED,
    Published,
    beside,
    published_of,
    read_published,
)
from sweeper.show.figures import NotInTablesError, find_figure, read_tables, render
from sweeper.show.published import describe_published, published_table
from sweeper.show.report.arms import _published_blocks
from sweeper.show.results import best_arms, describe_best

DARCY, COSMIC = "nb360/darcy", "nb360/cosmic"

SPACE = {"name": "s", "space": {"task": {"grid": ["digits", "mnist1d"]}, "freezing": {"grid": ["full", "frozen-body"]}}, "seeds": 2}


def value(task, method, score, error, certainty=COPY):
    return Published(task, method, score, error, None, str(error), "https://example.org/table", "table 1", certainty, "")


@pytest.fixture
def results(workspace, monkeypatch):
    """A sweep on two tasks whose data is here, and published values of them: three by the score of digits, one by another score."""
    of_digits = [value("digits", "B", "1-accuracy", 0.02), value("digits", "A", "1-accuracy", 0.005, VERIFIED)]
    others = [value("digits", "C", "1-accuracy", 0.001, UNCHECKED), value("mnist1d", "D", "false-negative-rate", 0.003)]
    monkeypatch.setattr("sweeper.analysis.published.read_published", lambda: (*of_digits, *others))
    record(workspace, SPACE, lambda cells: 0.01 + 0.1 * (cells["freezing"] != "full") + 0.001 * cells["seed"])
    return workspace


def test_every_value_says_of_what_by_which_score_from_where_and_how_sure_it_is():
    values, tasks = read_published(), TASK_CATALOGUE.entries()
    assert len(values) > 90
    for value in values:
        assert value.task in tasks
        assert value.method
        assert value.source
        assert value.table
        assert value.score in SCORES or value.score == "false-negative-rate"
        assert value.certainty in CERTAINTIES
        assert math.isfinite(value.value)
        assert value.value > 0
        # As printed: a rate in per cent, everything else in the unit of the score.
        number = float(re.match(r"[.\d]+", value.printed).group())
        assert math.isclose(value.value, number / 100 if value.printed.endswith("%") else number)
    keys = [(value.task, value.method, value.score, value.source) for value in values]
    assert len(set(keys)) == len(keys)


def test_what_was_only_recalled_is_not_in_the_file():
    """Of ORCA's own table of NAS-Bench-360 only Darcy was seen, in a collection of results; the other nine values are nowhere."""
    orca = [value for value in read_published() if value.method == "ORCA"]
    assert [value.task for value in orca if value.task.startswith("nb360/")] == [DARCY]
    assert {value.certainty for value in orca} == {COPY, UNCHECKED}


def test_values_of_another_score_other_data_or_unknown_source_stay_apart():
    assert [value.method for value in beside(DARCY, ["relative-l2"]).comparable[:3]] == ["MoNA", "RECRAFT", "ORCA"]
    assert beside(DARCY, ["nrmse"]).comparable == ()
    assert beside(DARCY, ["relative-l2", "nrmse"]).comparable == ()
    assert beside(DARCY, []).comparable == ()
    cosmic = beside(COSMIC, ["1-position-auroc"])
    assert cosmic.comparable == ()
    assert {value.score for value, _ in cosmic.apart} == {"false-negative-rate"}
    assert "false-negative-rate and not 1-position-auroc" in cosmic.notes()[0]
    advection = beside("pdebench/advection", ["nrmse"])
    assert [value.method for value in advection.comparable] == ["RECRAFT", "MoNA", "ORCA"]
    assert {value.method for value, reason in advection.apart if "coefficients" in reason} == {"FNO", "UPS"}
    (unchecked,) = [value for value, reason in beside("pdebench/rd", ["nrmse"]).apart if "checked" in reason]
    assert (unchecked.value, unchecked.certainty) == (0.003, UNCHECKED)
    assert beside("digits", ["1-accuracy"]).notes() == []


def test_the_command_shows_all_of_a_task_with_score_and_certainty():
    text = describe_published(COSMIC)
    assert "whose own score is 1-position-auroc" in text
    assert "Not comparable" in text
    table = published_table(DARCY).to_pylist()
    assert {row["task"] for row in table} == {DARCY}
    assert {row["direction"] for row in table} == {"lower is better"}
    assert {row["certainty"] for row in table} == {VERIFIED, COPY}
    assert len(published_table(None)) == len(read_published())
    with pytest.raises(ConfigError, match="must be a task, but got 'nb360/darci'"):
        describe_published("nb360/darci")
    with pytest.raises(ConfigError, match="of which published values are known"):
        published_of("digits")


def test_best_lays_them_beside_arms_of_the_same_score_alone(results):
    text = " ".join(describe_best(results, "s", 5, with_published=True).split())
    assert "Published on digits, by 1-accuracy" in text
    assert "A 0.005 yes https://example.org/table B 0.02 copy" in text
    assert "Not comparable, as it has yet to be checked: C." in text
    assert "Published on mnist1d" not in text
    assert "Not comparable, as it is false-negative-rate and not 1-accuracy: D." in text
    assert "ublished" not in describe_best(results, "s", 5)
    rows = best_arms(results, "s", 1, with_published=True).to_pylist()
    cells = {row["task"]: (row["published"], row["published_method"], row["published_certainty"]) for row in rows}
    assert cells == {"digits": (0.005, "A", VERIFIED), "mnist1d": (None, None, None)}


def test_the_figure_and_the_report_have_the_arms_and_the_values_of_their_score(results):
    kind = find_figure("published")
    data = kind.read(read_tables(results, "s"))
    (task,) = data.tasks
    assert task.task == "digits"
    assert [label for label, _ in task.arms] == ["freezing full", "freezing frozen-body"]
    assert [point.mean for _, point in task.arms] == pytest.approx([0.0105, 0.1105])
    assert [(one.method, one.value) for one in task.values] == [("A", 0.005), ("B", 0.02)]
    assert "A (published)" in render(kind, data, "svg").decode()
    with pytest.raises(NotInTablesError, match="no task has published values"):
        kind.read(read_tables(results, "s", task="mnist1d"))
    ranking = rank_arms(results.results, "s")
    table, note = _published_blocks("p", "digits", ranking.arms["digits"])
    assert [row[0].text for row in table.rows] == ["A", "B"]
    assert note.text == CAUTION
    assert list(_published_blocks("p", "mnist1d", ranking.arms["mnist1d"])) == []
