"""Odd files, environments and streams: one sentence, the documented exit code, no traceback."""

from __future__ import annotations

import os
import pwd
import random
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import support
import yaml
from support import ROOT

from vllm_conda import errors
from vllm_conda.audit.run import Request, audit
from vllm_conda.cli import main
from vllm_conda.paths import cache_root, file_error
from vllm_conda.recipe import load_recipe
from vllm_conda.site.describe import describe_machine
from vllm_conda.solve import channel_address, virtual_packages
from vllm_conda.structure import read_toml
from vllm_conda.targets import parse_targets, read_table
from vllm_conda.yaml_files import load_yaml

NOBODY = 65534


def cli(*words: str, redirect: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment |= options.pop("extra", {})  # type: ignore[arg-type]
    for name in options.pop("without", ()):  # type: ignore[attr-defined]
        environment.pop(name, None)
    command: list[str] = [sys.executable, "-m", "vllm_conda", *words]
    if redirect:
        command = ["bash", "-c", f'"$@" {redirect}', "bash", *command]
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, capture_output=True, text=True, env=environment, timeout=120, **options
    )


def check_sentence(done: subprocess.CompletedProcess[str], kind: type[errors.VllmError]) -> None:
    assert done.returncode == kind.exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 5000 + "]" * 5000, "a = " + "9" * 5000, "a = " + "{a=" * 5000, "a = 'x"],
)
def test_malformed_toml(tmp_path: Path, text: str) -> None:
    (tmp_path / "targets.toml").write_text(text)
    with pytest.raises(errors.ConfigError, match=r"targets\.toml"):
        read_toml(tmp_path, "targets.toml")


@pytest.mark.parametrize("text", ["[" * 5000, "a: 2026-13-45", "{" * 9000, "- " * 9000])
def test_malformed_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


@pytest.mark.parametrize("version", ["a b", "", "2", "2.x", "9" * 5000, "2.28 "])
def test_malformed_version(version: str) -> None:
    data = read_table(ROOT)
    data["platforms"]["linux-64"]["variant"]["c_stdlib_version"] = version
    with pytest.raises(errors.ConfigError, match="c_stdlib_version") as caught:
        parse_targets(data)
    assert len(caught.value.message) <= 300


def test_long_values_are_shortened() -> None:
    data = read_table(ROOT)
    data["schema"] = "x" * 10_000
    with pytest.raises(errors.ConfigError, match=r"\[schema\]") as caught:
        parse_targets(data)
    assert len(caught.value.message) <= 300


@pytest.mark.parametrize(
    "specs", [["__foo bar=1"], ["__cuda=13,0"], ["__archspec=1=a b"], ["__cuda=13.0=\n"]]
)
def test_malformed_virtual_package(specs: list[str]) -> None:
    with pytest.raises(errors.UsageError, match="no virtual package"):
        virtual_packages(specs)


@pytest.mark.parametrize("name", ["CUDA", "GLIBC", "LINUX"])
def test_malformed_override(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"CONDA_OVERRIDE_{name}", "12,4")
    with pytest.raises(errors.UsageError, match=f"CONDA_OVERRIDE_{name}=12,4"):
        virtual_packages()


