"""`sweeper report` and `sweeper watch`: what they say, by numbers worked out by hand, and that names do no harm in any form."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from figures.recorded import record
from made_report import HARM, SPACE, record_sweep
from typer.testing import CliRunner

from sweeper.analysis.number_ids import find_number
from sweeper.analysis.numbers import numbers_of
from sweeper.cli import app
from sweeper.planning.planner import make_plan
from sweeper.results import Workspace
from sweeper.show.figures import kinds
from sweeper.show.report.content import Listing, Paragraph, Report, Table
from sweeper.show.report.html import to_html
from sweeper.show.report.making import make_report, report_text
from sweeper.show.report.text import to_latex, to_markdown
from sweeper.show.report.watching import WatchedPage, make_server
from sweeper.space.reading import parse_space


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    found = Workspace(tmp_path_factory.mktemp("sweep") / "results")
    record_sweep(found)
    return found


@pytest.fixture(scope="module")
def report(workspace) -> Report:
    return make_report(workspace, "embedder", with_figures=False)


@pytest.fixture(scope="module")
def page(workspace) -> str:
    """The page with three figures, as each takes a second or so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "FIGURES", [kind for kind in kinds.FIGURES if kind.name in ("effects", "freezing", "best-so-far", "ranks")])
        return report_text(workspace, "embedder")


@pytest.fixture
def no_figures(monkeypatch) -> None:
    monkeypatch.setattr(kinds, "FIGURES", [])


@pytest.fixture
def empty(tmp_path) -> Workspace:
    return Workspace(tmp_path / "results")


def table(report: Report, name: str) -> list[dict[str, str]]:
    (found,) = [one for one in report.tables() if one.name == name]
    return [dict(zip(found.columns, (cell.text for cell in row), strict=True)) for row in found.rows]


def section(report: Report, name: str) -> list:
    return next(one for one in report.sections if one.name == name).all_blocks()


def texts(report: Report, name: str) -> str:
    return " ".join(block.text for block in section(report, name) if isinstance(block, Paragraph))


def invoke(workspace, *arguments, code=0):
    done = CliRunner().invoke(app, [*arguments, "--results", workspace.uri])
    assert done.exit_code == code, done.output
    return done.output


# ------------------------------------------------------------------------------------------------------------------ what it says


def test_the_first_screen_has_the_question_its_verdict_and_the_floors(report):
    question, floors, others = report.answers
    assert question.question == "What does align.epochs do to the test error, against 0?"
    assert question.details[0] == "digits: align.epochs 10: helps (-0.0199 [-0.0208, -0.019], 4 seeds)"
    assert "mnist1d: align.epochs 20: not a fair comparison" in question.details[3], "a seed of one arm has failed"
    assert floors.verdict == "No on digits; yes on mnist1d."
    assert floors.details[0].startswith("No evidence of transfer on digits: neighbours 0.05, best arm 0.195.")
    assert "Does training the embedder help on 2D tasks? It helps." in others.details
    assert report.state.startswith("Ended with failures: 47 of 48 planned trials are complete, 1 failed.")
    assert not report.is_finished


def test_effects_have_the_numbers_that_were_planted(report):
    """On digits 10 epochs change the error by -0.02, and by 3, -2, -2 and 3 times 0.0002 in the four seeds: -0.0199, with a standard
    deviation of 0.00057735, and so 3.1824 * 0.00057735 / 2 = 0.00092 on both sides. The baseline has 0.26535: -7.5 %."""
    rows = table(report, "question-effects")
    assert [(row["task"], row["level"], row["difference"], row["seeds"]) for row in rows[:2]] == [
        ("digits", "10", "−0.0199", "4"),
        ("digits", "20", "−0.0201", "4"),
    ]
    assert (rows[0]["95 % interval"], rows[0]["relative"]) == ("−0.021 to −0.019", "−7.5 %")
    assert [row["verdict"] for row in rows] == ["helps", "helps?", "no difference", "not given: unfair"]
    frozen = next(row for row in table(report, "finding-3-what-to-train-effects") if row["task"] == "digits")
    assert (frozen["level"], frozen["difference"], frozen["verdict"]) == ("frozen-body", "+0.1", "hurts")


def test_every_number_that_can_be_explained_has_its_id(workspace, report):
    known = {number.id: number for number in numbers_of(workspace.results, "embedder")}
    shown = {cell.number: cell for one in report.tables() for row in one.rows for cell in row if cell.number}
    assert shown.keys() <= known.keys()
    kinds = {known[one].kind for one in shown}
    assert kinds == {"score", "effect", "share", "floor", "finding"}
    for one, cell in shown.items():
        if cell.value is not None:
            assert cell.value == pytest.approx(known[one].value), one
    scores = {one for one, number in known.items() if number.kind == "score"}
    assert scores <= shown.keys(), "of all ranked arms"


