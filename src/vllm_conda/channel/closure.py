"""What a site's node types need: the packages that each is solved to, and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rattler import RepoDataRecord

from vllm_conda.errors import IntegrityError, UnservedError
from vllm_conda.site.channels import Channels
from vllm_conda.site.model import Site
from vllm_conda.site.overrides import advise, unserved
from vllm_conda.site.preflight import NodeResult, check_site

# Where a record came from is not of the package.
_FOREIGN = ("fn", "url", "channel")


@dataclass(frozen=True)
class Closure:
    """The packages of a site, by ``SUBDIR/FILE``, and each node type's answer."""

    site: Site
    channels: tuple[str, ...]
    results: tuple[NodeResult, ...]
    records: Mapping[str, RepoDataRecord]

    @property
    def size(self) -> int:
        return sum(record.size or 0 for record in self.records.values())


def closure(site: Site, channels: Sequence[str], specs: Sequence[str] = ()) -> Closure:
    """Solve for every node type.

    Raises:
        UnservedError: A node type that the channels do not serve.
        IntegrityError: Two channels with different packages of one name.
        NetworkError: A channel cannot be read.
    """
    used = Channels(channels)
    results = check_site(site, used, specs)
    refused = unserved(results, advise(results, used))
    if refused:
        texts = [
            f"{result.name} {answer.refusal.text}"
            for result in results
            for answer in result.answers
            if answer.refusal and result.name in refused
        ]
        raise UnservedError(
            f"{len(refused)} of {len(results)} node types are not served: {'; '.join(texts)}.",
            "Name more channels with --channel, or take the node type out of the site file.",
        )
    served = [result for result in results if result.served]
    found: dict[str, RepoDataRecord] = {}
    for result in served:
        for answer in result.answers:
            for record in answer.records:
                key = f"{record.subdir}/{record.file_name}"
                other = found.setdefault(key, record)
                if other.sha256 != record.sha256:
                    raise IntegrityError(
                        f"{key} is another package in {other.channel} than in {record.channel}.",
                        "Leave one of the channels out, or rebuild the package.",
                    )
    return Closure(site, tuple(used.addresses), tuple(served), dict(sorted(found.items())))


def row(record: RepoDataRecord) -> dict[str, Any]:
    """A record as a row of repodata.json, with what its channel corrected in it."""
    data: dict[str, Any] = json.loads(record.to_json())
    return {key: value for key, value in data.items() if key not in _FOREIGN}
