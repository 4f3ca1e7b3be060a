"""What a build compiles: requested architectures ∩ toolkit ∩ kernel family."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vllm_cuda_plan.arch import Code, Wish, parse_version, parse_wish
from vllm_cuda_plan.errors import ConfigError, did_you_mean
from vllm_cuda_plan.table import ALL, GENERAL, Cuda, Family, family_file

_GPU_QUERIES = ("native", "auto")


@dataclass(frozen=True)
class Request:
    """Which GPUs to serve with machine code, and the capabilities to keep PTX of."""

    text: str
    codes: tuple[Code, ...]
    ptx: tuple[str, ...]


@dataclass(frozen=True)
class PartPlan:
    """Codes of the files ``*_PART.cu``, and the definition that says they are there."""

    codes: tuple[Code, ...]
    define: str


@dataclass(frozen=True)
class FamilyPlan:
    """What of one family is compiled.

    Attributes:
        codes: Machine code of the family's common files; empty where the family is left out.
        ptx: Capabilities whose PTX goes along; at most one.
        parts: Parts in the build.
        left_out: Why the family is not built; empty where it is.
        without: Requested GPUs that it has no code for, and what it would take.
        parts_left_out: Parts not in the build, and why.
        host: It has no GPU code of its own and serves every GPU.
    """

    name: str
    codes: tuple[Code, ...] = ()
    ptx: tuple[str, ...] = ()
    parts: Mapping[str, PartPlan] = field(default_factory=dict)
    left_out: str = ""
    without: Mapping[str, str] = field(default_factory=dict)
    parts_left_out: Mapping[str, str] = field(default_factory=dict)
    host: bool = False

    @property
    def all_codes(self) -> tuple[Code, ...]:
        """Machine code anywhere in the library."""
        found = {*self.codes, *(code for part in self.parts.values() for code in part.codes)}
        return tuple(sorted(found, key=lambda code: code.rank))

    @property
    def archs(self) -> str:
        """``7.5 8.0 9.0a 12.0+PTX``, for people."""
        return " ".join(code_words(self.all_codes, self.ptx))


def code_words(codes: Sequence[Code], ptx: Sequence[str]) -> list[str]:
    """Machine code and PTX in PyTorch's spelling."""
    words = [f"{code}+PTX" if str(code) in ptx else str(code) for code in codes]
    alone = [f"{capability}+PTX" for capability in ptx if Code(capability) not in codes]
    return words + alone


def check_toolkit(cuda: Cuda, version: str) -> None:
    """Refuse toolkits that no package can be built with.

    Raises:
        ConfigError: Says what that CUDA version would need.
    """
    minor = ".".join(map(str, parse_version(version)))
    if minor in cuda.refused:
        raise ConfigError(f"CUDA {minor} cannot be used: {cuda.refused[minor]}.")
    if parse_version(version) < parse_version(cuda.minimum):
        raise ConfigError(f"CUDA {version} is too old; {cuda.minimum} or newer is needed.")


def nearest_toolkit(cuda: Cuda, version: str) -> str:
    """The newest toolkit of the table that is not newer than ``version`` (of one major version)."""
    wanted = parse_version(version)
    fitting = [name for name in cuda.toolkits if parse_version(name) <= wanted]
    same = [name for name in fitting if parse_version(name)[0] == wanted[0]]
    return max(same or fitting or cuda.toolkits, key=parse_version)


def read_request(cuda: Cuda, version: str, text: str, platform: str = "") -> Request:
    """Read a list of architectures, and refuse what ``version`` of CUDA cannot compile.

    Args:
        text: Entries separated by blanks, commas or semicolons, in PyTorch's or CMake's spelling,
            names of GPU generations or of slices, or ``all``.
        platform: conda subdir: ``all`` differs between them.

    Raises:
        ConfigError: A misspelt or unknown architecture, or one that the toolkit cannot compile.
    """
    wishes: list[Wish] = []
    for word in re.findall(r"[^\s,;]+", text):
        wishes += _wishes(cuda, version, word, platform)
    if not wishes:
        raise ConfigError("No CUDA architecture was asked for.")
    for wish in wishes:
        _compilable(cuda, version, wish)
    codes = {wish.code for wish in wishes if wish.real}
    # PTX of an older architecture serves no further GPU than the newest PTX does, and serves it
    # worse.
    plain = [wish.code.capability for wish in wishes if wish.ptx]
    newest = max(plain, key=parse_version, default="")
    ordered = tuple(sorted(codes, key=lambda code: code.rank))
    return Request(text.strip(), ordered, (newest,) if newest else ())


