"""What a release asks of the kernels, the table of engines, and how they differ."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from support import ROOT

from vllm_conda.cli import main
from vllm_conda.engine import release
from vllm_conda.engine.interface import advice, calls, difference, facts, hooks, ops, sources, table
from vllm_conda.errors import ConfigError

CUDA = r"""
// TORCH_LIBRARY_FRAGMENT(_old, ops) { ops.def("gone(Tensor x) -> ()"); }
STABLE_TORCH_LIBRARY_FRAGMENT(_C, ops) {
  ops.def(
      "norm(Tensor! out, "  // the result
      "str kind=\"auto\")->()");
  ops.def("align( Tensor !sorted,int n ) -> ()");
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
PYTHON = """
import torch
import vllm._C
from vllm import _moe_C
TABLE = {"norm": torch.ops._C.norm.default}

def serve(x, kind):
    if hasattr(torch.ops._C, "align"):
        torch.ops._C.align(x, n=3)
    torch.ops._C.norm(x, kind)
    return torch.ops.aten.add(x, x)
"""
PLATFORM = """
class CpuPlatform(Platform):
    name: str

    @classmethod
    def check_and_update_config(cls, config: "Config", more=None) -> None:
        pass
"""
REQUIREMENTS = (
    "# needed\n-r other.txt\nxgrammar == 0.2.8; python_version > '3.9'  # pinned\nnumpy\n"
)
FILES = {
    "csrc/cuda/ops.cu": CUDA,
    "csrc/cpu/ops.cpp": CPU,
    "csrc/rocm/ops.cpp": CUDA,
    "vllm/serve.py": PYTHON,
    "vllm/platforms/cpu.py": PLATFORM,
    "requirements/common.txt": REQUIREMENTS,
    "requirements/cpu.txt": "torch==2.11.0+cpu\nnumba\n",
}


def sdist(folder: Path, version: str, files: dict[str, str]) -> Path:
    path = folder / f"vllm-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"vllm-{version}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def found(tmp_path: Path) -> dict[table.Key, str]:
    return facts.facts(sources.read(sdist(tmp_path, "1.2.3", FILES)), "0" * 64)


def test_ops_of_a_release(found: dict[table.Key, str]) -> None:
    assert {key: value for key, value in found.items() if key[0] in ops.DEVICES} == {
        ("cpu", "_C", "norm"): "(Tensor! out) -> ()",
        ("cuda", "_C", "norm"): '(Tensor! out, str kind="auto") -> ()',
        ("cuda", "_C", "align"): "(Tensor! sorted, int n) -> ()",
        ("cuda", "_C_custom_ar", "reduce"): "() -> int",
    }


def test_calls_hooks_modules_and_requirements(found: dict[table.Key, str]) -> None:
    assert found[facts.CALL, "_C", "norm"] == "vllm/serve.py:2 vllm/serve.py:named@import"
    assert found[facts.CALL, "_C", "align"] == f"{calls.ASKED} vllm/serve.py:1+n"
    assert (facts.CALL, "aten", "add") not in found
    assert found[facts.MODULE, "vllm", "vllm._C"] == "vllm/serve.py"
    assert found[facts.MODULE, "vllm", "vllm._moe_C"] == "vllm/serve.py"
    path = "vllm/platforms/cpu.py"
    assert found[facts.HOOK, path, "CpuPlatform"] == "class(Platform) {name: str}"
    assert found[facts.HOOK, path, "CpuPlatform.check_and_update_config"] == (
        "@classmethod (cls, config: 'Config', more=None) -> None"
    )
    assert found[facts.REQUIRES, "common", "xgrammar"] == '==0.2.8; python_version > "3.9"'
    assert found[facts.REQUIRES, "cpu", "torch"] == "==2.11.0+cpu"
    assert (facts.REQUIRES, "cpu", "numba") not in found


def test_a_folder_is_read_as_its_archive(tmp_path: Path, found: dict[table.Key, str]) -> None:
    with tarfile.open(tmp_path / "vllm-1.2.3.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    read = sources.read(tmp_path / "unpacked" / "vllm-1.2.3")
    assert facts.facts(read, "0" * 64) == found


def test_every_hook_is_in_the_table_and_used_by_a_file_of_ours() -> None:
    """A hook that no engine has would be compared with nothing."""
    engines = table.load(ROOT)
    known = {key[1:] for held in engines.releases.values() for key in held if key[0] == facts.HOOK}
    assert {(hook.path, hook.name) for hook in hooks.HOOKS} == known
    assert all((ROOT / hook.used_in).is_file() for hook in hooks.HOOKS)


def test_the_table_keeps_every_fact_of_every_release() -> None:
    text = (ROOT / table.FILE).read_text()
    engines = table.parse(text.splitlines())
    assert engines.text() == text
    again = table.Table({})
    for version in reversed(engines.versions):
        again = again.with_release(version, engines.releases[version])
    assert again.text() == text
    assert engines.minors() == [f"0.{minor}" for minor in range(26, 34)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0.1.0\tcpu\t_C\tnorm"], "engines.tsv:1: expected 5 columns, got 4"),
        ([], "releases must be there"),
        (["0.2.0\tcpu\t_C\tx\t()", "0.1.0\tcpu\t_C\tx\t-"], "oldest first"),
        (["0.1.0\tcpu\t_C\tx\t()"], "0.1.0 has no sdist_sha256"),
        (["new\tcpu\t_C\tx\t()"], "engines.tsv: Invalid version"),
        (
            ["0.1.0\tcpu\t_C\tx\t()", "0.2.0\tcpu\t_C\tx\t-", "0.1.0\tcpu\t_C\ty\t()"],
            "rows of 0.1.0 stand in two places",
        ),
    ],
)
def test_malformed_tables(lines: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table.parse(lines)
    assert message in str(caught.value)


OP = ("cuda", "_C", "x")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("(Tensor a) -> ()", "(Tensor a, bool b=False) -> ()", "changed: + bool b"),
        ("(Tensor a, int[]? g=None) -> ()", "(Tensor a) -> ()", "changed: - int[]? g"),
        ("(Tensor a, int b) -> ()", "(int b, Tensor a) -> ()", "changed: order of arguments"),
        ("(int a) -> ()", "(float a) -> ()", "changed: - int a, + float a"),
        ("(int a) -> ()", "(int a) -> Tensor", "changed: returns Tensor instead of ()"),
        (
            "(int a=1) -> ()",
            "(int a=2) -> ()",
            "changed: defaults or marks: (int a=2) -> ()",
        ),
        (
            "(Tensor(a2!)? a, SymInt[] b) -> (Tensor, Tensor)",
            "(Tensor? a, int[] b) -> (Tensor, Tensor)",
            "changed: defaults or marks: (Tensor? a, int[] b) -> (Tensor, Tensor)",
        ),
        ("() -> int", "", "dropped"),
        ("", "() -> int", "added: () -> int"),
    ],
)
def test_what_differs_in_a_signature(before: str, after: str, words: str) -> None:
    old = {OP: before} if before else {}
    new = {OP: after} if after else {}
    (one,) = difference.differences(old, new)
    assert one.words() == words


