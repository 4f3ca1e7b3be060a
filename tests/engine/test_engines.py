"""Engines of different versions: which are served, and ops whose arguments differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Engine

from vllm_kernels import engine_api
from vllm_kernels_plugin import adapt, engines
from vllm_kernels_plugin.errors import PluginError

OLDEST, NEWEST = (".".join(map(str, engines.releases()[at])) for at in (0, -1))
ASK = "from vllm_kernels_plugin import platform; print(platform())"
PLATFORM = "vllm_kernels_plugin.cpu.KernelsCpuPlatform"
MAJOR, LAST = engines.releases()[-1][:2]


@pytest.mark.parametrize(
    ("version", "served"),
    [
        (OLDEST, True),
        (NEWEST, True),
        (f"{engines.newest()}.9", True),
        (f"{engines.oldest()}.0rc1", True),
        (f"{engines.newest()}.1.dev3+gabc.cpu", True),
        ("0.25.1", False),
        (f"{MAJOR}.{LAST + 1}.0", False),
        ("1.0.0", False),
        ("unknown", False),
    ],
)
def test_versions_that_are_served(version: str, served: bool) -> None:
    assert engines.is_served(version) is served


def test_versions_between_releases_have_the_ops_of_their_minor_version() -> None:
    def metadata(version: str) -> str:
        return engines.ops(version, "cpu")["get_scheduler_metadata"][1]

    assert "kv_cache_dtype" not in metadata("0.26.9")
    # The table may know a later release of that minor version only.
    assert "kv_cache_dtype" in metadata("0.27.0")
    assert engines.ops("0.25.0", "cpu") == engines.ops(OLDEST, "cpu")
    assert engines.ops("9.0", "cpu") == engines.ops(NEWEST, "cpu")


def test_ops_come_and_go() -> None:
    assert "dsv3_router_gemm" in engines.ops("0.28.0", "cuda")
    assert "dsv3_router_gemm" not in engines.ops("0.29.0", "cuda")
    assert "greedy_argmax" not in engines.ops("0.31.0", "cpu")
    assert engines.ops("0.32.0", "cpu")["greedy_argmax"] == ("_C", "(Tensor logits) -> Tensor")


def test_an_engine_newer_than_the_table(engine: Engine) -> None:
    newer = f"{MAJOR}.{LAST + 1}.0"
    engine.version(newer)
    done = engine.run(ASK)
    assert f"ERROR vllm_kernels cannot serve this engine: vLLM {newer} is not supported" in (
        done.stderr
    )
    assert f"of vLLM {engines.oldest()} to {engines.newest()}; " in done.stderr
    assert "VLLM_KERNELS_ENGINE=any to try" in done.stderr
    tried = engine.run(ASK, VLLM_KERNELS_ENGINE="any")
    assert tried.stdout.split() == [PLATFORM], tried.stderr
    assert f"vLLM {newer} is served as the nearest" in tried.stderr


def test_an_older_engine_and_an_unknown_choice(engine: Engine) -> None:
    engine.version("0.25.1")
    done = engine.run(ASK)
    assert "install a newer engine" in done.stderr
    assert "=any" not in done.stderr
    done = engine.run(ASK, VLLM_KERNELS_ENGINE="all")
    assert "VLLM_KERNELS_ENGINE=all is not one of: known, any" in done.stderr


def test_the_installed_engines_schema_is_registered(engine: Engine) -> None:
    """With one more argument, through a function; the same arguments, without one."""
    engine.version(NEWEST)
    engine.write("vllm/_custom_ops.py", "")
    done = engine.run(
        f"""
        {ASK}
        import torch
        from vllm_kernels_plugin import serve
        ops = torch.ops._C
        print("kv_cache_dtype" in str(ops.get_scheduler_metadata.default._schema))
        print("g_idx" in str(ops.cpu_gemm_wna16.default._schema))
        arguments = (1, 4, 2, 64, torch.tensor([3], dtype=torch.int32), torch.float32,
                     torch.tensor([0, 3], dtype=torch.int32), True, -1, "vec", True, None)
        ours = torch.ops.vllm_kernels.get_scheduler_metadata(*arguments)
        theirs = ops.get_scheduler_metadata(*arguments, "fp8")
        assert theirs.shape == ours.shape and theirs.dtype == ours.dtype
        named = ops.get_scheduler_metadata(*arguments, kv_cache_dtype="auto")
        assert named.shape == ours.shape
        serve.register_fakes("cpu")
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv
        with FakeTensorMode(shape_env=ShapeEnv()) as mode:
            fake = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
            assert ops.get_scheduler_metadata(*fake, "auto").dtype == torch.int8
        fragment = serve.fragment("_C")
        print(sorted(k.split("/")[1] for k in fragment._op_impls if "/Meta" not in k))
        """
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == [PLATFORM, "True", "False"]
    assert lines[3] == "['cpu_gemm_wna16', 'get_scheduler_metadata']"


def theirs(name: str, device: str) -> torch.FunctionSchema:
    return adapt.schema(name, engines.ops(NEWEST, device)[name][1])


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What our function gets where the newest engine passes ``arguments``, by our names."""
    ours = engine_api.schema(name)
    found: dict[str, Any] = {}

    def function(*values: Any) -> None:
        names = [argument.name for argument in ours.arguments]
        found.update(zip(names, values, strict=True))

    schema = theirs(name, "cuda")
    values = [arguments.get(one.name, f"<{one.name}>") for one in schema.arguments]
    adapt.adapted(name, ours, schema, function)(*values)
    return found


