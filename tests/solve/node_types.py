"""Node types, and what each is to get by ``targets.toml`` and what makers say of their CPUs.

The rule here is a second one: it reads the table as it stands in the file, and uses neither the
solver nor any code of the toolkit.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from support import ROOT

from vllm_conda.site.preflight import NodeResult

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

X86, ARM, POWER = "linux-64", "linux-aarch64", "linux-ppc64le"
TABLE: dict[str, Any] = tomllib.loads((ROOT / "targets.toml").read_text())
CUDA: dict[str, Any] = TABLE["cuda"]

# By archspec's name: the level of the x86-64 psABI by the CPU's instructions, the Armv8 extension
# (5 and up: Armv9, which holds all of Armv8.5-A), the number of the POWER.
CPUS = {
    X86: {
        "nocona": 1, "core2": 1, "k10": 1, "nehalem": 2, "westmere": 2, "sandybridge": 2,
        "ivybridge": 2, "bulldozer": 2, "piledriver": 2, "steamroller": 2, "excavator": 3,
        "haswell": 3, "broadwell": 3, "skylake": 3, "mic_knl": 3, "alderlake": 3, "zen": 3,
        "zen2": 3, "zen3": 3, "skylake_avx512": 4, "cannonlake": 4, "cascadelake": 4,
        "icelake": 4, "sapphirerapids": 4, "zen4": 4, "zen5": 4,
    },
    ARM: {
        "cortex_a72": 0, "thunderx2": 1, "a64fx": 2, "neoverse_n1": 2, "neoverse_v1": 4,
        "neoverse_n2": 5, "neoverse_v2": 5, "ampere1": 6, "m1": 4, "m2": 5,
    },
    POWER: {"power8le": 8, "power9le": 9, "power10le": 10},
}  # fmt: skip
LEVEL_WORDS = {X86: "x86_64 level {}", ARM: "Armv8.{}-A", POWER: "ppc64le level {}"}


@dataclass(frozen=True)
class Case:
    """A node type and the build, or the beginning of the sentence, that is right for it.

    ``build`` is the level of the CPU package, or the CUDA version; empty: :func:`expected` says.
    """

    system: str
    platform: str
    glibc: str
    cpu: str
    build: str = ""
    cuda: str = ""
    gpus: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        words = [self.system, self.cpu, *self.gpus, self.cuda and f"driver {self.cuda}"]
        return "-".join(word.replace(" ", "") for word in words if word)

    def site(self) -> str:
        """A site file with this node type alone."""
        gpu = f"    cuda: {self.cuda}\n    cuda_arch: [{', '.join(self.gpus)}]\n"
        return (
            "schema: 1\nsite: cases\nspecs: [vllm-kernels]\nnodes:\n  node:\n"
            f"    platform: {self.platform}\n    glibc: {self.glibc}\n    linux: 4.18\n"
            f"    archspec: {self.cpu}\n{gpu if self.cuda else ''}"
        )


def version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def toolkits(platform: str) -> list[str]:
    """CUDA versions with packages for ``platform``, the newest first."""
    found = [v for v, toolkit in CUDA["toolkits"].items() if platform in toolkit["platforms"]]
    return sorted(found, key=version, reverse=True)


def archs(toolkit: str, platform: str) -> list[str]:
    row = CUDA["toolkits"][toolkit]
    own: list[str] = row.get("own_archs", {}).get(platform, row["archs"])
    return [*own, *row.get("extra_archs", {}).get(platform, [])]


def tegra(arch: str) -> bool:
    return bool(CUDA["archs"].get(arch, {}).get("tegra"))


def machine_code(compiled: list[str], gpu: str) -> bool:
    """NVIDIA's binary compatibility: within a major capability, upwards, not with a Tegra."""
    for one in (entry.removesuffix("+PTX") for entry in compiled):
        upwards = version(one)[0] == version(gpu)[0] and version(one) < version(gpu)
        if one == gpu or (upwards and not tegra(one) and not tegra(gpu)):
            return True
    return False


