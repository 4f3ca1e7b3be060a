"""Runs in the installed package on a host with an AMD GPU: every library loads and serves.

The GPU tests themselves (tests/kernels/cuda) follow it in the same package.
"""

import ctypes

import torch

import vllm_kernels
from vllm_kernels import engine_api

status = engine_api.rocm_status()
if status.build is None:
    raise SystemExit("rocm.json is in none of the library folders")
for family in status.build.families.values():
    path = engine_api.find_library(family.library)
    if path is None:
        raise SystemExit(f"lib{family.library}.so is missing")
    # All symbols now: a lazily bound one would fail at its first call.
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL | 2)
    library.vk_abi_version.restype = ctypes.c_int32
    if library.vk_abi_version() != engine_api.abi_version():
        raise SystemExit(f"{path} and vllm-core speak two versions of the kernels' C ABI")
    print(f"{family.name}: {' '.join(status.build.targets)}")

if "rocm" not in vllm_kernels.backends():
    raise SystemExit(f"the kernels for AMD GPUs are not in use: {status.unusable}")
for index in range(torch.cuda.device_count()):
    print(f"GPU {index}: {torch.cuda.get_device_name(index)}")
print(f"{status.build.state} before: {status.build.request}")
