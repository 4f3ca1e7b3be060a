"""A Slurm of one node on loopback: munged, slurmctld and slurmd of the machine's own packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from waiting import until

from vllm_conda.processes import guarded

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
_SECONDS = 30.0
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={control_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=2
MinJobAge=300
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory_mib} State=UNKNOWN
PartitionName=build Nodes={host} Default=YES MaxTime=600 PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=600 PriorityTier=10
"""


def missing() -> str:
    """What keeps this machine from running a Slurm, or nothing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"no {absent[0]} here: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "slurmd starts tasks as root alone"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """Daemons and the environment that reaches them."""

    folder: Path
    cores: int = 4
    memory_mib: int = 8000
    environment: dict[str, str] = field(default_factory=dict)
    _daemons: list[ExitStack] = field(default_factory=list)

    def start(self) -> None:
        self.folder.mkdir(parents=True)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        keys = self.folder / "munge"
        keys.mkdir(mode=0o700)
        (keys / "key").write_bytes(os.urandom(128))
        (keys / "key").chmod(0o600)
        configuration = self.folder / "slurm.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                host=socket.gethostname(),
                user="root",
                folder=self.folder,
                control_port=_free_port(),
                node_port=_free_port(),
                cores=self.cores,
                memory_mib=self.memory_mib,
            )
        )
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        self.environment = {"SLURM_CONF": str(configuration), "PATH": path}
        munge = {"key-file": keys / "key", "pid-file": keys / "pid", "seed-file": keys / "seed"}
        munge |= {"log-file": keys / "log", "socket": self.folder / "munge.socket"}
        options = [f"--{name}={value}" for name, value in munge.items()]
        self._daemon(["munged", "--foreground", "--force", *options])
        _until(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._daemon(["slurmctld", "-D", "-f", str(configuration)])
        self._daemon(["slurmd", "-D", "-f", str(configuration)])
        _until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T").stdout, "the node")

    def _daemon(self, command: Sequence[str]) -> None:
        """Start a daemon that ends with these tests, however they end."""
        stack = ExitStack()
        log = stack.enter_context((self.folder / f"{command[0]}.out").open("ab"))
        environment = {**os.environ, **self.environment}
        stack.enter_context(
            guarded(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )
        )  # fmt: skip
        self._daemons.append(stack)

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    def restart_controller(self, between: float) -> None:
        """Take the controller away for a while."""
        self._daemons.pop(1).close()
        time.sleep(between)
        self._daemon(["slurmctld", "-D", "-f", self.environment["SLURM_CONF"]])

    def stop(self) -> None:
        """End tasks, then the daemons, the last started first."""
        self.ask("scancel", "--me")
        time.sleep(0.5)
        while self._daemons:
            self._daemons.pop().close()


def _until(ready: Callable[[], bool], what: str) -> None:
    if not until(ready, _SECONDS):
        raise TimeoutError(f"{what} did not come up in {_SECONDS:.0f} s")
