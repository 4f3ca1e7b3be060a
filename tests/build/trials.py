"""Kill a command at a random moment, look at what is left, and run it again.

Everything is real but the size: the checkout, catalog and engine of the tests. What runs below this
process afterwards is an orphan, whatever session or group it made for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import support
from rattler.package_streaming import extract

from vllm_conda.downloads import fetch
from vllm_conda.downloads.store import Store, sha256
from vllm_conda.engine.interface import table
from vllm_conda.processes import adopt_orphans, descendants
from vllm_conda.targets import load_targets

ORPHAN_SECONDS = 5.0
LONGEST_SECONDS = 300.0
PROGRAMS = Path(__file__).parent
SMALL_TOOLCHAIN = PROGRAMS.parent / "unit/toolchain/small_toolchain.py"
V3 = "linux-64-cpu-x86-64-v3"
SIGNALS = {signal.SIGTERM: 4, signal.SIGKILL: 4, signal.SIGINT: 1, signal.SIGHUP: 1}
# A program of the tests, to which Ctrl-C does before its imports what it does to the real ones.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); import runpy, sys; "
    "del sys.argv[0]; sys.path[0] = sys.argv[0].rpartition('/')[0]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
WRAPPER = '[tasks]\ntrial = "env"\n'


class Product:
    """A command that publishes something new at each step.

    Args:
        folder: Its checkout, cache and channels; made here.
        dummies: Address of a channel of dummy packages.
    """

    def __init__(self, folder: Path, dummies: str) -> None:
        self.folder, self.dummies = folder, dummies
        self.root = support.checkout(folder / "checkout")
        self.output = self.root / "output"
        self.cache = folder / "cache"
        self.published: dict[Path, str] = {}
        shutil.copy(support.ROOT / "run", self.root)
        (self.root / "src/vllm_conda").symlink_to(support.ROOT / "src/vllm_conda")
        (self.root / "pixi.toml").write_text(WRAPPER)
        (self.root / "pyproject.toml").write_text("[dependency-groups]\n")
        (self.root / "packages/toolkit").mkdir(parents=True)
        (self.root / "packages/toolkit/pyproject.toml").write_text("[project]\ndependencies = []\n")

    def command(self, step: int) -> list[str]:
        """The command of a step, whose input is prepared here."""
        raise NotImplementedError

    def channels(self) -> Iterator[Path]:
        """The channels that it publishes."""
        yield self.output

    def result(self, step: int) -> str:
        """What is wrong with what a whole run of the step left, or nothing."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(support.ROOT / "src"), str(support.ROOT / "tests")]),
            "VLLM_CONDA_CACHE": str(self.cache),
            "RATTLER_CACHE_DIR": str(self.cache / "rattler"),
            "CONDA_OVERRIDE_ARCHSPEC": "x86_64_v4",
        }

    def damage(self) -> str:
        """What a reader of the channels would stumble over, or nothing."""
        for channel in self.channels():
            for index in channel.glob("*/repodata.json"):
                for name, record in json.loads(index.read_text())["packages.conda"].items():
                    file = index.parent / name
                    if not file.is_file():
                        return f"{file} is listed and not there"
                    found = sha256(file)
                    if found != record["sha256"] or file.stat().st_size != record["size"]:
                        return f"{file} is not the file that the index lists"
                    if self.published.setdefault(file, found) != found:
                        return f"{file} has changed its bytes"
        return ""

    def listed(self, subdir: str) -> list[Path]:
        """The packages that the output channel lists."""
        index = self.output / subdir / "repodata.json"
        return [index.parent / name for name in json.loads(index.read_text())["packages.conda"]]

    def leftovers(self, subdir: str) -> str:
        unlisted = set((self.output / subdir).glob("*.conda")) - set(self.listed(subdir))
        hidden = [path for path in self.output.rglob(".*") if path.name != ".lock"]
        return ", ".join(map(str, [*unlisted, *hidden]))

    def content(self, package: Path, file: str) -> str:
        """Text of a file of a package."""
        folder = self.folder / "content"
        shutil.rmtree(folder, ignore_errors=True)
        extract(package, folder)
        return next(folder.glob(file)).read_text()


class Build(Product):
    """`vllm-conda build`: compile, package, test, publish, install."""

    def command(self, step: int) -> list[str]:
        (self.root / "src/vllm_kernels/__init__.py").write_text(f"version = {step}\n")
        words = ["--root", str(self.root), "--channel", self.dummies, "--variant", V3]
        return [sys.executable, "-m", "vllm_conda", "build", *words]

    def result(self, step: int) -> str:
        packages = self.listed("linux-64")
        if len(packages) != 4:
            return f"{len(packages)} packages"
        core = next(path for path in packages if path.name.startswith("vllm-core-"))
        text = self.content(core, "**/vllm_kernels/__init__.py")
        if text != f"version = {step}\n":
            return f"the package holds {text!r} in step {step}"
        return self.leftovers("linux-64")


