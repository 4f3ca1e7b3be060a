"""Says what the engine's environment is: `python facts.py FILE --device cuda`.

Runs in the engine's environment. Writes versions of what a result depends on, the device's name
and how many GPUs there are.
"""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path

import program
import torch

import vllm_kernels

PACKAGES = ("torch", "transformers", "triton")


def version(package: str) -> str:
    """Its version; empty where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def name(device: str) -> str:
    """What a result was found on: the GPU's name, or the tier of the CPU's kernels."""
    if device == "cpu":
        return f"CPU, tier {vllm_kernels.cpu_isa()}"
    return torch.cuda.get_device_name()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    found = {one: version(one) for one in PACKAGES} | {"vllm_kernels": vllm_kernels.__version__}
    facts = {
        "engine": version("vllm"),
        "name": name(options.device),
        "gpus": torch.cuda.device_count() if options.device == "cuda" else 0,
        "versions": {package: number for package, number in found.items() if number},
    }
    program.write(options.result, facts)


if __name__ == "__main__":
    main()
