"""Runs in the installed package: the CPU library is found, loads and computes."""

import torch
import vllm_kernels

x = torch.randn(5, 4096, dtype=torch.bfloat16)
weight = torch.randn(4096, dtype=torch.bfloat16)
out = torch.empty_like(x)
torch.ops.vllm_kernels.rms_norm(out, x, weight, 1e-6)
wide = x.float()
expected = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.float()
torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=2e-2)
print("vllm_kernels", vllm_kernels.__version__, "torch", torch.__version__)
