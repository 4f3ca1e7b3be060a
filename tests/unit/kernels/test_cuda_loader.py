"""Which CUDA families are loaded on which machine, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from built import require_kernels

require_kernels()

import torch

from vllm_kernels import _cuda, _doctor_cuda, _driver, _libraries

H100 = _driver.Gpu(0, "NVIDIA H100", "9.0")
A10 = _driver.Gpu(0, "NVIDIA A10", "8.6")
B300 = _driver.Gpu(1, "NVIDIA B300", "10.3")
V100 = _driver.Gpu(0, "Tesla V100", "7.0")
NEXT = _driver.Gpu(0, "NVIDIA next", "14.0")


def family(archs: list[str], ptx: list[str], serves: dict[str, str]) -> dict[str, Any]:
    return {"title": "", "archs": archs, "ptx": ptx, "serves": serves}


SUMMARY = {
    "schema": 1,
    "cuda": "13.0",
    "driver": "580.65.06",
    "families": {
        "norm": family(
            ["8.0", "9.0", "12.0"],
            ["12.0"],
            {"8.0": "8.0", "8.6": "8.0", "9.0": "9.0", "12.0": "12.0", "12.1": "12.0"},
        ),
        "marlin": family(["9.0a"], [], {"9.0": "9.0a"}),
    },
    "left_out": {"sparse_gemm": "needs 9.0a"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library folder with a summary; PyTorch with CUDA 13, a driver for 13.0, an H100."""
    (tmp_path / "cuda.json").write_text(json.dumps(SUMMARY))
    monkeypatch.setattr(_libraries, "library_dirs", lambda: [tmp_path])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_driver, "has_cuda", lambda: True)
    monkeypatch.delenv(_driver.VISIBLE_VARIABLE, raising=False)
    machine(monkeypatch, H100)
    return tmp_path


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    _cuda.build.cache_clear()
    yield
    _cuda.build.cache_clear()


def machine(patch: pytest.MonkeyPatch, *gpus: _driver.Gpu, cuda: str = "13.0") -> None:
    found = _driver.Driver("580.82.07", cuda, gpus)
    patch.setattr(_driver, "driver", lambda: found)


def wanted() -> list[str]:
    return [one.name for one in _cuda.wanted()]


def test_all_families_that_serve_the_gpu(folder: Path) -> None:
    assert wanted() == ["norm", "marlin"]


def test_family_for_another_gpu_is_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, A10)
    assert wanted() == ["norm"]
    assert _cuda.reason("marlin") == ("marlin: this build has 9.0a; this GPU is 8.6 (NVIDIA A10)")


def test_one_served_gpu_among_several_is_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, H100, B300)
    assert wanted() == ["norm", "marlin"]


def test_newer_gpu_by_ptx(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, NEXT)
    assert wanted() == ["norm"]
    installed = _cuda.build()
    assert installed
    assert installed.families["norm"].code_for("14.0") == "PTX 12.0"


def test_family_without_gpu_code_serves_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {**SUMMARY, "families": {"runtime": family([], [], {"9.0": "any"})}}
    (folder / "cuda.json").write_text(json.dumps(data))
    for gpu in (V100, NEXT):
        machine(monkeypatch, gpu)
        assert wanted() == ["runtime"]
    installed = _cuda.build()
    assert installed
    assert installed.families["runtime"].content == "any"


def test_older_gpu_gets_no_ptx(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, V100)
    assert wanted() == []
    assert _cuda.reason("norm") == (
        "norm: this build has 8.0 9.0 12.0+PTX; this GPU is 7.0 (Tesla V100)"
    )


def test_ptx_needs_a_driver_as_new_as_the_build(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {**SUMMARY, "cuda": "13.4"}
    (folder / "cuda.json").write_text(json.dumps(data))
    machine(monkeypatch, NEXT, cuda="13.0")
    assert wanted() == []
    assert "needs a driver for CUDA 13.4 to compile the PTX" in _cuda.reason("norm")
    machine(monkeypatch, NEXT, cuda="13.4")
    assert wanted() == ["norm"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda p: p.setattr(torch.version, "cuda", None), "was built without CUDA"),
        (lambda p: p.setattr(torch.version, "cuda", "12.9"), "PyTorch with 12.9; both must be"),
        (lambda p: p.setattr(_driver, "has_cuda", lambda: False), "no NVIDIA driver"),
        (lambda p: p.setenv("CUDA_VISIBLE_DEVICES", ""), "CUDA_VISIBLE_DEVICES hides every GPU"),
        (lambda p: p.setenv("CUDA_VISIBLE_DEVICES", "-1"), "hides every GPU"),
        (lambda p: machine(p), "(580.82.07) finds no GPU"),
        (lambda p: machine(p, H100, cuda="12.9"), "needs driver 580.65.06 or newer"),
    ],
)
def test_unusable(folder: Path, monkeypatch: pytest.MonkeyPatch, change: Any, part: str) -> None:
    change(monkeypatch)
    said = _cuda.unusable()
    assert said
    assert part in said
    assert wanted() == []
    assert _cuda.reason("norm") == said


def test_without_nvml_everything_is_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_driver, "driver", lambda: None)
    assert wanted() == ["norm", "marlin"]


def test_left_out_families_say_why(folder: Path) -> None:
    assert _cuda.reason("sparse_gemm") == "sparse_gemm: left out of this build: it needs 9.0a"
    assert "has no kernels in this version" in _cuda.reason("unheard")


