"""Results and stages in an object store: an S3 server on this machine, which is made slow, broken, unreachable or strange."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from orca_core.addresses import Address
from orca_core.errors import MissingBucketError, StoreAccessError, StoreError, StoreUnavailableError
from orca_core.node_cache import NodeCache
from orca_core.patience import Patience, Trouble
from orca_core.rows import EpochRow
from orca_core.store import Store
from sweeper.planning.planner import Planner
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace
from sweeper.running.keeping import StateKeeper
from sweeper.running.outcome import Outcome, describe_end
from sweeper.running.recorder import Recorder
from sweeper.running.session import Session
from sweeper.running.writer import InThread
from sweeper.space.reading import parse_space
from sweeper.sweep import run_space

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from faulty_s3 import CREDENTIALS, TRANSIENT, FaultyS3

ADDRESS = Address.after("align", "abc", 3)
ROW = {"trial": "t", "attempt": 1, "sequence": 0, "status": "COMPLETE"}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    """One server for all tests of this file."""
    with FaultyS3() as running:
        running.make_bucket("bucket")
        yield running


@pytest.fixture
def s3(server, monkeypatch, request) -> FaultyS3:
    """The server, and this process allowed to use it."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def uri(s3, request) -> str:
    """A place of this test's own in the bucket."""
    return s3.uri(f"bucket/{request.node.name.replace('[', '-').rstrip(']')}")


def put(store: Store, value: float = 1.0, size: int = 100, address: Address = ADDRESS) -> None:
    store.put(address, {"x": torch.full((size,), value)}, {"rows": [{"value": value}]})


# ------------------------------------------------------------------------------------------------------------------ what is absent


def test_only_what_the_store_does_not_know_is_absent(s3, uri):
    store = Store(uri)
    assert store.get(ADDRESS) is None
    put(store)
    for faults, kind in ((("unavailable",), StoreUnavailableError), (("denied", "expired"), StoreAccessError)):
        for fault in faults:
            with s3.answering(fault), pytest.raises(kind, match=r"^s3://bucket/[\w-]+: "):
                store.get(ADDRESS)
    assert store.get(ADDRESS) is not None


@pytest.mark.parametrize("fault", ["denied", "unknown-key", "expired"])
def test_refused_credentials_are_said_as_such(s3, uri, fault):
    tables = ResultStore(uri)
    tables.append("trials", "s", [ROW])
    with s3.answering(fault):
        for refused in (tables.sweeps, lambda: tables.append("trials", "s", [ROW]), lambda: tables.live_trials("s")):
            with pytest.raises(StoreAccessError, match=r"access is denied \(.+\)\. Check the credentials"):
                refused()


def test_a_bucket_that_does_not_exist_is_said_as_such(s3):
    workspace = Workspace(s3.uri("nobody/results"))
    asked = (
        lambda: workspace.artifacts.get(ADDRESS),
        lambda: workspace.artifacts.entries(),
        lambda: put(workspace.artifacts),
        lambda: workspace.results.sweeps(),
        lambda: workspace.results.append("trials", "s", [ROW]),
        lambda: workspace.sql("select 1"),
    )
    for ask in asked:
        with pytest.raises(
            MissingBucketError, match=r"^s3://nobody/[\w/]+: must be in a bucket that exists, but there is no bucket nobody"
        ):
            ask()


def test_half_an_answer_is_fetched_again_and_is_no_damage(s3, uri):
    store = Store(uri)
    put(store, size=100_000)
    fetched = iter(["half"])
    s3_choose = s3._choose
    s3._choose = lambda method, path: next(fetched, "") if method == "GET" and "tensors" in path else ""
    try:
        assert store.get(ADDRESS).tensors["x"].shape == (100_000,)
    finally:
        s3._choose = s3_choose


# ----------------------------------------------------------------------------------------------------------------------- waiting


