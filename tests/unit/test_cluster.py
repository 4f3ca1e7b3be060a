"""What a cluster is asked for and how a task's end is told; tests/cluster has a real Slurm."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import ROOT

from vllm_conda.builder.workspace import workspace_for
from vllm_conda.cli import main
from vllm_conda.cluster import slurm
from vllm_conda.cluster.ending import ending
from vllm_conda.cluster.script import Place, batch_script
from vllm_conda.cluster.slurm import State
from vllm_conda.costs import Build
from vllm_conda.errors import ClusterError, MissingToolError, UsageError
from vllm_conda.jobs import jobs, select
from vllm_conda.matrix import load_costs
from vllm_conda.resources import Resources, compile_jobs, resources
from vllm_conda.targets import load_targets

TARGETS = load_targets(ROOT)
V3 = "linux-64-cpu-x86-64-v3"


def fake(folder: Path, name: str, text: str) -> None:
    """A command of Slurm that says ``text``, a shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_every_job_asks_for_what_the_tables_say() -> None:
    costs = load_costs(ROOT)
    for job in jobs(TARGETS):
        cost = costs.jobs.get(job.name)
        need = resources(TARGETS, job, cost)
        assert need.cores == compile_jobs(TARGETS, job)
        assert need.minutes == TARGETS.feedstock.devices[job.device].minutes
        if cost and cost.memory_mib:
            assert need.memory_mib > need.cores * cost.memory_mib
        elif job.device == "cuda":
            largest = max(family.mib for family in TARGETS.cuda.families.values())
            assert need.memory_mib > need.cores * largest


def test_fewer_cores_need_less_memory() -> None:
    (job,) = select(TARGETS, [V3])
    cost = Build(V3, 2, {}, memory_mib=1000)
    one, eight = (resources(TARGETS, job, cost, cores) for cores in (1, 8))
    assert eight.memory_mib - one.memory_mib == 7000
    assert (one.cores, eight.cores) == (1, 8)


