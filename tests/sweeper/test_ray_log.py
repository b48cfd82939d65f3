"""What Ray says of itself stays off the terminal and is kept in a file."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from ray._private.authentication.authentication_token_setup import _warn_token_auth_enabled
from ray._private.worker import listen_error_messages
from ray.job_config import JobConfig

from sweeper.tune.cluster import _init
from sweeper.tune.ray_log import LOGGERS, RayLog

KILLED = "Raylet is terminated. Termination is unexpected.\n    \x1b[33m[raylet 12] worker_pool.cc:700\x1b[0m"


@pytest.fixture(autouse=True)
def levels_of_a_new_process():
    """Other tests of this process may have started Ray with fewer messages."""
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if name == "ray" else logging.NOTSET)
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


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


def test_what_ray_says_while_it_starts_goes_to_the_file_and_so_does_all_that_follows(tmp_path, capfd):
    """Nothing answers at this address, but in a thread Ray warns before it looks that it cannot handle signals."""
    log = RayLog(str(tmp_path), "s")
    log.path.parent.mkdir(parents=True)
    with log.writing(), ThreadPoolExecutor(1) as thread:
        with pytest.raises(ValueError, match="nowhere"):
            thread.submit(_init, "nowhere", {}, JobConfig()).result()
        listen("A process was killed.")
    assert "".join(capfd.readouterr()) == ""
    written = log.path.read_text()
    assert "WARNING ray._private.worker: SIGTERM handler is not set" in written
    assert "(raylet) A process was killed." in written


def test_nobody_is_sent_to_the_file_for_what_ray_says_at_every_start(tmp_path, capfd):
    log = RayLog(str(tmp_path), "s")
    log.path.parent.mkdir(parents=True)
    with log.writing():
        _warn_token_auth_enabled()
    assert "Token authentication is enabled" in log.path.read_text()
    assert log.note == ""
    with log.writing():
        logging.getLogger("ray.tune").warning("Something else.")
    assert str(log.path) in log.note
    assert "".join(capfd.readouterr()) == ""
