"""What stands for an engine's products of 8-bit numbers in the engine's test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import linear


class Experts(torch.nn.Module):
    """As transformers keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.randn(3, 256, 128) / 11)
        self.down_proj = torch.nn.Parameter(torch.randn(3, 128, 128) / 11)
        self.act_fn = torch.nn.functional.silu


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(3)
    layer = torch.nn.ModuleDict(
        {"proj": torch.nn.Linear(128, 64, bias=False), "norm": torch.nn.LayerNorm(128),
         "experts": Experts()}
    )  # fmt: skip
    return torch.nn.ModuleDict(
        {"model": torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer])}),
         "lm_head": torch.nn.Linear(128, 8)}
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_weights_of_products_keep_float32_and_the_rest_does_not(
    inside: Callable[[str], Any], model: Any, kind: str
) -> None:
    inside("products").make_exact(model, kind, torch.bfloat16)
    layer = model["model"]["layers"][0]
    kept = {layer["proj"].weight, layer["experts"].gate_up_proj, layer["experts"].down_proj}
    assert {p for p in model.parameters() if p.dtype == torch.float32} == kept
    x = torch.randn(5, 128).to(torch.bfloat16)
    rounded = inside("quantise").rounding(kind)
    found = layer["proj"](x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, linear(rounded(x.float()), layer["proj"].weight).to(torch.bfloat16))


def test_experts_round_what_enters_both_products(inside: Callable[[str], Any], model: Any) -> None:
    inside("products").make_exact(model, "float8", torch.float32)
    experts = model["model"]["layers"][0]["experts"]
    rounded = inside("quantise").rounding("float8")
    x = torch.randn(6, 128)
    chosen = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0], [2, 1]])
    shares = torch.rand(6, 2)
    found = experts(x, chosen, shares)
    for token in range(6):
        expected = torch.zeros(128)
        for expert, share in zip(chosen[token].tolist(), shares[token], strict=True):
            both = linear(rounded(x[token : token + 1]), experts.gate_up_proj[expert])
            gate, up = both.chunk(2, dim=-1)
            inner = rounded(torch.nn.functional.silu(gate) * up)
            expected += share * linear(inner, experts.down_proj[expert])[0]
        torch.testing.assert_close(found[token], expected, rtol=1e-5, atol=1e-5)


def test_experts_alone_leave_other_products_plain(inside: Callable[[str], Any], model: Any) -> None:
    """As of 4-bit weights on a CPU, whose experts alone are multiplied by 8-bit activations."""
    inside("products").make_exact(model, "int8", torch.bfloat16, experts_alone=True)
    layer = model["model"]["layers"][0]
    kept = {layer["experts"].gate_up_proj, layer["experts"].down_proj}
    assert {p for p in model.parameters() if p.dtype == torch.float32} == kept
    x = torch.randn(5, 128).to(torch.bfloat16)
    assert torch.equal(layer["proj"](x), linear(x, layer["proj"].weight))
    quantise = inside("quantise")
    found = {device: quantise.rounded_in_experts("awq", device) for device in ("cpu", "cuda")}
    assert found == {"cpu": "int8", "cuda": ""}
    assert not quantise.rounded_in_experts("", "cpu")


def test_routers_keep_their_weights_and_are_listed(inside: Callable[[str], Any]) -> None:
    quantise = inside("quantise")
    weights = {
        "model.layers.0.mlp.gate.weight": torch.randn(8, 256),
        "model.layers.0.mlp.experts.0.up_proj.weight": torch.randn(128, 256),
        "model.layers.0.input_layernorm.weight": torch.randn(256),
    }
    scheme = quantise.SCHEMES["fp8"]
    stored, plain = quantise.quantise(scheme, weights)
    assert stored["model.layers.0.mlp.experts.0.up_proj.weight"].dtype == torch.float8_e4m3fn
    assert plain.keys() == weights.keys()
    kept = ["model.layers.0.mlp.gate"]
    assert quantise.configuration(scheme, weights)["modules_to_not_convert"] == kept
    compressed = quantise.configuration(quantise.SCHEMES["w8a8"], weights)
    assert compressed["ignore"] == ["lm_head", *kept]
    assert "modules_to_not_convert" not in quantise.configuration(scheme, {})
    gate = "model.layers.0.mlp.gate.weight"
    assert torch.equal(stored[gate], weights[gate])
    assert torch.equal(plain[gate], weights[gate])
