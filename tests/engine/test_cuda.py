"""The plugin's CUDA side without a GPU: which device is chosen, what is served, which backend.

The engine is a stand-in; the ops run as reference code on CPU tensors.
"""

from __future__ import annotations

import pytest
from conftest import Engine

CPU = "vllm_kernels_plugin.cpu.KernelsCpuPlatform"
CUDA = "vllm_kernels_plugin.cuda.KernelsCudaPlatform"
ASK = "from vllm_kernels_plugin import platform; print(platform())"
# Imported first: a GPU that is not there, without kernels for it.
PRETEND = """
import torch
from vllm_kernels import _cuda
_cuda.unusable = lambda: None
_cuda.wanted = lambda: []
"""
REFERENCE = {"VLLM_KERNELS_BACKEND": "reference"}

# What the engine's modules look for when they are imported, before any kernel runs.
IMPORT_MINIMUM = (
    "cutlass_scaled_mm_supports_block_fp8",
    "cutlass_scaled_mm_supports_fp8",
    "dynamic_per_token_scaled_fp8_quant",
    "dynamic_scaled_fp8_quant",
    "fused_add_rms_norm",
    "fused_add_rms_norm_static_fp8_quant",
    "fused_qk_norm_rope",
    "rms_norm",
    "rms_norm_dynamic_per_token_quant",
    "rms_norm_static_fp8_quant",
    "rotary_embedding",
    "silu_and_mul",
    "silu_and_mul_per_block_quant",
    "silu_and_mul_quant",
    "static_scaled_fp8_quant",
)

CUDA_PLATFORM = """
from collections import namedtuple
from vllm.v1.attention.backends.registry import AttentionBackendEnum

_BackendCandidate = namedtuple("_BackendCandidate", "backend_class backend priority")


class CudaPlatform:
    @classmethod
    def check_and_update_config(cls, config): pass

    @classmethod
    def import_ir_kernels(cls): pass

    @classmethod
    def get_valid_backends(cls, capability, config, heads=None):
        names = (AttentionBackendEnum.FLASH_ATTN, AttentionBackendEnum.TRITON_ATTN)
        return [_BackendCandidate(object, name, at) for at, name in enumerate(names)], {}

    @classmethod
    def get_attn_backend_cls(cls, selected, config, heads=None):
        if selected is not None:
            return selected.name
        valid, _ = cls.get_valid_backends((9, 0), config, heads)
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
    def validate_configuration(cls, device_capability, dtype, head_size):
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


SELECT = """
from collections import namedtuple

import torch
from vllm_kernels_plugin import flash_attention
from vllm_kernels_plugin.cuda import AttentionBackendEnum, KernelsCudaPlatform

config = namedtuple("config", "dtype head_size")


def chosen(dtype=torch.bfloat16, head_size=64, wanted=None):
    try:
        print(KernelsCudaPlatform.get_attn_backend_cls(wanted, config(dtype, head_size)))
    except ValueError as error:
        print(error)
