"""AMD GPU code: the gfx targets of each library are the declared ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from elftools.elf.elffile import ELFFile

from vllm_conda.audit.built_for import ROCM_SUMMARY as SUMMARY
from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Finding, error
from vllm_conda.audit.subject import Subject
from vllm_conda.elf_tables import DAMAGED
from vllm_conda.structure import load_json

_NAME = "rocm"
_SECTION = ".hip_fatbin"
# "Clang Offload Bundler", in clang's documentation: magic, number of entries, then of each entry
# offset, size and length of its identifier, and the identifier.
_MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
_COMPRESSED = b"CCOB"
_COUNT, _ENTRY = struct.Struct("<Q"), struct.Struct("<QQQ")
_HOST = "host-"


def check_rocm(subject: Subject, context: Context) -> Iterator[Finding]:
    """The gfx targets of each library are the declared ones, and no others."""
    found: dict[str, frozenset[str]] = {}
    for library in subject.libraries:
        try:
            targets = read_targets(library.path)
        except DAMAGED as reason:
            yield error(_NAME, library.file, f"its AMD GPU code cannot be read: {reason!r}")
            continue
        if targets is not None:
            found[library.file] = targets
    summaries = [
        name
        for name in subject.files
        if PurePosixPath(name).name == SUMMARY
        and PurePosixPath(name).parent.name in ("vllm_kernels", "lib")
    ]
    if not summaries and context.own(subject):
        for name in found:
            yield error(_NAME, name, f"it holds AMD GPU code, and no {SUMMARY} declares it")
    for name in summaries:
        try:
            summary = load_json((subject.root / name).read_bytes())
            targets = frozenset(map(str, summary["targets"]))
            folder = PurePosixPath(name).parent
            libraries = {str(folder / one["library"]) for one in summary["families"].values()}
        except (ValueError, KeyError, TypeError, AttributeError) as reason:
            yield error(_NAME, name, f"it is damaged: {reason!r}")
            continue
        for absent in sorted(libraries - set(subject.files)):
            yield error(_NAME, absent, "it is declared, and the package has no such file")
        yield from check_declared(found, libraries, targets)
        wanted = subject.built_for.rocm if subject.built_for else None
        if wanted is not None and targets != frozenset(wanted):
            yield error(
                _NAME,
                name,
                f"it declares {_words(targets)}, and the package was built for "
                f"{_words(frozenset(wanted))}",
            )


def check_declared(
    found: Mapping[str, frozenset[str]], libraries: set[str], targets: frozenset[str]
) -> Iterator[Finding]:
    """Compare libraries that hold GPU code with the declared ones."""
    for library, has in sorted(found.items()):
        if library not in libraries:
            yield error(_NAME, library, f"it holds AMD GPU code, and {SUMMARY} does not name it")
            continue
        if lacks := targets - has:
            yield error(_NAME, library, f"code for {_words(lacks)} is declared and missing")
        if more := has - targets:
            yield error(_NAME, library, f"code for {_words(more)} is not declared")


def _words(targets: frozenset[str]) -> str:
    return ", ".join(sorted(targets))


def read_targets(path: Path) -> frozenset[str] | None:
    """The gfx targets that every kernel file of a library has code for; None without such code.

    Raises:
        ValueError: Bundles that are damaged, compressed, or of different targets.
    """
    with path.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(_SECTION)
        if section is None:
            return None
        return bundled_targets(section.data())


def bundled_targets(data: bytes) -> frozenset[str]:
    """The gfx targets of a section of bundles, one for each file of kernels; errors as above."""
    if _COMPRESSED in data[:4]:
        raise ValueError("its bundles are compressed")
    bundles: set[frozenset[str]] = set()
    start = data.find(_MAGIC)
    if start != 0:
        raise ValueError(f"{_SECTION} does not start with a bundle")
    while start >= 0:
        bundles.add(frozenset(_entries(data, start)))
        start = data.find(_MAGIC, start + len(_MAGIC))
    if len(bundles) != 1:
        raise ValueError(
            "its files are for different targets: "
            + "; ".join(sorted(" ".join(sorted(one)) for one in bundles))
        )
    return bundles.pop()


def _entries(data: bytes, start: int) -> Iterator[str]:
    at = start + len(_MAGIC)
    (count,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    for _ in range(count):
        offset, size, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if at + length > len(data) or start + offset + size > len(data):
            raise ValueError("a bundle reaches past its section")
        name = data[at : at + length].decode("ascii")
        at += length
        if name.startswith(_HOST):
            continue
        code = data[start + offset : start + offset + size]
        if not code.startswith(b"\x7fELF"):
            raise ValueError(f"the code for {name} is no ELF file")
        # hipv4-amdgcn-amd-amdhsa--gfx942, perhaps with features behind a colon
        yield name.partition(":")[0].rpartition("-")[2]
