"""References of gated delta nets (Yang, Kautz and Hatamizadeh 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

_EPSILON = 1e-5


def _gates(
    a_log: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    dt_bias: torch.Tensor,
    softplus_beta: float = 1.0,
    threshold: float = 20.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithm of what stays of the state, and the share of the correction, in float32."""
    soft = F.softplus(a.float() + dt_bias.float(), softplus_beta, threshold)
    return -a_log.float().exp() * soft, b.float().sigmoid()


def fused_gdn_decode_post_conv_mtp(
    mixed_qkv: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    A_log: torch.Tensor,  # noqa: N803
    dt_bias: torch.Tensor,
    state_indices: torch.Tensor,
    cu_seqlens: torch.Tensor,
    num_accepted_tokens: torch.Tensor,
    state: torch.Tensor,
    output_gate: torch.Tensor,
    norm_weight: torch.Tensor,
    out: torch.Tensor,
    scale: float,
    norm_eps: float = 1e-5,
    output_gate_activation: str = "silu",
) -> None:
    """Drafted tokens of each request from the state of its last accepted one, normed and gated.

    Args:
        mixed_qkv: [tokens, 2 H 128 + HV 128], rows of queries, keys and values.
        a: [tokens, HV], as ``b``.
        A_log: [HV], as ``dt_bias``.
        state_indices: int32 [requests, n]: slot of the state behind each token; below 1: none. No
            two requests have one slot: they run at once, and what they would leave is not said.
        cu_seqlens: int32 [requests + 1].
        num_accepted_tokens: int32 [requests]: the first state is that behind this many tokens.
        state: [slots, HV, 128 values, 128 keys], float32 or bfloat16, read and written.
        output_gate: [tokens, HV, 128].
        norm_weight: [128].
        out: [tokens, HV, 128], written; 0 where a request has no first state. Tokens of no
            request, such as those that pad a graph's, keep what is there.
        scale: Of the queries, which have length 1 before, as the keys.
        norm_eps: Of the norm of each head's result.
        output_gate_activation: "silu" or "sigmoid".
    """
    heads, values, keys = state.shape[1:]
    key_heads = (mixed_qkv.shape[1] - heads * values) // (2 * keys)
    log_decay, beta = _gates(A_log, a, b, dt_bias)
    q, k, v = mixed_qkv.float().split((key_heads * keys, key_heads * keys, heads * values), 1)
    each = heads // key_heads
    q, k = (
        _unit(x.unflatten(1, (key_heads, keys)), True, 1e-6).repeat_interleave(each, 1)
        for x in (q, k)
    )
    v = v.unflatten(1, (heads, values))
    results = torch.zeros(out.shape, dtype=torch.float32, device=out.device)
    bounds = cu_seqlens.tolist()
    used = torch.zeros(len(out), dtype=torch.bool)
    for request, slots in enumerate(state_indices.tolist()):
        used[bounds[request] : bounds[request + 1]] = True
        accepted = int(num_accepted_tokens[request])
        source = slots[accepted - 1] if 0 < accepted <= len(slots) else 0
        if not 0 < source < len(state):
            continue
        held = state[source].float().mT
        for place, token in enumerate(range(bounds[request], bounds[request + 1])):
            held, result = _step(
                held, q[token] * scale, k[token], v[token], log_decay[token], beta[token]
            )
            results[token] = result
            target = slots[place] if place < len(slots) else 0
            if 0 < target < len(state):
                state[target] = held.mT.to(state.dtype)
    results = results.to(out.dtype).float()  # as the recurrence stores them where it is alone
    norm = (results.square().mean(-1, keepdim=True) + norm_eps).rsqrt()
    z = output_gate.float()
    gate = z.sigmoid() if output_gate_activation == "sigmoid" else F.silu(z)
    found = (results * norm * norm_weight.float() * gate).to(out.dtype)
    out.copy_(torch.where(used.to(out.device)[:, None, None], found, out))