def runs(compiled: list[str], gpu: str) -> bool:
    ptx = [entry.removesuffix("+PTX") for entry in compiled if entry.endswith("+PTX")]
    return machine_code(compiled, gpu) or any(version(one) <= version(gpu) for one in ptx)


def came_with(driver: str, platform: str) -> list[str]:
    """GPUs that a driver for CUDA ``driver`` knows; a Tegra is beside an Arm CPU alone."""
    return [
        gpu
        for gpu, row in CUDA["archs"].items()
        if version(row["since"]) <= version(driver) and (platform == ARM or not tegra(gpu))
    ]


def made_for(toolkit: str, driver: str, platform: str) -> bool:
    """Not newer than the driver; or, for the driver's GPUs, the first with code for one of them."""
    if version(toolkit) <= version(driver):
        return True
    before = [
        archs(older, platform)
        for older in toolkits(platform)
        if version(older) < version(toolkit) and version(older)[0] == version(toolkit)[0]
    ]
    mine = archs(toolkit, platform)
    return bool(before) and any(
        machine_code(mine, gpu) and not any(machine_code(one, gpu) for one in before)
        for gpu in came_with(driver, platform)
    )


def cuda_build(platform: str, driver: str, gpu: str = "") -> str:
    """The CUDA version of the build that a GPU gets; empty: none. Without ``gpu``: by the driver.

    With machine code before PTX, made for the driver before newer ones of its major version; of
    those that are made for it the newest, of the newer ones the oldest.
    """
    fitting = [one for one in toolkits(platform) if version(one)[0] <= version(driver)[0]]
    if gpu:
        fitting = [one for one in fitting if runs(archs(one, platform), gpu)]
        lowest = {
            one: min(version(a.removesuffix("+PTX")) for a in archs(one, platform))
            for one in fitting
        }
        fitting = [one for one in fitting if lowest[one] <= version(gpu)]
    made = [one for one in fitting if made_for(one, driver, platform)]
    order = [*made, *reversed([one for one in fitting if one not in made])]
    exact = [one for one in order if gpu and machine_code(archs(one, platform), gpu)]
    return next(iter([*exact, *order]), "")


def cpu_build(case: Case) -> str:
    """``level N``, or the sentence."""
    levels = TABLE["platforms"][case.platform]["levels"]
    own = CPUS[case.platform].get(case.cpu)
    if own is None:
        return f"needs a CPU level, and archspec knows no CPU '{case.cpu}'"
    reached = [level for level in levels if level <= own]
    return (
        f"level {max(reached)}"
        if reached
        else f"needs {LEVEL_WORDS[case.platform].format(min(levels))}"
    )


def expected(case: Case, cpu_only: bool = False) -> list[str]:
    """What is to be said of the node type: one build, or every sentence of its refusal."""
    floor = TABLE["platforms"][case.platform]["variant"]["c_stdlib_version"]
    build, newest = "", ""
    if case.cuda and not cpu_only:
        lowest = min(case.gpus, key=version)
        build = cuda_build(case.platform, case.cuda, lowest)
        newest = cuda_build(case.platform, "99.0", lowest)
        unserved = [
            gpu for gpu in case.gpus if build and not runs(archs(build, case.platform), gpu)
        ]
        if unserved:
            return [f"the node also has a GPU of {min(unserved, key=version)}"]
    found = build or cpu_build(case)
    if newest and not build and found.startswith("needs"):
        found = "needs __cuda >= "  # a newer driver is nearer than another CPU
    if version(case.glibc) >= version(floor):
        return [found]
    return [f"needs glibc >= {floor}", *([found] if found.startswith("needs") else [])]


def got(result: NodeResult, answer: int = 0) -> str:
    """What the toolkit says, in the words of :func:`expected`."""
    found = result.answers[answer]
    if found.refusal:
        return found.refusal.text
    if "vllm-kernels-cuda" in found.builds:
        digits = found.builds["vllm-kernels-cuda"].split()[1].partition("_")[0].removeprefix("cuda")
        return f"{digits[:-1]}.{digits[-1]}"
    number = int(found.builds["vllm-kernels-cpu"].rpartition("_")[2])
    return f"level {number // 100}"