def test_differences_in_findings_have_ids_whatever_their_baseline(tmp_path):
    """Proxies are compared with the first real one; by default with trials that have none, as nothing is aligned there."""
    workspace = Workspace(tmp_path / "results")
    axes = {"align.epochs": {"grid": [0, 10]}, "proxy": {"grid": ["noise-matched", "photos", "fractals"]}}
    space = {"name": "p", "base": {"task": "digits"}, "space": axes, "seeds": 3}
    record(workspace, space, lambda cells: 0.2 + 0.01 * cells["seed"] + 0.05 * ("noise" in (cells["proxy"] or "")))
    made = make_report(workspace, "p", with_figures=False)
    (effects,) = [one for one in made.tables() if one.name.endswith("-proxy-effects")]
    differences = [row[effects.columns.index("difference")] for row in effects.rows]
    assert len(differences) == 2
    for cell in differences:
        (number,) = find_number(workspace.results, cell.number).numbers
        assert number.value == pytest.approx(cell.value)


def test_hours_are_added_up_by_stage(report):
    """48 fine-tunings of 36 s, each of which saved 9 s."""
    fine_tuning, total = table(report, "hours")
    assert (fine_tuning["needed"], fine_tuning["hours"], fine_tuning["hours saved"], fine_tuning["share saved"]) == (
        "48",
        "0.48",
        "0.12",
        "20 %",
    )
    assert total["hours"] == "0.48"
    assert "Stages took 28.8 min; reusing what others had computed saved 7.2 min, 20 %" in texts(report, "cost")


def test_failures_stand_by_cause_with_message_and_traceback(report):
    (failure,) = table(report, "failures-by-cause")
    assert (failure["what"], failure["cause"], failure["trials"], failure["where"]) == ("failed", "not-finite", "1", "1 on mnist1d")
    assert failure["its settings"] == "align.epochs 20, freezing frozen-body"
    listings = [block for block in section(report, "failures") if isinstance(block, Listing)]
    assert listings[0].text == f"Traceback: {HARM}\n  line 2"


def test_flags_and_fair_facts_are_told(report):
    unfair = [row for row in table(report, "flags") if row["flag"] != "skewed-differences"]
    assert {(row["task"], row["factor"], row["flag"], row["the verdict"]) for row in unfair} == {
        ("mnist1d", "align.epochs", "missing-in-one-arm", "has none"),
        ("mnist1d", "freezing", "missing-in-one-arm", "has none"),
    }
    said = texts(report, "fairness")
    assert "Every trial chose its best epoch by validation error; test data chose nothing." in said
    assert "Nothing was tuned within the arms" in said


def test_methods_say_what_was_done_and_no_more(report):
    said = texts(report, "methods")
    for text in (
        "On 2 tasks (digits and mnist1d) we compared 6 arms per task, which differ in align.epochs (0, 10 and 20) and freezing",
        "Every arm was run with 4 seeds",
        "one fixed split of the data (split seed 0)",
        "the epoch with the lowest validation error was kept",
        "Student's t over the 4 seeds (two-sided)",
        "corrected by Holm's method within each, for an error rate of 5 %",
        "within a margin of 5 % of the baseline's error",
        "Models without a transformer (majority and neighbours)",
        "On digits the body is mini-swin. Fine-tuning took 12 epochs (adamw, learning rate 0.003,",
    ):
        assert text in said, text
    for absent in ("tuned", "Pocock", "Page's test", "replicate", "fresh seeds"):
        assert absent not in said, absent
    assert [(row["task"], row["training samples"], row["test samples"]) for row in table(report, "parts")] == [
        ("digits", "1\u202f000", "10\u202f000"),
        ("mnist1d", "1\u202f000", "10\u202f000"),
    ]


def test_the_config_of_the_best_arm_runs_its_trials_again(workspace, report):
    text = next(block.text for block in section(report, "arms") if isinstance(block, Listing) and "of digits" in block.title)
    planned = make_plan(parse_space(yaml.safe_load(text)))
    rows = workspace.sql("select trial from trials where task = 'digits' and align_epochs = 20 and freezing = 'full' order by seed").rows()
    assert [trial.id for trial in planned.trials] == [row["trial"] for row in rows]


# ---------------------------------------------------------------------------------------------------------------- other sweeps


