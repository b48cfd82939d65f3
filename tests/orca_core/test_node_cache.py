"""Copies of artifacts on a machine's own disk: bounded, checked, and never needed."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from orca_core.node_cache import NodeCache


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def add(cache: NodeCache, content: bytes) -> str:
    cache.add(digest(content), content)
    return digest(content)


@pytest.fixture
def cache(tmp_path) -> NodeCache:
    """A cache of at most 1000 bytes, whose folder does not exist yet."""
    return NodeCache(tmp_path / "copies", 1000)


def test_the_least_recently_used_copies_go_first(cache):
    first, second = add(cache, b"1" * 400), add(cache, b"2" * 400)
    for age, name in ((300, first), (200, second)):
        os.utime(cache.folder / name, (1e9 - age, 1e9 - age))
    assert cache.get(first) == b"1" * 400  # used just now
    third = add(cache, b"3" * 400)
    assert [cache.get(name) is not None for name in (first, second, third)] == [True, False, True]


def test_all_copies_together_keep_to_the_limit_with_many_writers(cache):
    caches = [NodeCache(cache.folder, 1000) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add(caches[number % 8], bytes([number]) * 150), range(100)))
    files = [path for path in cache.folder.iterdir() if path.name != "lock"]
    assert 300 <= sum(path.stat().st_size for path in files) <= 1000
    assert all(digest(path.read_bytes()) == path.name for path in files)


def test_a_damaged_copy_is_none(cache):
    name = add(cache, b"content")
    (cache.folder / name).write_bytes(b"c0ntent")
    assert cache.get(name) is None
    assert not (cache.folder / name).exists()


def test_what_is_too_large_or_cannot_be_kept_is_left_out(cache, tmp_path):
    assert cache.get(add(cache, b"x" * 1001)) is None
    (tmp_path / "file").write_text("no folder")
    for broken in (NodeCache(tmp_path / "file" / "copies", 1000), NodeCache(tmp_path / "none", 0)):
        assert broken.get(add(broken, b"content")) is None
