"""`vllm-conda build --on slurm` against a real Slurm, with dummy compilers and small sources."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
import support
from waiting import until, wait_for

from vllm_conda.errors import BuildFailure, ClusterError, IntegrityError, MissingToolError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing()),
]
# What plain progress makes of a build that `hold` holds up.
WAITING = "compile 1/2"
V3, V4 = "linux-64-cpu-x86-64-v3", "linux-64-cpu-x86-64-v4"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Cluster]:
    cluster = slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm") / "cluster")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def _environment(
    slurm: slurm_cluster.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "VLLM_CONDA_CACHE": str(tmp_path / "cache"),
        "RATTLER_CACHE_DIR": str(tmp_path / "cache" / "rattler"),
        "PYTHONPATH": str(support.ROOT / "src"),
        "CONDA_OVERRIDE_ARCHSPEC": "x86_64_v4",
    }
    for name, value in {**slurm.environment, **own}.items():
        monkeypatch.setenv(name, value)


def command(root: Path, channel: str, *words: str, on: bool = True) -> list[str]:
    place = ["--root", str(root), "--channel", channel, "--jobs", "1"]
    start = [sys.executable, "-m", "vllm_conda", "build", *place]
    return [*start, *(["--on", "slurm"] if on else []), *words]


def run(root: Path, channel: str, *words: str, on: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, channel, *words, on=on), capture_output=True, text=True, timeout=300
    )


def packages(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("linux-64/*.conda")}


def task_folder(root: Path, job: str) -> Path:
    return root / "output.build" / "slurm" / job


def hold(root: Path, flag: Path) -> None:
    """Make builds wait while ``flag`` exists."""
    script = root / "recipe" / "build.sh"
    wait = f'while [[ -f "{flag}" ]]; do echo "[1/2] waiting"; sleep 0.2; done\n'
    script.write_text(script.read_text().replace("mkdir -p", wait + "mkdir -p", 1))
    flag.touch()


def test_same_bits_as_a_local_build_and_nothing_to_do_afterwards(
    checkout: Path, dummies: str
) -> None:
    local = run(checkout, dummies, "--output", str(checkout / "local"), on=False)
    assert local.returncode == 0, local.stderr
    done = run(checkout, dummies)
    assert done.returncode == 0, done.stderr
    assert packages(checkout / "output") == packages(checkout / "local")
    assert len(packages(checkout / "output")) == 5
    listed = json.loads((checkout / "output/linux-64/repodata.json").read_text())
    assert set(listed["packages.conda"]) == set(packages(checkout / "output"))
    for job in (V3, V4):
        assert re.search(rf"submit +{job}: task \d+, 1 cores, \d+ MiB, 120 minutes", done.stderr)
    assert "into a fresh environment" in done.stdout
    assert "conda install" in done.stdout
    again = run(checkout, dummies)
    assert again.returncode == 0
    assert "submit" not in again.stderr
    assert again.stdout.count("unchanged") == 5


def test_failed_task_is_named_and_retried_alone(checkout: Path, dummies: str) -> None:
    broken = checkout / "csrc/cpu/norm/norm.cc"
    broken.write_text("SYNTAX ERROR\n")
    done = run(checkout, dummies)
    assert done.returncode == BuildFailure.exit_code
    assert "2 of 2 tasks failed" in done.stderr
    for job in (V3, V4):
        assert re.search(
            rf"{job} \(task \d+\): Building vllm-kernels-cpu for {job} failed", done.stderr
        )
        assert f"log: {task_folder(checkout, job) / 'task.log'}" in done.stderr
        retry = f"retry: vllm-conda build --on slurm --variant {job} --channel {dummies} --jobs 1"
        assert retry in done.stderr
    assert "error: expected unqualified-id" in done.stderr
    assert "Traceback" not in done.stderr
    assert not packages(checkout / "output")
    broken.write_text("norm\n")
    done = run(checkout, dummies, "--variant", V3)
    assert done.returncode == 0, done.stderr
    assert V4 not in done.stderr
    assert {name.rsplit("-", 2)[0] for name in packages(checkout / "output")} == {
        "vllm-core", "vllm-cpu", "vllm-kernels-cpu", "vllm-kernels",
    }  # fmt: skip


def test_what_succeeded_is_published_beside_a_failure(checkout: Path, dummies: str) -> None:
    script = checkout / "recipe" / "build.sh"
    condition = 'if [[ "${VLLM_CPU_LEVEL:-}" == 4 ]]; then echo "x.cc:1:1: error: no"; exit 1; fi\n'
    script.write_text(script.read_text().replace("mkdir -p", condition + "mkdir -p", 1))
    done = run(checkout, dummies)
    assert done.returncode == BuildFailure.exit_code
    assert "1 of 2 tasks failed" in done.stderr
    assert f"The packages of the other 1 are in {checkout / 'output'}" in done.stderr
    listed = json.loads((checkout / "output/linux-64/repodata.json").read_text())
    assert set(listed["packages.conda"]) == set(packages(checkout / "output"))
    assert len(listed["packages.conda"]) == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--sbatch=--partition=nowhere"], "Invalid partition name specified"),
        (["--sbatch=--mem=900G"], "Requested node configuration is not available"),
        (["--sbatch=--nonsense"], "unrecognized option"),
    ],
)
def test_refused_submission(
    checkout: Path, dummies: str, options: list[str], sentence: str
) -> None:
    done = run(checkout, dummies, *options)
    assert done.returncode == ClusterError.exit_code
    assert re.search(rf"error: Slurm refuses the task {V3}: .*{sentence}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--time=20:00:00", "--cpus-per-task=99"])
def test_task_that_could_never_start(
    slurm: slurm_cluster.Cluster, checkout: Path, dummies: str, option: str
) -> None:
    sentence = "above the partition's|cores, memory or time than the partition|no node of the"
    done = run(checkout, dummies, "--variant", V3, f"--sbatch={option}")
    assert done.returncode in (BuildFailure.exit_code, ClusterError.exit_code)
    assert re.search(sentence, done.stderr), done.stderr
    assert not slurm.ask("squeue", "-h").stdout


def test_out_of_memory(checkout: Path, dummies: str) -> None:
    script = checkout / "recipe" / "build.sh"
    hungry = "python3 -c 'x = b\"x\" * (800 << 20); import time; time.sleep(20)'\n"
    script.write_text(script.read_text().replace("mkdir -p", hungry + "mkdir -p", 1))
    done = run(checkout, dummies, "--variant", V3, "--sbatch=--mem=500M")
    assert done.returncode == BuildFailure.exit_code
    assert re.search(r"it needed more than its \d+ MiB of memory", done.stderr), done.stderr
    assert re.search(rf"--variant {V3} .*--sbatch=--mem=\d+M$", done.stderr, re.M)


def test_time_limit(checkout: Path, dummies: str, tmp_path: Path) -> None:
    hold(checkout, tmp_path / "hold")
    done = run(checkout, dummies, "--variant", V3, "--sbatch=--time=0:01")
    assert done.returncode == BuildFailure.exit_code
    assert "it did not end within its time limit" in done.stderr, done.stderr
    assert re.search(rf"--variant {V3} .*--sbatch=--time=240$", done.stderr, re.M)


def test_cancelled_by_somebody(
    slurm: slurm_cluster.Cluster, checkout: Path, dummies: str, tmp_path: Path
) -> None:
    hold(checkout, tmp_path / "hold")
    with subprocess.Popen(
        command(checkout, dummies, "--variant", V3), stderr=subprocess.PIPE, text=True
    ) as process:
        number = task_folder(checkout, V3) / "number"
        wait_for(task_folder(checkout, V3) / "task.log", WAITING)
        slurm.ask("scancel", number.read_text().strip())
        _, problems = process.communicate(timeout=120)
    assert process.returncode == BuildFailure.exit_code
    assert "somebody cancelled it" in problems


def test_requeued_task_goes_on(
    slurm: slurm_cluster.Cluster, checkout: Path, dummies: str, tmp_path: Path
) -> None:
    """As after a preemption: the task starts again, with the packages that it has made."""
    flag = tmp_path / "hold"
    hold(checkout, flag)
    with subprocess.Popen(
        command(checkout, dummies, "--variant", V3), stderr=subprocess.PIPE, text=True
    ) as process:
        log = task_folder(checkout, V3) / "task.log"
        wait_for(log, WAITING)
        # A task of a partition above it takes the node.
        taker = slurm.ask(
            "sbatch", "--parsable", "-p", "urgent", "-c", "4", "-o", "/dev/null",
            "--wrap", f'while [[ -f "{flag}" ]]; do sleep 0.2; done; sleep 1',
        )  # fmt: skip
        assert taker.returncode == 0, taker.stderr
        ask = ["squeue", "-h", "-j", taker.stdout.strip(), "-o", "%T"]
        assert until(lambda: slurm.ask(*ask).stdout == "RUNNING\n")
        flag.unlink()
        number = (task_folder(checkout, V3) / "number").read_text().strip()
        # Slurm lets a requeued task wait for two minutes.
        slurm.ask("scontrol", "update", f"jobid={number}", "StartTime=now")
        _, problems = process.communicate(timeout=280)
    assert process.returncode == 0, problems
    assert "start 1" in log.read_text()


def test_interrupted_submitter_cancels_and_killed_one_is_continued(
    slurm: slurm_cluster.Cluster, checkout: Path, dummies: str, tmp_path: Path
) -> None:
    flag = tmp_path / "hold"
    hold(checkout, flag)
    log = task_folder(checkout, V3) / "task.log"
    words = command(checkout, dummies, "--variant", V3)
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, preexec_fn=support.default_signals)
    wait_for(log, WAITING)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert until(lambda: not slurm.ask("squeue", "-h").stdout), slurm.ask("squeue").stdout

    log.unlink()
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, preexec_fn=support.default_signals)
    wait_for(log, WAITING)
    process.kill()
    process.wait()
    assert len(slurm.ask("squeue", "-h").stdout.splitlines()) == 1
    flag.unlink()
    done = run(checkout, dummies, "--variant", V3)
    assert done.returncode == 0, done.stderr
    assert "submit" not in done.stderr
    assert len(packages(checkout / "output")) == 4


def test_controller_that_restarts(
    slurm: slurm_cluster.Cluster, checkout: Path, dummies: str, tmp_path: Path
) -> None:
    flag = tmp_path / "hold"
    hold(checkout, flag)
    with subprocess.Popen(
        command(checkout, dummies, "--variant", V3), stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(task_folder(checkout, V3) / "task.log", WAITING)
        slurm.restart_controller(3.0)
        flag.unlink()
        _, problems = process.communicate(timeout=200)
    assert process.returncode == 0, problems


def test_damaged_package_of_a_task_is_refused(checkout: Path, dummies: str, tmp_path: Path) -> None:
    """A node's memory or disk turned a bit; the file's size and time are as recorded."""
    done = run(checkout, dummies, "--variant", V3)
    assert done.returncode == 0, done.stderr
    first = packages(checkout / "output")
    for path in checkout.glob("output/linux-64/*.conda"):
        path.unlink()
    file = next(task_folder(checkout, V3).glob("channel/linux-64/vllm-kernels-cpu-*.conda"))
    status, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = run(checkout, dummies, "--variant", V3)
    assert done.returncode == IntegrityError.exit_code
    assert "is damaged: its hash is" in done.stderr
    shutil.rmtree(task_folder(checkout, V3) / "channel")
    assert run(checkout, dummies, "--variant", V3).returncode == 0
    assert packages(checkout / "output") == first


def test_without_slurm(checkout: Path, dummies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    done = run(checkout, dummies)
    assert done.returncode == MissingToolError.exit_code
    assert "sbatch is not on this machine" in done.stderr
