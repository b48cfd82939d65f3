"""The pages of `sweeper report` and `sweeper watch` in a browser: they render, sort, filter and ask nobody anything; all can use them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from browser import Browser, Page, require
from figures.recorded import record
from made_report import SPACE, record_sweep

from sweeper.results import Workspace
from sweeper.show.report.making import report_text
from sweeper.show.report.watching import WatchedPage, make_server

pytestmark = pytest.mark.browser

PHONE, DESKTOP = (390, 844), (1280, 900)
"""Width and height of windows, in pixels."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary = require()
    found = Browser(binary, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def file(browser, tmp_path_factory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("sweep") / "results")
    record_sweep(workspace)
    found = tmp_path_factory.mktemp("page") / "report.html"
    found.write_text(report_text(workspace, "embedder"), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def page(browser, file) -> Page:
    found = browser.open(file.as_uri())
    found.show(*DESKTOP)
    return found


def column(page: Page, table: str, number: int) -> list[str]:
    """The texts of a column of a table, without ids, of the rows that are shown."""
    return page.evaluate(
        f"[...document.querySelector('#{table} tbody').rows].filter(row => !row.hidden)"
        f".map(row => row.cells[{number}].firstChild?.textContent.trim() ?? '')"
    )


def test_it_renders_without_a_complaint_and_asks_nothing_of_anybody(page):
    assert page.evaluate("document.title") == "embedder: report of a sweep"
    assert page.evaluate("document.querySelectorAll('.drawing svg').length") >= 3
    assert page.evaluate("Math.min(...[...document.querySelectorAll('.drawing svg')].map(svg => svg.getBoundingClientRect().height))") > 50
    assert page.evaluate("document.querySelector('.answer .verdict').getBoundingClientRect().bottom") < DESKTOP[1], "on the first screen"
    assert page.evaluate("window.harmed === undefined")
    asked = [event["request"]["url"] for event in page.events("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert page.evaluate("performance.getEntriesByType('resource').filter(one => !one.name.startsWith('data:')).length") == 0
    assert [event["entry"]["text"] for event in page.events("Log.entryAdded")] == []


def test_its_policy_stops_a_script_that_got_in_and_every_request(page):
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.harmed = 2'}))")
    assert page.evaluate("window.harmed === undefined")
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', error => 'stopped')") == "stopped"
    assert any("Content Security Policy" in event["entry"]["text"] for event in page.events("Log.entryAdded"))


def test_tables_sort_by_a_press_on_their_heads_and_say_so(page):
    names = page.evaluate("[...document.querySelectorAll('#all-trials thead th')].map(head => head.textContent)")
    errors = names.index("test error")
    press = f"document.querySelectorAll('#all-trials thead button')[{errors}].click()"
    before = column(page, "all-trials", errors)
    assert before != sorted(before, key=lambda text: float(text or "inf"))
    page.evaluate(press)
    shown = column(page, "all-trials", errors)
    assert shown == sorted(before, key=lambda text: float(text or "inf"))
    assert shown[-1] == "", "the failed trial, which has none"
    sorts = "[...document.querySelectorAll('#all-trials thead th')].map(head => head.getAttribute('aria-sort'))"
    assert page.evaluate(sorts) == [None] * errors + ["ascending"] + [None] * (len(names) - errors - 1)
    page.evaluate(press)
    falling = column(page, "all-trials", errors)
    assert (falling[:-1], falling[-1]) == (shown[-2::-1], ""), "empty cells stay last"
    page.evaluate("document.querySelectorAll('#all-trials thead button')[1].click()")
    assert column(page, "all-trials", 1) == ["digits"] * 24 + ["mnist1d"] * 24


def test_tables_filter_by_words(page):
    def type_words(words: str) -> None:
        page.evaluate(f"document.querySelector('#all-trials input').value = '{words}'")
        page.evaluate("document.querySelector('#all-trials input').dispatchEvent(new Event('input'))")

    status = page.evaluate("[...document.querySelectorAll('#all-trials thead th')].map(head => head.textContent)").index("status")
    type_words("MNIST1D failed")
    assert column(page, "all-trials", 1) == ["mnist1d"]
    assert column(page, "all-trials", status) == ["failed"]
    assert page.evaluate("document.querySelector('#all-trials output').textContent") == "1 of 48 rows"
    type_words("")
    assert len(column(page, "all-trials", 1)) == 48


def test_the_keyboard_sorts(page):
    """From a field, the next stops are the table itself, which it can scroll, and its first head."""
    page.evaluate("document.querySelector('#all-trials input').focus()")
    page.press("Tab")
    assert page.evaluate("document.activeElement.className") == "scroll"
    page.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "trial"
    page.press("Enter")
    shown = column(page, "all-trials", 0)
    assert shown == page.evaluate(f"{shown}.toSorted((a, b) => a.localeCompare(b, 'en', {{numeric: true}}))")
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(page, size, scheme):
    require(axe=True)
    page.show(*size, scheme)
    assert page.violations() == []
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    if folder := os.environ.get("SCREENSHOTS"):
        (Path(folder) / f"report-{size[0]}-{scheme}.png").write_bytes(page.screenshot(whole=True))
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}[scheme]


def test_it_prints_with_what_is_folded(page):
    page.show(*DESKTOP)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    printed = page.pdf()
    assert b"/MediaBox [0 0 595" in printed.replace(b"594.95996", b"595"), "A4"


def test_the_page_of_watch_takes_over_new_tables_and_keeps_its_state(browser, tmp_path):
    workspace = Workspace(tmp_path / "results")
    space = SPACE | {"space": {"align.epochs": {"grid": [0, 10]}}, "base": {"task": "digits"}, "seeds": 4}
    record(workspace, space, lambda cells: 0.1 if cells["seed"] < 3 else None)
    watched = WatchedPage(workspace, "embedder")
    server = make_server(watched, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
        page.show(*DESKTOP)
        page.evaluate("document.querySelectorAll('#all-trials thead button')[0].click()")
        page.evaluate("const field = document.querySelector('#all-trials input'); field.value = 'complete'; field.focus()")
        page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
        before = page.evaluate("scrollY")
        assert "6 of 8" in page.evaluate("document.querySelector('.state').textContent")
        record(workspace, space, lambda cells: 0.1)
        watched._next_at = 0.0  # the pause after a page is no part of what is tested
        page.evaluate("renew()")
        assert "6 of 8" in page.evaluate("document.querySelector('.state').textContent"), "the page that there is"
        page.evaluate("look()")
        assert "8 of 8 planned trials are complete" in page.evaluate("document.querySelector('.state').textContent")
        assert abs(page.evaluate("scrollY") - before) < 200
        assert page.evaluate("document.querySelector('#all-trials input').value") == "complete"
        assert page.evaluate("document.activeElement.type") == "search"
        assert page.evaluate("document.querySelector('#all-trials th').getAttribute('aria-sort')") == "ascending"
        assert len(column(page, "all-trials", 0)) == 8
    finally:
        server.shutdown()
        server.server_close()
    page.evaluate("look()")
    assert page.evaluate("document.querySelector('#live').textContent").startswith("Not up to date:")