def fused_gdn_gating_cpu(
    A_log: torch.Tensor,  # noqa: N803  the engine's name
    a: torch.Tensor,
    b: torch.Tensor,
    dt_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """g = -exp(A_log) softplus(a + dt_bias) and beta = sigmoid(b).

    Args:
        A_log: [heads], float32 or the dtype of ``a``, as ``dt_bias``.
        a: [tokens, heads], float32, bfloat16 or float16, as ``b``.

    Returns:
        g, [1, tokens, heads], float32, and beta, of the dtype of ``b``.
    """
    g, beta = _gates(A_log, a, b, dt_bias)
    return g[None], beta[None].to(b.dtype)


def _unit(x: torch.Tensor, normalise: bool, epsilon: float) -> torch.Tensor:
    wide = x.float()
    if not normalise:
        return wide
    return wide / ((wide * wide).sum(-1, keepdim=True) + epsilon).sqrt()


def _step(
    state: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The state behind one token and its result, for all heads."""
    state = state * g.exp()[:, None, None]
    missing = v.float() - (state * k[:, :, None]).sum(1)
    state = state + k[:, :, None] * (missing * beta[:, None])[:, None]
    return state, (state * q[:, :, None]).sum(1)


def _rows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, normalise: bool, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[tokens, value heads, size] of each, queries scaled."""
    q, k, v = (x[0] if x.dim() == 4 else x for x in (q, k, v))
    group = v.shape[1] // q.shape[1]
    query = _unit(q, normalise, epsilon).repeat_interleave(group, 1) * q.shape[-1] ** -0.5
    return query, _unit(k, normalise, epsilon).repeat_interleave(group, 1), v


def chunk_gated_delta_rule_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    initial_state: torch.Tensor,
    output_final_state: bool,
    cu_seqlens: torch.Tensor,
    head_first: bool,
    use_qk_l2norm_in_kernel: bool,
    initial_state_indices: torch.Tensor,
    eps: float = _EPSILON,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend: S = exp(g) S, S += k (beta (v - S^T k))^T, out = S^T q / sqrt(key_size), by token.

    Args:
        query: [1, tokens, key heads, key_size], as ``key``; float32, bfloat16 or float16.
        value: [1, tokens, value heads, value_size].
        g: [1, tokens, value heads], float32 or the dtype of ``query``, as ``beta``.
        initial_state: [slots, value heads, key_size, value_size], float32 or that dtype, in place.
        cu_seqlens: [sequences + 1], int32.
        head_first: False; nothing else is computed.
        use_qk_l2norm_in_kernel: Divide queries and keys by sqrt(sum of squares + ``eps``).
        initial_state_indices: [sequences], int32; a sequence of a negative slot is skipped.

    Returns:
        As ``value``, and the last states, [sequences, ...] in float32, none of them where
        ``output_final_state`` is false.
    """
    q, k, v = _rows(query, key, value, use_qk_l2norm_in_kernel, eps)
    out, starts = torch.zeros_like(value), cu_seqlens.tolist()
    gates, shares = g.reshape(v.shape[:2]).float(), beta.reshape(v.shape[:2]).float()
    for s, slot in enumerate(initial_state_indices.tolist()):
        state = initial_state[slot].float()
        for t in range(starts[s], starts[s + 1] if slot >= 0 else 0):
            state, result = _step(state, q[t], k[t], v[t], gates[t], shares[t])
            out.view(v.shape)[t] = result.to(out.dtype)
        if slot >= 0:
            initial_state[slot] = state.to(initial_state.dtype)
    final = initial_state.new_zeros((0, *initial_state.shape[1:]), dtype=torch.float32)
    if output_final_state:
        taken = initial_state[initial_state_indices.long().clamp_min(0)].float()
        final = torch.where((initial_state_indices >= 0)[:, None, None, None], taken, 0.0)
    return out, final


def fused_sigmoid_gating_delta_rule_update_cpu(
    A_log: torch.Tensor,  # noqa: N803
    dt_bias: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    initial_state_source: torch.Tensor,
    initial_state_indices: torch.Tensor,
    cu_seqlens: torch.Tensor,
    use_qk_l2norm_in_kernel: bool,
    softplus_beta: float = 1.0,
    softplus_threshold: float = 20.0,
) -> torch.Tensor:
    """The same with the gates of :func:`fused_gdn_gating_cpu`, unrounded.

    Args:
        a: [tokens, value heads], as ``b``.

    Returns:
        [tokens, 1, value heads, value_size] of [1, tokens, ...].
    """
    g, beta = _gates(A_log, a, b, dt_bias, softplus_beta, softplus_threshold)
    out, _ = chunk_gated_delta_rule_cpu(
        q, k, v, g, beta, initial_state_source, False, cu_seqlens, False,
        use_qk_l2norm_in_kernel, initial_state_indices,
    )  # fmt: skip
    return out.transpose(0, 1) if out.dim() == 4 else out


def fused_sigmoid_gating_delta_rule_update_spec_cpu(
    A_log: torch.Tensor,  # noqa: N803
    dt_bias: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    initial_state_source: torch.Tensor,
    spec_state_indices: torch.Tensor,
    num_accepted_tokens: torch.Tensor,
    cu_seqlens: torch.Tensor,
    use_qk_l2norm_in_kernel: bool,
    softplus_beta: float = 1.0,
    softplus_threshold: float = 20.0,
) -> torch.Tensor:
    """The same for drafted tokens, each of which keeps the state behind it.

    Args:
        q: [tokens, key heads, key_size]; the others likewise.
        spec_state_indices: [sequences, columns], int32: slot of the state behind token t in
            column t, none where it is negative.
        num_accepted_tokens: [sequences], int32: the column before which a sequence goes on.

    Returns:
        As ``v``.
    """
    g, beta = _gates(A_log, a, b, dt_bias, softplus_beta, softplus_threshold)
    queries, keys, values = _rows(q, k, v, use_qk_l2norm_in_kernel, _EPSILON)
    out, starts = torch.zeros_like(v), cu_seqlens.tolist()
    for s, slots in enumerate(spec_state_indices.tolist()):
        if starts[s] == starts[s + 1]:
            continue
        slot = slots[int(num_accepted_tokens[s]) - 1]
        if slot < 0:
            continue
        state = initial_state_source[slot].float()
        for column, t in enumerate(range(starts[s], starts[s + 1])):
            state, result = _step(state, queries[t], keys[t], values[t], g[t], beta[t])
            out.view(values.shape)[t] = result.to(out.dtype)
            if slots[column] >= 0:
                initial_state_source[slots[column]] = state.to(initial_state_source.dtype)
    return out
