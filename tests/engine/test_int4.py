"""When the engine rounds the activations of layers with 4-bit weights to int8."""

from __future__ import annotations

import pytest
from conftest import Engine

KERNELS = "vllm/model_executor/kernels/linear/mixed_precision"
KERNEL = """
import torch


class CPUWNA16LinearKernel:
    fails = False

    def process_weights_after_loading(self, layer):
        if self.fails:
            raise ValueError("no such weights")
        layer.use_w4a8 = torch.cpu._is_amx_tile_supported()
"""
ASK = """
import types, torch
torch.cpu._is_amx_tile_supported = answer = lambda: False
from vllm_kernels_plugin import int4
int4.serve(); int4.serve()
from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel as Kernel
layer = types.SimpleNamespace()
Kernel().process_weights_after_loading(layer)
print(layer.use_w4a8, torch.cpu._is_amx_tile_supported is answer)
Kernel.fails = True
try:
    Kernel().process_weights_after_loading(layer)
except ValueError as error:
    print(error, torch.cpu._is_amx_tile_supported is answer)
"""


@pytest.mark.parametrize(("value", "rounds"), [("1", True), ("0", False), ("", False)])
def test_a_user_who_asks_gets_it_on_every_cpu(engine: Engine, value: str, rounds: bool) -> None:
    parts = KERNELS.split("/")
    for depth in range(2, len(parts) + 1):
        engine.write("/".join((*parts[:depth], "__init__.py")), "")
    engine.write(f"{KERNELS}/cpu.py", KERNEL)
    done = engine.run(ASK, VLLM_CPU_INT4_W4A8=value)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{rounds} True", "no such weights True"]
