"""Tensors that share memory in ways that PyTorch itself has no function for; a GPU's attributes."""

from __future__ import annotations

import ctypes

import torch

# Of the CUDA array interface, by element size: torch has more types than the interface.
_INTEGERS = {1: ("|u1", torch.uint8), 2: ("<i2", torch.int16), 4: ("<i4", torch.int32)}
_INTEGERS |= {8: ("<i8", torch.int64)}


class _HostMemory:
    """Page-locked host memory, offered as GPU memory: unified addressing makes both one address."""

    def __init__(self, tensor: torch.Tensor, typestr: str) -> None:
        self.kept = tensor
        self.__cuda_array_interface__ = {
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * tensor.element_size() for stride in tensor.stride()),
            "typestr": typestr,
            "data": (tensor.data_ptr(), False),
            "version": 2,
        }


def get_cuda_view_from_cpu_tensor(cpu_tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a page-locked tensor as the current GPU sees it, with its shape and dtype.

    A tensor in pageable memory is copied first. RuntimeError without a GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("get_cuda_view_from_cpu_tensor: this process has no usable GPU")
    if cpu_tensor.device.type != "cpu":
        raise RuntimeError("get_cuda_view_from_cpu_tensor: cpu_tensor is not on the CPU")
    if cpu_tensor.numel() == 0:
        return torch.empty(cpu_tensor.shape, dtype=cpu_tensor.dtype, device="cuda")
    pinned = cpu_tensor if cpu_tensor.is_pinned() else cpu_tensor.contiguous().pin_memory()
    typestr, dtype = _INTEGERS[pinned.element_size()]
    view = torch.as_tensor(_HostMemory(pinned.view(dtype), typestr), device="cuda")
    return view.view(pinned.dtype)


def weak_ref_tensor(input: torch.Tensor) -> torch.Tensor:
    """``input``'s memory under another tensor, which the reference keeps alive.

    The kernel's does not: the caller is trusted to use it only while ``input`` lives.
    """
    return input.detach()


# cudaDevAttrMaxSharedMemoryPerBlockOptin
_SHARED_MEMORY = 97


def get_device_attribute(attribute: int, device_id: int) -> int:
    """An attribute (a number of ``cudaDeviceAttr``) of a GPU; ``device_id`` < 0: the current one.

    RuntimeError without a GPU, and for an attribute or a device that is not there.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("get_device_attribute: this process has no usable GPU")
    torch.cuda.init()
    device = torch.cuda.current_device() if device_id < 0 else device_id
    if device >= torch.cuda.device_count():
        raise RuntimeError(
            f"get_device_attribute: device_id is {device}, want less than "
            f"{torch.cuda.device_count()}"
        )
    # The driver numbers attributes as the run time does.
    driver, handle, value = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
    failed = driver.cuDeviceGet(ctypes.byref(handle), device) or driver.cuDeviceGetAttribute(
        ctypes.byref(value), ctypes.c_int(attribute), handle
    )
    if failed:
        raise RuntimeError(
            f"get_device_attribute: attribute {attribute} is none that CUDA knows (error {failed})"
        )
    return value.value


def get_max_shared_memory_per_block_device_attribute(device_id: int) -> int:
    """Bytes of shared memory that a block can opt in to; ``device_id`` < 0: the current GPU."""
    return get_device_attribute(_SHARED_MEMORY, device_id)