def test_arguments_that_only_we_have_are_filled_in() -> None:
    found = call("marlin_gemm", {})
    assert (found["g_idx_or_none"], found["perm_or_none"], found["is_k_full"]) == (None, None, True)
    assert found["workspace"] == "<workspace>"
    assert found["is_zp_float"] == "<is_zp_float>"
    weights = torch.zeros(2, 4, dtype=torch.int32)
    found = call("gptq_shuffle", {"q_weight": weights, "bit": 4})
    assert found["q_perm"].shape == (0,)
    assert found["q_perm"].dtype == torch.int32
    assert found["bit"] == 4


def test_arguments_that_change_nothing_are_dropped() -> None:
    found = call("topk_softmax", {"is_padding": torch.ones(3, dtype=torch.bool)})
    assert "is_padding" not in found
    assert found["bias"] == "<bias>"


@pytest.mark.parametrize(
    ("name", "argument", "served", "refused"),
    [
        ("reshape_and_cache", "interleaved_v", False, True),
        ("concat_and_cache_mla", "skip_scale", False, True),
        ("topk_softplus_sqrt", "bias_vl", None, torch.zeros(1)),
    ],
)
def test_what_is_not_computed_is_refused(
    name: str, argument: str, served: object, refused: object
) -> None:
    call(name, {argument: served})
    with pytest.raises(NotImplementedError, match=f"{name}: {argument} is not served"):
        call(name, {argument: refused})


def test_defaults_that_the_dispatcher_leaves_out() -> None:
    ours = engine_api.schema("concat_and_cache_mla")
    schema = theirs("concat_and_cache_mla", "cuda")
    got: list[Any] = []
    function = adapt.adapted("concat_and_cache_mla", ours, schema, lambda *a: got.extend(a))
    function(1, 2, 3, 4, "auto", 6)
    assert got == [1, 2, 3, 4, "auto", 6]


@pytest.mark.parametrize("version", [OLDEST, "0.30.0", "0.31.0", NEWEST])
@pytest.mark.parametrize("alpha", [None, 1.702])
def test_experts_of_every_engine(version: str, alpha: float | None) -> None:
    """The output is passed or returned; what the engine does not name has the older meaning."""
    ours = engine_api.schema("fused_experts_cpu")
    schema = adapt.schema("fused_experts_cpu", engines.ops(version, "cpu")["fused_experts_cpu"][1])
    found: dict[str, Any] = {}

    def function(*values: Any) -> None:
        found.update(zip([one.name for one in ours.arguments], values, strict=True))

    hidden, out = torch.zeros(3, 8), torch.zeros(3, 8)
    passed = {
        "hidden_states": hidden,
        "out": out,
        "inplace": False,
        "alpha": alpha,
        "act_method": 2,
    }
    values = [passed.get(one.name, f"<{one.name}>") for one in schema.arguments]
    result = adapt.adapted("fused_experts_cpu", ours, schema, function)(*values)
    theirs = {one.name for one in schema.arguments}
    if "out" in theirs:
        assert result is None
        assert found["out"] is out
    else:
        assert result is found["out"]
        assert result is not hidden
        assert (result.shape, result.dtype) == (hidden.shape, hidden.dtype)
    assert found["act_method"] == (2 if "act_method" in theirs else int(alpha is not None))
    assert found["a1_scale"] == ("<a1_scale>" if "a1_scale" in theirs else None)
    same = theirs - {"out", "inplace", "act_method", "a1_scale"}
    assert {word: found[word] for word in same} == {
        word: passed.get(word, f"<{word}>") for word in same
    }


