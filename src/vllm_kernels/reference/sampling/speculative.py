"""References of speculative decoding: which drafted tokens are accepted (Leviathan et al. 2023).

A batch has requests with ``T`` drafted tokens in all; ``cu_num_draft_tokens`` (int64) has the end
of each request's.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch


def _spans(ends: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    begin = 0
    for request, end in enumerate(ends.tolist()):
        yield request, begin, end
        begin = end


def expand_kernel_impl(
    output: torch.Tensor,
    input: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    replace_from: int,
    replace_to: int,
) -> None:
    """Each request's value for each of its tokens, ``replace_from`` as ``replace_to``.

    Args:
        output: [T], int64.
        input: [requests], int64.
        cu_num_tokens: [requests], int64.
    """
    values = torch.where(input == replace_from, replace_to, input)
    for request, begin, end in _spans(cu_num_tokens):
        output[begin:end] = values[request]


def rejection_greedy_sample_kernel_impl(
    output_token_ids: torch.Tensor,
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    target_argmax: torch.Tensor,
    bonus_token_ids: torch.Tensor,
    is_greedy: torch.Tensor | None,
    max_spec_len: int,
) -> None:
    """The target's choices up to the first that was not drafted; after a whole draft the bonus.

    Args:
        output_token_ids: [requests, max_spec_len + 1], int64; the rest stays as it is.
        draft_token_ids: [T], int64.
        target_argmax: [T], int64.
        bonus_token_ids: [requests] or [requests, 1], int64.
        is_greedy: [requests], bool: those to sample; None for all.
    """
    bonus = bonus_token_ids.flatten()
    for request, begin, end in _spans(cu_num_draft_tokens):
        if is_greedy is not None and not is_greedy[request]:
            continue
        wrong = (draft_token_ids[begin:end] != target_argmax[begin:end]).nonzero()
        count = int(wrong[0]) + 1 if len(wrong) else end - begin
        output_token_ids[request, :count] = target_argmax[begin : begin + count]
        if not len(wrong):
            output_token_ids[request, count] = bonus[request]


def rejection_random_sample_kernel_impl(
    output_token_ids: torch.Tensor,
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor,
    bonus_token_ids: torch.Tensor,
    recovered_token_ids: torch.Tensor,
    uniform_probs: torch.Tensor,
    is_greedy: torch.Tensor | None,
    max_spec_len: int,
    vocab_size: int,
    no_draft_probs: bool,
) -> None:
    """Drafted tokens, each with probability target / draft; the first rejected one is recovered.

    A token that the draft cannot have drawn (draft is 0, negative or NaN) is rejected, and so is
    one whose ratio is NaN. Numbers that are no probabilities are neither refused nor normalised.

    Args:
        draft_probs: [T, vocabulary], float32; taken for 1 with ``no_draft_probs``.
        target_probs: [T, vocabulary], float32.
        recovered_token_ids: [T], int64.
        uniform_probs: [T], float32.
        is_greedy: [requests], bool: those to leave out; None for none.
    """
    bonus = bonus_token_ids.flatten()
    for request, begin, end in _spans(cu_num_draft_tokens):
        if is_greedy is not None and is_greedy[request]:
            continue
        row = output_token_ids[request]
        for place, token in enumerate(range(begin, end)):
            drafted = int(draft_token_ids[token])
            chance = 1.0 if no_draft_probs or draft_probs is None else draft_probs[token, drafted]
            ratio = target_probs[token, drafted] / chance
            if not (chance > 0 and ratio >= uniform_probs[token]):
                row[place] = recovered_token_ids[token]
                break
            row[place] = drafted
        else:
            row[end - begin] = bonus[request]


def sample_recovered_tokens_kernel_impl(
    output_token_ids: torch.Tensor,
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor,
    inv_q: torch.Tensor,
    vocab_size: int,
    no_draft_probs: bool,
) -> None:
    """For each drafted token one of max(target - draft, 0): the largest product with ``inv_q``.

    The first of equal ones. NaN in target - draft counts as 0; a product that is NaN, or not above
    -1, is never chosen, and token 0 is where no other is.

    Args:
        output_token_ids: [T], int64.
        inv_q: [requests, vocabulary], float32: reciprocals of exponential random numbers.
        no_draft_probs: From the target without the drafted token instead.
    """
    for request, begin, end in _spans(cu_num_draft_tokens):
        rest = target_probs[begin:end, :vocab_size].clone()
        if no_draft_probs or draft_probs is None:
            rest.scatter_(1, draft_token_ids[begin:end, None], 0.0)
        else:
            rest = rest - draft_probs[begin:end, :vocab_size]
            rest = torch.where(rest > 0, rest, 0.0)
        scores = rest * inv_q[request, :vocab_size]
        output_token_ids[begin:end] = torch.where(scores > -1, scores, -1.0).argmax(1)
