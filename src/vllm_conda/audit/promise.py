"""What a package promises of the machines that it runs on, from its metadata or the command line.

Conda packages state it in ``depends``, wheels in their tags and ``Requires-Dist``. Folders and
single libraries state nothing, so the command line has to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from auditwheel.architecture import Architecture
from auditwheel.libc import Libc
from auditwheel.policy import Policy, WheelPolicies

from vllm_conda import platforms
from vllm_conda.audit.elf import Version
from vllm_conda.audit.subject import CONDA, WHEEL, Subject

# GCC release → highest GLIBCXX and CXXABI version of its libstdc++ (GCC manual, "ABI policy and
# guidelines", last release of each series).
LIBSTDCXX: dict[int, tuple[Version, Version]] = {
    4: ((3, 4, 20), (1, 3, 8)),
    5: ((3, 4, 21), (1, 3, 9)),
    6: ((3, 4, 22), (1, 3, 10)),
    7: ((3, 4, 24), (1, 3, 11)),
    8: ((3, 4, 25), (1, 3, 11)),
    9: ((3, 4, 28), (1, 3, 12)),
    10: ((3, 4, 28), (1, 3, 12)),
    11: ((3, 4, 29), (1, 3, 13)),
    12: ((3, 4, 30), (1, 3, 13)),
    13: ((3, 4, 32), (1, 3, 14)),
    14: ((3, 4, 33), (1, 3, 15)),
    15: ((3, 4, 34), (1, 3, 16)),
}
_MICROARCH = re.compile(rf"^_(?P<family>{'|'.join(platforms.families())})-microarch-level$")
_NAME = re.compile(r"^\s*(?P<name>[A-Za-z0-9_.-]+)\s*(?:\[[^\]]*\]\s*)?\(?(?P<rest>[^;]*)")
_LOWEST = re.compile(r"(?:>=|~=|===?|^=?)\s*v?(\d+(?:\.\d+)*)")
_ABOVE = re.compile(r"<=?\s*(\d+(?:\.\d+)*)")
_MANYLINUX = re.compile(r"^(manylinux(?:_\d+_\d+|1|2010|2014))_(\w+)$")


@dataclass(frozen=True)
class Overrides:
    """What the command line states in place of the package."""

    glibc: Version | None = None
    torch: Version | None = None
    python: Version | None = None
    level: int | None = None


@dataclass(frozen=True)
class Floor:
    """A lowest version, and where the promise stands (``__glibc >=2.28``)."""

    version: Version
    source: str

    def __str__(self) -> str:
        return dotted(self.version)


@dataclass(frozen=True)
class Promise:
    """The floors; None where nothing is promised.

    ``abi3`` says that the package has to run on every Python from ``python`` on; ``family`` is the
    CPU family, empty where the package does not say.
    """

    family: str = ""
    level: int | None = None
    glibc: Floor | None = None
    glibcxx: Floor | None = None
    cxxabi: Floor | None = None
    gcc: Floor | None = None
    torch: Floor | None = None
    python: Floor | None = None
    abi3: bool = False
    system: frozenset[str] = frozenset()


def dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


def requirement(spec: str) -> tuple[str, str]:
    """Name and version part of a dependency of a conda package or wheel."""
    match = _NAME.match(spec)
    return (match["name"].lower(), match["rest"].strip()) if match else (spec, "")


def lowest(constraint: str) -> Version | None:
    """Lowest version that a constraint such as ``>=2.28,<3`` allows, None without one."""
    match = _LOWEST.search(constraint.strip())
    return tuple(int(part) for part in match[1].split(".")) if match else None


def promise_of(subject: Subject, overrides: Overrides) -> Promise:
    """The package's promise, where ``overrides`` does not state another."""
    found = {CONDA[0]: _conda, WHEEL[0]: _wheel}.get(subject.kind, lambda _: Promise())(subject)
    changes: dict[str, Floor | int] = {}
    for name in ("glibc", "torch", "python"):
        version = getattr(overrides, name)
        if version is not None:
            changes[name] = Floor(version, f"--{name} {dotted(version)}")
    if overrides.level is not None:
        changes["level"] = overrides.level
    return Promise(**{**found.__dict__, **changes})