def test_script_is_what_a_shell_and_slurm_read(tmp_path: Path) -> None:
    place = Place(tmp_path / "a checkout's $HOME", tmp_path / "out 100%")
    (job,) = select(TARGETS, [V3])
    need = Resources(4, 8000, 90)
    text = batch_script(place, job, need, ["conda-forge"], ["--mem=1G", "--comment=two words"])
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert "#SBATCH --cpus-per-task=4" in lines
    assert lines.index("#SBATCH --mem=8000M") < lines.index("#SBATCH --mem=1G")
    assert '#SBATCH "--comment=two words"' in lines
    assert f'#SBATCH "--output={tmp_path}/out 100%%/task.log"' in lines
    words = subprocess.run(
        ["bash", "-c", text.replace("\nexec ", "\nprintf '%s\\n' ")],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for option, value in (
        ("--root", str(place.root)),
        ("--variant", V3),
        ("--output", str(place.output)),
        ("--jobs", "4"),
        ("--channel", "conda-forge"),
    ):
        assert words[words.index(option) + 1] == value
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_dry_run_prints_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "output"
    words = ["build", "--root", str(ROOT), "--platform", "all", "--device", "cpu"]
    assert main([*words, "--output", str(output), "--on", "slurm", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    names = [job.name for job in jobs(TARGETS) if job.device == "cpu"]
    assert printed.count("#!/bin/bash") == len(names)
    assert all(f"--job-name=vllm-conda-{name}\n" in printed for name in names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--dry-run"], ["--sbatch=--qos=x"]])
def test_options_of_a_cluster_want_one(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--root", str(ROOT), *option]) == UsageError.exit_code
    assert "Add --on slurm." in capsys.readouterr().err


def test_machine_without_slurm(commands: Path) -> None:
    with pytest.raises(MissingToolError, match="sbatch is not on this machine"):
        slurm.require()
    for name in ("sbatch", "squeue"):
        fake(commands, name, "exit 0")
    with pytest.raises(MissingToolError, match="scancel is not on this machine"):
        slurm.require()


def test_slurm_that_does_not_answer(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last question is asked when patience is over, and what squeue says is in the sentence."""
    fake(commands, "squeue", "echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    waited: list[float] = []
    monkeypatch.setattr(slurm, "time", SimpleNamespace(monotonic=lambda: sum(waited)))
    with pytest.raises(ClusterError, match="Unable to contact"):
        slurm.states(["1"], waited.append)
    assert sum(waited[:-1]) <= slurm.PATIENCE_SECONDS < sum(waited)


def test_task_that_squeue_has_forgotten(commands: Path) -> None:
    fake(commands, "squeue", "echo '7|RUNNING|None|n1'")
    assert slurm.states(["7", "8"]) == {"7": State("RUNNING", "", "n1"), "8": slurm.UNKNOWN}
    fake(commands, "sacct", "echo 'CANCELLED by 1000|n2'")
    assert slurm.states(["8"]) == {"8": State("CANCELLED", "", "n2")}
    fake(commands, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert slurm.states(["8"]) == {"8": slurm.UNKNOWN}


def test_refusal_in_the_words_of_the_controller(commands: Path, tmp_path: Path) -> None:
    fake(
        commands,
        "sbatch",
        "echo 'sbatch: error: invalid partition specified: x' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2\n"
        "exit 1",
    )
    with pytest.raises(ClusterError, match="task a-job: Invalid partition name specified"):
        slurm.submit(tmp_path / "task.sh", "a-job")
    fake(commands, "sbatch", "echo '12;other-cluster'")
    assert slurm.submit(tmp_path / "task.sh", "a-job") == "12"


ENDINGS = {
    "memory": (State("OUT_OF_MEMORY", "", "n1"), "", "more than its 500 MiB of memory on n1"),
    "memory in the log": (
        State("FAILED", "JobLaunchFailure"),
        "slurmstepd: error: Exceeded job memory limit\n",
        "more than its 500 MiB",
    ),
    "time": (State("TIMEOUT"), "error: stopped\n  -> x\n", "did not end within its time limit"),
    "cancelled": (State("CANCELLED"), "", "somebody cancelled it"),
    "preempted": (State("PREEMPTED"), "", "preempted and not requeued"),
    "node": (State("NODE_FAIL", "", "n9"), "", "its node failed on n9"),
    "forgotten": (slurm.UNKNOWN, "", "Slurm no longer knows it"),
    "new word": (State("LAUNCH_FAILED", "X"), "", r"it failed \(LAUNCH_FAILED, X\)"),
    "hopeless": (State("PENDING", "PartitionTimeLimit"), "", "time limit is above the partition"),
    "own error": (
        State("FAILED", "NonZeroExitCode"),
        "task 1 on n, start 0\nerror: old\n  -> x\ntask 1 on n, start 1\n"
        "error: Building vllm-kernels-cpu failed:\n    a.cc:1: error: b\n\n  -> Full log: x\n",
        r"Building vllm-kernels-cpu failed:\n  a.cc:1: error: b$",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_each_end_in_one_sentence(name: str, tmp_path: Path) -> None:
    state, log, sentence = ENDINGS[name]
    place = Place(tmp_path, tmp_path / "task")
    if log:
        place.folder.mkdir()
        place.log.write_text(log)
    found = ending(state, place, Resources(2, 500, 60))
    assert re.search(sentence, found.reason), found.reason
    assert "old" not in found.reason
    helps = {"memory": "--sbatch=--mem=1000M", "time": "--sbatch=--time=120"}
    assert found.option == helps.get(name.split()[0], "")


def test_waiting_task_with_a_passing_reason_is_left_alone() -> None:
    for reason in ("Priority", "Resources", "QOSMaxJobsPerUserLimit", "BeginTime", "Dependency"):
        assert State("PENDING", reason).alive
        assert not State("PENDING", reason).hopeless
    assert not State("RUNNING", "PartitionDown").hopeless


def test_environment_of_a_task_names_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "c d"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@host/simple")
    (job,) = select(TARGETS, [V3])
    text = batch_script(Place(ROOT, tmp_path), job, Resources(1, 1, 1))
    assert f"export VLLM_CONDA_CACHE='{tmp_path}/c d'\n" in text
    assert "secret" not in text


def test_compiler_cache_hits_in_the_folder_of_a_task(tmp_path: Path) -> None:
    """The environments' prefixes have one length, so folders of one length give them one name."""
    places = [workspace_for(tmp_path), *(workspace_for(tmp_path, tmp_path / n) for n in "ab")]
    names = {place.folder.name for place in places}
    assert len(names) == len(places)
    assert len({len(name) for name in names}) == 1
    assert len({place.cache for place in places}) == 1
