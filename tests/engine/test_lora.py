"""Batches in which some requests have an adapter and others have none."""

from __future__ import annotations

import pytest
from conftest import Engine

# As in 0.26: a token without an adapter has the index -1.
OPS = """
def bgmv_shrink(inputs, weights, output, indices, scaling=1.0):
    output[:] += scaling * torch.einsum("bi,boi->bo", inputs, weights[indices])
"""
# As in 0.33.
MENDED = """
def bgmv_shrink(inputs, weights, output, indices, scaling=1.0):
    sums = torch.einsum("bi,boi->bo", inputs, weights[indices.clamp(min=0)])
    output[:] += scaling * sums.masked_fill((indices == -1).unsqueeze(1), 0)
"""
WRAPPER = """
import torch
from vllm.lora.ops.torch_ops import bgmv_shrink


class PunicaWrapperCPU:
    def __init__(self, indices):
        self.token_lora_indices = self.sampler_indices = torch.tensor(indices)

    def _apply_shrink(self, y, x, w_t_all, scale):
        bgmv_shrink(x, w_t_all, y, self.token_lora_indices, scale)

    def add_lora_embedding(self, y, x, lora_b_stacked, add_inputs=True, **kwargs):
        bgmv_shrink(x, lora_b_stacked, y, self.token_lora_indices)

    def add_lora_logits(self, y, x, lora_a_stacked, lora_b_stacked, scale, *, buffer=None):
        bgmv_shrink(x, lora_a_stacked, y, self.sampler_indices, scale)
"""


@pytest.fixture
def adapters(engine: Engine) -> Engine:
    engine.write("vllm/lora/ops/torch_ops/__init__.py", "import torch\n" + OPS)
    engine.write("vllm/lora/punica_wrapper/punica_cpu.py", WRAPPER)
    return engine


def test_requests_without_an_adapter_keep_the_models_weights(adapters: Engine) -> None:
    done = adapters.run(
        """
        import torch
        from vllm_kernels_plugin import lora
        assert lora.wanted()
        wrapper = lora.KeepsBaseWeights([0, -1, 1, -1])
        x, weights = torch.ones(4, 3), torch.tensor([1.0, 10.0]).view(2, 1, 1).expand(2, 2, 3)
        for padding in (0, 2):
            sums = torch.zeros(4 + padding, 2)
            wrapper._apply_shrink(sums[:4], x, weights, 2.0)
            assert sums[:4].tolist() == [[6, 6], [0, 0], [60, 60], [0, 0]]
        out = torch.ones(4, 2)
        wrapper.add_lora_embedding(out, x, weights, add_inputs=True)
        assert out.tolist() == [[4, 4], [1, 1], [31, 31], [1, 1]]
        out = torch.ones(4, 2)
        wrapper.add_lora_logits(out, x, weights, weights, 1.0)
        assert out.tolist() == [[4, 4], [1, 1], [31, 31], [1, 1]]
        assert x.eq(1).all()
        """
    )
    assert done.returncode == 0, done.stderr


def test_an_engine_that_leaves_them_out_itself_keeps_its_own(adapters: Engine) -> None:
    adapters.write("vllm/lora/ops/torch_ops/__init__.py", "import torch\n" + MENDED)
    done = adapters.run("from vllm_kernels_plugin import lora; print(lora.wanted())")
    assert done.stdout.strip() == "False", done.stderr
