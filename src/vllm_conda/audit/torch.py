"""`torch`: only the C functions of PyTorch's stable ABI, and no newer ones than promised.

The functions and the versions that brought them stand in data/torch_symbols.tsv, which
scripts/torch_symbols.py writes from PyTorch's headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

from vllm_conda.audit.context import Context
from vllm_conda.audit.elf import Library, Version
from vllm_conda.audit.finding import Finding, error, note, some, warning
from vllm_conda.audit.promise import dotted
from vllm_conda.audit.subject import Subject
from vllm_conda.errors import did_you_mean

_NAMESPACES = ("at", "c10", "torch", "caffe2", "torch_tensorrt")
_C_FUNCTION = re.compile(r"^(aoti_)?torch_")
# Functions, then tables and type information, of a nested name: _ZN2at…, _ZNK3c10…, _ZTVN5torch…
_NESTED = re.compile(r"^_Z(?:T[VTIS]|GV|G?R)?N[VrK]*[RO]?(?P<parts>\d.*)$")
_PACKAGES = frozenset({"torch", "libtorch", "pytorch", "pytorch-cpu", "pytorch-gpu"})


@cache
def stable_functions() -> Mapping[str, Version]:
    """C functions of the stable ABI and the PyTorch version that brought each."""
    text = resources.files("vllm_conda.audit").joinpath("data/torch_symbols.tsv").read_text("utf-8")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("\t")
            found[name] = tuple(int(part) for part in version.split("."))
    return found


def qualified_name(symbol: str) -> tuple[str, ...]:
    """Leading plain parts of a mangled C++ name: ``("at", "native", "add")``; empty for others.

    Enough to tell whose symbol it is; templates and substitutions end it.
    """
    match = _NESTED.match(symbol)
    rest = match["parts"] if match else ""
    parts = []
    while (size := re.match(r"\d+", rest)) is not None:
        begin, length = size.end(), int(size[0])
        parts.append(rest[begin : begin + length])
        rest = rest[begin + length :]
    return tuple(parts)


def check_torch(subject: Subject, context: Context) -> Iterator[Finding]:
    """Of PyTorch only stable-ABI C functions, none newer than the promised version."""
    if subject.package in _PACKAGES:
        yield note("torch", "", "is PyTorch itself, so its own symbols are not compared")
        return
    functions = stable_functions()
    for library in subject.libraries:
        imports = library.imports - subject.exports
        unstable = {name for name in imports if qualified_name(name)[:1] in _LEADING}
        called = {name for name in imports if _C_FUNCTION.match(name)}
        if unstable:
            shown = some({"::".join(qualified_name(name)) for name in unstable})
            yield error(
                "torch",
                library.file,
                f"{len(unstable)} C++ symbols of PyTorch, which every release may change: {shown}",
                "use torch/csrc/stable and the C functions of its shim.h",
            )
        for name in sorted(called - functions.keys()):
            yield error(
                "torch",
                library.file,
                f"{name} is no function of the stable ABI.{did_you_mean(name, functions)}",
                "run scripts/torch_symbols.py if PyTorch has it by now",
            )
        yield from _version(library, {n: functions[n] for n in called & functions.keys()}, context)


_LEADING = frozenset((name,) for name in _NAMESPACES)


def _version(
    library: Library, called: Mapping[str, Version], context: Context
) -> Iterator[Finding]:
    if not called:
        return
    newest = max(called.values())
    users = [name for name, version in called.items() if version == newest]
    what = f"needs PyTorch {dotted(newest)} ({some(users)})"
    floor = context.promise.torch
    if floor is None:
        yield warning(
            "torch",
            library.file,
            f"{what}, and the package depends on none",
            "add libtorch with a lower bound to its run requirements",
        )
    elif newest > floor.version:
        yield error(
            "torch",
            library.file,
            f"{what}, the package promises {floor} ({floor.source})",
            "compile with a lower TORCH_TARGET_VERSION, or raise the requirement",
        )
    else:
        yield note("torch", library.file, f"{what}, promised is {floor}")
