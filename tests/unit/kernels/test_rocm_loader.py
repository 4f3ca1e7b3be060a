"""Whether the kernels for AMD GPUs are loaded, on which machine, and what is said where not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from built import require_kernels

require_kernels()

import torch

from vllm_kernels import _amd, _backends, _doctor_rocm, _libraries, _rocm

SUMMARY = {
    "schema": 1,
    "compiler": "clang 19.1.7",
    "hip": "6.4",
    "state": "never run on a GPU",
    "report": "https://example.org/issues",
    "targets": ["gfx90a", "gfx942"],
    "families": {"norm": {"title": "RMS norm"}, "rope": {"title": "rotary embedding"}},
}
MI300 = _amd.Gpu(2, "gfx942")
RX6800 = _amd.Gpu(1, "gfx1030")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in _amd.VISIBLE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    _rocm.build.cache_clear()
    yield
    _rocm.build.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library folder with a summary; PyTorch with HIP 6.4, an MI300."""
    (tmp_path / "rocm.json").write_text(json.dumps(SUMMARY))
    monkeypatch.setattr(_libraries, "library_dirs", lambda: [tmp_path])
    monkeypatch.setattr(torch.version, "hip", "6.4.43484")
    monkeypatch.setattr(_amd, "gpus", lambda: (MI300,))
    return tmp_path


def wanted() -> list[str]:
    return [one.library for one in _rocm.wanted()]


def test_all_families_on_a_gpu_of_the_build(folder: Path) -> None:
    assert wanted() == ["vllm_kernels_rocm_norm", "vllm_kernels_rocm_rope"]
    assert _rocm.unusable() is None


def test_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libraries, "library_dirs", lambda: [tmp_path])
    assert wanted() == []
    assert _rocm.reason("norm") == "vllm-kernels-rocm is not installed; it has never run on a GPU"
    assert _doctor_rocm.examine() == (None, [])


@pytest.mark.parametrize(
    ("hip", "sentence"),
    [
        (None, "was built without ROCm; install a ROCm build of pytorch"),
        ("7.2.1", "built with HIP 6.4 and PyTorch with 7.2.1; both must be of one major version"),
    ],
)
def test_other_pytorch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hip: str | None, sentence: str
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    assert wanted() == []
    assert sentence in str(_rocm.unusable())
    report, problems = _doctor_rocm.examine()
    assert report
    assert sentence in str(report.unusable)
    assert any(sentence in problem for problem in problems)


def test_gpu_without_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_amd, "gpus", lambda: (RX6800,))
    assert wanted() == []
    assert _rocm.unusable() == "this build has gfx90a gfx942; this GPU is gfx1030"
    monkeypatch.setattr(_amd, "gpus", lambda: (RX6800, MI300))
    assert wanted()


def test_machine_without_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_amd, "gpus", tuple)
    assert _rocm.unusable() == "the amdgpu driver finds no GPU"
    # Where the kernel has no list of them, HIP will tell.
    monkeypatch.setattr(_amd, "gpus", lambda: None)
    assert wanted()


@pytest.mark.parametrize("name", _amd.VISIBLE_VARIABLES)
@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert _rocm.unusable() == f"{name} hides every GPU"
    monkeypatch.setenv(name, "0")
    assert wanted()


def test_family_of_nvidia_instructions(folder: Path) -> None:
    assert "made of NVIDIA's instructions" in _rocm.reason("attention")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is damaged"),
        (json.dumps({**SUMMARY, "schema": 9}), "has schema 9, this vllm_kernels reads 1"),
        (json.dumps({**SUMMARY, "families": 3}), "is damaged"),
    ],
)
def test_bad_summary(folder: Path, text: str, sentence: str) -> None:
    (folder / "rocm.json").write_text(text)
    with pytest.raises(_libraries.LoadError, match=sentence):
        _rocm.build()
    report, (problem,) = _doctor_rocm.examine()
    assert report is None
    assert sentence in problem


def test_loaded_families_are_said_to_have_never_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_backends, "_loaded", [])
    monkeypatch.setattr(_backends, "_bindings", [])
    monkeypatch.setattr(_libraries, "load_ops", lambda name: True)
    monkeypatch.setattr(_libraries, "cpu_kernels", lambda: None)
    with caplog.at_level(logging.WARNING):
        _backends.load()
    assert _backends.backends() == ("rocm",)
    assert (
        "never run on a GPU: check results, and say how it went at https://example.org/issues"
        in (caplog.text)
    )
    report, problems = _doctor_rocm.examine()
    assert report
    assert report.families == {"norm": True, "rope": True}
    text = "\n".join(_doctor_rocm.lines(report))
    assert "built with HIP 6.4 for gfx90a gfx942, PyTorch with 6.4.43484" in text
    assert "never run on a GPU: say how it went at https://example.org/issues" in text
    assert [problem.split(":")[0] for problem in problems] == ["norm", "rope"]  # no file here


def test_missing_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backends, "_loaded", [])
    monkeypatch.setattr(_libraries, "cpu_kernels", lambda: None)
    with pytest.raises(_libraries.LoadError, match="missing: reinstall vllm-kernels-rocm"):
        _backends.load()


@pytest.mark.parametrize(
    ("version", "target"),
    [
        ("90010", "gfx90a"),
        ("90402", "gfx942"),
        ("100300", "gfx1030"),
        ("110000", "gfx1100"),
        ("120001", "gfx1201"),
        ("0", ""),
        ("many", ""),
    ],
)
def test_kernel_list_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, target: str
) -> None:
    for number, text in (("0", "cpu_cores_count 64\ngfx_target_version 0\n"), ("10", "")):
        (tmp_path / number).mkdir()
        (tmp_path / number / "properties").write_text(text)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "properties").write_text(f"simd_count 304\ngfx_target_version {version}\n")
    monkeypatch.setattr(_amd, "TOPOLOGY", tmp_path)
    _amd.gpus.cache_clear()
    found = _amd.gpus()
    monkeypatch.setattr(_amd, "TOPOLOGY", tmp_path / "absent")
    _amd.gpus.cache_clear()
    assert _amd.gpus() is None
    _amd.gpus.cache_clear()
    assert found == ((_amd.Gpu(2, target),) if target else ())
