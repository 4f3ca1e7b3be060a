"""References of selective state spaces (Gu and Dao 2023; Dao and Gu 2024)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F  # noqa: N812


def _per_row(value: torch.Tensor | None, dim: int) -> torch.Tensor | None:
    """[..., heads, dim] in float32, of [..., heads] or that."""
    if value is None:
        return None
    wide = value.float()
    return wide if wide.shape[-1] == dim and wide.dim() > 1 else wide[..., None].expand(-1, dim)


def _spread(dt: torch.Tensor, dim: int) -> torch.Tensor:
    """[tokens, heads, dim] in float32."""
    return (dt if dt.dim() == 3 else dt[..., None]).float().expand(-1, -1, dim)


def _decay(a: torch.Tensor) -> torch.Tensor:
    """[heads, 1, 1] or [heads, dim, dstate] in float32."""
    return (a if a.dim() == 3 else a[:, None, None]).float()


class _Scan:
    """What the tokens of a call have in common."""

    def __init__(
        self,
        x: torch.Tensor,
        dt: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
        d: torch.Tensor | None,
        z: torch.Tensor | None,
    ) -> None:
        group = x.shape[1] // b.shape[1]
        self.x, self.dt, self.a = x.float(), dt, _decay(a)
        # [tokens, heads, 1, dstate]: the same for all rows of a head.
        self.b = b.float().repeat_interleave(group, 1)[:, :, None]
        self.c = c.float().repeat_interleave(group, 1)[:, :, None]
        self.d, self.z = _per_row(d, x.shape[2]), z
        self.ungated = torch.empty(0)

    def step(self, state: torch.Tensor, token: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The state behind a token, [heads, dim, dstate], and its result, [heads, dim]."""
        step, x = self.dt[token][:, :, None], self.x[token]
        state = state * (self.a * step).exp() + (x[:, :, None] * step) * self.b[token]
        y = (state * self.c[token]).sum(-1)
        if self.d is not None:
            y = y + self.d * x
        self.ungated = y
        return state, y if self.z is None else y * F.silu(self.z[token].float())


def mamba_chunk_scan_fwd_cpu(
    out: torch.Tensor,
    final_states: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,  # noqa: N803  the engine's names
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    D: torch.Tensor | None,  # noqa: N803
    z: torch.Tensor | None,
    cu_seqlens: torch.Tensor,
) -> None:
    """By token: S = exp(A dt) S + x dt B, out = S . C + D x, times silu(z) with ``z``.

    Args:
        out: [tokens, heads, dim], written; as ``x`` and ``z``, float32, bfloat16 or float16.
        final_states: [sequences, heads, dim, dstate], float32: the first states, and afterwards
            the last ones.
        dt: [tokens, heads] or [tokens, heads, dim], float32 or the dtype of ``x``, as all below.
        A: [heads] or [heads, dim, dstate].
        B: [tokens, groups, dstate], as ``C``.
        D: [heads] or [heads, dim].
        cu_seqlens: [sequences + 1], int32.
    """
    scan = _Scan(x, _spread(dt, x.shape[2]), A, B, C, D, z)
    bounds = cu_seqlens.tolist()
    for s, (first, behind) in enumerate(itertools.pairwise(bounds)):
        for token in range(first, behind):
            state, y = scan.step(final_states[s], token)
            final_states[s] = state
            out[token] = y


def selective_state_update_cpu(
    state: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,  # noqa: N803  the engine's names
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    D: torch.Tensor | None,  # noqa: N803
    z: torch.Tensor | None,
    dt_bias: torch.Tensor | None,
    dt_softplus: bool,
    state_batch_indices: torch.Tensor | None,
    dst_state_batch_indices: torch.Tensor | None,
    null_block_id: int,
    out: torch.Tensor,
    num_accepted_tokens: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
) -> None:
    """The same for next tokens, with states in slots, and dt = softplus(dt + dt_bias).

    Args:
        state: [slots, heads, dim, dstate], float32 or the dtype of ``x``, in place.
        dt_bias: [heads] or [heads, dim].
        state_batch_indices: [sequences] or [sequences, columns], int32: the slot that a sequence
            begins with; of ``null_block_id``, none: the sequence is skipped. None: its number.
        dst_state_batch_indices: The same for the last state, which ``null_block_id`` drops. None:
            as ``state_batch_indices``.
        num_accepted_tokens: [sequences], int32: the sequence begins with the slot of that column,
            less one, and the state behind its token t goes to column t.
        cu_seqlens: [sequences + 1], int32. None: a token each.
    """
    dim = x.shape[2]
    step = _spread(dt, dim)
    bias = _per_row(dt_bias, dim)
    if bias is not None:
        step = step + bias
    scan = _Scan(x, F.softplus(step) if dt_softplus else step, A, B, C, D, z)
    bounds = list(range(len(x) + 1)) if cu_seqlens is None else cu_seqlens.tolist()

    def slots(indices: torch.Tensor | None, s: int) -> list[int]:
        return [s] if indices is None else indices[s].reshape(-1).tolist()

    for s, (first, behind) in enumerate(itertools.pairwise(bounds)):
        if first == behind:
            continue
        read = slots(state_batch_indices, s)
        drafted = num_accepted_tokens is not None and dst_state_batch_indices is not None
        column = 0
        if num_accepted_tokens is not None and state_batch_indices is not None:
            column = max(int(num_accepted_tokens[s]) - 1, 0)
        if state_batch_indices is not None and read[column] == null_block_id:
            continue
        none = None if dst_state_batch_indices is None else null_block_id
        written = slots(dst_state_batch_indices, s) if none is not None else [read[column]]
        current = state[read[column]].float()
        for token in range(first, behind):
            current, y = scan.step(current, token)
            out[token] = y
            to = written[token - first] if drafted else written[0]
            if (drafted or token == behind - 1) and to != none:
                state[to] = current


