"""Pydantic's errors as faults in this project's form."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from orca_core.errors import Fault, nearest

BETWEEN_KNOBS = "between_knobs"
"""Type of the errors of our own validators."""


def broken_rule(knob: str, rule: str, value: Any, remedy: str = "") -> PydanticCustomError:
    """The error of a rule between several knobs, for a validator to raise.

    Args:
        knob: The one to look at, relative to where the validator stands; empty for the value that is validated.
        rule: What must hold, as a clause.
        value: Of that knob.
        remedy: What to do about it.
    """
    return PydanticCustomError(BETWEEN_KNOBS, "{rule}", {"knob": knob, "rule": rule, "value": value, "remedy": remedy})


def faults_of(error: ValidationError) -> list[Fault]:
    """A pydantic error as faults in this project's form, one for each path."""
    faults: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        if item["loc"][-1:] == ("str",) and isinstance(item["input"], list | tuple):
            continue  # the branch of a union of names and lists that was not meant
        where = [str(part) for part in item["loc"] if not str(part).startswith(("function-", "tuple[", "constrained-", "[key]"))]
        path, value, remedy = ".".join(where), item["input"], ""
        context = item.get("ctx", {})
        match item["type"]:
            case "missing":
                rule, value = "must be given", Fault.ABSENT
            case "extra_forbidden":
                rule, value = "must be a known key", Fault.ABSENT
            case "literal_error":
                rule = f"must be one of {context['expected'].replace(' or ', ', ')}".replace("'", "")
                remedy = nearest(value, _choices(context["expected"])).partition("Known:")[0].strip()
            case "greater_than":
                rule = f"must be greater than {context['gt']:g}"
            case "greater_than_equal":
                rule = f"must be at least {context['ge']:g}"
            case "less_than":
                rule = f"must be less than {context['lt']:g}"
            case "less_than_equal":
                rule = f"must be at most {context['le']:g}"
            case "value_error":
                rule = str(context["error"])
            case kind if kind == BETWEEN_KNOBS:
                rule, path, remedy = context["rule"], ".".join(filter(None, [*where, context["knob"]])), context["remedy"]
                value = _Number(context["value"]) if isinstance(context["value"], float) else context["value"]
            case kind:
                rule = f"must be {_TYPES[kind]}" if kind in _TYPES else item["msg"][:1].lower() + item["msg"][1:]
        # A union reports one error per branch for one fault: the first is enough.
        faults.setdefault(path, Fault(path, rule, value, remedy))
    return list(faults.values())


class _Number(float):
    """A number that is shown as it was most likely written: `5`, not `5.0`."""

    def __repr__(self) -> str:
        return f"{float(self):g}"


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _choices(expected: str) -> list[str]:
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]
