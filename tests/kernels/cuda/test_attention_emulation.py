"""The attention kernels on an emulated GPU: indices and synchronisation without a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation

pytestmark = pytest.mark.no_gpu


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_emulation("attention", tmp_path_factory.mktemp("emulation"))


@pytest.mark.parametrize("seed", range(2))
def test_random_batches(program: Path, seed: int) -> None:
    check_emulation(program, seed, 1)