"""


@pytest.fixture
def cuda(engine: Engine) -> Engine:
    """An engine with the modules of its CUDA platform that the plugin builds on."""
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
    engine.write(f"{backends}/registry.py", REGISTRY)
    engine.write(f"{backends}/mla/prefill/registry.py", PREFILL_REGISTRY)
    engine.write(f"{backends}/triton_attn.py", TRITON)
    return engine


def test_without_gpu_the_engine_runs_on_the_cpu(engine: Engine) -> None:
    done = engine.run(ASK)
    assert done.stdout.split() == [CPU], done.stderr


def test_no_cuda_op_is_served_on_the_cpu(engine: Engine) -> None:
    done = engine.run(
        f"""
        {ASK}
        import torch
        from vllm_kernels import _libraries, _ops
        from vllm_kernels_plugin import namespaces
        for name in _ops.names():
            served = hasattr(getattr(torch.ops, namespaces.of(name)), name)
            assert served == ("cpu" in _libraries.devices_of(name)), name
        """,
        **REFERENCE,
    )
    # Left to PyTorch where there are no kernels.
    assert "AssertionError: create_onednn_mm_handler" in done.stderr


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"VLLM_KERNELS_DEVICE": "gpu"}, "VLLM_KERNELS_DEVICE=gpu is not one of: auto, cpu, cuda"),
        ({"VLLM_KERNELS_DEVICE": "cuda"}, "VLLM_KERNELS_DEVICE=cuda, but vllm-cuda is not"),
    ],
)
def test_device_that_cannot_be(engine: Engine, variables: dict[str, str], sentence: str) -> None:
    done = engine.run(ASK, **variables)
    assert done.stdout.split() == ["vllm_kernels_plugin.refusal.Refusal"]
    assert f"ERROR vllm_kernels cannot serve this engine: {sentence}" in done.stderr


def test_refusal_where_only_the_engines_cuda_platform_stands(engine: Engine) -> None:
    engine.write("vllm/platforms/__init__.py", "builtin_platform_plugins = {'cuda': lambda: 'x.Y'}")
    done = engine.run(ASK, VLLM_KERNELS_DEVICE="gpu")
    assert done.stdout.split() == ["vllm_kernels_plugin.refusal.Refusal"], done.stderr
    engine.write("vllm/_C_stable_libtorch.py", "")
    left = engine.run(ASK, VLLM_KERNELS_DEVICE="gpu", VLLM_KERNELS_PLUGIN="force")
    assert left.stdout.split() == ["None"], left.stderr


def test_unusable_cuda_kernels_are_told(engine: Engine) -> None:
    done = engine.run(
        f"""
        from vllm_kernels import _cuda
        _cuda.build = lambda: _cuda.Build("/x", "13.0", "580", {{}})
        _cuda.unusable = lambda: "the NVIDIA driver (580.1) finds no GPU"
        {ASK}
        """
    )
    assert done.stdout.split() == [CPU], done.stderr
    assert "WARNING the engine runs on the CPU: the NVIDIA driver (580.1) finds" in done.stderr


def test_gpu_that_no_family_has_code_for(cuda: Engine) -> None:
    done = cuda.run(
        f"""
        from pretend import torch
        from vllm_kernels import _cuda, _driver
        gpu = _driver.Gpu(0, "NVIDIA A10", "8.6")
        _driver.driver = lambda: _driver.Driver("580.1", "13.0", (gpu,))
        families = {{
            name: _cuda.Family(name, name, archs, (), {{"9.0": "9.0a"}} if archs else {{}})
            for name, archs in (("utilities", ()), ("norm", ("9.0a",)))
        }}
        _cuda.build = lambda: _cuda.Build("/x", "13.0", "580", families)
        {ASK}
        """
    )
    assert done.stdout.split() == [CPU], done.stderr
    assert "this build has 9.0a; this GPU is 8.6 (NVIDIA A10)" in done.stderr


def test_cuda_is_preferred_and_serves_its_namespaces(cuda: Engine) -> None:
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        from vllm_kernels import _libraries, _ops
        from vllm_kernels_plugin import namespaces
        for name in _ops.names():
            served = hasattr(getattr(torch.ops, namespaces.of(name)), name)
            wanted = "cuda" in _libraries.devices_of(name) and name not in namespaces.OURS
            assert served == wanted, name
        for name in {IMPORT_MINIMUM!r}:
            assert hasattr(torch.ops._C, name), name
        import vllm._C_stable_libtorch, vllm._moe_C_stable_libtorch
        from vllm.vllm_flash_attn.flash_attn_interface import is_fa_version_supported
        from vllm.vllm_flash_attn.layers.rotary import apply_rotary_emb
        import os
        assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
        print(is_fa_version_supported(3), torch.ops._C.cutlass_scaled_mm_supports_fp8(90))
        """,
        **REFERENCE,
    )
    assert done.stdout.split() == [CUDA, "False", "False"], done.stderr
    assert "to the engine on CUDA (PyTorch reference code, which is slow)" in done.stderr


def test_torchvision_is_asked_for(cuda: Engine) -> None:
    (cuda.folder / "torchvision.py").unlink()
    done = cuda.run(
        f"""
        from pretend import torch
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == "torchvision" else found(name)
        {ASK}
        """,
        **REFERENCE,
    )
    assert done.stdout.split() == ["vllm_kernels_plugin.refusal.Refusal"], done.stderr
    assert "on a GPU the engine needs torchvision, which is not installed" in done.stderr


