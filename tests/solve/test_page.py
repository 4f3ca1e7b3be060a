"""The page of a channel: what it says, and that a browser, a keyboard and a phone can use it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import pytest
from securesystemslib.signer import CryptoSigner
from support import VERSION

from vllm_conda.channel.folder import ChannelFolder, Mark
from vllm_conda.cli import main
from vllm_conda.page.contents import Changes, File, Record, changes
from vllm_conda.page.render import size
from vllm_conda.signing import bundle, statement

SITE = """
schema: 1
site: cluster <b>&amp;</b>
specs: [vllm-kernels]
nodes:
  login: {role: login, platform: linux-64, glibc: 2.28, archspec: zen3}
  a100: {platform: linux-64, glibc: 2.28, archspec: icelake, cuda: 12.2, cuda_arch: [8.0]}
  old: {platform: linux-64, glibc: 2.17, archspec: broadwell}
  arm: {platform: linux-aarch64, glibc: 2.34, archspec: neoverse_v2, cuda: 13.0, cuda_arch: [9.0]}
"""


class Page(HTMLParser):
    """What the tests ask of the HTML; an unclosed or misplaced tag is an error."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def values(self, name: str) -> list[str]:
        return [value for _, found in self.tags if (value := found.get(name)) is not None]


@pytest.fixture
def channel(addresses: list[str], tmp_path: Path) -> Path:
    """A copy of the project's channel with files where its index says that there are some."""
    own = Path(url2pathname(urlsplit(addresses[0]).path))
    copy = Path(shutil.copytree(own, tmp_path / "channel"))
    for index in copy.glob("*/repodata.json"):
        for name in json.loads(index.read_text())["packages.conda"]:
            (index.parent / name).write_bytes(b"x")
    return copy


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


@pytest.fixture
def written(channel: Path, site: Path, addresses: list[str]) -> Path:
    assert main(["channel", "page", str(channel), str(site), "-c", addresses[1]]) == 0
    return channel / "index.html"


def test_every_node_type_has_a_build_or_a_reason(written: Path) -> None:
    cells = [" ".join(cell.split()) for cell in Page(written.read_text()).cells]
    start = cells.index("a100compute, linux-64: glibc 2.28, icelake, CUDA 12.2, GPU 8.0")
    head = cells[: cells.index("vllm-flashmla") + 1]
    row = dict(zip(head[1:], cells[start + 1 :], strict=False))
    assert row["vllm-kernels-cuda"] == f"{VERSION} cuda124_all_h0_112400"
    assert row["vllm-flashmla"] == "none: needs __cuda_arch >= 9.0, the node's GPU has 8.0"
    assert cells.count("none: needs glibc >= 2.28, the node has 2.17") >= 3


def test_it_says_which_packages_own_tests_ran(
    channel: Path, site: Path, addresses: list[str]
) -> None:
    """Level 4 comes from machines without it as well."""
    refusal = "not run: this CPU is below _x86_64-microarch-level >=4"
    for file, said in (("h4_400", refusal), ("h3_300", "passed")):
        (package,) = (channel / "linux-64").glob(f"vllm-kernels-cpu-*-{file}.conda")
        subject = {"name": package.name, "digest": {"sha256": "0" * 64}}
        predicate = {"runDetails": {"metadata": {"vllmconda_tested": said}}}
        payload = json.dumps(
            {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [subject],
                "predicateType": statement.PROVENANCE,
                "predicate": predicate,
            }
        )
        bundle.write(package, [bundle.sign(payload.encode(), CryptoSigner.generate_ed25519())])
    assert main(["channel", "page", str(channel), str(site), "-c", addresses[1]]) == 0
    cells = Page((channel / "index.html").read_text()).cells
    rows = {cell: cells[at + 2] for at, cell in enumerate(cells) if cell.endswith(".conda")}
    files = {name.rsplit("/")[-1]: said for name, said in rows.items()}
    assert files[f"vllm-kernels-cpu-{VERSION}-h4_400.conda"] == refusal
    assert files[f"vllm-kernels-cpu-{VERSION}-h3_300.conda"] == "passed"
    assert files[f"vllm-core-{VERSION}-h0_0.conda"] == "not recorded"


def test_it_says_how_to_install_and_what_to_override(written: Path, addresses: list[str]) -> None:
    text = written.read_text()
    where = f"-c {written.parent.as_uri()} -c {addresses[1]}"
    assert f"micromamba create -n vllm --override-channels {where} vllm-kernels" in text
    assert "CONDA_OVERRIDE_CUDA=12.2 CONDA_OVERRIDE_CUDA_ARCH=8.0" in text


def test_names_are_text_and_not_markup(written: Path) -> None:
    text = written.read_text()
    assert "cluster &lt;b&gt;&amp;amp;&lt;/b&gt;" in text
    assert "<b>" not in text


def test_every_link_leads_somewhere_and_nothing_is_loaded(written: Path) -> None:
    page = Page(written.read_text())
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for link in page.values("href"):
        url = urlsplit(link)
        assert not url.scheme
        assert not url.netloc
        if url.path:
            assert (written.parent / unquote(url.path)).is_file()
        else:
            assert url.fragment in ids
    assert len([link for link in page.values("href") if link.endswith(".conda")]) == 21
    assert page.values("src") == []
    assert not re.search(r"url\(|@import|https?://", written.read_text())


