"""What every op refuses, whatever it computes, in one sentence and before it writes anything.

Each call of the self-test is made with one argument spoilt; so a new op is covered by its check.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from fuzz.calls import Call, optional, recorded, written
from torch import Tensor

from vllm_kernels import engine_api

ops = torch.ops.vllm_kernels
INT64, INT32 = 2**63 - 1, 2**31 - 1
# One call of each op that takes tensors and has a kernel.
CALLS = {
    call.op: call
    for call in reversed(recorded())
    if any(call.tensors()) and "CPU" in engine_api.dispatch_keys(call.op)
}
PLACES = [(op, place) for op, call in sorted(CALLS.items()) for place, _ in call.tensors()]


def name_of(op: str, place: int) -> str:
    return str(getattr(ops, op).default._schema.arguments[place].name)


def refusal(call: Call, spoilt: int | None = None) -> str:
    """The sentence that the call ends with; nothing that it would write has changed."""
    places = set(written(call.op)) - {spoilt}
    outputs = [(x, x.clone()) for place, x in call.tensors() if place in places]
    with pytest.raises(RuntimeError) as caught:
        call.run()
    sentence = str(caught.value)
    assert re.match(rf"{call.op}: ", sentence), sentence
    assert "\n" not in sentence
    assert "API call" not in sentence
    for tensor, copy in outputs:
        assert torch.equal(tensor.flatten().view(torch.uint8), copy.flatten().view(torch.uint8))
    return sentence


@pytest.mark.parametrize(("op", "place"), PLACES)
def test_none(op: str, place: int) -> None:
    if optional(op, place):
        pytest.skip("may be absent")
    assert f" {name_of(op, place)} is None, want a tensor" in refusal(
        CALLS[op].copied().replaced(place, None), place
    )


def neg(tensor: Tensor) -> Tensor:
    return torch._neg_view(tensor)


SPOILT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "meta": (lambda x: x.to("meta"), "is on the meta device"),
    "sparse": (lambda x: x.to_sparse(), "has layout sparse_coo"),
    "negative": (neg, "is a view that is yet to be negated"),
    "conjugate": (lambda x: torch.zeros(x.shape, dtype=torch.complex64).conj(), "conjugated"),
    "nested": (lambda x: torch.nested.as_nested_tensor([x, x]), "is a nested tensor"),
}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize(("op", "place"), PLACES)
@pytest.mark.filterwarnings("ignore")
def test_not_plain(op: str, place: int, kind: str) -> None:
    call = CALLS[op].copied()
    tensor = call.arguments[place]
    if kind == "negative" and tensor.dtype == torch.bool:
        pytest.skip("booleans have no sign")
    if kind in ("sparse", "nested") and tensor.dtype == torch.float8_e4m3fn:
        pytest.skip("PyTorch makes no such tensor of float8")
    if kind == "meta" and len(list(call.tensors())) == 1:
        pytest.skip("all of its tensors are")
    spoil, what = SPOILT[kind]
    sentence = refusal(call.replaced(place, spoil(tensor)), place)
    assert f" {name_of(op, place)} " in sentence
    assert what in sentence


@pytest.mark.parametrize(("op", "place"), PLACES)
def test_misaligned(op: str, place: int) -> None:
    """As torch.frombuffer gives it at an odd offset."""
    call = CALLS[op].copied()
    tensor = call.arguments[place]
    if tensor.element_size() == 1:
        pytest.skip("bytes lie anywhere")
    memory = bytearray(tensor.nbytes + 1)
    odd = torch.frombuffer(memory, dtype=tensor.dtype, offset=1, count=tensor.numel())
    sentence = refusal(call.replaced(place, odd.view(tensor.shape)), place)
    assert f" {name_of(op, place)} does not lie at a multiple of" in sentence


OUTPUTS = [(op, place) for op, place in PLACES if place in written(op)]


@pytest.mark.parametrize(("op", "place"), OUTPUTS)
@pytest.mark.parametrize("kind", ["expanded", "windows"])
def test_output_overlaps_itself(op: str, place: int, kind: str) -> None:
    call = CALLS[op].copied()
    shape = call.arguments[place].shape
    wide = [dim for dim, size in enumerate(shape) if size > 1]
    if not wide:
        pytest.skip("one element overlaps nothing")
    if kind == "expanded":
        sizes = [1 if dim == wide[0] else size for dim, size in enumerate(shape)]
        spoilt = torch.ones(sizes, dtype=call.arguments[place].dtype).expand(shape)
    else:
        if len(wide) < 2:
            pytest.skip("rows need a second dimension to overlap")
        strides = list(torch.empty(shape).stride())
        strides[wide[0]] = max(1, strides[wide[0]] // 2)
        memory = torch.ones(math.prod(shape), dtype=call.arguments[place].dtype)
        spoilt = memory.as_strided(shape, strides)
    sentence = refusal(call.replaced(place, spoilt), place)
    assert f" {name_of(op, place)} of shape" in sentence
    assert "has elements that share memory" in sentence


@pytest.mark.parametrize(("op", "place"), OUTPUTS)
def test_output_shares_memory_with_another(op: str, place: int) -> None:
    """Shifted by one element, so that it is no in-place call."""
    base = CALLS[op]
    for other, tensor in base.tensors():
        output = base.arguments[place]
        if other == place or tensor.numel() == 0:
            continue
        item = max(tensor.element_size(), output.element_size())
        memory = torch.zeros(tensor.nbytes + output.nbytes + item, dtype=torch.uint8)
        start = memory[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        if output.dtype == torch.bool:
            start.zero_()  # other bytes are no booleans, and a copy makes them ones
        last = (tensor.nbytes - 1) // item * item
        if last == 0:
            continue
        shared = memory[last : last + output.nbytes].view(output.dtype).view(output.shape)
        sentence = refusal(base.copied().replaced(other, start).replaced(place, shared))
        assert " shares memory with " in sentence
        assert name_of(op, place) in sentence
        assert name_of(op, other) in sentence


def test_interleaved_outputs_do_not_share_memory() -> None:
    """Keys and values as two halves of one buffer, by blocks, by slots and by columns."""
    key, value = torch.randn(2, 3, 2, 16)
    slots = torch.tensor([0, 17, 40])
    for buffer, at in (
        (torch.zeros(2, 4, 2, 16, 16), 0),
        (torch.zeros(4, 2, 2, 16, 16), 1),
        (torch.zeros(4, 2, 16, 2, 16), 3),
    ):
        keys, values = buffer.unbind(at)
        ops.cpu_attn_reshape_and_cache(key, value, keys, values, slots, "vec")
        assert torch.equal(keys[1, :, 1], key[1])
        assert torch.equal(values[2, :, 8], value[2])


def test_in_place_where_the_op_reads_before_it_writes() -> None:
    x = torch.randn(4, 64)
    want = torch.empty_like(x)
    ops.gelu_new(want, x)
    ops.gelu_new(x, x)
    assert torch.equal(x, want)


def test_larger_than_any_memory() -> None:
    b = torch.randn(2**22).as_strided((2**21, 2**21), (1, 1))
    with pytest.raises(RuntimeError, match=r"^create_onednn_mm_handler: b of shape .* memory"):
        ops.create_onednn_mm_handler(b, 0)
    b = torch.ones(2**23, dtype=torch.int8).as_strided((2**22, 2**22), (1, 1))
    with pytest.raises(RuntimeError, match=r"^create_onednn_scaled_mm_handler: b of shape"):
        ops.create_onednn_scaled_mm_handler(b, torch.ones(1), torch.float32, True, False, 0)


HUGE = 2**33


@pytest.mark.parametrize("rows", [2**31, 2**40])
def test_result_of_an_expanded_input(rows: int) -> None:
    """It would take minutes and more memory than there is; nothing was ever that large."""
    wide = torch.ones(1, 64)
    seeds = torch.zeros(1, dtype=torch.int64).expand(rows)
    scales = torch.ones(1, 1)
    codes = wide.to(torch.float8_e4m3fn)
    states = torch.zeros(1, 64, 1)
    for op, name, arguments in (
        ("greedy_argmax", "logits", (wide.expand(rows, 64),)),
        ("fused_gumbel_argmax", "logits", (wide.expand(rows, 64), seeds)),
        ("convert_weight_packed", "weight", (wide.expand(rows, 64),)),
        ("convert_scale_packed", "scale", (wide.to(torch.uint8).expand(rows, 64),)),
        (
            "fp8_scaled_mm_cpu",
            "mat1",
            (wide.expand(rows, 64), codes, scales, [1, 64], None, torch.float32, False),
        ),
        (
            "int8_scaled_mm_with_quant",
            "mat2",
            (
                *(wide, wide.to(torch.int8).expand(rows, 64), scales.view(1).expand(rows)),
                *(None, torch.float32, False),
            ),
        ),
        ("causal_conv1d_weight_pack", "weight", (wide.expand(rows, 64),)),
        (
            "causal_conv1d_update_cpu",
            "x",
            (wide.expand(rows, 64), states, wide.t(), None, False, None, None, -1, False),
        ),
        ("fused_gdn_gating_cpu", "a", (wide[0], wide.expand(rows, 64), wide, wide[0])),
        # Where memory is large, the weights that the handle names took minutes.
        ("create_onednn_mm_handler", "b", (wide.expand(rows, 64), 0)),
        (
            "create_onednn_scaled_mm_handler",
            "b",
            (wide.to(torch.int8).expand(rows, 64), scales, torch.float32, True, False, 0),
        ),
    ):
        with pytest.raises(RuntimeError, match=rf"^{op}: {name} is expanded to more than"):
            getattr(ops, op)(*arguments)


@pytest.mark.parametrize("shape", [(2**31,), (2**16, 2**15), (2**11,) * 3, (2**8,) * 4])
def test_expanded_in_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    expanded = torch.zeros((), dtype=torch.uint8).expand(shape)
    for op, name in (("convert_weight_packed", "weight"), ("convert_scale_packed", "scale")):
        sentence = rf"^{op}: {name} is expanded to more than {INT32} elements"
        with pytest.raises(RuntimeError, match=sentence):
            getattr(ops, op)(expanded)


def test_expanded_to_the_limit() -> None:
    """It is refused for something else."""
    with pytest.raises(RuntimeError, match=r"^convert_weight_packed: weight has shape"):
        ops.convert_weight_packed(torch.zeros((), dtype=torch.uint8).expand(INT32))


def test_product_over_no_depth() -> None:
    """Rows without values may lie nowhere; their product is the bias."""
    bias = torch.randn(32, dtype=torch.bfloat16)
    out = torch.full((3, 32), float("nan"), dtype=torch.bfloat16)
    ops.cpu_gemm_wna16(
        torch.empty(3, 0, dtype=torch.bfloat16), torch.empty(2, 0, dtype=torch.int32), out,
        torch.ones(1, 32, dtype=torch.bfloat16), None, None, bias, 8, "vec",
    )  # fmt: skip
    assert torch.equal(out, bias.expand(3, 32))


def test_huge_and_empty_ends_at_once() -> None:
    rows = torch.empty(HUGE, 0)
    for op in ("rms_norm", "fused_add_rms_norm"):
        getattr(ops, op)(torch.empty(HUGE, 0), rows, None, 1e-6)
    for op in ("silu_and_mul", "gelu_and_mul", "gelu_new", "gelu_quick"):
        getattr(ops, op)(torch.empty(HUGE, 0), rows)
    ops.static_scaled_int8_quant(torch.empty(HUGE, 0, dtype=torch.int8), rows, torch.ones(1), None)
    for depth, dtype in ((2**40, torch.float32), (2**38, torch.bfloat16)):
        handle = ops.create_onednn_mm_handler(torch.empty(0, depth, dtype=dtype), 0)
        ops.release_dnnl_matmul_handler(handle)
        handle = ops.create_onednn_mm_handler(torch.empty(depth, 0, dtype=dtype), 0)
        ops.onednn_mm(
            torch.empty(0, 0, dtype=dtype), torch.empty(0, depth, dtype=dtype), None,
            torch.tensor([handle]),
        )  # fmt: skip
        ops.release_dnnl_matmul_handler(handle)
    weight = torch.empty(2**40, 5, 0)
    ops.prepack_moe_weight(weight, torch.empty(2**40, 5, 0), "vec")
    ids = torch.zeros(1, 1, dtype=torch.int32).expand(HUGE, 1)
    ops.cpu_fused_moe(
        torch.empty(HUGE, 0), torch.empty(HUGE, 0), torch.empty(1, 8, 0), torch.empty(1, 0, 4),
        None, None, torch.ones(1, 1).expand(HUGE, 1), ids, False, "silu", "vec",
    )  # fmt: skip
    tokens, cache = torch.empty(1, 2**40, 0), torch.empty(1, 2**40, 16, 0)
    slots = torch.zeros(1, dtype=torch.int64)
    ops.cpu_attn_reshape_and_cache(tokens, tokens, cache, torch.empty_like(cache), slots, "vec")


@pytest.mark.parametrize("offset", [INT64, INT64 - 31, -1, -INT64 - 1, 33])
def test_rotary_offset(offset: int) -> None:
    q = torch.randn(5, 64)
    positions = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"^rotary_embedding: rope_dim_offset is"):
        ops.rotary_embedding(positions, q, None, 64, torch.randn(33, 32), False, offset)


@pytest.mark.parametrize("length", [INT32, INT32 - 15, INT32 - 65536, 65, -1, -INT32 - 1])
@pytest.mark.parametrize("window", [-1, 5, INT32, INT64])
def test_attention_length(length: int, window: int) -> None:
    query = torch.randn(1, 2, 16)
    cache = torch.randn(4, 1, 16, 16)
    out = torch.full_like(query, 7.0)
    metadata = torch.zeros(16, dtype=torch.int8)
    with pytest.raises(RuntimeError, match=r"^cpu_attention_with_kv_cache: (seq_lens|request)"):
        ops.cpu_attention_with_kv_cache(
            query, cache, cache, out, torch.tensor([0, 1], dtype=torch.int32),
            torch.tensor([length], dtype=torch.int32), 0.25, True, None, window,
            torch.zeros(1, 4, dtype=torch.int32), 0.0, metadata, None, None,
        )  # fmt: skip
    assert bool((out == 7.0).all())


@pytest.mark.parametrize("position", [INT64, 2**62, -1, -INT64 - 1])
@pytest.mark.parametrize("size", [1, 16, 2**62, INT64])
def test_slot_mapping_is_whole_or_untouched(position: int, size: int) -> None:
    starts = torch.tensor([0, 2], dtype=torch.int32)
    slots = torch.full((2,), -7)
    table = torch.tensor([[3, 4]], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"^compute_slot_mapping_kernel_impl: "):
        ops.compute_slot_mapping_kernel_impl(
            starts, torch.tensor([0, position]), table, slots, size
        )
    assert slots.tolist() == [-7, -7]


@pytest.mark.parametrize("name", ["num_req", "num_heads_q", "num_heads_kv", "head_dim"])
def test_scheduler_metadata_sizes(name: str) -> None:
    sizes = {"num_req": 1, "num_heads_q": 2**40, "num_heads_kv": 1, "head_dim": 16}
    sizes |= {name: 2**40}
    lengths = torch.tensor([40], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"^get_scheduler_metadata: .* want at most"):
        ops.get_scheduler_metadata(
            *sizes.values(), lengths, torch.float32, lengths, True, 5, "vec", True, None
        )


@pytest.mark.parametrize(
    ("op", "result", "arguments"),
    [
        ("greedy_argmax", "tokens", (torch.empty(2**50, 0),)),
        ("fused_gumbel_argmax", "tokens", (torch.empty(2**50, 0), torch.empty(0).long())),
        (
            "fp8_scaled_mm_cpu",
            "out",
            (
                *(torch.empty(2**40, 0), torch.empty(2**40, 0, dtype=torch.float8_e4m3fn)),
                *(torch.empty(0, 0), [1, 64], None, torch.float32, False),
            ),
        ),
        (
            "int8_scaled_mm_with_quant",
            "out",
            (
                *(torch.empty(2**40, 0), torch.empty(2**40, 0, dtype=torch.int8)),
                *(torch.empty(2**40, 0), None, torch.float32, False),
            ),
        ),
    ],
)
def test_result_beyond_all_memory(
    op: str, result: str, arguments: tuple[object, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """Inputs without a byte can ask for any number of them; PyTorch prints where it refuses."""
    with pytest.raises(RuntimeError, match=rf"^{op}: {result} would be of shape \[.*memory$"):
        getattr(ops, op)(*arguments)
    assert capfd.readouterr().err == ""
