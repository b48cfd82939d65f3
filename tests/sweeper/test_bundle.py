"""Bundles: the same tables give the same bytes, a stranger can query them, and nothing about them can be changed unnoticed."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.results import Workspace
from sweeper.running.plan_note import plan_note
from sweeper.running.recorder import Recorder
from sweeper.space.reading import parse_space
from sweeper.upkeep.archive import MANIFEST, UNKNOWN, ArchiveError, pack, unpack
from sweeper.upkeep.bundle import make_bundle

SPACE = {"name": "two", "base": {"task": "digits"}, "space": {"align.epochs": {"grid": [0, 10]}}, "seeds": 2}


def record(folder: Path) -> Workspace:
    """A sweep as a driver records it, from a space in a folder that its plan names."""
    workspace = Workspace(folder)
    plan = make_plan(parse_space(SPACE, "/home/somebody/spaces/two.yaml"))
    workspace.results.save_plan("two", plan.hash, plan_note(plan))
    recorder = Recorder(workspace.results, "two", "valid_error", clock=lambda: 0.0, run="20261126T200000-00000000")
    for trial in plan.trials:
        recorder.start(trial, device="cpu")
        error = 0.1 + 0.01 * trial.config.seed + 0.05 * (trial.config.align.epochs == 0)
        recorder.end(
            trial.id, {"status": "COMPLETE", "valid_error": error, "test_error": error, "test_samples": 100, "score": "1-accuracy"}
        )
        recorder.flush()
    return workspace


def page(workspace: Workspace, name: str) -> str:
    return f"<html><body><code>sweeper best {name} --results {workspace.uri}</code><footer>made by hand</footer></body></html>"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> tuple[bytes, str]:
    return make_bundle(record(tmp_path_factory.mktemp("results")), "two", page)


def check(tmp_path: Path, data: bytes, *options: str) -> tuple[int, str]:
    """Exit code and output of `sweeper check` on a file."""
    file = tmp_path / "two.bundle.zip"
    file.write_bytes(data)
    result = CliRunner().invoke(app, ["check", str(file), *options], env={"COLUMNS": "200", "TERM": "dumb"})
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries: list[tuple[str, bytes]], **of_zip: int) -> bytes:
    """An archive in the form of bundles, with any entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **of_zip) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr, info.compress_type = 3, 0o100644 << 16, of_zip.get("compression", 0)
            archive.writestr(info, content)
    return buffer.getvalue()


def test_the_same_tables_give_the_same_bytes(bundle: tuple[bytes, str], tmp_path: Path):
    data, digest = bundle
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(tmp_path / "unpacked")
    again = Workspace(tmp_path / "unpacked")
    again.results.compact("two")
    assert make_bundle(again, "two", page) == (data, digest)


def test_a_bundle_is_sound_and_its_digest_is_that_of_its_manifest(bundle: tuple[bytes, str], tmp_path: Path):
    data, digest = bundle
    assert hashlib.sha256(files_of(data)[MANIFEST]).hexdigest() == digest
    code, output = check(tmp_path, data, "--digest", digest.upper())
    assert code == 0
    assert "unchanged" in output
    code, output = check(tmp_path, data)
    assert code == 0
    assert digest in output
    assert "Whoever alters a bundle can make a manifest that fits" in output


def test_the_report_quotes_the_digest_and_is_held_by_it(bundle: tuple[bytes, str], tmp_path: Path):
    data, digest = bundle
    files = files_of(data)
    assert digest.encode() in files["report.html"]
    for text in (b"made by hand", digest.encode()):
        altered = files | {"report.html": files["report.html"].replace(text, b"0" * len(text))}
        code, output = check(tmp_path, zipped(sorted(altered.items())))
        assert code == 1
        assert "report.html" in output


def test_a_stranger_can_query_it_with_duckdb_alone(bundle: tuple[bytes, str], tmp_path: Path, monkeypatch):
    import duckdb

    with zipfile.ZipFile(io.BytesIO(bundle[0])) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    readme = Path("README.txt").read_text()
    query = readme[readme.index("  select task") :].partition(";")[0]
    assert duckdb.sql(query).fetchall() == [("digits", "full", pytest.approx(0.13), 4)]
    sums = [line.split("  ") for line in Path(MANIFEST).read_text().splitlines()]
    differing = [name for digest, name in sums if hashlib.sha256(Path(name).read_bytes()).hexdigest() != digest]
    assert differing == ["report.html"]


def test_an_unpacked_bundle_is_a_folder_of_results(bundle: tuple[bytes, str], tmp_path: Path):
    with zipfile.ZipFile(io.BytesIO(bundle[0])) as archive:
        archive.extractall(tmp_path)
    sql = "select align_epochs, avg(test_error) as error from trials where sweep = 'two' group by all order by all"
    rows = Workspace(tmp_path).sql(sql).rows()
    assert [(row["align_epochs"], row["error"]) for row in rows] == [(0, pytest.approx(0.155)), (10, pytest.approx(0.105))]
    result = CliRunner().invoke(app, ["best", "two", "--results", str(tmp_path)])
    assert result.exit_code == 0
    assert "0.105" in result.output


def test_no_path_of_its_author_is_in_it(bundle: tuple[bytes, str]):
    for name, content in files_of(bundle[0]).items():
        assert not [text for text in (b"somebody", b"--results /", b"sweeper-bundle-") if text in content], name


