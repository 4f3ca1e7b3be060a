"""Which calls the fuzzer starts from, makes and compares on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def test_what_an_op_trusts_is_kept() -> None:
    """Calls that break it are not made on a GPU, where they would read outside."""
    from fuzz.calls import full
    from fuzz.trust import kept

    def call(starts: list[int], key_starts: list[int] | None = None) -> Any:
        query, key = torch.zeros(6, 4, 16), torch.zeros(9, 2, 16)
        packed = None if key_starts is None else torch.tensor(key_starts, dtype=torch.int32)
        bounds = torch.tensor(starts, dtype=torch.int32)
        arguments = (torch.zeros_like(query), query, key, key, bounds, None, packed, None)
        return full("varlen_attention", (*arguments, 5, 70, 1.0), {})

    assert kept(call([0, 5, 6], [0, 9]))
    for starts, key_starts in (([0, 5, 7], None), ([-1, 6], None), ([3, 1], None), ([0], [0, 10])):
        assert not kept(call(starts, key_starts))


def test_what_no_docstring_specifies_is_not_compared() -> None:
    """A tile's first label decides; one label in its middle made 2,483 elements differ."""
    from fuzz.calls import full
    from fuzz.trust import specified

    def call(labels: list[int]) -> Any:
        numbers = torch.tensor(labels, dtype=torch.int32).repeat_interleave(16)
        none = torch.empty(0)
        return full("grouped_mm_labelled", (none, none, none, none, none, numbers, 32), {})

    for labels in ([0, 0, 1, -1], [-1, -1, 5, 5], []):
        assert specified(call(labels))
    for labels in ([0, 1], [-1, 0], [0, 0, 2, 1]):
        assert not specified(call(labels))


def test_slots_of_two_sequences_are_not_compared() -> None:
    """Sequences run at once: with slot 3 for all five, 13 of 200 elements differed on an H200."""
    from fuzz.calls import full
    from fuzz.trust import specified

    def numbers(values: object) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    def scan(slots: object) -> Any:
        x, y = torch.zeros(1, 8), torch.zeros(1, 1, 8)
        rest = (None, None, None, True, numbers([0, 4, 8]), numbers(slots), None)
        behind = (torch.zeros(7, 1, 1), 0, 1024, None, None, None, None, None)
        return full("selective_scan_fwd", (x, x, x[:, :1], y, y, *rest, *behind), {})

    def drafts(slots: object) -> Any:
        x = torch.zeros(1)
        indices = (numbers(slots), numbers([0, 1]), numbers([1]))
        return full(
            "fused_gdn_decode_post_conv_mtp",
            (x, x, x, x, x, *indices, x, x, x, x, 1.0, 1e-6, "silu"),
            {},
        )

    for slots in ([3, 4], [0, 0], [[1, 1], [2, 0]], []):
        assert specified(scan(slots))
    for slots in ([3, 3], [[1, 2], [2, 3]]):
        assert not specified(scan(slots))
    for slots in ([[1, 1], [2, 0]], [[0, -1], [-1, 0]]):
        assert specified(drafts(slots))
    assert not specified(drafts([[1, 2], [2, 3]]))


def test_sequences_that_start_before_the_last_one_are_not_compared() -> None:
    """Of five whose starts were 0, 1, 1, 0, 1, 1 two wrote one row of an H200's output."""
    from fuzz.calls import full
    from fuzz.oracle import _tame

    def scan(starts: list[int]) -> Any:
        x, y = torch.zeros(2, 8), torch.zeros(1, 1, 8)
        bounds = torch.tensor(starts, dtype=torch.int32)
        rest = (None, None, None, True, bounds, None, None)
        behind = (torch.zeros(7, 2, 1), 0, 1024, None, None, None, None, None)
        return full("selective_scan_fwd", (x, x, x[:, :1], y, y, *rest, *behind), {})

    for starts in ([0, 4, 8], [0, 0, 8], [0]):
        assert _tame(scan(starts))
    assert not _tame(scan([0, 1, 1, 0, 1, 1]))


def test_large_floats_of_a_corpus_are_drawn_anew(tmp_path: Path) -> None:
    """And all else is as it was: a corpus of experts' weights travels in a few kilobytes."""
    from fuzz.calls import Call
    from fuzz.record import read, write

    path = tmp_path / "corpus.pt"
    dice = torch.Generator().manual_seed(0)
    wide = torch.randn(300, 520, generator=dice).mul_(3)[:, :512]
    given = [
        wide,
        wide.abs().to(torch.bfloat16),
        wide.to(torch.float8_e4m3fn),
        torch.full((300, 512), torch.nan),
        wide.to(torch.int8),
        wide[:2, :16].clone(),
        torch.zeros(1, 1).expand(300, 512),
    ]
    write(path, [Call("hadacore_transform", (x, False)) for x in given])
    found = [call.arguments[0] for call in read(path)]
    again = [call.arguments[0] for call in read(path)]
    for x, y, z in zip(given, found, again, strict=True):
        assert (x.dtype, x.shape, x.stride()) == (y.dtype, y.shape, y.stride())
        assert torch.equal(y.float(), z.float())
    assert 2.9 < float(found[0].std()) < 3.1
    assert bool((found[1] >= 0).all())
    assert bool(found[3].isfinite().all())
    for at in (4, 5, 6):
        assert torch.equal(given[at], found[at])
    assert path.stat().st_size < 300_000


