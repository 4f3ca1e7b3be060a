"""libsolv with its conda rules, which decide for conda's default solver, mamba and micromamba.

Debian's own libsolv is built without them. ``VLLM_CONDA_TEST_LIBSOLV`` names a folder with
libsolv.so.1 and libsolvext.so.1 of a build with ``-DENABLE_CONDA=ON``.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

VARIABLE = "VLLM_CONDA_TEST_LIBSOLV"
_DISTTYPE_CONDA = 4
_INSTALL = 0x0100 | 0x03  # SOLVER_INSTALL | SOLVER_SOLVABLE_PROVIDES
_TRANSACTION_SOLVABLES = 2


class _Queue(ctypes.Structure):
    _fields_ = (
        ("elements", ctypes.POINTER(ctypes.c_int)),
        ("count", ctypes.c_int),
        ("alloc", ctypes.c_void_p),
        ("left", ctypes.c_int),
    )


class _Transaction(ctypes.Structure):
    _fields_ = (("pool", ctypes.c_void_p), ("steps", _Queue))


def missing() -> str:
    """Why libsolv cannot be asked here, or nothing."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return f"{VARIABLE} names no libsolv that was built with ENABLE_CONDA"
    absent = [n for n in ("libsolv.so.1", "libsolvext.so.1") if not (Path(folder) / n).is_file()]
    return f"{folder} has no {absent[0]}" if absent else ""


def _library() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    folder = Path(os.environ[VARIABLE])
    core = ctypes.CDLL(str(folder / "libsolv.so.1"), mode=ctypes.RTLD_GLOBAL)
    extension = ctypes.CDLL(str(folder / "libsolvext.so.1"))
    pointer = ctypes.c_void_p
    for library, name, result, arguments in (
        (core, "pool_create", pointer, []),
        (core, "pool_free", None, [pointer]),
        (core, "pool_setdisttype", ctypes.c_int, [pointer, ctypes.c_int]),
        (core, "pool_createwhatprovides", None, [pointer]),
        (core, "pool_conda_matchspec", ctypes.c_int, [pointer, ctypes.c_char_p]),
        (extension, "testcase_solvid2str", ctypes.c_char_p, [pointer, ctypes.c_int]),
        (core, "repo_create", pointer, [pointer, ctypes.c_char_p]),
        (extension, "repo_add_conda", ctypes.c_int, [pointer, pointer, ctypes.c_int]),
        (core, "solver_create", pointer, [pointer]),
        (core, "solver_solve", ctypes.c_int, [pointer, pointer]),
        (core, "solver_create_transaction", pointer, [pointer]),
        (core, "queue_init", None, [pointer]),
        (core, "queue_insert", None, [pointer, ctypes.c_int, ctypes.c_int]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return core, extension


def solve(
    repodata: Sequence[Path], specs: Sequence[str], virtual: Mapping[str, str], scratch: Path
) -> list[str]:
    """Names, versions and builds of what libsolv installs, ``name-version-build``; none: refused.

    Args:
        repodata: ``repodata.json`` files of one platform and of noarch.
        virtual: Virtual packages as ``version`` or ``version=build``.
    """
    core, extension = _library()
    libc = ctypes.CDLL(None)
    libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    pool = core.pool_create()
    core.pool_setdisttype(pool, _DISTTYPE_CONDA)
    for number, file in enumerate((*repodata, _virtual(virtual, scratch))):
        repo = core.repo_create(pool, f"repo{number}".encode())
        stream = libc.fopen(str(file).encode(), b"r")
        assert stream, file
        assert extension.repo_add_conda(repo, stream, 0) == 0, file
        libc.fclose(stream)
    core.pool_createwhatprovides(pool)
    jobs = _Queue()
    core.queue_init(ctypes.byref(jobs))
    for spec in specs:
        for word in (_INSTALL, core.pool_conda_matchspec(pool, spec.encode())):
            core.queue_insert(ctypes.byref(jobs), jobs.count, word)
    solver = core.solver_create(pool)
    if core.solver_solve(solver, ctypes.byref(jobs)):
        return []
    steps = _Transaction.from_address(core.solver_create_transaction(solver)).steps
    names = [
        extension.testcase_solvid2str(pool, steps.elements[n]).decode() for n in range(steps.count)
    ]
    return sorted(name.rpartition("@")[0] for name in names if not name.startswith("__"))


def _virtual(found: Mapping[str, str], scratch: Path) -> Path:
    rows: dict[str, Any] = {}
    for name, text in found.items():
        version, _, build = text.partition("=")
        rows[f"{name}-{version}-{build or 0}.tar.bz2"] = {
            "name": name, "version": version, "build": build or "0", "build_number": 0,
            "depends": [], "subdir": "noarch",
        }  # fmt: skip
    file = scratch / "virtual.json"
    file.write_text(json.dumps({"info": {"subdir": "noarch"}, "packages": rows}))
    return file


def files(*channels: str) -> Iterator[Path]:
    """The lists of packages of channels that are folders."""
    for channel in channels:
        yield from sorted(Path(channel.removeprefix("file://")).glob("*/repodata.json"))