def test_a_bundle_without_a_report_is_whole_too(tmp_path: Path):
    data, digest = make_bundle(record(tmp_path / "results"), "two")
    assert unpack(data).digest == digest


# ------------------------------------------------------------------------------------------------------------------ tampering


def flip(data: bytes) -> bytes:
    middle = data.index(b"PAR1") + 40
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def rewritten(change: Callable[[dict[str, bytes]], object]) -> Callable[[bytes], bytes]:
    def tamper(data: bytes) -> bytes:
        files = files_of(data)
        change(files)
        return zipped(sorted(files.items()))

    return tamper


def reordered(data: bytes) -> bytes:
    return zipped(sorted(files_of(data).items(), reverse=True))


def twice(data: bytes) -> bytes:
    with pytest.warns(UserWarning, match="Duplicate"):
        return zipped(sorted([*files_of(data).items(), ("csv/trials.csv", b"sweep,trial\n")]))


def compressed(data: bytes) -> bytes:
    return zipped(sorted(files_of(data).items()), compression=zipfile.ZIP_DEFLATED)


def bomb(data: bytes) -> bytes:
    return zipped([("zeros", bytes(2**24))], compression=zipfile.ZIP_DEFLATED)


def link(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("a-link", (1980, 1, 1, 0, 0, 0))
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def comment(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"hidden"
    return buffer.getvalue()


TAMPERED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one bit of a table": (flip, "damaged"),
    "a number of a table": (
        rewritten(lambda f: f.update({"csv/trials.csv": f["csv/trials.csv"].replace(b"0.1", b"0.2")})),
        "another csv/trials.csv",
    ),
    "a file more": (rewritten(lambda f: f.update({"extra.txt": b""})), "does not list"),
    "a file less": (rewritten(lambda f: f.pop("versions.json")), "lacks versions.json"),
    "no manifest": (rewritten(lambda f: f.pop(MANIFEST)), f"lacks {MANIFEST}"),
    "a manifest in another form": (rewritten(lambda f: f.update({MANIFEST: f[MANIFEST] + b"\n"})), "not as it is written"),
    "a file under another name": (rewritten(lambda f: f.update({"moved.csv": f.pop("csv/trials.csv")})), "lacks csv/trials.csv"),
    "another order": (reordered, "another order"),
    "a file twice": (twice, "more than once"),
    "compression": (compressed, "compressed"),
    "a bomb": (bomb, "compressed"),
    "a link": (link, "no plain file"),
    "a path upward": (rewritten(lambda f: f.update({"../evil": b""})), "path that is refused"),
    "an absolute path": (rewritten(lambda f: f.update({"/etc/evil": b""})), "path that is refused"),
    "a path upward of Windows": (rewritten(lambda f: f.update({"..\\evil": b""})), "path that is refused"),
    "a hidden path": (rewritten(lambda f: f.update({"trials/.evil": b""})), "path that is refused"),
    "a folder": (rewritten(lambda f: f.update({"folder/": b""})), "path that is refused"),
    "bytes behind the end": (lambda data: data + b"x", "belong to no file"),
    "bytes before the start": (lambda data: b"x" + data, "belong to no file"),
    "a comment": (comment, "belong to no file"),
    "an end that is missing": (lambda data: data[:-1], "cut short"),
    "half of it": (lambda data: data[: len(data) // 2], "cut short"),
    "nothing": (lambda data: b"", "cut short"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_is_changed_is_refused_with_and_without_the_digest(bundle: tuple[bytes, str], what: str, tmp_path: Path):
    tamper, reason = TAMPERED[what]
    data, digest = bundle
    tampered = tamper(data)
    for options in ((), ("--digest", digest)):
        code, output = check(tmp_path, tampered, *options)
        assert code == 1, output
        assert "refused" in output
        assert reason in output


def test_every_byte_counts(bundle: tuple[bytes, str]):
    data = bundle[0]
    for place in range(0, len(data), 257):
        altered = data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :]
        with pytest.raises(ArchiveError):
            unpack(altered)


def test_a_manifest_made_to_fit_is_found_by_the_digest_alone(bundle: tuple[bytes, str], tmp_path: Path):
    data, digest = bundle
    files = {name: content for name, content in files_of(data).items() if name != MANIFEST}
    files["csv/trials.csv"] = files["csv/trials.csv"].replace(b"0.1", b"0.2")
    files["report.html"] = files["report.html"].replace(digest.encode(), UNKNOWN.encode())
    forged, other = pack(files, "report.html")
    assert check(tmp_path, forged)[0] == 0
    code, output = check(tmp_path, forged, "--digest", digest)
    assert code == 1
    assert other in output
    assert "another bundle" in output


def test_bad_input_is_said_at_once(tmp_path: Path, bundle: tuple[bytes, str]):
    result = CliRunner().invoke(app, ["check", str(tmp_path / "none.zip"), "--digest", "abc"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "64 hexadecimal digits" in result.output
    assert "must be a file" in result.output
    code, output = check(tmp_path, bundle[0], "--sample", "2", "--number", "k7f3a-9c2e")
    assert code == 2
    assert "--sample" in output
    assert "--number" in output
    with pytest.raises(ValueError, match="not the path"):
        pack({"../evil": b""})