def test_calls_of_one_family_are_those_of_the_whole_corpus(tmp_path: Path) -> None:
    """A seed brings a call back, whichever others a process has read beside it."""
    from fuzz.calls import Call
    from fuzz.record import read, write

    path, x = tmp_path / "corpus.pt", torch.randn(64, 128)
    ops = ("hadacore_transform", "gelu_new", "hadacore_transform")
    calls = [Call(op, (x, False) if "hada" in op else (x, x)) for op in ops]
    write(path, calls)
    whole = [call for call in read(path) if call.op == "hadacore_transform"]
    alone = read(path, ["hadacore_transform"])
    assert [call.op for call in alone] == ["hadacore_transform"] * 2
    for one, other in zip(whole, alone, strict=True):
        assert torch.equal(one.arguments[0], other.arguments[0])


def test_what_is_written_on_a_gpu_is_seen_beside_what_was_there() -> None:
    """The bytes of before lie on the host, and are no part of what the op is given."""
    from fuzz.calls import Call
    from fuzz.gpu import Gpu

    x = torch.arange(12.0).view(3, 4)[:, :3]
    call = Call("rms_norm", (x.clone(), x, x[0].clone(), 1e-6))
    for exact in (True, False):
        for seed in range(4):
            placed, memories = Gpu("cpu", exact).place("valid", call, seed)
            out, given = memories[0], memories[1]
            assert [one.changed() for one in memories] == [False] * 3
            assert torch.equal(placed.arguments[1], x)
            out.tensor.fill_(7.0)
            assert out.changed()
            assert out.stray() == 0
            given.tensor[1, 1] = -1.0
            assert given.stray() > 0
            assert torch.equal(x[1], torch.tensor([4.0, 5.0, 6.0]))


