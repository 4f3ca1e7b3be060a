"""Products of 8-bit weights and 8-bit activations in transformers, as a GPU computes them.

Runs in the engine's environment. Activations are rounded to 8 bits token by token, products summed
in float32 with the weights that the checkpoint's numbers stand for, and their results rounded to
the model's type. A plain layer would round weights and activations to that type first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from quantise import rounding

_Round = Callable[[torch.Tensor], torch.Tensor]


def make_exact(
    model: torch.nn.Module, kind: str, dtype: torch.dtype, *, experts_alone: bool = False
) -> None:
    """Have a model that is in float32 compute in ``dtype``, its layers' products as above.

    Args:
        kind: To what activations are rounded: as `quantise.rounding` takes it.
        experts_alone: Other layers' products are plain ones in ``dtype``.
    """
    rounded = rounding(kind)
    kept: set[int] = set()
    for name, module in model.named_modules():
        if ".layers." not in name:
            continue
        if isinstance(module, torch.nn.Linear):
            if experts_alone:
                continue
            module.forward = _linear(module, rounded)  # type: ignore[method-assign]
        elif hasattr(module, "gate_up_proj") and hasattr(module, "down_proj"):
            if isinstance(module.gate_up_proj, torch.nn.Linear):
                continue
            module.forward = _experts(module, rounded)  # type: ignore[method-assign]
        else:
            continue
        kept.update(id(parameter) for parameter in module.parameters())
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(dtype)


def _linear(module: torch.nn.Linear, rounded: _Round) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.linear(rounded(x.float()), module.weight)
        return found.to(x.dtype)

    return forward


def _experts(module: Any, rounded: _Round) -> Callable[..., torch.Tensor]:
    """Experts whose weights are stacked, ``[experts, 2 N, K]`` and ``[experts, K, N]``."""
    linear = torch.nn.functional.linear

    def forward(x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        inputs = rounded(x.float())
        for expert in chosen.unique().tolist():
            tokens, places = torch.where(chosen == expert)
            both = linear(inputs[tokens], module.gate_up_proj[expert]).to(x.dtype)
            gate, up = both.chunk(2, dim=-1)
            inner = rounded((module.act_fn(gate) * up).float())
            part = linear(inner, module.down_proj[expert]) * shares[tokens, places, None].float()
            found.index_add_(0, tokens, part.to(x.dtype).float())
        return found.to(x.dtype)

    return forward
