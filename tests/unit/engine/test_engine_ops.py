"""scripts/engine_ops.py on a small release."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support import ROOT, VERSION

SCRIPT = ROOT / "scripts" / "engine_ops.py"
_spec = importlib.util.spec_from_file_location("engine_ops", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
engine_ops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engine_ops)

CUDA = r"""
// TORCH_LIBRARY_FRAGMENT(_old, ops) { ops.def("gone(Tensor x) -> ()"); }
STABLE_TORCH_LIBRARY_FRAGMENT(_C, ops) {
  ops.def(
      "norm(Tensor! out, "  // the result
      "str kind=\"auto\")->()");
#ifdef USE_ROCM
  ops.def("other_device(Tensor x) -> ()");
#endif
}
STABLE_TORCH_LIBRARY_IMPL(_C, CUDA, ops) { ops.impl("norm", &norm); }
TORCH_LIBRARY_FRAGMENT(CONCAT(TORCH_EXTENSION_NAME, _custom_ar), ar) { ar.def("reduce() -> int"); }
"""
CPU = (
    'TORCH_LIBRARY_EXPAND(TORCH_EXTENSION_NAME, ops) { ops.def("norm(Tensor! out) -> ()", &norm); }'
)


def test_ops_of_a_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = tmp_path / "vllm-1.2.3"
    for name, text in {"cuda/ops.cu": CUDA, "cpu/ops.cpp": CPU, "rocm/ops.cpp": CUDA}.items():
        file = release / "csrc" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    output = tmp_path / "ops.tsv"
    assert engine_ops.main([str(release), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"engine-ops: 3 ops in {output}\n"
    assert output.read_text().splitlines() == [
        "# Ops that vLLM 1.2.3 registers (scripts/engine_ops.py): device, namespace, schema.",
        "cpu\t_C\tnorm(Tensor! out) -> ()",
        'cuda\t_C\tnorm(Tensor! out, str kind="auto") -> ()',
        "cuda\t_C_custom_ar\treduce() -> int",
    ]


def test_the_present_release_has_its_table() -> None:
    text = (ROOT / f"tests/engine/ops-{VERSION}.tsv").read_text()
    assert text.startswith(f"# Ops that vLLM {VERSION} registers (scripts/engine_ops.py)")
