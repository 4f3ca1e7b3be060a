"""Runs in the installed package: schemas, reference implementations, fakes."""

import torch

import vllm_kernels

x = torch.randn(3, 128)
out = torch.empty(3, 64)
torch.ops.vllm_kernels.silu_and_mul(out, x)
expected = torch.nn.functional.silu(x[:, :64]) * x[:, 64:]
torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)

# A fake implementation is what torch.compile traces with.
meta = torch.empty(3, 64, device="meta")
torch.ops.vllm_kernels.silu_and_mul(meta, torch.empty(3, 128, device="meta"))
print("vllm_kernels", vllm_kernels.__version__, "backends", vllm_kernels.backends())
