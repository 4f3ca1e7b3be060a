"""Kernels for FP8 and other packed weights that the engine takes on CPUs without AMX."""

from __future__ import annotations

import subprocess

import pytest
from conftest import PLATFORMS, Engine

PLATFORM = """
import enum


class PlatformEnum(enum.Enum):
    CPU = enum.auto()
    CUDA = enum.auto()


class CpuArchEnum(enum.Enum):
    X86 = enum.auto()
    ARM = enum.auto()
    POWERPC = enum.auto()


class current_platform:
    @staticmethod
    def get_cpu_architecture():
        return CpuArchEnum.{architecture}
"""

LINEAR = """
from vllm.platforms import PlatformEnum


class Kernel:
    @classmethod
    def is_supported(cls, compute_capability=None):
        return False, "requires AMX"

    @classmethod
    def can_implement(cls, config):
        return cls.__mro__[1].__name__, config


class CPUFp8BlockScaledMMKernel(Kernel): ...
class CPUFp8PerTensorScaledMMLinearKernel(Kernel): ...
class PerTensorTorch(Kernel): ...
class Cutlass(Kernel): ...


_POSSIBLE_FP8_BLOCK_KERNELS = {
    PlatformEnum.CUDA: [Cutlass], PlatformEnum.CPU: [CPUFp8BlockScaledMMKernel],
}
"""
PER_TENSOR = """
_POSSIBLE_FP8_KERNELS = {
    PlatformEnum.CPU: [CPUFp8PerTensorScaledMMLinearKernel, PerTensorTorch],
}
"""

EXPERTS = """
class Experts:
    @staticmethod
    def _supports_current_device():
        return False


class CPUExpertsFp8(Experts): ...
class CPUExpertsMxfp4(Experts): ...
class ArmCPUExpertsInt8(Experts): ...
class CPUExpertsFp8W8A8(Experts): ...
"""
INTEGERS = "class CPUExpertsInt8(Experts): ...\nclass CPUExpertsInt4(Experts): ...\n"

LAYERS = "vllm/model_executor/layers/fused_moe/experts"


def served(
    engine: Engine, code: str, architecture: str = "X86", linear: str = "", experts: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` after `float8.serve`, twice, as in a process that makes two models."""
    engine.write(
        "vllm/platforms/__init__.py", PLATFORMS + PLATFORM.format(architecture=architecture)
    )
    engine.write("vllm/model_executor/__init__.py", "")
    engine.write("vllm/model_executor/kernels/__init__.py", "")
    engine.write("vllm/model_executor/kernels/linear/__init__.py", LINEAR + linear)
    for folder in ("layers", "layers/fused_moe", "layers/fused_moe/experts"):
        engine.write(f"vllm/model_executor/{folder}/__init__.py", "")
    engine.write(f"{LAYERS}/cpu_moe.py", EXPERTS + experts)
    done = engine.run(
        "from vllm_kernels_plugin import float8\n"
        "from vllm.model_executor.kernels import linear\n"
        "from vllm.model_executor.layers.fused_moe.experts import cpu_moe\n"
        "from vllm.platforms import PlatformEnum\n"
        "float8.serve(); float8.serve()\n" + code
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("architecture", ["X86", "ARM", "POWERPC"])
def test_linear_layers_on_every_cpu(engine: Engine, architecture: str) -> None:
    """Their kernels are asked all but for the tier; others, and other devices', are left alone."""
    done = served(
        engine,
        "for table in (linear._POSSIBLE_FP8_BLOCK_KERNELS, linear._POSSIBLE_FP8_KERNELS):\n"
        "    for one in table[PlatformEnum.CPU]:\n"
        "        print(one.__name__, one.is_supported(), one.can_implement('c'))\n"
        "print(linear._POSSIBLE_FP8_BLOCK_KERNELS[PlatformEnum.CUDA] == [linear.Cutlass])\n",
        architecture,
        linear=PER_TENSOR,
    )
    block, tensor = "CPUFp8BlockScaledMMKernel", "CPUFp8PerTensorScaledMMLinearKernel"
    assert done.stdout.splitlines() == [
        f"Kernels{block} (True, None) ('{block}', 'c')",
        f"Kernels{tensor} (True, None) ('{tensor}', 'c')",
        "PerTensorTorch (False, 'requires AMX') ('Kernel', 'c')",
        "True",
    ]


ASK = (
    "kinds = [one for one in vars(cpu_moe).values() if isinstance(one, type)]\n"
    "print(*sorted(one.__name__ for one in kinds if one._supports_current_device()))\n"
)


def test_experts_on_x86(engine: Engine) -> None:
    done = served(engine, ASK, experts=INTEGERS)
    kinds = ["CPUExpertsFp8", "CPUExpertsInt4", "CPUExpertsInt8", "CPUExpertsMxfp4"]
    assert done.stdout.split() == kinds


@pytest.mark.parametrize("architecture", ["ARM", "POWERPC"])
def test_experts_elsewhere_are_the_engines_choice(engine: Engine, architecture: str) -> None:
    done = served(engine, ASK, architecture, experts=INTEGERS)
    assert done.stdout.split() == []


def test_engines_without_some_of_the_kernels(engine: Engine) -> None:
    done = served(engine, ASK)
    assert done.stdout.split() == ["CPUExpertsFp8", "CPUExpertsMxfp4"]
