"""Typed model of ``site.yaml``: the node types of a site and what each is to get."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cattrs
from rattler import MatchSpec
from rattler.exceptions import InvalidMatchSpecError

from vllm_conda import microarch, packages, platforms
from vllm_conda.errors import ConfigError, did_you_mean
from vllm_conda.site.document import Document, Keys, parse_document, read_text
from vllm_conda.structure import GROUPS, Mismatch, first_mistake
from vllm_cuda_plan.rocm import is_gfx_target

SCHEMA = 1

_ROLES = ("compute", "login")
_NODE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"\d+(\.\d+)+")
_CAPABILITY = re.compile(r"\d{1,2}\.\d")
# nvidia-smi prints both; the driver's own version is three digits and more.
_OLDEST_DRIVER = 100


@dataclass(frozen=True)
class Node:
    """One node type.

    ``glibc``, ``linux``, ``cuda`` (the newest CUDA that the driver supports) and ``cuda_arch``
    (the compute capability of each kind of GPU in the node) are versions, ``archspec`` is the
    CPU's archspec name, ``amdgpu`` the gfx target of the node's largest AMD GPU, ``gpus`` counts
    GPUs a node and ``count`` the nodes.
    """

    platform: str
    glibc: str
    archspec: str
    role: str = "compute"
    cuda: str | None = None
    cuda_arch: tuple[str, ...] = ()
    amdgpu: str | None = None
    gpus: int | None = None
    count: int | None = None
    linux: str | None = None
    description: str = ""
    specs: tuple[str, ...] = ()

    @property
    def lowest_arch(self) -> str | None:
        """The compute capability that ``__cuda_arch`` reports (CEP 46: the node's lowest)."""
        return min(self.cuda_arch, key=version_key, default=None)


@dataclass(frozen=True)
class Site:
    """The file; ``specs`` are what a node type gets that names none itself."""

    schema: int
    site: str
    nodes: dict[str, Node]
    description: str = ""
    specs: tuple[str, ...] = field(default_factory=lambda: (packages.metapackage(),))
    channels: tuple[str, ...] = ()


def version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def load_site(path: Path) -> Site:
    """Read and check a site file.

    Raises:
        ConfigError: Anything wrong with it; names file, line, node and key.
    """
    return parse_site(read_text(path), str(path))


def parse_site(text: str, name: str) -> Site:
    """As :func:`load_site`, from text; ``name`` stands for the file in messages."""
    return _site(parse_document(text, name))


def _site(document: Document) -> Site:
    if document.data is None:
        raise ConfigError(
            f"{document.name} is empty.",
            "Start from an example: `vllm-conda solve --example leonardo --show > site.yaml`.",
        )
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{document.place(())}: expected a mapping of keys to values, "
            f"got {_kind(document.data)}."
        )
    _schema(document)
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(int, _number)
    converter.register_structure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is tuple, lambda value, _: _list(value)
    )
    # None comes from a key without a value; an optional key needs a value too.
    converter.register_structure_hook(str | None, _text)
    converter.register_structure_hook(int | None, _number)
    try:
        site = converter.structure(document.data, Site)
    except GROUPS as error:
        raise _explain(error, document) from None
    _Checks(document).site(site)
    return site


def _schema(document: Document) -> None:
    """Checked first: in a file of a newer schema the other keys may differ."""
    if document.data.get("schema") not in (None, str(SCHEMA)):
        raise ConfigError(
            f"{document.place(('schema',))}: this toolkit reads schema {SCHEMA}, "
            f"got {document.data['schema']!r}.",
            "Write `schema: 1`, or update the toolkit.",
        )


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return names.get(type(value), repr(value))


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise Mismatch(f"expected text, got {_kind(value)}")
    return value


def _number(value: Any, _: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,9}", value):
        raise Mismatch(f"expected a whole number, got {_kind(value)}")
    return int(value)


