"""Adapters: a few new weights inside a frozen body, from the `peft` library and our own (`orca_core.adapters.own`).

    adapter: lora                                       a name, with peft's default options
    adapter: {name: lora, r: 4, lora_alpha: 8}          a name with options of peft's config of that type

With an adapter the body's own weights never train: `body` in a freezing schedule then means the adapter's weights. Embedder and
predictor train in full. By default every linear layer inside the body's blocks is adapted, found by its type (`ln_tuning`: every
LayerNorm); `target_modules` names other modules by peft's rules.

AdaLoRA (Zhang et al. 2023) adapts its rank budget over `total_step` optimiser steps, which must be given: if the schedule followed the
length of the run, a shorter run would not be the beginning of a longer one. Its orthogonality penalty is added to the loss.

VeRA (Kopiczko et al. 2024, arXiv 2310.11454) has one pair of random matrices for all layers, of which each trains two vectors. The pair
is drawn from the trial's seed whenever the adapter is made, so it is no state: it is neither trained nor stored, and counts once among
the parameters of the model.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orca_core.adapters.base import Adapter
from orca_core.adapters.names import NONE, NOT_OPTIONS, split_options
from orca_core.adapters.own import OWN, tapped_layers, with_defaults
from orca_core.errors import ConfigError, Fault, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from orca_core.bodies import BodySpec
    from orca_core.bodies.base import Body


def check_adapter(adapter: str, body: BodySpec) -> None:
    """Check that peft takes the adapter's options for a body; loads torch and peft, and builds the body with random weights.

    Raises:
        ConfigError: If not.
    """
    if adapter != NONE and not body.is_bodiless:
        from orca_core.bodies.loading import random_body

        insert_adapter(adapter, random_body(body, seed=0).body)


def insert_adapter(adapter: str, body: Body) -> Adapter:
    """Put an adapter into a body, which is changed in place; new weights are drawn from torch's global generator.

    Args:
        adapter: As `spell_adapter` spells it; not `none`.
        body: The body; its own weights are left as they are.

    Raises:
        ConfigError: If the body, or peft, does not take it.
    """
    name, options = split_options(adapter)
    if name not in OWN:
        return PeftAdapter(adapter, body)
    options = with_defaults(name, options)
    if name == "bottleneck":
        from orca_core.adapters.bottleneck import BottleneckAdapter

        return BottleneckAdapter(body, **options)
    if name == "side":
        from orca_core.adapters.side import SideAdapter

        return SideAdapter(body, taps=tapped_layers(options["taps"], len(body.blocks)), width=options["width"])
    if name == "vpt":
        from orca_core.adapters.vpt import VptAdapter

        return VptAdapter(body, **options)
    from orca_core.adapters.prefix import PrefixAdapter

    return PrefixAdapter(body, **options)


class PeftAdapter(Adapter):
    """An adapter of peft's in a body.

    Args:
        adapter: As `spell_adapter` spells it; not one of our own.
        body: The body.

    Raises:
        ConfigError: If peft refuses the options or the body.
    """

    def __init__(self, adapter: str, body: Body) -> None:
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        name, options = split_options(adapter)
        super().__init__(name, body)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on defaults that peft itself puts right for GPT-2's kind of linear layers
                self.config = _peft_config(self.name, options, body)
                self.tuner = PEFT_TYPE_TO_TUNER_MAPPING[self.config.peft_type](body, self.config, "default")
        except ConfigError:
            raise
        except Exception as error:  # peft's adapters check their options in many ways; each means that they do not fit
            reason = " ".join(str(error).split())
            raise ConfigError([Fault("adapter", f"must be one that peft can put into this body: {reason}", adapter)]) from error
        self.parameters = [parameter for parameter in body.parameters() if parameter.requires_grad]
        if name == "vera":
            self.num_shared = sum(matrix.numel() for pair in (self.tuner.vera_A, self.tuner.vera_B) for matrix in pair.values())

    @property
    def is_adalora(self) -> bool:
        """Whether it reallocates ranks between layers during training."""
        return self.name == "adalora"

    def penalty(self) -> Tensor | float:
        """The term AdaLoRA adds to the loss: `orth_reg_weight` times the mean Frobenius distance of its factors from orthogonality."""
        if not self.is_adalora:
            return 0.0
        import torch

        named = [(name, p) for name, p in self.body.named_parameters() if ".lora_A." in name or ".lora_B." in name]
        products = [p @ p.T if ".lora_A." in name else p.T @ p for name, p in named]
        distances = [torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)) for product in products]
        return self.config.orth_reg_weight * torch.stack(distances).mean()

    def after_step(self, step: int) -> None:
        """Reallocate ranks between layers, after an optimiser step and before the next `zero_grad`.

        Args:
            step: Number of the step in fine-tuning, from 1.
        """
        if self.is_adalora:
            self.tuner.update_and_allocate(step)

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on besides the weights: the importances and ranks of AdaLoRA."""
        if not self.is_adalora:
            return {}
        import torch

        ranks = {name: torch.tensor(kept) for name, kept in (self.config.rank_pattern or {}).items()}
        return {
            f"adapter.{entry}/{name}": value for entry, values in (*self._importances(), ("rank", ranks)) for name, value in values.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        if not self.is_adalora:
            return
        parameters = dict(self.body.named_parameters())
        for entry, values in self._importances():
            prefix = f"adapter.{entry}/"
            found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            values.clear()
            values.update({name: value.to(parameters[name].device, copy=True) for name, value in found.items()})
        prefix = "adapter.rank/"
        self.config.rank_pattern = {
            key.removeprefix(prefix): kept.tolist() for key, kept in tensors.items() if key.startswith(prefix)
        } or None

    def _importances(self) -> tuple[tuple[str, dict[str, Tensor]], ...]:
        allocator = self.tuner.rankallocator
        return ("importance", allocator.ipt), ("sensitivity", allocator.exp_avg_ipt), ("uncertainty", allocator.exp_avg_unc)


def _peft_config(name: str, options: dict[str, Any], body: Body) -> Any:
    """peft's config of an adapter for a body."""
    import dataclasses

    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if name == "vera" and "projection_prng_key" not in options:  # the matrices that all layers share, drawn as all else is
        import torch

        options = {"projection_prng_key": int(torch.randint(2**31, ()))} | options
    if name == "dora":
        name, options = "lora", {"use_dora": True} | options
    kind: Any = next(kind for peft_type, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items() if peft_type.value == name.upper())
    known = [field.name for field in dataclasses.fields(kind) if field.name not in NOT_OPTIONS]
    if unknown := [key for key in options if key not in known]:
        rule = f"must be an option of peft's {kind.__name__}"
        raise ConfigError([Fault(f"adapter.{key}", rule, options[key], nearest(key, known)) for key in unknown])
    if name == "adalora":
        if not isinstance(options.get("total_step"), int):
            rule = "must be given: the optimiser steps over which adalora spreads its schedule"
            raise ConfigError([Fault("adapter.total_step", rule, options.get("total_step", Fault.ABSENT))])
        initial = options.get("init_r", 12)
        if options.get("target_r", 8) >= initial:
            raise ConfigError([Fault("adapter.target_r", f"must be less than init_r ({initial})", options.get("target_r", 8))])
    targets: dict[str, Any] = {"target_modules": linears_of(body)}
    if name == "ln_tuning":  # peft takes names by their ends, and "norm" would be too many of them; a pattern must match the whole name
        targets["target_modules"] = "|".join(map(re.escape, norms_of(body)))
    if name == "ia3" and "feedforward_modules" not in options:
        # The paper scales what goes into the second feed-forward layer; here, what goes into every linear layer outside the attention.
        inside = {id(module) for attention in body.attention for module in attention.modules()}
        wanted = options.get("target_modules", targets["target_modules"])
        modules = dict(body.named_modules())
        targets["feedforward_modules"] = [n for n in wanted if n in modules and id(modules[n]) not in inside]
    return kind(**targets | options)


def linears_of(body: Body) -> list[str]:
    """Names, inside the body, of the linear layers in its blocks; GPT-2's are of a type of their own."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    inside = {id(module) for block in body.blocks for module in block.modules()}
    return [name for name, module in body.named_modules() if isinstance(module, nn.Linear | Conv1D) and id(module) in inside]


def norms_of(body: Body) -> list[str]:
    """Names, inside the body, of its LayerNorms and RMSNorms."""
    from orca_core.freezing import groups

    return list(groups.norms_of(body))
