"""The JSON Schema of search-space files, for editors that complete and check YAML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from orca_core.config.knobs import TrialConfig
from orca_core.config.paths import KNOBS, SHORTHAND
from orca_core.probing.catalogue import PROBES
from sweeper.space.file import METRICS, SHORTHAND_KEYS, SpaceFile
from sweeper.space.seeds import MAX_SEEDS

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield f"{prefix}{name}", field.annotation.__name__
            yield from _sections(field.annotation, f"{prefix}{name}.")


SECTIONS: dict[str, str] = dict(_sections(TrialConfig))
"""Section of the knobs, dotted if it lies in another -> name of its model."""

_ALSO_ACCEPTED = {("Phase", "train"): "all", ("AlignConfig", "label_gradient"): True}
"""(model, field) -> a value that its validator accepts in addition to the type of the field."""


def json_schema() -> dict[str, Any]:
    """The schema: the file's own keys, and every knob, dotted or nested, under `base`, `variants` and `space`."""
    schema = SpaceFile.model_json_schema(by_alias=True)
    knobs = TrialConfig.model_json_schema()
    definitions = schema.setdefault("$defs", {}) | knobs.get("$defs", {})
    nested = {name: value for name, value in knobs["properties"].items() if name not in ("seed", "bits")}
    nested |= {name: {"$ref": f"#/$defs/{model}"} for name, model in SECTIONS.items() if "." in name}
    shorthand = {name: {"anyOf": [{"type": "string"}, {"$ref": f"#/$defs/{SECTIONS[name]}"}]} for name in SHORTHAND}
    nested |= shorthand
    for path, either in shorthand.items():
        section, _, name = path.rpartition(".")
        if section:
            definitions[SECTIONS[section]]["properties"][name] = either
    definitions["Knobs"] = _closed_object(nested | {path: _knob_schema(path, knobs) for path in KNOBS if "." in path or path == "seed"})
    definitions["Axis"] = _axis_schema()
    axes = {path: {"$ref": "#/$defs/Axis"} for path in (*KNOBS, *SHORTHAND) if path not in ("seed", "bits")}
    definitions["Space"] = _closed_object({section: {"type": "object"} for section in SECTIONS} | axes)
    for model in SECTIONS.values():
        definitions[model].pop("required", None)
    for (model, name), value in _ALSO_ACCEPTED.items():
        field = definitions[model]["properties"][name]
        definitions[model]["properties"][name] = {"anyOf": [{"const": value}, field], "description": field["description"]}
    properties = schema["properties"]
    properties["base"] = {"$ref": "#/$defs/Knobs"}
    properties["space"] = {"$ref": "#/$defs/Space"}
    properties["variants"]["additionalProperties"] = {"$ref": "#/$defs/Knobs"}
    one = {"enum": list(METRICS)}
    properties["metric"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": 2}]}
    numbers = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    several = {"type": "array", "items": numbers, "minItems": 1, "uniqueItems": True}
    count = {"type": "integer", "minimum": 1, "maximum": MAX_SEEDS}
    properties["seeds"] = {"anyOf": [count, several, {"$ref": "#/$defs/SeedsConfig"}]}
    names = {"anyOf": [{"enum": ["all"]}, {"type": "array", "items": {"enum": list(PROBES)}}]}
    definitions["ProbesConfig"]["properties"]["names"] |= {"type": ["array", "string"]} | names
    properties["probes"] = {"anyOf": [*names["anyOf"], {"$ref": "#/$defs/ProbesConfig"}]}
    for section, key in SHORTHAND_KEYS.items():
        model = SpaceFile.model_fields[section].annotation.__name__  # type: ignore[union-attr]
        properties[section] = {"anyOf": [{"$ref": f"#/$defs/{model}"}, {"enum": definitions[model]["properties"][key]["enum"]}]}
    schema["$defs"] = definitions
    return {"$schema": _DRAFT, "title": "Search space of sweeper"} | schema


def _closed_object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _knob_schema(path: str, knobs: dict[str, Any]) -> dict[str, Any]:
    section, _, name = path.rpartition(".")
    own: dict[str, Any] = {"$ref": f"#/$defs/{SECTIONS[section]}/properties/{name}"} if section else knobs["properties"][name]
    return own


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
