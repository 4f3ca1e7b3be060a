"""What the engine test says of an environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_kernels import engine_api


def test_a_build_is_known_by_its_libraries(
    inside: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they lie, and whatever lies beside them."""

    def build(name: str, **libraries: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        for library, content in libraries.items():
            (folder / f"lib{library}.so").write_text(content)
        (folder / "notes").write_text(name)
        core = folder / f"lib{engine_api.CORE_LIBRARY}.so"
        monkeypatch.setattr(engine_api, "find_library", lambda _: core)
        found: str = inside("facts").build()
        return found

    core = engine_api.CORE_LIBRARY
    first = build("first", **{core: "core", "ops": "ops"})
    assert first == build("again", **{core: "core", "ops": "ops"})
    others = [
        build("changed", **{core: "core", "ops": "new"}),
        build("swapped", **{core: "ops", "ops": "core"}),
        build("fewer", **{core: "core"}),
    ]
    assert len({first, *others}) == 4


def test_the_smallest_gpu_counts(
    inside: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = [80, 24, 40]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gib))
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda gpu: SimpleNamespace(total_memory=gib[gpu] << 30),
    )
    assert inside("facts").smallest() == 24
