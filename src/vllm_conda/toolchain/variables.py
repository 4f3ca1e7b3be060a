"""Variables of the data file, from the machine and from what was downloaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vllm_conda import platforms
from vllm_conda.downloads.fetch import Artifact
from vllm_conda.errors import ConfigError, MissingToolError
from vllm_conda.microarch import LEVEL_BUILD, build_matcher, levels
from vllm_conda.toolchain.apt_client import upstream_version
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.model import Package
from vllm_conda.toolchain.sysroot.headers import CXX_CONFIG

Sources = Mapping[str, Sequence[Artifact]]


def shared(host: Host, sources: Sources) -> dict[str, str]:
    """Variables that every entry may use.

    Args:
        sources: Source name (``apt:compiler``, ``pip:numpy``) -> its artifacts.
    """
    py = _suite_python(sources.get("apt:python", ())) or host.py
    major, minor = py.split(".")
    platform = platforms.table()[host.platform]
    variables = {
        "py": py,
        "py_nodot": f"{major}{minor}",
        "py_next": f"{major}.{int(minor) + 1}",
        "site": f"lib/python{py}/site-packages",
        "build_site": f"lib/python{host.py}/site-packages",
        "triplet": host.triplet,
        "deb_triplet": host.triplet.replace("_", "-"),
        "conda_triplet": host.conda_triplet,
        "family": host.family,
        "cxx_config": CXX_CONFIG,
        "glibc": platform.glibc,
    }
    if "apt:compiler" in sources:
        debs = {one.name: one.version for one in sources["apt:compiler"]}
        cross = host.platform != host.build_platform
        compiler = rf"gcc-(\d+)-{host.triplet}" if cross else r"gcc-(\d+)"
        majors = [match[1] for name in debs if (match := re.fullmatch(compiler, name))]
        if len(majors) != 1:
            raise MissingToolError("apt offers no complete C++ compiler for this suite.")
        variables["gcc"] = majors[0]
        variables["runtime"] = str(min(int(majors[0]), platform.libstdcxx))
    return variables


def _suite_python(debs: Sequence[Artifact]) -> str:
    """``major.minor`` of the Python in a set of Debian packages, or an empty string."""
    for one in debs:
        if match := re.fullmatch(r"libpython(3\.\d+)-stdlib", one.name):
            return match[1]
    return ""


def of_instance(host: Host, instance: Mapping[str, str]) -> dict[str, str]:
    """Variables of one ``each`` combination and what follows from them."""
    variables = dict(instance)
    if "level" in instance:
        level = int(instance["level"])
        variables["march"] = platforms.families()[host.family].level_flag(level)
    if build := instance.get("level_build"):
        cpu = build if build in levels(host.family) else ""
        level = levels(host.family)[cpu] if cpu else int(build.removeprefix(LEVEL_BUILD))
        variables["level"] = str(level)
        variables["archspec"] = cpu or build_matcher(host.family, level)
        variables["level_legacy"] = "1" if cpu else ""
    return variables


def version_of(package: Package, host: Host, sources: Sources) -> str:
    """The package's version: its own, or that of the download it names.

    ``package`` has its variables filled in already, except ``{version}`` itself.
    """
    if package.version:
        return package.version
    source, _, name = package.version_source().partition("/")
    if source == "host:cpython":
        return host.python
    artifacts = sources[source]
    if source.startswith("pip:"):
        return artifacts[0].version.split("+")[0]
    for artifact in artifacts:
        if artifact.name == name:
            return upstream_version(artifact.version)
    raise ConfigError(f"packages.toml: {package.name}: {source} has no package {name!r}.")
