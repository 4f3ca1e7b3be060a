"""Runs in the installed package: the CPU library loads, serves the ops and computes."""

import torch

import vllm_kernels
from vllm_kernels.selftest import main

if "cpu" not in vllm_kernels.backends():
    raise SystemExit(f"the CPU library is not in use: {vllm_kernels.backends()}")

x = torch.randn(5, 4096, dtype=torch.bfloat16)
weight = torch.randn(4096, dtype=torch.bfloat16)
out = torch.empty_like(x)
torch.ops.vllm_kernels.rms_norm(out, x, weight, 1e-6)
wide = x.float()
expected = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.float()
torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=2e-2)

# Every op against its reference, on every tier that this CPU runs.
raise SystemExit(main([]))
