"""What a channel of upstream's packages holds after one build and the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import support

from vllm_conda.builder.upstream import record, recorded
from vllm_conda.channel.files import listed
from vllm_conda.recipe import FLASHINFER_RECIPE_FILE


def test_packages_of_an_earlier_build_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that both builds have made, as two sets of modules have FlashInfer's Python, too."""
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "cache"))
    root = support.checkout(tmp_path / "checkout")
    made, output = tmp_path / "made", tmp_path / "channel"
    for name in ("shared", "first", "second"):
        support.build_dummy(made, name, "1.0", {"run": []}, f"touch $PREFIX/{name}")
    shared, first, second = (
        next(made.glob(f"*/{name}-*.conda")) for name in ("shared", "first", "second")
    )
    build = support.upstream(root, FLASHINFER_RECIPE_FILE, output)
    earlier = build._index([shared, first], output)
    found = build._index([shared, second, *earlier], output)
    assert [path.name for path in found[:2]] == [shared.name, second.name]
    names = {path.name for path in output.glob("*/*.conda")}
    assert names == {shared.name, first.name, second.name}
    assert {name for subdir in output.iterdir() for name in listed(subdir)} == names
    build._index([second], output)
    assert [path.name for path in output.glob("*/*.conda")] == [second.name]


def test_what_was_made_before(tmp_path: Path) -> None:
    """A record counts while its packages are there, and for the same inputs."""
    stamp, made = tmp_path / "record.json", tmp_path / "linux-64/vllm-flashinfer-1-h0_0.conda"
    assert recorded(stamp, tmp_path) == []
    record(stamp, tmp_path, "one", [made])
    assert recorded(stamp, tmp_path) == []
    made.parent.mkdir()
    made.touch()
    assert recorded(stamp, tmp_path) == [made]
    assert recorded(stamp, tmp_path, "one") == [made]
    assert recorded(stamp, tmp_path, "other") == []
    for damaged in ("[]", "{", json.dumps({"fingerprint": "one"})):
        stamp.write_text(damaged)
        assert recorded(stamp, tmp_path) == []
