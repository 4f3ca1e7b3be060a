"""Compiles modules of FlashInfer ahead of time: what the recipe's build script runs.

FlashInfer's own generators say of which sources and with which options a module is made; they need
PyTorch and no GPU. Modules are words of targets.toml's [flashinfer.sets]: the name of a generator
(`sampling` is flashinfer.jit.sampling.gen_sampling_module), or attention, as
`prefill-DTYPE-HEAD-BACKEND`.

    python compile_modules.py --wheel flashinfer_python-*.whl --work WORK --output FOLDER \
        --arch 9.0a sampling page
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Included by way of flashinfer/trtllm/common/cudaUtils.h, and not used: the wheel with the real
# ones has 419 MB.
UNUSED_HEADERS = ("cublas_v2.h", "cublasLt.h")
# What a build's folders are called in finished packages.
NEUTRAL = "/usr/local/src/conda/flashinfer"
SUMMARY = "modules.json"
# GiB that the largest compile takes: of attention on Hopper's instructions, and of the others.
ATTENTION_GIB, GIB = 3.5, 1.0
# Of ELF's symbols.
DYNAMIC_SYMBOLS, SYMBOL_BYTES, GLOBAL, WEAK = 11, 24, 1, 2
# Where a container's limit of memory stands, by cgroups' version: 2 and 1.
CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def includes(work: Path, places: Sequence[Path]) -> list[str]:
    """Options for the headers that are neither FlashInfer's nor the compiler's."""
    unused = work / "unused"
    unused.mkdir()
    for name in UNUSED_HEADERS:
        (unused / name).touch()
    found = [place for place in places if (place / "curand_kernel.h").is_file()]
    if not found:
        sys.exit(
            f"error: curand_kernel.h is in none of {', '.join(map(str, places)) or 'no place'}"
        )
    return ["-isystem", str(unused), "-isystem", str(found[0])]


def driver(work: Path) -> str:
    """An option for an empty libcuda to link with: at run time it is the driver's."""
    folder = work / "driver"
    folder.mkdir()
    source = folder / "empty.c"
    source.touch()
    compiler = shlex.split(os.environ.get("CC", "cc"))
    names = ["-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so"), str(source)]
    subprocess.run([*compiler, "-shared", *names], check=True)
    return f"-L{folder}"


def jobs(words: Sequence[str]) -> int:
    """Compiles at once: one for each core, as far as memory reaches."""
    each = ATTENTION_GIB if any(word.endswith("-fa3") for word in words) else GIB
    return max(1, min(len(os.sched_getaffinity(0)), int(memory_gib() / each)))


def memory_gib() -> float:
    """The machine's memory, or its container's where that is less."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in LIMITS:
        try:
            found.append(int((CGROUP / name).read_text()))
        except (OSError, ValueError):  # no such file, or `max`
            continue
    return min(found) / 2**30


def variables(work: Path, arch: str, places: Sequence[Path]) -> dict[str, str]:
    """What FlashInfer's generators read: conda's options, for host code in .cu files too."""
    host = [*shlex.split(os.environ.get("CXXFLAGS", "")), f"-ffile-prefix-map={work}={NEUTRAL}"]
    link = [*shlex.split(os.environ.get("LDFLAGS", "")), "-Wl,--build-id=none", driver(work)]
    launcher = shutil.which("ccache") or ""
    return {
        "FLASHINFER_CUDA_ARCH_LIST": arch,
        "FLASHINFER_WORKSPACE_BASE": str(work / "workspace"),
        "FLASHINFER_EXTRA_CFLAGS": shlex.join(host),
        "FLASHINFER_EXTRA_CUDAFLAGS": shlex.join(
            [*includes(work, places), *(f"-Xcompiler={option}" for option in host)]
        ),
        "FLASHINFER_EXTRA_LDFLAGS": shlex.join(link),
        "FLASHINFER_CXX_LAUNCHER": launcher,
        "FLASHINFER_NVCC_LAUNCHER": launcher,
    }


def specification(word: str) -> Any:
    """What FlashInfer says of one module."""
    if not word.startswith("prefill-"):
        return getattr(importlib.import_module(f"flashinfer.jit.{word}"), f"gen_{word}_module")()
    import torch
    from flashinfer.jit import gen_batch_prefill_module

    _, dtype, head, backend = word.split("-")
    kind, size = getattr(torch, dtype), int(head)
    return gen_batch_prefill_module(
        backend, kind, kind, kind, torch.int32, size, size, 0, False, False, False
    )


def weaken(file: Path) -> int:
    """Make names of FlashInfer's that a library lacks weak; returns how many there were.

    Its prefill by fa2 refers to kernels for heads of 512 in modules of smaller heads, which never
    call them. Upstream resolves names at the first call; conda's options, when a library is loaded.
    """
    content, found = bytearray(file.read_bytes()), 0
    (start,) = struct.unpack_from("<Q", content, 40)
    size, count = struct.unpack_from("<HH", content, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, start + i * size) for i in range(count)]
    for symbols in (one for one in sections if one[1] == DYNAMIC_SYMBOLS):
        names = sections[symbols[6]][4]
        for at in range(symbols[4], symbols[4] + symbols[5], SYMBOL_BYTES):
            name, info, _, section = struct.unpack_from("<IBBH", content, at)
            text = content[names + name : content.index(0, names + name)]
            if section == 0 and info >> 4 == GLOBAL and b"flashinfer" in text:
                content[at + 4] = WEAK << 4 | info & 15
                found += 1
    file.write_bytes(content)
    return found


def compile_modules(words: Sequence[str], output: Path) -> list[str]:
    """Compile modules into ``output``, as NAME/NAME.so; returns their names."""
    from flashinfer.jit import build_jit_specs

    specs = [specification(word) for word in words]
    build_jit_specs(specs, verbose=True, skip_prebuilt=False)
    strip = shlex.split(os.environ.get("STRIP", "strip"))
    for spec in specs:
        target = output / spec.name / f"{spec.name}.so"
        target.parent.mkdir(parents=True)
        shutil.copy(spec.jit_library_path, target)
        subprocess.run([*strip, "--strip-all", str(target)], check=True)
        if found := weaken(target):
            print(f"{spec.name}: {found} names that it lacks and never calls")
    return [str(spec.name) for spec in specs]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile modules of FlashInfer ahead of time.")
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder, emptied first")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arch", required=True, help="what is compiled for, such as 9.0a")
    parser.add_argument("--include", type=Path, action="append", default=[], help="of cuRAND")
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    options = parser.parse_args()
    started, work = time.monotonic(), options.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    source = work / "source"
    with zipfile.ZipFile(options.wheel) as archive:
        archive.extractall(source)
    os.environ.update(variables(work, options.arch, options.include))
    os.environ.setdefault("MAX_JOBS", str(jobs(options.modules)))
    sys.path.insert(0, str(source))
    names = compile_modules(options.modules, options.output)
    from flashinfer import __version__
    from flashinfer.jit.cpp_ext import get_cuda_version

    summary = {
        "flashinfer": __version__,
        "cuda": str(get_cuda_version()),
        "archs": [options.arch],
        "modules": names,
    }
    (options.output / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"compiled {len(names)} modules in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
