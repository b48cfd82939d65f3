"""`csv:PATH`: what entries mean, which columns are refused, left out or noted, the options in the name, and the encoding as data."""

from __future__ import annotations

import datetime
import json
import os
import random
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orca_core.config.resolve import resolve_config
from orca_core.errors import ConfigError, DataError
from orca_core.identity import trial_id
from orca_core.tasks import TaskData, find_task
from orca_core.tasks.encoding import TableEncoding
from orca_core.tasks.entries import interpret
from orca_core.tasks.own import tables
from orca_core.tasks.tables import read_columns, read_table
from orca_core.workbench import Workbench
from sweeper.space.yaml_reader import parse_value

LABEL = "label"


def write(place: Path, header: str, row: Callable[[int], str], number: int = 60) -> str:
    place.write_text(f"{header}\n" + "".join(f"{row(i)}\n" for i in range(number)))
    return f"csv:{place}"


def load(name: str) -> TaskData:
    return find_task(name).load(0)


def kinds(data: TaskData) -> dict[str, str]:
    assert data.encoding is not None
    return {column.name: column.form for column in data.encoding.columns}


def faults(name: str) -> list[str]:
    with pytest.raises(DataError) as caught:
        find_task(name)
    return str(caught.value).splitlines()


# Entries


@pytest.mark.parametrize(
    ("entries", "form", "values"),
    [
        (["1", "2.5", "-3e2"], "number", [1, 2.5, -300]),
        (["1", "N/A", "n/a"], "number", [1, np.nan, np.nan]),
        (["1", "NULL", "None"], "number", [1, np.nan, np.nan]),
        (["1", "", "?", "#N/A", "<NA>", "-"], "number", [1] + 5 * [np.nan]),
        (["5%", "12.5 %", "NA"], "percent", [5, 12.5, np.nan]),
        (["1,234.5", "12", "1,234,567"], "thousands", [1234.5, 12, 1234567]),
        (["3,14", "2"], "decimal comma", [3.14, 2]),
        (["1970-01-02", "1969-12-31", "nan"], "date", [1, -1, np.nan]),
        (["1970-01-01T12:00", "1970-01-02 00:00:00Z"], "date", [0.5, 1]),
        (["1970/01/03"], "date", [2]),
    ],
)
def test_all_entries_of_a_column_of_numbers_have_one_form(entries, form, values):
    column = interpret("a", entries)
    assert column.form == form
    assert column.values == pytest.approx(values, nan_ok=True)
    assert not column.doubt


@pytest.mark.parametrize("entries", [["red", "NA"], ["1_000", "x"], ["2024-02-31", "y", "z"], ["yes", "no"]])
def test_other_entries_are_texts_as_they_are_written(entries):
    column = interpret("a", entries)
    assert column.values.tolist() == entries


@pytest.mark.parametrize(
    ("entries", "commas", "doubt"),
    [
        (["1", "2", "3", "abc"], False, "look like numbers, but there is 'abc'"),
        (["5%", "6", "7"], False, "look like numbers, but there is '5%'"),
        (["$5", "$6"], False, r"look like numbers, but there is '\$5'"),
        (["1_000", "2_000"], False, ""),
        (["31/12/2024", "01/02/2024"], False, "look like dates, such as '01/02/2024'"),
        (["2024-02-31", "2024-02-01"], False, "look like dates"),
        (["1,234", "5,678"], True, "its commas may separate thousands or decimals"),
    ],
)
def test_what_is_probably_no_category_is_doubted(entries, commas, doubt):
    column = interpret("a", entries, commas=commas)
    assert column.is_text
    assert doubt.replace("\\", "") in column.doubt
    assert bool(column.doubt) == bool(doubt)


@pytest.mark.parametrize("sign", [";", "\t"])
def test_other_separators_are_recognised(tmp_path, sign):
    place = tmp_path / "t.csv"
    place.write_text(f"a{sign}b{sign}label\n1,5{sign}x,y{sign}u\n2,5{sign}z{sign}v\n")
    a, b, label = read_table(place)
    assert (a.values.tolist(), b.values.tolist(), label.values.tolist()) == ([1.5, 2.5], ["x,y", "z"], ["u", "v"])


