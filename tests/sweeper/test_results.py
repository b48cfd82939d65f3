"""The result tables: what is written is read, once, whoever dies or reads meanwhile; and SQL can do nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orca_core.config.paths import KNOBS
from orca_core.config.resolve import resolve_config
from orca_core.errors import StoreError
from orca_core.identity import canonical_knobs
from sweeper.results import QueryError, Results, ResultStore, connection, views
from sweeper.results.records import TABLES, config_columns, markdown, schema
from sweeper.results.table_files import split_by_left_out

VALUES: dict[pa.DataType, Any] = {
    pa.string(): "naïve | 'quoted'\n",
    pa.int64(): 2**53 + 1,
    pa.float64(): 0.1,
    pa.bool_(): True,
    pa.timestamp("us", "UTC"): datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
    pa.list_(pa.string()): ["a", "ö"],
    pa.list_(pa.int64()): [1, 2, 3],
    pa.list_(pa.float64()): [0.9, 0.98],
    pa.list_(pa.list_(pa.float64())): [[0.5, 0.25], None],
}


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def add_trial(store: ResultStore, trial: str, attempt: int = 1, *, sweep: str = "s", epochs: int = 3, done: bool = True) -> None:
    """One attempt as the driver writes it: RUNNING, its rows, COMPLETE; every call to `append` is a file. Errors tell the attempt."""
    key = {"trial": trial, "attempt": attempt}
    store.append("trials", sweep, [key | {"sequence": 0, "status": "RUNNING", "in_plan": True}])
    rows = [{"stage": "finetune", "phase": 0, "epoch": epoch, "valid_error": float(attempt)} for epoch in range(1, epochs + 1)]
    store.append("metrics", sweep, [key | row for row in rows])
    store.append("stages", sweep, [key | {"stage": "finetune", "phase": 0, "key": "k", "epochs": epochs, "seconds": 1.0}])
    probe = {"probe": "cka", "moment": "start", "key": "k", "value": float(attempt), "recorded_at": datetime.now(UTC)}
    store.append("probes", sweep, [key | probe | {"layer": layer} for layer in range(2)])
    if done:
        store.append("trials", sweep, [key | {"sequence": 1, "status": "COMPLETE", "in_plan": True, "test_error": float(attempt)}])


def answers(store: ResultStore) -> list[list[dict[str, Any]]]:
    results = Results(store.uri)
    return [results.sql(f"select * from {table} order by all").rows() for table in TABLES]


def files_of(store: ResultStore, table: str, sweep: str = "s") -> list[Path]:
    return sorted(Path(store.uri, table, f"sweep={sweep}").glob("*.parquet"))


# ---------------------------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize("table", TABLES)
def test_every_column_comes_back_as_it_was_written(store: ResultStore, table: str) -> None:
    row = {column.name: VALUES[column.type] for column in TABLES[table]} | {"sweep": "s", "attempt": 1}
    nulls = dict.fromkeys(row) | {"trial": "empty", "sweep": "s", "attempt": 1}
    store.append(table, "s", [row, {"trial": "empty", "attempt": 1}])
    answer = Results(store.uri).sql(f"select * from {'trial_status' if table == 'trials' else table} order by trial")
    assert answer.rows() == [nulls, row]
    assert answer.arrow().schema.names == schema(table).names


def test_the_knobs_of_a_config_fit_their_columns(store: ResultStore) -> None:
    config = resolve_config({"task": "digits", "align.epochs": 5, "finetune.clip": 1.0})
    cells = {path.replace(".", "_"): value for path, value in canonical_knobs(config).items()}
    store.append("trials", "s", [cells | {"trial": "a", "attempt": 1, "sequence": 0}])
    (row,) = store.live_trials("s", columns=list(cells))
    assert row == {name: list(value) if isinstance(value, tuple) else value for name, value in cells.items()}
    assert len(config_columns()) == len(KNOBS)


@pytest.mark.parametrize("table", TABLES)
def test_the_docs_name_every_column_once(table: str) -> None:
    section = markdown().split(f"## {table}\n")[1].split("\n## ")[0]
    names = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert names == [column.name for column in TABLES[table]]
    assert len(set(names)) == len(names)
    assert all(column.meaning.endswith(".") for column in TABLES[table])


def test_a_column_that_no_table_has_is_refused(store: ResultStore) -> None:
    with pytest.raises(ValueError, match="metrics has no column vaild_error"):
        store.append("metrics", "s", [{"trial": "a", "attempt": 1, "vaild_error": 0.1}])
    assert not store.exists()


def test_no_rows_make_no_file(store: ResultStore) -> None:
    store.append("metrics", "s", [])
    assert files_of(store, "metrics") == []


# -------------------------------------------------------------------------------------------------- current rows, superseded ones


def test_running_gives_way_to_complete(store: ResultStore) -> None:
    add_trial(store, "a", done=False)
    assert [row["status"] for row in store.live_trials("s")] == ["RUNNING"]
    store.append("trials", "s", [{"trial": "a", "attempt": 1, "sequence": 1, "status": "COMPLETE", "in_plan": True}])
    assert [row["status"] for row in store.live_trials("s")] == ["COMPLETE"]
    assert Results(store.uri).sql("select status from trials").rows() == [{"status": "COMPLETE"}]
    assert len(Results(store.uri).sql("select * from all_trials")) == 2


def add_ended(store: ResultStore, sweep: str, trial: str, **cells: Any) -> None:
    """One finished trial; `cells` say what is special about it."""
    row = {"trial": trial, "attempt": 1, "sequence": 1, "status": "COMPLETE", "in_plan": True, "result_key": f"key of {trial}"}
    store.append("trials", sweep, [row | cells])


def test_trials_are_what_an_analysis_may_average(store: ResultStore) -> None:
    """A sweep with every kind of row, and a second one that took a trial over, finished another and plans a third no longer."""
    add_ended(store, "first", "done", test_error=0.1)
    add_ended(store, "first", "pruned", status="PRUNED", cause="asha after epoch 2", test_error=0.9)
    add_ended(store, "first", "failed", status="FAIL", cause="data")
    add_ended(store, "first", "stopped", status="FAIL", cause="stopped")
    add_ended(store, "first", "running", status="RUNNING")
    add_ended(store, "first", "left", in_plan=False, test_error=0.9)
    add_ended(store, "first", "again", test_error=0.9)
    add_ended(store, "first", "again", attempt=2, status="RUNNING")
    add_ended(store, "second", "done", test_error=0.1, reused_from="first")
    add_ended(store, "second", "own", test_error=0.2)
    ask = Results(store.uri).sql
    assert [tuple(row.values()) for row in ask("select sweep, trial from trials order by all").rows()] == [
        ("first", "done"),
        ("second", "done"),
        ("second", "own"),
    ]
    distinct = ask("select trial, sweep, avg(test_error) over () as error from distinct_trials order by all").rows()
    assert [tuple(row.values()) for row in distinct] == [("done", "first", pytest.approx(0.15)), ("own", "second", pytest.approx(0.15))]
    counts = ask("select status, count(*) n from trial_status where sweep = 'first' group by all order by all").rows()
    assert {row["status"]: row["n"] for row in counts} == {"COMPLETE": 2, "FAIL": 1, "INTERRUPTED": 1, "PRUNED": 1, "RUNNING": 2}
    assert ask("select count(*) n from all_trials").rows() == [{"n": 10}]


def test_a_trial_taken_over_stays_distinct_when_its_source_leaves_the_plan(store: ResultStore) -> None:
    add_ended(store, "first", "done", in_plan=False)
    add_ended(store, "second", "done", reused_from="first")
    assert Results(store.uri).sql("select sweep, trial from distinct_trials").rows() == [{"sweep": "second", "trial": "done"}]


def test_a_stop_is_stored_as_before_and_shown_as_interrupted(store: ResultStore) -> None:
    """Also rows that version 0.1 wrote: the files do not change."""
    add_ended(store, "s", "stopped", status="FAIL", cause="stopped", error="the sweep was stopped")
    assert [(row["status"], row["cause"]) for row in store.live_trials("s")] == [("FAIL", "stopped")]
    for view in ("trial_status", "all_trials"):
        assert Results(store.uri).sql(f"select status, cause from {view}").rows() == [{"status": "INTERRUPTED", "cause": "stopped"}]


@pytest.mark.parametrize("compacted", [False, True])
def test_superseded_attempts_are_not_seen(store: ResultStore, compacted: bool) -> None:
    add_trial(store, "a", 1, epochs=2, done=False)
    add_trial(store, "a", 2)
    add_trial(store, "b", 1)
    add_trial(store, "a", 1, sweep="other")  # the same trial elsewhere, where its first attempt holds
    if compacted:
        store.compact("s")
    results = Results(store.uri)
    counted = results.sql("select sweep, trial, attempt, count(*) as n from metrics group by all order by all").rows()
    assert [tuple(row.values()) for row in counted] == [("other", "a", 1, 3), ("s", "a", 2, 3), ("s", "b", 1, 3)]
    stages = results.sql("select sweep, trial, attempt from stages order by all").rows()
    assert [tuple(row.values()) for row in stages] == [("other", "a", 1), ("s", "a", 2), ("s", "b", 1)]
    assert results.sql("select test_error from trials where sweep = 's' and trial = 'a'").rows() == [{"test_error": 2.0}]


@pytest.mark.parametrize("most", [0, 2])
def test_sweeps_are_read_alike_one_by_one_and_together(store: ResultStore, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """The view of `metrics` has a part for each sweep, or one for all of them where there are many: columns and rows are the same."""
    for sweep in ("it's", "s"):
        add_trial(store, "a", 1, epochs=2, done=False, sweep=sweep)
    add_trial(store, "a", 2, sweep="s")
    monkeypatch.setattr(views, "MOST_PARTS", most)
    ask = Results(store.uri).sql
    counted = ask("select sweep, attempt, count(*) as n from metrics group by all order by all").rows()
    assert [tuple(row.values()) for row in counted] == [("it's", 1, 2), ("s", 2, 3)]
    assert ask("select * from metrics limit 0").arrow().schema.names == schema("metrics").names
    joined = ask(
        "select count(*) as n from all_trials join metrics using (sweep, trial, attempt) where sweep = 's' and status = 'COMPLETE'"
    )
    assert joined.rows() == [{"n": 3}]


def test_live_trials_are_what_sql_shows(store: ResultStore) -> None:
    for attempt in (1, 2, 3):
        add_trial(store, "a", attempt, done=attempt < 3)
    add_trial(store, "b", sweep="other")
    assert sorted(store.live_trials(), key=lambda row: row["sweep"]) == Results(store.uri).sql("from trial_status order by sweep").rows()
    assert store.live_trials("s", columns=["trial", "status"]) == [{"trial": "a", "status": "RUNNING"}]
    assert store.live_trials("unknown") == []


# ------------------------------------------------------------------------------------------------------- files of different age


@pytest.mark.parametrize("compacted", [False, True])
def test_files_of_different_age_unite_by_name(store: ResultStore, compacted: bool) -> None:
    add_trial(store, "new", epochs=1)
    now = schema("metrics")
    row = {"sweep": "s", "trial": "old", "attempt": 1, "stage": "finetune", "epoch": 1, "lr": 0.5}
    older = pa.schema([field for field in reversed(now) if field.name != "distance"])
    newer = now.append(pa.field("grad_norm", pa.float64()))
    folder = files_of(store, "metrics")[0].parent
    pq.write_table(pa.Table.from_pylist([row], schema=older), folder / "0.parquet")
    pq.write_table(pa.Table.from_pylist([row | {"trial": "newest", "grad_norm": 2.0}], schema=newer), folder / "1.parquet")
    if compacted:
        store.compact("s")
        (merged,) = files_of(store, "metrics")
        assert sorted(pq.read_table(merged)["grad_norm"].to_pylist(), key=str) == [2.0, None, None]
    found = Results(store.uri).sql("select trial, distance, lr from metrics order by trial").rows()
    assert [tuple(row.values()) for row in found] == [("new", None, None), ("newest", None, 0.5), ("old", None, 0.5)]


@pytest.mark.parametrize("compacted", [False, True])
def test_trials_from_before_proxy_distances_have_none(store: ResultStore, compacted: bool) -> None:
    row = {"sweep": "s", "attempt": 1, "sequence": 1, "status": "COMPLETE", "in_plan": True, "test_error": 0.5}
    store.append("trials", "s", [row | {"trial": "new", "proxy_distance": 3.5, "proxy_distance_unlabelled": 1.25}])
    older = pa.schema([field for field in schema("trials") if not field.name.startswith("proxy_distance")])
    pq.write_table(pa.Table.from_pylist([row | {"trial": "old"}], schema=older), files_of(store, "trials")[0].parent / "0.parquet")
    if compacted:
        store.compact("s")
    found = Results(store.uri).sql("select trial, proxy_distance, proxy_distance_unlabelled, test_error from trials order by trial").rows()
    assert [tuple(row.values()) for row in found] == [("new", 3.5, 1.25, 0.5), ("old", None, None, 0.5)]


@pytest.mark.parametrize("compacted", [False, True])
def test_a_knob_that_was_a_yes_or_no_is_shown_in_the_spelling_of_today(store: ResultStore, compacted: bool) -> None:
    for trial, compiled in (("a", False), ("b", True), ("c", None)):
        row = {"sweep": "s", "trial": trial, "attempt": 1, "sequence": 1, "status": "COMPLETE", "in_plan": True}
        path = Path(store.uri, "trials", "sweep=s", f"0{trial}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({**{name: [value] for name, value in row.items()}, "finetune_compile": pa.array([compiled], pa.bool_())}), path
        )
    store.append("trials", "s", [row | {"trial": "d", "finetune_compile": "reduce-overhead"}])
    if compacted:
        store.compact("s")
    expected = [("a", "none"), ("b", "default"), ("c", None), ("d", "reduce-overhead")]
    found = Results(store.uri).sql("select trial, finetune_compile from trials order by trial").rows()
    assert [(row["trial"], row["finetune_compile"]) for row in found] == expected
    assert sorted((row["trial"], row["finetune_compile"]) for row in store.live_trials("s", ["trial", "finetune_compile"])) == expected


# ------------------------------------------------------------------------------------------------------------------- compaction


def fill(store: ResultStore) -> None:
    for trial in "abc":
        add_trial(store, trial)
    add_trial(store, "a", 2)


def test_compaction_leaves_one_file_and_the_same_answers(store: ResultStore) -> None:
    fill(store)
    before = answers(store)
    store.compact("s")
    assert [len(files_of(store, table)) for table in TABLES] == [1, 1, 1, 1]
    assert answers(store) == before
    add_trial(store, "d")
    between = answers(store)
    store.compact("s")
    store.compact("s")
    assert [len(files_of(store, table)) for table in TABLES] == [1, 1, 1, 1]
    assert answers(store) == between


def test_a_reader_that_listed_before_a_compaction_answers_all_the_same(store: ResultStore) -> None:
    fill(store)
    listed = []

    def use(data: dict[str, Any]) -> int:
        listed.append(len(data["metrics"].files))
        if len(listed) == 1:
            store.compact("s")  # removes what was listed
        return int(data["metrics"].count_rows())

    assert store.read(["metrics"], use) == 9
    assert listed == [4, 1]


@pytest.mark.parametrize("restored", [slice(None), slice(1), slice(-1, None)])
def test_a_compaction_killed_while_it_deletes_doubles_nothing(store: ResultStore, tmp_path: Path, restored: slice) -> None:
    fill(store)
    before = answers(store)
    old = {table: files_of(store, table) for table in TABLES}
    shutil.copytree(store.uri, tmp_path / "copy")
    store.compact("s")
    for table, paths in old.items():
        for path in paths[restored]:
            shutil.copy(tmp_path / "copy" / table / "sweep=s" / path.name, path)
    assert answers(store) == before
    store.compact("s")
    assert [len(files_of(store, table)) for table in TABLES] == [1, 1, 1, 1]
    assert answers(store) == before


@pytest.mark.parametrize("twice", [False, True])
def test_a_compaction_that_comes_late_doubles_nothing(store: ResultStore, tmp_path: Path, twice: bool) -> None:
    fill(store)
    shutil.copytree(store.uri, tmp_path / "late")
    late = ResultStore(tmp_path / "late")
    late.compact("s")  # saw the files of now, and publishes below
    add_trial(store, "d")
    before = answers(store)
    store.compact("s")
    if twice:
        add_trial(store, "d", 2)
        before = answers(store)
        store.compact("s")
    for table in TABLES:
        shutil.copy(files_of(late, table)[0], files_of(store, table)[0].parent)
    assert answers(store) == before


def test_readers_count_every_row_once_while_a_writer_appends_and_compacts(store: ResultStore) -> None:
    add_trial(store, "0", epochs=10)
    stop = threading.Event()

    def write() -> None:
        for number in range(1, 20):
            add_trial(store, str(number), epochs=10)
            if number % 4 == 0:
                store.compact("s")
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    counts = []
    while not stop.is_set():
        counts.append(Results(store.uri).sql("select count(*) as n from metrics").rows()[0]["n"])
    writer.join()
    assert counts == sorted(counts)
    assert all(count % 10 == 0 for count in counts)
    assert len(Results(store.uri).sql("from metrics")) == 200


# ----------------------------------------------------------------------------------------------------------------------- damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    """In the last value of the column `attempt`: the file stays readable but for its checksum."""
    chunk = pq.read_metadata(path).row_group(0).column(schema("metrics").names.index("attempt"))
    content = bytearray(path.read_bytes())
    content[chunk.dictionary_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit])
@pytest.mark.parametrize("table", ["metrics", "trials"])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_damaged_file_is_named(store: ResultStore, damage: Callable[[Path], None], table: str, compacted: bool) -> None:
    fill(store)
    if compacted:
        store.compact("s")
    path = files_of(store, table)[0]
    damage(path)
    for read in (lambda: answers(store), lambda: store.read(["metrics", "trials"], lambda data: [d.to_table() for d in data.values()])):
        with pytest.raises(StoreError, match=f"{path.name}: is damaged .*Restore the file, or set it aside") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_no_results_are_said_to_be_none(store: ResultStore) -> None:
    with pytest.raises(StoreError, match=r"results: there are no results here\. Check the spelling of --results"):
        Results(store.uri).sql("select 1")
    assert store.live_trials() == []
    assert store.sweeps() == []


# -------------------------------------------------------------------------------------------------------------------------- SQL


@pytest.mark.parametrize(
    "query",
    [
        "create table t as select 1",
        "insert into trials select * from trials",
        "delete from all_trials",
        "drop view trials",
        "copy trials to '{folder}/out.csv'",
        "copy (select 1) to '{folder}/out.parquet'",
        "export database '{folder}/out'",
        "attach '{folder}/out.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "pragma threads = 1",
        "call enable_logging()",
        "explain analyze copy trials to '{folder}/out.csv'",
        "select * from read_parquet('{folder}/secret.parquet')",
        "select * from '{folder}/secret.parquet'",
        "select * from read_text('{folder}/secret.parquet')",
        "select * from parquet_metadata('{folder}/secret.parquet')",
        "select * from glob('{folder}/*')",
        "select * from enable_logging(storage = 'file', storage_config = {{'path': '{folder}/log'}})",
        "select * from python_variable",
        "select 1; drop view trials",
        "",
    ],
)
def test_sql_can_only_read_the_tables(store: ResultStore, tmp_path: Path, query: str) -> None:
    add_trial(store, "a")
    python_variable = pa.table({"secret": [1]})
    pq.write_table(python_variable, tmp_path / "secret.parquet")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(QueryError) as caught:
        Results(store.uri).sql(query.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select tast from trials", r"\"tast\" not found.* Did you mean 'task'\?"),
        ("select t.valid_eror from trials t", r"\"valid_eror\".* Did you mean 'valid_error'\?"),
        ("select zzzzzz from trials", "DESCRIBE trials lists what there is"),
        (
            "select * from metric",
            r"Did you mean 'metrics'\? Known: all_trials, distinct_trials, floors, metrics, probes, stages, trial_status, trials",
        ),
        ("select metics.epoch from trials", r"Did you mean 'metrics'\?"),
        ("select 1 from trials where task = digits", "If digits is a text, put it in single quotes: 'digits'"),
        ("select 1 from trials where task = openml/187", "put it in single quotes: 'openml/187'"),
        ("select 1 from trials where body_name in (mini-swin)", "put it in single quotes: 'mini-swin'"),
        ('select 1 from trials where freezing = "full"', "put it in single quotes: 'full'"),
        ("select 1 from trials where tast = 'digits'", "Did you mean 'task'"),
        ("select finetune.lr from trials", r"The column of finetune\.lr is finetune_lr\."),
        ("select 1 from trials where align.epochs = 0", r"The column of align\.epochs is align_epochs\."),
        ("selec 1", 'syntax error at or near "selec"'),
        ("drop view trials", "results are read-only: give a SELECT, but got DROP"),
        ("select 'a'::int", "Could not convert string 'a'"),
    ],
)
def test_a_wrong_query_is_answered_in_one_line(store: ResultStore, query: str, message: str) -> None:
    add_trial(store, "a")
    with pytest.raises(QueryError, match=message) as caught:
        Results(store.uri).sql(query)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "num_rows"),
    [
        ("with best as (select min(valid_error) as e from metrics) from best", 1),
        ("from metrics", 9),
        ("describe trials", len(TABLES["trials"])),
        ("pivot metrics on trial using avg(valid_error) group by epoch", 3),
        ("explain select * from metrics", 1),
        ("select * from stages where sweep = 'unknown'", 0),
        ("select ended_at - started_at, date_trunc('hour', started_at) from trials", 3),
        ("select m.epoch, t.test_error from metrics m join trials t using (sweep, trial)", 9),
    ],
)
def test_whatever_selects_is_answered(store: ResultStore, query: str, num_rows: int) -> None:
    fill(store)
    assert len(Results(store.uri).sql(query)) == num_rows


def test_a_view_is_found_however_it_is_named(store: ResultStore) -> None:
    """A query registers the tables that it names, and the others if it made up a name."""
    fill(store)
    ask = Results(store.uri).sql
    for query in (
        "from query_table('met' || 'rics')",
        "from query('from met' || 'rics')",
        'from "Metrics"',
        "from METRICS",
        "table metrics",
    ):
        assert len(ask(query)) == 9
    assert {row["name"] for row in ask("show tables").rows()} == {*TABLES, "floors", "all_trials", "distinct_trials", "trial_status"}


# -------------------------------------------------------------------------------------------------------------- one connection


def test_a_query_sees_what_changed_since_the_last_one(store: ResultStore, tmp_path: Path) -> None:
    """The process keeps its connection, but no rows: also when sweeps come and go, files are replaced and another store is asked."""
    other = ResultStore(tmp_path / "other")
    add_trial(other, "z", epochs=7)

    def counted() -> list[tuple[Any, ...]]:
        query = "select sweep, trial, count(*) from trials join metrics using (sweep, trial) group by all order by all"
        return [tuple(row.values()) for row in Results(store.uri).sql(query).rows()]

    add_trial(store, "a")
    assert counted() == [("s", "a", 3)]
    add_trial(store, "a", sweep="r", epochs=2)
    assert counted() == [("r", "a", 2), ("s", "a", 3)]
    assert len(Results(other.uri).sql("from metrics")) == 7
    add_trial(store, "a", 2, epochs=1)
    assert counted() == [("r", "a", 2), ("s", "a", 1)]
    store.compact("s")
    assert counted() == [("r", "a", 2), ("s", "a", 1)]
    with pytest.raises(QueryError):
        Results(store.uri).sql("select nothing from metrics")
    store.remove("s")
    assert counted() == [("r", "a", 2)]


def test_threads_ask_at_once(store: ResultStore) -> None:
    for trial in "abcd":
        add_trial(store, trial)
    found: list[list[dict[str, Any]]] = []

    def ask(trial: str) -> None:
        for _ in range(5):
            found.append(Results(store.uri).sql(f"select trial, count(*) as n from metrics where trial = '{trial}' group by all").rows())

    threads = [threading.Thread(target=ask, args=(trial,)) for trial in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rows[0]["trial"] for rows in found) == sorted("abcd" * 5)
    assert all(rows[0]["n"] == 3 for rows in found)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_file_of_results_stays_open(store: ResultStore) -> None:
    fill(store)
    Results(store.uri).sql("select * from trials join metrics using (sweep, trial)")
    assert not [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and str(store.uri) in os.path.realpath(link)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_asks_for_itself(store: ResultStore) -> None:
    """It has none of the threads of a connection of its parent: it would wait for them forever."""
    add_trial(store, "a")
    code = """
