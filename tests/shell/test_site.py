"""The book as pages: all of it is there, every link leads somewhere, nothing is foreign."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import kvlab
from kvlab.shell import cli, site
from kvlab.shell.bootstrap import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """What a page refers to, what can be referred to in it, and pictures without words."""

    def __init__(self, file):
        super().__init__()
        self.anchors, self.links, self.foreign, self.silent = set(), [], [], []
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.anchors |= {of.get("id"), of.get("name")}
        if tag == "a" and "href" in of:
            self.links.append(of["href"])
        elif {"src", "href"} & of.keys():
            address = of.get("src") or of.get("href") or ""
            if address.startswith(("http:", "https:", "//")):
                self.foreign.append((tag, address))
        if tag == "img" and not of.get("alt"):
            self.silent.append(of.get("src", "")[:80])


def test_each_page_stands_in_the_index_and_leads_to_what_is_copied():
    """What Sphinx refuses, told where Sphinx is not installed."""
    there = {file.resolve() for pattern in site.PAGES for file in ROOT.glob(pattern)}
    index = (ROOT / "site" / "book" / "index.md").read_text(encoding="utf-8")
    examples = ROOT / "docs" / "examples"  # go into the pages of names
    for page in sorted(file for file in there if file.suffix == ".md"):
        name = page.relative_to(ROOT).as_posix().removesuffix(".md")
        assert f"\n{name}\n" in index or page.parent == examples, name
        links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text(encoding="utf-8"))
        assert [to for to in links if (page.parent / to).resolve() not in there] == [], name


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    for needed in site.NEEDED:
        pytest.importorskip(needed, reason='needs ".[site]"')
    return site.build(tmp_path_factory.mktemp("site") / "made")


@pytest.fixture(scope="module")
def pages(built):
    return {file.resolve(): Page(file) for file in built.rglob("*.html")}


def test_every_chapter_and_exercise_has_a_page_and_no_solution_has(built):
    for folder in ("chapters", "exercises"):
        notebooks = {file.stem for file in (ROOT / folder).glob("*.ipynb")}
        assert notebooks == {file.stem for file in (built / folder).glob("*.html")}
    assert not list(built.rglob("*solutions*"))
    chapter = (built / "chapters" / "06_kv_cache.html").read_text("utf-8")
    assert "<svg" in chapter and "20 keys computed in each layer" in chapter
    assert 'rel="next"' in chapter and 'rel="prev"' in chapter
    names = (built / "api" / "kvlab.prune.html").read_text("utf-8")
    assert 'id="kvlab.prune.Evict"' in names and "Raises:" in names


def test_every_name_of_the_package_is_described_once_with_its_example(built):
    said = "".join(page.read_text("utf-8") for page in (built / "api").glob("*.html"))
    for name in set(kvlab.__all__) - {"__version__"}:
        found = re.findall(rf'id="kvlab\.(?:[a-z_]+\.)*{name}"', said)
        assert len(found) == 1, (name, found)
        assert "Example." in said.split(found[0])[1].split('class="sig sig-object py" id="')[0], (
            name
        )


def test_every_link_leads_somewhere(pages):
    lost = []
    for file, page in pages.items():
        for link in page.links:
            to = urlsplit(link)
            if to.scheme or to.netloc:
                continue
            target = (file.parent / unquote(to.path)).resolve() if to.path else file
            known = pages.get(target)
            if not target.exists() or (
                to.fragment and known and unquote(to.fragment) not in known.anchors
            ):
                lost.append((file.name, link))
    assert not lost and sum(len(page.links) for page in pages.values()) > 1000


def test_nothing_comes_from_elsewhere_and_every_picture_has_words(built, pages):
    assert not [(file.name, page.foreign) for file, page in pages.items() if page.foreign]
    assert not [(file.name, page.silent) for file, page in pages.items() if page.silent]
    for style in built.rglob("*.css"):
        said = style.read_text("utf-8")
        assert "url(http" not in said and "@import" not in said, style


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")
def test_a_chapter_fits_any_screen_and_asks_nobody(built):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    asked = []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        for width in (360, 800, 1600):
            page = chromium.new_page(viewport={"width": width, "height": 900})
            page.on("request", lambda request: asked.append(request.url))
            page.goto((built / "chapters" / "06_kv_cache.html").as_uri())
            page.wait_for_selector("mjx-container", timeout=60_000)  # formulas are drawn
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.close()
        page = chromium.new_page()
        page.goto((built / "index.html").as_uri())
        page.click('article strong a[href="live/index.html"]')
        page.wait_for_selector("#answer:has-text('lemon')", timeout=60_000)
        chromium.close()
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


def test_without_sphinx_one_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["site", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert 'pip install ".[site]"' in said and "--live" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_page_that_is_not_right_is_told(tmp_path, monkeypatch):
    for needed in site.NEEDED:
        pytest.importorskip(needed, reason='needs ".[site]"')
    shutil.copytree(ROOT / "site", tmp_path / "site")
    (tmp_path / "chapters").mkdir()
    lost = {"cell_type": "markdown", "metadata": {}, "source": "# One\n\n[lost](nowhere.ipynb)"}
    book = {"cells": [lost], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (tmp_path / "chapters" / "01_one.ipynb").write_text(json.dumps(book), "utf-8")
    monkeypatch.setattr(site, "DESCRIBED", ())
    monkeypatch.setattr(site, "has_folders", lambda root, name: True)
    with pytest.raises(ValueError, match=r"(?s)pages that are not right.*nowhere\.ipynb"):
        site.build(tmp_path / "out", root=Path(tmp_path))