def test_experts_in_place_are_refused() -> None:
    ours = engine_api.schema("fused_experts_cpu")
    schema = adapt.schema("fused_experts_cpu", engines.ops(OLDEST, "cpu")["fused_experts_cpu"][1])
    values = [one.name == "inplace" for one in schema.arguments]
    with pytest.raises(NotImplementedError, match="fused_experts_cpu: inplace is not served"):
        adapt.adapted("fused_experts_cpu", ours, schema, print)(*values)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_packed_products_return_or_fill_their_result(version: str) -> None:
    ours = engine_api.schema("weight_packed_linear")
    schema = adapt.schema(
        "weight_packed_linear", engines.ops(version, "cpu")["weight_packed_linear"][1]
    )
    mat1, mat2 = torch.ones(3, 8, dtype=torch.bfloat16), torch.ones(5, 8, dtype=torch.bfloat16)
    out = torch.empty(3, 5, dtype=torch.bfloat16)
    names = [one.name for one in schema.arguments]
    values = {"out": out, "mat1": mat1, "mat2": mat2, "bias": None, "is_vnni": True}

    def function(to: torch.Tensor, a: object, b: object, bias: object, packed: object) -> None:
        assert (a is mat1, b is mat2, bias, packed) == (True, True, None, True)
        to.fill_(7)

    call = adapt.adapted("weight_packed_linear", ours, schema, function)
    result = call(*(values[name] for name in names))
    if "out" in names:
        assert result is None
    else:
        out = result
    assert torch.equal(out, torch.full((3, 5), 7, dtype=torch.bfloat16))


def test_an_argument_without_a_rule() -> None:
    ours = engine_api.schema("relu_squared")
    other = adapt.schema("relu_squared", "(Tensor! out, Tensor input, float limit) -> ()")
    with pytest.raises(PluginError, match=r"relu_squared with other arguments .*\(limit\)"):
        adapt.adapted("relu_squared", ours, other, print)


STAND_IN = """
def _compute_slot_mapping_kernel_impl(
    num_tokens, max_num_tokens, query_start_loc, positions, block_table, block_table_stride,
    {block_size}slot_mapping, KV_CACHE_BLOCK_SIZE=None, TOTAL_CP_WORLD_SIZE=1,
):
    print("upstream's")
"""


@pytest.mark.parametrize(
    ("block_size", "arguments", "printed"),
    [
        # 0.32: the kernel's arguments, by place, reach a stand-in that wants one more.
        ("block_size, ", "slots, 4, 1", "[8, 9, 5]"),
        # Before: the stand-in's own arguments.
        ("block_size, ", "4, slots", "upstream's"),
        # After: the stand-in has the kernel's arguments.
        ("", "slots, 4, 1", "upstream's"),
    ],
)
def test_slots_by_a_kernel_whose_stand_in_is_behind(
    engine: Engine, block_size: str, arguments: str, printed: str
) -> None:
    engine.write("vllm/platforms/cpu.py", "class CpuPlatform: pass")
    engine.write("vllm/utils/__init__.py", "")
    engine.write("vllm/utils/cpu_triton_utils.py", STAND_IN.format(block_size=block_size))
    done = engine.run(
        f"""
        {ASK}
        import torch
        from vllm.utils import cpu_triton_utils
        from vllm_kernels_plugin import cpu
        cpu._repair_slot_mapping()
        slots = torch.zeros(3, dtype=torch.int64)
        starts = torch.tensor([0, 2, 3], dtype=torch.int32)
        table = torch.tensor([[2], [1]], dtype=torch.int32)
        positions = torch.tensor([0, 1, 1])
        cpu_triton_utils._compute_slot_mapping_kernel_impl(
            3, 3, starts, positions, table, 1, {arguments}
        )
        if slots.any():
            print(slots.tolist())
        """
    )
    assert done.stdout.splitlines()[1:] == [printed], done.stderr
