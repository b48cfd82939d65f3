"""The forward pass by torch.compile, with or without CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

_RECOMPILE_LIMIT = 10_000
"""Above what the phases and batch sizes of a trial need."""

Forward = Callable[..., Any]


def forward_of(model: nn.Module, mode: str, batch_size: int) -> Forward:
    """The forward pass that `finetune.compile` asks for.

    Args:
        model: The model.
        mode: `none`, `default` or `reduce-overhead`.
        batch_size: Samples of a whole training batch.
    """
    if mode == "none":
        return model
    return GraphedForward(model, batch_size) if mode == "reduce-overhead" else compiled(model)


def compiled(model: nn.Module, **options: Any) -> Forward:
    """The forward pass by torch.compile, to the same bits whatever the process has compiled before, with the dropout of the plain one.

    Args:
        model: The model.
        options: Of torch.compile.
    """
    # All models share what is compiled of their code, and beyond the limit torch goes back to the plain pass, silently.
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _RECOMPILE_LIMIT
    settings = {"fallback_random": True} | options.pop("options", {})
    return torch.compile(model, options=settings, **options)


class GraphedForward:
    """The forward pass of training, replayed from a CUDA graph, which saves starting each of its kernels (`reduce-overhead`).

    A graph has one shape and fixed places in memory. So whole training batches alone are replayed; a short last batch, and whatever needs
    no gradient, goes through the plain model. A replay overwrites what the one before gave: results, and gradients that are still where
    the graph put them. A step that adds up the gradients of several batches takes them out first, by `take_out_gradients`.

    What torch cannot capture is computed without a graph, to the same numbers: it says so in its log, and counts it in
    `torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]`.

    Args:
        model: The model, on a GPU.
        batch_size: Samples of a whole training batch.
        compile: Compiles the model; anything else than torch's compiler with graphs is for tests, as there are no graphs on a CPU.
    """

    def __init__(self, model: nn.Module, batch_size: int, compile: Callable[[nn.Module], Forward] | None = None) -> None:
        self.model, self.batch_size = model, batch_size
        compile = compile or (lambda model: compiled(model, dynamic=False, options={"triton.cudagraphs": True}))
        self.graphed = compile(model)

    def __call__(self, x: torch.Tensor, **options: Any) -> Any:
        """The model's outputs; arguments as of `CrossModalModel.forward`."""
        if len(x) != self.batch_size or not torch.is_grad_enabled():
            return self.model(x, **options)
        torch.compiler.cudagraph_mark_step_begin()  # what the last step gave is not needed any more
        return self.graphed(x, **options)


def take_out_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Copy gradients out of the memory of a graph, which its next replay overwrites; what is added to them then stays outside."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()