def test_suffixes_are_read_in_upper_case_and_tsv_by_tabs(tmp_path):
    (tmp_path / "t.TSV").write_text('a\tlabel\n"x;y,z"\tu\nw\tv\n')
    (tmp_path / "t.CSV").write_text("a,label\n1,u\n2,v\n")
    assert read_table(tmp_path / "t.TSV")[0].values.tolist() == ["x;y,z", "w"]
    assert read_table(tmp_path / "t.CSV")[0].values.tolist() == [1, 2]


def test_years_may_be_names_of_columns(tmp_path):
    place = tmp_path / "t.csv"
    place.write_text("land,2019,2020\nx,1,2\ny,3,4\n")
    assert [column.name for column in read_table(place)] == ["land", "2019", "2020"]
    place.write_text("5.1,3.5,2019\n1,2,3\n")
    with pytest.raises(DataError, match="its first line must be column names"):
        read_table(place)


def test_long_texts_are_read(tmp_path):
    place = tmp_path / "t.csv"
    place.write_text(f"a,label\n{'x' * 200_000},u\nb,v\n")
    assert len(read_table(place)[0].values[0]) == 200_000


def test_arff_has_both_kinds_of_quotes(tmp_path):
    place = tmp_path / "t.arff"
    rows = "\"don't\", 1.5, 'a, b'\n'it\\'s', 2, \"say \\\"x\\\"\"\nplain, ?, don't\n"
    place.write_text(f"@relation r\n@attribute w string\n@attribute n real\n@attribute 'the class' {{a}}\n@data\n{rows}")
    words, numbers, label = read_table(place)
    assert words.values.tolist() == ["don't", "it's", "plain"]
    assert numbers.values[:2].tolist() == [1.5, 2]
    assert (label.name, label.values.tolist()) == ("the class", ["a, b", 'say "x"', "don't"])
    place.write_text("@attribute w string\n@data\n'open\n")
    with pytest.raises(DataError, match=r"quotes .* are not closed"):
        read_table(place)


def test_dates_and_decimals_of_parquet_are_numbers_and_lists_are_refused(tmp_path):
    days = [datetime.date(1970, 1, 1) + datetime.timedelta(days=i) for i in range(60)]
    columns = {
        "day": days,
        "moment": pa.array([datetime.datetime(1970, 1, 2, 12)] * 60, pa.timestamp("ms", "UTC")),
        "price": [Decimal(i) / 4 for i in range(60)],
        "label": ["x", "y"] * 30,
    }
    place = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), place)
    data = load(f"csv:{place}")
    assert kinds(data) == {"day": "date", "moment": "date", "price": "number"}
    assert read_columns(place)["moment"].values.tolist() == [1.5] * 60
    pq.write_table(pa.table(columns | {"list": [[1, 2]] * 60}), place)
    (fault,) = faults(f"csv:{place}")
    assert "list: must be a column of numbers or of categories: its type is list<" in fault
    assert load(f"csv:{place}?drop=list").encoding == data.encoding.__class__(
        data.encoding.columns, data.encoding.target, (("list", "named by the option drop"),)
    )


@pytest.mark.parametrize("suffix", ["csv", "arff", "parquet"])
def test_a_table_that_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, suffix):
    place = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"a": [1.0] * 200_000, "label": [1] * 200_000}), place)
        assert place.stat().st_size < 2**20 < 200_000 * 2 * 8
        monkeypatch.setattr(pq.ParquetFile, "read", lambda file: pytest.fail("read"))
    else:
        place.write_text("a,label\n" + "1,2\n" * (2**18 + 1))
    bench = Workbench.current()
    message = rf"^{place}: must take at most 1.0 MiB, the limit that was set, but declares"
    with Workbench(bench.data_root, bench.cache_root, max_data_gib=2**-10).use(), pytest.raises(DataError, match=message):
        read_table(place)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "arff"])
def test_a_table_in_another_encoding_is_told_by_line_with_the_remedy(tmp_path, suffix):
    place = tmp_path / f"t.{suffix}"
    place.write_bytes("a,label\n1,x\n2,größe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 3: must be UTF-8, but has the byte 0xf6. Convert it: iconv -f latin1 -t utf-8 t"):
        read_table(place)


