"""Embeddings of a vocabulary that is split over ranks."""

from __future__ import annotations

from itertools import pairwise

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


def ngram_compute_n_gram_ids(
    ne_n: int,
    ne_k: int,
    ne_weights: torch.Tensor,
    ne_mods: torch.Tensor,
    exclusive_ne_embedder_size_sums: torch.Tensor,
    exclusive_req_len_sums: torch.Tensor,
    ne_token_table: torch.Tensor,
    row_indices: torch.Tensor,
    column_starts: torch.Tensor,
    n_gram_ids: torch.Tensor,
) -> None:
    """Numbers of the n-grams that end at each token, one for each embedder (LongCat's).

    Args:
        ne_n: The longest n-gram.
        ne_k: Embedders of each length, from 2 on.
        ne_weights: int32 [ne_n - 1, ne_k, ne_n]: factor of the token, of the one before, and so on.
        ne_mods: int32 [ne_n - 1, ne_k]: the embedder's size, which the sum is taken by.
        exclusive_ne_embedder_size_sums: int32: the first number of each embedder.
        exclusive_req_len_sums: int32 [requests + 1]: the first token of each request.
        ne_token_table: int32 [rows, width]: tokens; a negative one ends the n-grams behind it, as
            the row's beginning does.
        row_indices: int64 [requests]: the request's row.
        column_starts: int32 [requests]: where its first token is.
        n_gram_ids: int32 [tokens, (ne_n - 1) * ne_k], written for tokens of the requests.
    """
    bounds = exclusive_req_len_sums.tolist()
    first = exclusive_ne_embedder_size_sums.flatten()[: (ne_n - 1) * ne_k].long()
    for request, (begin, end) in enumerate(pairwise(bounds)):
        row = ne_token_table[int(row_indices[request])].long()
        for token in range(begin, end):
            column = int(column_starts[request]) + token - begin
            sums = torch.zeros(ne_n - 1, ne_k, dtype=torch.int64, device=row.device)
            for back in range(min(ne_n, column + 1)):
                one = row[column - back]
                if one < 0:
                    break
                longer = slice(max(back - 1, 0), None)  # n-grams of more than ``back`` tokens
                sums[longer] += one * ne_weights[longer, :, back].long() % ne_mods[longer].long()
            n_gram_ids[token] = (sums % ne_mods.long()).flatten() + first
