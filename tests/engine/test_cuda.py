"""The plugin's CUDA side without a GPU: which device is chosen, what is served, which backend.

The engine is a stand-in; the ops run as reference code on CPU tensors.
"""

from __future__ import annotations

import pytest
from conftest import Engine
from cuda_engine import ASK, CUDA, REFERENCE

from vllm_kernels_plugin import choices, engines

CPU = "vllm_kernels_plugin.cpu.KernelsCpuPlatform"
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


def test_without_gpu_the_engine_runs_on_the_cpu(engine: Engine) -> None:
    done = engine.run(ASK)
    assert done.stdout.split() == [CPU], done.stderr


def test_no_cuda_op_is_served_on_the_cpu(engine: Engine) -> None:
    done = engine.run(
        f"""
        {ASK}
        import torch
        from vllm_kernels import engine_api
        for name in engine_api.ops():
            space = engine_api.namespace_of(name)
            served = space != engine_api.NAMESPACE and hasattr(getattr(torch.ops, space), name)
            if served != ("cpu" in engine_api.devices_of(name)):
                print("other", name, served)
        """,
        **REFERENCE,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    other = {line[1]: line[2] for line in lines if line[0] == "other"}
    # Left to the engine's PyTorch where there are no kernels.
    assert {"create_onednn_mm_handler", "causal_conv1d_update_cpu_vec"} <= other.keys()
    assert set(other.values()) == {"False"}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"VLLM_KERNELS_DEVICE": "gpu"}, "VLLM_KERNELS_DEVICE=gpu is not one of: auto, cpu, cuda"),
        ({"VLLM_KERNELS_DEVICE": "cuda"}, "VLLM_KERNELS_DEVICE=cuda, but vllm-kernels-cuda is not"),
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
        from vllm_kernels import engine_api
        build = engine_api.CudaBuild("/x", "13.0", "580", {{}})
        why = "the NVIDIA driver (580.1) finds no GPU"
        engine_api.cuda_status = lambda: engine_api.CudaStatus(build, why)
        {ASK}
        """
    )
    assert done.stdout.split() == [CPU], done.stderr
    assert "WARNING the engine runs on the CPU: the NVIDIA driver (580.1) finds" in done.stderr


def test_gpu_that_no_family_has_code_for(cuda: Engine) -> None:
    done = cuda.run(
        f"""
        from pretend import torch
        from vllm_kernels import engine_api
        host = engine_api.CudaFamily("runtime", "", (), (), {{}})
        norm = engine_api.CudaFamily("norm", "", ("9.0a",), (), {{"9.0": "9.0a"}})
        build = engine_api.CudaBuild("/x", "13.0", "580", {{"runtime": host, "norm": norm}})
        why = "this build has 9.0a; this GPU is 8.6 (NVIDIA A10)"
        status = engine_api.CudaStatus(build, None, (host,), {{"norm": why}})
        engine_api.cuda_status = lambda: status
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
        from vllm_kernels import engine_api
        from vllm_kernels_plugin import engine, engines
        known = engines.ops(engine.version(), "cuda")
        for name in engine_api.ops():
            space = engine_api.namespace_of(name)
            if space != engine_api.NAMESPACE:
                served = hasattr(getattr(torch.ops, space), name)
                # References of collectives sum one rank only: NCCL does it.
                collective = space == "_C_custom_ar" or name == "minimax_allreduce_rms_qk"
                assert served == (name in known and not collective), name
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


@pytest.mark.parametrize("installed", [False, True])
def test_deepseek_without_cutedsl(cuda: Engine, installed: bool) -> None:
    """The engine asks on every GPU a module that serves one of capability 10.0."""
    if installed:
        (cuda.folder / "cutlass" / "cute").mkdir(parents=True)
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        import importlib, sys
        name = "vllm.models.deepseek_v32.nvidia.ops.fused_q_cutedsl"
        if name in sys.modules:
            module = importlib.import_module(name)
            print(module.is_fused_q_cutedsl_supported(None, has_indexer=True))
            print(callable(module.fused_q_cutedsl))
        """,
        **REFERENCE,
    )
    answer = [] if installed else ["False", "True"]
    assert done.stdout.split() == [CUDA, *answer], done.stderr


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


def test_kernels_without_ops_are_withheld(cuda: Engine) -> None:
    """The engine asks whether they suit the GPU, not whether what they call exists."""
    done = cuda.run(
        f"""
        from pretend import torch
        {ASK}
        import os
        print(os.environ["VLLM_DISABLED_KERNELS"])
        """,
        **REFERENCE,
        VLLM_DISABLED_KERNELS="TritonInt8ScaledMMLinearKernel",
    )
    names = done.stdout.split()[1].split(",")
    # The user's choice stays.
    assert names[0] == "TritonInt8ScaledMMLinearKernel", done.stderr
    have = {name for name in choices.LINEAR if name not in names}
    assert {"MacheteLinearKernel", "AllSparkLinearKernel"} <= {*names}
    assert {
        "MarlinLinearKernel",
        "CutlassW4A8LinearKernel",
        "CutlassFp8BlockScaledMMKernel",
        "ExllamaLinearKernel",
    } <= have


def test_kernels_are_known_by_ops_of_engines() -> None:
    versions = [".".join(map(str, one)) for one in engines.releases()]
    known = {name for version in versions for name in engines.ops(version, "cuda")}
    assert {*choices.LINEAR.values()} <= known


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
