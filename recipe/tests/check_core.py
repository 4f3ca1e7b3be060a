"""Runs in the installed package: imports, op schemas, reference implementations."""

import torch
import vllm_kernels

x = torch.randn(3, 64)
weight = torch.randn(64)
out = torch.empty_like(x)
torch.ops.vllm_kernels.rms_norm(out, x, weight, 1e-6)
expected = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
print("vllm_kernels", vllm_kernels.__version__, "torch", torch.__version__)
