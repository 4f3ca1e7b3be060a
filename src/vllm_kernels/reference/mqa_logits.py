"""Logits of the indexer of sparse attention (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556)."""

from __future__ import annotations

import torch

from vllm_kernels.reference.cache.indexer import parts

DEPTH = 128


def _logits(
    query: torch.Tensor, keys: torch.Tensor, key_scales: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Of one query [heads, 128] and keys [n, 128], float32 [n]."""
    scores = keys.float() @ query.float().T
    return (scores.relu() * weights).sum(-1) * key_scales


def mqa_logits(
    logits: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    key_scales: torch.Tensor,
    weights: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    from_start: bool,
    blocks: int,
) -> None:
    """Write to ``logits`` [rows, columns]; see csrc/cuda/mqa_logits/mqa_logits.h."""
    for row in range(query.shape[0]):
        begin, end = max(0, int(starts[row])), min(keys.shape[0], int(ends[row]))
        origin = begin if from_start else 0
        end = min(end, origin + logits.shape[1])
        if begin < end:
            logits[row, begin - origin : end - origin] = _logits(
                query[row], keys[begin:end], key_scales[begin:end], weights[row]
            )


def paged_mqa_logits(
    logits: torch.Tensor,
    query: torch.Tensor,
    cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_table: torch.Tensor,
    schedule: torch.Tensor,
) -> None:
    """Write to ``logits`` [rows, columns]; see csrc/cuda/mqa_logits/mqa_logits.h."""
    pages, slots = cache.shape[:2]
    key_bytes, scale_bytes = parts(cache.contiguous(), DEPTH, 4)
    values = key_bytes.view(torch.float8_e4m3fn)
    scales = scale_bytes.contiguous().view(torch.float32).squeeze(-1)
    batch = context_lens.shape[0]
    queries = query.shape[0] // max(1, batch)
    lengths = context_lens.expand(batch, queries)
    for entry in range(batch):
        for token in range(queries):
            length = min(int(lengths[entry, token]), logits.shape[1], block_table.shape[1] * slots)
            if length <= 0:
                continue
            position = torch.arange(length, device=query.device)
            page = block_table[entry, position // slots].long()
            there = (page >= 0) & (page < pages)
            page = page.where(there, 0)
            row = entry * queries + token
            found = _logits(
                query[row],
                values[page, position % slots],
                scales[page, position % slots],
                weights[row],
            )
            logits[row, :length] = found.where(there, 0)


def paged_mqa_logits_schedule(schedule: torch.Tensor, context_lens: torch.Tensor) -> None:
    """All keys in the first part: [[0, 0], [batch, 0], ...]."""
    schedule[:, 0] = context_lens.shape[0]
    schedule[:, 1] = 0
    schedule[0, 0] = 0