def _wishes(cuda: Cuda, version: str, word: str, platform: str) -> list[Wish]:
    name, plus, _ = word.partition("+")
    if name.lower() in _GPU_QUERIES:
        raise ConfigError(
            f"The CUDA architecture {word!r} would ask this machine's GPU, which the machines that "
            "build packages do not have.",
            "Name the architectures, such as 8.0;9.0a;12.0+PTX.",
        )
    if word.lower() in ("all", "all-major", "common"):
        nearest = nearest_toolkit(cuda, version)
        return [parse_wish(entry) for entry in cuda.default_archs(nearest, platform)]
    if word in cuda.slices:
        return [parse_wish(entry) for entry in cuda.slices[word].archs]
    generation = [key for key, arch in cuda.archs.items() if arch.generation == name]
    if generation:
        fit = [k for k in generation if cuda.compiles(version, Code(k)) and not cuda.archs[k].tegra]
        if not fit:
            raise ConfigError(
                f"CUDA {version} compiles for no GPU of the {name} generation "
                f"({', '.join(generation)})."
            )
        return [Wish(Code(k), real=True, ptx=bool(plus) and k == fit[-1]) for k in fit]
    try:
        wish = parse_wish(word)
    except ValueError as error:
        names = sorted({arch.generation for arch in cuda.archs.values()})
        guess = did_you_mean(word, [*names, *cuda.archs])
        raise ConfigError(f"CUDA architectures {word!r}: {error}.{guess}") from None
    oldest = min(cuda.archs, key=parse_version)
    if parse_version(wish.code.capability) < parse_version(oldest):
        raise ConfigError(
            f"CUDA architecture {word!r}: the kernels start at {oldest} "
            f"({cuda.archs[oldest].gpus}).",
            f"Leave it out. Known: {', '.join(cuda.archs)}.",
        )
    if wish.code.capability not in cuda.archs:
        raise ConfigError(
            f"Unknown CUDA architecture {word!r}.{did_you_mean(wish.code.capability, cuda.archs)}",
            f"Known: {', '.join(cuda.archs)}.",
        )
    return [wish]


def _compilable(cuda: Cuda, version: str, wish: Wish) -> None:
    code = wish.code
    arch = cuda.archs[code.capability]
    if cuda.compiles(version, code):
        return
    since = cuda.since(code)
    if not since:
        raise ConfigError(f"Architecture {code.capability} has no {code.suffix!r} code ({code}).")
    if parse_version(version) < parse_version(since):
        raise ConfigError(
            f"CUDA {version} cannot compile for {code} ({arch.gpus}); CUDA {since} is the oldest "
            "that can.",
            "Leave it out, or use a newer toolkit.",
        )
    raise ConfigError(
        f"CUDA {version} no longer compiles for {code} ({arch.gpus}); CUDA {arch.last} is the last "
        "that does.",
        "Leave it out, or use an older toolkit.",
    )


def _choose(
    cuda: Cuda, version: str, archs: Sequence[str], wish: Code, lowest: str = ""
) -> Code | None:
    """The best code of the list for one requested GPU, or None where none runs on it."""
    if ALL in archs and lowest and parse_version(wish.capability) < parse_version(lowest):
        return None
    listed = [wish if entry == ALL else _listed(entry) for entry in archs]
    fitting = [
        code
        for code in listed
        if cuda.compiles(version, code) and cuda.runs_on(code, wish.capability)
    ]
    return max(fitting, key=lambda code: code.rank, default=None)


def _listed(entry: str) -> Code:
    return parse_wish(entry).code


def _ptx(cuda: Cuda, version: str, family: Family, wanted: Sequence[str]) -> tuple[str, ...]:
    """The highest plain architecture of the family up to the one that PTX is asked for."""
    if not family.ptx:
        return ()
    found = []
    for capability in wanted:
        limit = parse_version(capability)
        if family.lowest and limit < parse_version(family.lowest):
            continue
        listed = [Code(capability) if entry == ALL else _listed(entry) for entry in family.archs]
        below = [
            code.capability
            for code in listed
            if not code.suffix
            and parse_version(code.capability) <= limit
            and cuda.compiles(version, code)
        ]
        found += [max(below, key=parse_version)] if below else []
    return tuple(found)


def plan_family(
    cuda: Cuda, version: str, name: str, request: Request, parts: Iterable[str] | None = None
) -> FamilyPlan:
    """What of one family a build compiles.

    Args:
        parts: Parts that the family has files for; None: all of the table.
    """
    family = cuda.families[name]
    wanted = list(family.parts if parts is None else parts)
    for part in wanted:
        if part not in family.parts:
            raise ConfigError(
                f"csrc/cuda/{name} has files *_{part}.cu, but {family_file(name)} has no "
                f"[parts.{part}].{did_you_mean(part, family.parts)}",
                "List it there with its archs, and run `vllm-conda generate`; or rename the files.",
            )
    if reason := _too_old(family.cuda, version):
        return FamilyPlan(name, left_out=_needs(reason, family.archs, family.lowest))
    codes, without = _choose_all(cuda, version, family.archs, request, family.lowest)
    ptx = _ptx(cuda, version, family, request.ptx)
    without = {gpu: why for gpu, why in without.items() if not _reaches(ptx, gpu)}
    if not codes and not ptx:
        left_out = _needs("", family.archs, family.lowest)
        return FamilyPlan(name, left_out=left_out, without=without)
    built: dict[str, PartPlan] = {}
    missing: dict[str, str] = {}
    for part in wanted:
        entry = family.parts[part]
        reason = _too_old(entry.cuda, version)
        chosen = () if reason else _choose_all(cuda, version, entry.archs, request)[0]
        if chosen:
            built[part] = PartPlan(chosen, entry.define)
        else:
            missing[part] = _needs(reason, entry.archs)
    return FamilyPlan(name, codes, ptx, built, "", without, missing)


