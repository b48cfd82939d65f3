"""Numbers and their ids. The SQL of each number is the independent road: it has to give the value that the product computed."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
from typer.testing import CliRunner

from orca_core.errors import ConfigError
from orca_core.floors.rows import FloorRow
from sweeper.analysis.number import EFFECT, FINDING, FLOOR, SCORE, SHARE, TERM, Number, digest, parse_id
from sweeper.analysis.number_ids import Found, find_number
from sweeper.analysis.numbers import compare_rows, effect_numbers, numbers_of
from sweeper.analysis.sweep_rows import read_sweep_rows
from sweeper.cli import app
from sweeper.results import Workspace
from sweeper.show import why

SPACE = {
    "name": "aligned",
    "space": {
        "task": {"grid": ["digits", "openml/1510"]},
        "align.epochs": {"grid": [0, 10]},
        "freezing": {"grid": ["full", "layernorm"]},
    },
    "seeds": 3,
}


def noisy(cells: Mapping[str, Any]) -> float:
    draw = random.Random(json.dumps([cells["task"], cells["align_epochs"], cells["freezing"], cells["seed"]]))
    return 0.3 - 0.05 * (cells["align_epochs"] > 0) + 0.02 * (cells["freezing"] == "full") + draw.gauss(0, 0.01)


@pytest.fixture
def swept(workspace: Workspace, simulate) -> Workspace:
    """A sweep with floors on one of its tasks."""
    simulate(SPACE, noisy)
    about = {"sklearn_version": "1.9", "numpy_version": "2.4", "status": "COMPLETE", "score": "1-accuracy", "version": 1}
    errors = {"majority": 0.9, "svm": 0.02}
    rows = [FloorRow(task="digits", task_digest="d", model=m, valid_error=e / 2, test_error=e, **about) for m, e in errors.items()]
    workspace.results.append_floors(rows)
    return workspace


def query(workspace: Workspace, number: Number) -> list[dict[str, Any]]:
    return workspace.sql(number.sql).rows()


def is_close(one: Any, other: Any) -> bool:
    return one is other is None or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_sql_of_every_number_gives_its_value_and_interval(swept: Workspace):
    numbers = numbers_of(swept.results, "aligned")
    assert {number.kind for number in numbers} == {SCORE, EFFECT, SHARE, FLOOR, FINDING, TERM}
    assert len({number.id for number in numbers}) == len(numbers)
    for number in numbers:
        rows = query(swept, number)
        if number.kind == FINDING or number.gives_rows:
            assert number.kind in (FINDING, TERM)
            assert {row["trial"] for row in rows} == set(number.trials)
            continue
        assert is_close(rows[0]["value"], number.value), number.words
        if number.kind != SHARE:  # whose interval is a jackknife
            assert is_close(rows[0].get("low"), number.low), number.words
            assert is_close(rows[0].get("high"), number.high), number.words


def test_an_effect_is_what_one_works_out_by_hand(workspace: Workspace, simulate):
    errors = {0: {0: 0.4, 10: 0.3}, 1: {0: 0.5, 10: 0.45}}
    simulate(
        {"name": "two", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 10]}}, "seeds": 2},
        lambda cells: errors[cells["seed"]][cells["align_epochs"]],
    )
    sweep = read_sweep_rows(workspace.results, "two", ["test_error"])
    (number,) = filter(None, effect_numbers("two", compare_rows(sweep, "align.epochs", 0)))
    assert number.value == pytest.approx(-0.075)  # -0.1 and -0.05
    half = 12.706204736 * (0.05 / math.sqrt(2)) / math.sqrt(2)  # t of one degree of freedom; sd of two values 0.05 apart
    assert (number.low, number.high) == (pytest.approx(-0.075 - half), pytest.approx(-0.075 + half))
    assert len(number.trials) == 4
    assert "align.epochs 10 minus 0" in number.words


def test_equal_differences_have_the_spread_of_rounding_in_sql_too(workspace: Workspace, simulate):
    space = {"name": "same", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 10]}}, "seeds": 3}
    simulate(space, lambda cells: 0.2 if cells["align_epochs"] else 0.25)
    sweep = read_sweep_rows(workspace.results, "same", ["test_error"])
    (number,) = filter(None, effect_numbers("same", compare_rows(sweep, "align.epochs", 0)))
    assert number.low is not None
    assert number.low < number.value
    assert is_close(query(workspace, number)[0]["low"], number.low)


def test_what_sql_cannot_compute_it_gives_the_rows_of(workspace: Workspace, simulate):
    simulate(SPACE, lambda cells: None if (cells["align_epochs"], cells["freezing"], cells["seed"]) == (0, "full", 2) else noisy(cells))
    shares = [number for number in numbers_of(workspace.results, "aligned") if number.kind == SHARE]
    assert shares
    assert all(number.gives_rows for number in shares)
    assert {row["trial"] for row in query(workspace, shares[0])} == set(shares[0].trials)


def test_every_number_is_found_by_its_id(swept: Workspace):
    numbers = numbers_of(swept.results, "aligned")
    by_kind = {number.kind: number for number in numbers}
    over_tasks = next(number for number in numbers if number.kind == EFFECT and number.statement["task"] is None)
    for number in (*by_kind.values(), over_tasks):
        (found,) = find_number(swept.results, number.id.upper().replace("0", "o").replace("1", "L")).numbers
        assert (found.parts, found.value) == (number.parts, number.value)
        assert [one.id for one in find_number(swept.results, number.long_id).numbers] == [number.id]


@pytest.mark.parametrize(
    ("factor", "baseline", "within", "metric"),
    [
        ("freezing", "layernorm", "align.epochs", "valid_error"),
        ("align.epochs", 10, None, "test_error"),
        ("align", "{epochs: 0}", None, "test_error"),
    ],
)
def test_an_id_that_any_comparison_prints_is_found(swept: Workspace, factor: str, baseline: Any, within: str | None, metric: str):
    sweep = read_sweep_rows(swept.results, "aligned", [metric])
    for number in filter(None, effect_numbers("aligned", compare_rows(sweep, factor, baseline, within, metric))):
        assert [found.value for found in find_number(swept.results, number.id).numbers] == [number.value], number.words


def test_an_id_stays_the_same_when_files_are_merged_and_changes_with_the_trials(swept: Workspace, simulate):
    before = {number.words: number.id for number in numbers_of(swept.results, "aligned") if number.kind == SCORE}
    swept.results.compact("aligned")
    assert {number.words: number.id for number in numbers_of(swept.results, "aligned") if number.kind == SCORE} == before
    simulate(SPACE | {"seeds": 4}, noisy)
    after = {number.words: number.id for number in numbers_of(swept.results, "aligned") if number.kind == SCORE}
    assert after.keys() == before.keys()
    for words, id in before.items():
        assert after[words].partition("-")[0] == id.partition("-")[0]
        assert after[words] != id
    assert [number.id for number in find_number(swept.results, id).moved] == [after[words]]


def test_a_slip_of_one_letter_finds_what_was_meant(swept: Workspace):
    number = next(number for number in numbers_of(swept.results, "aligned") if number.kind == SCORE)
    start, end = number.id.split("-")
    other = "a" if start[0] != "a" else "b"
    slips = [f"{other}{start[1:]}-{end}", f"{start}-{'a' if end[0] != 'a' else 'b'}{end[1:]}"]
    if start[0] != start[1]:
        slips.append(f"{start[1]}{start[0]}{start[2:]}-{end}")
    for slip in slips:
        found = find_number(swept.results, slip)
        assert not found.numbers
        assert [near.id for near in found.near] == [number.id]


@pytest.mark.parametrize("text", ["", "k7f3a", "k7f3-9c2e", "u7f3a-9c2e", "k7f3a-9c2e-", "k7f3a 9c2e", "k7f3a-9c2é"])
def test_what_is_no_id_is_refused(text: str):
    with pytest.raises(ConfigError, match="must be the id of a number"):
        parse_id(text)


def test_two_numbers_of_one_id_are_both_named(swept: Workspace, monkeypatch):
    one, other = [number for number in numbers_of(swept.results, "aligned") if number.kind == FLOOR][:2]
    monkeypatch.setattr(why, "find_number", lambda results, id: Found([one, other], [], []))
    with pytest.raises(ConfigError, match="several numbers") as caught:
        why.the_number(swept, one.id)
    assert one.long_id in str(caught.value)
    assert other.long_id in str(caught.value)


def test_digests_are_of_the_data_and_not_of_its_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    assert digest({"a": 1}).startswith(digest({"a": 1}, 5))
    assert not set(digest({"a": 1})) & set("ilou")


def test_ids_stand_beside_the_numbers_in_every_format_but_the_table(swept: Workspace):
    known = {number.id: number for number in numbers_of(swept.results, "aligned")}
    here = ("--results", swept.uri)
    rows = list(csv.DictReader(io.StringIO(run("best", "aligned", "--format", "csv", *here))))
    assert all(float(row["test_error"]) == known[row["number"]].value for row in rows)
    assert all(float(row["valid_error"]) == known[row["valid_error_number"]].value for row in rows)
    assert {known[row["best_floor_number"]].statement["model"] for row in rows if row["task"] == "digits"} == {"svm"}
    compared = json.loads(run("compare", "aligned", "--factor", "align.epochs", "--baseline", "0", "--format", "json", *here))
    assert [known[row["number"]].value for row in compared] == [
        row["relative" if row["task"] is None else "difference"] for row in compared
    ]
    for format in ("markdown", "latex"):
        text = run("compare", "aligned", "--factor", "align.epochs", "--baseline", "0", "--format", format, *here)
        assert compared[0]["number"] in text
    shares = list(csv.DictReader(io.StringIO(run("importance", "aligned", "--format", "csv", *here))))
    assert all(float(row["share"]) == known[row["number"]].value for row in shares)
    assert "number" not in run("importance", "aligned", *here)


def test_why_shows_sql_trials_and_configs(swept: Workspace):
    number = next(
        number for number in numbers_of(swept.results, "aligned") if number.kind == SCORE and number.statement["metric"] == "test_error"
    )
    text = run("why", number.id, "--results", swept.uri)
    assert all(trial in text for trial in number.trials)
    assert "stddev_samp(test_error)" in text
    assert "{seed: 2}" in text
    assert "task: digits" in text
    known = json.loads(run("why", number.id, "--results", swept.uri, "--format", "json"))
    assert known["value"] == number.value
    assert known["configs"]["common"]["finetune"]["lr"] > 0
    assert "seed" not in known["configs"]["common"]
    assert len(known["configs"]["differences"]) == len(known["trials"]) == 3
    assert (
        run("why", "--list", "aligned", "--results", swept.uri, "--format", "csv").count("\n")
        == len(numbers_of(swept.results, "aligned")) + 1
    )


def test_why_says_what_is_known_of_an_unknown_id(swept: Workspace):
    def refused(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["why", *arguments, "--results", swept.uri], env={"COLUMNS": "100", "TERM": "dumb"})
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        return " ".join(result.output.split())

    number = next(number for number in numbers_of(swept.results, "aligned") if number.kind == SCORE)
    moved = refused(f"{number.parts[0][:5]}-{'zzzz' if not number.id.endswith('zzzz') else 'yyyy'}")
    assert "the same is stated on other trials" in moved
    assert number.id in moved
    assert "sweeper why --list NAME" in refused("zzzzz-zzzz")
    assert "must be given, or --list NAME" in refused()
    assert "must be text or json" in refused(number.id, "--format", "csv")