def test_nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libraries, "library_dirs", lambda: [tmp_path])
    assert wanted() == []
    assert "conda install vllm-kernels-cuda" in _cuda.reason("norm")
    assert _doctor_cuda.examine() == (None, [])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema": 2}', "has schema 2, this vllm_kernels reads 1: install vllm-core and"),
        ('{"schema": 1, "cuda": "13.0"}', "is damaged"),
    ],
)
def test_damaged_summary(folder: Path, text: str, part: str) -> None:
    (folder / "cuda.json").write_text(text)
    with pytest.raises(_libraries.LoadError, match=part):
        _cuda.build()
    report, problems = _doctor_cuda.examine()
    assert report is None
    assert part in problems[0]


def test_doctor_names_each_family(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, A10)
    (folder / "libvllm_kernels_cuda_norm.so").touch()
    (folder / "libvllm_kernels_cuda_marlin.so").touch()
    report, problems = _doctor_cuda.examine()
    assert problems == []
    assert report
    by_name = {one.name: one for one in report.families}
    assert by_name["norm"].gpus == ["8.0"]
    assert by_name["marlin"].gpus == [None]
    assert by_name["marlin"].reason == "this build has 9.0a; this GPU is 8.6 (NVIDIA A10)"
    text = "\n".join(_doctor_cuda.lines(report))
    assert "driver 580.82.07 (CUDA 13.0)" in text
    assert "GPU 0       NVIDIA A10, 8.6" in text
    assert "marlin      9.0a: not loaded: this build has 9.0a; this GPU is 8.6" in text
    assert "sparse_gemm not in this build: needs 9.0a" in text


def test_doctor_problems(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, V100)
    _, problems = _doctor_cuda.examine()
    said = "\n".join(problems)
    assert "no installed CUDA kernel runs on GPU 0 (Tesla V100, 7.0)" in said
    assert "libvllm_kernels_cuda_norm.so is missing" in said
    machine(monkeypatch, H100, cuda="12.8")
    _, problems = _doctor_cuda.examine()
    assert "driver 580.82.07 serves CUDA 12.8 at most" in problems[0]


def test_login_node_is_no_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("norm", "marlin"):
        (folder / f"libvllm_kernels_cuda_{name}.so").touch()
    monkeypatch.setattr(_driver, "has_cuda", lambda: False)
    monkeypatch.setattr(_driver, "driver", lambda: None)
    report, problems = _doctor_cuda.examine()
    assert problems == []
    assert report
    assert report.unusable == "this machine has no NVIDIA driver (libcuda.so.1)"


def test_run_times_are_counted_by_file() -> None:
    maps = (
        "7f00-7f01 r-xp 00000000 fe:01 11 /env/lib/libcudart.so.13.0.96\n"
        "7f01-7f02 r--p 00000000 fe:01 11 /env/lib/libcudart.so.13\n"
        "7f02-7f03 r-xp 00000000 fe:01 12 /site/nvidia/cu13/lib/libcudart.so.13\n"
        "7f03-7f04 r-xp 00000000 fe:01 13 /usr/lib/libcuda.so.1\n"
    )
    assert len(_doctor_cuda.mapped_runtimes(maps)) == 2


def test_pip_over_conda(monkeypatch: pytest.MonkeyPatch) -> None:
    installers = {"vllm-kernels": "conda", "torch": "pip", "nvidia-cuda-runtime": "conda"}
    monkeypatch.setattr(_doctor_cuda, "_installer", lambda name: installers.get(name, ""))
    said = _doctor_cuda.shadowing()
    assert len(said) == 1
    assert "pip has installed torch" in said[0]
    assert "`pip uninstall torch`" in said[0]
    installers["vllm-kernels"] = "pip"
    assert _doctor_cuda.shadowing() == []


def test_family_of_an_op() -> None:
    assert _libraries.family_of("rms_norm") == "norm"
    assert _libraries.family_of("unheard_of") == ""


def test_driver_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(_driver.ctypes, "CDLL", absent)
    _driver.driver.cache_clear()
    _driver.has_cuda.cache_clear()
    try:
        assert _driver.driver() is None
        assert _driver.has_cuda() is False
    finally:
        _driver.driver.cache_clear()
        _driver.has_cuda.cache_clear()


def test_families_of_a_package_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    general = {**SUMMARY, "left_out": {"mla": "is in vllm-flashmla"}}
    (folder / "cuda.json").write_text(json.dumps(general))
    assert _cuda.reason("mla") == "mla: left out of this build: it is in vllm-flashmla"
    own = {
        **SUMMARY,
        "package": "vllm-flashmla",
        "families": {"mla": family(["9.0a"], [], {"9.0": "9.0a"})},
        "left_out": {"norm": "is in vllm-kernels-cuda"},
    }
    (folder / "cuda-flashmla.json").write_text(json.dumps(own))
    _cuda.build.cache_clear()
    installed = _cuda.build()
    assert installed
    assert wanted() == ["norm", "marlin", "mla"]
    assert installed.left_out == {}
    assert installed.families["mla"].package == "vllm-flashmla"
    report, _ = _doctor_cuda.examine()
    lines = list(_doctor_cuda.lines(report))
    assert any("mla" in line and line.endswith("(vllm-flashmla)") for line in lines)
    # Alone, it says where the others are.
    (folder / "cuda.json").unlink()
    _cuda.build.cache_clear()
    assert wanted() == ["mla"]
    assert _cuda.reason("norm").endswith("it is in vllm-kernels-cuda")
    (folder / "cuda-flashmla.json").write_text(json.dumps({**own, "cuda": "12.4"}))
    _cuda.build.cache_clear()
    assert _cuda.unusable() == (
        "vllm-flashmla was built with CUDA 12.4 and PyTorch with 13.0; both must be of one major "
        "version"
    )
    (folder / "cuda-flashmla.json").write_text('{"package": "vllm-flashmla"}')
    _cuda.build.cache_clear()
    with pytest.raises(_libraries.LoadError, match="reinstall vllm-flashmla"):
        _cuda.build()
