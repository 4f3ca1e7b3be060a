"""FlashInfer's table, choice and recipe: what is refused, and that they agree."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import itertools
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from support import ROOT, module_at

from vllm_conda import platforms
from vllm_conda.errors import ConfigError, RecipeError, UsageError
from vllm_conda.flashinfer import package
from vllm_conda.recipe import FLASHINFER_RECIPE_FILE, check_context
from vllm_conda.targets import load_targets, parse_targets, read_table

TARGETS = load_targets(ROOT)
TABLE = TARGETS.flashinfer
needs_x86 = pytest.mark.skipif(
    platforms.host_platform() != "linux-64", reason="a CUDA job of this platform"
)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("slice", "sm91", "unknown slice 'sm91'"),
        ("slice", "all", "slice all is not of one architecture"),
        ("modules", "some", "unknown set 'some'"),
        ("release", "0.5", "unknown release '0.5'"),
        ("sets", {"sampling": ["Sampling"]}, "'Sampling' is no module"),
        ("sets", {"sampling": ["prefill-bfloat16-fa3"]}, "'prefill-bfloat16-fa3' is no module"),
        ("sets", {"sampling": ["page", "page"]}, "names a module twice"),
        ("releases", {TABLE.release: {"sha256": "12", "engines": ">=1"}}, "sha256 is no SHA-256"),
    ],
)
def test_the_table_points_nowhere(key: str, value: object, message: str) -> None:
    data = read_table(ROOT)
    data["flashinfer"][key] = value
    with pytest.raises(ConfigError, match=message):
        parse_targets(data)


def test_sets_grow() -> None:
    """The solver prefers the later ones of the table."""
    sets = [set(words) for words in TABLE.sets.values()]
    assert all(one < other for one, other in itertools.pairwise(sets))
    assert next(iter(TABLE.sets)) == TABLE.modules


@needs_x86
def test_choice() -> None:
    chosen = package.choose(TARGETS)
    assert chosen.job.name == f"linux-64-cuda-13.0-{TABLE.slice}"
    assert (chosen.release, chosen.modules) == (TABLE.release, TABLE.modules)
    assert package.choose(TARGETS, "13.4", "attention").name == (
        f"linux-64-cuda-13.4-sm90-{TABLE.release}-attention"
    )
    with pytest.raises(UsageError, match=r"Unknown set of modules 'attentoin'. Did you mean"):
        package.choose(TARGETS, modules="attentoin")
    with pytest.raises(UsageError, match=r"Unknown release of FlashInfer '0.1'"):
        package.choose(TARGETS, release="0.1")


@pytest.mark.parametrize("key", ["version", "sha256", "engines"])
def test_the_recipe_says_what_the_table_says(tmp_path: Path, key: str) -> None:
    shutil.copytree(ROOT / "recipe", tmp_path / "recipe")
    engines = Path("src/vllm_kernels_plugin/engines.tsv")
    (tmp_path / engines).parent.mkdir(parents=True)
    shutil.copy(ROOT / engines, tmp_path / engines)
    check_context(tmp_path, TARGETS)
    release = TABLE.releases[TABLE.release]
    value = {"version": TABLE.release, "sha256": release.sha256, "engines": release.engines}[key]
    file = tmp_path / FLASHINFER_RECIPE_FILE
    file.write_text(file.read_text().replace(f'"{value}"', '"other"'))
    with pytest.raises(RecipeError, match=f"the default of {key} is not"):
        check_context(tmp_path, TARGETS)


def test_the_release_is_that_of_the_packaged_engine() -> None:
    data = read_table(ROOT)
    data["flashinfer"]["releases"][TABLE.release]["engines"] = ">=0.33,<0.34"
    with pytest.raises(RecipeError, match=r"is for vLLM >=0.33,<0.34, \[engine\] has 0.26"):
        check_context(ROOT, parse_targets(data))


@needs_x86
def test_what_the_packages_follow_from() -> None:
    """Whatever of the table the recipe reads makes a build anew."""
    choice, hashes = package.choose(TARGETS), dict.fromkeys(package.NAMES, "h")
    data = read_table(ROOT)
    data["platforms"][choice.job.platform]["hardening"] = ["-fcf-protection=none"]
    keys = [package.variant(one, choice, hashes) for one in (TARGETS, parse_targets(data))]
    assert package.fingerprint(keys[0]) != package.fingerprint(keys[1])
    assert package.fingerprint(keys[0]) == package.fingerprint(dict(reversed(keys[0].items())))


def test_sets_name_the_engines_modules() -> None:
    """Sets of one kind of heads have both modules that the engine calls for them on Hopper."""
    for words in TABLE.sets.values():
        heads = [word.rsplit("-", 1) for word in words if word.startswith("prefill-")]
        backends = {head: {one for other, one in heads if other == head} for head, _ in heads}
        assert all(found == {"fa2", "fa3"} for found in backends.values())


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return module_at(ROOT / FLASHINFER_RECIPE_FILE.parent / "compile_modules.py")


@pytest.fixture(scope="module")
def slim() -> ModuleType:
    return module_at(ROOT / FLASHINFER_RECIPE_FILE.parent / "slim.py")


CORE = """\
class MissingJITCacheError(RuntimeError):
    def __init__(self, message, spec=None):
        self.spec = spec
        super().__init__(message)