def test_fakes_that_the_engine_registers_stay_its_own(cuda: Engine) -> None:
    cuda.write(
        "vllm/_custom_ops.py",
        """
        import torch

        @torch.library.register_fake("_C::permute_cols")
        def fake(A, perm):
            return torch.empty_like(A)
        """,
    )
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        from vllm_kernels_plugin.cuda import KernelsCudaPlatform
        KernelsCudaPlatform.import_ir_kernels()
        KernelsCudaPlatform.import_ir_kernels()
        find = torch._library.simple_registry.singleton.find
        for name in ("permute_cols", "gptq_gemm"):
            print(find(f"_C::{{name}}").fake_impl.kernel.source.rsplit("/")[-1].split(":")[0])
        """,
        **REFERENCE,
    )
    assert done.stdout.split() == [CUDA, "_custom_ops.py", "serve.py"], done.stderr


def test_our_attention_is_chosen_where_it_serves(cuda: Engine) -> None:
    code = f"""
        from pretend import torch
        {ASK}
        from select_backend import AttentionBackendEnum, chosen, flash_attention
        from vllm_kernels_plugin.cuda import KernelsCudaPlatform
        flash_attention.problem = lambda: None
        chosen()
        chosen(dtype=torch.float32)
        chosen(head_size=512)
        chosen(wanted=AttentionBackendEnum.FLASH_ATTN)
        """
    done = cuda.run(code, **REFERENCE)
    assert done.stdout.split()[1:] == ["CUSTOM", "FLASH_ATTN", "FLASH_ATTN", "FLASH_ATTN"]
    left = cuda.run(code, **REFERENCE, VLLM_KERNELS_ATTENTION="engine")
    assert left.stdout.split()[1:] == ["FLASH_ATTN"] * 4


def test_without_attention_kernels_the_engines_own_are_taken(cuda: Engine) -> None:
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        from select_backend import AttentionBackendEnum, chosen, flash_attention
        from vllm_kernels_plugin.cuda import KernelsCudaPlatform
        flash_attention.problem = lambda: "attention: this build has 9.0a; this GPU is 8.6"
        chosen()
        chosen(wanted=AttentionBackendEnum.FLASH_ATTN)
        print([one.name for one in KernelsCudaPlatform.get_supported_vit_attn_backends()])
        """,
        **REFERENCE,
    )
    assert done.stdout.splitlines()[1:] == [
        "TRITON_ATTN",
        "the attention backend FLASH_ATTN cannot be used: attention: this build has 9.0a; "
        "this GPU is 8.6",
        "['TRITON_ATTN']",
    ], done.stderr


