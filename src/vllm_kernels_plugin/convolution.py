"""The short convolution of hybrid models on our kernels, on every CPU.

The engine calls the ops only on CPUs with AMX or, later, with AVX512-BF16 and takes PyTorch
elsewhere, one sequence after the other. The stand-ins here have the arguments of its functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_ACTIVATIONS = (None, False, True, "silu", "swish")


def serve() -> None:
    """Put the stand-ins in place, before the engine's models import the functions by name."""
    from vllm.model_executor.layers.mamba.ops.cpu import causal_conv1d as theirs

    # The prompt's function has another name from 0.27 on.
    for name, stand_in in (
        ("causal_conv1d_torch", prompt),
        ("causal_conv1d_fn_cpu", prompt),
        ("causal_conv1d_update_torch", next_tokens),
    ):
        upstream = getattr(theirs, name, None)
        if upstream is not None and upstream.__module__ != __name__:
            setattr(theirs, name, stand_in(upstream))


def prompt(upstream: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``upstream`` on our kernel where all tensors are of one type."""

    def causal_conv1d(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        conv_states: torch.Tensor,
        query_start_loc: torch.Tensor,
        cache_indices: torch.Tensor | None = None,
        has_initial_state: torch.Tensor | None = None,
        activation: bool | str | None = "silu",
        pad_slot_id: int = -1,
        **unused: Any,
    ) -> torch.Tensor:
        if not _served(activation, x, weight, conv_states, bias):
            return upstream(
                x, weight, bias, conv_states, query_start_loc, cache_indices, has_initial_state,
                activation, pad_slot_id, **unused,
            )  # fmt: skip
        return torch.ops.vllm_kernels.causal_conv1d_fwd_cpu(  # type: ignore[no-any-return]
            x, weight, bias, conv_states, query_start_loc.int(), _slots(cache_indices),
            has_initial_state, bool(activation), pad_slot_id, False,
        )  # fmt: skip

    return causal_conv1d


def next_tokens(upstream: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``upstream`` on our kernel where the state is as long as the convolution needs."""

    def causal_conv1d_update(
        x: torch.Tensor,
        conv_state: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        activation: str | None = None,
    ) -> torch.Tensor:
        exact = conv_state.shape[-1] == weight.shape[-1] - 1
        if not exact or not _served(activation, x, weight, conv_state, bias):
            return upstream(x, conv_state, weight, bias, activation)
        found: torch.Tensor = torch.ops.vllm_kernels.causal_conv1d_update_cpu(
            x.transpose(1, 2).contiguous(),
            conv_state,
            weight,
            bias,
            bool(activation),
            None,
            None,
            -1,
            False,
        )
        return found.transpose(1, 2)

    return causal_conv1d_update


def _served(activation: object, x: torch.Tensor, *others: torch.Tensor | None) -> bool:
    same = all(other is None or other.dtype == x.dtype for other in others)
    return same and activation in _ACTIVATIONS


def _slots(indices: torch.Tensor | None) -> torch.Tensor | None:
    return None if indices is None else indices.int()
