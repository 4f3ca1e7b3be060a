"""References of what comes between logits and the choice of a token or of columns."""

from __future__ import annotations

import torch


def apply_repetition_penalties_(
    logits: torch.Tensor,
    prompt_mask: torch.Tensor,
    output_mask: torch.Tensor,
    repetition_penalties: torch.Tensor,
) -> None:
    """Tokens seen before become less likely, in place (Keskar et al., "CTRL", 2019).

    Args:
        logits: [sequences, vocabulary], float32, bfloat16 or float16; where a mask is set, those
            above 0 are divided by the penalty, the others multiplied with it.
        prompt_mask: bool, as ``logits``: tokens of the prompt.
        output_mask: bool, as ``logits``: tokens of the output so far.
        repetition_penalties: [sequences], the logits' dtype.
    """
    penalties = repetition_penalties.float().unsqueeze(1)
    wide = logits.float()
    changed = torch.where(wide > 0, wide / penalties, wide * penalties).to(logits.dtype)
    logits.copy_(torch.where(prompt_mask | output_mask, changed, logits))


def _select(
    logits: torch.Tensor, starts: list[int], ends: list[int], indices: torch.Tensor, k: int
) -> None:
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        values = logits[row, max(start, 0) : max(end, start, 0)]
        values = torch.where(values.isnan(), float("-inf"), values) + 0.0
        # Numbers before NaN, where they are equal here.
        number = (~logits[row, max(start, 0) : max(end, start, 0)].isnan()).to(torch.int8)
        order = number.sort(descending=True, stable=True).indices
        order = order[values[order].sort(descending=True, stable=True).indices]
        chosen = order[:k].sort().values.to(indices.dtype)
        indices[row].fill_(-1)
        indices[row, : len(chosen)] = chosen


def top_k_per_row_prefill(
    logits: torch.Tensor,
    rowStarts: torch.Tensor,  # noqa: N803  the engine's names
    rowEnds: torch.Tensor,  # noqa: N803
    indices: torch.Tensor,
    numRows: int,  # noqa: N803
    stride0: int,
    stride1: int,
    topK: int,  # noqa: N803
) -> None:
    """Columns of the ``topK`` largest logits of each row's range, ascending, then -1.

    Args:
        logits: float32 [rows, columns].
        rowStarts: int32: first column of each row's range; columns are counted from it.
        rowEnds: int32: end of each row's range.
        indices: int32 [rows, topK]; written. Of equal logits the first ones; NaN last.
        numRows: Rows to do.
        stride0: ``logits.stride(0)``.
        stride1: ``logits.stride(1)``.
        topK: Columns wanted.
    """
    starts, ends = rowStarts.tolist()[:numRows], rowEnds.tolist()[:numRows]
    _select(logits, starts, ends, indices, topK)


def top_k_per_row_decode(
    logits: torch.Tensor,
    next_n: int,
    seq_lens: torch.Tensor,
    indices: torch.Tensor,
    numRows: int,  # noqa: N803
    stride0: int,
    stride1: int,
    topK: int,  # noqa: N803
) -> None:
    """``top_k_per_row_prefill`` of ranges that start at 0.

    ``seq_lens``: int32, [sequences], of which row r's range ends ``next_n - 1 - r % next_n`` before
    its sequence's end; or [sequences, next_n], the ends of the rows.
    """
    lengths = seq_lens.flatten().tolist()
    if seq_lens.dim() != 2:
        lengths = [lengths[row // next_n] - next_n + row % next_n + 1 for row in range(numRows)]
    _select(logits, [0] * numRows, lengths[:numRows], indices, topK)


def persistent_topk(
    logits: torch.Tensor,
    lengths: torch.Tensor,
    output: torch.Tensor,
    workspace: torch.Tensor,
    k: int,
    max_seq_len: int,
) -> None:
    """``top_k_per_row_prefill`` of ranges [0, lengths[r]); the workspace is not needed."""
    _select(logits, [0] * len(logits), lengths.flatten().tolist(), output, k)


def cooperative_topk(
    logits: torch.Tensor,
    lengths: torch.Tensor,
    output: torch.Tensor,
    workspace: torch.Tensor,
    k: int,
    max_seq_len: int,
) -> None:
    """``persistent_topk`` under the name of the engine's other kernel."""
    persistent_topk(logits, lengths, output, workspace, k, max_seq_len)
