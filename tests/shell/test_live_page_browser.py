"""The live page as its reader sees it: opened from a file, in a real browser."""

import os
import re
import shutil

import pytest

from kvlab.shell import site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("KVLAB_SHOTS")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "a path"
    return (site.build(folder, book=False) / "live" / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """A tab in which any error of a script, and any request that leaves, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, wrong = context.new_page(), []
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url)
    )
    yield page
    context.close()
    assert not wrong


def done(page, n=1):
    """Wait until so many answers are listed and the page says that it is done."""
    page.wait_for_function(
        "n => document.querySelectorAll('#log tbody tr').length === n && "
        "document.getElementById('status').textContent.startsWith('Done')",
        arg=n,
    )


def costs(page, name):
    """With the cache and without: what the page says for one line of its table."""
    cells = page.locator(f'#cost td[data-of="{name}"]').all_inner_texts()
    return [float(text.replace(",", "")) if text else None for text in cells]


def log(page):
    return [row.split("\t") for row in page.locator("#log tbody tr").all_inner_texts()]


def colours_of(page, canvas):
    """How many different colours a drawing has."""
    return page.eval_on_selector(
        canvas,
        "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data.buffer)).size",
    )


def test_the_first_picture_needs_no_model(tab, address):
    tab.route("**/weights.js", lambda route: route.abort())
    tab.goto(address)
    assert colours_of(tab, "#head-3-1 canvas") > 100
    assert tab.locator("#answer").inner_text() == "The password of Tom is lemon."
    assert tab.locator("#tokens button").count() == 71
    assert "weights.js is not beside this page" in tab.locator("#status").inner_text()
    assert tab.locator("#play").is_disabled()


def test_a_reader_asks_switches_the_cache_off_and_prunes(tab, address):
    tab.goto(address)
    done(tab)
    assert tab.locator("#answer").inner_text() == "The password of Tom is lemon."
    assert costs(tab, "tokens") == [71, None] and costs(tab, "bytes") == [71 * 512 * 4, None]
    assert colours_of(tab, "#cells") > 100 and colours_of(tab, "#weights") > 3

    tab.uncheck("#cache")
    done(tab, 2)
    assert costs(tab, "tokens") == [71, 51 + sum(range(64, 72))]
    cached, recomputed = costs(tab, "each")
    assert recomputed > 3 * cached  # some sixty times as many tokens a step
    assert tab.locator("#ask-again").is_disabled()

    tab.check("#cache")
    done(tab, 3)
    tab.select_option("#policy", "recent")
    tab.fill("#share", "30")
    tab.click("#ask-again")
    done(tab, 4)
    question, went, rows, answer = log(tab)[0]
    assert went == "the latest: 30 % kept; after the text" and int(rows) == 8 * (15 + 20)
    assert "lemon" not in answer and question == "What is the password of Tom?"
    assert [row[3] for row in log(tab)[1:]] == ["The password of Tom is lemon."] * 3

    link = tab.url
    tab.goto("about:blank")
    tab.goto(link)
    done(tab)
    assert log(tab)[0] == [question, went, rows, answer]


def test_a_token_that_is_pressed_away_is_forgotten_and_comes_back(tab, address):
    tab.goto(address)
    done(tab)
    lemon = tab.locator("#tokens button").nth(13)
    assert lemon.inner_text().endswith("lemon")
    lemon.press("Enter")
    done(tab, 2)
    assert lemon.get_attribute("aria-pressed") == "true" and "lemon" not in log(tab)[0][3]
    assert re.search(r"gone=13$", tab.url) and log(tab)[0][1] == "tokens 13"
    tab.focus("#cells")
    for key in ["ArrowDown"] * 14 + ["ArrowRight"]:
        tab.keyboard.press(key)
    assert "its row is not in this head any more" in tab.locator("#readout").inner_text()
    tab.keyboard.press("ArrowUp")
    said = tab.locator("#readout").inner_text()
    assert re.match(r"Token 12 “ is”, layer 3, head 0: key, channel 1: -?\d\.\d{3}\.", said), said
    lemon.press("Enter")
    done(tab, 3)
    assert log(tab)[0][3] == "The password of Tom is lemon."


def test_step_by_step_rows_are_written_and_weights_looked_back_at(tab, address):
    tab.goto(address)
    done(tab)
    tab.click("#again")
    tab.wait_for_function("document.querySelectorAll('#tokens button').length === 51")
    assert "51 tokens of text were read" in tab.locator("#status").inner_text()
    for n_tokens in (64, 65, 66):
        tab.click("#step")
        tab.wait_for_function(f"document.querySelectorAll('#tokens button').length === {n_tokens}")
    assert tab.locator("#answer").inner_text() == "The password"
    assert tab.locator("#tokens button[data-new]").count() == 1
    assert "token 65" in tab.locator("#moment-shown").inner_text()
    tab.focus("#moment")
    tab.keyboard.press("ArrowLeft")
    assert "token 64" in tab.locator("#moment-shown").inner_text()


def test_a_text_of_the_readers_own_and_one_that_is_too_long(tab, address):
    tab.goto(address)
    done(tab)
    tab.fill("#text", "tiger " * 1200)
    tab.click("#play")
    assert "expected at most 1024" in tab.locator("#status").inner_text()
    tab.fill("#text", "The code of Lena is 4821.")
    tab.fill("#question", "What is the code of Lena?")
    tab.click("#play")
    done(tab, 2)
    assert "4821" in log(tab)[0][3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_used_by_all(browser, address, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe()
    how = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    context = browser.new_context(**how, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    done(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/live-{width}-{scheme}.png", full_page=True)
    found = axe.run(page).response["violations"]
    context.close()
    assert not [(v["id"], v["impact"]) for v in found if v["impact"] in ("serious", "critical")]
