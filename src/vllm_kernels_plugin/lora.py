"""Adapters on a CPU: requests without one keep the model's own weights.

The engine's PyTorch code marks such tokens with -1 and, before 0.33, takes it for an index: in a
batch with others they get the last slot's adapter, without a word.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.ops.torch_ops import bgmv_shrink
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

NAME = f"{__name__}.KeepsBaseWeights"


class KeepsBaseWeights(PunicaWrapperCPU):  # type: ignore[misc]
    """PunicaWrapperCPU that adds nothing to tokens without an adapter."""

    def _apply_shrink(
        self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float
    ) -> None:
        super()._apply_shrink(y, x, w_t_all, scale)
        # Whatever expands these sums adds zeros.
        _zero(y, self.token_lora_indices)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, *arguments: Any, **named: Any
    ) -> None:
        super().add_lora_embedding(
            y, _zero(x.clone(), self.token_lora_indices), *arguments, **named
        )

    def add_lora_logits(
        self, y: torch.Tensor, x: torch.Tensor, *arguments: Any, **named: Any
    ) -> None:
        super().add_lora_logits(y, _zero(x.clone(), self.sampler_indices), *arguments, **named)


def _zero(rows: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """``rows``, ``[tokens, ...]``, with zeros where ``indices``, ``[tokens]``, name no adapter."""
    flat = rows.view(-1, rows.shape[-1])[: indices.shape[0]]
    flat.masked_fill_((indices < 0).unsqueeze(1), 0)
    return rows


def wanted() -> bool:
    """Whether the engine's own functions take -1 for an adapter."""
    sums = torch.zeros(1, 1)
    bgmv_shrink(torch.ones(1, 1), torch.ones(1, 1, 1), sums, torch.tensor([-1]))
    return bool(sums.any())
