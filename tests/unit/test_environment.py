"""What a command in an installed environment sees of the caller's variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_conda.environment import run_in


def test_variables_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setenv("VLLM_KERNELS_BACKEND", "reference")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hides every GPU
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    path = tmp_path / "seen"
    with path.open("w") as log:
        extra = {"VLLM_KERNELS_BACKEND": "", "OWN": "1"}
        assert run_in(tmp_path, ["env"], tmp_path, log, extra) == 0
    seen = dict(line.partition("=")[::2] for line in path.read_text().splitlines())
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["OWN"]) == ("", "1")
    assert not {"VLLM_KERNELS_BACKEND", "PYTHONPATH"} & set(seen)
