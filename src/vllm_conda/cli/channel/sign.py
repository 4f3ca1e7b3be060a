"""Signing a channel, and verifying one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_conda.cli.common import json_option, print_json

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)


def _channel_or_file(function: F) -> F:
    kind = click.Path(path_type=Path, exists=True)
    return click.argument("channel", type=kind, metavar="CHANNEL|FILE")(function)


@click.command()
@click.argument("key", type=_FILE)
@json_option
def keygen(key: Path, as_json: bool) -> None:
    """Make a private key to sign a channel with, and write it to the file KEY.

    \b
    Ed25519, PKCS #8 in PEM; encrypted where VLLM_CONDA_KEY_PASSPHRASE is set. Keys of openssl
    serve as well. Keep it where only those who publish can read it.

    \b
    Example:
      vllm-conda channel keygen ~/site-key.pem
    """
    from vllm_conda.signing import keys

    public = keys.generate(key)
    if as_json:
        print_json({"key": str(key), "id": public.keyid})
    else:
        click.echo(f"wrote {key}, whose id is {public.keyid}")


@click.command()
@_channel_or_file
@click.option("--key", type=_FILE, help="Private key in PEM, such as `channel keygen` makes.")
@click.option(
    "--identity",
    metavar="NAME",
    help="Sign without a key, as NAME, for whom this machine's identity provider vouches.",
)
@click.option("--issuer", metavar="URL", help="The identity provider of --identity.")
@click.option("--previous-key", type=_FILE, help="Hand the channel over from this key to --key.")
@click.option("--url", default="", metavar="URL", help="Where the channel will be read from.")
@click.option(
    "--build-state",
    "states",
    type=_FILE,
    multiple=True,
    help="output.build/build-state.json of a machine that packages come from, for their "
    "provenance; may be repeated. The channel's own is always read.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="Readers refuse the channel after so many days, unless it is signed again.",
)
@click.option(
    "--key-days",
    type=click.IntRange(1, 3650),
    help="Let the key expire in so many days. Default: a year after its first use.",
)
@json_option
def sign(
    channel: Path,
    key: Path | None,
    identity: str | None,
    issuer: str | None,
    previous_key: Path | None,
    url: str,
    states: tuple[Path, ...],
    days: int,
    key_days: int | None,
    as_json: bool,
) -> None:
    """Attest the packages of CHANNEL and sign all of it as it is now, or sign a FILE.

    \b
    Beside each package goes a sidecar with signed statements: that it belongs to this channel
    (CEP 27) and, of packages that this toolkit built, from which commit, by which job and with
    which inputs. metadata/ gets the signed list of all files (TUF). Sign again after each change.
    Hand metadata/root.json to those who verify, over a way that they trust. A FILE, such as a
    bundle, gets a signed statement in FILE.sigs; the root.json of the key's channel serves for it.

    \b
    Example:
      vllm-conda channel sign /srv/vllm --key ~/site-key.pem
      vllm-conda channel sign site.tar --key ~/site-key.pem
    """
    from vllm_conda.signing import keys
    from vllm_conda.signing.repository import Signing, sign_channel
    from vllm_conda.signing.single import sign_file

    signer = _signer(key, identity, issuer)
    if channel.is_file():
        beside = sign_file(channel, signer)
        if as_json:
            print_json({"signature": str(beside), "signer": keys.describe(signer.public_key)})
        else:
            click.echo(f"wrote {beside}, by {keys.describe(signer.public_key)}")
        return
    previous = keys.load(previous_key) if previous_key else None
    done = sign_channel(channel, Signing(signer, url, days, key_days, previous, states))
    if as_json:
        print_json(
            {
                "version": done.version,
                "root": str(done.root),
                "signer": keys.describe(signer.public_key),
                "files": done.files,
                "packages": done.packages,
                "attested": done.attested,
                "with_provenance": done.with_provenance,
                "expires": done.expires.isoformat(),
                "key_expires": done.key_expires.isoformat(),
            }
        )
        return
    click.echo(
        f"signing {done.version} of {channel} by {keys.describe(signer.public_key)}: "
        f"{done.files} files, {done.packages} packages, {done.attested} newly attested "
        f"({done.with_provenance} with provenance)"
    )
    click.echo(f"valid until {done.expires:%Y-%m-%d}, the key until {done.key_expires:%Y-%m-%d}")
    click.echo(f"whoever verifies needs {done.root}")


def _signer(key: Path | None, identity: str | None, issuer: str | None) -> Signer:
    from vllm_conda.errors import UsageError
    from vllm_conda.signing import keys

    if (key is None) == (identity is None) or (identity is None) != (issuer is None):
        raise UsageError(
            "Name what to sign with: either a key, or an identity with its issuer.",
            "--key FILE, or --identity NAME --issuer URL.",
        )
    if identity is not None and issuer is not None:
        return keys.load_identity(identity, issuer)
    return keys.load(key or Path())


@click.command()
@_channel_or_file
@click.option(
    "--root",
    "trusted",
    type=_FILE,
    required=True,
    envvar="VLLM_CONDA_CHANNEL_ROOT",
    show_envvar=True,
    help="The signer's root.json, from a source that you trust and not from the channel.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the newest index seen is remembered. Default: below $XDG_STATE_HOME, for each key.",
)
@json_option
def verify(channel: Path, trusted: Path, state: Path | None, as_json: bool) -> None:
    """Say whether CHANNEL or FILE is whole, of the trusted signer, and none older than one seen.

    \b
    Otherwise the first thing that is wrong is named: 7 is the exit code where a file is changed,
    missing or not listed, 16 where somebody else signed, 17 where a signature or key has expired,
    the channel is an old copy, or the clock is wrong. Of a FILE, FILE.sigs is checked.

    \b
    Example:
      vllm-conda channel verify /srv/vllm --root site-root.json
      vllm-conda channel verify site.tar --root site-root.json
    """
    from vllm_conda.signing.single import verify_file
    from vllm_conda.signing.verify import verify_channel

    if channel.is_file():
        whole = verify_file(channel, trusted)
        by = ", ".join(whole.signers)
        if as_json:
            print_json({"sha256": whole.sha256, "signers": list(whole.signers)})
        else:
            until = f"{whole.key_expires:%Y-%m-%d}"
            click.echo(f"{channel} is as {by} signed it, the key is valid until {until}")
        return
    found = verify_channel(channel, trusted, state)
    signers = ", ".join(found.signers)
    if as_json:
        print_json(
            {
                "version": found.version,
                "files": found.files,
                "packages": found.packages,
                "with_provenance": found.provenance,
                "signers": list(found.signers),
                "signed_at": found.signed_at.isoformat() if found.signed_at else None,
                "expires": found.expires.isoformat(),
            }
        )
        return
    click.echo(
        f"{channel} is as {signers} signed it: signing {found.version}, {found.files} files, "
        f"{found.packages} packages ({found.provenance} with provenance), "
        f"valid until {found.expires:%Y-%m-%d}"
    )