def test_a_sweep_without_question_has_the_best_arm_beside_the_floor(empty):
    space = {"name": "plain", "base": {"task": "digits"}, "space": {"finetune.lr": {"grid": [1e-3, 1e-2]}}, "seeds": 2}
    record(empty, space, lambda cells: 0.1 + cells["finetune_lr"])
    found = make_report(empty, "plain", with_figures=False)
    (answer, *_) = found.answers
    assert answer.question == "Does the best arm beat the models that need no transformer?"
    assert answer.verdict == "Unknown, as the floors were not computed."
    assert answer.details[0].startswith("The best arm of digits by validation error has a test error of 0.101 ± 0. Not compared with")
    assert found.is_finished


def test_an_unfinished_sweep_says_so(empty):
    record(empty, SPACE, lambda cells: 0.1 if cells["seed"] == 0 and cells["align_epochs"] == 0 else None)
    found = make_report(empty, "embedder", with_figures=False)
    assert found.state.startswith("Not finished: 4 of 48 planned trials are complete, 44 not started.")
    assert found.answers[0].verdict.startswith("Open") or "undecided" in found.answers[0].verdict.lower()
    assert HARM in found.description


def test_a_sweep_of_failures_only_names_their_causes(empty):
    failed = {"status": "FAIL", "cause": "out-of-memory", "error": "no room", "traceback": "Traceback", "test_error": None}
    record(empty, SPACE, lambda cells: failed)
    found = make_report(empty, "embedder", with_figures=False)
    assert found.state.startswith("Ended with failures: 0 of 48 planned trials are complete, 48 failed.")
    assert [(row["cause"], row["trials"]) for row in table(found, "failures-by-cause")] == [("out-of-memory", "48")]
    for form in (to_html, to_markdown, to_latex):
        assert form(found)


def test_tables_without_a_plan_are_reported(empty):
    """As another program may write them: few columns, no plan."""
    folder = empty.results.local_folder + "/trials/sweep=other"
    rows = [
        {
            "trial": f"{epochs}{seed}",
            "task": "a",
            "seed": seed,
            "align_epochs": epochs,
            "status": "COMPLETE",
            "test_error": 0.3 - 0.01 * epochs,
        }
        for epochs in (0, 5)
        for seed in range(3)
    ]
    Path(folder).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), f"{folder}/part.parquet")
    found = make_report(empty, "other", with_figures=False)
    assert "There is no plan of this sweep in the results" in found.state
    (effect,) = table(found, "finding-1-embedder-training-other-effects")
    assert (effect["level"], effect["difference"], effect["verdict"]) == ("5", "−0.05", "helps")
    assert to_html(found)


# --------------------------------------------------------------------------------------------------------------------- forms


class Elements(HTMLParser):
    """The elements of a page, its ids and what its links point to."""

    VOID = ("meta", "br", "img", "input", "link", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)


def test_the_page_is_whole_and_nothing_in_it_comes_from_outside(page):
    text, elements = page, Elements(page)
    assert elements.open == []
    assert len(elements.ids) == len(set(elements.ids))
    assert elements.tags.count("script") == 1, "our own"
    assert elements.tags.count("svg") == 3
    assert "sweeper plot embedder best-so-far" in text, "one that a page does not have"
    assert text.count("&lt;script&gt;window.harmed = 1&lt;/script&gt;") >= 4, "description, message, traceback, processor"
    links = [value for name, value in elements.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith(("#", "data:")) for value in links), links
    assert {value.removeprefix("#") for value in links if value.startswith("#")} <= set(elements.ids)
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    assert re.search(r"content=\"default-src &#39;none&#39;;", text)
    assert "connect-src" not in text


def test_the_same_tables_give_the_same_bytes(workspace, report):
    """In other files: merging them changes no row. Figures are held to it by their own tests."""
    before = workspace.results.fingerprint("embedder")
    workspace.results.compact("embedder")
    assert workspace.results.fingerprint("embedder") != before
    again = make_report(Workspace(workspace.uri), "embedder", with_figures=False)
    for form in (to_html, to_markdown, to_latex):
        assert form(again) == form(report)


def test_markdown_has_whole_tables_in_which_nothing_is_markup(report):
    text = to_markdown(report)
    assert r"\<script\>window.harmed = 1\</script\> \\input{x} \| \`code\` \*stars\*" in text
    assert "<script" not in text.replace(r"\<script", "")
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert re.search(r"^\| digits \| 10 \| helps \| 0.245\d \| 0.265\d \| −0.0199 `[0-9a-z]{5}-[0-9a-z]{4}` \|", text, flags=re.MULTILINE)


