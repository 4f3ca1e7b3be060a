"""The engine's CPU platform with our kernels in the places that it leaves to PyTorch.

Upstream calls its attention, cache and matrix-multiplication ops on the CPU but neither the norms
nor the gated activations. Both have public hooks: providers of `vllm.ir` ops and out-of-tree
classes of `CustomOp`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from vllm.platforms.cpu import CpuPlatform

from vllm_kernels_plugin import (
    compiler,
    convolution,
    float8,
    int4,
    kv_cache,
    latent_cpu,
    needs,
    serve,
)
from vllm_kernels_plugin.errors import PluginError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

PROVIDER = "vllm_kernels"
NORMS = ("rms_norm", "fused_add_rms_norm")


class KernelsCpuPlatform(CpuPlatform):
    """CpuPlatform whose norms and activations are ours."""

    simple_compile_backend = compiler.backend()

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        _choose_latent_backend(vllm_config)
        with latent_cpu.as_on_amx(vllm_config):
            super().check_and_update_config(vllm_config)
        # Upstream uses Inductor for every model that is compiled.
        vllm_config.compilation_config.backend = cls.get_compile_backend()
        try:
            needs.check(vllm_config, "cpu")
        except PluginError as error:
            # The configuration's validation shows a ValueError's text without a traceback.
            raise ValueError(str(error)) from None

    @classmethod
    def get_attn_backend_cls(
        cls, selected_backend: Any, attn_selector_config: Any, *others: Any, **named: Any
    ) -> str:
        latent = latent_cpu.path(selected_backend, attn_selector_config)
        return latent or str(
            super().get_attn_backend_cls(selected_backend, attn_selector_config, *others, **named)
        )

    @classmethod
    def import_ir_kernels(cls) -> None:
        """Called in every process that runs a model, before the model is built."""
        super().import_ir_kernels()
        serve.register_fakes("cpu")
        _register_norms()
        _register_activations()
        float8.serve()
        int4.serve()
        convolution.serve()
        kv_cache.serve()

    @classmethod
    def register_triton_kernel_overrides(cls) -> None:
        """Called where a model's runner is made, by engines that have it."""
        _repair_slot_mapping()
        super().register_triton_kernel_overrides()

    @classmethod
    def get_punica_wrapper(cls) -> str:
        from vllm_kernels_plugin import lora

        return lora.NAME if lora.wanted() else str(super().get_punica_wrapper())

    @classmethod
    def get_default_ir_op_priority(cls, vllm_config: VllmConfig) -> Any:
        from vllm.config.compilation import CompilationMode
        from vllm.config.kernel import IrOpPriorityConfig

        # Inductor fuses the engine's own norm with its neighbours.
        compilation = vllm_config.compilation_config
        fused = compilation.mode != CompilationMode.NONE and compilation.backend == "inductor"
        first = ["native"] if fused else [PROVIDER, "native"]
        # Of the others, which differ from engine to engine, we provide none.
        ours = {name: list(first) for name in NORMS}
        return IrOpPriorityConfig.with_default(["native"], **ours)


def _choose_latent_backend(vllm_config: VllmConfig) -> None:
    """Of the engine's backends of latent attention one on our ops, with AMX and without."""
    model = vllm_config.model_config
    if model is None or not model.use_mla:
        return
    backend = needs.latent_backend(vllm_config)
    if backend is not None:
        vllm_config.attention_config.backend = backend


def _repair_slot_mapping() -> None:
    """Let the stand-in for the slots' Triton kernel take the kernel's arguments.

    In 0.32 the stand-in has a `block_size` that the kernel lost, and gets the arguments by place.
    """
    from vllm.utils import cpu_triton_utils

    name = "_compute_slot_mapping_kernel_impl"
    theirs = getattr(cpu_triton_utils, name)
    taken = list(inspect.signature(theirs).parameters)
    if "block_size" not in taken or "KV_CACHE_BLOCK_SIZE" not in taken:
        return
    at = taken.index("block_size")

    def repaired(*arguments: Any, **named: Any) -> None:
        if len(arguments) > at and isinstance(arguments[at], torch.Tensor):
            # The kernel's order: the slots, then the size of a block.
            slots, block_size, *rest = arguments[at:]
            query_start_loc, positions, block_table = arguments[2:5]
            if rest[0] != 1:
                raise NotImplementedError("context parallelism is not served on a CPU")
            torch.ops._C.compute_slot_mapping_kernel_impl(
                query_start_loc, positions, block_table, slots, block_size
            )
            return
        theirs(*arguments, **named)

    setattr(cpu_triton_utils, name, repaired)


def _register_norms() -> None:
    from vllm import ir

    if PROVIDER in ir.ops.rms_norm.impls:
        return
    ops = torch.ops.vllm_kernels

    def plain(
        x: torch.Tensor,
        weight: torch.Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> bool:
        # The engine's own op also knows a norm over part of the row and, for Gemma, a weight in
        # float32; both stay with it.
        return variance_size is None and (weight is None or weight.dtype == x.dtype)

    def fused(
        x: torch.Tensor,
        x_residual: torch.Tensor,
        weight: torch.Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> bool:
        return plain(x, weight, epsilon, variance_size)

    @ir.ops.rms_norm.register_impl(PROVIDER, supports_args=plain, supported=True)  # type: ignore[untyped-decorator]
    def rms_norm(
        x: torch.Tensor,
        weight: torch.Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> torch.Tensor:
        result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        ops.rms_norm(result, x, weight, epsilon)
        return result

    @ir.ops.fused_add_rms_norm.register_impl(  # type: ignore[untyped-decorator]
        PROVIDER, supports_args=fused, supported=True, inplace=True
    )
    def fused_add_rms_norm(
        x: torch.Tensor,
        x_residual: torch.Tensor,
        weight: torch.Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ops.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual


def _register_activations() -> None:
    from vllm.model_executor.custom_op import op_registry_oot
    from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul

    for base in (SiluAndMul, GeluAndMul):
        if base.__name__ in op_registry_oot:
            continue
        served = type(f"Kernels{base.__name__}", (base,), {"forward_cpu": _gated})
        base.register_oot(served)
        # Registration renames the class to its key; switches such as `+silu_and_mul` go by this.
        served.name = base.name  # type: ignore[attr-defined]


def _gated(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """The activation of one half of ``x`` times the other.

    The engine's own call of an op goes by `layer.op`, which not every engine sets on every CPU.
    """
    ops = torch.ops.vllm_kernels
    op = ops.silu_and_mul
    if hasattr(layer, "approximate"):
        op = ops.gelu_and_mul if layer.approximate == "none" else ops.gelu_tanh_and_mul
    out = torch.empty((*x.shape[:-1], x.shape[-1] // 2), dtype=x.dtype, device=x.device)
    op(out, x)
    return out
