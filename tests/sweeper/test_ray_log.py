"""What Ray says of itself stays off the terminal and is kept in a file."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from ray._private.worker import listen_error_messages
from ray.job_config import JobConfig

from sweeper.tune.cluster import _init
from sweeper.tune.ray_log import RayLog

KILLED = "Raylet is terminated. Termination is unexpected.\n    \x1b[33m[raylet 12] worker_pool.cc:700\x1b[0m"


def listen(text: str) -> None:
    """Let Ray's own thread for the errors of nodes get one error, and then end."""
    ended = threading.Event()

    def poll() -> tuple[None, dict]:
        ended.set()
        return None, {"job_id": None, "error_message": text}

    subscriber = SimpleNamespace(subscribe=lambda: None, poll=poll)
    worker = SimpleNamespace(gcs_error_subscriber=subscriber, current_job_id=SimpleNamespace(binary=lambda: b"1"))
    listen_error_messages(worker, ended)


def test_the_log_of_a_node_that_was_killed_goes_to_the_file(tmp_path, capfd):
    listen("A first error of a node.")
    assert "A first error of a node." in "".join(capfd.readouterr()), "as Ray does it"
    log = RayLog(str(tmp_path), "s")
    log.path.parent.mkdir(parents=True)
    with log.writing():
        listen(KILLED)
    assert "".join(capfd.readouterr()) == ""
    written = log.path.read_text()
    assert "(raylet) Raylet is terminated. Termination is unexpected." in written
    assert "[raylet 12] worker_pool.cc:700" in written
    assert "\x1b" not in written
    assert str(log.path) in log.note
    listen("Quite another one.")  # Ray does not print an error twice
    assert "Quite another one." in "".join(capfd.readouterr()), "Ray is left as it was"


def test_the_file_is_still_written_once_ray_was_started_without_handlers_of_its_own(tmp_path, capfd):
    """Nothing answers at this address, but Ray takes away the handlers of its logger before it looks."""
    log = RayLog(str(tmp_path), "s")
    log.path.parent.mkdir(parents=True)
    with log.writing():
        with pytest.raises(ValueError, match="nowhere"):
            _init("nowhere", {}, JobConfig())
        listen("A process was killed.")
    assert "".join(capfd.readouterr()) == ""
    assert "(raylet) A process was killed." in log.path.read_text()