def test_a_table_in_utf_16_is_told_as_such(tmp_path):
    (tmp_path / "t.csv").write_text("a,label\n1,x\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"line 1: must be UTF-8, .* Convert it: iconv -f utf-16 -t utf-8 t\.csv"):
        read_table(tmp_path / "t.csv")


def test_empty_lines_before_the_header_are_skipped(tmp_path):
    (tmp_path / "t.csv").write_text("\n\na;b\n\n1;2\n")
    assert {name: column.values.tolist() for name, column in read_columns(tmp_path / "t.csv").items()} == {"a": [1], "b": [2]}


def test_a_table_that_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(DataError, match="must be a regular file, but is a FIFO"):
        read_table(tmp_path / "t.csv")


# Columns that are refused, left out or noted


def test_one_entry_that_is_missing_leaves_a_column_out_and_does_not_make_it_one_hot(tmp_path):
    name = write(tmp_path / "t.csv", "a,b,label", lambda i: f"{i / 7},{'N/A' if i == 5 else i / 3},{'xy'[i % 2]}")
    data = load(name)
    assert data.input_shape == (1, 1)
    assert find_task(name).notes == ("column 'b' is left out: 1 of 60 entries is missing",)


def test_columns_with_too_many_or_mixed_entries_are_refused_all_at_once(tmp_path):
    name = write(
        tmp_path / "t.csv", "name,size,big,label", lambda i: f"n{i},{'abc' if i == 3 else i / 3},{'1e300' if i == 4 else i},{'xy'[i % 2]}"
    )
    found = faults(name)
    assert len(found) == 3
    assert any(
        "name: must have at most 50 different texts" in line and "?drop=name, or allow more: ?max_levels=60" in line for line in found
    )
    assert "?target=label&drop=big,name, or allow" in "".join(faults(f"{name}?target=label&drop=big"))
    assert any("size: must be a column of numbers or of categories" in line and "'abc'" in line for line in found)
    assert any("big: must have finite numbers of at most 1e+150 in size, but got 1e+300" in line for line in found)
    assert load(f"{name}?drop=name,big&categories=size&max_levels=60").input_shape == (60, 1)


def test_an_encoded_table_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("orca_core.tasks.encoding.MAX_BYTES", 8 * 60 * 2 * 59)
    name = write(tmp_path / "t.csv", "name,size,label", lambda i: f"n{i},{i / 3},{'xy'[i % 2]}")
    with pytest.raises(DataError, match=r"must take at most .* GiB when encoded"):
        load(f"{name}?max_levels=60")


@pytest.mark.parametrize(
    ("header", "row", "note"),
    [
        (",a,label", lambda i: f"{i},{i % 7},{'xy'[i % 2]}", "column 'Unnamed: 0' has no name in the file"),
        ("n,a,label", lambda i: f"{59 - i},{i % 7},{'xy'[i % 2]}", "column 'n' has another value in each row"),
        ("n,a,label", lambda i: f"{i + 1},{i % 7},{'xy'[i % 2]}", "column 'n' has another value in each row"),
        ("user_id,a,label", lambda i: f"{i * i},{i % 7},{'xy'[i % 2]}", "column 'user_id' has another value in each row"),
        ("d,a,label", lambda i: f"{['NA', 'red'][i % 2]},{i % 7},{'xy'[i % 2]}", "column 'd' has the texts 'NA' (30)"),
    ],
)
def test_row_numbers_and_texts_like_missing_entries_are_noted(tmp_path, header, row, note):
    (found,) = find_task(write(tmp_path / "t.csv", header, row)).notes
    assert found.startswith(note)


def test_rows_without_a_target_are_left_out_and_counted(tmp_path):
    name = write(tmp_path / "t.csv", "a,label", lambda i: f"{i / 7},{'xy'[i % 2] if i % 20 else ''}")
    assert find_task(name).notes == ("3 of 60 rows are left out: no entry in column 'label'",)
    data = load(name)
    assert len(data.train) + len(data.valid) + len(data.test) == 57


def test_measurements_are_not_noted(tmp_path):
    assert not find_task(write(tmp_path / "t.csv", "a,b,label", lambda i: f"{i / 7},{i * i},{'xy'[i % 2]}")).notes


# The target


@pytest.mark.parametrize(
    ("value", "kind", "classes"),
    [
        (lambda i: f"{i % 2}.0", "classification", ("0", "1")),
        (lambda i: f"{i % 3 + 5}", "classification", ("5", "6", "7")),
        (lambda i: f"00{i % 2 + 19}", "classification", ("0019", "0020")),
        (lambda i: ["NA", "b"][i % 2], "classification", ("NA", "b")),
        (lambda i: f"{i * 10}.0", "regression", ()),
        (lambda i: f"{i / 3}", "regression", ()),
        (lambda i: f"2024-01-{i % 28 + 1:02}", "regression", ()),
    ],
)
def test_the_kind_follows_from_what_is_plain(tmp_path, value, kind, classes):
    data_name = write(tmp_path / "t.csv", "a,label", lambda i: f"{i / 7},{value(i)}")
    assert find_task(data_name).kind == kind
    assert load(data_name).encoding.target.classes == classes


def test_whole_numbers_are_a_regression_on_request_and_many_must_be_asked_for(tmp_path):
    name = write(tmp_path / "t.csv", "a,label", lambda i: f"{i / 7},{i}")
    (fault,) = faults(name)
    assert "label: must have at most 50 whole numbers to be taken as classes unasked, but got 60" in fault
    assert "?kind=regression" in fault
    data = load(f"{name}?kind=regression")
    assert data.num_classes is None
    assert data.encoding.target.decode(data.test.y) == pytest.approx([round(v) for v in data.encoding.target.decode(data.test.y)], abs=1e-4)
    few = write(tmp_path / "few.csv", "a,label", lambda i: f"{i / 7},{i}", 20)
    with pytest.raises(DataError, match=r"one of each class in train.*\?kind=regression"):
        load(few)


def test_a_target_of_numbers_with_one_text_is_refused(tmp_path):
    name = write(tmp_path / "t.csv", "a,label", lambda i: f"{i / 7},{'x' if i == 3 else i % 5 + 0.5}")
    assert "label: must be a target of one kind: most of its entries look like numbers, but there is 'x'" in faults(name)[0]
    assert find_task(f"{name}?kind=classes").kind == "classification"
    assert "must have numbers for a regression" in faults(f"{name}?kind=regression")[0]


# Options in the name


@pytest.fixture
def iris(tmp_path) -> str:
    return write(tmp_path / "iris.csv", "species,id,width,colour", lambda i: f"{'abc'[i % 3]},{i},{i / 7},{i % 4}")


def test_options_name_the_target_and_what_is_left_out(iris):
    data = load(f"{iris}?target=species&drop=id&categories=colour")
    assert (data.num_classes, kinds(data)) == (3, {"colour": "text", "width": "number"})
    assert find_task(f"{iris}?target=Species").summary.startswith("3 classes of column 'species' by 3 other columns")
    assert find_task(iris).summary.startswith("4 classes of column 'colour'")


@pytest.mark.parametrize(
    ("options", "error", "messages"),
    [
        ("taget=species", ConfigError, ["must have options of a table.*Did you mean 'target'"]),
        ("kind=class&max_levels=0", ConfigError, ["kind that is classes or regression.*Did you mean 'classes'", "max_levels, but got '0'"]),
        ("drop=", ConfigError, ["must have one value of drop"]),
        ("drop=id&drop=width", ConfigError, ["must have one value of drop"]),
        (
            "target=specie&drop=idd",
            DataError,
            ["specie: must be a column.*Did you mean 'species'", "idd: must be a column.*Did you mean 'id'"],
        ),
        ("target=species&drop=species", DataError, ["species: must not be named by the option drop: it is the target"]),
    ],
)
def test_wrong_options_are_refused_all_at_once(iris, options, error, messages):
    with pytest.raises(error) as caught:
        find_task(f"{iris}?{options}")
    found = str(caught.value).splitlines()
    assert len(found) == len(messages)
    for line, message in zip(found, messages, strict=True):
        assert re.search(message, line)


def test_options_change_the_identity_of_the_data_exactly_if_they_change_the_data(iris):
    digests = {
        options: find_task(f"{iris}{options}").digest()
        for options in (
            "",
            "?target=colour",
            "?max_levels=60",
            "?kind=classes",
            "?target=species",
            "?drop=id",
            "?kind=regression",
            "?categories=id&max_levels=60",
        )
    }
    usual = digests[""]
    assert {options for options, digest in digests.items() if digest == usual} == {"", "?target=colour", "?max_levels=60", "?kind=classes"}
    assert len(set(digests.values())) == 5


def test_names_with_the_same_options_are_one_trial(iris):
    first, second, third = (
        resolve_config({"task": f"{iris}?{options}"})
        for options in ("drop=id,width&target=species", "target=species&max_levels=50&drop=width,id", "target=species&drop=id")
    )
    assert first.task == second.task == f"{iris}?target=species&drop=id,width"
    assert trial_id(first) == trial_id(second) != trial_id(third)


def test_a_remedy_can_be_pasted_as_yaml(tmp_path):
    name = write(tmp_path / "t.csv", ",a #1,label", lambda i: f"{i},{i},{'xy'[i % 2]}")
    first, second = find_task(name).notes
    for note in (first, second):
        pasted = parse_value(name + note.partition("leave it out: ")[2])
        assert len(find_task(pasted).notes) == 1


def test_names_of_columns_may_have_any_characters(tmp_path):
    name = write(tmp_path / "t.csv", '"a,b",c&d,5%,label', lambda i: f"{i},{i},{i},{'xy'[i % 2]}")
    assert kinds(load(f"{name}?drop=a%2Cb,c%26d")) == {"5%": "number"}
    (tmp_path / "what?a=b.csv").write_text((tmp_path / "t.csv").read_text())
    assert find_task(f"csv:{tmp_path}/what?a=b.csv").kind == "classification"


# The encoding as data


@pytest.fixture
def mixed(tmp_path) -> tuple[Path, TableEncoding, TaskData]:
    place = tmp_path / "mixed.csv"
    name = write(place, "share,colour,day,label", lambda i: f"{i % 9}%,{'rgb'[i % 3]},2024-01-{i % 28 + 1:02},{'xy'[i % 2]}")
    data = load(name)
    assert data.encoding is not None
    return place, data.encoding, data


def test_an_encoding_makes_of_raw_rows_what_training_had(mixed):
    place, encoding, data = mixed
    again = TableEncoding.from_json(json.loads(json.dumps(encoding.to_json())))
    assert again == encoding
    x = again.encode(read_columns(place), str(place))
    rows = [dict(zip(("share", "colour", "day"), line.split(",")[:3], strict=True)) for line in place.read_text().splitlines()[1:]]
    assert np.array_equal(again.encode(rows), x)
    by_name = {name: [row[name] for row in rows] for name in rows[0]} | {"more": []}
    by_name["day"] = [datetime.date.fromisoformat(day) for day in by_name["day"]]
    by_name["share"] = [float(share.rstrip("%")) for share in by_name["share"]]
    assert np.array_equal(again.encode(by_name), x)
    assert np.array_equal(again.encode(pa.table(by_name | {"more": [0] * 60})), x)
    trained = {part.tobytes() for part in (*data.train.x, *data.valid.x, *data.test.x)}
    assert {row.tobytes() for row in x} == trained
    assert x.shape == (60, 3, 3)
    assert again.encode(rows[:1]).tolist() == x[:1].tolist()


@pytest.mark.parametrize("row", [0, [], "", np.array(["5%", "r"]), np.zeros(0)], ids=repr)
def test_rows_that_are_no_mappings_are_refused(mixed, row):
    _, encoding, _ = mixed
    with pytest.raises(DataError, match=r"^rows: row 2: must be a mapping from the column names \['colour', 'share', 'day'\] to entries"):
        encoding.encode([{"share": "1%", "colour": "r", "day": "2024-01-31"}, row])


def test_rows_that_do_not_fit_are_refused(mixed):
    _, encoding, _ = mixed
    good = {"share": "5%", "colour": "r", "day": "2024-01-01"}
    with pytest.raises(DataError, match=r"rows: day: must be a column\. Did you mean"):
        encoding.encode([{"share": "5%", "colour": "r", "dya": "2024-01-01"}])
    bad = [good, good | {"colour": "pink"}, good | {"share": "N/A"}, good | {"day": "31.1.2024"}]
    with pytest.raises(DataError) as caught:
        encoding.encode(bad)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "row 2: colour: must be a category of the training data, but got 'pink'. Known: b, g, r." in lines[0]
    assert "row 3: share: must not be missing" in lines[1]
    assert "row 4: day: must be of its column's form: '31.1.2024' is not a date like 2024-01-31" in lines[2]
    with pytest.raises(DataError) as caught:
        encoding.encode([good | {"share": "much"}] * 50)
    assert len(str(caught.value).splitlines()) == 10


def test_answers_are_in_the_words_and_units_of_the_file(mixed, tmp_path):
    assert mixed[1].target.decode(np.array([[0.1, 0.9], [2, 1]])) == ["y", "x"]
    data = load(write(tmp_path / "t.csv", "a,label", lambda i: f"{i % 5},{i / 3}%"))
    target = data.encoding.target
    assert (target.unit, target.classes) == ("%", ())
    assert target.decode(np.array([[0.0], [1.0]])) == pytest.approx([target.mean, target.mean + target.deviation])


def test_the_row_of_a_trial_says_what_became_of_the_columns(tmp_path, quick, warm_store):
    from orca_core.pipeline import run_trial

    name = write(tmp_path / "t.csv", "id,a,b,c,label", lambda i: f"{i},{i / 7},{'' if i else 1},{'rgb'[i % 3]},{'xy'[i % 2]}")
    result = run_trial(quick(f"{name}?drop=id"), warm_store, lambda row: None)
    assert json.loads(result.task_columns) == {
        "target": "label",
        "kind": "classes",
        "numbers": ["a"],
        "categories": {"c": 3},
        "left_out": {"id": "named by the option drop", "b": "59 of 60 entries are missing"},
    }
    assert result.cells()["task_columns"] == result.task_columns


def test_a_table_is_read_once_for_all_trials(iris, monkeypatch):
    find_task(iris)
    monkeypatch.setattr(tables, "read_table", lambda path: pytest.fail("read again"))
    assert find_task(f"{iris}?target=species").kind == "classification"


def test_notes_and_descriptions_of_wide_tables_are_short(tmp_path):
    names = [f"c{j}" for j in range(120)]
    name = write(
        tmp_path / "t.csv",
        ",".join([*names, LABEL]),
        lambda i: ",".join([*(f"{i * j / 7}" if i or j >= 60 else "" for j in range(120)), "xy"[i % 2]]),
    )
    notes = find_task(name).notes
    assert len(notes) == 6
    assert notes[-1] == "55 more columns are left out, as entries are missing"
    described = load(name).encoding.describe()
    assert (len(described["numbers"]), described["more_numbers"]) == (50, 10)
    assert (len(described["left_out"]), described["more_left_out"]) == (50, 10)


def test_a_damaged_table_is_refused_without_a_traceback(tmp_path):
    """Random corruptions of each format: the task loads or is refused, and nothing else happens."""
    rng = random.Random(0)
    rows = [(i / 7, "rgb"[i % 3], f"2024-01-{i % 28 + 1:02}", "xy"[i % 2]) for i in range(40)]
    names = ("a", "b", "c", LABEL)
    comma = "\n".join(",".join(map(str, row)) for row in rows)
    head = "@relation t\n@attribute a real\n@attribute b {r,g,b}\n@attribute c date\n@attribute label {x,y}\n@data\n"
    (tmp_path / "t.csv").write_text(f"{','.join(names)}\n{comma}")
    (tmp_path / "t.tsv").write_text(f"{','.join(names)}\n{comma}".replace(",", "\t"))
    (tmp_path / "t.arff").write_text(head + comma.replace(",r,", ",'r',").replace(",g,", ',"g",'))
    table = pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    days = pa.array([datetime.date.fromisoformat(day) for day in table["c"].to_pylist()])
    pq.write_table(table.set_column(2, "c", days), tmp_path / "t.parquet")
    outcomes = {"loaded": 0, "refused": 0}
    for place in sorted(tmp_path.glob("t.*")):
        whole = place.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(rng.choice((1, 1, 3, 20))):
                at = rng.randrange(len(damaged))
                damaged[at : at + rng.choice((0, 1, 1, 20))] = bytes(
                    rng.choice(b"',\";\n\\?%-/\r\x00\xe9a1") for _ in range(rng.randrange(3))
                )
            broken = tmp_path / f"broken{place.suffix}"
            broken.write_bytes(damaged)
            try:
                load(f"csv:{broken}")
                outcomes["loaded"] += 1
            except DataError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 5


def test_a_date_beyond_all_calendars_is_a_number_of_days(tmp_path):
    place = tmp_path / "t.parquet"
    pq.write_table(pa.table({"day": pa.array([2**31 - 1] * 60, pa.int32()).cast(pa.date32()), LABEL: ["x", "y"] * 30}), place)
    spec = find_task(f"csv:{place}")
    assert spec.load(0).encoding.columns[0].form == "date"
