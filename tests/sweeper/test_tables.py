"""Tables as text: what people read and what programs parse back."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from sweeper.show.tables import FORMATS, render, text_table

TABLE = pa.table(
    {
        "task": ["digits", "a|b", None],
        "error": [0.123456, math.nan, math.inf],
        "epochs": [1, None, 300],
        "steps": [[1, 2], [], None],
        "time": [datetime(2024, 2, 29, 12, 30, tzinfo=UTC), None, None],
        "sum": [Decimal("12"), Decimal("0.5"), None],
    }
)


def test_json_is_plain_json_with_numbers_as_numbers():
    text = render(TABLE, "json")
    rows = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert rows == [
        {"task": "digits", "error": 0.123456, "epochs": 1, "steps": [1, 2], "time": "2024-02-29 12:30:00+00:00", "sum": 12},
        {"task": "a|b", "error": None, "epochs": None, "steps": [], "time": None, "sum": 0.5},
        {"task": None, "error": None, "epochs": 300, "steps": None, "time": None, "sum": None},
    ]


def test_csv_keeps_every_digit_and_leaves_null_empty():
    first, second, third = csv.DictReader(io.StringIO(render(TABLE, "csv")))
    assert first == {
        "task": "digits",
        "error": "0.123456",
        "epochs": "1",
        "steps": "[1, 2]",
        "time": "2024-02-29 12:30:00+00:00",
        "sum": "12",
    }
    assert (second["epochs"], third["task"], third["steps"]) == ("", "", "")


def test_text_aligns_numbers_right_and_texts_left():
    shown = text_table(["task", "n"], [["digits", 5], ["x", 1000], ["y", None]])
    assert shown.splitlines() == ["task       n", "digits     5", "x       1000", "y          -"]


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_settings_that_differ_are_shown_with_the_digits_that_tell_them_apart(format):
    table = pa.table({"align_lr": [0.001, 0.0010001, None], "finetune_lr": [1 / 3, 0.5, 0.5], "valid_error": [0.123456, 0.123457, 0.2]})
    cells = [line.replace("|", " ").split() for line in render(table, format).splitlines()]
    assert [line for line in cells if line[0] != "---"] == [
        ["align_lr", "finetune_lr", "valid_error"],
        ["0.001", "0.3333", "0.1235"],
        ["0.0010001", "0.5", "0.1235"],
        ["-", "0.5", "0.2"],
    ]


def test_markdown_escapes_bars_in_head_and_body():
    lines = render(pa.table({"a || b": ["x|y"]}), "markdown").splitlines()
    assert lines == ["| a \\|\\| b |", "| --- |", "| x\\|y |"]


@pytest.mark.parametrize("format", FORMATS)
def test_columns_of_the_same_name_are_told_apart(format):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "a_1"])
    head = render(table, format).replace('"', "")
    assert all(name in head for name in ("a", "a_1", "a_1_1"))


@pytest.mark.parametrize(("format", "shown"), [("table", "task  error\n"), ("csv", "task,error\n"), ("json", "[]\n")])
def test_no_rows_are_a_table_too(format, shown):
    assert render(TABLE.select(["task", "error"]).slice(0, 0), format) == shown
