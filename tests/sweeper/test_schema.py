"""The JSON Schema for editors agrees with what the reader takes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.space.reading import parse_space
from sweeper.space.schema import json_schema
from sweeper.space.yaml_reader import parse_value, read_mapping

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_command_prints_the_schema():
    assert json.loads(CliRunner().invoke(app, ["schema"]).stdout) == json_schema()


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_every_shipped_space_is_valid(validator, file):
    assert list(validator.iter_errors(read_mapping(file))) == []


@pytest.mark.parametrize(
    "text",
    [
        "{base: {task: digits, body: mini-swin, align: {epochs: 3}, finetune.lr: 1e-3}, seeds: [1, 2]}",
        "{base: {task: digits}, space: {align: {epochs: {grid: [0, 1]}}, body: {grid: [mini-swin, {name: mini-swin, weights: random}]}}}",
        "{base: {task: digits}, space: {finetune.epochs: {int: [1, 9], log: true, when: {task.dims: 2}}}, search: tpe, scheduler: asha}",
        "{base: {task: digits}, variants: {a: {freezing: [{train: [predictor], epochs: 1}, {train: all}]}, b: {body.weights: random}}}",
        "{base: {task: digits}, require: [{if: {freezing: full}, then: {align.epochs: {not: 1}}}], resources: {cpu: 1.5}}",
        "{base: {task: digits}, resources: {memory: 2, custom: {a: 1}, labels: {ray.io/region: eu, zone: [a, b], c: '!in(d, e)'}}}",
        "{base: {task: digits}, scheduler: {name: median, among: task, grace_period: 2, min_trials: 4, cohort: null}}",
        "{base: {task: digits}, probes: [cka, ece]}",
        "{base: {task: digits}, probes: all}",
        "{base: {task: digits}, probes: {names: [cka], samples: 9, layers: [0, 2], proxy: photos, recompute: true}}",
        "{base: {task: digits, align.label_gradient: true}, search: {algorithm: random}, space: {proxy: {choice: [recipe, noise]}}}",
    ],
)
def test_what_the_reader_takes_is_valid(validator, text):
    data = parse_value(text)
    assert parse_space(data).seeds
    assert list(validator.iter_errors(data)) == []


@pytest.mark.parametrize(
    "text",
    [
        "{spase: {}}",
        "{base: {tsk: digits}}",
        "{base: {task: digits}, probes: [ckaa]}",
        "{base: {task: digits}, probes: {names: [cka], sample: 9}}",
        "{base: {task: digits, finetune.lr: fast}}",
        "{base: {task: digits, finetune: {epochs: 0}}}",
        "{base: {task: digits}, space: {align.epochs: {gird: [0]}}}",
        "{base: {task: digits}, space: {align.epochs: {grid: []}}}",
        "{base: {task: digits}, space: {seed: {grid: [0]}}}",
        "{base: {task: digits}, seeds: true}",
        "{base: {task: digits}, metric: accuracy}",
        "{base: {task: digits}, scheduler: ahsa}",
        "{base: {task: digits}, scheduler: {among: all}}",
        "{base: {task: digits}, scheduler: {cohort: 0}}",
        "{base: {task: digits}, resources: {gpu: 2}}",
        "{base: {task: digits}, resources: {custom: {a: 0}}}",
        "{base: {task: digits}, resources: {labels: {a: 1}}}",
        "{base: {task: digits}, require: [{if: {}}]}",
    ],
)
def test_what_the_reader_refuses_is_not_valid(validator, text):
    data = parse_value(text)
    with pytest.raises(ValueError):
        parse_space(data)
    assert not validator.is_valid(data)
