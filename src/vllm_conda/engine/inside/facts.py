"""Says what the engine's environment is: `python facts.py FILE --device cuda`.

Runs in the engine's environment. Writes versions of what a result depends on, which build of the
kernels it is, the device's name and how many GPUs there are.
"""

from __future__ import annotations

import argparse
import hashlib
from importlib import metadata
from pathlib import Path

import program
import torch

import vllm_kernels
from vllm_kernels import engine_api

HOPPER = (9, 0)
PACKAGES = ("torch", "torchvision", "transformers", "triton")


def version(package: str) -> str:
    """Its version; empty where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def name(device: str) -> str:
    """What a result was found on: the tier of CPU kernels, or the GPU and what it lacks."""
    if device == "cpu":
        return f"CPU, tier {vllm_kernels.cpu_isa()}"
    found = torch.cuda.get_device_name()
    lacks = absent() if torch.cuda.get_device_capability() == HOPPER else []
    return f"{found} without {' and '.join(lacks)}" if lacks else found


def absent() -> list[str]:
    """The optional packages with code for Hopper that change what the engine runs on."""
    from vllm_kernels_plugin import deep_gemm, flash_mla

    return [one.PACKAGE for one in (flash_mla, deep_gemm) if one.problem() is not None]


def smallest() -> float:
    """GiB of the GPU that has least."""
    gpus = range(torch.cuda.device_count())
    return min(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus) / 2**30


def build() -> str:
    """A digest of the native libraries, whose version stays the same from build to build."""
    core = engine_api.find_library(engine_api.CORE_LIBRARY)
    digest = hashlib.sha256()
    for path in sorted(core.parent.glob("lib*.so")) if core else ():
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    found = {one: version(one) for one in PACKAGES} | {"vllm_kernels": vllm_kernels.__version__}
    facts = {
        "engine": version("vllm"),
        "build": build(),
        "name": name(options.device),
        "gpus": torch.cuda.device_count() if options.device == "cuda" else 0,
        "gib": smallest() if options.device == "cuda" else 0,
        "versions": {package: number for package, number in found.items() if number},
    }
    program.write(options.result, facts)


if __name__ == "__main__":
    main()
