"""The dist-info of conda packages, as cmake/Install.cmake writes it."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake on PATH")


def test_record_lists_every_file_of_the_package(tmp_path: Path) -> None:
    text = (ROOT / "cmake/Install.cmake").read_text()
    start = text.index("function(vllm_write_dist_info")
    end = text.index("endfunction()", start) + len("endfunction()\n")
    script = tmp_path / "write.cmake"
    script.write_text(
        f"set(PROJECT_BINARY_DIR {tmp_path})\nset(PROJECT_SOURCE_DIR {ROOT})\n"
        "set(PROJECT_VERSION 1.2)\nset(PROJECT_DESCRIPTION kernels)\n"
        f'set(VLLM_ENTRY_POINTS "[group]\\nname = module\\n")\n{text[start:end]}'
        "vllm_write_dist_info(found)\n"
    )
    subprocess.run(["cmake", "-P", str(script)], check=True, capture_output=True)
    found = importlib.metadata.PathDistribution(tmp_path / "vllm_kernels-1.2.dist-info")
    listed = {str(file) for file in found.files or ()}
    for package in ("vllm_kernels", "vllm_kernels_plugin"):
        sources = (ROOT / "src" / package).rglob("*")
        wanted = {
            str(file.relative_to(ROOT / "src"))
            for file in sources
            if file.is_file() and "__pycache__" not in file.parts
        }
        assert wanted <= listed
    assert not [name for name in listed if name.endswith(".pyc")]
    info = {name for name in listed if ".dist-info/" in name}
    names = ("METADATA", "INSTALLER", "RECORD", "entry_points.txt")
    assert info == {f"vllm_kernels-1.2.dist-info/{name}" for name in names}
    assert (found.metadata["Version"], found.read_text("INSTALLER")) == ("1.2", "conda\n")
