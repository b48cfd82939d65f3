"""YAML as people mean it, and one clear fault for what is no search-space file at all."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orca_core.errors import ConfigError
from sweeper.space.yaml_reader import parse_value, read_mapping


def read(text: str, folder: Path) -> dict:
    file = folder / "space.yaml"
    file.write_text(text, encoding="utf-8")
    return read_mapping(file)


def faults_in(text: str, folder: Path) -> list[str]:
    """What is said about a file, without its name."""
    with pytest.raises(ConfigError) as caught:
        read(text, folder)
    return str(caught.value).replace(f"{folder / 'space.yaml'}: ", "").splitlines()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("7.", 7.0),
        ("-12", -12),
        ("010", 10),
        ("0x10", 16),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("off", "off"),
        ("Yes", "Yes"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("1_000", "1_000"),
        ("1e-5x", "1e-5x"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'5'", "5"),
        ("[0, no, 1e-5]", [0, "no", 1e-5]),
        ("{train: all, epochs: 2}", {"train": "all", "epochs": 2}),
        ("[0, 10", "[0, 10"),  # no YAML: taken as the text it is
        ("{a: 1, a: 2}", "{a: 1, a: 2}"),
        ("\x07", "\x07"),
    ],
)
def test_a_value_is_what_it_looks_like(text, value):
    parsed = parse_value(text)
    assert (parsed, type(parsed)) == (value, type(value))


def test_not_a_number_is_read_as_one():
    assert math.isnan(parse_value(".NaN"))


def test_keys_are_texts_as_they_are_spelled(tmp_path):
    assert read("{1: a, 0x1: b, true: c, ~: d, no: e}", tmp_path) == {"1": "a", "0x1": "b", "true": "c", "~": "d", "no": "e"}


def test_anchors_and_merge_keys_are_no_duplicates(tmp_path):
    text = """
parts: {short: &short {epochs: 1, lr: 0.1}, long: &long {<<: *short, epochs: 9}}
base: {<<: *long, lr: 0.2}
"""
    data = read(text, tmp_path)
    assert data["parts"]["long"] == {"epochs": 9, "lr": 0.1}
    assert data["base"] == {"epochs": 9, "lr": 0.2}


def test_every_duplicate_is_said_with_its_path_and_both_lines(tmp_path):
    text = """name: a
name: b
base:
  align: {epochs: 1, epochs: 2}
  finetune:
    lr: 1
    lr: 2
require:
  - if: {}
    if: {}
"""
    assert faults_in(text, tmp_path) == [
        "name: must be given once, but got a second one on line 2. The first is on line 1.",
        "base.align.epochs: must be given once, but got a second one on line 4. The first is on line 4.",
        "base.finetune.lr: must be given once, but got a second one on line 7. The first is on line 6.",
        "require.0.if: must be given once, but got a second one on line 10. The first is on line 9.",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "must be valid YAML: expected ',' or ']', but got '<stream end>' (line 1, column 9)."),
        ("a: 1\n b: 2", "must be valid YAML: mapping values are not allowed here (line 2, column 3)."),
        ("a: *missing", "must be valid YAML: found undefined alias 'missing' (line 1, column 4)."),
        ("[a, b]: 1", "must be valid YAML: a key must be a plain string (line 1, column 1)."),
        (
            "a: !spot",
            "must be valid YAML: could not determine a constructor for the tag '!spot' (line 1, column 4); a value that begins with !",
        ),
        ("{a: !spot}", "must be valid YAML: expected ' ', but found '}' (line 1, column 10); a value that begins with ! needs quotes."),
        ("a: 1\n---\nb: 2", "must be valid YAML: but found another document (line 2, column 1)."),
        ("a: \x07", "must be valid YAML: unacceptable character #x0007"),
        ("a: !!bool maybe", "must be valid YAML: KeyError 'maybe'."),
        ("a: !!python/object/apply:os.system [touch hacked]", "must be valid YAML: could not determine a constructor for the tag"),
        ("a: &a {b: *a}", "a.b: must not contain itself."),
        ("- a\n- b", "must be a mapping with keys like base and space, but got ['a', 'b']."),
        ("", "must be a mapping with keys like base and space, but got null."),
    ],
)
def test_what_is_no_mapping_in_yaml_is_one_fault(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (fault,) = faults_in(text, tmp_path)
    assert fault.startswith(said)
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.yaml", "must be an existing file. `sweeper spaces` lists the available ones."),
        ("folder.yaml", "must be a file, not a folder."),
        ("latin.yaml", "must be text in UTF-8."),
    ],
)
def test_what_is_no_readable_file_is_one_fault(name, said, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes("name: Garc\xeda".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_mapping(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {said}"