def _choose_all(
    cuda: Cuda, version: str, archs: Sequence[str], request: Request, lowest: str = ""
) -> tuple[tuple[Code, ...], dict[str, str]]:
    chosen: set[Code] = set()
    without: dict[str, str] = {}
    for wish in request.codes:
        code = _choose(cuda, version, archs, wish, lowest)
        if code is None:
            without[wish.capability] = _needs("", archs, lowest)
        else:
            chosen.add(code)
    return tuple(sorted(chosen, key=lambda code: code.rank)), without


def _reaches(ptx: Sequence[str], gpu: str) -> bool:
    return any(parse_version(base) <= parse_version(gpu) for base in ptx)


def _too_old(minimum: str, version: str) -> str:
    if minimum and parse_version(version) < parse_version(minimum):
        return f"CUDA >= {minimum}"
    return ""


def _needs(toolkit: str, archs: Sequence[str], lowest: str = "") -> str:
    """``needs CUDA >= 12.2 and 9.0a``."""
    newer = f"{lowest} or newer" if lowest else ""
    listed = newer if ALL in archs else " or ".join(archs)
    return "needs " + " and ".join(word for word in (toolkit, listed) if word)


def plan(
    cuda: Cuda,
    version: str,
    request: Request,
    families: Mapping[str, Iterable[str] | None],
    chosen: Sequence[str] = (),
    host: Collection[str] = (),
    component: str = ALL,
) -> list[FamilyPlan]:
    """Plan every family of ``families`` (with the parts that have files), in the table's order.

    Args:
        chosen: Families that the user wants; empty: all.
        host: Families without a CUDA file.
        component: Leaves out the families of other components.

    Raises:
        ConfigError: An unknown family, a wanted one that cannot be built, or none that can.
    """
    for name in (*families, *chosen):
        if name not in cuda.families:
            if name in families:
                raise ConfigError(
                    f"csrc/cuda/{name} has sources, but there is no family {name} "
                    f"({family_file(name)}) in the generated table."
                    f"{did_you_mean(name, cuda.families)}",
                    "Write family.toml where it is missing, and run `vllm-conda generate`.",
                )
            raise ConfigError(
                f"VLLM_CUDA_FAMILIES: there is no family {name}, nor a folder csrc/cuda/{name} "
                f"with sources.{did_you_mean(name, cuda.families)}",
                f"Known: {', '.join(cuda.families)}.",
            )
    plans = []
    for name in cuda.families:
        own = cuda.families[name].component
        if component not in (ALL, own):
            plans.append(FamilyPlan(name, left_out=f"is in {package_of(own)}"))
        elif chosen and name not in chosen:
            plans.append(FamilyPlan(name, left_out="not in VLLM_CUDA_FAMILIES"))
        elif name not in families:
            if name in chosen:
                raise ConfigError(f"VLLM_CUDA_FAMILIES: csrc/cuda/{name} has no sources.")
            plans.append(FamilyPlan(name, left_out="has no sources in this tree"))
        elif name in host:
            plans.append(FamilyPlan(name, host=True))
        else:
            plans.append(plan_family(cuda, version, name, request, families[name]))
            if chosen and plans[-1].left_out:
                raise ConfigError(
                    f"VLLM_CUDA_FAMILIES: {name} cannot be built for {request.text} with CUDA "
                    f"{version}: it {plans[-1].left_out}."
                )
    if all(one.left_out for one in plans):
        reasons = "; ".join(f"{one.name} {one.left_out}" for one in plans if one.name in families)
        raise ConfigError(
            f"No kernel family can be built for {request.text} with CUDA {version}: "
            f"{reasons or 'csrc/cuda has no sources'}."
        )
    return plans


def package_of(component: str) -> str:
    """Name of the package with the families of ``component``."""
    return f"vllm-kernels-{component}" if component == GENERAL else f"vllm-{component}"


def serves(cuda: Cuda, one: FamilyPlan) -> dict[str, str]:
    """Every capability of the table that the family runs on, and the code that it runs there."""
    if one.host:
        return dict.fromkeys(cuda.archs, "any")
    found: dict[str, str] = {}
    for capability in cuda.archs:
        native = [code for code in one.codes if cuda.runs_on(code, capability)]
        if native:
            found[capability] = str(max(native, key=lambda code: code.rank))
        elif _reaches(one.ptx, capability):
            found[capability] = f"PTX {one.ptx[-1]}"
    return found


def served_by_parts(cuda: Cuda, one: FamilyPlan) -> Iterator[tuple[str, str, Code]]:
    """Each part with each capability of the table that it has machine code for, and that code."""
    for name, part in one.parts.items():
        for capability in cuda.archs:
            native = [code for code in part.codes if cuda.runs_on(code, capability)]
            if native:
                yield name, capability, max(native, key=lambda code: code.rank)
