"""Typed model of the ``[cuda]`` tables of ``targets.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_cuda_plan.arch import Code, parse_code, parse_version, parse_wish
from vllm_cuda_plan.errors import ConfigError, check_known

ALL = "all"
# The component with the families that have no package of their own.
GENERAL = "cuda"
FAMILY_FOLDER = "csrc/cuda"


def family_file(name: str) -> str:
    """Where a family's table stands in a checkout."""
    return f"{FAMILY_FOLDER}/{name}/family.toml"


@dataclass(frozen=True)
class Arch:
    """One compute capability.

    Attributes:
        gpus: Devices of that capability, for people.
        generation: NVIDIA's name, which ``TORCH_CUDA_ARCH_LIST`` accepts too.
        since: First CUDA version that compiles it.
        last: Last CUDA version that compiles it; empty: it still does.
        specific: First CUDA version with ``a`` code; empty: there is none.
        portable: First CUDA version with ``f`` code; empty: there is none.
        family: The capability whose ``f`` code runs here; empty: its own.
        tegra: A system on chip: no other capability's machine code runs on it, nor its elsewhere.
    """

    gpus: str
    generation: str
    since: str
    last: str = ""
    specific: str = ""
    portable: str = ""
    family: str = ""
    tegra: bool = False


@dataclass(frozen=True)
class Toolkit:
    """A CUDA version that packages are built with.

    Attributes:
        driver: Oldest Linux driver that runs the packages (minor-version compatibility).
        gcc: Oldest and newest major version of GCC that nvcc takes.
        archs: What is compiled unless asked otherwise.
        extra_archs: More of them, by platform.
        own_archs: What takes their place, by platform.
        platforms: Platforms with packages for this toolkit.
        c_stdlib_version: glibc that conda-forge's build needs; empty: the platform's.
        feedstock: conda-forge builds for it, the embedded toolchain channel does not hold it.
        conda_forge: conda-forge's pins and migrations have it now: its feedstock makes packages.
    """

    driver: str
    gcc: tuple[int, ...]
    archs: tuple[str, ...]
    platforms: tuple[str, ...]
    extra_archs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    own_archs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    c_stdlib_version: str = ""
    feedstock: bool = False
    conda_forge: bool = False


@dataclass(frozen=True)
class Part:
    """Files of a family with an architecture list of their own: ``*_NAME.cu``.

    ``define`` is set for the whole family where the part is in the build.
    """

    archs: tuple[str, ...]
    define: str
    cuda: str = ""
    mib: int = 0


@dataclass(frozen=True)
class Family:
    """A kernel family: one library.

    Attributes:
        title: What the kernels do, for messages and tables.
        archs: ``all`` (every architecture asked for), or entries such as ``8.0`` and ``9.0a``: for
            each GPU asked for, the highest that runs on it.
        lowest: Oldest capability that ``all`` means; empty: any.
        cuda: First CUDA version that compiles it; empty: any of the table.
        ptx: Whether PTX of the highest plain architecture goes along where PTX is asked for.
        mib: Peak memory of one nvcc on its largest file, one architecture, in MiB.
        component: What of the build makes it; its package is vllm-COMPONENT.
        parts: Files with lists of their own, by file suffix.
        rocm: Whether its sources are compiled for AMD GPUs too (csrc/rocm).
    """

    title: str
    archs: tuple[str, ...]
    rocm: bool = False
    lowest: str = ""
    cuda: str = ""
    ptx: bool = True
    mib: int = 1024
    cutlass: bool = False
    component: str = GENERAL
    parts: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A choice of architectures that makes a package of its own.

    Attributes:
        archs: What is compiled; empty: the toolkit's own list.
        lowest: Lowest ``__cuda_arch`` that the package serves; empty: the lowest of ``archs``.
        below: First ``__cuda_arch`` above that it does not; empty: no bound (PTX reaches further).
        cuda: First CUDA version that has the slice; empty: any.
    """

    archs: tuple[str, ...] = ()
    lowest: str = ""
    below: str = ""
    cuda: str = ""


@dataclass(frozen=True)
class Cuda:
    """The ``[cuda]`` tables; mappings keep the file's order.

    ``tegra_platform``: the platform of systems on chip.
    """

    minimum: str
    tegra_platform: str
    refused: dict[str, str]
    archs: dict[str, Arch]
    toolkits: dict[str, Toolkit]
    families: dict[str, Family]
    slices: dict[str, Slice]

    def known(self, code: Code) -> bool:
        """Whether the table has the capability, and code of that kind exists for it."""
        arch = self.archs.get(code.capability)
        return arch is not None and bool(self.since(code))

    def since(self, code: Code) -> str:
        """First CUDA version that compiles ``code``; empty where none does."""
        arch = self.archs[code.capability]
        return {"": arch.since, "a": arch.specific, "f": arch.portable}[code.suffix]

    def compiles(self, cuda: str, code: Code) -> bool:
        """Whether the toolkit ``cuda`` compiles ``code``."""
        since, last = self.since(code), self.archs[code.capability].last
        version = parse_version(cuda)
        return (
            bool(since)
            and parse_version(since) <= version
            and (not last or version <= parse_version(last))
        )

    def runs_on(self, code: Code, capability: str) -> bool:
        """Whether machine code for ``code`` runs on a GPU of ``capability``, without PTX."""
        if code.capability == capability:
            return True
        if code.suffix == "a":
            return False
        mine, gpu = self.archs[code.capability], self.archs[capability]
        if code.suffix == "f":
            return gpu.family == code.capability
        own, other = parse_version(code.capability), parse_version(capability)
        return own[0] == other[0] and own[1] < other[1] and not mine.tegra and not gpu.tegra

    def gpus(self, platform: str) -> list[str]:
        """Capabilities of the GPUs that a machine of ``platform`` may have."""
        return [
            name
            for name, arch in self.archs.items()
            if not arch.tegra or platform == self.tegra_platform
        ]

    def has_code(self, request: Sequence[str], capability: str) -> bool:
        """Whether what is compiled for ``request`` holds machine code for ``capability``."""
        return any(self.runs_on(parse_wish(one).code, capability) for one in request)

    def serves(self, request: Sequence[str], capability: str) -> bool:
        """Whether it runs there at all: by machine code, or by PTX of an older GPU."""
        wishes = [parse_wish(one) for one in request]
        return self.has_code(request, capability) or any(
            wish.ptx and parse_version(wish.code.capability) <= parse_version(capability)
            for wish in wishes
        )

    def default_archs(self, cuda: str, platform: str = "") -> tuple[str, ...]:
        """The toolkit's own list, as a request (``12.0+PTX``)."""
        entry = self.toolkits[cuda]
        own = entry.own_archs.get(platform, entry.archs)
        return (*entry.extra_archs.get(platform, ()), *own)