import os, sys
from sweeper import Results
def ask():
    print(len(Results(sys.argv[1]).sql("from metrics")), flush=True)
ask()
child = os.fork()
ask()
assert not child or os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code, store.uri], capture_output=True, text=True, check=True, timeout=120)
    assert ("".join(done.stdout.split()), done.stderr) == ("333", "")  # both processes may write before either ends its line


def test_nothing_but_the_answer_is_printed(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python's main module is no file, as under `python -c`, DuckDB draws a bar for queries of more than two seconds."""
    add_trial(store, "a")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(connection, "_KEPT", [])
    assert Results(store.uri).sql("select current_setting('enable_progress_bar') as bar").rows() == [{"bar": False}]


# -------------------------------------------------------------------------------------------------------------- many metrics


@pytest.mark.parametrize("tables", ["trials join metrics", "metrics join trials"])
@pytest.mark.parametrize("where", ["", "where sweep = 's' and stage = 'finetune'"])
def test_a_join_builds_its_hash_table_of_trials(store: ResultStore, tables: str, where: str) -> None:
    """That of metrics would have a thousand times the rows."""
    fill(store)
    query = f"select freezing, avg(metrics.valid_error) from {tables} using (sweep, trial) {where} group by all"
    (plan,) = json.loads(Results(store.uri).sql(f"explain (format json) {query}").rows()[0]["explain_value"])
    joins = [node for node in walk(plan) if node["name"].strip() == "HASH_JOIN"]
    assert [join["extra_info"]["Join Type"] for join in joins] == ["INNER"]
    assert ["valid_error" in json.dumps(side) for side in joins[0]["children"]] == [True, False]


def walk(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan["children"]:
        yield from walk(child)


def test_measured_values_are_stored_without_dictionaries(store: ResultStore) -> None:
    fill(store)
    store.compact("s")
    group = pq.read_metadata(files_of(store, "metrics")[0]).row_group(0)
    names = {group.column(i).path_in_schema: group.column(i).has_dictionary_page for i in range(group.num_columns)}
    assert (names["valid_error"], names["trial"], names["epoch"]) == (False, True, True)


def test_rows_that_compaction_left_out_are_not_looked_for_again(store: ResultStore) -> None:
    add_trial(store, "a", 1)
    add_trial(store, "a", 2)
    add_trial(store, "b", 1)
    store.compact("s")

    def split() -> list[int]:
        """How many files are read as they are, and how many through a filter."""

        def use(data: dict[str, Any]) -> list[int]:
            superseded = views.find_superseded(data["trials"]).within("s")
            return [len(part.files) for part in split_by_left_out(data["metrics"], superseded.digest())]

        return store.read(["trials", "metrics"], use)

    ask = Results(store.uri).sql
    assert split() == [1, 0]
    add_trial(store, "c", epochs=2)
    assert split() == [1, 1]
    assert len(ask("from metrics")) == 8
    add_trial(store, "b", 2, epochs=1)
    assert split() == [0, 3], "rows of the merged file are superseded now"
    assert len(ask("from metrics")) == 6
    store.compact("s")
    assert split() == [1, 0]
    assert len(ask("from metrics")) == 6


# ----------------------------------------------------------------------------------------------------------------------- answer


def test_an_answer_is_arrow_pandas_polars_or_dicts(store: ResultStore) -> None:
    fill(store)
    answer = Results(store.uri).sql("select trial, attempt from trials order by trial")
    expected = {"trial": ["a", "b", "c"], "attempt": [2, 1, 1]}
    assert answer.arrow().to_pydict() == expected
    assert answer.df().to_dict("list") == expected
    assert answer.pl().to_dict(as_series=False) == expected
    assert answer.rows()[0] == {"trial": "a", "attempt": 2}
    assert repr(answer) == "trial  attempt\na      2\nb      1\nc      1\n[3 rows x 2 columns]"


def test_html_of_an_answer_is_escaped(store: ResultStore) -> None:
    add_trial(store, "a")
    page = Results(store.uri).sql("select '<b>' as bold from trials")._repr_html_()
    assert page == "<table><tr><th>bold</th></tr><tr><td>&lt;b&gt;</td></tr></table><p>[1 rows x 1 columns]</p>"


@pytest.mark.parametrize(("method", "package"), [("df", "pandas"), ("pl", "polars")])
def test_a_missing_package_is_named_with_its_extra(store: ResultStore, monkeypatch: pytest.MonkeyPatch, method: str, package: str) -> None:
    add_trial(store, "a")
    answer = Results(store.uri).sql("select 1")
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to make an import fail
    with pytest.raises(ImportError, match=rf"{method}\(\) needs {package}: pip install 'orca-sweeper\[frames\]'"):
        getattr(answer, method)()


# ----------------------------------------------------------------------------------------------------------------- notes, places


def test_plans_and_claims_are_kept_by_sweep(store: ResultStore) -> None:
    assert store.claims("s") == {}
    assert store.plans("s") == {}
    store.save_plan("s", "bb", {"trials": 2})
    store.save_plan("s", "aa", {"trials": 3})
    store.write_claim("s", "a", {"pid": 1})
    store.write_claim("s", "a", {"pid": 2})
    store.write_claim("claimed", "a", {})
    Path(store.uri, "sweeps", "s", "heartbeat.json").write_text("{}")  # of version 0.1
    add_trial(store, "a", sweep="t")
    assert list(store.plans("s").items()) == [("bb", {"trials": 2}), ("aa", {"trials": 3})]
    assert {run: claim.data for run, claim in store.claims("s").items()} == {"a": {"pid": 2}}
    assert store.sweeps() == ["s", "t"]


def test_a_damaged_plan_is_named(store: ResultStore) -> None:
    store.save_plan("s", "aa", {"trials": 3})
    Path(store.uri, "sweeps", "s", "aa.json").write_text('{"trials":')
    with pytest.raises(StoreError, match=r"aa\.json: is damaged"):
        store.plans("s")


def test_a_uri_is_a_place_as_good_as_a_path(tmp_path: Path) -> None:
    store = ResultStore(f"file://{tmp_path}/results")
    fill(store)
    before = answers(store)
    store.compact("s")
    assert answers(store) == before == answers(ResultStore(tmp_path / "results"))


def test_importing_results_loads_nothing_heavy() -> None:
    code = "import sys, sweeper.results; print(*{'torch', 'ray', 'duckdb', 'pandas', 'polars'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
