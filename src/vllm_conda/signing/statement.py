"""What is attested of a package, as in-toto statements.

CEP 27's statement says that this file belongs into this channel. SLSA's provenance says what it
was built from: the commit, the job, the variant, and the hash of every package in the build
environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import json_format
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from rattler.package_streaming import extract
from yaml import YAMLError

from vllm_conda import __version__
from vllm_conda.archives import DAMAGED, MALFORMED
from vllm_conda.builder.store import Entry
from vllm_conda.errors import IntegrityError, reason
from vllm_conda.structure import load_json
from vllm_conda.yaml_files import load_yaml

STATEMENT = "application/vnd.in-toto+json"
PUBLISH = "https://schemas.conda.org/attestations-publish-1.schema.json"
PROVENANCE = "https://slsa.dev/provenance/v1"
RELEASE = "urn:vllm-conda:release:1"
BUILD_TYPE = "urn:vllm-conda:build:1"
BUILDER = "urn:vllm-conda:builder"
_UNREADABLE: tuple[type[Exception], ...] = (*DAMAGED, *MALFORMED, YAMLError)
# SLSA's form of a field that it does not have: VENDOR_FIELD.
_TESTED = "vllmconda_tested"


@dataclass(frozen=True)
class Subject:
    """A package file: its name in the index, and its SHA-256 in hexadecimal."""

    name: str
    sha256: str


def publish(subject: Subject, channel: str) -> bytes:
    """The statement of CEP 27, as JSON.

    Args:
        channel: Address of the channel; empty leaves it open, as for a copy in an air gap.
    """
    return _statement(subject, PUBLISH, {"targetChannel": channel.rstrip("/")} if channel else {})


def provenance(subject: Subject, package: Path, entry: Entry) -> bytes:
    """SLSA's provenance of a package that this toolkit built, as JSON.

    Args:
        entry: What the build recorded of it.
    """
    inputs, variant = _recorded(package)
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {"jobs": sorted(entry.jobs), "variant": variant},
        "resolvedDependencies": [*_source(entry), *inputs],
    }
    details = {
        "builder": {"id": BUILDER, "version": {"vllm-conda": __version__}},
        "metadata": {"invocationId": entry.fingerprint, _TESTED: entry.tested},
    }
    predicate = {"buildDefinition": definition, "runDetails": details}
    return _statement(subject, PROVENANCE, predicate)


def release(subject: Subject) -> bytes:
    """That a file is one that the signer hands out, as JSON."""
    return _statement(subject, RELEASE, {})


def tested(payload: bytes) -> str:
    """What the provenance says of the package's own tests; empty of other statements.

    Raises:
        ValueError: As :func:`parse`.
    """
    if parse(payload)[0] != PROVENANCE:
        return ""
    try:
        predicate = load_json(payload)["predicate"]
        return str(predicate["runDetails"]["metadata"].get(_TESTED, ""))
    except (KeyError, TypeError, AttributeError):
        return ""


def parse(payload: bytes) -> tuple[str, Subject]:
    """The predicate's type and the subject of a statement.

    Raises:
        ValueError: No in-toto statement about exactly one file.
    """
    try:
        pb = json_format.Parse(payload, Statement([], "", {}).pb)
    except (json_format.ParseError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"no in-toto statement: {error}") from None
    if len(pb.subject) != 1 or pb.type != Statement([], "", {}).pb.type:
        raise ValueError("no in-toto statement about one file")
    return str(pb.predicate_type), Subject(pb.subject[0].name, pb.subject[0].digest["sha256"])


def _statement(subject: Subject, kind: str, predicate: Mapping[str, Any]) -> bytes:
    described = ResourceDescriptor(name=subject.name, digest={"sha256": subject.sha256})
    statement = Statement([described.pb], kind, dict(predicate))
    return json_format.MessageToJson(statement.pb, indent=None).encode()


def _recorded(package: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The packages that it was built with and the variant, out of the package's ``info/``.

    Raises:
        IntegrityError: It has none, or damaged ones.
    """
    with TemporaryDirectory() as folder:
        try:
            extract(package, Path(folder))
            info = Path(folder) / "info"
            rendered = info / "recipe" / "rendered_recipe.yaml"
            inputs = list(_dependencies(load_yaml(rendered.read_text(encoding="utf-8"))))
            variant = load_json((info / "hash_input.json").read_bytes())
            return inputs, {str(key): str(value) for key, value in variant.items()}
        except _UNREADABLE as error:
            raise IntegrityError(
                f"{package.name} is damaged: what it was built from cannot be read "
                f"({reason(error)}).",
                "Build it again.",
            ) from None


def _source(entry: Entry) -> Iterator[dict[str, Any]]:
    if entry.commit:
        commit, changed = entry.commit.rstrip("+"), entry.commit.endswith("+")
        yield {
            "name": "source",
            "digest": {"gitCommit": commit},
            **({"annotations": {"changedAfterCommit": True}} if changed else {}),
        }


def _dependencies(recipe: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Packages of every build and host environment, by name and hash.

    Their addresses are those of the build machine and say nothing elsewhere.
    """
    seen = set()
    for record in _records(recipe):
        uri = f"pkg:conda/{record['name']}@{record['version']}?build={record['build']}"
        uri += f"&subdir={record['subdir']}"
        if uri not in seen and record.get("sha256"):
            seen.add(uri)
            yield {"uri": uri, "digest": {"sha256": str(record["sha256"])}}


def _records(tree: Any) -> Iterable[dict[str, Any]]:
    """All lists called ``resolved``: the output's own and those of its staging builds."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "resolved" and isinstance(value, list):
                yield from (one for one in value if isinstance(one, dict) and "name" in one)
            else:
                yield from _records(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _records(value)