def test_a_store_that_is_out_of_reach_is_waited_for_and_nothing_is_lost(s3, uri):
    told: list[Trouble | None] = []
    patience = Patience(minutes=1, tell=told.append, pause_s=0.2)
    store, tables = Store(uri, patience), ResultStore(uri, patience)
    put(store)
    s3.disconnect()
    back = threading.Timer(10, s3.connect)
    back.start()
    seen: list[Trouble | None] = []
    looking = threading.Timer(9, lambda: seen.append(patience.trouble))
    looking.start()
    tables.append("trials", "s", [ROW])
    assert store.get(ADDRESS) is not None
    back.join()
    assert [trouble is None for trouble in told] == [False, True]
    assert seen[0] is not None
    assert "is out of reach (Could not connect to server)" in seen[0].error
    assert (seen[0].store, patience.trouble) == (uri.partition("?")[0], None)
    assert len(tables.live_trials("s")) == 1


def test_one_request_in_ten_fails_and_nothing_is_lost(s3, uri):
    patience = Patience(minutes=1, pause_s=0.05)
    workspace = Workspace(uri)
    with s3.answering(*TRANSIENT, share=0.1), workspace.patience.lasting(1):
        store, tables = Store(uri, patience), workspace.results
        for number in range(5):
            put(store, float(number), address=Address.after("align", "abc", number))
            tables.append("trials", "s", [ROW | {"trial": str(number)}])
        tables.compact("s")
        Store.strip(store, "align/abc")
        store.drop(Address.after("align", "abc", 0))
        assert [store.get(address).data["rows"][0]["value"] for address in store.states("align/abc")] == [1, 2, 3, 4]
        assert sorted(row["trial"] for row in tables.live_trials("s")) == list("01234")
    assert s3.open_uploads("bucket") == 0


def test_patience_ends_and_says_how_long_it_waited():
    def fail() -> None:
        raise StoreUnavailableError("s3://b: is out of reach (no answer).")

    told: list[Trouble | None] = []
    patience = Patience(minutes=0.02, pause_s=0.1, tell=told.append)
    outer = Patience(minutes=1, pause_s=0.1)
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"^s3://b: is out of reach \(no answer\)\. It did not answer for 1 s\.$"):
        outer.wait_for("b", lambda: patience.wait_for("b", fail))
    assert 1.2 <= time.monotonic() - began < 10
    assert patience.given_up
    assert [trouble is None for trouble in told] == [False], "it is not told that the store answers again"


def test_a_wait_can_be_ended_from_outside():
    def fail() -> None:
        raise StoreUnavailableError("out of reach")

    patience = Patience(minutes=10)
    threading.Timer(0.3, patience.stop).start()
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        patience.wait_for("b", fail)
    assert time.monotonic() - began < 5
    assert patience.given_up == ""


def test_a_store_that_is_out_of_reach_is_noticed_by_an_attempt_that_is_not_repeated():
    patience = Patience()
    with patience.lasting(0.005):
        for _ in range(2):
            with pytest.raises(StoreUnavailableError), patience.watching("s3://b"):
                raise StoreUnavailableError("out of reach")
            assert patience.trouble is not None
            time.sleep(0.4)
        assert patience.given_up
        with patience.watching("s3://b"):
            pass
        assert patience.trouble is None


def test_errors_that_do_not_pass_are_not_waited_for(s3, uri):
    began = time.monotonic()
    with s3.answering("denied"), pytest.raises(StoreAccessError):
        Store(uri, Patience(minutes=10)).get(ADDRESS)
    with pytest.raises(StoreError):
        Store(s3.uri("nobody/x"), Patience(minutes=10)).get(ADDRESS)
    assert time.monotonic() - began < 5


