"""docs/packagers/generated/cuda.md: architectures, toolkits, each family's compiled code."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_conda.generate.text import table
from vllm_cuda_plan.plan import FamilyPlan, code_words, plan_family, read_request
from vllm_cuda_plan.table import Cuda

Rows = Sequence[tuple[str, ...]]


def cuda_page(cuda: Cuda) -> str:
    """Text of the page, without its header."""
    text = "# CUDA\n\n## Architectures\n\n"
    rows: Rows
    head: tuple[str, ...] = ("capability", "GPUs", "CUDA", "`a` code from", "`f` code from")
    rows = [
        (
            name,
            arch.gpus,
            f"{arch.since} to {arch.last}" if arch.last else f"{arch.since} on",
            arch.specific,
            arch.portable + (f", of {arch.family}" if arch.family else ""),
        )
        for name, arch in cuda.archs.items()
    ]
    text += table(head, rows) + "\n## Toolkits\n\n"
    head = ("CUDA", "oldest driver", "GCC", "compiled for, unless asked otherwise", "for", "from")
    rows = [
        (
            name,
            toolkit.driver,
            f"{toolkit.gcc[0]} to {toolkit.gcc[1]}",
            " ".join(toolkit.archs)
            + "".join(f"; {p}: also {' '.join(a)}" for p, a in toolkit.extra_archs.items())
            + "".join(f"; {p}: {' '.join(a)}" for p, a in toolkit.own_archs.items()),
            " ".join(toolkit.platforms),
            "conda-forge" if toolkit.feedstock else "conda-forge, embedded channel",
        )
        for name, toolkit in cuda.toolkits.items()
    ]
    text += table(head, rows) + "\n## Slices\n\n"
    head = ("slice", "compiled for", "`__cuda_arch`", "CUDA")
    rows = [
        (
            f"`{name}`",
            " ".join(one.archs) or "the toolkit's list",
            f">={one.lowest}" + (f",<{one.below}" if one.below else "") if one.lowest else "",
            f">={one.cuda}" if one.cuda else "",
        )
        for name, one in cuda.slices.items()
    ]
    text += table(head, rows)
    for version in cuda.toolkits:
        text += f"\n## Kernel families with CUDA {version}, slice `all`\n\n"
        text += table(*_families(cuda, version))
    return text


def _families(cuda: Cuda, version: str) -> tuple[tuple[str, ...], Rows]:
    request = read_request(cuda, version, "all")
    rows = []
    for name, family in cuda.families.items():
        one = plan_family(cuda, version, name, request)
        rows.append((f"`{name}`", family.title, _compiled(one), f"{family.mib} MiB"))
    # The cost of one architecture; nvcc compiles several one after the other.
    return ("family", "kernels", "compiled for", "one nvcc at most"), rows


def _compiled(one: FamilyPlan) -> str:
    if one.left_out:
        return f"left out: {one.left_out}"
    text = " ".join(code_words(one.codes, one.ptx))
    text += "".join(f"; {n}: {' '.join(map(str, p.codes))}" for n, p in one.parts.items())
    return text + "".join(f"; no {n}: {why}" for n, why in one.parts_left_out.items())