def _list(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Mismatch(f"expected a list such as [a, b], got {_kind(value)}")
    if not value:
        raise Mismatch("the list is empty")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise Mismatch(f"entry {index + 1}: expected text, got {_kind(item)}")
    return tuple(value)


def _explain(error: BaseException, document: Document) -> ConfigError:
    mistake = first_mistake(error)
    keys = mistake.keys
    if mistake.kind == "unknown":
        key = min(mistake.text, key=lambda name: document.lines.get((*keys, name), 0))
        return ConfigError(
            f"{document.place((*keys, key))}: unknown key {key!r}."
            f"{did_you_mean(key, mistake.known)}",
            f"Known keys: {', '.join(mistake.known)}.",
        )
    if mistake.kind == "missing":
        return ConfigError(
            f"{document.place(keys)}: the key is missing.", "docs/users/sites.md lists the keys."
        )
    if mistake.kind == "mapping":
        return ConfigError(f"{document.place(keys)}: expected a mapping of keys to values.")
    return ConfigError(f"{document.place(keys)}: {mistake.text[0]}.")


class _Checks:
    """What a type cannot say; each failure names its place."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def fail(self, keys: Keys, reason: str, hint: str = "") -> None:
        raise ConfigError(f"{self.document.place(keys)}: {reason}", hint)

    def site(self, site: Site) -> None:
        if not site.site:
            self.fail(("site",), "the site has no name.")
        if not site.nodes:
            self.fail(("nodes",), "no node type is declared.")
        self.specs(("specs",), site.specs)
        for channel in site.channels:
            if not channel.strip():
                self.fail(("channels",), "a channel is empty.")
        for name, node in site.nodes.items():
            keys = ("nodes", name)
            if not _NODE_NAME.fullmatch(name):
                self.fail(
                    keys,
                    f"the node type {name!r} names files and lock environments, so only lower "
                    "case letters, digits and single hyphens are allowed.",
                )
            self.node(keys, node)

    def node(self, keys: Keys, node: Node) -> None:
        if node.role not in _ROLES:
            self.fail(
                (*keys, "role"),
                f"unknown role {node.role!r}.{did_you_mean(node.role, _ROLES)}",
                f"Known: {', '.join(_ROLES)}.",
            )
        known = platforms.table()
        if node.platform not in known:
            alias = platforms.of_machine(node.platform)
            near = f" Did you mean {alias!r}?" if alias else did_you_mean(node.platform, known)
            self.fail(
                (*keys, "platform"),
                f"unknown platform {node.platform!r}.{near}",
                f"Known: {', '.join(known)}.",
            )
        self.version((*keys, "glibc"), node.glibc, "2.28", "`ldd --version` prints it.")
        if node.linux is not None:
            release = re.sub(r"-.*", "", node.linux)
            self.version((*keys, "linux"), release, "5.14", "`uname -r` prints it.")
        self.cpu((*keys, "archspec"), node)
        self.gpu(keys, node)
        if node.count == 0:
            self.fail((*keys, "count"), "a node type without a node; remove it or count them.")
        self.specs((*keys, "specs"), node.specs)

    def version(self, keys: Keys, value: str, example: str, hint: str) -> None:
        if not _VERSION.fullmatch(value):
            self.fail(keys, f"{value!r} is not a version such as {example}.", hint)

    def cpu(self, keys: Keys, node: Node) -> None:
        family = microarch.family_of(node.platform)
        if not node.archspec.strip():
            self.fail(keys, "the CPU has no name.", "`archspec cpu` on the node prints it.")
        if not microarch.known(node.archspec):
            return  # newer than archspec, perhaps: it concerns this node type alone
        found = microarch.family(node.archspec)
        if found != family:
            near = microarch.near(node.archspec, family)
            self.fail(
                keys, f"{node.archspec} is a {found} CPU, the platform is {node.platform}.{near}"
            )

    def gpu(self, keys: Keys, node: Node) -> None:
        if node.cuda is not None:
            where = (*keys, "cuda")
            self.version(where, node.cuda, "12.4", "`nvidia-smi` prints it as CUDA Version.")
            if version_key(node.cuda)[0] >= _OLDEST_DRIVER:
                self.fail(
                    where,
                    f"{node.cuda} is the driver's own version; what counts is the newest CUDA "
                    "that it supports.",
                    "`nvidia-smi` prints it as CUDA Version.",
                )
            if not node.cuda_arch:
                self.fail(
                    where,
                    "a driver without GPUs: cuda_arch is missing.",
                    "`nvidia-smi --query-gpu=compute_cap --format=csv` prints it.",
                )
            if node.gpus == 0:
                self.fail((*keys, "gpus"), "0, but cuda and cuda_arch describe GPUs.")
        elif node.cuda_arch:
            self.fail(
                (*keys, "cuda_arch"),
                "GPUs without a driver: cuda is missing, and without it no client reports "
                "__cuda_arch.",
                "`nvidia-smi` prints it as CUDA Version.",
            )
        elif node.gpus and node.amdgpu is None:
            self.fail(
                (*keys, "gpus"),
                "GPUs are counted, but neither cuda and cuda_arch nor amdgpu say which.",
            )
        if node.amdgpu is not None and not is_gfx_target(node.amdgpu):
            self.fail(
                (*keys, "amdgpu"),
                f"{node.amdgpu!r} is no gfx target such as gfx90a.",
                "`rocminfo` or `amdgpu-arch` prints it.",
            )
        for arch in node.cuda_arch:
            self.capability((*keys, "cuda_arch"), arch)
        if node.gpus is not None and node.gpus < len(set(node.cuda_arch)):
            self.fail(
                (*keys, "cuda_arch"),
                f"{len(set(node.cuda_arch))} kinds of GPU, but gpus is {node.gpus}.",
            )

    def capability(self, keys: Keys, arch: str) -> None:
        if _CAPABILITY.fullmatch(arch):
            return
        digits = re.fullmatch(r"(?:sm_?|compute_)?(\d{1,2})\.?(\d)[af]?", arch)
        near = f" Did you mean {f'{digits[1]}.{digits[2]}'!r}?" if digits else ""
        self.fail(
            keys,
            f"{arch!r} is not a compute capability such as 9.0.{near}",
            "`nvidia-smi --query-gpu=compute_cap --format=csv` prints it.",
        )

    def specs(self, keys: Keys, specs: tuple[str, ...]) -> None:
        for spec in specs:
            if reason := spec_problem(spec):
                self.fail(keys, f"{spec!r} is not a package spec: {reason}.")


def spec_problem(spec: str) -> str:
    """Why ``spec`` cannot be asked for, or an empty string."""
    try:
        name = MatchSpec(spec, strict=True).name
    except InvalidMatchSpecError as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    if name is None or name.as_package_name() is None:
        return "it names no package"
    if name.normalized.startswith("__"):
        return "virtual packages describe the node, they are not installed"
    return ""
