"""Written by `vllm-conda generate`."""