def test_latex_is_balanced_and_escaped(report):
    text = to_latex(report)
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"\textless{}script\textgreater{}" in code
    assert r"\textbackslash{}" in code or r"\input{x}" not in code
    assert re.search(r"(?<!\\)[&%$#_^~]", re.sub(r"\$[-\\a-z]+\$| & |\\label\{[^}]*\}", "", code)) is None
    assert code.count("{") - code.count(r"\{") == code.count("}") - code.count(r"\}")
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", code, flags=re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        assert {line.count(" & ") + 1 for line in rows} == {len(columns)}
    assert code.isascii() or set(re.findall(r"[^\x00-\x7f]", code)) == set()
    assert re.search(r"^% difference: [0-9a-z]{5}-[0-9a-z]{4}$", text, flags=re.MULTILINE)


def test_the_command_writes_a_file_or_leaves_what_was_there(workspace, report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke(workspace, "report", "embedder", "--format", "markdown") == to_markdown(report)
    assert list(tmp_path.iterdir()) == []
    invoke(workspace, "report", "embedder", "--format", "latex", "-o", "tables.tex")
    assert (tmp_path / "tables.tex").read_text() == to_latex(report)
    assert [file.name for file in tmp_path.iterdir()] == ["tables.tex"]
    said = invoke(workspace, "report", "embedder", "--format", "latex", "-o", str(tmp_path / "no" / "x.tex"), code=2)
    assert "--output: must be writable (No such file or directory)" in said
    assert "Did you mean 'embedder'?" in invoke(workspace, "report", "embeder", code=2)
    assert "--format: must be html, markdown or latex, but got 'markdwon'. Did you mean 'markdown'?" in invoke(
        workspace, "report", "embedder", "--format", "markdwon", code=2
    )


# --------------------------------------------------------------------------------------------------------------------- watch


@contextmanager
def served(page, host="127.0.0.1"):
    server = make_server(page, host, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(url, **headers):
    with urlopen(Request(url, headers=headers)) as answer:
        return answer.read().decode()


def test_the_page_is_made_anew_when_tables_change_and_its_pause_is_over(empty, no_figures):
    now = [0.0]
    space = SPACE | {"space": {"align.epochs": {"grid": [0, 10]}}, "base": {"task": "digits"}}
    record(empty, space, lambda cells: 0.1 if cells["seed"] < 2 else None)
    with served(WatchedPage(empty, "embedder", clock=lambda: now[0])) as url:
        first = json.loads(get(f"{url}/version"))
        assert "Nothing runs the sweep now." in first["live"]
        page = get(f"{url}/")
        assert f'data-version="{first["version"]}"' in page
        assert "connect-src &#39;self&#39;" in page
        record(empty, space, lambda cells: 0.1)
        assert json.loads(get(f"{url}/version"))["version"] == first["version"], "within the pause"
        now[0] = 60.0
        second = json.loads(get(f"{url}/version"))
        assert second["version"] != first["version"]
        assert "8 of 8 planned trials are complete" in get(f"{url}/")
        now[0] = 120.0
        assert json.loads(get(f"{url}/version"))["version"] == second["version"], "nothing has changed"


def test_the_server_answers_this_machine_alone_and_only_what_there_is(workspace, no_figures):
    with served(WatchedPage(workspace, "embedder")) as url:
        for path, headers, status in (
            ("/x", {}, 404),
            ("/", {"Host": "evil.example:80"}, 403),
            ("/version", {"Host": "evil.example"}, 403),
        ):
            with pytest.raises(HTTPError) as caught:
                get(f"{url}{path}", **headers)
            assert caught.value.code == status


def test_a_request_for_the_head_gets_no_page(workspace, no_figures):
    with served(WatchedPage(workspace, "embedder")) as url, urlopen(Request(f"{url}/", method="HEAD")) as answer:
        assert int(answer.headers["Content-Length"]) > 10_000
        assert answer.read() == b""


def test_a_port_that_is_taken_and_an_unknown_sweep_are_faults(workspace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = invoke(workspace, "watch", "embedder", "--port", str(port), code=2)
    assert said.startswith(f"--port: must be free on 127.0.0.1 (Address already in use), but got {port}. Give another one by --port;")
    assert said.count("\n") == 1
    assert "Did you mean 'embedder'?" in invoke(workspace, "watch", "embeder", code=2)
    assert "--port: must be a number from 0 to 65535" in invoke(workspace, "watch", "embedder", "--port", "70000", code=2)


def test_all_tables_have_rows_as_long_as_their_heads(report):
    for one in report.tables():
        assert isinstance(one, Table)
        assert {len(row) for row in one.rows} <= {len(one.columns)}, one.name
