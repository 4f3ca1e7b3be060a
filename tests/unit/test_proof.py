"""`vllm-conda test`: bad input, refusals, and what is printed of the GPUs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from vllm_conda.builder import check, proof
from vllm_conda.cli import main


def test_gpus_are_read() -> None:
    text = "NVIDIA H100 80GB HBM3, 9.0, 580.65.06\nTesla T4, 7.5, 580.65.06\n"
    assert proof.parse_gpus(text) == [
        "NVIDIA H100 80GB HBM3 (9.0), driver 580.65.06",
        "Tesla T4 (7.5), driver 580.65.06",
    ]
    assert proof.parse_gpus("No devices were found\n") == []


@pytest.mark.parametrize(
    ("depends", "wanted"),
    [
        (["vllm-core", "cuda-version 13.*"], "13.0"),
        (["cuda-version 12.*"], "12.4"),
        (["cuda-version 14.*"], ""),
        (["libtorch >=2.11"], ""),
    ],
)
def test_toolkit_of_a_package(depends: list[str], wanted: str) -> None:
    assert proof.cuda_of(depends, ["12.4", "13.0", "13.4"]) == wanted


def test_missing_and_foreign_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(tmp_path / "no.conda")]) == 2
    assert "does not exist" in capsys.readouterr().err
    foreign = tmp_path / "x.conda"
    foreign.write_text("hello")
    assert main(["test", str(foreign)]) == 2
    assert "is no conda package" in capsys.readouterr().err


def test_a_channel_is_found_by_its_index(tmp_path: Path) -> None:
    folder = tmp_path / "output/linux-64"
    folder.mkdir(parents=True)
    assert proof.own_channel(folder / "a.conda") == ()
    (folder / "repodata.json").write_text("{}")
    assert proof.own_channel(folder / "a.conda") == ((tmp_path / "output").as_uri(),)


def test_machine_without_the_gpu(dummies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "")
    said = check.host_refusal([dummies], ["__cuda", "__cuda_arch >=9.0,<9.1"], "linux-64")
    assert said == "this machine has no GPU that gives __cuda, __cuda_arch >=9.0,<9.1"
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "13.0")
    said = check.host_refusal([dummies], ["__cuda", "pytorch >=2.11 *cuda*"], "linux-64")
    assert said == "the channels hold no pytorch >=2.11 *cuda*"


def test_amd_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_AMDGPU", "0")
    monkeypatch.setenv("CONDA_OVERRIDE_AMDGPU_ARCH", "9.4.2")
    assert "AMD gfx942" in proof.gpus()
    monkeypatch.setenv("CONDA_OVERRIDE_AMDGPU", "")
    assert not [gpu for gpu in proof.gpus() if gpu.startswith("AMD")]


def test_machine_without_the_amd_gpu(dummies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_AMDGPU", "0")
    monkeypatch.setenv("CONDA_OVERRIDE_AMDGPU_ARCH", "10.3.0")
    depends = ["__amdgpu", "__amdgpu_arch ==9.4.2|==11.0.0"]
    said = check.host_refusal([dummies], depends, "linux-64")
    assert said == "this machine has no GPU that gives __amdgpu, __amdgpu_arch ==9.4.2|==11.0.0"
    monkeypatch.setenv("CONDA_OVERRIDE_AMDGPU_ARCH", "9.4.2")
    assert check.host_refusal([dummies], depends, "linux-64") == ""
    said = check.host_refusal([dummies], [*depends, "pytorch >=2.11 *rocm*"], "linux-64")
    assert said == "the channels hold no pytorch >=2.11 *rocm*"


@pytest.mark.parametrize("report", ["", "https://example.org"])
def test_who_ran_it_first_is_asked_to_say_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    report: str,
) -> None:
    """Of what has never run on a GPU, and of nothing else."""
    made = proof.Proof("a.conda", 2, 1.0, ("AMD gfx942",), "test.log", report)
    monkeypatch.setattr(proof, "open_package", lambda path: SimpleNamespace(subdir="linux-64"))
    monkeypatch.setattr(proof, "prove", lambda *arguments: made)
    assert main(["test", "--channel", tmp_path.as_uri(), "a.conda"]) == 0
    said = capsys.readouterr().out
    assert "a.conda: 2 tests passed in 1.0 s on AMD gfx942" in said
    asked = (
        "It had never run on a GPU: please say so, with GPU and versions, at https://example.org."
    )
    assert (asked in said) is bool(report)