def test_links_lead_into_the_channel_from_elsewhere(
    channel: Path, site: Path, addresses: list[str], tmp_path: Path
) -> None:
    target = tmp_path / "pages" / "a.html"
    target.parent.mkdir()
    words = ["channel", "page", str(channel), str(site), "-c", addresses[1]]
    assert main([*words, "--output", str(target)]) == 0
    links = [link for link in Page(target.read_text()).values("href") if ".conda" in link]
    assert links
    assert all((target.parent / unquote(link)).is_file() for link in links)


def test_names_for_what_a_screen_reader_reads(written: Path) -> None:
    """What axe looks at, where there is no browser to run it."""
    page = Page(written.read_text())
    tags = [tag for tag, _ in page.tags]
    assert ("html", {"lang": "en"}) in page.tags
    assert all(tags.count(tag) == 1 for tag in ("title", "main", "h1"))
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(found.get("scope") in ("col", "row") for tag, found in page.tags if tag == "th")
    assert tags.count("caption") == tags.count("table") == 2
    assert all(found.get("aria-label") for tag, found in page.tags if tag == "button")
    assert set(page.values("aria-labelledby")) <= set(page.values("id"))


def test_it_says_what_changed_since_the_page_before(
    written: Path,
    channel: Path,
    site: Path,
    addresses: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "This is the first publication" in written.read_text()
    index = channel / "linux-64/repodata.json"
    data = json.loads(index.read_text())
    name = next(one for one in data["packages.conda"] if one.startswith("vllm-flashmla"))
    gone = data["packages.conda"].pop(name)
    data["packages.conda"]["vllm-new-1.0-h0_0.conda"] = {**gone, "name": "vllm-new"}
    index.write_text(json.dumps(data))
    (channel / "linux-64" / name).unlink()
    words = ["channel", "page", str(channel), str(site), "-c", addresses[1], "--json"]
    capsys.readouterr()
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["added"] == ["linux-64/vllm-new-1.0-h0_0.conda"]
    assert told["removed"] == [f"linux-64/{name}"]
    assert f"Removed: <code>linux-64/{name}</code>" in written.read_text()
    # Written once more without a change, it still tells the last one.
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == [f"linux-64/{name}"]


def test_yanking_and_offering_again_are_changes() -> None:
    before = Record(1, "then", (File("a", "0", 1), File("b", "0", 1, "wrong results")), Changes())
    now = (File("a", "0", 1, "crashes"), File("b", "0", 1))
    assert changes(before, now) == Changes("then", yanked=("a",), restored=("b",))


def test_a_yanked_package_is_shown_with_its_reason(
    channel: Path, site: Path, addresses: list[str]
) -> None:
    index = channel / "linux-64/repodata.json"
    data = json.loads(index.read_text())
    name = next(one for one in data["packages.conda"] if one.startswith("vllm-flashmla"))
    del data["packages.conda"][name]
    index.write_text(json.dumps(data))
    ChannelFolder(channel).mark("yanked", f"linux-64/{name}", Mark("wrong <results>", 0.0))
    assert main(["channel", "page", str(channel), str(site), "-c", addresses[1]]) == 0
    assert "yanked: wrong &lt;results&gt;" in (channel / "index.html").read_text()


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 B"), (999, "999 B"), (92057, "92.1 kB"), (2_376_000_000, "2.38 GB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["{empty}", "{site}"], 2, "is no channel"),
        (["{channel}", "nowhere.yaml"], 3, "does not exist"),
        (["{channel}", "{site}", "-c", "./nowhere"], 2, "there is no such folder"),
    ],
)
def test_each_refusal(
    channel: Path,
    site: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    part: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"channel": channel, "site": site, "empty": tmp_path / "empty"}
    assert main(["channel", "page", *(word.format(**places) for word in words)]) == code
    assert part in capsys.readouterr().err


def test_a_record_that_cannot_be_read_is_none(
    written: Path, site: Path, addresses: list[str]
) -> None:
    written.with_suffix(".json").write_text('{"schema": 1')
    assert main(["channel", "page", str(written.parent), str(site), "-c", addresses[1]]) == 0
    assert "This is the first publication" in written.read_text()


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def browser(written: Path) -> Iterator[Any]:
    """Started after the page is written: playwright keeps an event loop, the solver wants none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium; Debian's package is called chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("window", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_no_barrier(
    browser: Any, written: Path, window: dict[str, int], colours: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = browser.new_page(viewport=window, color_scheme=colours)
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(written.as_uri())
    found = axe.Axe().run(page, options={"resultTypes": ["violations", "passes"]}).response
    assert [
        (one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]
    ] == []
    assert {"color-contrast", "button-name", "link-name"} <= {one["id"] for one in found["passes"]}
    assert loaded == [written.as_uri()]
    # Nothing sticks out sideways.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_the_keyboard_reaches_everything(browser: Any, written: Path) -> None:
    page = browser.new_page(viewport=DESK)
    page.goto(written.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => e.getAttribute('aria-label') || e.getAttribute('href') || e.className)"
                "(document.activeElement)"
            )
        )
        if reached[-1] == "Copy: create with conda":
            page.keyboard.press("Enter")
            page.wait_for_function("document.getElementById('said').textContent !== ''")
            said = page.evaluate("document.getElementById('said').textContent")
            assert said.startswith(("Copied: conda create", "Selected"))
    assert "wide" in reached, "tables that scroll take the focus"
    buttons = {one for one in reached if one and one.startswith("Copy: ")}
    assert len(buttons) == page.locator("button").count()
    assert len([one for one in reached if one and one.endswith(".conda")]) >= 20
    page.close()
