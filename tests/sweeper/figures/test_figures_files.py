"""Figures as files: the same bytes, SVG that can stand in a page, PDF with its fonts, and the command."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from typer.testing import CliRunner

from orca_core.errors import ConfigError
from sweeper.cli import app
from sweeper.show.figures import available, find_figure, read_tables, render, render_all
from sweeper.show.figures.lines import place_levels
from sweeper.show.figures.style import INK, fit_errors, number_looks

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def svgs(rich_tables) -> dict[str, str]:
    """Figure -> the SVG that `rich` feeds."""
    kinds = [kind for kind, reason in available(rich_tables) if reason is None]
    return {kind.name: render(kind, kind.read(rich_tables), "svg").decode() for kind in kinds}


def test_every_figure_that_can_be_fed_is_drawn_and_described(svgs, rich_tables):
    assert len(svgs) == 14
    for name, text in svgs.items():
        root, data = ET.fromstring(text), find_figure(name).read(rich_tables)
        assert root.attrib["role"] == "img", name
        title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
        assert (title.text, description.text) == (data.title, data.caption), name
        assert (root.attrib["aria-labelledby"], root.attrib["aria-describedby"]) == (title.attrib["id"], description.attrib["id"])
        words = "".join("".join(element.itertext()) for element in root.iter(f"{SVG}text"))
        assert data.title.split()[0] in words  # text is text, not shapes


def test_figures_of_one_task_have_their_legend_below_their_panel(rich):
    tables = read_tables(rich, "rich", task="digits")
    for name, words in (("importance", "seed and rest"), ("learning", "align.epochs 2, proxy photos"), ("pareto", "a: align.epochs 0")):
        kind = find_figure(name)
        assert words in render(kind, kind.read(tables), "svg").decode(), name


def test_svgs_can_stand_in_one_page(svgs):
    """No two elements have the same id, every reference finds its own, nothing is of a colour that a dark page hides."""
    page = "".join(svgs.values())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
    assert len(references) > 100
    assert {one or other for one, other in references} <= set(ids)
    assert "<?xml" not in page
    assert "<!DOCTYPE" not in page
    for text in svgs.values():
        assert text.count(INK) == 1  # the ink of a file that stands alone
        assert "currentColor" in text
        assert not re.search(r"(fill|stroke): (#000000|#ffffff|black|white)", text)
        styles = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
        assert all(style.strip().startswith("#") for style in styles)  # nothing applies to the rest of the page


def test_the_same_data_give_the_same_bytes_whatever_the_settings_of_matplotlib(rich_tables):
    import matplotlib

    kind = find_figure("ranks")
    data = kind.read(rich_tables)
    first = render_all(kind, data)
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "red", "savefig.dpi": 30}):
        again = {format: render(kind, data, format) for format in first}
    assert first == again


CHILD = """
import hashlib, sys
from sweeper.results import Workspace
from sweeper.show.figures import find_figure, read_tables, render_all

tables = read_tables(Workspace(sys.argv[1]), "rich")
for name in sys.argv[2:]:
    kind = find_figure(name)
    print(*(hashlib.sha256(content).hexdigest() for content in render_all(kind, kind.read(tables)).values()))
