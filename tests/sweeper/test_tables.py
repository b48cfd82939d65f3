"""Tables as text: what people read and what programs parse back."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from sweeper.results import ResultStore
from sweeper.show.tables import FORMATS, render, text_table, vertical

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
    head = render(table, format).replace('"', "").replace("\\", "")
    assert all(name in head for name in ("a", "a_1", "a_1_1"))


@pytest.mark.parametrize(("format", "shown"), [("table", "task  error\n"), ("csv", "task,error\n"), ("json", "[]\n")])
def test_no_rows_are_a_table_too(format, shown):
    assert render(TABLE.select(["task", "error"]).slice(0, 0), format) == shown


@pytest.mark.parametrize("format", ["table", "markdown", "latex"])
def test_two_settings_never_look_the_same(format):
    rates = [0.001, 0.0010001, 1e-05]
    text = render(pa.table({"align_lr": rates, "valid_error": [0.1, 0.1 + 1e-9, 0.25]}), format)
    assert all(repr(rate) in text for rate in rates), "a knob, by the name of its column"
    assert "0.100000001" not in text, "scores have four digits"


def test_a_column_wraps_to_keep_to_a_width():
    shown = text_table(["n", "question"], [[1, "does it help or not?"], [2, "x" * 25]], width=20)
    assert shown.splitlines() == ["n  question", "1  does it help or", "   not?", f"2  {'x' * 17}", f"   {'x' * 8}"]


def test_a_table_that_is_too_wide_is_written_row_by_row_with_what_is_shared_first():
    shown = vertical(["task", "error", "description"], [["digits", 0.25, "y" * 30], ["digits", 0.5, "z"]], width=40)
    assert max(map(len, shown.splitlines())) <= 40
    first, second, third = shown.split("\n\n")
    assert first.splitlines() == ["in all 2 rows", "  task         digits"]
    assert second.splitlines() == ["row 1", "  error        0.25", f"  description  {'y' * 25}", f"               {'y' * 5}"]
    assert third.splitlines() == ["row 2", "  error        0.5", "  description  z"]
    assert vertical(["task"], [["digits"]], width=40) == "row 1\n  task  digits\n"


def test_latex_is_a_table_that_compiles_whatever_the_cells_are():
    shown = render(pa.table({"a_b": ["50 % & {x} #1 ~ ^ \\ $ <", None], "n": [1.5, None]}), "latex").splitlines()
    assert shown[1:4] == [r"\begin{tabular}{lr}", r"\toprule", r"a\_b & n \\"]
    escaped = r"50 \% \& \{x\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} \$ \textless{}"
    assert shown[5:7] == [rf"{escaped} & 1.5 \\", r"- & - \\"]
    assert shown[7:] == [r"\bottomrule", r"\end{tabular}"]


def run_in_terminal(command: list[str], columns: int) -> str:
    """What a command writes to a terminal of a width."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            written += part
        assert process.wait(timeout=60) == 0, written.decode()
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def test_a_wide_answer_is_vertical_on_a_terminal_and_a_table_in_a_pipe(tmp_path):
    store = ResultStore(tmp_path / "results")
    row = {"attempt": 1, "sequence": 1, "status": "COMPLETE", "in_plan": True, "task": "digits"}
    store.append("trials", "s", [row | {"trial": "a", "test_error": 0.1}, row | {"trial": "b", "test_error": 0.2}])
    command = [sys.executable, "-m", "sweeper", "query", "from trials", "--results", store.uri]
    shown = run_in_terminal(command, 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.startswith("in all 2 rows\n  sweep")
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(piped.splitlines()) == 3
    narrow = [*command[:4], "select trial, test_error from trials order by trial", *command[5:]]
    assert run_in_terminal(narrow, 80).splitlines()[0] == "trial  test_error"
