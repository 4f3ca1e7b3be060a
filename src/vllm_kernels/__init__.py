"""vLLM's kernels behind ``torch.ops.vllm_kernels``."""

from __future__ import annotations

from vllm_kernels._libraries import load_ops

__version__ = "0.26.0"

load_ops("vllm_kernels_ops")
load_ops("vllm_kernels_cpu_torch")
