"""Source distributions of the engine, by name through pip, or from the cache."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_conda.builder.workspace import Workspace
from vllm_conda.downloads import fetch
from vllm_conda.downloads.fetch import Artifact
from vllm_conda.downloads.store import Store, remove
from vllm_conda.engine.interface.table import FILE, Table
from vllm_conda.environment import ensure_environment
from vllm_conda.errors import NetworkError
from vllm_conda.paths import cache_root
from vllm_conda.progress import Reporter

NAME = "vllm"
# pip runs upstream's setup.py even to find out the version of what it downloads.
_ENVIRONMENT = (
    "python", "pip", "jinja2", "packaging", "pytorch", "setuptools", "setuptools-rust",
    "setuptools-scm", "wheel",
)  # fmt: skip
_NO_NETWORK = "Run again with network."


@dataclass(frozen=True)
class Registry:
    """The registry that pip is set up for.

    Attributes:
        channels: Where pip's own environment comes from.
    """

    channels: Sequence[str]
    platform: str
    workspace: Workspace
    reporter: Reporter

    def pinned(self, version: str, engines: Table) -> Artifact:
        """The source distribution whose hash the table of engines holds.

        Raises:
            NetworkError: pip could not fetch it.
            IntegrityError: It is not the pinned file.
        """
        wanted = engines.sdist_sha256(version)
        artifact = self.fetch(version, wanted)
        fetch.hold_to(Store(cache_root()), artifact, f"vllm {version}", wanted, str(FILE))
        return artifact

    def fetch(self, version: str, sha256: str | None = None) -> Artifact:
        """The source distribution of a release; a cached one of another hash is not taken.

        Raises:
            NetworkError: pip could not fetch it.
        """
        store = Store(cache_root())
        key = f"vllm-{version}-sdist"
        cached = fetch.cached(store, "pip", key)
        if cached is not None and sha256 in (None, cached.sha256) and fetch.intact(cached):
            return cached
        prefix = self._prefix()
        with store.locked(self.reporter):
            scratch = store.scratch("engine")
            try:
                file = self._download(prefix, version, scratch)
                return fetch.record(store, "pip", key, NAME, version, file)
            finally:
                remove(scratch)

    def newest(self) -> str:
        """The newest release of the registry.

        Raises:
            NetworkError: pip could not ask it.
        """
        prefix = self._prefix()
        store = Store(cache_root())
        scratch = store.scratch("engine")
        try:
            command = [*_pip(prefix), "index", "versions", NAME]
            code, text = fetch.run_client(command, _variables(prefix, scratch), scratch)
        finally:
            remove(scratch)
        match = re.search(rf"^{NAME} \((\S+)\)$", text, re.MULTILINE)
        if code or match is None:
            raise NetworkError(
                f"pip could not list the releases of vllm: {fetch.last_error(text)}.", _NO_NETWORK
            )
        return match[1]

    def _prefix(self) -> Path:
        return ensure_environment(
            self.channels, _ENVIRONMENT, self.platform, self.workspace, self.reporter
        )

    def _download(self, prefix: Path, version: str, scratch: Path) -> Path:
        target = scratch / "dl"
        command = [
            *_pip(prefix), "download", "--no-deps", "--quiet", "--progress-bar", "off",
            "--no-binary", NAME, "--no-build-isolation", "--dest", str(target),
            f"{NAME}=={version}",
        ]  # fmt: skip
        variables = {
            **_variables(prefix, scratch),
            "VLLM_TARGET_DEVICE": "empty",
            # Otherwise the version in the metadata differs from the file's, which pip refuses.
            "VLLM_VERSION_OVERRIDE": version,
        }
        with fetch.growing(self.reporter, f"pip download vllm=={version}", scratch, None):
            code, text = fetch.run_client(command, variables, scratch)
        files = sorted(target.glob(f"{NAME}-*.tar.gz"))
        if code or len(files) != 1:
            raise NetworkError(
                f"pip could not download vllm=={version}: {fetch.last_error(text)}.", _NO_NETWORK
            )
        return files[0]


def _pip(prefix: Path) -> list[str]:
    python = str(prefix / "bin" / "python")
    return [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def _variables(prefix: Path, scratch: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, "PATH": f"{prefix}/bin:/usr/bin:/bin", "TMPDIR": str(scratch)}
