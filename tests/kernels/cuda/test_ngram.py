"""Numbers of n-grams, against the reference."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.sampling import embedding as reference

ops = torch.ops.vllm_kernels


def numbers(values: object, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device="cuda")


@pytest.mark.parametrize(
    ("n", "k", "vocabulary", "lengths"),
    [(2, 1, 50, [1]), (5, 4, 131072, [7, 1, 0, 30]), (3, 2, 163840, [1] * 300), (4, 3, 9, [700])],
)
def test_ids(n: int, k: int, vocabulary: int, lengths: list[int]) -> None:
    """Rows in any order, columns from the row's beginning on, and tokens that end an n-gram."""
    embedders = (n - 1) * k
    moduli = [100 * vocabulary + 2 * e + 1 for e in range(embedders)]
    first = [sum(moduli[:e]) % 2**30 for e in range(embedders + 1)]
    weights = [[pow(vocabulary, back, m) for back in range(n)] for m in moduli]
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    width = max(lengths) + n
    table = torch.randint(0, vocabulary, (len(lengths) + 3, width), device="cuda").int()
    table[torch.rand(table.shape, device="cuda") < 0.1] *= -1
    rows = torch.randperm(len(lengths) + 3, device="cuda")[: len(lengths)]
    columns = [request % n for request in range(len(lengths))]
    ours, theirs = torch.full((2, starts[-1] + 2, embedders), -7, device="cuda").int().unbind()
    for module, ids in ((ops, ours), (reference, theirs)):
        module.ngram_compute_n_gram_ids(
            n,
            k,
            numbers(weights).view(n - 1, k, n),
            numbers(moduli).view(n - 1, k),
            numbers(first),
            numbers(starts),
            table,
            rows,
            numbers(columns),
            ids,
        )
    assert torch.equal(ours, theirs)
    assert bool((ours[-2:] == -7).all())  # tokens that no request has


def test_bad_input() -> None:
    one, wide = numbers([1, 1, 1, 1]), numbers([0], torch.int64)
    table = numbers([[1, 2]])
    ids = numbers([[0]])
    with pytest.raises(RuntimeError, match="ngram_compute_n_gram_ids: ne_n is 1 and ne_k 1, want"):
        ops.ngram_compute_n_gram_ids(1, 1, one, one, one, one, table, wide, one, ids)
    with pytest.raises(RuntimeError, match=r"ne_weights has shape \[4\], want 6 elements"):
        ops.ngram_compute_n_gram_ids(2, 3, one, one, one, one, table, wide, one, ids)
    with pytest.raises(RuntimeError, match="row_indices is int32, want int64"):
        ops.ngram_compute_n_gram_ids(2, 1, one, one, one, one, table, one, one, ids)
