"""What making the channel would fetch, through which client, and what is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from vllm_conda import platforms
from vllm_conda.downloads.store import Store
from vllm_conda.paths import cache_root
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.apt_client import AptClient
from vllm_conda.toolchain.channel import finished, request_file
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.pip_client import PipClient, requirements_of


@dataclass(frozen=True)
class Step:
    """What one client fetches.

    Attributes:
        client: ``pip``, ``apt`` or ``host``.
        what: Requirements, Debian package names, or the interpreter.
        suite: Debian suite for ``apt``, else empty.
        cached: Nothing of it has to be fetched.
    """

    client: str
    what: tuple[str, ...]
    suite: str
    cached: bool


@dataclass(frozen=True)
class Plan:
    """The steps towards the channel.

    Attributes:
        ready: The channel is there; nothing would be done.
        missing: Clients that the machine lacks.
    """

    platform: str
    cache: Path
    steps: tuple[Step, ...]
    ready: bool
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        """The plan as text, one line a step."""
        if self.ready:
            return [f"Toolchain channel for {self.platform}: ready in {self.cache}."]
        rows = [f"Toolchain channel for {self.platform}, made in {self.cache}:"]
        for step in self.steps:
            state = "cached" if step.cached else "to fetch"
            client = f"{step.client} ({step.suite})" if step.suite else step.client
            rows.append(f"  {client}, {state}: {' '.join(step.what)}")
        rows += [f"  missing on this machine: {name}" for name in self.missing]
        return rows


def plan(platform: str, *, cache: Path | None = None) -> Plan:
    """Say what :func:`vllm_conda.toolchain.ensure` would do; fetches and writes nothing.

    Raises:
        ConfigError, MissingToolError: as ``ensure``.
    """
    host = host_module.detect(platform)
    text = model.catalog_text()
    catalog = model.parse(text)
    store = Store(cache or cache_root())
    silent = Reporter()
    pip, apt = PipClient(store, host, silent), AptClient(store, host, silent)
    rows = tuple(requirements_of(catalog.pip, host).values())
    wheels = [row for row in rows if pip.cached(row) is not None]
    steps = [Step("pip", rows, "", len(wheels) == len(rows))]
    for wanted in catalog.apt.values():
        names = (*wanted.names, "and what they need") if wanted.closure else wanted.names
        steps.append(Step("apt", names, apt.suite(wanted), apt.cached(wanted) is not None))
    steps.append(Step("host", (f"CPython {host.python} of {host.python_home}",), "", True))
    missing = () if host.apt else ("apt-get and dpkg-deb",)
    ready = finished(store, request_file(store, host, text)) is not None
    return Plan(platform, store.root, tuple(steps), ready, missing)


def sources_table(catalog: model.Catalog, host: Host) -> Mapping[str, tuple[str, str]]:
    """Package name -> (client, what it is made of), for ``--list`` and the documentation."""
    requirements = requirements_of(catalog.pip, host)
    table = {}
    for package in catalog.packages:
        name = model.substitute(package.name, {"family": host.family}, "names")
        parts = []
        for source in package.sources():
            client, _, key = source.partition(":")
            if client == "pip":
                parts.append(f"pip {Requirement(requirements[key])}")
            elif client == "glibc":
                floor = platforms.table()[host.platform].glibc
                parts.append(f"glibc {floor} of")
            elif client == "apt":
                wanted = catalog.apt[key]
                parts.append(f"apt {host.suite if wanted.suite == 'host' else wanted.suite}")
            else:
                parts.append(f"host CPython {host.python}")
        table[name] = (", ".join(parts) or "packages.toml", package.summary)
    return table