@pytest.mark.parametrize("name", ["./outptu", "/no/such", "../none", "~nouser/x", "file:///no/one"])
def test_mistyped_channel_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.UsageError, match="Channel"):
        channel_address(name, tmp_path)
    assert channel_address("conda-forge", tmp_path) == "conda-forge"
    assert channel_address("conda-forge/label/rc", tmp_path) == "conda-forge/label/rc"


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", "~nouser/x")
    with pytest.raises(errors.ConfigError, match="VLLM_CONDA_CACHE"):
        cache_root()

    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    for name in ("VLLM_CONDA_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(errors.ConfigError, match="VLLM_CONDA_CACHE"):
        cache_root()


def test_wrapper_without_home(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run"), "--client", "venv", "matrix"],
        env={**os.environ, "VLLM_CONDA_CACHE": "~nouser/x"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == errors.ConfigError.exit_code
    assert "VLLM_CONDA_CACHE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirect", [">&-", "<&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams(redirect: str) -> None:
    assert cli("matrix", redirect=redirect, cwd=ROOT).returncode == 0


def test_full_standard_output() -> None:
    done = cli("matrix", redirect="> /dev/full", cwd=ROOT)
    check_sentence(done, errors.DiskError)


@pytest.fixture
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that everybody can read, but for what a test takes away."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = tmp_path_factory.mktemp("others")
    _open_to_others(folder)
    return support.checkout(folder / "checkout")


def _open_to_others(folder: Path) -> None:
    """A folder of pytest's, with those above it: a worker's are one more."""
    temporary = Path(tempfile.gettempdir())
    for parent in (folder, *folder.parents):
        if temporary in parent.parents:
            parent.chmod(parent.stat().st_mode | 0o055)


def _as_nobody(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In a child that has imported what it needs: the checkout may be closed to others."""
    program = (
        "import os, sys\n"
        "from vllm_conda.cli import main\n"
        "import vllm_conda.cli.inspect, vllm_conda.targets, vllm_conda.recipe, vllm_conda.jobs\n"
        "import vllm_conda.builder.plan, vllm_conda.lint\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *words, "--root", str(root)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("targets.toml", ["matrix"]),
        ("variants/linux-64-cpu-x86-64-v3.yaml", ["lint"]),
        ("recipe/recipe.yaml", ["lint"]),
        ("recipe/tests/check_cpu.py", ["lint"]),
    ],
)
def test_unreadable_file(others: Path, file: str, words: list[str]) -> None:
    (others / file).chmod(0)
    done = _as_nobody(others, *words)
    assert "Traceback" not in done.stderr
    assert done.returncode in (errors.DiskError.exit_code, errors.RecipeError.exit_code)
    assert len(done.stderr.splitlines()) <= 2


def test_a_foreign_file_is_named_with_its_owner(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    lock = tmp_path / "lock"
    lock.touch()
    os.chown(lock, NOBODY, NOBODY)
    sentence = file_error(PermissionError(13, "Permission denied", str(lock)), "vllm-conda build")
    owner = pwd.getpwuid(NOBODY).pw_name
    assert f"vllm-conda build: cannot read or write {lock} of {owner}" in sentence.message


def test_unreadable_files_are_findings(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    _open_to_others(tmp_path)
    folder = tmp_path / "package"
    (folder / "closed").mkdir(parents=True)
    (folder / "text").write_text("text")
    library = folder / "library.so"
    library.write_bytes(b"\x7fELF")
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from vllm_conda.audit.run import Request, audit\n"
        "from vllm_conda.audit.registry import CHECKS\n"
        "[check.load() for check in CHECKS.values()]\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "report = audit([Path(sys.argv[1])], Request())\n"
        "print([finding.line() for finding in report.packages[0].findings])\n"
    )
    for closed in (folder / "text", library, folder / "closed"):
        mode = closed.stat().st_mode
        closed.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
        )
        closed.chmod(mode)
        assert done.returncode == 0, done.stderr
        assert closed.name in done.stdout
        assert "cannot be read" in done.stdout


def test_flipped_bytes_of_an_elf_file_are_findings(tmp_path: Path) -> None:
    content = Path(find_spec("_ctypes").origin).read_bytes()  # type: ignore[union-attr,arg-type]
    sections = int.from_bytes(content[40:48], "little")
    chance = random.Random(18)  # noqa: S311
    library = tmp_path / "library.so"
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 3, 20))):
            place = chance.choice(
                (chance.randrange(16, 64 + 56 * 9), sections + chance.randrange(1280))
            )
            damaged[min(place, len(damaged) - 1)] = chance.randrange(256)
        library.write_bytes(damaged)
        (report,) = audit([library], Request()).packages
        assert all(len(finding.message) <= 500 for finding in report.findings)


def test_what_is_published_can_be_read_by_others(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nos.umask(int(sys.argv[2], 8))\n"
        "from vllm_conda.downloads.store import Store\n"
        "store = Store(Path(sys.argv[1]))\nstore.prepare()\nmade = store.scratch('x')\n"
        "(made / 'file').write_text('')\n(made / 'file').chmod(0o600)\n"
        "(made / 'tool').write_text('')\n(made / 'tool').chmod(0o700)\n"
        "store.publish(made, store.channels / 'x')\nstore.write_json(store.requests / 'r', 1)\n"
        "for path in (store.channels / 'x', store.channels / 'x/file', store.channels / 'x/tool',\n"
        "             store.requests / 'r'):\n    print(oct(path.stat().st_mode & 0o777))\n"
    )
    for umask, modes in (
        ("022", ["0o755", "0o644", "0o755", "0o644"]),
        ("077", ["0o700", "0o600", "0o700", "0o600"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / umask), umask],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == modes


def test_half_an_override_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.4")
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA_ARCH", "")
    assert "Set CONDA_OVERRIDE_CUDA_ARCH too" in describe_machine()


def _of_rattler(name: str, text: str) -> Exception:
    error: Exception = type(name, (Exception,), {"__module__": "exceptions"})(text)
    return error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(24, "Too many open files", "x"), errors.DiskError, "ulimit -n"),
        (BlockingIOError(11, "Resource temporarily unavailable"), errors.DiskError, "ulimit -u"),
        (RuntimeError("can't start new thread"), errors.DiskError, "ulimit -u"),
        (MemoryError(), errors.DiskError, "ulimit -v"),
        (_of_rattler("IoError", "Too many open files (os error 24)"), errors.DiskError, "-n"),
        (_of_rattler("CacheDirError", "not enough memory"), errors.DiskError, "ulimit -v"),
        (_of_rattler("LinkError", "no such\nfolder"), errors.BuildFailure, "no such folder"),
        (_of_rattler("LinkError", "x" * 5000), errors.BuildFailure, "xxx ... xxx"),
    ],
)
def test_limits_and_libraries_end_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    kind: type[errors.VllmError],
    said: str,
) -> None:
    def fail(root: Path) -> None:
        raise error

    monkeypatch.setattr("vllm_conda.targets.load_targets", fail)
    assert main(["matrix", "--root", str(ROOT)]) == kind.exit_code
    printed = capsys.readouterr().err
    assert printed.startswith("error: vllm-conda matrix: ")
    assert said in printed
    assert max(map(len, printed.splitlines())) <= 300


def test_a_programming_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("vllm_conda.targets.load_targets", fail)
    with pytest.raises(ZeroDivisionError):
        main(["matrix", "--root", str(ROOT)])


@pytest.mark.parametrize(
    ("old", "new"),
    [("script:\n", "scripts:\n"), ("  - path: ", "  - path: 5 #"), ("file: ", "file: [] #")],
)
def test_recipe_of_another_form(tmp_path: Path, old: str, new: str) -> None:
    root = support.checkout(tmp_path / "checkout")
    recipe = root / "recipe/recipe.yaml"
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(errors.RecipeError, match=r"recipe/recipe\.yaml"):
        load_recipe(root)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("targets.toml", ["matrix"]),
        ("audit.toml", ["audit", "--root", ".", "targets.toml"]),
        ("variants/linux-64-cpu-x86-64-v3.yaml", ["lint"]),
        ("a-1-0.conda", ["audit", "a-1-0.conda"]),
        ("a-1-0.conda", ["test", "a-1-0.conda"]),
        ("site.yaml", ["solve", "site.yaml"]),
    ],
)
def test_a_pipe_that_nobody_writes_into(checkout: Path, name: str, words: list[str]) -> None:
    (checkout / name).unlink(missing_ok=True)
    os.mkfifo(checkout / name)
    done = cli(*words, cwd=checkout)
    assert done.returncode in (2, 3, 8, 12), done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_what_a_shell_hands_over_is_read(checkout: Path) -> None:
    done = cli("solve", redirect="<(echo 'schema: 2')", cwd=checkout)
    assert done.returncode == 3
    assert "schema" in done.stderr
