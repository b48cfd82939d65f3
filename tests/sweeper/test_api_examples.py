"""The examples of docs/api.md, which start a sweep on Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.mark.ray
def test_the_examples_of_the_python_api_run_one_after_the_other(tmp_path, monkeypatch, ray_session):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE):
        exec(compile(code, "api.md", "exec"), names)
    assert names["code"] == 0
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