def test_nan_of_tests_does_not_keep_calls_from_being_compared(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Of 1,897 calls of latent attention 8 were compared: their outputs began as NaN."""
    from fuzz import corpus
    from fuzz.calls import Call
    from fuzz.record import write

    x = torch.tensor([[1.0, torch.nan, torch.inf, -torch.inf]])
    path = tmp_path / "corpus.pt"
    calls = [x, x.to(torch.float8_e5m2), x.to(torch.bfloat16)]
    write(path, [Call("hadacore_transform", (one, False)) for one in calls])
    monkeypatch.setenv("VLLM_FUZZ_CORPUS", str(path))
    monkeypatch.setattr(corpus, "_served", lambda call, device: True)
    found = corpus.bases("hadamard", "cuda", None)["hadacore_transform"]
    for call in found:
        values = call.arguments[0]
        assert values.float().tolist() == [[1.0, 0.25, torch.inf, -torch.inf]]
    assert [call.arguments[0].dtype for call in found] == [one.dtype for one in calls]


def test_one_tensor_of_a_few_calls_begins_elsewhere() -> None:
    """Most kernels want all of theirs aligned, and then of half a dozen shifted at random."""
    from fuzz.calls import Call
    from fuzz.gpu import Gpu, shifted_place

    x = torch.ones(4, 16)
    call = Call("rms_norm", (x.clone(), x, x[0].clone(), 1e-6))
    places = []
    for seed in range(300):
        placed, _ = Gpu("cpu", exact=True).place("valid", call, seed)
        odd = [at for at, one in placed.tensors() if one.data_ptr() % 16]
        assert odd == [at for at in [shifted_place(call, seed)] if at >= 0]
        places += odd
    assert 60 < len(places) < 140
    assert set(places) == {0, 1, 2}


def test_other_sizes_of_a_gpu_keep_whole_parts() -> None:
    """Rows become any number, a depth of 128 mostly whole parts of it."""
    import random

    from fuzz.calls import Call
    from fuzz.strategies import resized

    dice = random.Random(0)  # noqa: S311
    call = Call("rms_norm", (torch.ones(7, 384), torch.ones(7, 384), torch.ones(384), 1e-6))
    shapes = [resized(call, dice, "cuda").arguments[0].shape for _ in range(200)]
    assert len({rows for rows, _ in shapes}) > 10
    depths = {depth for rows, depth in shapes if rows == 7}
    assert {128, 256, 512, 640, 768} <= depths


def test_what_numbers_mean_is_not_compared_where_nothing_says_it() -> None:
    """On an H200 each of these once differed, or a GPU read outside of a tensor."""
    from fuzz.calls import full
    from fuzz.trust import kept, specified

    def numbers(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype)

    x, half = torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.float16)

    def drafts(*starts: int) -> Any:
        indices = (numbers(1, 2), numbers(*starts), numbers(1, 1))
        return full(
            "fused_gdn_decode_post_conv_mtp",
            (x, x, x, x, x, *indices, x, x, x, x, 1.0, 1e-6, "silu"),
            {},
        )

    assert kept(drafts(0, 1, 3))
    assert not kept(drafts(0, 2, 4))
    assert specified(drafts(0, 1, 3))  # slots of one dimension are refused

    def columns(*order: int) -> Any:
        return full("permute_cols", (half, numbers(*order)), {})

    assert specified(columns(3, 3, 0, 1))
    assert not specified(columns(3, -1, 0, 1))
    assert not specified(columns(3, 4, 0, 1))

    def gptq(order: tuple[int, ...], exllama: bool) -> Any:
        groups = torch.zeros(2, 8, dtype=torch.float16)
        return full(
            "gptq_gemm",
            (half, numbers(0), numbers(0), groups, numbers(*order), exllama, False, 4),
            {},
        )

    assert specified(gptq((3, 1, 0, 2), True))
    assert not specified(gptq((0, 1, 0, 1), True))
    assert specified(gptq((0, 1, 0, 1), False))
    assert not specified(gptq((0, 1, 0, 2), False))

    def sparse(*metadata: int) -> Any:
        pairs = numbers(*metadata, dtype=torch.uint8)
        return full("sparse_scaled_mm", (x, x, x, pairs, x, x, None), {})

    assert specified(sparse(0b11100100, 0b11011000))
    assert not specified(sparse(0b11100100, 0))

    def attention(lengths: tuple[int, ...]) -> Any:
        query, key = torch.zeros(2, 4, 16), torch.zeros(3, 8, 2, 16)
        table = torch.tensor([[2, -1], [0, 1]], dtype=torch.int32)
        arguments = (torch.zeros_like(query), query, key, key, numbers(0, 1, 2))
        return full(
            "varlen_attention", (*arguments, numbers(*lengths), None, table, 1, 16, 1.0), {}
        )

    assert specified(attention((8, 16)))
    assert not specified(attention((9, 16)))


def test_slots_at_an_odd_address_count_too() -> None:
    """Such a tensor of zeros made 125 of 2,048 bytes of a cache differ: of which token, varies."""
    from fuzz.calls import full
    from fuzz.oracle import _scatters_twice

    memory = bytearray(8 * 3 + 1)
    slots = torch.frombuffer(memory, dtype=torch.int64, offset=1, count=3)
    x = torch.zeros(3, 8)
    cache = torch.zeros(2, 4, 1, 8)
    call = full("reshape_and_cache_flash", (x, x, cache, cache, slots, "auto", x[0], x[0]), {})
    assert _scatters_twice(call)


def test_bytes_of_a_cache_may_be_one_step_apart() -> None:
    """They are float8: 1 of 8,448 was, where the reference rotated in another order."""
    from fuzz.tolerance import codes

    want = torch.randint(1, 250, (4, 2000), dtype=torch.uint8)
    got = want.clone()
    got[1, 5] += 1
    assert codes(got, want)
    got[1, 5] += 1
    assert not codes(got, want)
    got = want.clone()
    got[0] += 1
    assert not codes(got, want)
    assert not codes(got.int(), want.int())


def test_no_root_of_a_negative_number_is_compared() -> None:
    from fuzz.calls import full
    from fuzz.oracle import _tame

    x = torch.ones(2, 8)
    for epsilon, tame in ((1e-6, True), (-1.0, False)):
        assert _tame(full("rms_norm", (x, x, x[0], epsilon), {})) == tame
        call = full(
            "fused_gdn_decode_post_conv_mtp",
            (x, x, x, x, x, x, x, x, x, x, x, x, 1.0, epsilon, "silu"),
            {},
        )
        assert _tame(call) == tame


def test_any_dtype_that_pytorch_does_not_pass_on_ends_before_us() -> None:
    """Number 31 is one of 2 bits: PyTorch names it, and 7777 UNKNOWN_SCALAR."""
    import pytest
    from fuzz.oracle import _bad_sentence

    x, codes = torch.zeros(2, 8), torch.zeros(8, 8, dtype=torch.int8)
    with pytest.raises(RuntimeError) as refused:
        torch.ops.vllm_kernels.int8_scaled_mm_with_quant(x, codes, torch.ones(8), None, 31, False)
    assert not list(_bad_sentence("int8_scaled_mm_with_quant", str(refused.value)))