def test_what_moves_is_one_difference() -> None:
    old, new = ("cpu", "_moe_C", "x"), ("cpu", "_C", "x")
    (one,) = difference.differences({old: "() -> ()"}, {new: "() -> ()"})
    assert (one.place, one.words()) == ("_C", "moved from _moe_C")


def test_hooks_show_where_they_differ() -> None:
    key = (facts.HOOK, "f.py", "f")
    (one,) = difference.differences({key: "(self, a: int)"}, {key: "(self, b, a: int)"})
    assert one.words() == "changed: + b,"


NAME = ("cuda", "_C")
CALL = (facts.CALL, "_C")


@pytest.mark.parametrize(
    ("old", "new", "urgency", "text"),
    [
        ({}, {(*NAME, "n"): "() -> ()"}, advice.LOOK, "optional"),
        (
            {},
            {(*NAME, "n"): "() -> ()", (*CALL, "n"): "vllm/a.py:0"},
            advice.MUST,
            "called without being asked for (vllm/a.py:0)",
        ),
        (
            {},
            {(*NAME, "n"): "() -> ()", (*CALL, "n"): "asked vllm/a.py:0"},
            advice.LOOK,
            "optional",
        ),
        ({}, {(*NAME, "rms_norm"): "() -> ()"}, advice.NOTHING, "ops.def has it"),
        (
            {(*NAME, "relu_squared"): "(Tensor! out, Tensor input) -> ()"},
            {(*NAME, "relu_squared"): "(Tensor! out, Tensor input, int new) -> ()"},
            advice.MUST,
            "adapt.py for new",
        ),
        (
            {(*NAME, "topk_softmax"): "(Tensor a) -> ()"},
            {
                (*NAME, "topk_softmax"): "(Tensor! topk_weights, Tensor! topk_indices, "
                "Tensor! token_expert_indices, Tensor gating_output, bool renormalize, "
                "Tensor? bias, Tensor? is_padding) -> ()"
            },
            advice.NOTHING,
            "rule covers it",
        ),
        ({(*NAME, "gone"): "() -> ()"}, {}, advice.NOTHING, ""),
        ({(facts.HOOK, "x", "CpuPlatform"): "c"}, {}, advice.MUST, "plugin/cpu.py"),
        ({}, {(facts.MODULE, "vllm", "vllm._new_C"): "a.py"}, advice.LOOK, "plant it"),
        ({}, {(facts.REQUIRES, "common", "uvloop"): "*"}, advice.LOOK, "wheels.toml"),
    ],
)
def test_what_a_difference_asks_for(
    old: dict[table.Key, str], new: dict[table.Key, str], urgency: str, text: str
) -> None:
    found = difference.differences(old, new)
    task = advice.tasks(found, new, advice.ours(ROOT))[0]
    assert task.urgency == urgency
    assert text in task.text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of a checkout that the commands read."""
    for name in ("targets.toml", table.FILE, advice.OPS_FILE, advice.ADAPT_FILE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_diff_and_add_of_a_file(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sdist(tmp_path, "0.99.0", FILES)
    words = [str(file), "--root", str(checkout)]
    assert main(["engine", "diff", *words]) == 0
    text = capsys.readouterr().out
    newest = table.load(ROOT).versions[-1]
    assert text.startswith(f"vLLM 0.99.0 against {newest}: ")
    assert "must    cuda _C align: added: (Tensor! sorted, int n) -> ()\n" not in text
    assert "look    cuda _C align: added: (Tensor! sorted, int n) -> ()\n" in text
    assert "look    requires common xgrammar: changed: " in text

    assert main(["engine", "add", *words]) == 0
    assert capsys.readouterr().out == "vLLM 0.99.0 added\n"
    assert table.load(checkout).versions[-1] == "0.99.0"
    assert main(["engine", "add", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": "0.99.0", "changed": False}
    assert main(["engine", "diff", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == []


def test_an_older_release_goes_before_the_others(checkout: Path, tmp_path: Path) -> None:
    file = sdist(tmp_path, "0.1.0", FILES)
    before = table.load(checkout)
    assert main(["engine", "add", str(file), "--root", str(checkout)]) == 0
    after = table.load(checkout)
    assert after.versions == ["0.1.0", *before.versions]
    assert {version: after.releases[version] for version in before.versions} == before.releases
    assert release.compare(release.Release("0.0.9", {}), checkout).nearest == "0.1.0"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vllm-1.0.0.tar.gz", None, "is not there"),
        ("vllm-1.0.0.tar.gz", b"no archive", "cannot be read as a source distribution"),
        ("engine.tar.gz", b"", "is not named vllm-VERSION.tar.gz"),
        ("vllm-1.0.0.tar.gz", {"vllm/a.py": ""}, "holds no csrc/"),
        ("vllm-1.0.0.tar.gz", {"csrc/a.cpp": "", "vllm/b.py": "torch.ops def"}, "vllm/b.py"),
        ("1..0", None, "is neither a version, such as 0.33.0, nor a file"),
    ],
)
def test_bad_releases(
    checkout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | dict[str, str] | None,
    message: str,
) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        sdist(tmp_path, "1.0.0", {"vllm/b.py": "import torch; torch.ops._C.x()", **content})
    elif content is not None:
        path.write_bytes(content)
    wanted = str(path) if name.endswith(".gz") else name
    assert main(["engine", "diff", wanted, "--root", str(checkout)]) != 0
    shown = capsys.readouterr().err
    assert message in " ".join(shown.split())
    assert "Traceback" not in shown
