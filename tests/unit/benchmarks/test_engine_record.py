"""The engine's figures on disk: rounds are added or measured anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from built import require_kernels
from rounds import FOUND

require_kernels()

from benchmarks.engine.bench_engine import Record
from benchmarks.record import EngineCase, read


def test_rounds_go_into_the_file_as_they_end(tmp_path: Path) -> None:
    record = Record(tmp_path, "here", add=False)
    for name in ("kernels", "reference", "kernels"):
        record.add("8x128", name, FOUND, 100.0, 1)
        record.write()
    record.add("1x128", "kernels", FOUND, 100.0, 1)
    record.write()
    document = read(tmp_path / "cpu" / "here" / "engine.json", EngineCase.read)
    assert [case.label for case in document.cases] == ["1 x 128", "8 x 128"]
    rounds = {name: len(found) for name, found in document.cases[1].contenders.items()}
    assert rounds == {"kernels": 2, "reference": 1}
    assert document.cases[1].bound == 10.0


@pytest.mark.parametrize(("add", "rounds"), [(True, 2), (False, 1)])
def test_a_second_run_adds_or_replaces(tmp_path: Path, add: bool, rounds: int) -> None:
    first = Record(tmp_path, "here", add=False)
    first.add("8x128", "kernels", FOUND, 200.0, 1)
    first.add("1x128", "kernels", FOUND, 200.0, 1)
    first.write()
    second = Record(tmp_path, "here", add=add)
    second.add("8x128", "kernels", FOUND, 100.0, 1)
    other, case = second.document.cases
    assert len(case.contenders["kernels"]) == rounds
    # The largest bandwidth that was seen is the memory's.
    assert case.read_bytes_per_s == (200.0 if add else 100.0)
    assert len(other.contenders["kernels"]) == 1


def test_figures_of_other_versions_are_not_mixed(tmp_path: Path) -> None:
    record = Record(tmp_path, "here", add=False)
    record.add("8x128", "kernels", FOUND, 100.0, 1)
    record.document = dataclasses.replace(record.document, versions={"torch": "0"})
    record.write()
    with pytest.raises(SystemExit, match=r"was measured elsewhere or with other versions"):
        Record(tmp_path, "here", add=True)
