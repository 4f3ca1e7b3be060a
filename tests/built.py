"""Skips a test module where the kernels are not built. Where they are and do not load, it fails."""

from __future__ import annotations

import pytest


def require_kernels() -> None:
    """Import ``vllm_kernels``, or skip the calling module for want of PyTorch or of a build."""
    pytest.importorskip("torch", reason="vllm_kernels needs PyTorch")
    try:
        import vllm_kernels  # noqa: F401
    except ImportError as error:
        if "is in none of" not in str(error):
            raise
        pytest.skip(f"the kernels are not built: {error}", allow_module_level=True)
