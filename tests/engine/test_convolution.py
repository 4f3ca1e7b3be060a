"""Convolutions of hybrid models that the engine leaves to PyTorch, on our kernels."""

from __future__ import annotations

import pytest
import torch
from conftest import Engine

from vllm_kernels_plugin import convolution

# What the engine has, with arguments that tell who was called.
THEIRS = """
import torch


def {prompt}(x, weight, bias, conv_states, query_start_loc, *rest, **more):
    return "upstream's"


def causal_conv1d_update_torch(x, conv_state, weight, bias=None, activation=None):
    return "upstream's"
"""
MODULE = "vllm/model_executor/layers/mamba/ops/cpu/causal_conv1d.py"


def upstream(*_: object, **__: object) -> torch.Tensor:
    raise AssertionError("upstream's function was called")


def causal(x: torch.Tensor, history: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """silu of the convolution of ``x`` [dim, tokens] behind ``history``, in float64."""
    both = torch.cat((history, x), -1).double()
    found = torch.nn.functional.conv1d(both[None], weight.double()[:, None], groups=len(weight))
    return torch.nn.functional.silu(found[0])


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_prompts(index: torch.dtype) -> None:
    """Two sequences, one with a history; the index types of different engines."""
    x, weight, states = torch.randn(24, 9), torch.randn(24, 4), torch.randn(5, 24, 3)
    before = states.clone()
    found = convolution.prompt(upstream)(
        x, weight, None, states, torch.tensor([0, 4, 9], dtype=index),
        torch.tensor([3, 1], dtype=index), torch.tensor([True, False]), activation="silu",
    )  # fmt: skip
    none = torch.zeros(24, 3)
    expected = torch.cat(
        (causal(x[:, :4], before[3], weight), causal(x[:, 4:], none, weight)), dim=1
    )
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(states[3], x[:, 1:4])
    assert torch.equal(states[1], x[:, 6:])
    assert torch.equal(states[[0, 2, 4]], before[[0, 2, 4]])


@pytest.mark.parametrize("tokens", [1, 2])
def test_next_tokens(tokens: int) -> None:
    x, weight, state = torch.randn(2, 24, tokens), torch.randn(24, 4), torch.randn(2, 24, 3)
    before = state.clone()
    found = convolution.next_tokens(upstream)(x, state, weight, None, "silu")
    assert found.shape == x.shape
    for row in range(2):
        expected = causal(x[row], before[row], weight)
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(state, torch.cat((before[:, :, tokens:], x), -1))


def test_what_the_kernels_do_not_compute_stays_with_the_engine() -> None:
    def theirs(*_: object, **__: object) -> torch.Tensor:
        return torch.zeros(1)

    x, weight, states = torch.randn(8, 3), torch.randn(8, 4), torch.randn(2, 8, 3)
    prompt, update = convolution.prompt(theirs), convolution.next_tokens(theirs)
    starts = torch.tensor([0, 3])
    assert prompt(x, weight, None, states.bfloat16(), starts).shape == (1,)
    assert prompt(x, weight, None, states, starts, activation="gelu").shape == (1,)
    wide = torch.randn(2, 8, 5)  # of drafted tokens
    assert update(torch.randn(2, 8, 1), wide, weight).shape == (1,)


@pytest.mark.parametrize("name", ["causal_conv1d_torch", "causal_conv1d_fn_cpu"])
def test_they_stand_where_the_engines_models_look(engine: Engine, name: str) -> None:
    engine.write(MODULE, THEIRS.format(prompt=name))
    done = engine.run(
        f"""
        import torch
        from vllm_kernels_plugin import convolution
        convolution.serve()
        convolution.serve()
        from vllm.model_executor.layers.mamba.ops.cpu.causal_conv1d import {name} as prompt
        from vllm.model_executor.layers.mamba.ops.cpu.causal_conv1d import (
            causal_conv1d_update_torch as update,
        )
        print(prompt.__module__, update.__module__)
        half = torch.zeros(2, 4, 3).half()
        print(prompt(torch.zeros(4, 3), torch.zeros(4, 4), None, half, None))
        """
    )
    assert done.stdout.splitlines() == [
        "vllm_kernels_plugin.convolution vllm_kernels_plugin.convolution",
        "upstream's",
    ], done.stderr
