"""Fake (meta) implementations: what torch.compile needs to know of an op without running it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch.utils._python_dispatch import _disable_current_modes

from vllm_kernels import _arguments, _ops
from vllm_kernels.reference import sparse_gemm

Fake = Callable[..., object]


def _mutates_only(*args: object, **kwargs: object) -> None:
    """Fake of an op that returns nothing: its outputs are arguments, whose shapes stay."""


def _query(name: str) -> Fake:
    """Fake of an op without tensors: a question about the host, with the host's answer."""

    def fake(*args: object, **kwargs: object) -> object:
        with _disable_current_modes():
            return getattr(torch.ops.vllm_kernels, name)(*args, **kwargs)

    return fake


# Those below get the arguments that they name, by the schema's names.


def _handle(**_: object) -> torch.types.IntLikeType:
    """Fake of an op that returns the handle of a native object: some integer."""
    return torch.library.get_ctx().new_dynamic_size()


def _scheduler_metadata(seq_lens: torch.Tensor, **_: object) -> torch.Tensor:
    """Opaque bytes, of a size that depends on the batch."""
    size = torch.library.get_ctx().new_dynamic_size()
    return seq_lens.new_empty((size,), dtype=torch.int8)


def _repacked(
    b_q_weight: torch.Tensor, size_k: int, size_n: int, num_bits: int, **_: object
) -> torch.Tensor:
    return b_q_weight.new_empty((size_k // 16, size_n * num_bits // 2), dtype=torch.int32)


def _marlin_gemm(a: torch.Tensor, size_m: int, size_n: int, **_: object) -> torch.Tensor:
    return a.new_empty((size_m, size_n))


def _moe_marlin_gemm(
    a: torch.Tensor, top_k: int, size_m: int, size_n: int, **_: object
) -> torch.Tensor:
    return a.new_empty((size_m * top_k, size_n))


def _moe_wna16_gemm(output: torch.Tensor, **_: object) -> torch.Tensor:
    return output


def _encoded_grouped(b_tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    strides = b_tensors.new_empty((b_tensors.shape[0],), dtype=torch.int64)
    return b_tensors.new_empty(b_tensors.shape), strides


def _packed_scales(scales: torch.Tensor) -> torch.Tensor:
    """In bfloat16, two bytes of the result each."""
    return scales.new_empty((*scales.shape[:-1], 2 * scales.shape[-1]))


def _w4a8_mm(
    A: torch.Tensor,  # noqa: N803  the engine's names
    B: torch.Tensor,  # noqa: N803
    **_: object,
) -> torch.Tensor:
    return A.new_empty((A.shape[0], B.shape[1]), dtype=torch.bfloat16)


def _like(name: str) -> Fake:
    """Fake of an op whose result is as one argument, and contiguous."""

    def fake(**values: torch.Tensor) -> torch.Tensor:
        return values[name].new_empty(values[name].shape)

    return fake


def _gpu_view(cpu_tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(
        cpu_tensor.shape, cpu_tensor.stride(), dtype=cpu_tensor.dtype, device="cuda"
    )


def _same_layout(input: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(input.shape, input.stride(), dtype=input.dtype, device=input.device)


def _gptq_gemm(a: torch.Tensor, b_q_weight: torch.Tensor, **_: object) -> torch.Tensor:
    return a.new_empty((a.shape[0], b_q_weight.shape[1]))


def _awq_gemm(_in_feats: torch.Tensor, _kernel: torch.Tensor, **_: object) -> torch.Tensor:
    return _in_feats.new_empty((_in_feats.shape[0], _kernel.shape[1] * 8))


def _awq_dequantize(
    _kernel: torch.Tensor, _scaling_factors: torch.Tensor, **_: object
) -> torch.Tensor:
    return _scaling_factors.new_empty((_kernel.shape[0], _kernel.shape[1] * 8))


def _routes(
    gating_output: torch.Tensor, topk: int, **_: object
) -> tuple[torch.Tensor, torch.Tensor]:
    return _grouped_topk(gating_output, topk)


def _grouped_topk(
    scores: torch.Tensor, topk: int, **_: object
) -> tuple[torch.Tensor, torch.Tensor]:
    size = (scores.shape[0], topk)
    return scores.new_empty(size, dtype=torch.float32), scores.new_empty(size, dtype=torch.int32)


def _tokens(logits: torch.Tensor, **_: object) -> torch.Tensor:
    return logits.new_empty((logits.shape[0],), dtype=torch.int64)


def _sparse_compress(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    n, k = weight.shape
    metadata = weight.new_empty((sparse_gemm.metadata_bytes(n, k),), dtype=torch.uint8)
    return weight.new_empty((n, k // 2)), metadata


def _mla_schedule(seq_lens: torch.Tensor, **_: object) -> torch.Tensor:
    """As many parts as the GPU and the shape want."""
    return seq_lens.new_empty((torch.library.get_ctx().new_dynamic_size(), 2))


def _packed(**values: torch.Tensor) -> torch.Tensor:
    (given,) = values.values()
    return torch.empty(given.shape, dtype=given.dtype, device=given.device)


def _scaled_product(
    mat1: torch.Tensor, mat2: torch.Tensor, out_dtype: torch.dtype, **_: object
) -> torch.Tensor:
    return mat1.new_empty((mat1.shape[0], mat2.shape[0]), dtype=out_dtype)


def _converted_int4(
    weight: torch.Tensor, scales: torch.Tensor, quant_method_4bit: int, **_: object
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of 32 columns each: the words, zero points and scales."""
    *experts, groups, columns = scales.shape
    words = weight.shape[-2] if quant_method_4bit == 1 else weight.shape[-2] // 8
    size = (*experts, columns // 32, groups, 32)
    return (
        weight.new_empty((*experts, columns // 32, words, 128), dtype=torch.uint8),
        weight.new_empty(size, dtype=torch.int8),
        scales.new_empty(size, dtype=torch.float32),
    )


def _int4_product(x: torch.Tensor, w: torch.Tensor, **_: object) -> torch.Tensor:
    return x.new_empty((x.shape[0], w.shape[0] * 32))


def _shared_buffer(**_: object) -> tuple[torch.types.IntLikeType, torch.Tensor]:
    """An address, and the handle of the memory."""
    return torch.library.get_ctx().new_dynamic_size(), torch.empty(64, dtype=torch.uint8)


def _conv_packed(weight: torch.Tensor) -> torch.Tensor:
    return weight.new_empty((weight.shape[1], weight.shape[0])).t()


def _conv_forward(x: torch.Tensor, **_: object) -> torch.Tensor:
    return x.new_empty((x.shape[1], x.shape[0])).t()


def _gdn_gating(a: torch.Tensor, b: torch.Tensor, **_: object) -> tuple[torch.Tensor, torch.Tensor]:
    size = (1, a.shape[0], a.shape[1])
    return a.new_empty(size, dtype=torch.float32), b.new_empty(size)


def _chunk_delta_rule(
    value: torch.Tensor,
    initial_state: torch.Tensor,
    output_final_state: bool,
    initial_state_indices: torch.Tensor,
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    sequences = initial_state_indices.shape[0] if output_final_state else 0
    size = (sequences, *initial_state.shape[1:])
    return value.new_empty(value.shape), initial_state.new_empty(size, dtype=torch.float32)


def _delta_rule_update(v: torch.Tensor, **_: object) -> torch.Tensor:
    out = v.new_empty(v.shape)
    return out.transpose(0, 1) if v.dim() == 4 else out


def _rotated(x: torch.Tensor, inplace: bool) -> torch.Tensor:
    return x if inplace else x.new_empty(x.shape)


def _normed_qk(
    qkv: torch.Tensor, q_size: int, kv_size: int, **_: object
) -> tuple[torch.Tensor, torch.Tensor]:
    return qkv.new_empty((qkv.shape[0], q_size)), qkv.new_empty((qkv.shape[0], kv_size))


def _padded_heads(q_in: torch.Tensor, q_head_padded: int, **_: object) -> torch.Tensor:
    return q_in.new_empty((q_in.shape[0], q_head_padded, q_in.shape[2]))


def _group_name(name: str, **_: object) -> str:
    return name


def _received(**_: object) -> NoReturn:
    raise RuntimeError(
        "shm_recv_tensor_list: what a rank receives is known once it has been sent, not to a graph "
        "that is being traced; call it outside of torch.compile"
    )


# Ops whose result does not follow from the schema alone.
_SPECIAL: dict[str, Fake] = {
    "get_scheduler_metadata": _scheduler_metadata,
    "create_onednn_mm_handler": _handle,
    "create_onednn_scaled_mm_handler": _handle,
    "gptq_marlin_repack": _repacked,
    "awq_marlin_repack": _repacked,
    "marlin_gemm": _marlin_gemm,
    "moe_wna16_marlin_gemm": _moe_marlin_gemm,
    "moe_wna16_gemm": _moe_wna16_gemm,
    "cutlass_encode_and_reorder_int4b": _like("B"),
    "cutlass_encode_and_reorder_int4b_grouped": _encoded_grouped,
    "cutlass_pack_scale_fp8": _packed_scales,
    "cutlass_w4a8_mm": _w4a8_mm,
    "permute_cols": _like("A"),
    "get_cuda_view_from_cpu_tensor": _gpu_view,
    "open_mem_handle": _handle,
    "init_custom_ar": _handle,
    "allocate_shared_buffer_and_handle": _shared_buffer,
    "init_shm_manager": _handle,
    "join_shm_manager": _group_name,
    "shm_recv_tensor_list": _received,
    "weak_ref_tensor": _same_layout,
    "gptq_gemm": _gptq_gemm,
    "awq_gemm": _awq_gemm,
    "awq_dequantize": _awq_dequantize,
    "grouped_topk": _grouped_topk,
    "biased_topk_cpu": _routes,
    "hash_topk_cpu": _routes,
    "greedy_argmax": _tokens,
    "fused_gumbel_argmax": _tokens,
    "fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert": _padded_heads,
    "minimax_allreduce_rms_qk": _normed_qk,
    "hadacore_transform": _rotated,
    "sparse_compress": _sparse_compress,
    "causal_conv1d_weight_pack": _conv_packed,
    "causal_conv1d_fwd_cpu": _conv_forward,
    "causal_conv1d_update_cpu": _like("x"),
    "causal_conv1d_update_cpu_vec": _like("x"),
    "fused_gdn_gating_cpu": _gdn_gating,
    "chunk_gated_delta_rule_cpu": _chunk_delta_rule,
    "fused_sigmoid_gating_delta_rule_update_cpu": _delta_rule_update,
    "fused_sigmoid_gating_delta_rule_update_spec_cpu": _like("v"),
    "mla_schedule": _mla_schedule,
    "convert_weight_packed": _packed,
    "convert_scale_packed": _packed,
    "convert_weight_packed_scale_zp": _converted_int4,
    "int4_scaled_mm_cpu": _int4_product,
    "fp8_scaled_mm_cpu": _scaled_product,
    "int8_scaled_mm_with_quant": _scaled_product,
}


# Those whose results have sizes or values that only a run tells: torch.compile makes symbols of
# them, a call on meta tensors cannot have them.
_DYNAMIC = (
    "get_scheduler_metadata",
    "mla_schedule",
    "create_onednn_mm_handler",
    "create_onednn_scaled_mm_handler",
)


def _of_fake_tensors(name: str, fake: Fake) -> Fake:
    def call(*args: object, **kwargs: object) -> object:
        if any(type(value) is torch.Tensor for value in (*args, *kwargs.values())):
            raise RuntimeError(f"{name}: its tensors are on the meta device, want values in memory")
        return fake(*args, **kwargs)

    return call


def _by_names(name: str, fake: Fake) -> Fake:
    names = [argument.name for argument in _ops.schema(name).arguments]

    def call(*args: object, **kwargs: object) -> object:
        return fake(**dict(zip(names, args, strict=False)), **kwargs)

    return call


def fake_of(name: str) -> Fake | None:
    """Fake of the op, or None where one has to be written."""
    if name in _DYNAMIC:
        return _arguments.checked(name, _of_fake_tensors(name, _by_names(name, _SPECIAL[name])))
    if name in _SPECIAL:
        return _arguments.checked(name, _by_names(name, _SPECIAL[name]))
    schema = _ops.schema(name)
    if not schema.returns:
        return _arguments.checked(name, _mutates_only)
    if not any("Tensor" in str(value.type) for value in (*schema.arguments, *schema.returns)):
        return _query(name)
    return None


def register(library: torch.library.Library) -> list[str]:
    """Register the fake of every op of the namespace; return the ops that have none."""
    missing = []
    for name in _ops.names():
        fake = fake_of(name)
        if fake is None:
            missing.append(name)
        else:
            torch.library.register_fake(f"{_ops.NAMESPACE}::{name}", fake, lib=library)
    return missing
