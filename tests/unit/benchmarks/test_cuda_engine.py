"""The engine's benchmark on a GPU: what competes, and what a document of several models holds."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from built import require_kernels
from rounds import FOUND

require_kernels()

from benchmarks.cuda.bench_engine import contenders, report
from benchmarks.engine.bench_engine import Record
from benchmarks.record import EngineCase, read
from benchmarks.report.pages import _engine


def test_a_wheels_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "vllm-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/__init__.py", "")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    found = contenders(wheel, tmp_path / "scratch")
    assert found["kernels"].variables == {}
    variables = found["upstream"].variables
    folder, rest = variables["PYTHONPATH"].split(":")
    assert (Path(folder) / "vllm" / "__init__.py").is_file()
    assert rest == "/mine"
    assert variables["VLLM_KERNELS_PLUGIN"] == "0"
    assert list(contenders(None, tmp_path)) == ["kernels"]


def test_models_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record(tmp_path, "here", add=False)
    for model in ("small", "large"):
        record.add("8x128", "upstream", FOUND, 100.0, 1, model)
    record.write()
    # What ours has not run is no result yet.
    assert not list(tmp_path.rglob("*.json"))
    for model in ("small", "large"):
        record.add("8x128", "kernels", FOUND, 100.0, 1, model)
    record.write()
    document = read(tmp_path / "cpu" / "here" / "engine.json", EngineCase.read)
    assert [case.model for case in document.cases] == ["large", "small"]
    assert "| large 8 x 128 |" in _engine(document)
    report(document.cases[0])
    # 8 prompts of 128 tokens in half a second.
    assert "prefill      2048.0 tok/s (kernels  1.00x)" in capsys.readouterr().out
