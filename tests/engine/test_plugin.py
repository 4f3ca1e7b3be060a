"""The platform plugin in processes of its own: registration is once a process."""

from __future__ import annotations

import pytest
from conftest import ENGINE, Engine

PLATFORM = "vllm_kernels_plugin.cpu.KernelsCpuPlatform"
ASK = "from vllm_kernels_plugin import platform; print(platform())"


def test_fakes_wait_for_the_engines_own(engine: Engine) -> None:
    """Those of `vllm._custom_ops`: PyTorch 2.11 refuses a second one for an op."""
    done = engine.run(
        f"""
        {ASK}
        import torch
        find = torch._library.simple_registry.singleton.find
        print(hasattr(torch.ops._C, "weight_packed_linear"))
        print(find("_C::weight_packed_linear").fake_impl.kernel)
        """
    )
    assert done.stdout.split() == [PLATFORM, "True", "None"], done.stderr


def test_serves_native_kernels_without_forwarding(engine: Engine) -> None:
    done = engine.run(
        f"""
        {ASK}
        import torch
        from vllm_kernels import engine_api as api
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        served = [n for n in api.ops() if hasattr(torch.ops._C, n)]
        from vllm_kernels_plugin import engine, engines
        asked = engines.ops(engine.version(), "cpu")
        assert set(served) == {{n for n in api.ops() if n in asked and "cpu" in api.devices_of(n)}}
        for name in served:
            for key in api.dispatch_keys(name):
                assert has(f"_C::{{name}}", key), (name, key)
        from vllm_kernels_plugin import serve
        fragment = serve.fragment("_C")
        keys = [key.split("/")[1:] for key in fragment._op_impls]
        forwarded = {{op for op, key in keys if key in ("CPU", "CUDA")}}
        # Python forwards what it implements itself or whose arguments differ in this engine, and
        # nothing else that a library does.
        adapted = {{op.name for op in serve._served("cpu") if op.adapted}}
        print("forwarded", sorted(forwarded - adapted - set(api.reference_ops())))
        x, w = torch.randn(3, 64), torch.randn(64)
        ours, theirs = torch.empty_like(x), torch.empty_like(x)
        torch.ops.vllm_kernels.rms_norm(ours, x, w, 1e-6)
        torch.ops._C.rms_norm(theirs, x, w, 1e-6)
        assert torch.equal(ours, theirs)
        schema = str(torch.ops._C.silu_and_mul.default._schema)
        assert schema == "_C::silu_and_mul(Tensor($0! -> ) result, Tensor input) -> ()", schema
        print("served", len(served))
        """
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == PLATFORM
    assert lines[1] == "forwarded []"
    assert int(lines[2].split()[1]) >= 20
    assert "serves" in done.stderr
    assert "instruction-set tier" in done.stderr


def test_compiled_code_calls_served_ops(engine: Engine) -> None:
    done = engine.run(
        f"""
        {ASK}
        import torch
        def norm(x, w):
            out = torch.empty_like(x)
            torch.ops._C.rms_norm(out, x, w, 1e-6)
            return out * 2
        x, w = torch.randn(3, 64), torch.randn(64)
        compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x, w), norm(x, w))
        """
    )
    assert done.returncode == 0, done.stderr


def test_asking_twice_registers_once(engine: Engine) -> None:
    done = engine.run(f"{ASK}\nprint(platform())")
    assert done.stdout.split() == [PLATFORM, PLATFORM], done.stderr
    assert done.stderr.count("serves") == 1


def test_reference_code_serves_without_kernels(engine: Engine) -> None:
    done = engine.run(
        f"""
        {ASK}
        import torch
        x, out = torch.randn(2, 8), torch.empty(2, 4)
        torch.ops._C.silu_and_mul(out, x)
        torch.testing.assert_close(out, torch.nn.functional.silu(x[:, :4]) * x[:, 4:])
        # The engine asks whether it is there and else takes PyTorch's own.
        assert not hasattr(torch.ops._C, "create_onednn_mm_handler")
        assert not hasattr(torch.ops._C, "init_shm_manager")  # its ranks would be threads
        """,
        VLLM_KERNELS_BACKEND="reference",
    )
    assert done.returncode == 0, done.stderr
    assert "PyTorch reference code, which is slow" in done.stderr


def test_stands_in_for_native_modules(engine: Engine) -> None:
    done = engine.run(
        f"""
        {ASK}
        import importlib.util
        import vllm._C, vllm._C_AVX2, vllm._C_AVX512
        print(importlib.util.find_spec("vllm._C").name)
        """
    )
    assert done.stdout.split() == [PLATFORM, "vllm._C"], done.stderr


def test_switched_off(engine: Engine) -> None:
    done = engine.run(
        f"""
        {ASK}
        import torch, sys
        print(hasattr(torch.ops._C, "rms_norm"), "vllm._C" in sys.modules)
        """,
        VLLM_KERNELS_PLUGIN="0",
    )
    assert done.stdout.split() == ["None", "False", "False"], done.stderr
    assert "VLLM_KERNELS_PLUGIN=0" in done.stderr


def test_engine_with_own_kernels_is_left_alone(engine: Engine) -> None:
    engine.write("vllm/_C.py", "raise AssertionError('must not be imported')")
    left = engine.run(ASK)
    assert left.stdout.split() == ["None"], left.stderr
    assert "brings kernels of its own (vllm._C)" in left.stderr
    forced = engine.run(ASK + "\nimport vllm._C", VLLM_KERNELS_PLUGIN="force")
    assert forced.stdout.split() == [PLATFORM], forced.stderr


BAD = [
    ("1.0.0", {}, "vLLM 1.0.0 is not supported: these kernels (vllm-kernels "),
    (ENGINE, {"VLLM_KERNELS_PLUGIN": "on"}, "VLLM_KERNELS_PLUGIN=on is not one of: auto, 0"),
    (ENGINE, {"VLLM_KERNELS_BACKEND": "x"}, "VLLM_KERNELS_BACKEND=x is not one of"),
    (ENGINE, {"VLLM_KERNELS_CPU_ISA": "sse2"}, "sse2"),
    (
        ENGINE,
        {"VLLM_KERNELS_LIBRARY_DIR": "/nowhere"},
        "libvllm_kernels_core.so is in none of",
    ),
]


@pytest.mark.parametrize(("version", "variables", "sentence"), BAD)
def test_refusal_is_the_engines_error(
    engine: Engine, version: str, variables: dict[str, str], sentence: str
) -> None:
    engine.version(version)
    done = engine.run(
        """
        from vllm_kernels_plugin import platform
        import importlib
        module, name = platform().rsplit(".", 1)
        platform()
        getattr(importlib.import_module(module), name)()
        """,
        **variables,
    )
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert sentence in done.stderr.splitlines()[-1]


def test_refusal_leaves_the_engines_own_platform(engine: Engine) -> None:
    engine.version("1.0.0")
    engine.write("vllm/platforms/__init__.py", "builtin_platform_plugins = {'cpu': lambda: 'x.Y'}")
    done = engine.run(ASK)
    assert done.stdout.split() == ["None"]
    assert "ERROR vllm_kernels cannot serve this engine: vLLM 1.0.0" in done.stderr


def test_other_packages_ops_are_not_overwritten(engine: Engine) -> None:
    done = engine.run(
        f"""
        import torch
        other = torch.library.Library("_C", "FRAGMENT")
        other.define("rms_norm(Tensor x) -> Tensor")
        {ASK}
        """
    )
    assert done.stdout.split() == ["vllm_kernels_plugin.refusal.Refusal"], done.stderr
    assert "another package has already defined torch.ops._C.rms_norm" in done.stderr


NO_COMPILER = {"CXX": "/nowhere/g++"}


def test_without_compiler_models_are_traced(engine: Engine) -> None:
    code = f"""
        {ASK}
        from vllm_kernels_plugin import compiler
        print(compiler.backend())
    """
    done = engine.run(code, **NO_COMPILER)
    assert done.stdout.split() == [PLATFORM, "eager"], done.stderr
    assert done.stderr.count("no C++ compiler (/nowhere/g++) was found") == 1
    kept = engine.run(code, CXX="true")
    assert kept.stdout.split() == [PLATFORM, "inductor"], kept.stderr
    assert "C++ compiler" not in kept.stderr


def test_without_compiler_functions_for_inductor_run_uncompiled(engine: Engine) -> None:
    done = engine.run(
        f"""
        {ASK}
        import torch
        print(torch.compile(lambda x: x + 1)(torch.ones(3)).tolist())
        """,
        **NO_COMPILER,
    )
    assert done.stdout.split("\n")[1] == "[2.0, 2.0, 2.0]", done.stderr
    assert "Traceback" not in done.stderr


def test_latent_attention_is_expanded_unless_asked(engine: Engine) -> None:
    code = f"{ASK}\nimport os; print(os.environ['VLLM_MLA_DISABLE'])"
    assert engine.run(code).stdout.split()[1] == "1"
    assert engine.run(code, VLLM_MLA_DISABLE="0").stdout.split()[1] == "0"