def check_cuda_table(cuda: Cuda, where: str) -> None:
    """Refuse names that point nowhere and versions that are none.

    Raises:
        ConfigError: Names table and key.
    """
    for name, arch in cuda.archs.items():
        place = f"{where}: [cuda.archs.{name!r}]"
        for key in ("since", "last", "specific", "portable"):
            _version(place, key, getattr(arch, key), optional=key != "since")
        _version(place, "key", name)
        if arch.family:
            check_known(place, "family", arch.family, cuda.archs)
    for name, toolkit in cuda.toolkits.items():
        place = f"{where}: [cuda.toolkits.{name!r}]"
        _version(place, "key", name)
        if len(toolkit.gcc) != 2 or toolkit.gcc[0] > toolkit.gcc[1]:
            raise ConfigError(f"{place}: gcc must be [oldest, newest], got {list(toolkit.gcc)}.")
        lists = (toolkit.archs, *toolkit.extra_archs.values(), *toolkit.own_archs.values())
        for entry in (arch for listed in lists for arch in listed):
            code = _code(place, entry.removesuffix("+PTX"), cuda)
            if not cuda.compiles(name, code):
                raise ConfigError(f"{place}: CUDA {name} does not compile {code}.")
    for name, family in cuda.families.items():
        place = family_file(name)
        _list(place, family.archs, family.cuda, cuda)
        _version(place, "lowest", family.lowest, optional=True)
        for part, entry_of in family.parts.items():
            _list(f"{place}: [parts.{part}]", entry_of.archs, entry_of.cuda, cuda)
    for name, piece in cuda.slices.items():
        place = f"{where}: [cuda.slices.{name}]"
        for key in ("lowest", "below", "cuda"):
            _version(place, key, getattr(piece, key), optional=True)
        for entry in piece.archs:
            _code(place, entry.removesuffix("+PTX"), cuda)
        if piece.archs and not piece.lowest:
            raise ConfigError(f"{place}: lowest is missing beside archs.")


def _list(place: str, archs: tuple[str, ...], minimum: str, cuda: Cuda) -> None:
    if not archs:
        raise ConfigError(f"{place}: archs is empty, so nothing would be compiled.")
    _version(place, "cuda", minimum, optional=True)
    for entry in archs:
        if entry != ALL:
            _code(place, entry, cuda)


def _code(place: str, text: str, cuda: Cuda) -> Code:
    try:
        code = parse_code(text)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}.") from None
    check_known(place, "architecture", code.capability, cuda.archs)
    if not cuda.known(code):
        raise ConfigError(f"{place}: {code.capability} has no {code.suffix!r} code ({text}).")
    return code


def _version(place: str, key: str, text: str, optional: bool = False) -> None:
    if text or not optional:
        try:
            parse_version(text)
        except ValueError:
            raise ConfigError(
                f"{place}: {key} must be MAJOR.MINOR such as 12.4, got {text!r}."
            ) from None