def test_no_trial_is_handed_out_while_storage_is_out_of_reach_and_a_wait_in_vain_ends_the_run(tmp_path):
    run = SweepOf(2, Workspace(tmp_path))
    patience = run.workspace.patience
    is_back = threading.Event()

    def answer() -> None:
        if not is_back.is_set():
            raise StoreUnavailableError("s3://b: is out of reach (no answer).")

    with patience.lasting(1):
        waiting = threading.Thread(target=patience.wait_for, args=("s3://b", answer))
        waiting.start()
        wait_until(lambda: patience.trouble is not None)
        assert run.session.next() is None
        is_back.set()
        waiting.join()
        assert run.session.next() is not None
    is_back.clear()
    with patience.lasting(0.001), pytest.raises(StoreUnavailableError):
        patience.wait_for("s3://b", answer)
    started = run.session.next() or next(iter(run.session._running.values()))
    run.session.start(started.id)
    assert run.session.ending_note == ""
    run.session.ending.check_deadline()
    assert "The sweep ends: 1 trial is interrupted" in run.session.ending_note
    run.session.close()
    assert run.session.outcome is Outcome.STORE_LOST
    assert "no answer" in run.session.ending.reason
    said = describe_end(
        run.session.outcome, run.session.ending.reason, run.session.num_interrupted, StoreUnavailableError("s3://b: no answer.")
    )
    assert said == (
        "storage stayed out of reach for as long as budget.storage_minutes allows; the sweep was ended. "
        "Run the same command to continue once the storage answers. (s3://b: is out of reach (no answer).) "
        "1 trial was interrupted: the next run continues from the last stored state. "
        "The last rows could not be written. The next run reports them from the stage store."
    )


def test_a_run_that_comes_to_its_end_but_for_its_last_rows_says_why():
    assert describe_end(Outcome.FINISHED, "", 0, None) == ""
    assert describe_end(Outcome.FINISHED, "", 0, StoreError("results: the disk is full.")) == (
        "the last rows could not be written (results: the disk is full.). The next run reports them from the stage store. "
        "Run the same command to continue."
    )


def test_a_run_whose_storage_never_answers_says_what_to_do_and_not_that_it_answers(s3, uri, monkeypatch, capsys):
    monkeypatch.setattr("sweeper.sweep.START_MINUTES", 0.05)
    s3.disconnect()
    try:
        with pytest.raises(StoreUnavailableError, match=r"It did not answer for \d+ s\. If the address is right, run the same command"):
            run_space(parse_space({"name": "s", "base": {"task": "digits"}}), uri)
    finally:
        s3.connect()
    said = capsys.readouterr().err
    assert "waiting for storage since" in said
    assert "answers again" not in said


def test_the_loop_that_runs_trials_does_not_wait_for_a_slow_store(s3, uri):
    """While the store answers nothing, a loop that waited for it would never end."""
    trials = 40
    with InThread() as writer:
        run = SweepOf(trials, Workspace(uri), writer)
        run.recorder.prepare()
        before = len(s3.requests)
        with s3.paused():
            while (trial := run.session.next()) is not None:
                run.session.start(trial.id)
                run.session.report(trial.id, [EpochRow(stage="finetune", epoch=1, valid_error=0.5)])
                run.session.end(trial.id, {"status": "COMPLETE", "valid_error": 0.5})
                run.now += 1.0  # so that batches are due
            assert len(run.recorder.ended) == trials
            assert len(s3.requests) == before, "nothing has been answered"
        run.session.close()
        run.recorder.flush()
        run.session.drop_unneeded()
        run.recorder.writer.finish()
    ended = run.workspace.sql("select status, count(*) as n from trial_status group by all").rows()
    assert ended == [{"status": "COMPLETE", "n": trials}]
    assert run.workspace.sql("select count(*) as n from metrics").rows() == [{"n": trials}]
    assert s3.count("PUT", since=before) > 4
    assert s3.count("HEAD", "artifacts/finetune", before) >= trials, "states were dropped, too"


