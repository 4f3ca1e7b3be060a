"""`vllm-conda test`: bad input, refusals, and what is printed of the GPUs."""

from __future__ import annotations

from pathlib import Path

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
