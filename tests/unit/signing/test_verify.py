"""The first thing that is wrong with a channel, as one sentence with an exit code."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from rattler.index import index_fs
from signed_site import Site

from vllm_conda.channel.folder import ChannelFolder, Mark
from vllm_conda.errors import FreshnessError, IntegrityError, SignatureError, UsageError, VllmError
from vllm_conda.signing import bundle, keys, repository
from vllm_conda.signing.repository import Signing

NOW = datetime.now(timezone.utc)


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def others_key(folder: Path) -> Path:
    path = folder / "other.pem"
    keys.generate(path)
    return path


def test_what_was_signed_is_verified(site: Site) -> None:
    found = site.verify()
    assert (found.version, found.packages) == (1, 3)
    # Three packages with a sidecar each, and their index in both forms.
    assert found.files >= 3 + 3 + 2
    assert site.verify() == found


FAULTS: dict[str, tuple[Callable[[Site], object], type[VllmError], str]] = {
    "a byte of a package": (
        lambda site: flip(site.package()),
        IntegrityError,
        "linux-64/alpha-1.0-external_1_0.conda was changed after it was signed",
    ),
    "a short package": (
        lambda site: site.package().write_bytes(site.package().read_bytes()[:-1]),
        IntegrityError,
        "bytes, signed were",
    ),
    "a missing package": (
        lambda site: site.package().unlink(),
        IntegrityError,
        "linux-64/alpha-1.0-external_1_0.conda is missing",
    ),
    "a byte of the index": (
        lambda site: flip(site.channel / "linux-64/repodata.json"),
        IntegrityError,
        "linux-64/repodata.json was changed",
    ),
    "a missing compressed index": (
        lambda site: (site.channel / "linux-64/repodata.json.zst").unlink(),
        IntegrityError,
        "linux-64/repodata.json.zst is missing",
    ),
    "a byte of a statement": (
        lambda site: flip(bundle.sidecar(site.package())),
        IntegrityError,
        ".conda.sigs was changed",
    ),
    "a package that nobody signed": (
        lambda site: shutil.copy(site.package(), site.channel / "linux-64/evil-1.0-0.conda"),
        IntegrityError,
        "linux-64/evil-1.0-0.conda is in the channel but not in its signed list",
    ),
    "no signatures": (
        lambda site: shutil.rmtree(site.channel / "metadata"),
        SignatureError,
        "is not signed",
    ),
    "a missing list": (
        lambda site: (site.channel / "metadata/1.targets.json").unlink(),
        IntegrityError,
        "metadata/1.targets.json is missing",
    ),
    "a list that is no JSON": (
        lambda site: (site.channel / "metadata/1.targets.json").write_text("{"),
        IntegrityError,
        "are damaged",
    ),
    "a list whose hash was edited": (
        lambda site: edit(site.channel / "metadata/1.targets.json", '"sha256": "', '"sha256": "0'),
        SignatureError,
        "are not those of",
    ),
    "a later date of expiry": (
        lambda site: edit(site.channel / "metadata/timestamp.json", f"{NOW.year + 1}-", "2999-"),
        SignatureError,
        "are not those of",
    ),
    "a package that leads elsewhere": (
        lambda site: (site.package().rename(site.state.parent / "x"),
                      site.package("beta").parent.joinpath("alpha-1.0-external_1_0.conda")
                      .symlink_to(site.state.parent / "x")),
        IntegrityError,
        "leads out of the channel",
    ),
    "no channel": (lambda site: shutil.rmtree(site.channel), UsageError, "is no channel"),
    "a root that is none": (
        lambda site: setattr(site, "trusted", site.key),
        IntegrityError,
        "key.pem is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_sentence(site: Site, fault: str) -> None:
    plant, kind, part = FAULTS[fault]
    plant(site)
    with pytest.raises(kind) as caught:
        site.verify()
    assert part in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_another_signer(site: Site, tmp_path: Path) -> None:
    """Somebody with a key of their own signs the whole channel anew."""
    shutil.rmtree(site.channel / "metadata")
    mallory = keys.load(others_key(tmp_path))
    repository.sign_channel(site.channel, Signing(mallory))
    with pytest.raises(SignatureError, match=r"are not those of [0-9a-f]{16}, which is trusted"):
        site.verify()


def test_another_signer_of_one_package(site: Site, tmp_path: Path) -> None:
    """The channel's own signer lists a package that only somebody else attests."""
    package = site.package()
    subject = repository.statement.Subject(package.name, repository.content.sha256(package))
    made = bundle.sign(repository.statement.publish(subject, ""), keys.load(others_key(tmp_path)))
    bundle.write(package, [made])
    _sign_lists_only(site)
    with pytest.raises(SignatureError, match=r"is attested by the key [0-9a-f]{16}, and not by"):
        site.verify()