"""


def installed(site: Path) -> dict[str, str]:
    """An installed FlashInfer, of few files; returns which the package keeps."""
    csrc = "flashinfer/data/csrc"
    kept = {
        "flashinfer/__init__.py": "",
        "flashinfer/jit/core.py": CORE,
        f"{csrc}/sampling.cu": "sampling",
        f"{csrc}/fmha_v2/templates/kernel.jinja": "template",
        f"{csrc}/cake/manifest.json": "{}",
        f"{csrc}/fused_moe/monomoe/src/moe.cuh": "copied",
        "flashinfer_python-0.dist-info/METADATA": "Name: flashinfer-python",
    }
    removed = {
        "build_backend.py": "",
        "flashinfer/data/build_utils.py": "",
        **{f"flashinfer/data/{name}/header.h": "" for name in ("cccl", "cutlass", "include")},
        "flashinfer/data/spdlog/include/spdlog.h": "",
        f"{csrc}/cake/kernel.cu": "",
        f"{csrc}/fused_moe/other/moe.cu": "",
    }
    for name, text in (kept | removed).items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    rows = [f"{name},sha256=old,1" for name in kept | removed]
    record = "flashinfer_python-0.dist-info/RECORD"
    (site / record).write_text("\n".join([*rows, f"{record},,", ""]))
    return {**kept, record: ""}


def test_what_the_package_of_python_keeps(slim: ModuleType, tmp_path: Path) -> None:
    kept = installed(tmp_path)
    slim.remove(tmp_path)
    slim.record(tmp_path)
    found = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file()}
    assert found == set(kept)
    rows = (tmp_path / "flashinfer_python-0.dist-info" / "RECORD").read_text().splitlines()
    assert {row.split(",")[0] for row in rows} == set(kept)
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"sampling").digest()).decode().rstrip("=")
    assert f"flashinfer/data/csrc/sampling.cu,sha256={digest},8" in rows


def test_a_missing_module_is_named(slim: ModuleType, tmp_path: Path) -> None:
    installed(tmp_path)
    slim.name_missing_module(tmp_path)
    core = module_at(tmp_path / "flashinfer" / "jit" / "core.py")
    spec = SimpleNamespace(name="page")
    assert str(core.MissingJITCacheError("JIT compilation is disabled", spec=spec)) == (
        "FlashInfer's module page is not in vllm-flashinfer, and FLASHINFER_DISABLE_JIT is set"
    )
    assert str(core.MissingJITCacheError("other")) == "other"
    with pytest.raises(SystemExit, match="refuses to compile in other words"):
        slim.name_missing_module(tmp_path)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_options_of_the_compilers(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """conda's options reach the host code of .cu files, in a folder with a space too."""
    work, curand = tmp_path / "the work", tmp_path / "curand"
    work.mkdir()
    curand.mkdir()
    (curand / "curand_kernel.h").touch()
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.setenv("CXXFLAGS", "-O2 -fstack-protector-strong")
    monkeypatch.setenv("LDFLAGS", "-Wl,-z,now")
    found = script.variables(work, "9.0a", [tmp_path, curand])
    assert found["FLASHINFER_CUDA_ARCH_LIST"] == "9.0a"
    host = ["-O2", "-fstack-protector-strong", f"-ffile-prefix-map={work}={script.NEUTRAL}"]
    assert shlex.split(found["FLASHINFER_EXTRA_CFLAGS"]) == host
    device = shlex.split(found["FLASHINFER_EXTRA_CUDAFLAGS"])
    assert device[:4] == ["-isystem", str(work / "unused"), "-isystem", str(curand)]
    assert device[4:] == [f"-Xcompiler={option}" for option in host]
    assert {file.name for file in (work / "unused").iterdir()} == set(script.UNUSED_HEADERS)
    assert shlex.split(found["FLASHINFER_EXTRA_LDFLAGS"])[-1] == f"-L{work / 'driver'}"
    assert (work / "driver" / "libcuda.so").is_file()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_library_that_lacks_what_it_never_calls(script: ModuleType, tmp_path: Path) -> None:
    """It is loaded, though all names are resolved then; other names stay as they are."""
    lacking = (
        "int flashinfer_other(void);\n"
        "int run(int n) { return n == 512 ? flashinfer_other() : 7; }\n"
    )
    library = linked(tmp_path, lacking)
    with pytest.raises(OSError, match="undefined symbol: flashinfer_other"):
        ctypes.CDLL(str(library))
    assert script.weaken(library) == 1
    assert ctypes.CDLL(str(library)).run(64) == 7
    library = linked(tmp_path, f"{lacking}int other(void);\nint more(void) {{ return other(); }}\n")
    assert script.weaken(library) == 1
    with pytest.raises(OSError, match="undefined symbol: other"):
        ctypes.CDLL(str(library))


def linked(folder: Path, text: str) -> Path:
    """A library with conda's options: names are resolved when it is loaded."""
    source = folder / "module.c"
    source.write_text(text)
    library = folder / f"{len(text)}.so"
    options = ["-O2", "-shared", "-fPIC", "-fno-plt", "-Wl,-z,now"]
    subprocess.run(["gcc", *options, "-o", library, source], check=True)
    return library


def test_no_headers_of_random_numbers(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"curand_kernel.h is in none of .*/there"):
        script.includes(tmp_path, [tmp_path / "there"])


def test_compiles_fit_into_memory(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CGROUP", tmp_path)
    monkeypatch.setattr(script.os, "sched_getaffinity", lambda _: range(16))
    sizes = {"SC_PHYS_PAGES": 16 << 18, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(script.os, "sysconf", sizes.get)
    assert script.jobs(["sampling", "prefill-bfloat16-64-fa2"]) == 16
    assert script.jobs(["sampling", "prefill-bfloat16-64-fa3"]) == 4
    limit = tmp_path / "memory.max"
    for text, wanted in (("max\n", 4), (f"{8 << 30}\n", 2), (f"{2 << 30}\n", 1)):
        limit.write_text(text)
        assert script.jobs(["prefill-bfloat16-64-fa3"]) == wanted
