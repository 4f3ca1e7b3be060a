"""Stand-ins for the modules of the engine's CUDA platform that the plugin builds on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Engine

CUDA = "vllm_kernels_plugin.cuda.KernelsCudaPlatform"
ASK = "from vllm_kernels_plugin import platform; print(platform())"
# Imported first: a GPU that is not there, without kernels for it.
PRETEND = """
import torch
from vllm_kernels import engine_api
engine_api.cuda_status = lambda: engine_api.CudaStatus(None, None)
"""
REFERENCE = {"VLLM_KERNELS_BACKEND": "reference"}

CUDA_PLATFORM = """
from collections import namedtuple
from vllm.v1.attention.backends.registry import AttentionBackendEnum

_BackendCandidate = namedtuple("_BackendCandidate", "backend_class backend priority")


class CudaPlatform:
    @classmethod
    def is_device_capability_family(cls, capability): return capability == 90

    @classmethod
    def check_and_update_config(cls, config): pass

    @classmethod
    def import_ir_kernels(cls): pass

    @classmethod
    def get_valid_backends(cls, capability, config, heads=None):
        names = (AttentionBackendEnum.FLASH_ATTN, AttentionBackendEnum.TRITON_ATTN)
        if getattr(config, "use_mla", False):
            from vllm.v1.attention.ops.flashmla import available
            names = (AttentionBackendEnum.FLASHMLA_SPARSE,) if config.use_sparse else (
                AttentionBackendEnum.FLASHMLA, AttentionBackendEnum.TRITON_MLA)
            names = [one for one in names if available or "FLASHMLA" not in one.name]
        return [_BackendCandidate(object, name, at) for at, name in enumerate(names)], {}

    @classmethod
    def get_attn_backend_cls(cls, selected, config, heads=None):
        if selected is not None:
            return selected.name
        valid, _ = cls.get_valid_backends((9, 0), config, heads)
        if not valid:
            raise ValueError("no valid attention backend")
        return min(valid, key=lambda one: one.priority).backend.name

    @classmethod
    def get_supported_vit_attn_backends(cls):
        return [AttentionBackendEnum.FLASH_ATTN, AttentionBackendEnum.TRITON_ATTN]
"""
REGISTRY = """
import enum
import importlib

registered = {}


class AttentionBackendEnum(enum.Enum):
    FLASH_ATTN = "flash"
    TRITON_ATTN = "triton"
    FLASHINFER = "flashinfer"
    FLASHMLA = "flashmla"
    FLASHMLA_SPARSE = "flashmla sparse"
    TRITON_MLA = "triton mla"
    CUSTOM = None

    def get_class(self):
        module, name = registered[self].rsplit(".", 1)
        return getattr(importlib.import_module(module), name)


def register_backend(backend, path):
    registered[backend] = path
"""
PREFILL_REGISTRY = """
import enum

registered = {}


class MLAPrefillBackendEnum(enum.Enum):
    FLASH_ATTN = "flash"


def register_mla_prefill_backend(backend, path):
    registered[backend] = path
"""
BACKEND = """
class AttentionType:
    DECODER = "decoder"
    ENCODER = "encoder"
    ENCODER_ONLY = "encoder_only"
"""
# What our backend inherits: a place for the arguments, and the checks of a configuration.
TRITON = """
class TritonAttentionMetadata: pass


class TritonAttentionBackend:
    supported_dtypes = []

    @classmethod
    def validate_configuration(cls, device_capability, dtype, head_size, use_mla=False, **_):
        if use_mla:
            return ["MLA not supported"]
        reasons = [] if dtype in cls.supported_dtypes else ["dtype not supported"]
        if not cls.supports_head_size(head_size):
            reasons.append("head_size not supported")
        found = cls.supports_combination(
            head_size, dtype, "auto", 16, False, False, False, False, device_capability
        )
        return [*reasons, found] if found else reasons


class TritonAttentionImpl:
    def __init__(self, heads, head_size, scale, kv_heads, window=(-1, -1), kind="decoder",
                 cap=0, cache="auto"):
        self.num_heads, self.num_kv_heads, self.head_size = heads, kv_heads, head_size
        self.scale, self.sliding_window, self.attn_type = scale, window, kind
        self.logits_soft_cap, self.kv_cache_dtype = cap, cache
        self.alibi_slopes = self.sinks = None

    def do_kv_cache_update(self, *args):
        raise AssertionError("left to the engine")
"""


# As the engine finds out whether there is a FlashMLA, and what it takes of it.
FLASH_MLA = """
try:
    import vllm._flashmla_C
    import vllm._flashmla_extension_C
    from vllm.third_party.flashmla.flash_mla_interface import (
        FlashMLASchedMeta,
        flash_attn_varlen_func,
        flash_attn_varlen_kvpacked_func,
        flash_attn_varlen_qkvpacked_func,
        flash_mla_sparse_fwd,
        flash_mla_with_kvcache,
        get_mla_metadata,
    )
    available = True
except ImportError:
    available = False
"""
SELECT = """
from collections import namedtuple

import torch
from vllm_kernels_plugin import flash_attention
from vllm_kernels_plugin.cuda import AttentionBackendEnum, KernelsCudaPlatform

config = namedtuple(
    "config", "dtype head_size kv_cache_dtype use_mla", defaults=("auto", False)
)
latent_config = namedtuple("latent_config", "dtype head_size kv_cache_dtype use_mla use_sparse")


def chosen(dtype=torch.bfloat16, head_size=64, wanted=None):
    _print(wanted, config(dtype, head_size))


def latent(kv_cache_dtype="auto", use_sparse=False, wanted=None):
    _print(wanted, latent_config(torch.bfloat16, 576, kv_cache_dtype, True, use_sparse))


def _print(wanted, config):
    try:
        print(KernelsCudaPlatform.get_attn_backend_cls(wanted, config))
    except ValueError as error:
        print(error)
"""


def add_platform(engine: Engine) -> None:
    """Give the engine the modules of its CUDA platform."""
    backends = "vllm/v1/attention/backends"
    for folder in ("v1", "v1/attention", "v1/attention/backends"):
        engine.write(f"vllm/{folder}/__init__.py", "")
    for folder in ("mla", "mla/prefill"):
        engine.write(f"{backends}/{folder}/__init__.py", "")
    engine.write("pretend.py", PRETEND)
    engine.write("torchvision.py", "")
    engine.write("select_backend.py", SELECT)
    engine.write("vllm/platforms/cuda.py", CUDA_PLATFORM)
    engine.write("vllm/v1/attention/backend.py", BACKEND)
    engine.write("vllm/v1/attention/ops/__init__.py", "")
    engine.write("vllm/v1/attention/ops/flashmla.py", FLASH_MLA)
    engine.write(f"{backends}/registry.py", REGISTRY)
    engine.write(f"{backends}/mla/prefill/registry.py", PREFILL_REGISTRY)
    engine.write(f"{backends}/triton_attn.py", TRITON)
