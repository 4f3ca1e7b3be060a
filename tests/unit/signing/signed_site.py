"""A signed channel with its key and a verifier's memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_conda.signing import keys, repository, verify
from vllm_conda.signing.repository import Signing


@dataclass
class Site:
    """A channel, the key that it is signed with, and a verifier's memory."""

    channel: Path
    key: Path
    trusted: Path
    state: Path

    def sign(self, **options: object) -> repository.Signed:
        return repository.sign_channel(
            self.channel,
            Signing(keys.load(self.key), **options),  # type: ignore[arg-type]
        )

    def verify(self, **options: object) -> verify.Verified:
        return verify.verify_channel(
            self.channel,
            self.trusted,
            self.state,
            **options,  # type: ignore[arg-type]
        )

    def package(self, name: str = "alpha") -> Path:
        (found,) = self.channel.glob(f"*/{name}-*.conda")
        return found
