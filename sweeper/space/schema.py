"""The JSON Schema of search-space files, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, SECTIONS
from sweeper.space.reading import METRICS, SpaceFile

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema: the file's own keys, and every knob, dotted or nested, under `base`, `variants` and `space`."""
    schema = SpaceFile.model_json_schema(by_alias=True)
    knobs = TrialConfig.model_json_schema()
    definitions = schema.setdefault("$defs", {}) | knobs.get("$defs", {})
    trial = _all_optional(knobs["properties"])
    by_path = {path: _knob_schema(path, knobs) for path in KNOBS}
    definitions["Knobs"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": trial | by_path | {"body": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/BodyConfig"}]}},
    }
    definitions["Axis"] = _axis_schema()
    axes = {"$ref": "#/$defs/Axis"}
    nested = {section: {"type": "object"} for section in SECTIONS}
    definitions["Space"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": nested | {path: axes for path in (*KNOBS, "body") if path != "seed"},
    }
    for part in ("BodyConfig", "PretrainConfig", "EmbedderConfig", "AlignConfig", "FinetuneConfig"):
        definitions[part].pop("required", None)
    for part, name, also in (("Phase", "train", "all"), ("AlignConfig", "label_gradient", True)):  # what their validators take beside
        field = definitions[part]["properties"][name]
        definitions[part]["properties"][name] = {"anyOf": [{"const": also}, field], "description": field["description"]}
    schema["properties"]["base"] = {"$ref": "#/$defs/Knobs"}
    schema["properties"]["space"] = {"$ref": "#/$defs/Space"}
    schema["properties"]["variants"]["additionalProperties"] = {"$ref": "#/$defs/Knobs"}
    schema["properties"]["metric"]["enum"] = list(METRICS)
    for key, definition in (("search", "SearchConfig"), ("scheduler", "SchedulerConfig")):
        name = "algorithm" if key == "search" else "name"
        short = definitions[definition]["properties"][name]
        schema["properties"][key] = {"anyOf": [{"$ref": f"#/$defs/{definition}"}, {"enum": short["enum"]}]}
    schema["$defs"] = definitions
    return {"$schema": _DRAFT, "title": "Search space of sweeper"} | schema


def _all_optional(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if name != "seed"}


def _knob_schema(path: str, knobs: dict[str, Any]) -> dict[str, Any]:
    section, _, name = path.rpartition(".")
    if not section:
        found: dict[str, Any] = knobs["properties"][name]
        return found
    part = KNOB_PARTS[section]
    return {"$ref": f"#/$defs/{part}/properties/{name}"}


KNOB_PARTS = {
    "body": "BodyConfig",
    "pretrain": "PretrainConfig",
    "embedder": "EmbedderConfig",
    "align": "AlignConfig",
    "finetune": "FinetuneConfig",
}


def _axis_schema() -> dict[str, Any]:
    values = {"type": "array", "minItems": 1}
    bounds = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    when = {"type": "object", "description": "Conditions on knobs, body.modality or task.dims under which the knob varies."}

    def entry(kind: str, of: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": False, "required": [kind], "properties": {kind: of, "when": when} | more}

    step = {"type": "integer", "minimum": 1}
    return {
        "anyOf": [
            entry("grid", values),
            entry("choice", values),
            entry("uniform", bounds),
            entry("loguniform", bounds),
            entry("int", bounds, step=step, log={"type": "boolean"}),
        ]
    }
