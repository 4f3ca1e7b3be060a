"""The build system's side of the plan: ``python -m vllm_cuda_plan``, run by CMake.

Reads ``table.json``, writes a file that CMake includes and the summary that the packages carry.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_cuda_plan.arch import Code, parse_version
from vllm_cuda_plan.errors import ConfigError, VllmError
from vllm_cuda_plan.plan import (
    FamilyPlan,
    Request,
    check_toolkit,
    code_words,
    nearest_toolkit,
    package_of,
    plan,
    read_request,
    served_by_parts,
    serves,
)
from vllm_cuda_plan.table import ALL, GENERAL, Arch, Cuda, Family, Part, Slice, Toolkit

TABLE = Path(__file__).with_name("table.json")
SUMMARY_SCHEMA = 1
# Stands for the parts of a family without a CUDA file.
HOST = "-"


def load_table() -> Cuda:
    """Read the generated copy of the ``[cuda]`` tables; the toolkit has checked its content."""
    data = json.loads(TABLE.read_text(encoding="utf-8"))["cuda"]
    families = {
        name: Family(**{**entry, "parts": {k: Part(**v) for k, v in entry["parts"].items()}})
        for name, entry in data["families"].items()
    }
    return Cuda(
        minimum=data["minimum"],
        tegra_platform=data["tegra_platform"],
        refused=data["refused"],
        archs={name: Arch(**entry) for name, entry in data["archs"].items()},
        toolkits={name: Toolkit(**entry) for name, entry in data["toolkits"].items()},
        families=families,
        slices={name: Slice(**entry) for name, entry in data["slices"].items()},
    )


def gencode(codes: Sequence[Code], ptx: Sequence[str]) -> list[str]:
    """nvcc's flags for machine code and PTX."""
    flags = [f"-gencode=arch=compute_{code.number},code=sm_{code.number}" for code in codes]
    for capability in ptx:
        number = capability.replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def summary(
    cuda: Cuda,
    version: str,
    request: Request,
    plans: Sequence[FamilyPlan],
    component: str = GENERAL,
) -> Any:
    """What the packages carry as ``cuda*.json``: loader, doctor and audit read it."""
    return {
        "schema": SUMMARY_SCHEMA,
        "package": package_of(component),
        "cuda": ".".join(map(str, parse_version(version))),
        "driver": cuda.toolkits[nearest_toolkit(cuda, version)].driver,
        "request": request.text,
        "families": {
            one.name: {
                "title": cuda.families[one.name].title,
                "library": f"libvllm_kernels_cuda_{one.name}.so",
                "archs": [str(code) for code in one.all_codes],
                "ptx": list(one.ptx),
                "parts": {name: [str(c) for c in part.codes] for name, part in one.parts.items()},
                "serves": serves(cuda, one),
                "without": dict(one.without),
                "parts_left_out": dict(one.parts_left_out),
            }
            for one in plans
            if not one.left_out
        },
        "left_out": {one.name: one.left_out for one in plans if one.left_out},
    }


def cmake_text(cuda: Cuda, version: str, plans: Sequence[FamilyPlan]) -> str:
    """Variables that cmake/Cuda.cmake uses."""
    toolkit = cuda.toolkits[nearest_toolkit(cuda, version)]
    lines = [
        f"set(VLLM_CUDA_GCC_MIN {toolkit.gcc[0]})",
        f"set(VLLM_CUDA_GCC_MAX {toolkit.gcc[1]})",
        f"set(VLLM_CUDA_BUILT {' '.join(one.name for one in plans if not one.left_out)})",
    ]
    for one in plans:
        if one.left_out:
            continue
        entry = cuda.families[one.name]
        lines += [
            f"set(VLLM_CUDA_FLAGS_{one.name} {' '.join(gencode(one.codes, one.ptx))})",
            f'set(VLLM_CUDA_ARCHS_{one.name} "{one.archs}")',
            f"set(VLLM_CUDA_MIB_{one.name} {_mib(one, entry)})",
            f"set(VLLM_CUDA_CUTLASS_{one.name} {'ON' if entry.cutlass else 'OFF'})",
            f"set(VLLM_CUDA_PARTS_{one.name} {' '.join(one.parts)})",
            f"set(VLLM_CUDA_LISTED_PARTS_{one.name} {' '.join(entry.parts)})",
            f"set(VLLM_CUDA_DEFINES_{one.name} "
            f"{' '.join(part.define for part in one.parts.values())})",
        ]
        if one.parts:
            rows = (
                f"VK_SERVED({name}, {gpu.replace('.', '')}, {code.capability.replace('.', '')})\\n"
                for name, gpu, code in served_by_parts(cuda, one)
            )
            lines.append(f'set(VLLM_CUDA_SERVED_{one.name} "{"".join(rows)}")')
        for name, part in one.parts.items():
            lines.append(
                f"set(VLLM_CUDA_FLAGS_{one.name}_{name} {' '.join(gencode(part.codes, ()))})"
            )
    return "\n".join(lines) + "\n"