def test_a_statement_moved_to_another_package(site: Site) -> None:
    bundle.write(site.package("alpha"), bundle.load(bundle.sidecar(site.package("beta"))))
    _sign_lists_only(site)
    with pytest.raises(SignatureError, match="attested by a statement on beta-"):
        site.verify()


def test_a_forged_statement(site: Site) -> None:
    beside = bundle.sidecar(site.package())
    (one,) = json.loads(beside.read_text())
    one["dsseEnvelope"]["payload"] = one["dsseEnvelope"]["payload"].replace("e", "f", 1)
    bundle.write(site.package(), [one])
    _sign_lists_only(site)
    with pytest.raises(SignatureError, match=r"on alpha-.* is not genuine"):
        site.verify()


def test_a_package_that_is_not_attested(site: Site) -> None:
    bundle.sidecar(site.package()).unlink()
    _sign_lists_only(site)
    with pytest.raises(SignatureError, match=r"alpha-1.0-external_1_0.conda is not attested"):
        site.verify()


def test_a_package_that_the_index_lacks(site: Site) -> None:
    _leave_out_of_the_index(site)
    _sign_lists_only(site)
    with pytest.raises(IntegrityError, match="index lacks linux-64/alpha-"):
        site.verify()


def test_a_yanked_package_may_be_missing_in_the_index(site: Site) -> None:
    _leave_out_of_the_index(site)
    _mark(site, "yanked")
    site.sign()
    assert site.verify().packages == 2
    flip(site.package())
    with pytest.raises(IntegrityError, match="was changed after it was signed"):
        site.verify()


def test_a_removed_package_goes_when_its_readers_had_their_time(site: Site) -> None:
    _leave_out_of_the_index(site)
    _mark(site, "removed")
    site.sign()
    site.verify()
    site.package().unlink()
    site.verify()


def test_an_index_older_than_one_seen_before(copy: Callable[[str], Site]) -> None:
    old, new = copy("old"), copy("new")
    new.sign()
    assert new.verify().version == 2
    with pytest.raises(FreshnessError, match="is signing 1, older than signing 2 seen before, of"):
        old.verify()
    assert new.verify().version == 2


def test_an_old_copy_is_one_also_after_a_new_key(
    copy: Callable[[str], Site], tmp_path: Path
) -> None:
    old, new = copy("old"), copy("new")
    before = new.key
    new.key = others_key(tmp_path)
    new.sign(previous=keys.load(before))
    new.verify()
    with pytest.raises(FreshnessError, match="is signing 1, older than signing 2 seen before, of"):
        old.verify()


def test_a_root_that_its_own_key_did_not_sign(site: Site, tmp_path: Path) -> None:
    site.trusted = Path(shutil.copy(site.trusted, tmp_path / "r.json"))
    edit(site.trusted, f"{NOW.year + 1}-", "2999-")
    with pytest.raises(SignatureError, match=r"trusted root.json is not signed by its own keys"):
        site.verify()


def test_a_verifier_that_saw_nothing_accepts_the_old_index(copy: Callable[[str], Site]) -> None:
    old, new = copy("old"), copy("new")
    new.sign()
    new.verify()
    old.state = old.state.with_name("another")
    assert old.verify().version == 1


