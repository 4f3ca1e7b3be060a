"""A site's mirror of conda-forge, as far as solving needs it: metadata without packages.

A checkout's own output holds the project's packages alone. What they run on comes from the site;
whether it fits a node is decided by the solver, on these records. `assumed.toml` says what they
are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from vllm_conda import microarch, platforms
from vllm_conda.paths import cache_root, write_atomic
from vllm_cuda_plan.__main__ import load_table
from vllm_cuda_plan.arch import parse_version
from vllm_cuda_plan.rocm import load_rocm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATA_FILE = "assumed.toml"
# As on conda-forge, CUDA builds are preferred where they fit.
_CUDA_NUMBER = 200
# A site's ROCm build is for those who ask for it.
_CPU_NUMBER = 1


def ensure_channel(cache: Path | None = None) -> str:
    """Write the channel into the cache unless it is there; return its address.

    Raises:
        DiskError: The cache is not writable.
    """
    texts = {
        subdir: json.dumps({"info": {"subdir": subdir}, "packages": {}, "packages.conda": rows})
        for subdir, rows in _records().items()
    }
    key = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]
    folder = (cache or cache_root()) / "assumed" / key
    for subdir, text in texts.items():
        path = folder / subdir / "repodata.json"
        if not path.is_file():
            write_atomic(path, text)
    return folder.as_uri()


def _records() -> dict[str, dict[str, dict[str, Any]]]:
    text = files(__package__).joinpath(DATA_FILE).read_text(encoding="utf-8")
    table = tomllib.loads(text)["packages"]
    found: dict[str, dict[str, dict[str, Any]]] = {"noarch": {}}
    for platform, entry in platforms.table().items():
        rows = [row for name, facts in table.items() for row in _package(name, facts, platform)]
        found[platform] = {row["file"]: _record(row, platform) for row in rows}
        for level in sorted(set(microarch.levels(entry.family).values())):
            matcher = microarch.build_matcher(entry.family, level)
            name = f"_{entry.family}-microarch-level"
            depends = [f"__archspec[version='1.*', build='{matcher}']"]
            row = _row(name, str(level), f"level{level}_0", depends)
            found["noarch"][row["file"]] = _record(row, "noarch")
    return found


def cuda_versions(platform: str) -> list[str]:
    """Those that conda-forge makes packages with; where it makes none, all that the project has."""
    offered = {v: t for v, t in load_table().toolkits.items() if platform in t.platforms}
    forge = [version for version, toolkit in offered.items() if toolkit.conda_forge]
    return sorted(forge or offered, key=parse_version)


def _package(name: str, facts: dict[str, Any], platform: str) -> Iterator[dict[str, Any]]:
    device = facts.get("device", "cpu")
    floor = [f"__glibc >={facts['glibc']},<3.0.a0"] if "glibc" in facts else []

    def row(version: str, build: str, more: list[str], number: int = 0) -> dict[str, Any]:
        named = [spec.format(version=version, build=build) for spec in facts.get("depends", ())]
        return _row(name, version, build, [*floor, *named, *more], number)

    if device != "cuda":
        yield from (row(version, "cpu_0", [], _CPU_NUMBER) for version in facts["versions"])
    if device == "both" and platform in load_rocm().platforms:
        yield from (row(version, "rocm_0", ["__amdgpu"]) for version in facts["versions"])
    if device == "cpu":
        return
    for cuda in cuda_versions(platform):
        major = cuda.partition(".")[0]
        build = f"cuda{cuda.replace('.', '')}_0"
        if name == "cuda-version":
            made = row(cuda, "0", [])
            yield {**made, "constrains": [f"__cuda >={major}"]}
            continue
        needs = [f"cuda-version >={cuda},<{int(major) + 1}"]
        if device == "both":  # PyTorch: so that no machine without a GPU gets it
            needs.append("__cuda")
        for version in facts["versions"] or [cuda]:
            yield row(version, build, needs, _CUDA_NUMBER)


def _row(
    name: str, version: str, build: str, depends: list[str], number: int = 0
) -> dict[str, Any]:
    return {
        "file": f"{name}-{version}-{build}.conda",
        "name": name,
        "version": version,
        "build": build,
        "build_number": number,
        "depends": depends,
        "constrains": [],
    }


def _record(row: dict[str, Any], subdir: str) -> dict[str, Any]:
    digest = hashlib.sha256(f"{subdir}/{row['file']}".encode()).hexdigest()
    known = {key: value for key, value in row.items() if key != "file"}
    return {**known, "subdir": subdir, "sha256": digest, "size": 0}
