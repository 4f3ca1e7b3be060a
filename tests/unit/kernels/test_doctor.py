"""python -m vllm_kernels."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from built import require_kernels

require_kernels()


from vllm_kernels import __version__, _doctor, _doctor_flashinfer, backends
from vllm_kernels._libraries import cpu_kernels

Python = Callable[..., "subprocess.CompletedProcess[str]"]

needs_cpu = pytest.mark.skipif("cpu" not in backends(), reason="vllm-kernels-cpu is not built here")

MAPS = """\
7f00-7f01 r-xp 00000000 fe:01 11 /venv/torch/lib/libgomp-24e2ab19.so.1.0.0
7f01-7f02 r--p 00000000 fe:01 11 /venv/torch/lib/libgomp-24e2ab19.so.1.0.0
7f02-7f03 r-xp 00000000 fe:01 {inode} {path}
7f03-7f04 rw-p 00000000 00:00 0
7f04-7f05 r-xp 00000000 fe:01 12 /usr/lib/libgomp_not.txt/other.so
7ffc-7ffd r-xp 00000000 00:00 0 [vdso]
"""


@pytest.mark.parametrize(
    ("inode", "path", "count"),
    [
        (11, "/venv/lib/libgomp.so.1", 1),  # a hard link to the same file
        (13, "/usr/lib/libgomp.so.1.0.0", 2),
        (13, "/opt/lib with space/libiomp5.so", 2),
        (13, "/usr/lib/libm.so.6", 1),
    ],
)
def test_openmp_runtimes_are_counted_by_file(inode: int, path: str, count: int) -> None:
    assert len(_doctor.mapped_libraries(MAPS.format(inode=inode, path=path))) == count


@needs_cpu
def test_report(python: Python) -> None:
    result = python("-m", "vllm_kernels", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == (1 if report["problems"] else 0)
    assert report["version"] == __version__
    assert report["backends"] == ["cpu"]
    assert all(library["loaded"] for library in report["libraries"])
    versions = {library["abi_version"] for library in report["libraries"]} - {None}
    assert len(versions) == 1
    kernels = cpu_kernels()
    assert kernels
    assert report["cpu"]["tiers"] == list(kernels.tiers())
    runnable = [tier for tier, can in kernels.tiers().items() if can]
    assert report["cpu"]["active"] == runnable[-1]
    assert set(report["cpu"]["blocked"]) == set(kernels.tiers()) - set(runnable)


@needs_cpu
def test_forced_tier_is_shown(python: Python) -> None:
    kernels = cpu_kernels()
    assert kernels
    lowest = next(iter(kernels.tiers()))
    result = python("-m", "vllm_kernels", VLLM_KERNELS_CPU_ISA=lowest)
    assert f"CPU tier      {lowest} (VLLM_KERNELS_CPU_ISA={lowest}), of" in result.stdout


@needs_cpu
def test_unknown_forced_tier_is_a_problem(python: Python) -> None:
    result = python("-m", "vllm_kernels", VLLM_KERNELS_CPU_ISA="sse9")
    assert result.returncode == 1
    assert "problem       no CPU kernel can run: unknown CPU tier 'sse9'" in result.stdout


class _Old(_doctor._libraries.Kernels):
    """A library whose upper tiers this CPU lacks."""

    def __init__(self) -> None:
        pass

    def set_isa(self, name: str | None) -> None:
        raise RuntimeError(f"tier {name} needs amx_tile, which this CPU lacks")


def test_why_not_higher() -> None:
    blocked = _doctor._blocked(_Old(), {"avx2": True, "amx": False})
    assert blocked == {"amx": "tier amx needs amx_tile, which this CPU lacks"}


def test_old_torch_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor.torch, "__version__", "2.9.1+cu128")
    assert any("torch 2.9.1+cu128 is older than" in said for said in _doctor._problems())


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, False), ("vllm_kernels", False), ("other,vllm_kernels", False), ("", True),
     ("other", True), ("vllm_kernels_too", True), ("x" * 5000, True)],
)  # fmt: skip
def test_plugins_without_ours_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, value: str | None, told: bool
) -> None:
    """The engine itself says "Device string must not be empty", and not why."""
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    if value is not None:
        monkeypatch.setenv("VLLM_PLUGINS", value)
    said = [one for one in _doctor._problems() if one.startswith("VLLM_PLUGINS=")]
    assert bool(said) == told
    assert all("does not name vllm_kernels" in one and len(one) <= 300 for one in said)


def distribution(site: Path, name: str, version: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")


def flashinfer() -> tuple[list[str], list[str]]:
    report, problems = _doctor_flashinfer.examine()
    return list(_doctor_flashinfer.lines(report)), problems


def test_flashinfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compiled modules, with others', with ours, and with ours damaged."""
    site = tmp_path / "lib/python3.11/site-packages"
    monkeypatch.syspath_prepend(str(site))
    distribution(site, "flashinfer-python", "0.6.14")
    alone = "FlashInfer    0.6.14, none of its modules compiled ahead of time"
    assert flashinfer() == ([alone], [])
    distribution(site, "flashinfer-jit-cache", "0.6.14+cu130")
    said = "FlashInfer    0.6.14, modules of flashinfer-jit-cache 0.6.14+cu130"
    assert flashinfer() == ([said], [])
    folder = tmp_path / "lib/vllm_flashinfer"
    (folder / "rope").mkdir(parents=True)
    summary = folder / "modules.json"
    assert flashinfer() == ([said], [f"{summary} cannot be read; reinstall vllm-flashinfer"])
    summary.write_text(json.dumps({"archs": ["9.0a"], "modules": ["rope"]}))
    found = [said, "  rope        9.0a"]
    missing = "FlashInfer's module rope is missing; reinstall vllm-flashinfer"
    assert flashinfer() == (found, [missing])
    (folder / "rope" / "rope.so").touch()
    assert flashinfer() == (found, [])


def test_flashinfer_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "lib/python3.11/site-packages"))
    assert flashinfer() == ([], [])
    distribution(tmp_path / "lib/python3.11/site-packages", "flashinfer-python", "0.6.15")
    distribution(tmp_path / "lib/python3.11/site-packages", "flashinfer-jit-cache", "0.6.14+cu130")
    (problem,) = flashinfer()[1]
    assert problem == (
        "FlashInfer 0.6.15 refuses the modules of flashinfer-jit-cache 0.6.14+cu130: install both "
        "of one version"
    )


def test_usage_error(python: Python) -> None:
    assert python("-m", "vllm_kernels", "--jsn").returncode == 2