class SweepOf:
    """A session of short trials of which nothing is kept, with a clock that is set by hand."""

    def __init__(self, trials: int, workspace: Workspace, writer: InThread | None = None) -> None:
        base = {"task": "digits", "finetune.epochs": 1, "finetune.warmup_epochs": 0, "finetune.decay_epochs": None, "align.epochs": 0}
        planner = Planner(parse_space({"name": "s", "keep": "none", "base": base | {"body": "mini-swin"}, "seeds": trials}))
        self.now, self.workspace = 0.0, workspace
        self.recorder = Recorder(workspace.results, "s", "valid_error", clock=lambda: self.now, writer=writer)
        todo = planner.plan.trials
        keeper = StateKeeper(workspace.artifacts, planner, todo, self.recorder.writer)
        self.session = Session(planner, todo, self.recorder, workspace, slots=trials, share=True, keeper=keeper, clock=lambda: self.now)


def wait_until(is_so, seconds: float = 20.0) -> None:
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.01)


# -------------------------------------------------------------------------------------------------------------- requests and copies


def test_a_small_file_is_one_request(s3, uri):
    store, before = Store(uri), len(s3.requests)
    put(store)
    assert s3.count("PUT", since=before) == 3  # tensors, data, marker
    assert s3.count("POST", since=before) == 0


def test_a_large_file_is_read_by_few_requests(s3, uri):
    store = Store(uri)
    put(store, size=5_000_000)
    before = len(s3.requests)
    assert store.get(ADDRESS).tensors["x"].shape == (5_000_000,)
    assert s3.count("GET", since=before) == 3  # tensors, data, marker


def test_what_this_machine_has_written_or_read_is_not_fetched_again(s3, uri, tmp_path):
    writer, reader = NodeCache(tmp_path / "a", 2**30), NodeCache(tmp_path / "b", 2**30)
    put(Store(uri, cache=writer), size=10_000)
    for cache, fetches in ((writer, 0), (reader, 2), (reader, 0)):
        before = len(s3.requests)
        assert Store(uri, cache=cache).get(ADDRESS).tensors["x"].shape == (10_000,)
        files = [request.path for request in s3.requests[before:] if request.method == "GET"]
        assert sum("COMPLETE.json" not in path for path in files) == fetches
        assert sum("COMPLETE.json" in path for path in files) == 1
    assert (reader.hits, reader.saved_bytes > 40_000) == (2, True)


def test_a_copy_is_never_taken_for_an_artifact_that_is_gone_or_replaced(s3, uri, tmp_path):
    store = Store(uri, cache=NodeCache(tmp_path, 2**30))
    put(store, 1.0)
    put(Store(uri), 2.0)
    assert store.get(ADDRESS).data == {"rows": [{"value": 2.0}]}
    Store(uri).drop(ADDRESS)
    assert store.get(ADDRESS) is None


# ------------------------------------------------------------------------------------------------------------------------- places


def test_the_query_of_a_uri_stays_at_its_end(s3):
    workspace = Workspace("s3://bucket/results?endpoint_override=host:9000&scheme=http")
    assert workspace.artifacts_uri == "s3://bucket/results/artifacts?endpoint_override=host:9000&scheme=http"
    private = "s3://bucket/results/artifacts-unshared/s/t?endpoint_override=host:9000&scheme=http"
    assert workspace.private_uri("s", "t") == private


def test_results_stages_and_private_stores_are_used_by_uri(s3, uri):
    workspace = Workspace(uri)
    workspace.results.append("trials", "s", [ROW])
    put(workspace.artifacts)
    put(Store(workspace.private_uri("s", "t")))
    workspace.drop_private("s")
    assert Store(workspace.private_uri("s", "t")).get(ADDRESS) is None
    assert Workspace(uri).artifacts.get(ADDRESS) is not None
    assert Workspace(uri).results.sweeps() == ["s"]


def test_an_endpoint_comes_from_the_environment_too(s3, uri, monkeypatch):
    put(Store(uri))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.endpoint}")
    assert Store(uri.partition("?")[0]).get(ADDRESS) is not None


def test_credentials_in_a_uri_are_not_shown(s3, uri):
    secret = uri.replace("s3://", "s3://key:SECRET@").replace("bucket", "nobody", 1)
    with pytest.raises(MissingBucketError) as raised:
        Store(secret).get(ADDRESS)
    assert "SECRET" not in str(raised.value)
