"""A sweep in one file: its tables, plans and versions, that a stranger can query, and that a digest holds unchanged."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from orca_core.errors import ConfigError, Fault
from orca_core.floors.rows import FloorCase
from sweeper.analysis.numbers import numbers_of
from sweeper.results.records import IDENTITY, TABLES, schema
from sweeper.results.store import ResultStore, results_option
from sweeper.results.views import current_rows
from sweeper.results.workspace import Workspace
from sweeper.running.provenance import provenance
from sweeper.upkeep.archive import MANIFEST, MAX_BYTES, UNKNOWN, Archive, ArchiveError, pack, unpack

REPORT = "report.html"
"""The page of the sweep; it quotes the digest of the bundle."""

_VERSIONS = (
    *("code_version", "code_commit", "code_digest", "python_version", "torch_version", "numpy_version", "sklearn_version"),
    *("transformers_version", "peft_version", "timm_version", "ray_version", "cuda_version"),
)
"""Columns of trials with versions."""

_README = """\
The results of the sweep {name}, as files that need no program of their own.

  trials/, metrics/, stages/   Parquet: a row for each trial, epoch and stage
  floors/                      Parquet: what models without a transformer reach on the same tasks
  sweeps/                      JSON: each plan of the sweep, with the search space as given and all its trials resolved
  space.yaml                   the search space of the latest plan, as given
  versions.json, digests.json  what computed the trials, and what their data and results are known by
  csv/                         the trials, the floors and all numbers as CSV
  report.html                  the sweep on one page, if the bundle has it
  {manifest}                 SHA-256 of every file; `sha256sum -c {manifest}` compares them

