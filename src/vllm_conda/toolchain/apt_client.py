"""Debian packages by name through apt-get with a private configuration.

Lists, sources and cached files are the toolkit's own, so that the host's apt stays as it
is and root is not needed. Mirror and proxies are the ones the host's apt already uses.
"""

from __future__ import annotations

import os
import re
import shlex
import threading
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from vllm_conda.downloads import fetch as downloads
from vllm_conda.downloads.store import (
    FREE_SPACE,
    Store,
    disk_errors,
    disk_failed,
    key_of,
    read_json,
    remove,
)
from vllm_conda.errors import DiskError, MissingToolError, NetworkError
from vllm_conda.progress import Reporter
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.model import AptSet

_URI_LINE = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) (?P<hash>\S*)$", re.M)
_KEYRINGS = ("debian-archive-keyring", "ubuntu-archive-keyring")


@dataclass(frozen=True)
class SourceSet(AptSet):
    """The sources that packages are built from, without Debian's changes, and not the packages."""


@dataclass(frozen=True)
class Uri:
    """One file that apt would download: its cache key, package, version and size in bytes."""

    key: str
    name: str
    version: str
    size: int


def parse_uris(text: str) -> list[Uri]:
    """Read the lines that ``apt-get --print-uris`` prints for .deb files and upstream sources."""
    found = []
    for match in _URI_LINE.finditer(text):
        if key := _key(match["file"]):
            name, version, *_ = key.split("_")
            found.append(Uri(key, name, version, int(match["size"])))
    return found


def _key(file: str) -> str:
    """What a downloaded file is called in the cache; empty for one that is not kept."""
    name = urllib.parse.unquote(file)
    if name.endswith(".deb"):
        return name[: -len(".deb")]
    version, archive, _ = name.partition(".orig.tar.")
    return f"{version}_source" if archive else ""


def upstream_version(version: str) -> str:
    """The upstream part of a Debian version: ``1:2.36-9+deb12u1`` -> ``2.36``."""
    match = re.match(r"(?:\d+:)?([0-9]+(?:\.[0-9]+)*)", version)
    if match is None:
        raise ValueError(f"{version!r} is not a Debian version")
    return match.group(1)


