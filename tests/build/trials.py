"""Kill a command at a random moment, look at what is left, and run it again.

What runs below this process afterwards is an orphan, whatever session or group it made for itself.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import support
from products import Product
from waiting import until

from vllm_conda.processes import adopt_orphans, descendants

ORPHAN_SECONDS = 5.0
LONGEST_SECONDS = 300.0
SIGNALS = {signal.SIGTERM: 4, signal.SIGKILL: 4, signal.SIGINT: 1, signal.SIGHUP: 1}


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        victim: The command, the wrapper, or a child of either.
        program: The victim's words at that moment, empty where it had just ended.
        after: Seconds from the start to the signal.
        code: Return code of what was started, as subprocess has it.
    """

    step: int
    sign: str
    victim: str
    program: str
    after: float
    code: int

    def __str__(self) -> str:
        return (
            f"step {self.step}: {self.sign} to the {self.victim} ({self.program}) "
            f"after {self.after:.2f} s, exit code {self.code}"
        )


@dataclass
class Tally:
    """What the trials showed; ``faults`` is empty if all of them went right."""

    kills: list[Kill] = field(default_factory=list)
    ended_before: int = 0
    faults: list[str] = field(default_factory=list)
    slowest_end: float = 0.0


class Trials:
    """Trials of one product.

    Args:
        seed: Moments, signals and victims follow from it.
    """

    def __init__(self, product: Product, seed: int) -> None:
        self.product = product
        self.chance = random.Random(seed)  # noqa: S311
        self.tally = Tally()
        self.step = 0
        self.errors = product.folder / "stderr"
        adopt_orphans()
        # Of this process itself, such as multiprocessing's tracker of resources.
        self.own = descendants()
        self.seconds: dict[bool, float] = {}
        for wrapped in (True, True, False):  # the first makes the environment of ./run
            self._whole(wrapped)

    def run(self, kills: int, watch: Callable[[Tally], None] = lambda tally: None) -> Tally:
        """Kill as many runs, each followed by a whole one."""
        while len(self.tally.kills) < kills and len(self.tally.faults) < 20:
            wrapped = self.chance.random() < 0.5
            (sign,) = self.chance.choices(list(SIGNALS), list(SIGNALS.values()))
            below = self.chance.random() < 0.4
            if self._kill(wrapped, sign, below):
                self._whole(wrapped)
            else:
                self.tally.ended_before += 1
            watch(self.tally)
        return self.tally

    def _start(self, wrapped: bool) -> subprocess.Popen[bytes]:
        words = self.product.command(self.step)
        if wrapped:
            wrapper = str(self.product.root / "run")
            words = [sys.executable, wrapper, "--client", "venv", "trial", *words]
        with self.errors.open("wb") as errors:
            return subprocess.Popen(
                words,
                env=self.product.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=support.default_signals,
            )

    def _kill(self, wrapped: bool, sign: signal.Signals, below: bool) -> bool:
        """Whether there was something to kill at the moment that chance chose."""
        self.step += 1
        started = time.monotonic()
        process = self._start(wrapped)
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.chance.uniform(0, self.seconds[wrapped]))
            return False
        victims = sorted(descendants(self.own) - {process.pid}) if below else [process.pid]
        if not victims:
            process.kill()
            process.wait(LONGEST_SECONDS)
            return False
        victim = self.chance.choice(victims)
        program, after = _words(victim), time.monotonic() - started
        with suppress(ProcessLookupError):
            os.kill(victim, sign)
        code = process.wait(LONGEST_SECONDS)
        starter = "wrapper" if wrapped else "command"
        name = f"child of the {starter}" if below else starter
        kill = Kill(self.step, sign.name, name, program, round(after, 3), code)
        self.tally.kills.append(kill)
        said = self.errors.read_text(errors="replace")
        # Before Python has started there is nobody to catch Ctrl-C.
        starting = said.endswith("KeyboardInterrupt\n") and str(support.ROOT) not in said
        expected = range(256) if below else (-sign, 128 + sign, *[1] * starting)
        if code == 0 and (wrong := self.product.result(self.step)):  # it was too late to stop it
            self._fault(f"{kill}: {wrong}")
        elif code not in (0, *expected):
            self._fault(f"{kill}: {said[-2000:]}")
        self._orphans(str(kill))
        if damage := self.product.damage():
            self._fault(f"{kill}: {damage}")
        if "Traceback" in said and not starting:
            self._fault(f"{kill}: {said[-2000:]}")
        return True

    def _orphans(self, what: str) -> None:
        started = time.monotonic()
        if not until(lambda: not descendants(self.own), ORPHAN_SECONDS):
            left = descendants(self.own)
            self._fault(f"{what}: orphans {[_words(pid) for pid in left]}")
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.tally.slowest_end = max(self.tally.slowest_end, time.monotonic() - started)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _whole(self, wrapped: bool) -> None:
        """A run to the end, which must be right whatever the one before left."""
        self.step += 1
        started = time.monotonic()
        code = self._start(wrapped).wait(LONGEST_SECONDS)
        self.seconds[wrapped] = time.monotonic() - started
        what = f"step {self.step}, whole"
        if code:
            self._fault(f"{what}: exit code {code}: {self.errors.read_text()[-2000:]}")
            return
        self._orphans(what)
        if wrong := self.product.damage() or self.product.result(self.step):
            self._fault(f"{what}: {wrong}")

    def _fault(self, text: str) -> None:
        self.tally.faults.append(f"{self.product.folder.name} {text}")


def _words(pid: int) -> str:
    """The words of a process, the first 200 characters of them."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        return " ".join(words.split("\0")).strip()[:200]
    return ""
