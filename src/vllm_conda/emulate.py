"""Packages of another platform, installed here and run by qemu-user.

qemu and the cross compilers come from the platform's toolchain channel; nothing of them is expected
on the machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vllm_conda import platforms
from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.workspace import Workspace
from vllm_conda.environment import ensure_environment, run_in
from vllm_conda.errors import BuildFailure, ConfigError
from vllm_conda.microarch import level_cpu
from vllm_conda.packages import CPU, of_device
from vllm_conda.processes import run
from vllm_conda.progress import Reporter
from vllm_conda.solve import virtual_packages
from vllm_conda.targets import Targets
from vllm_conda.toolchain import Root

INSTALLED = of_device(CPU)
# Fewer than the machine may have, because emulated threads cost several times as much.
THREADS = 2


@dataclass(frozen=True)
class Emulated:
    """An installed platform.

    Attributes:
        prefix: Environment of the platform's packages.
        tools: Environment of this machine with qemu and the cross compiler.
    """

    platform: str
    prefix: Path
    tools: Path

    @property
    def triplet(self) -> str:
        return platforms.table()[self.platform].conda_triplet

    @property
    def root(self) -> Path:
        """Stands for the root folder of the machine: its loader and C library."""
        return self.tools / self.triplet / "glibc"

    @property
    def qemu(self) -> Path:
        return self.tools / "bin" / platforms.table()[self.platform].emulator

    def command(self, cpu: str, program: Sequence[str]) -> list[str]:
        """The command line that runs ``program`` on an emulated ``cpu``."""
        libraries = f"{self.prefix}/lib/vllm_kernels:{self.prefix}/lib"
        return [
            str(self.qemu), "-cpu", cpu, "-L", str(self.root),
            "-E", f"LD_LIBRARY_PATH={libraries}", *_variables(), *program,
        ]  # fmt: skip

    def pytorch_command(self, root: Root, cpu: str, arguments: Sequence[str]) -> list[str]:
        """The command line of the platform's PyTorch with the installed kernels.

        Args:
            arguments: Of Python.
        """
        (site,) = self.prefix.glob("lib/python3*/site-packages")
        return [
            str(self.qemu), "-cpu", cpu, "-L", str(root.path),
            "-E", f"LD_LIBRARY_PATH={root.libraries}", "-E", f"PYTHONPATH={site}",
            # Otherwise the kernels would load the environment's, which is only there to link with.
            "-E", "LD_PRELOAD=libtorch.so", *_variables(), str(root.python), *arguments,
        ]  # fmt: skip


def _variables() -> list[str]:
    # Otherwise waiting threads would take time from those that compute.
    return ["-E", f"OMP_NUM_THREADS={THREADS}", "-E", "OMP_WAIT_POLICY=passive"]


def install(
    platform: str,
    channel: str,
    targets: Targets,
    workspace: Workspace,
    reporter: Reporter,
    level: int | None = None,
) -> Emulated:
    """Solve and install ``vllm-kernels-cpu`` of ``platform`` as a machine of it would, and qemu.

    Args:
        channel: Address of the channel with the platform's packages.
        level: Microarchitecture level of the machine; the default is the platform's floor.

    Raises:
        ConfigError: No cross compiler is known for the platform.
        SolveError: The channel has no package that such a machine can install.
    """
    if platform not in platforms.cross():
        raise ConfigError(f"{platform} is not emulated; {', '.join(platforms.cross())} are.")
    toolchain = toolchain_for(platform, (), reporter)
    entry = targets.platforms[platform]
    cpu = level_cpu(entry.family, level or entry.levels[0])
    virtual = virtual_packages([f"__archspec=1={cpu}", f"__glibc={toolchain.glibc}"])
    prefix = ensure_environment(
        [channel, *toolchain.channels], [INSTALLED], platform, workspace, reporter, virtual
    )
    names = [f"qemu-user-{entry.machine}", f"gxx_{platform}", f"glibc_{platform}"]
    tools = ensure_environment(
        list(toolchain.channels), names, entry.cross_from, workspace, reporter
    )
    return Emulated(platform, prefix, tools)


def cpu_functions(root: Path, family: str) -> list[str]:
    """The C functions of a CPU family, less their prefix ``vk_cpu_``."""
    header = (root / "csrc/cpu" / family / f"{family}.h").read_text()
    return re.findall(r"^VK_EXPORT vk_status vk_cpu_(\w+)\(", header, re.M)


def driver_header(root: Path, families: Collection[str]) -> str:
    """What tests/cross/driver.cc includes: ``VK_CPU_FUNCTIONS(X)``, X of each function's name."""
    includes = "".join(f'#include "cpu/{family}/{family}.h"\n' for family in families)
    rows = (f"X({name})" for family in families for name in cpu_functions(root, family))
    return f"{includes}#define VK_CPU_FUNCTIONS(X) {', '.join(rows)}\n"


def build_driver(emulated: Emulated, root: Path, folder: Path, families: Collection[str]) -> Path:
    """Compile tests/cross/driver.cc against the installed library.

    Args:
        families: The library's kernel families.

    Raises:
        BuildFailure: It does not compile or link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu_functions.h").write_text(driver_header(root, families))
    driver = folder / f"driver-{emulated.platform}"
    libraries = emulated.prefix / "lib"
    command = [
        str(emulated.tools / "bin" / f"{emulated.triplet}-g++"), "-std=c++17", "-O1", "-Wall",
        f"-I{root / 'csrc'}", f"-I{folder}", str(root / "tests/cross/driver.cc"), "-o", str(driver),
        str(libraries / "vllm_kernels/libvllm_kernels_cpu.so"), f"-Wl,-rpath-link,{libraries}",
    ]  # fmt: skip
    done = run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildFailure(f"The driver for {emulated.platform} does not build:\n{done.stderr}")
    return driver


def tiers_by_cpu(targets: Targets, platform: str) -> Iterator[tuple[str, list[str]]]:
    """Each CPU to emulate, with the tiers that are tested on it."""
    entry = targets.platforms[platform]
    names = targets.level(entry.family, entry.levels[0]).tiers
    found: dict[str, list[str]] = {}
    for name, tier in targets.tiers[entry.family].items():
        if name in names and tier.qemu:
            found.setdefault(tier.qemu, []).append(name)
    yield from found.items()


def test_environment(
    emulated: Emulated,
    driver: Path,
    cpu: str,
    tiers: Sequence[str],
    sample: int,
    families: Iterable[str],
) -> Mapping[str, str]:
    """What tests/cross/bridge.py reads."""
    return {
        "VLLM_CROSS_COMMAND": json.dumps(emulated.command(cpu, [str(driver)])),
        "VLLM_CROSS_TIERS": ",".join(tiers),
        "VLLM_CROSS_SAMPLE": str(sample),
        "VLLM_CROSS_FAMILIES": ",".join(sorted(families)),
    }


def run_tests(
    environment: Mapping[str, str],
    prefix: Path,
    root: Path,
    arguments: Sequence[str],
    log: IO[str] | None = None,
) -> int:
    """Run the kernels' tests in ``prefix``, an environment of this machine with PyTorch."""
    path = os.pathsep.join([str(root / "tests/cross"), str(root / "tests")])
    command = [
        "env", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1", "OMP_WAIT_POLICY=passive",
        "python", "-m", "pytest", "-q", "-p", "bridge", "-p", "no:cacheprovider",
        "-o", "pythonpath=", *arguments,
    ]  # fmt: skip
    return run_in(prefix, command, root, log, environment)