print(*sorted({"torch", "ray", "transformers", "matplotlib.pyplot"} & set(sys.modules)))
"""


def test_another_process_writes_the_same_bytes_and_needs_no_torch(rich, rich_tables):
    import hashlib

    names = ["ranks", "timeline"]
    here = [render_all(find_figure(name), find_figure(name).read(rich_tables)) for name in names]
    expected = [" ".join(hashlib.sha256(content).hexdigest() for content in of_figure.values()) for of_figure in here]
    command = [sys.executable, "-c", CHILD, rich.uri, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7", **_environment()})
    assert done.stdout.splitlines() == [*expected, ""]


def _environment():
    import os

    return {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}


def test_a_pdf_has_its_fonts_and_no_date(rich_tables):
    kind = find_figure("ranks")
    content = render(kind, kind.read(rich_tables), "pdf")
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content  # TrueType, which journals ask for
    assert b"/Type3" not in content
    assert b"Date" not in content


def test_an_unknown_format_is_refused(rich_tables):
    kind = find_figure("ranks")
    with pytest.raises(ConfigError, match="must be one of svg, pdf, png, but got 'gif'"):
        render(kind, kind.read(rich_tables), "gif")


# ------------------------------------------------------------------------------------------------------------------------- style


def test_numbers_stand_on_a_logarithmic_axis_if_they_span_much():
    places = place_levels([0, 1, 10, 100])
    steps = [places[b] - places[a] for a, b in ((0, 1), (1, 10), (10, 100))]
    assert steps == pytest.approx([steps[0]] * 3)
    assert dict(place_levels([0, 1, 2])) == {0: 0.0, 1: 1.0, 2: 2.0}


def test_null_and_names_stand_to_the_right_of_numbers():
    places = place_levels([None, 100, 200, "all of it"])
    assert sorted(places, key=lambda level: places[level]) == [100, 200, None, "all of it"]


def test_wide_intervals_do_not_dwarf_the_means_and_errors_begin_at_0():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    fit_errors(axes, [0.1, 0.2], [-5.0, 5.0])
    low, high = axes.get_ylim()
    assert (low, high) == pytest.approx((0.04 - 0.06 * 0.22, 0.26 + 0.06 * 0.22))  # 0.6 of the span beyond the means
    fit_errors(axes, [0.01, 0.2], [-5.0, 5.0])
    assert axes.get_ylim()[0] == pytest.approx(-0.03 * 0.2)


def test_a_line_has_the_same_look_in_all_panels_if_all_can_be_told_apart():
    assert number_looks([["a", "b"], ["b", "c"]]) == [{"a": 0, "b": 1, "c": 2}] * 2
    many = [[f"{panel}{line}" for line in range(5)] for panel in "xy"]
    assert [list(numbers.values()) for numbers in number_looks(many)] == [[0, 1, 2, 3, 4]] * 2


# ------------------------------------------------------------------------------------------------------------------- the command


def plot(*arguments):
    return CliRunner().invoke(app, ["plot", *arguments])


def test_the_command_lists_what_the_sweep_can_feed(rich):
    shown = plot("rich", "--results", rich.uri).stdout
    can, cannot = shown.split("rich cannot feed:")
    assert re.search(r"^  effects +Forest of effects", can, re.MULTILINE)
    assert "low-data" not in can
    assert re.search(r"^  low-data +the sweep does not vary train_samples\. It needs", cannot, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80 or rich.uri in shown


def test_the_command_writes_the_bytes_of_render(rich, rich_tables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = plot("rich", "ranks", "--results", rich.uri)
    kind = find_figure("ranks")
    assert (tmp_path / "rich-ranks.svg").read_bytes() == render(kind, kind.read(rich_tables), "svg")
    assert done.stdout.startswith("written: rich-ranks.svg\nrich: levels of align.epochs ranked")
    done = plot("rich", "freezing", "--results", rich.uri, "--task", "digits", "--metric", "valid_error")
    assert "valid error" in (tmp_path / "rich-freezing-digits.svg").read_text()
    assert "mnist1d" not in (tmp_path / "rich-freezing-digits.svg").read_text()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_command_says_all_faults_at_once(rich, tmp_path):
    done = plot("rich", "freezin", "--results", rich.uri, "-o", "x.gif", "--task", "digit", "--metric", "eror")
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["FIGURE", "--output", "--metric", "--task"]
    assert "Did you mean 'freezing'?" in lines[0]
    done = plot("rich", "low-data", "--results", rich.uri, "-o", str(tmp_path / "x.svg"))
    assert done.exit_code == 2
    assert "must be one that rich can feed: the sweep does not vary train_samples" in done.stderr
    done = plot("rich", "ranks", "--results", rich.uri, "-o", str(tmp_path / "missing" / "x.svg"))
    assert done.exit_code == 2
    assert "must be writable" in done.stderr
    assert plot("rich", "-o", "x.svg", "--results", rich.uri).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_reading_one_task_reads_no_rows_of_others(rich):
    tables = read_tables(rich, "rich", task="digits")
    assert tables.tasks == ["digits"]
    known = {row["trial"] for row in tables.sweep.rows}
    assert {row["trial"] for rows in (tables.epochs, tables.stages, tables.attempts, tables.label_distances) for row in rows} == known