def _keep(chunks: list[int], first: int, block_size: int) -> list[int]:
    """The block that each chunk of a sequence ends in, the first of them in block ``first``."""
    # The first chunk may fill the rest of a block that was begun.
    partial = len(chunks) > 1 and chunks[0] < block_size
    position = first * block_size + (block_size - chunks[0] if partial else 0)
    found = []
    for tokens in chunks:
        position += tokens
        found.append((position - 1) // block_size)
    return found


def _chunks(
    s: int,
    tokens: int,
    block_size: int,
    first_block: int,
    ends: torch.Tensor | None,
    last_chunks: torch.Tensor | None,
) -> tuple[list[int], list[int]]:
    """The tokens of each chunk of a sequence, and the block that it ends in."""
    if ends is None or last_chunks is None:  # blocks
        full, rest = divmod(tokens, block_size)
        chunks = [block_size] * full + [rest] * (rest > 0)
        return chunks, _keep(chunks, 0, block_size)
    begin = 0 if s == 0 else int(last_chunks[s - 1]) + 1
    chunks = ends.diff()[begin : int(last_chunks[s]) + 1].tolist()
    return chunks, _keep(chunks, first_block, block_size)


def selective_scan_fwd(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,  # noqa: N803  the engine's names
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    D_: torch.Tensor | None,  # noqa: N803
    z_: torch.Tensor | None,
    delta_bias_: torch.Tensor | None,
    delta_softplus: bool,
    query_start_loc: torch.Tensor | None,
    cache_indices: torch.Tensor | None,
    has_initial_state: torch.Tensor | None,
    ssm_states: torch.Tensor,
    null_block_id: int,
    block_size: int,
    block_idx_first_scheduled_token: torch.Tensor | None,
    block_idx_last_scheduled_token: torch.Tensor | None,
    initial_state_idx: torch.Tensor | None,
    cu_chunk_seqlen: torch.Tensor | None,
    last_chunk_indices: torch.Tensor | None,
) -> None:
    """The first Mamba's prompts: a decay for each number of a row's state.

    Args:
        u: [rows, tokens], or [sequences, rows, tokens] without ``query_start_loc``; as ``delta``,
            which becomes y, and ``z_``, which becomes y silu(z).
        A: [rows, dstate], float32, as ``D_`` and ``delta_bias_``, [rows].
        B: [groups, dstate, tokens], or [sequences, groups, dstate, tokens], as ``C``.
        query_start_loc: [sequences + 1], int32.
        cache_indices: The slot of each sequence; of ``null_block_id``, none: it is skipped. No two
            have one slot: they run at once, and what they would leave is not said.
        has_initial_state: [sequences], bool: whether its slot's state is its first one.
        ssm_states: [slots, rows, dstate], float32 or the dtype of ``u``, in place.
        block_idx_first_scheduled_token: [sequences], int32. With it states are kept by blocks of
            ``block_size`` tokens, and ``cache_indices`` is [sequences, blocks]: the first state is
            that of block ``initial_state_idx``, the one behind a chunk goes to the block that the
            chunk completes, the last one to ``block_idx_last_scheduled_token``.
        cu_chunk_seqlen: [chunks + 1], int32; without it chunks are blocks.
        last_chunk_indices: [sequences], int32: each one's last chunk.
    """
    first_block, last_block = block_idx_first_scheduled_token, block_idx_last_scheduled_token
    cached = first_block is not None
    if query_start_loc is None:
        bounds = [(0, u.shape[-1])] * len(u)
    else:
        bounds = list(itertools.pairwise(query_start_loc.tolist()))
    for s, (first, behind) in enumerate(bounds):
        at = (slice(None),) if query_start_loc is not None else (s,)
        if first >= behind:
            continue
        column = int(initial_state_idx[s]) if cached and initial_state_idx is not None else 0
        slots = [s] if cache_indices is None else cache_indices[s].reshape(-1).tolist()
        if cache_indices is not None and slots[column] == null_block_id:
            continue
        begun = has_initial_state is not None and bool(has_initial_state[s])
        state = ssm_states[slots[column]].float()
        state = state[None] if begun else torch.zeros_like(state)[None]
        tokens = slice(first, behind)
        own = [x[at][..., tokens].movedim(-1, 0) for x in (u, delta, B, C)]
        step = own[1].float() + (0 if delta_bias_ is None else delta_bias_)
        gate = None if z_ is None else z_[at][..., tokens].movedim(-1, 0)
        group = u.shape[-2] // own[2].shape[1]
        scan = _Scan(
            own[0][:, None],
            (F.softplus(step) if delta_softplus else step)[:, None],
            A[None],
            own[2][:, :1],
            own[3][:, :1],
            None if D_ is None else D_[None],
            None if gate is None else gate[:, None],
        )
        # The groups stand for rows here, not for heads.
        scan.b, scan.c = (x.float().repeat_interleave(group, 1)[:, None] for x in own[2:])
        count = behind - first
        chunks, kept = [count], [column]
        if first_block is not None and last_block is not None:
            begin = int(first_block[s])
            chunks, kept = _chunks(s, count, block_size, begin, cu_chunk_seqlen, last_chunk_indices)
            kept[-1] = int(last_block[s])
        token = 0
        for size, block in zip(chunks, kept, strict=True):
            for t in range(token, min(token + size, count)):
                state, y = scan.step(state, t)
                delta[at][..., first + t] = scan.ungated[0]
                if z_ is not None:
                    z_[at][..., first + t] = y[0]
            token += size
            if not cached or cache_indices is not None:
                ssm_states[slots[block]] = state[0]
