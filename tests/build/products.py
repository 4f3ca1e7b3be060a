"""What is killed at any moment: each command that publishes, with what a reader then looks at.

Everything is real but the size: the checkout, catalog and engine of the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import support
from rattler.package_streaming import extract

from vllm_conda.downloads import fetch
from vllm_conda.downloads.store import Store, sha256
from vllm_conda.engine.interface import table
from vllm_conda.targets import load_targets

PROGRAMS = Path(__file__).parent
SMALL_TOOLCHAIN = PROGRAMS.parent / "unit/toolchain/small_toolchain.py"
V3 = "linux-64-cpu-x86-64-v3"
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
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.published: dict[Path, str] = {}
        shutil.copy(support.ROOT / "run", self.root)
        (self.root / "src/vllm_conda").symlink_to(support.ROOT / "src/vllm_conda")
        (self.root / "pixi.toml").write_text(WRAPPER)
        (self.root / "pyproject.toml").write_text("[dependency-groups]\n")
        (self.root / "packages/toolkit").mkdir(parents=True)
        (self.root / "packages/toolkit/pyproject.toml").write_text("[project]\ndependencies = []\n")

    def make_wheels(self) -> None:
        """Those of the small catalog: no command may be killed at it, nor find half of them."""
        words = [sys.executable, SMALL_TOOLCHAIN, self.folder / "wheels"]
        subprocess.run(words, env=self.environment(), check=True)

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
            "TMPDIR": str(self.temporary),
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
        return ", ".join(map(str, [*unlisted, *hidden, *self.temporary.iterdir()]))

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

    def __init__(self, folder: Path, dummies: str) -> None:
        super().__init__(folder, dummies)
        self.make_wheels()

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
        left = [*(self.cache / "tmp").iterdir(), *self.temporary.iterdir()]
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
        self.make_wheels()
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
