from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support import ROOT

from vllm_conda import errors
from vllm_conda.builder.pipeline import Options
from vllm_conda.cli import COMMANDS, cli, main
from vllm_conda.cli.channel import COMMANDS as CHANNEL_COMMANDS
from vllm_conda.engine.cases import Options as CaseOptions
from vllm_conda.errors import UsageError


def run(*words: str, cwd: Path = ROOT, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **extra}
    return subprocess.run(
        [sys.executable, "-m", "vllm_conda", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=60,
    )


@pytest.mark.parametrize(("machine", "name"), [("aarch64", "linux-aarch64"), ("amd64", "linux-64")])
def test_build_makes_packages_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, machine: str, name: str
) -> None:
    """The Arm host of a GH200 takes no x86-64 packages."""
    asked: list[Options] = []

    def build(options: Options, *_: object) -> None:
        asked.append(options)
        raise UsageError("enough")

    monkeypatch.setattr("vllm_conda.builder.pipeline.build", build)
    monkeypatch.setattr("platform.machine", lambda: machine)
    main(["build", "--device", "cuda", "--cuda", "13.0", "--slice", "sm90"])
    assert [job.name for job in asked[0].jobs] == [f"{name}-cuda-13.0-sm90"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"vllm-conda {name}" in text


@pytest.mark.parametrize("name", sorted(CHANNEL_COMMANDS))
def test_every_channel_command_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["channel", name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"vllm-conda channel {name}" in text
    assert "--json" in text


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"exec"}))
def test_every_command_has_json(name: str) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            one = command.get_command(context, sub)
            assert one is not None
            options |= {option for parameter in one.params for option in parameter.opts}
    assert "--json" in options


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in text


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["buld"], "Did you mean 'build'?"),
        (["build", "--variatn", "x"], "Did you mean '--variant'?"),
        (["build", "--variant", "linux-64-cpu-v3"], "Did you mean 'linux-64-cpu-x86-64-v3'?"),
        (["build", "--jobs", "0"], "0 is not in the range"),
        (["render", "--variant", "linux-65-cpu-x86-64-v3"], "Did you mean 'linux-64-cpu"),
        (["matrix", "extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage(words: list[str], part: str) -> None:
    done = run(*words)
    assert done.returncode == errors.UsageError.exit_code
    assert part in done.stderr
    assert "  -> " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_errors_as_json() -> None:
    done = run("matrix", "--json", cwd=Path("/"))
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "config"
    assert error["exit_code"] == done.returncode == errors.ConfigError.exit_code
    assert "--root" in error["hint"]
    assert done.stderr == ""


def test_matrix() -> None:
    rows = json.loads(run("matrix", "--json", "--platform", "linux-64").stdout)
    cpu = [row["level"] for row in rows if row["device"] == "cpu"]
    assert cpu == [3, 4]
    text = run("matrix").stdout
    for row in rows:
        assert (ROOT / row["variant_file"]).is_file()
        assert row["name"] in text
        assert row["packages"]


def test_render() -> None:
    rows = json.loads(run("render", "--json").stdout)
    assert len(rows) == 8  # two levels: core, kernels, what picks them, what serves
    cpu = [row for row in rows if row["package"] == "vllm-kernels-cpu"]
    core = {row["file"] for row in rows if row["package"] == "vllm-core"}
    assert len(core) == 1
    for row in cpu:
        pin = row["depends"][0]
        assert pin.startswith("vllm-core ==")
        assert pin.split()[-1] in next(iter(core))
    text = run("render", "--variant", "linux-64-cpu-x86-64-v4").stdout
    assert cpu[1]["file"] in text
    assert cpu[0]["file"] not in text


def test_generate_check_from_a_subfolder() -> None:
    done = run("generate", "--check", cwd=ROOT / "recipe")
    assert done.returncode == 0, done.stderr
    assert "current" in done.stdout


def test_stale_file_has_its_exit_code(checkout: Path) -> None:
    done = run("generate", "--check", cwd=checkout)
    assert done.returncode == errors.StaleFileError.exit_code
    assert "conda_build_config.yaml" in done.stderr
    assert "vllm-conda generate" in done.stderr
    assert json.loads(run("generate", "--json", cwd=checkout).stdout)["changed"]
    assert run("generate", "--check", cwd=checkout).returncode == 0


def test_doctor_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    # A PATH with nothing on it: no apt, no compiler.
    done = run("doctor", "--json", PATH=str(tmp_path))
    report = json.loads(done.stdout)
    assert done.returncode == errors.MissingToolError.exit_code
    assert report["ok"] is False
    apt = next(item for item in report["findings"] if item["name"] == "apt")
    assert apt["state"] == "missing"
    assert "--channel" in apt["hint"]
    # With a channel of one's own none of that is needed.
    assert run("doctor", "--channel", "conda-forge", PATH=str(tmp_path)).returncode == 0


def test_doctor_with_an_unwritable_cache(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    report = json.loads(run("doctor", "--json", VLLM_CONDA_CACHE=str(tmp_path / "cache")).stdout)
    disk = next(item for item in report["findings"] if item["name"] == "disk")
    assert disk["state"] == "missing"


@pytest.mark.parametrize("words", ["matrix --json", "matrix --nonsense --json"])
def test_closed_pipe_is_no_error_message(words: str) -> None:
    # `sleep` lets the reader go first: what is printed, an error too, then finds it closed.
    script = f"(sleep 0.2; {sys.executable} -m vllm_conda {words}) | true"
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=60,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "platforms"),
    [
        ((), {"linux-64"}),
        (("--platform", "all"), {"linux-64", "linux-aarch64"}),
        (("--platform", "linux-aarch64"), {"linux-aarch64"}),
    ],
)
def test_a_filtered_build_is_for_this_machine_unless_asked(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], platforms: set[str]
) -> None:
    chosen: set[str] = set()

    def stop(options: Options, *_: object) -> None:
        chosen.update(job.name for job in options.jobs)
        raise UsageError("seen enough.")

    monkeypatch.setattr("vllm_conda.builder.pipeline.build", stop)
    command = [
        "build",
        "--root",
        str(ROOT),
        "--device",
        "cuda",
        "--cuda",
        "13.0",
        "--slice",
        "sm90",
    ]
    assert main([*command, *arguments]) == UsageError.exit_code
    assert chosen == {f"{platform}-cuda-13.0-sm90" for platform in platforms}


@pytest.mark.parametrize("arguments", [(), ("--jobs", "3")])
def test_the_engines_test_takes_jobs_or_as_many_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    asked: list[int] = []

    def stop(python: str, options: CaseOptions, *_: object) -> None:
        asked.append(options.at_once)
        raise UsageError("seen enough.")

    monkeypatch.setattr("vllm_conda.engine.runs.in_environment", stop)
    command = ["engine", "test", "--root", str(ROOT), "--python", sys.executable, *arguments]
    assert main(command) == UsageError.exit_code
    assert asked == [int(arguments[1]) if arguments else 0]
