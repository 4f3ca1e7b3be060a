"""The engine's CUDA platform on our kernels."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from vllm.platforms.cuda import CudaPlatform, _BackendCandidate
from vllm.v1.attention.backends.mla.prefill.registry import (
    MLAPrefillBackendEnum,
    register_mla_prefill_backend,
)
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

from vllm_kernels_plugin import all_reduce, flash_attention, flash_mla, flashinfer, needs, serve
from vllm_kernels_plugin.errors import PluginError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.platforms.interface import DeviceCapability
    from vllm.v1.attention.selector import AttentionSelectorConfig

logger = logging.getLogger("vllm.plugins.vllm_kernels")

ATTENTION_VARIABLE = "VLLM_KERNELS_ATTENTION"
ATTENTIONS = ("auto", "engine")

# Before any backend that the engine lists.
_FIRST = -1

register_backend(
    AttentionBackendEnum.CUSTOM, "vllm_kernels_plugin.attention.KernelsAttentionBackend"
)
# On most GPUs the engine knows no other backend, so ours takes its name.
register_mla_prefill_backend(
    MLAPrefillBackendEnum.FLASH_ATTN, "vllm_kernels_plugin.latent.KernelsPrefillBackend"
)


class KernelsCudaPlatform(CudaPlatform):  # type: ignore[misc]
    """CudaPlatform whose ops, and attention where it serves the model, are ours."""

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        super().check_and_update_config(vllm_config)
        try:
            _attention()
            flashinfer.leave_out_delta_net(vllm_config.additional_config)
            all_reduce.bound(vllm_config.parallel_config, logger)
            needs.check(vllm_config, "cuda")
            _check_attention(vllm_config)
        except PluginError as error:
            # The configuration's validation shows a ValueError's text without a traceback.
            raise ValueError(str(error)) from None

    @classmethod
    def import_ir_kernels(cls) -> None:
        """Called in every process that runs a model, before the model is built."""
        super().import_ir_kernels()
        serve.register_fakes("cuda")

    @classmethod
    def get_valid_backends(
        cls,
        device_capability: DeviceCapability,
        attn_selector_config: AttentionSelectorConfig,
        num_heads: int | None = None,
    ) -> Any:
        """The backends that can serve a layer, and why the others cannot."""
        valid, reasons = super().get_valid_backends(
            device_capability, attn_selector_config, num_heads
        )
        for one in list(valid):
            # The engine looks at the GPU only, or at what it can import.
            if problem := _problem(one.backend, attn_selector_config):
                valid.remove(one)
                reasons[one.backend] = (one.priority, [problem])
        if _attention() == "auto":
            ours = AttentionBackendEnum.CUSTOM
            found = ours.get_class()
            invalid = found.validate_configuration(
                device_capability=device_capability, **attn_selector_config._asdict()
            )
            if invalid:
                reasons[ours] = (_FIRST, invalid)
            else:
                valid.insert(0, _BackendCandidate(found, ours, _FIRST))
        return valid, reasons

    @classmethod
    def get_attn_backend_cls(
        cls,
        selected_backend: AttentionBackendEnum | None,
        attn_selector_config: AttentionSelectorConfig,
        num_heads: int | None = None,
    ) -> str:
        """Qualified name of the backend's class; ValueError where the wanted one has no kernels."""
        problem = selected_backend and _problem(selected_backend, attn_selector_config)
        if selected_backend is not None and problem:
            raise ValueError(_refusal(selected_backend, problem))
        return str(super().get_attn_backend_cls(selected_backend, attn_selector_config, num_heads))

    @classmethod
    def get_supported_vit_attn_backends(cls) -> list[AttentionBackendEnum]:
        """Backends of vision encoders, best first."""
        found: list[AttentionBackendEnum] = super().get_supported_vit_attn_backends()
        if flash_attention.problem():
            found = [one for one in found if one is not AttentionBackendEnum.FLASH_ATTN]
        return found


def _refusal(backend: AttentionBackendEnum, problem: str) -> str:
    return f"the attention backend {backend.name} cannot be used: {problem}"


def _check_attention(config: VllmConfig) -> None:
    """PluginError where the backend that all layers are to have has no kernels.

    The engine would ask when it builds the first layer, in a process of its own.
    """
    backend, model = config.attention_config.backend, config.model_config
    if backend is None or model is None or model.is_attention_free:
        return
    cache = config.cache_config.cache_dtype
    asked = Asked(model.use_mla, model.get_head_size(), model.dtype, cache)
    if problem := _problem(backend, asked):
        raise PluginError(_refusal(backend, problem))


class Asked(NamedTuple):
    """What _problem() reads of the engine's AttentionSelectorConfig."""

    use_mla: bool
    head_size: int
    dtype: torch.dtype
    kv_cache_dtype: str | None


def _problem(backend: AttentionBackendEnum, config: AttentionSelectorConfig | Asked) -> str | None:
    """Why our kernels cannot serve a backend of the engine that stands on them."""
    if backend is AttentionBackendEnum.FLASH_ATTN:
        return flash_attention.problem()
    if backend in (AttentionBackendEnum.FLASHMLA, AttentionBackendEnum.FLASHMLA_SPARSE):
        return flash_mla.problem()
    if backend is AttentionBackendEnum.FLASHINFER and not config.use_mla:
        hopper = bool(KernelsCudaPlatform.is_device_capability_family(90))
        return flashinfer.attention_problem(
            config.head_size, config.dtype, config.kv_cache_dtype, hopper
        )
    return None


def _attention() -> str:
    choice = os.environ.get(ATTENTION_VARIABLE) or "auto"
    if choice not in ATTENTIONS:
        raise PluginError(f"{ATTENTION_VARIABLE}={choice} is not one of: {', '.join(ATTENTIONS)}")
    return choice