def _mib(one: FamilyPlan, entry: Family) -> int:
    """Peak memory of one nvcc: one architecture's, for nvcc compiles one after the other."""
    return max([entry.mib, *(entry.parts[name].mib for name in one.parts)])


def table_text(version: str, request: Request, plans: Sequence[FamilyPlan]) -> str:
    """The summary that a configure run prints."""
    rows = [("family", "compiled for", "not built, and why")]
    for one in plans:
        notes = [f"{part}: {why}" for part, why in one.parts_left_out.items()]
        notes += [f"{gpu}: {why}" for gpu, why in one.without.items()]
        main = " ".join(code_words(one.codes, one.ptx))
        parts = "".join(f"; {n}: {' '.join(map(str, p.codes))}" for n, p in one.parts.items())
        built = main + parts or ("any" if one.host else "-")
        rows.append((one.name, built, one.left_out or "; ".join(notes)))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"CUDA {version}, asked for {request.text}"]
    lines += [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Plan one build; 0, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m vllm_cuda_plan")
    parser.add_argument("--cuda", required=True, help="version of nvcc")
    parser.add_argument("--archs", default="", help="requested; empty: the toolkit's own list")
    parser.add_argument("--archs-from", default="--archs", help="what requested them, for errors")
    parser.add_argument("--platform", default="", help="conda subdir")
    parser.add_argument("--component", default=ALL, help="families of this one alone")
    parser.add_argument("--families", default="", help="wanted; empty: all")
    help_text = f"FAMILY:PART,PART with sources; FAMILY:{HOST} without a CUDA file"
    parser.add_argument("--have", nargs="*", default=[], help=help_text)
    parser.add_argument("--cmake", type=Path, required=True, help="file to write")
    parser.add_argument("--summary", type=Path, required=True, help="file to write")
    arguments = parser.parse_args(argv)
    try:
        cuda = load_table()
        version = arguments.cuda
        check_toolkit(cuda, version)
        platform = arguments.platform
        default = cuda.default_archs(nearest_toolkit(cuda, version), platform)
        try:
            request = read_request(cuda, version, arguments.archs or " ".join(default), platform)
        except ConfigError as error:
            raise ConfigError(f"{arguments.archs_from}: {error.message}", error.hint) from error
        have = {
            name: tuple(filter(None, parts.split(",")))
            for name, _, parts in (word.partition(":") for word in arguments.have)
        }
        host = {name for name, parts in have.items() if HOST in parts}
        have = {name: parts if name not in host else () for name, parts in have.items()}
        wanted = tuple(filter(None, arguments.families.replace(";", " ").replace(",", " ").split()))
        component = arguments.component
        plans = plan(cuda, version, request, have, wanted, host, component)
    except VllmError as error:
        print(error, file=sys.stderr)
        return 1
    arguments.cmake.write_text(cmake_text(cuda, version, plans), encoding="utf-8")
    made = GENERAL if component == ALL else component
    content = json.dumps(summary(cuda, version, request, plans, made), indent=1) + "\n"
    arguments.summary.write_text(content, encoding="utf-8")
    print(table_text(version, request, plans))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
