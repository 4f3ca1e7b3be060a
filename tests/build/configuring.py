"""What the tests of CMake's configuring have in common."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

NEEDS_CMAKE = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("ninja") is None,
    reason="needs cmake and ninja on PATH (./run test puts them there)",
)
# Just enough of PyTorch to configure against.
TORCH = {
    "include/torch/csrc/stable/library.h": "",
    "include/torch/headeronly/version.h": (
        "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n"
    ),
    "lib/libtorch.so": "",
}


def make_prefix(folder: Path, files: Mapping[str, str]) -> Path:
    """A prefix with :data:`TORCH` and ``files``, texts by path."""
    for name, text in {**TORCH, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def message_of(result: subprocess.CompletedProcess[str]) -> str:
    """What CMake says, without line breaks."""
    return " ".join(f"{result.stdout}{result.stderr}".split())