def _conda(subject: Subject) -> Promise:
    named = [(*requirement(spec), spec) for spec in subject.depends]

    def floor(*names: str) -> Floor | None:
        floors = [
            Floor(version, spec)
            for name, rest, spec in named
            if name in names and (version := lowest(rest))
        ]
        return max(floors, key=lambda one: one.version, default=None)

    level = None
    for name, rest, _ in named:
        version = lowest(rest)
        if _MICROARCH.match(name) and version:
            level = version[0]
    libstdcxx = floor("libstdcxx", "libstdcxx-ng")
    glibcxx, cxxabi = _libstdcxx(libstdcxx)
    python = next((rest for name, rest, _ in named if name == "python"), None)
    exact = any(name == "python_abi" for name, _, _ in named)
    platform = platforms.table().get(subject.subdir)
    return Promise(
        family=platform.family if platform else "",
        level=level,
        glibc=floor("__glibc", *(f"sysroot_{subdir}" for subdir in platforms.table())),
        glibcxx=glibcxx,
        cxxabi=cxxabi,
        gcc=floor("libgcc", "libgcc-ng"),
        torch=floor("libtorch", "pytorch", "pytorch-cpu", "pytorch-gpu"),
        python=floor("python"),
        abi3=subject.noarch_python or (not exact and python is not None and _open_ended(python)),
    )


def _open_ended(constraint: str) -> bool:
    """``>=3.10`` or ``>=3.10,<4``, not ``>=3.11,<3.12``."""
    low, high = lowest(constraint), _ABOVE.search(constraint)
    if not low or not constraint.lstrip().startswith(">="):
        return False
    return high is None or tuple(int(p) for p in high[1].split(".")) > (low[0], low[-1] + 1)


def _libstdcxx(floor: Floor | None) -> tuple[Floor | None, Floor | None]:
    if floor is None:
        return None, None
    known = [release for release in LIBSTDCXX if release <= floor.version[0]]
    if not known:
        return None, None
    glibcxx, cxxabi = LIBSTDCXX[max(known)]
    return Floor(glibcxx, floor.source), Floor(cxxabi, floor.source)


def _wheel(subject: Subject) -> Promise:
    torch = python = None
    for spec in subject.depends:
        name, rest = requirement(spec)
        version = lowest(rest)
        if name == "torch" and version and "extra" not in spec:
            torch = Floor(version, f"Requires-Dist: {spec}")
    interpreter, abi, _ = subject.tags[0].split("-")
    if interpreter.startswith("cp3") and interpreter[3:].isdigit():
        python = Floor((3, int(interpreter[3:])), subject.tags[0])
    abi3 = abi == "abi3" or (abi == "none" and not interpreter.startswith("cp"))
    found = [match for tag in subject.tags if (match := _MANYLINUX.match(tag.split("-")[2]))]
    if not found:
        return Promise(torch=torch, python=python, abi3=abi3)
    # Several tags promise the lowest of them.
    policies = {match[0]: _policy(match[1], match[2]) for match in found}
    known = {tag: policy for tag, policy in policies.items() if policy is not None}
    family = found[0][2]
    if not known:
        return Promise(family=family, torch=torch, python=python, abi3=abi3)
    tag = min(known, key=lambda name: _highest(known[name], "GLIBC"))
    policy = known[tag]
    return Promise(
        family=family,
        glibc=Floor(_highest(policy, "GLIBC"), tag),
        glibcxx=Floor(_highest(policy, "GLIBCXX"), tag),
        cxxabi=Floor(_highest(policy, "CXXABI"), tag),
        gcc=Floor(_highest(policy, "GCC"), tag),
        torch=torch,
        python=python,
        abi3=abi3,
        system=policy.whitelist,
    )


@cache
def _policy(name: str, architecture: str) -> Policy | None:
    """The manylinux policy of auditwheel; None for one that it does not know."""
    try:
        policies = WheelPolicies(libc=Libc.GLIBC, arch=Architecture(architecture))
    except ValueError:
        return None
    wanted = f"{name}_{architecture}"
    return next((p for p in policies if wanted in (p.name, *p.aliases)), None)


def _highest(policy: Policy, name: str) -> Version:
    numbers = [v for v in policy.symbol_versions.get(name, ()) if v.replace(".", "").isdigit()]
    return max((tuple(int(part) for part in v.split(".")) for v in numbers), default=(0,))