def test_bad_choice_of_attention_is_a_sentence(cuda: Engine) -> None:
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        from vllm_kernels_plugin.cuda import KernelsCudaPlatform
        try:
            KernelsCudaPlatform.check_and_update_config(None)
        except ValueError as error:
            print(error)
        """,
        **REFERENCE,
        VLLM_KERNELS_ATTENTION="triton",
    )
    assert done.stdout.splitlines()[1:] == [
        "VLLM_KERNELS_ATTENTION=triton is not one of: auto, engine"
    ], done.stderr


def test_backend_attends_over_the_engines_cache(cuda: Engine) -> None:
    done = cuda.run(
        """
        from pretend import torch
        from types import SimpleNamespace as Space
        from torch.nn.functional import scaled_dot_product_attention
        from vllm_kernels_plugin.attention import KernelsAttentionImpl
        torch.manual_seed(0)
        size, slots, heads, groups = 64, 16, 2, 2
        layer = Space(_k_scale=torch.ones(()), _v_scale=torch.ones(()))
        draw = lambda n, h: torch.randn(n, h, size, dtype=torch.bfloat16)
        # Two requests: 5 new tokens after 20 in the cache, and 18 new ones.
        past, new = (20, 0), (5, 18)
        keys = [draw(a + b, heads) for a, b in zip(past, new)]
        values = [draw(a + b, heads) for a, b in zip(past, new)]
        query = draw(sum(new), heads * groups)
        table = torch.tensor([[3, 1], [0, 4]], dtype=torch.int32)
        where = [
            torch.tensor([int(table[r, i // slots]) * slots + i % slots for i in range(a + b)])
            for r, (a, b) in enumerate(zip(past, new))
        ]
        join = lambda parts: torch.cat([part[a:] for part, a in zip(parts, past)])
        metadata = Space(
            num_actual_tokens=sum(new),
            query_start_loc=torch.tensor([0, 5, 23], dtype=torch.int32),
            seq_lens=torch.tensor([25, 18], dtype=torch.int32),
            max_query_len=18, max_seq_len=25, block_table=table, causal=True,
        )
        for order in ((0, 2, 1, 3), (0, 1, 2, 3)):  # NHD and HND memory, one logical shape
            memory = [(5, heads, slots, 2 * size)[dim] for dim in order]
            cache = torch.full(memory, 9.0, dtype=torch.bfloat16).permute(order)
            for window in (-1, 7):
                impl = KernelsAttentionImpl(
                    heads * groups, size, size**-0.5, heads, (window, 0 if window > 0 else -1)
                )
                impl._writes = True
                impl.do_kv_cache_update(
                    layer, keys[0][:20], values[0][:20], cache, where[0][:20]
                )
                spare = torch.tensor([-1, -1])
                impl.do_kv_cache_update(
                    layer, join(keys), join(values), cache, torch.cat([join(where), spare])
                )
                out = torch.full((25, heads * groups, size), 7.0, dtype=torch.bfloat16)
                padded = torch.cat([query, query[:2]])
                impl.forward(layer, padded, None, None, cache, metadata, out)
                assert torch.all(out[23:] == 7)
                at = 0
                for key, value, a, b in zip(keys, values, past, new):
                    q, k, v = (
                        part.transpose(0, 1).float()
                        for part in (query[at : at + b], key, value)
                    )
                    k, v = (part.repeat_interleave(groups, 0) for part in (k, v))
                    mask = torch.ones(b, a + b).tril(a)
                    if window > 0:
                        mask = mask.triu(a - window)
                    wanted = scaled_dot_product_attention(q, k, v, attn_mask=mask.bool())
                    found = out[at : at + b].transpose(0, 1).float()
                    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
                    at += b
        print("right")
        """,
        **REFERENCE,
    )
    assert done.stdout.split() == ["right"], done.stderr


def test_flash_attention_interface(cuda: Engine) -> None:
    done = cuda.run(
        """
        from pretend import torch
        from torch.nn.functional import scaled_dot_product_attention
        from vllm_kernels_plugin.flash_attention import flash_attn_varlen_func
        torch.manual_seed(0)
        # Latent attention's prefill: another head size of the values, log-sum-exp returned.
        q, k = torch.randn(9, 4, 192), torch.randn(9, 4, 192)
        v = torch.randn(9, 4, 128)
        q, k, v = (part.bfloat16() for part in (q, k, v))
        starts = torch.tensor([0, 2, 9], dtype=torch.int32)
        out, lse = flash_attn_varlen_func(
            q, k, v, 7, starts, 7, cu_seqlens_k=starts, softmax_scale=0.1, causal=True,
            return_softmax_lse=True, fa_version=2,
        )
        assert out.shape == (9, 4, 128) and lse.shape == (4, 9)
        for begin, end in ((0, 2), (2, 9)):
            parts = [part[begin:end].transpose(0, 1).float() for part in (q, k, v)]
            wanted = scaled_dot_product_attention(*parts, is_causal=True, scale=0.1)
            found = out[begin:end].transpose(0, 1).float()
            torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)
            logits = 0.1 * parts[0] @ parts[1].transpose(1, 2)
            hidden = torch.ones(end - begin, end - begin).triu(1).bool()
            wanted = logits.masked_fill(hidden, float("-inf")).logsumexp(-1)
            torch.testing.assert_close(lse[:, begin:end], wanted, atol=2e-2, rtol=2e-2)
        try:
            flash_attn_varlen_func(q, k, v, 7, starts, 7, cu_seqlens_k=starts, dropout_p=0.1)
        except NotImplementedError as error:
            print(error)
        """,
        **REFERENCE,
    )
    assert "dropout_p is not served by vllm_kernels" in done.stdout, done.stderr


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_for_vision_encoders(engine: Engine, interleaved: bool) -> None:
    done = engine.run(
        f"""
        import torch
        from vllm_kernels_plugin.flash_attention import apply_rotary_emb
        torch.manual_seed(0)
        x = torch.randn(2, 3, 4, 10)
        angle = torch.randn(3, 4)
        found = apply_rotary_emb(x, angle.cos(), angle.sin(), {interleaved})
        pairs = x[..., :8].reshape(2, 3, 4, 4, 2) if {interleaved} else (
            torch.stack((x[..., :4], x[..., 4:8]), -1)
        )
        turned = torch.view_as_real(
            torch.view_as_complex(pairs.contiguous())
            * torch.polar(torch.ones_like(angle), angle)[:, None]
        )
        wanted = turned.flatten(-2) if {interleaved} else turned.transpose(-1, -2).flatten(-2)
        torch.testing.assert_close(found[..., :8], wanted)
        assert torch.equal(found[..., 8:], x[..., 8:])
        print("right")
        """
    )
    assert done.stdout.split() == ["right"], done.stderr
