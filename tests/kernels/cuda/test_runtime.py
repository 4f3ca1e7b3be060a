"""Views of memory: page-locked host memory on the GPU, tensors that do not keep their memory."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable

import pytest
import torch

from vllm_kernels.reference.runtime import cuda as reference

ops = torch.ops.vllm_kernels
DTYPES = (
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.float32,
    torch.int64,
    torch.float64,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_sees_what_the_cpu_writes(dtype: torch.dtype) -> None:
    host = torch.zeros(37, 5, dtype=dtype).pin_memory()
    view = ops.get_cuda_view_from_cpu_tensor(host)
    assert view.is_cuda
    assert view.shape == host.shape
    assert view.stride() == host.stride()
    assert view.dtype == dtype
    for value in (1, 0, 1):
        host.fill_(value)
        assert torch.equal(view.to(torch.float32).cpu(), torch.full((37, 5), float(value)))


def test_cpu_sees_what_the_gpu_writes() -> None:
    host = torch.zeros(1000, dtype=torch.int32).pin_memory()
    ops.get_cuda_view_from_cpu_tensor(host).copy_(torch.arange(1000, device="cuda"))
    torch.cuda.synchronize()
    assert torch.equal(host, torch.arange(1000, dtype=torch.int32))


def test_view_of_a_strided_part() -> None:
    host = torch.arange(60, dtype=torch.float32).reshape(6, 10).pin_memory()
    part = host[1::2, 3:8]
    view = ops.get_cuda_view_from_cpu_tensor(part)
    assert view.stride() == part.stride()
    assert torch.equal(view.cpu(), part)


def test_view_keeps_the_memory() -> None:
    view = ops.get_cuda_view_from_cpu_tensor(torch.full((1 << 16,), 7.0).pin_memory())
    gc.collect()
    for _ in range(8):  # would take the block if it were free
        torch.zeros(1 << 16).pin_memory()
    assert torch.all(view == 7)


def test_pageable_memory_is_copied() -> None:
    host = torch.arange(24, dtype=torch.float32).reshape(4, 6).t()
    view = ops.get_cuda_view_from_cpu_tensor(host)
    assert view.shape == host.shape
    assert torch.equal(view.cpu(), host)


def test_empty_tensor() -> None:
    view = ops.get_cuda_view_from_cpu_tensor(torch.empty(0, 3))
    assert view.is_cuda
    assert view.shape == (0, 3)


@pytest.mark.skipif(
    "PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ, reason="PyTorch counts no memory then"
)
def test_weak_reference_shares_memory_and_does_not_keep_it() -> None:
    source = torch.arange(1 << 20, dtype=torch.float32, device="cuda").view(1 << 10, -1)[:, ::2]
    weak = ops.weak_ref_tensor(source)
    assert weak.data_ptr() == source.data_ptr()
    assert weak.stride() == source.stride()
    assert torch.equal(weak, source)
    source.fill_(3)
    assert torch.all(weak == 3)
    before = torch.cuda.memory_allocated()
    del source
    assert torch.cuda.memory_allocated() < before


def test_wrong_device() -> None:
    with pytest.raises(
        (RuntimeError, NotImplementedError), match=r"cpu_tensor|backend|CPU tensors"
    ):
        ops.get_cuda_view_from_cpu_tensor(torch.zeros(3, device="cuda"))


@pytest.mark.no_gpu
def test_bad_arguments_of_the_c_abi(c_library: Callable[[str], ctypes.CDLL]) -> None:
    library = c_library("utilities")
    out = ctypes.c_void_p()
    assert library.vk_cuda_mapped_address(None, ctypes.byref(out)) != 0
    assert b"an address is null" in library.vk_last_error()
    data = ctypes.create_string_buffer(8)
    copy = library.vk_cuda_copy_to_mapped
    assert copy(data, ctypes.c_int64(0), ctypes.byref(out)) != 0
    assert b"0 bytes, want at least 1" in library.vk_last_error()
    assert copy(None, ctypes.c_int64(8), ctypes.byref(out)) != 0


@pytest.mark.parametrize("device", [-1, 0])
def test_device_attributes(device: int) -> None:
    properties = torch.cuda.get_device_properties(0)
    assert ops.get_device_attribute(75, device) == properties.major
    assert ops.get_device_attribute(76, device) == properties.minor
    assert ops.get_device_attribute(16, device) == properties.multi_processor_count
    shared = ops.get_max_shared_memory_per_block_device_attribute(device)
    assert shared == properties.shared_memory_per_block_optin
    assert shared == reference.get_max_shared_memory_per_block_device_attribute(device)
    assert reference.get_device_attribute(75, device) == properties.major


@pytest.mark.parametrize(
    ("attribute", "device", "message"),
    [(10**6, 0, "attribute 1000000 is none"), (-1, 0, "attribute"), (16, 99, "device_id is 99")],
)
def test_unknown_attributes_are_refused(attribute: int, device: int, message: str) -> None:
    for library in (ops, reference):
        with pytest.raises(RuntimeError, match=f"^get_device_attribute: {message}"):
            library.get_device_attribute(attribute, device)
    assert torch.ones(3, device="cuda").sum() == 3  # no error is left behind