def test_a_damaged_memory_is_not_taken_for_none(site: Site) -> None:
    site.verify()
    (site.state / "timestamp.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"remembered of the channel.*is damaged"):
        site.verify()


def test_an_expired_signature(site: Site) -> None:
    shutil.rmtree(site.channel / "metadata")
    site.sign(now=NOW - timedelta(days=40), days=30)
    site.trusted = site.channel / "metadata/root.json"
    day = f"{NOW - timedelta(days=10):%Y-%m-%d}"
    with pytest.raises(FreshnessError, match=f"The channel's signature expired on {day}"):
        site.verify()
    site.sign()
    site.verify()


def test_an_expired_key(site: Site) -> None:
    shutil.rmtree(site.channel / "metadata")
    site.sign(now=NOW - timedelta(days=40), key_days=30)
    site.trusted = shutil.copy(site.channel / "metadata/root.json", site.state.parent / "r.json")
    with pytest.raises(FreshnessError, match="The channel's key expired on"):
        site.verify()
    with pytest.raises(FreshnessError, match="The key expired on"):
        site.sign()
    site.sign(key_days=30)
    site.verify()


def test_a_clock_in_the_past(site: Site) -> None:
    with pytest.raises(FreshnessError, match="This machine's clock says 2020-01-01 00:00 UTC"):
        site.verify(now=datetime(2020, 1, 1, tzinfo=timezone.utc))
    with pytest.raises(FreshnessError, match="This machine's clock says 2020-01-01 00:00 UTC"):
        site.sign(now=datetime(2020, 1, 1, tzinfo=timezone.utc))


def test_a_new_key_is_followed_from_the_old_root(site: Site, tmp_path: Path) -> None:
    site.verify()
    old = site.key
    site.key = others_key(tmp_path)
    with pytest.raises(SignatureError, match="The channel is signed by"):
        site.sign()
    with pytest.raises(SignatureError, match="The channel is signed by"):
        site.sign(previous=keys.load(site.key))
    site.sign(previous=keys.load(old))
    assert site.verify().version == 2
    site.key = old
    with pytest.raises(SignatureError, match="The channel is signed by"):
        site.sign()


def test_a_package_under_several_signers_is_verified(site: Site, tmp_path: Path) -> None:
    """A mirror's key beside the builder's."""
    site.sign()
    mirror = others_key(tmp_path)
    shutil.rmtree(site.channel / "metadata")
    made = repository.sign_channel(site.channel, Signing(keys.load(mirror)))
    assert len(bundle.load(bundle.sidecar(site.package()))) == 2
    site.trusted = made.root
    site.verify()


DAMAGES = 400


def damage(path: Path, rng: random.Random, files: list[Path], number: int) -> str:
    whole = path.read_bytes()
    start = rng.randrange(len(whole))
    ways = {
        "flip a bit": lambda: flip(path, start),
        "cut": lambda: path.write_bytes(whole[:start]),
        "append": lambda: path.write_bytes(whole + rng.randbytes(rng.randrange(1, 9))),
        "remove": path.unlink,
        "overwrite": lambda: path.write_bytes(
            whole[:start] + rng.randbytes(16) + whole[start + 16 :]
        ),
        "add or replace": lambda: (
            path.write_bytes(rng.choice(files).read_bytes() + b" ")
            if path.parent.name == repository.METADATA
            else shutil.copy(path, path.with_name(f"extra-{path.name}"))
        ),
    }
    way = list(ways)[number % len(ways)]
    ways[way]()
    return way


def sentence_of(site: Site) -> VllmError | None:
    try:
        site.verify()
    except VllmError as error:
        return error
    return None


def test_random_damage_is_always_found(signed: Site, tmp_path: Path) -> None:
    """Bytes flipped, files cut, emptied, removed, swapped and added, anywhere in the channel."""
    rng = random.Random(14)  # noqa: S311
    channel = tmp_path / "channel"
    shutil.copytree(signed.channel, channel)
    site = Site(channel, signed.key, signed.trusted, tmp_path / "state")
    files = sorted(path for path in channel.rglob("*") if path.is_file())
    # Roots are for people to copy, names with a dot the indexer's own; no client reads either.
    files = [path for path in files if "root.json" not in path.name and path.name[0] != "."]
    codes: dict[int, int] = {}
    for number in range(DAMAGES):
        path = rng.choice(files)
        whole = path.read_bytes()
        way = damage(path, rng, files, number)
        shutil.rmtree(site.state, ignore_errors=True)
        found = sentence_of(site)
        assert found is not None, f"damage {number} of {path.name} ({way}) was not found"
        assert re.fullmatch(r"[^\n]+\.", found.message)
        assert found.hint
        codes[found.exit_code] = codes.get(found.exit_code, 0) + 1
        path.write_bytes(whole)
        path.with_name(f"extra-{path.name}").unlink(missing_ok=True)
    site.verify()
    assert sum(codes.values()) == DAMAGES
    assert set(codes) <= {IntegrityError.exit_code, SignatureError.exit_code}


def _sign_lists_only(site: Site) -> None:
    """What the owner of the key could publish by mistake, or whoever stole it."""
    metadata = site.channel / "metadata"
    version = repository.read(metadata / "timestamp.json", repository.Timestamp).signed.version + 1
    how = Signing(keys.load(site.key))
    repository.write_lists(site.channel, metadata, version, how)


def _leave_out_of_the_index(site: Site) -> None:
    path = site.package()
    kept = path.read_bytes()
    path.unlink()
    for old in site.channel.glob("*/repodata*"):
        old.unlink()
    asyncio.run(index_fs(site.channel))
    path.write_bytes(kept)


def _mark(site: Site, kind: str) -> None:
    key = f"linux-64/{site.package().name}"
    ChannelFolder(site.channel).mark(kind, key, Mark("wrong results", 0.0))
