"""Tests of the CUDA kernels, and of those for AMD GPUs, which PyTorch calls CUDA too.

They need a GPU, but for those marked ``no_gpu``.

On a GPU host, with the libraries of a build tree::

    VLLM_KERNELS_LIBRARY_DIR=build/cuda/lib PYTHONPATH=src python -m pytest tests/kernels/cuda
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import pytest
import torch

import vllm_kernels  # noqa: F401  registers the ops
from vllm_kernels import engine_api

# Streams that stand for ranks must not share a hardware queue, or a rank waits behind
# the one that waits for it. Read when CUDA starts; 8 without it (CUDA's programming guide, "CUDA
# Environment Variables").
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

COMMAND = (
    "VLLM_KERNELS_LIBRARY_DIR=BUILD/lib PYTHONPATH=src python -m pytest tests/kernels/cuda "
    "on a host with a GPU and a CUDA build of PyTorch"
)


def _no_gpu() -> str | None:
    """Why CUDA kernels cannot run here, or None where they can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this PyTorch ({torch.__version__}) was built without CUDA; run {COMMAND}"
    if not torch.cuda.is_available():
        return f"no usable GPU: the driver finds none; run {COMMAND}"
    return None


NO_GPU = _no_gpu()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "no_gpu: a test of a CUDA library that needs no GPU")
    config.addinivalue_line(
        "markers", "meets: kernels that wait for each other, so tools that run one at a time hang"
    )


@pytest.fixture(autouse=True)
def _gpu(request: pytest.FixtureRequest) -> None:
    if NO_GPU and request.node.get_closest_marker("no_gpu") is None:
        pytest.skip(NO_GPU)


@pytest.fixture(scope="session")
def c_library() -> Callable[[str], ctypes.CDLL]:
    """Function from a family to its library by ctypes; skips where the family is not built."""

    def load(family: str) -> ctypes.CDLL:
        hip = torch.version.hip is not None
        name = (engine_api.rocm_library if hip else engine_api.cuda_library)(family)
        path = engine_api.find_library(name)
        if path is None:
            pytest.skip(f"lib{name}.so is in none of the library folders: this build lacks it")
        library = ctypes.CDLL(str(path))
        library.vk_last_error.restype = ctypes.c_char_p
        return library

    return load


@pytest.fixture
def device() -> torch.device:
    """The GPU that the tests run on."""
    return torch.device("cuda", torch.cuda.current_device())
