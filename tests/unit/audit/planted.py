"""Packages with planted faults: tiny libraries, packed as conda packages or wheels."""

from __future__ import annotations

import io
import json
import platform
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from vllm_conda.audit.finding import Finding, Severity
from vllm_conda.audit.run import Request, audit

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("g++") is None, reason="needs gcc and g++ on PATH"
)

GOOD = ("-Wl,-z,relro,-z,now,-z,noexecstack", "-s")
SHADOW_STACKS = ("-fcf-protection", "-Wl,-z,shstk") if platform.machine() == "x86_64" else ()
NO_SHADOW_STACKS = "-fcf-protection=none"
# e_machine of the ELF header
MACHINES = {"aarch64": 183, "ppc64le": 21}


def library(path: Path, source: str, *flags: str, language: str = "c") -> Path:
    """Compile ``source`` to a library that is linked well, unless ``flags`` say otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler = "g++" if language == "c++" else "gcc"
    command = [compiler, "-shared", "-fPIC", "-O1", "-fno-stack-protector", "-x", language, "-"]
    # What follows is libraries, no longer source.
    command += ["-x", "none", "-o", str(path), *GOOD, *flags]
    if NO_SHADOW_STACKS not in flags:
        command += SHADOW_STACKS
    subprocess.run(
        command,
        input=source,
        text=True,
        check=True,
    )
    return path


def words(path: Path, machine: str, code: Sequence[int]) -> Path:
    """A library of another machine whose code is these 32-bit words."""
    numbers = ", ".join(hex(word) for word in code)
    library(path, f'__asm__(".text\\n.long {numbers}\\n");', "-nostdlib", "-Wl,--build-id=none")
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, 18, MACHINES[machine])
    path.write_bytes(content)
    return path


def conda(
    folder: Path,
    files: Mapping[str, bytes | Path],
    depends: Sequence[str] = (),
    name: str = "planted",
    subdir: str = "linux-64",
    **index: object,
) -> Path:
    """A conda package in the old format, which the standard library can write."""
    about = {"name": name, "version": "1", "build": "0", "build_number": 0, "subdir": subdir}
    about |= {"depends": list(depends), "license": "MIT", **index}
    content: dict[str, bytes | Path] = {
        "info/index.json": json.dumps(about).encode(),
        "info/paths.json": b'{"paths": [], "paths_version": 1}',
        "info/licenses/LICENSE": b"licence\n",
        **files,
    }
    path = folder / f"{name}-1-0.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        for member, value in content.items():
            if value == b"" and member.startswith("info/"):
                continue  # left out on purpose
            data = value if isinstance(value, bytes) else value.read_bytes()
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def wheel(
    folder: Path,
    files: Mapping[str, bytes | Path],
    tag: str = "cp311-cp311-manylinux_2_17_x86_64",
    requires: Sequence[str] = (),
) -> Path:
    path = folder / f"planted-1-{tag}.whl"
    metadata = ["Metadata-Version: 2.4", "Name: planted", "Version: 1", "License-Expression: MIT"]
    metadata += [f"Requires-Dist: {one}" for one in requires]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("planted-1.dist-info/METADATA", "\n".join(metadata) + "\n")
        archive.writestr("planted-1.dist-info/licenses/LICENSE", "licence\n")
        for member, value in files.items():
            archive.writestr(member, value if isinstance(value, bytes) else value.read_bytes())
    return path


def findings(path: Path, request: Request | None = None) -> list[Finding]:
    """Errors and warnings of one package."""
    report = audit([path], request or Request())
    return [
        finding
        for package in report.packages
        for finding in package.findings
        if finding.severity is not Severity.NOTE
    ]


def only(path: Path, check: str, request: Request | None = None) -> Finding:
    """The one finding, which has to be of ``check``: the fault is found and nothing else."""
    found = findings(path, request)
    assert [finding.check for finding in found] == [check], found
    return found[0]
