"""Every op of the namespace has the schema of the table, a fake, a reference and a kernel."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from built import require_kernels

require_kernels()

import torch

from vllm_kernels import _fake, _ops, backends, reference, selftest
from vllm_kernels._selftest_checks import CHECKS, Check

ROOT = Path(__file__).parents[3]
ops = torch.ops.vllm_kernels
needs_cpu = pytest.mark.skipif("cpu" not in backends(), reason="vllm-kernels-cpu is not built here")


def test_registered_ops_are_those_of_the_table() -> None:
    table = (ROOT / "csrc/torch/ops.def").read_text()
    assert _ops.names() == sorted(re.findall(r"^VK_\w*OP\(\w+, \w+, (\w+),", table, re.M))


@pytest.mark.parametrize("name", _ops.names())
def test_op_has_a_fake(name: str) -> None:
    assert _fake.fake_of(name) is not None, f"write a fake of {name} in src/vllm_kernels/_fake.py"
    entry = torch._library.simple_registry.singleton.find(f"vllm_kernels::{name}")
    assert entry.fake_impl.kernel is not None


@pytest.mark.parametrize("name", _ops.names())
def test_op_has_a_reference_with_its_arguments(name: str) -> None:
    function = reference.implementations([name]).get(name)
    assert function is not None, (
        f"write {name} in src/vllm_kernels/reference, in its family's module"
    )
    schema = [argument.name for argument in _ops.schema(name).arguments]
    assert list(inspect.signature(function).parameters) == schema


@needs_cpu
@pytest.mark.parametrize("name", _ops.names())
def test_op_has_a_kernel(name: str) -> None:
    assert set(_ops.kernel_keys(name)) & {"CPU", "CompositeExplicitAutograd"}


def test_every_op_is_called_by_the_self_test() -> None:
    assert list(selftest._uncovered()) == []


@needs_cpu
def test_self_test_passes() -> None:
    outcome = selftest.run()
    assert outcome.failures == []
    assert outcome.comparisons >= len(CHECKS) * len(outcome.tiers)


def test_self_test_sees_a_wrong_result() -> None:
    good = torch.ones(4)
    assert selftest.difference(good, good.clone()) is None
    bad = torch.tensor([1.0, 1.1, 1.0, float("nan")])
    assert "differs in 2 of 4 elements" in str(selftest.difference(bad, good))
    assert "is torch.float16 [4]" in str(selftest.difference(good.half(), good))


def test_self_test_says_which_op_failed() -> None:
    def fails(provider: object, dtype: torch.dtype) -> list[torch.Tensor]:
        raise RuntimeError("rms_norm: weight is int8\nmore")

    check = Check(("rms_norm",), fails)
    said = list(selftest.compare(check, torch.float32, []))
    assert said == ["rms_norm, float32: failed: rms_norm: weight is int8"]


def _in_graphs(name: str) -> bool:
    """Not the ops that are asked or told about the host, nor those that make native objects.

    Nor the one whose every call leaves a message that somebody has to take.
    """
    if name == "shm_send_tensor_list":
        return False
    schema = _ops.schema(name)
    return any("Tensor" in str(argument.type) for argument in schema.arguments) and all(
        "Tensor" in str(value.type) for value in schema.returns
    )


def _utilities(values: list[object]) -> tuple[str, ...]:
    """What opcheck looks at; the schema's check does arithmetic that PyTorch lacks for float8."""
    tensors = [x for x in values if isinstance(x, torch.Tensor)]
    small = any(x.dtype == torch.float8_e4m3fn for x in tensors)
    every = (
        "test_schema",
        "test_autograd_registration",
        "test_faketensor",
        "test_aot_dispatch_dynamic",
    )
    return every[small:]


class _Opcheck:
    """Passes every op call of a self-test check through torch.library.opcheck."""

    def __init__(self) -> None:
        self.checked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        op = getattr(ops, name).default

        def call(*args: object) -> object:
            if _in_graphs(name):
                copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in args]
                torch.library.opcheck(op, tuple(copies), test_utils=_utilities(copies))
                self.checked.append(name)
            return op(*args)

        return call


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.ops[-1])
def test_opcheck(check: Check) -> None:
    """Schema, aliasing, fake tensors and ahead-of-time dispatch agree with the kernel."""
    provider = _Opcheck()
    check.run(provider, check.dtypes[-1])
    assert set(provider.checked) == set(filter(_in_graphs, check.ops))


def test_compiles_to_one_graph() -> None:
    """torch.compile(fullgraph=True) takes ops of several families, and computes the same."""

    def layer(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        ops.fused_add_rms_norm(x, residual, weight, 1e-6)
        wide = x @ gate
        out = torch.empty(wide.shape[0], wide.shape[1] // 2)
        ops.silu_and_mul(out, wide)
        return out + residual

    torch.manual_seed(0)
    inputs = torch.randn(5, 32), torch.randn(5, 32), torch.randn(32), torch.randn(32, 64)
    expected = layer(*(tensor.clone() for tensor in inputs))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*(tensor.clone() for tensor in inputs)), expected)


def test_host_questions_are_answered_under_fake_tensors() -> None:
    from torch._subclasses import FakeTensorMode

    expected = ops.is_onednn_acl_supported()
    with FakeTensorMode():
        assert ops.is_onednn_acl_supported() is expected