class Publish(Product):
    """The publication alone, of one generation of packages after another."""

    GENERATIONS = 6

    def __init__(self, folder: Path, dummies: str) -> None:
        super().__init__(folder, dummies)
        for number in range(self.GENERATIONS):
            place = folder / "made" / str(number)
            for name, text in (("stays", "same"), ("moves", str(number)), ("goes", str(number))):
                version = "1" if name == "stays" else str(number)
                script = f"head -c 300000 /dev/urandom > $PREFIX/{name}; echo {text} >> $PREFIX/t"
                support.build_dummy(place, name, version, {"run": []}, script)
            if number:
                first = next((folder / "made/0/linux-64").glob("stays-*.conda"))
                shutil.copy(first, place / "linux-64" / first.name)

    def packages(self, step: int) -> list[Path]:
        made = self.folder / "made" / str(step % self.GENERATIONS) / "linux-64"
        return sorted(made.glob("*.conda"))

    def command(self, step: int) -> list[str]:
        words = [self.output, self.cache, *self.packages(step)]
        return [
            sys.executable,
            "-c",
            PROGRAM,
            str(PROGRAMS / "small_publisher.py"),
            *map(str, words),
        ]

    def result(self, step: int) -> str:
        wanted = {path.name for path in self.packages(step)}
        found = {path.name for path in self.listed("linux-64")}
        return self.leftovers("linux-64") if found == wanted else f"lists {sorted(found)}"


class Toolchain(Product):
    """`vllm-conda toolchain` of the small catalog."""

    def command(self, step: int) -> list[str]:
        return [
            sys.executable,
            "-c",
            PROGRAM,
            str(SMALL_TOOLCHAIN),
            str(self.folder / "wheels"),
            str(step),
        ]

    def channels(self) -> Iterator[Path]:
        yield from (self.cache / "channels").glob("*")

    def result(self, step: int) -> str:
        left = list((self.cache / "tmp").iterdir())
        if left:
            return f"left {left}"
        name = f"more-{step}-external_0.conda"
        found = [path for path in self.channels() if (path / "linux-64" / name).is_file()]
        packages = [len(list(path.glob("*/*.conda"))) for path in found]
        return "" if packages == [5] else f"{packages} packages in the channels of {name}"


ENGINE_RECIPE = """
package: {name: vllm-engine, version: "1.0"}
source: {path: '${{ env.get("VLLM_ENGINE_SDIST") }}'}
build:
  number: 0
  noarch: generic
  variant: {use_keys: [vllm_engine_package_hash]}
  script:
    - for i in 1 2 3 4 5; do echo "[$i/5] step"; sleep 0.1; done
    - mkdir -p $PREFIX/share && echo STEP > $PREFIX/share/engine
tests:
  - script: [test -f $PREFIX/share/engine]
about: {license: Apache-2.0}
"""


class Engine(Product):
    """`vllm-conda engine build` of a small engine."""

    def __init__(self, folder: Path, dummies: str) -> None:
        super().__init__(folder, dummies)
        self.output = self.root / "output/engine"
        archive = folder / "vllm.tar.gz"
        (folder / "vllm").mkdir()
        (folder / "vllm/PKG-INFO").write_text("")
        subprocess.run(["tar", "czf", archive, "vllm"], cwd=folder, check=True)
        release = load_targets(self.root).engine.release
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        real = table.load(support.ROOT).sdist_sha256(release)
        pins = self.root / table.FILE
        pins.write_text((support.ROOT / table.FILE).read_text().replace(real, digest))
        words = [sys.executable, SMALL_TOOLCHAIN, folder / "wheels"]
        subprocess.run(words, env=self.environment(), check=True)
        store = Store(self.cache)
        store.prepare()
        fetch.record(store, "pip", f"vllm-{release}-sdist", "vllm", release, archive)

    def command(self, step: int) -> list[str]:
        (self.root / "recipe/engine/recipe.yaml").write_text(
            ENGINE_RECIPE.replace("STEP", str(step))
        )
        words = [self.folder / "wheels", self.root, self.dummies]
        return [sys.executable, "-c", PROGRAM, str(PROGRAMS / "small_engine.py"), *map(str, words)]

    def channels(self) -> Iterator[Path]:
        yield self.output
        yield from (self.cache / "channels").glob("*")

    def result(self, step: int) -> str:
        packages = self.listed("noarch")
        if len(packages) != 1:
            return f"{len(packages)} packages"
        if self.content(packages[0], "share/engine") != f"{step}\n":
            return f"not the engine of step {step}"
        return self.leftovers("noarch")


PRODUCTS: dict[str, type[Product]] = {
    "build": Build, "publish": Publish, "toolchain": Toolchain, "engine": Engine,
}  # fmt: skip


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
        while left := descendants(self.own):
            if time.monotonic() - started > ORPHAN_SECONDS:
                self._fault(f"{what}: orphans {[_words(pid) for pid in left]}")
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.02)
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
