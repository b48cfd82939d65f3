"""Names of adapters, how a config spells them, and what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orca_core.adapters.own import OWN, body_faults, option_faults, spelled, without_defaults
from orca_core.errors import Fault, nearest
from orca_core.freezing.schedule import Phase

if TYPE_CHECKING:
    from orca_core.bodies import BodySpec

NONE = "none"

ADAPTERS = (
    *("lora", "dora", "adalora", "ia3", "ln_tuning", "oft"),
    *("beft", "boft", "c3a", "deft", "delora", "fourierft", "glora", "gralora", "hira", "hra", "lily", "loha", "lokr", "miss"),
    *("osf", "peanut", "psoft", "randlora", "road", "shira", "supertuning", "vera", "waveft"),
    *OWN,
)
"""Names of adapters: the peft types that keep all their state in the layers they adapt, `dora`, which is `lora` with `use_dora`, `vera`,
whose shared matrices are drawn from the seed, and our own."""

OTHER_TYPES = frozenset(
    ("adaption_prompt", "cpt", "multitask_prompt_tuning", "p_tuning", "poly", "prefix_tuning", "prompt_tuning", "vblora", "xlora")
)
"""peft types that are not supported: they prepend tokens to what a whole model of transformers reads, or train state that layers share."""

NOT_OPTIONS = (
    "peft_type",
    "task_type",
    "inference_mode",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "rank_pattern",
    "runtime_config",
)
"""Fields of peft's configs that a trial may not set."""


def spell_adapter(value: Any) -> str:
    """The canonical spelling of an adapter: its name, or JSON with sorted keys if it has options.

    >>> spell_adapter({"r": 4, "name": "lora"}), spell_adapter({"name": "ia3"})
    ('{"name":"lora","r":4}', 'ia3')

    Raises:
        ValueError: If it is neither a known name nor a mapping with one.
    """
    if value == NONE:
        return NONE
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise ValueError("must be the name of an adapter, or a mapping of name and options")
    name, options = value.get("name"), {key: option for key, option in value.items() if key != "name"}
    if name in OTHER_TYPES:
        raise ValueError("must be an adapter with all its state in the layers it adapts")
    if name not in (NONE, *ADAPTERS):
        raise ValueError(f"must be the name of an adapter ({nearest(name, (NONE, *ADAPTERS)).rstrip('.')})")
    if refused := [key for key in options if key in NOT_OPTIONS or not isinstance(key, str) or (name == NONE)]:
        raise ValueError(f"must not have the option {refused[0]!r}")
    return spelled(str(name), without_defaults(str(name), options))


def adapter_faults(adapter: str, body: BodySpec | None) -> list[Fault]:
    """Faults of an adapter's options, and of the adapter in combination with a body, as far as they show before the body is loaded.

    Args:
        adapter: As `spell_adapter` spells it.
        body: None if it has faults of its own.
    """
    name, options = split_options(adapter)
    faults = list(option_faults(name, options))
    return faults if body is None else [*faults, *body_faults(name, options, body)]


def schedule_faults(adapter: str, phases: Iterable[Phase]) -> list[Fault]:
    """Faults of a freezing schedule in combination with an adapter."""
    if adapter == NONE:
        return []
    trains = [phase.train for phase in phases]
    remedy = "With an adapter, `body` stands for the adapter's weights."
    if any(name not in ("embedder", "body", "predictor") for train in trains for name in train):
        return [Fault("freezing", f"must name no parts of the body with adapter {split_options(adapter)[0]}", Fault.ABSENT, remedy)]
    if not any("body" in train for train in trains):
        return [Fault("freezing", f"must train the body in some phase with adapter {split_options(adapter)[0]}", Fault.ABSENT, remedy)]
    if split_options(adapter)[0] == "adalora" and not all("body" in train for train in trains):
        return [
            Fault("freezing", "must train the body in every phase with adapter adalora, whose schedule counts steps", Fault.ABSENT, remedy)
        ]
    return []


def split_options(adapter: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a spelled adapter."""
    if not adapter.startswith("{"):
        return adapter, {}
    options = json.loads(adapter)
    return options.pop("name"), options
