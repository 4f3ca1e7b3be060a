"""The real pip takes the small catalog's wheels from a local folder: no network is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from toolchain_fakes import CATALOG, make_wheel

from vllm_conda.toolchain import model


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks: no network is used."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "demo", "1.0", "demo = demo:main")
    make_wheel(folder, "extra", "2.5", "extra = extra:main")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def small_catalog(monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes ``ensure`` read the small catalog."""
    monkeypatch.setattr(model, "catalog_text", lambda: CATALOG)
    return CATALOG
