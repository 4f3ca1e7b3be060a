"""References of the short causal convolution before a state-space or linear attention layer."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F  # noqa: N812


def causal_conv1d_weight_pack(weight: torch.Tensor) -> torch.Tensor:
    """The same [dim, width] weight, with the channels of a tap one behind the other."""
    return weight.t().contiguous().t()


def _convolved(
    history: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    silu: bool,
) -> torch.Tensor:
    """[dim, tokens] of [dim, width - 1] before [dim, tokens], in float32."""
    taps = weight.reshape(weight.shape[0], 1, weight.shape[-1]).float()
    inputs = torch.cat((history, x), 1).float()
    wide = None if bias is None else bias.float()
    out = F.conv1d(inputs[None], taps, wide, groups=taps.shape[0])[0]
    return (F.silu(out) if silu else out).to(x.dtype)


def causal_conv1d_fwd_cpu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    conv_states: torch.Tensor | None,
    query_start_loc: torch.Tensor,
    cache_indices: torch.Tensor | None,
    has_initial_state: torch.Tensor | None,
    silu_activation: bool,
    pad_slot_id: int,
    is_vnni: bool,
) -> torch.Tensor:
    """The convolution of a piece of each sequence (Gu and Dao 2023).

    Args:
        x: [dim, tokens], float32, bfloat16 or float16, as all that follow.
        weight: [dim, width] or [dim, 1, width].
        bias: [dim].
        conv_states: [slots, dim, width - 1 or more]: the last inputs of each sequence, in place.
        query_start_loc: [sequences + 1], int32: first token of each sequence.
        cache_indices: [sequences], int32: slot of each; ``pad_slot_id`` is skipped.
        has_initial_state: [sequences], bool: which go on from their state; the others from zeros.
        is_vnni: Whether ``weight`` was packed, which its strides say too.

    Returns:
        [dim, tokens], tokens outermost in memory; 0 where no sequence is.
    """
    dim, tokens = x.shape
    out = x.new_zeros(tokens, dim).t()
    kept = weight.shape[-1] - 1
    starts = query_start_loc.tolist()
    for s, (first, end) in enumerate(itertools.pairwise(starts)):
        slot = s if cache_indices is None else int(cache_indices[s].reshape(-1)[0])
        if first == end or (conv_states is not None and slot == pad_slot_id):
            continue
        history = x.new_zeros(dim, kept)
        if conv_states is not None and (has_initial_state is None or has_initial_state[s]):
            history = conv_states[slot, :, :kept].clone()
        out[:, first:end] = _convolved(history, x[:, first:end], weight, bias, silu_activation)
        if conv_states is not None:
            inputs = torch.cat((history, x[:, first:end]), 1)
            conv_states[slot, :, :kept] = inputs[:, inputs.shape[1] - kept :]
    return out


def causal_conv1d_update_cpu(
    x: torch.Tensor,
    conv_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    silu_activation: bool,
    num_accepted_tokens: torch.Tensor | None,
    conv_state_indices: torch.Tensor | None,
    pad_slot_id: int,
    is_vnni: bool,
) -> torch.Tensor:
    """The convolution of the next tokens of each sequence, as many of each.

    Args:
        x: [sequences, dim] or [sequences, tokens, dim].
        num_accepted_tokens: [sequences], int32. The inputs of the tokens that the call before
            drafted are still in the state; this many became history, the first of which is there.

    Returns:
        As ``x``; 0 for a sequence that is skipped.
    """
    rows = x if x.dim() == 3 else x[:, None]
    out = torch.zeros_like(rows)
    width = weight.shape[-1]
    for s in range(len(rows) if rows.shape[1] else 0):
        slot = s if conv_state_indices is None else int(conv_state_indices[s].reshape(-1)[0])
        if slot == pad_slot_id:
            continue
        at = 0 if num_accepted_tokens is None else int(num_accepted_tokens[s]) - 1
        history = conv_states[slot, :, at : at + width - 1].clone()
        new = rows[s].t()
        out[s] = _convolved(history, new, weight, bias, silu_activation).t()
        inputs = torch.cat((history, new), 1)
        gone = inputs.shape[1] - (width - 1) if num_accepted_tokens is None else 1
        conv_states[slot, :, : inputs.shape[1] - gone] = inputs[:, gone:]
    return out.reshape(x.shape)


def causal_conv1d_update_cpu_vec(
    x: torch.Tensor,
    conv_state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    conv_state_indices: torch.Tensor | None,
    query_start_loc: torch.Tensor | None,
    pad_slot_id: int,
) -> torch.Tensor:
    """As :func:`causal_conv1d_fwd_cpu` of [tokens, dim], where every sequence has a state.

    Args:
        activation: "silu" or "swish", which are one; None for none.
        query_start_loc: One token of each sequence where it is None.
    """
    starts = query_start_loc
    if starts is None:
        starts = torch.arange(len(x) + 1, dtype=torch.int32)
    out = causal_conv1d_fwd_cpu(
        x.t(), weight, bias, conv_state, starts, conv_state_indices, None,
        activation is not None, pad_slot_id, False,
    )  # fmt: skip
    return out.t()