Questions, in DuckDB (https://duckdb.org) alone, in this folder:

  select task, freezing, avg(test_error) as error, count(*) as trials
  from 'csv/trials.csv' where status = 'COMPLETE' and in_plan group by all order by all;

  select trial, epoch, valid_error from 'metrics/*/*.parquet' where stage = 'finetune' order by all;

A trial may have several rows in trials/: it was begun, then it ended, perhaps in several attempts. The one that counts has the largest
(attempt, run, sequence); csv/trials.csv has only that. docs/results.md of the package says what each column means. With the package:

  sweeper query "select ..." --results FOLDER      sweeper best {name} --results FOLDER
  sweeper why ID --results FOLDER                  for an id of csv/numbers.csv
  sweeper check NAME --results FOLDER              computes trials again

The digest of the bundle is the SHA-256 of {manifest}: `sha256sum {manifest}`. Compare it with the one that the paper quotes;
`sweeper check BUNDLE --digest HEX` does so, and refuses a bundle that differs in any byte. report.html quotes the digest, too. As
no file can hold a digest of itself, it is listed with 64 zeros in that place, and `sha256sum -c` names it as the only one that differs:
sed "s/$(sha256sum {manifest} | cut -c 1-64)/$(printf '0%.0s' $(seq 64))/" report.html | sha256sum
"""


def make_bundle(workspace: Workspace, name: str, make_report: Callable[[Workspace, str], str] | None = None) -> tuple[bytes, str]:
    """Put a sweep into one archive. The same tables give the same bytes, as long as this package and its libraries are the same.

    Args:
        workspace: Where the results are.
        name: Name of the sweep.
        make_report: Makes the page of a sweep as HTML, from results and name; None leaves the page out.

    Returns:
        The bytes of the archive, and its digest.

    Raises:
        ConfigError: If the sweep is unknown.
        StoreError: If a file of the results is damaged.
    """
    results = workspace.results
    results.check_sweep(name)
    tables = {table: _rows(results, table, name) for table in TABLES}
    trials = current_rows(tables["trials"]) if len(tables["trials"]) else tables["trials"]
    floors = _floors(results, trials)
    plans = {plan_hash: _without_paths(plan) for plan_hash, plan in results.plans(name).items()}
    files = {f"{table}/sweep={name}/{table}.parquet": _parquet(rows) for table, rows in tables.items() if len(rows)}
    files |= {f"sweeps/{name}/{plan_hash}.json": _json(plan) for plan_hash, plan in plans.items()}
    files |= {"floors/floors.parquet": _parquet(floors)} if len(floors) else {}
    derived = {"csv/trials.csv": _csv(trials.column_names, trials.to_pylist())}
    derived |= {"csv/floors.csv": _csv(floors.column_names, floors.to_pylist())} if len(floors) else {}
    with tempfile.TemporaryDirectory(prefix="sweeper-bundle-") as folder:
        # From the files of the bundle: sums are rounded by the order of rows, and readers shall get the same ones.
        for path, content in files.items():
            Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, path).write_bytes(content)
        inside = Workspace(folder)
        derived["csv/numbers.csv"] = _numbers(inside.results, name)
        if make_report is not None:
            derived[REPORT] = _quoting(make_report(inside, name), folder).encode()
    latest = max(plans.values(), key=lambda plan: plan["made_at"], default={})
    if latest.get("space"):
        derived["space.yaml"] = yaml.safe_dump(latest["space"], sort_keys=False, allow_unicode=True).encode()
    derived["versions.json"] = _json({"bundle": 1, "made_by": provenance()["code_version"], "trials": _versions(trials)})
    derived["digests.json"] = _json(_digests(trials, floors))
    derived["README.txt"] = _README.format(name=name, manifest=MANIFEST).encode()
    return pack(files | derived, REPORT if make_report is not None else None)


def _rows(results: ResultStore, table: str, name: str) -> pa.Table:
    """All rows of a sweep, in an order that does not depend on its files."""
    rows = results.read([table], lambda data: data[table].to_table(), name).cast(schema(table))
    return rows.sort_by([(column, "ascending") for column in IDENTITY[table]])


def _floors(results: ResultStore, trials: pa.Table) -> pa.Table:
    """The floors of the tasks and splits of the trials."""
    cases = {FloorCase.of_row(row) for row in trials.select(list(FloorCase("").cells())).to_pylist()}
    rows = [row for row in results.floors() if FloorCase.of_row(row) in cases]
    rows.sort(key=lambda row: (str(FloorCase.of_row(row)), row["model"]))
    return pa.Table.from_pylist(rows, schema=schema("floors"))


def _parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows.combine_chunks(), sink, compression="zstd")
    found: bytes = sink.getvalue().to_pybytes()
    return found


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if row[name] is None else _plain(row[name]) for name in columns] for row in rows])
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value)
    return value if isinstance(value, int | float | str) else value.isoformat()


def _numbers(results: ResultStore, name: str) -> bytes:
    lines = [number.line() for number in numbers_of(results, name)]
    for line in lines:  # more digits depend on the processor
        line |= {key: float(f"{line[key]:.12g}") for key in ("value", "low", "high") if line[key] is not None}
    return _csv(list(lines[0]) if lines else ["number"], lines)


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _without_paths(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan without what tells of the machine of its author: of the path of the space's file the name."""
    return {key: value for key, value in plan.items() if key != "host"} | {"file": PurePath(str(plan.get("file") or "")).name}


def _versions(trials: pa.Table) -> list[dict[str, Any]]:
    """The versions that computed trials, with their number."""
    rows = trials.select(list(_VERSIONS)).to_pylist()
    counts = Counter(tuple((name, row[name]) for name in _VERSIONS if row[name] is not None) for row in rows)
    return [dict(versions) | {"trials": count} for versions, count in sorted(counts.items(), key=str)]


def _digests(trials: pa.Table, floors: pa.Table) -> dict[str, Any]:
    """What data and results are known by."""
    data = {row["task"]: row["task_digest"] for row in floors.to_pylist() if row["task_digest"]}
    complete = trials.filter(pc.equal(trials["status"], "COMPLETE")).sort_by("trial")
    return {"data": data, "results": dict(zip(complete["trial"].to_pylist(), complete["result_key"].to_pylist(), strict=True))}


def _quoting(page: str, uri: str) -> str:
    """The page with a place for the digest, and without the folder of the results, which readers do not have."""
    note = f"Part of a bundle with all tables behind this page. SHA-256 of its {MANIFEST}: <code>{UNKNOWN}</code>"
    here = results_option(uri)
    page = page.replace(UNKNOWN, "").replace(html.escape(here), "").replace(here, "")
    before, tag, after = page.rpartition("</footer>" if "</footer>" in page else "</body>")
    return f'{before}<p class="note">{note}</p>\n{tag}{after}'


def write_bundle(path: Path, data: bytes) -> None:
    """Write a bundle whole or not at all.

    Raises:
        ConfigError: If the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            draft.write_bytes(data)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError([Fault("--output", f"must be writable ({error.strerror})", str(path))]) from None


def check_bundle(path: Path, digest: str | None) -> tuple[Archive | None, list[str]]:
    """Check a bundle.

    Args:
        path: The file.
        digest: The digest that it must have; None = any.

    Returns:
        Its files, None if it is refused; and all reasons.

    Raises:
        ConfigError: If the file cannot be read, or the digest does not have the form of one.
    """
    faults = []
    if digest is not None and (len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef")):
        faults.append(Fault("--digest", "must be a SHA-256: 64 hexadecimal digits", digest))
    if not path.is_file():
        faults.append(Fault("BUNDLE", "must be a file", str(path)))
    elif path.stat().st_size > MAX_BYTES:
        faults.append(Fault("BUNDLE", f"must be no larger than {MAX_BYTES / 2**30:g} GiB", str(path)))
    if faults:
        raise ConfigError(faults)
    try:
        archive = unpack(path.read_bytes())
    except ArchiveError as error:
        return None, error.faults
    if digest is not None and archive.digest != digest.lower():
        return None, [f"has the digest {archive.digest}, not {digest.lower()}: it is whole, but another bundle, or was made again"]
    return archive, []