class AptClient:
    """Fetches one :class:`AptSet`."""

    def __init__(self, store: Store, host: Host, reporter: Reporter) -> None:
        self.store, self.host, self.reporter = store, host, reporter
        # Sets of one suite are fetched in turn: apt does not lock its lists here.
        self._states: dict[Path, threading.Lock] = {}

    def suite(self, wanted: AptSet) -> str:
        """The suite's code name."""
        return self.host.suite if wanted.suite == "host" else wanted.suite

    def _arch(self, wanted: AptSet) -> str:
        return wanted.arch or self.host.deb_arch

    def manifest(self, wanted: AptSet) -> Path:
        """File that lists which downloads make up the set."""
        suite = self.suite(wanted)
        parts = [suite, self._arch(wanted), str(wanted.closure), *wanted.names]
        if wanted.component != "main":
            parts.append(wanted.component)
        if isinstance(wanted, SourceSet):
            parts.append("source")
        return self.store.downloads / "apt" / f"{suite}-{key_of(*parts)}.json"

    def cached(self, wanted: AptSet) -> list[downloads.Artifact] | None:
        """The set as an earlier run left it, or None when a file is missing."""
        keys = read_json(self.manifest(wanted))
        if not isinstance(keys, list):
            return None
        found = [downloads.cached(self.store, "apt", str(key)) for key in keys]
        return [one for one in found if one] if all(found) else None

    def fetch(self, wanted: AptSet) -> list[downloads.Artifact]:
        """Download what is missing of the set.

        Raises:
            NetworkError: the mirror cannot be reached.
            MissingToolError: no apt here, or it does not know a package.
        """
        self._need_apt()
        suite = self.suite(wanted)
        state = self._state(wanted)
        scratch = self.store.scratch("apt")
        try:
            with self._states.setdefault(state, threading.Lock()):
                config = self._configure(suite, wanted, state, scratch)
                env = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}
                self._update(suite, state, scratch, env)
                uris = self._uris(wanted, scratch, env)
                found = {uri.key: downloads.cached(self.store, "apt", uri.key) for uri in uris}
                missing = [uri for uri in uris if found[uri.key] is None]
                if missing:
                    found.update(self._download(wanted, missing, scratch, env))
            self.store.write_json(self.manifest(wanted), [uri.key for uri in uris])
            return [one for one in found.values() if one]
        finally:
            remove(scratch)

    def _need_apt(self) -> None:
        if not self.host.apt or not self.host.suite:
            raise MissingToolError(
                "This machine has no apt-get and dpkg-deb, from which the embedded channel "
                "takes its compiler.",
                "Use conda-forge, or run on Debian or Ubuntu.",
            )

    def _site(self, suite: str, scratch: Path) -> str:
        """The host's own mirror, as its apt sources name it."""
        command = [
            "apt-get", "indextargets", "--no-release-info",
            "--format", "$(CREATED_BY) $(COMPONENT) $(RELEASE) $(REPO_URI)",
        ]  # fmt: skip
        env = {k: v for k, v in os.environ.items() if k != "APT_CONFIG"}
        code, text = downloads.run_client(command, {**env, "LC_ALL": "C"}, scratch)
        sites = [
            line.split()[3]
            for line in text.splitlines()
            if line.startswith(f"Packages main {self.host.suite} ")
        ]
        if code or not sites:
            raise MissingToolError(
                f"The apt sources of this machine name no mirror for {self.host.suite} main.",
                "Add one to /etc/apt/sources.list.d.",
            )
        return sites[0]

    def _state(self, wanted: AptSet) -> Path:
        """Folder of apt's lists: one for each set of sources, or each update would drop others'."""
        suite = self.suite(wanted)
        name = suite if wanted.component == "main" else f"{suite}-{wanted.component}"
        if self._arch(wanted) != self.host.build_deb_arch:
            name += f"-{self._arch(wanted)}"
        if isinstance(wanted, SourceSet):
            name += "-source"
        return self.store.root / "apt" / name

    def _configure(self, suite: str, wanted: AptSet, state: Path, scratch: Path) -> Path:
        """Write the private configuration; returns its path."""
        arch = self._arch(wanted)
        env = {k: v for k, v in os.environ.items() if k != "APT_CONFIG"}
        code, acquire = downloads.run_client(["apt-config", "dump", "Acquire"], env, scratch)
        if code:
            raise MissingToolError(f"apt-config failed: {downloads.last_error(acquire)}.")
        keyrings = [
            str(path)
            for name in _KEYRINGS
            for path in sorted(Path("/usr/share/keyrings").glob(f"{name}.*"))
        ]
        options = [f"arch={arch}"]
        if keyrings:
            options.append(f"signed-by={','.join(keyrings)}")
        with disk_errors(state):
            for folder in (state / "lists/partial", scratch / "cache/archives/partial"):
                folder.mkdir(parents=True, exist_ok=True)
            (scratch / "status").touch()
            site = self._site(suite, scratch)
            kind = "deb-src" if isinstance(wanted, SourceSet) else "deb"
            source = f"{kind} [{' '.join(options)}] {site} {suite} {wanted.component}\n"
            (scratch / "sources.list").write_text(source, encoding="utf-8")
            settings = {
                "Dir::State": state,
                "Dir::State::lists": state / "lists",
                "Dir::State::status": scratch / "status",
                "Dir::Cache": scratch / "cache",
                "Dir::Etc::sourcelist": scratch / "sources.list",
                "Dir::Etc::sourceparts": "/dev/null",
                "Dir::Etc::parts": "/dev/null",
                "Dir::Etc::main": "/dev/null",
                "Dir::Etc::preferences": "/dev/null",
                "Dir::Etc::preferencesparts": "/dev/null",
                "APT::Architecture": arch,
                "APT::Sandbox::User": "root",
                "APT::Install-Recommends": "false",
                "Debug::NoLocking": "true",
            }
            rows = [f'{key} "{value}";' for key, value in settings.items()]
            rows += [
                f"#clear APT::Architectures;\nAPT::Architectures {{ {arch}; }};",
                "#clear Acquire::Languages;",
                'Acquire::Languages "none";',
            ]
            path = scratch / "apt.conf"
            path.write_text(acquire + "\n".join(rows) + "\n", encoding="utf-8")
        return path

    def _update(self, suite: str, state: Path, scratch: Path, env: dict[str, str]) -> None:
        lists = state / "lists"
        with downloads.growing(self.reporter, f"apt-get update ({suite})", lists / "partial", None):
            # Without Error-Mode an unreachable mirror is only a warning.
            command = ["apt-get", "-o", "APT::Update::Error-Mode=any", "update"]
            code, text = downloads.run_client(command, env, scratch)
        if code:
            raise self._failure(f"the package list of {suite}", text, "apt-get update")

    def _uris(self, wanted: AptSet, scratch: Path, env: dict[str, str]) -> list[Uri]:
        if isinstance(wanted, SourceSet):
            command = ["apt-get", "source", "--download-only", "--print-uris", *wanted.names]
        elif wanted.closure:
            command = ["apt-get", "install", "--yes", "--print-uris", *wanted.names]
        else:
            command = ["apt-get", "download", "--print-uris", *wanted.names]
        code, text = downloads.run_client(command, env, scratch)
        uris = parse_uris(text)
        if code or not uris:
            raise MissingToolError(
                f"apt cannot provide {', '.join(wanted.names)} from {self.suite(wanted)}: "
                f"{downloads.last_error(text)}.",
                f"Look it up with: apt-cache policy {shlex.join(wanted.names)}",
            )
        return uris

    def _download(
        self, wanted: AptSet, missing: list[Uri], scratch: Path, env: dict[str, str]
    ) -> dict[str, downloads.Artifact]:
        suite = self.suite(wanted)
        folder = scratch / "debs"
        folder.mkdir()
        command = ["apt-get", "download", *(f"{uri.name}={uri.version}" for uri in missing)]
        if isinstance(wanted, SourceSet):
            command = ["apt-get", "source", "--download-only", *wanted.names]
        total = sum(uri.size for uri in missing)
        label = f"apt-get download {len(missing)} packages ({suite})"
        with downloads.growing(self.reporter, label, folder, total):
            code, text = downloads.run_client(command, env, folder)
        by_key = {uri.key: uri for uri in missing}
        found = {}
        # Whatever arrived is kept, so that the next run only fetches the rest.
        for file in sorted(folder.iterdir()):
            uri = by_key.get(_key(file.name))
            if uri and file.stat().st_size == uri.size:
                found[uri.key] = downloads.record(
                    self.store, "apt", uri.key, uri.name, uri.version, file
                )
        if code or len(found) != len(missing):
            names = " ".join(uri.name for uri in missing if uri.key not in found)
            raise self._failure(names, text, f"apt-get download {names}")
        return found

    def _failure(self, what: str, text: str, command: str) -> Exception:
        if disk_failed(text, self.store.root):
            reason = downloads.last_error(text)
            return DiskError(f"apt could not write to {self.store.root}: {reason}.", FREE_SPACE)
        return NetworkError(
            f"apt could not fetch {what}: {downloads.last_error(text)}.",
            f"Run again with network; `{command}` shows whether the host's mirror answers.",
        )
