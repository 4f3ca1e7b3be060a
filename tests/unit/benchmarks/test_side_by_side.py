"""Benchmarks that run at once on cores of their own, and the documents that they make together."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import record, run
from benchmarks.side_by_side import Run, cores_of, merged, side_by_side, slots_of

# Records one case for its part, and the cores it ran on.
CHILD = """
import os, sys, time
from pathlib import Path
from benchmarks.record import Document, KernelCase, Machine, Timing
part = sys.argv[sys.argv.index("--part") + 1].split("/")
results = Path(sys.argv[sys.argv.index("--results") + 1])
shape = {"part": int(part[0]), "cores": len(os.sched_getaffinity(0))}
case = KernelCase("op", "", shape, "f32", "decode", None, None, Timing(1.0), {})
Document("norm", "cpu", Machine("here"), {}, None, "2026-01-01", (case,)).write(results)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""
ONE_CORE = [tuple(sorted(os.sched_getaffinity(0))[:1])]
CORE = str(ONE_CORE[0][0])


def child(seconds: float = 0, code: int = 0) -> Run:
    command = (sys.executable, "-c", CHILD, str(seconds), str(code))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return Run("norm", command, environment)


def found(folder: Path) -> record.Document[record.KernelCase]:
    (document,) = record.kernels(folder)
    return document


def test_cores_and_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)))
    assert cores_of("0-3,8") == (0, 1, 2, 3, 8)
    assert slots_of((0, 1, 2, 3, 8), 2) == [(0, 1), (2, 3)]
    assert slots_of((0,), 2) == []


def test_parts_make_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert side_by_side([child()], ONE_CORE, 3, None, tmp_path) == 0
    assert [case.shape for case in found(tmp_path).cases] == [
        {"part": part, "cores": 1} for part in (1, 2, 3)
    ]
    assert found(tmp_path).note == "1 processes at once, each on cores of its own."
    assert "== norm, 2 of 3\n" in capsys.readouterr().out


def test_what_is_late_is_ended_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    assert side_by_side([child(600), child(600)], ONE_CORE, 1, 5, tmp_path) == 0
    assert time.monotonic() - begin < 60
    assert len(found(tmp_path).cases) == 1
    output = capsys.readouterr().out
    assert "== norm, cut\n" in output
    assert "== norm, not started\n" in output


def test_a_failure_is_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert side_by_side([child(0, 3), child()], ONE_CORE, 1, None, tmp_path) == 3
    assert "== norm, exit code 3\n" in capsys.readouterr().out


def test_merged_cases_are_in_their_order() -> None:
    def document(*numbers: int, read: float) -> record.Document[record.KernelCase]:
        cases = tuple(
            record.KernelCase(
                "op", "", {"n": n}, "f32", "decode", None, None, record.Timing(1.0), {}
            )
            for n in numbers
        )
        machine = record.Machine("here")
        return record.Document(
            "norm", "cpu", machine, {}, None, "2026-01-01", cases, read_bytes_per_s=read
        )

    parts = [[document(0, 3, 6, read=1)], [document(1, 4, read=9)], [document(2, 5, read=2)]]
    (whole,) = merged(parts)
    assert [case.shape["n"] for case in whole.cases] == list(range(7))
    assert whole.read_bytes_per_s == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--parts", "2"], "--parts and --seconds want --cores"),
        (["--cores", CORE], "--cores wants --results FOLDER"),
        (["--cores", CORE, "--threads", "2", "--results", "x"], "--threads 2: --cores names 1"),
        (["--cores", CORE, "--threads", "0", "--results", "x"], "--threads 0: --cores names 1"),
        (["--cores", CORE, "--parts", "0", "--results", "x"], "--parts 0: want 1 or more"),
        (["--device", "cuda", "--cores", CORE], "--cores is for the CPU"),
        (["--cores", "5-3"], "--cores: 5-3 names no core, or one twice"),
        (["--cores", f"{CORE},{CORE}"], "names no core, or one twice"),
        (["--cores", "99999"], "this process may not use core 99999"),
    ],
)
def test_options_that_do_not_fit(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert sentence in capsys.readouterr().err
