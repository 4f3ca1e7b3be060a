"""The same sources give bit-identical packages, in whatever folder and cache they are built."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import support

from vllm_conda.jobs import select
from vllm_conda.targets import load_targets

VARIANTS = ("linux-64-cpu-x86-64-v3", "linux-64-cpu-x86-64-v4")


def build_in(
    root: Path, cache: Path, channels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Build in ``root`` with a cache of its own; package name -> SHA-256."""
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(cache))
    monkeypatch.setenv("RATTLER_CACHE_DIR", str(cache / "rattler"))
    support.build(root, channels, VARIANTS)
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((root / "output" / "linux-64").glob("*.conda"))
    }


def explain(first: Path, second: Path) -> str:
    """Where two packages of one name differ, for the assertion's message."""
    names = []
    with zipfile.ZipFile(first) as left, zipfile.ZipFile(second) as right:
        for name in left.namelist():
            if name not in right.namelist() or left.read(name) != right.read(name):
                names.append(name)
        if left.namelist() == right.namelist():
            dates = [a.date_time for a in left.infolist()], [b.date_time for b in right.infolist()]
            if dates[0] != dates[1]:
                names.append(f"dates in the archive: {dates}")
    return f"{first.name} differs in {', '.join(names) or 'the archive itself'}"


def compare(first: Path, second: Path, ours: dict[str, str], theirs: dict[str, str]) -> None:
    assert set(ours) == set(theirs)
    different = [
        explain(*(root / "output" / "linux-64" / name for root in (first, second)))
        for name in ours
        if ours[name] != theirs[name]
    ]
    assert not different, "\n".join(different)


def test_two_folders_give_the_same_bits(
    checkout: Path, dummies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(support.ROOT / "src"))
    monkeypatch.setenv("CONDA_OVERRIDE_ARCHSPEC", "x86_64_v4")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    elsewhere = tmp_path / "a folder with a longer name" / "checkout"
    shutil.copytree(checkout, elsewhere)
    # Files are newer there, and what the umask leaves of their modes is another thing.
    for path in elsewhere.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    ours = build_in(checkout, tmp_path / "cache", (dummies,), monkeypatch)
    theirs = build_in(elsewhere, tmp_path / "other" / "cache", (dummies,), monkeypatch)
    assert len(ours) == 5
    compare(checkout, elsewhere, ours, theirs)
    records = json.loads((checkout / "output/linux-64/repodata.json").read_text())
    times = {record["timestamp"] for record in records["packages.conda"].values()}
    assert times == {1_700_000_000_000}


@pytest.mark.skipif(
    not support.SLOW, reason=f"compiles everything twice; {support.SLOW_VARIABLE}=1 runs it"
)
@pytest.mark.parametrize("platform", ["linux-64", "linux-aarch64", "linux-ppc64le"])
def test_two_checkouts_compile_to_the_same_bits(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    # Else the second one would be the first one's objects.
    monkeypatch.setenv("CCACHE_RECACHE", "1")
    names = tuple(
        job.name
        for job in select(load_targets(support.ROOT), platforms=[platform])
        if job.device == "cpu"
    )
    found = []
    for place in ("checkout", "a longer name/checkout"):
        root = tmp_path / place
        copy_checkout(root)
        support.build(root, (), names)
        folder = root / "output" / platform
        found.append(
            {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.conda")}
        )
    # Beside each job's kernels: the core, vllm-kernels, and what serves.
    served = load_targets(support.ROOT).platforms[platform].engine
    assert len(found[0]) == len(names) + 2 + served
    assert found[0] == found[1]


def copy_checkout(root: Path) -> None:
    """The files that git knows, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=support.ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (support.ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(support.ROOT / name, root / name)
