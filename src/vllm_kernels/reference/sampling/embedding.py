"""Embeddings of a vocabulary that is split over ranks."""

from __future__ import annotations

import torch


def vocab_parallel_embedding(
    out: torch.Tensor,
    input_ids: torch.Tensor,
    weight: torch.Tensor,
    org_vocab_start_index: int,
    org_vocab_end_index: int,
    num_org_vocab_padding: int,
    added_vocab_start_index: int,
    added_vocab_end_index: int,
) -> None:
    """Rows of ``weight`` [rows, width] for the tokens of this rank, zeros for the others.

    ``weight`` holds the original tokens from ``org_vocab_start_index`` on, padding, then the added
    tokens from ``added_vocab_start_index`` on; the ends are exclusive.
    """
    own = (input_ids >= org_vocab_start_index) & (input_ids < org_vocab_end_index)
    added = (input_ids >= added_vocab_start_index) & (input_ids < added_vocab_end_index) & ~own
    behind = org_vocab_end_index - org_vocab_start_index + num_org_vocab_padding
    rows = torch.zeros_like(input_ids)
    rows[own] = input_ids[own] - org_vocab_start_index
    rows[added] = input_ids[added] - added_vocab_start_index + behind
    mine = own | added  # none, where weight may have no rows
    # As bytes: PyTorch fills no float8.
    values = out.view(torch.uint8).zero_()
    values[mine] = weight[rows[mine].long()].view(torch.uint8)
