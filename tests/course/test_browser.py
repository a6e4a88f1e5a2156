"""The book as its reader sees it: a real browser, a real JupyterLab, the welcome, a chapter and an
exercise."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kvlab.course.grading import notebooks
from kvlab.shell import welcome
from kvlab.shell.cli import ROOT
from kvlab.shell.lab import SETTINGS, WELCOME, lab_command

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
    pytest.mark.skipif(os.name != "posix", reason="starts and ends JupyterLab as a process group"),
]
# quiet, offline, and able to run as root in a container
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SHOTS = os.environ.get("KVLAB_SHOTS")

WRONG = """import torch


class KVCache:
    def __init__(self, n_layers, batch, n_kv_heads, capacity, head_dim):
        self.k = torch.zeros(batch, n_kv_heads, capacity, head_dim, dtype=torch.float64)
        self.v = torch.zeros(batch, n_kv_heads, capacity, head_dim, dtype=torch.float64)
        self.used = [0] * n_layers

    def append(self, layer, k_BGSD, v_BGSD):
        start, stop = self.used[layer], self.used[layer] + k_BGSD.shape[2]
        if stop > self.k.shape[2]:
            raise ValueError("full")
        self.k[:, :, start:stop], self.v[:, :, start:stop] = k_BGSD, v_BGSD
        self.used[layer] = stop

    def read(self, layer):
        return self.k[:, :, :self.used[layer]], self.v[:, :, :self.used[layer]]

    def reset(self):
        self.used = [0] * len(self.used)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab over a copy of the book, as `kvlab lab` starts it; gives its address and token."""
    home = tmp_path_factory.mktemp("lab")
    book = home / "book"
    for folder in ("chapters", "exercises", "docs"):
        shutil.copytree(ROOT / folder, book / folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVLAB_DATA", str(home / "data"))
        welcome.write(book / WELCOME)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    settings = home / "settings"  # where JupyterLab may write
    shutil.copytree(SETTINGS, settings)
    extra = ["--ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command = [
        part.replace(str(SETTINGS), str(settings)) for part in lab_command(port, True, extra, book)
    ]
    places = {f"JUPYTER_{x}_DIR": str(home / x) for x in ("CONFIG", "RUNTIME", "DATA")}
    places["KVLAB_DATA"] = str(home / "data")
    env = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), **places}
    env["OMP_NUM_THREADS"] = "1"  # the browser needs a core, and torch's threads wait for theirs
    with open(home / "log", "wb") as log:
        server = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                status = f"http://127.0.0.1:{port}/api/status?token={token}"
                urllib.request.urlopen(status, timeout=2)
                break
            assert server.poll() is None, (home / "log").read_text()
            time.sleep(0.5)
        else:
            pytest.fail(f"JupyterLab never answered: {(home / 'log').read_text()}")
        yield f"http://127.0.0.1:{port}", token, book
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        profile = tmp_path_factory.mktemp("profile")
        context = driver.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, headless=True, args=FLAGS,
            viewport={"width": 1280, "height": 1000},
        )  # fmt: skip
        yield context
        context.close()


@contextlib.contextmanager
def opened(browser, lab, path=""):
    """A page with one notebook, its kernel ready; fails if the page asked another host. Without a
    path the book's own address is opened."""
    address, token, _ = lab
    page, hosts = browser.new_page(), set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    place = f"/lab/tree/{path}?token={token}&reset" if path else f"/?token={token}"
    page.goto(address + place, wait_until="domcontentloaded")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    page.wait_for_function(
        "() => document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status==='idle'",
        timeout=120_000,
    )
    yield page
    assert all(host in ("", address.split("/")[2]) for host in hosts if ":" in host or "." in host)
    page.close()


def _late():
    """What playwright raises when a wait was in vain; anything else is an error of its own."""
    from playwright.sync_api import TimeoutError as late

    return late


def shoot(page, name):
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def menu(page, *items):
    for item in items:
        page.get_by_role("menuitem", name=item, exact=True).click()


PROMPTS = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]"


def prepare(path, up_to):
    """Cut a notebook off before the cell that holds some text, since nbval runs all of it, and take
    the stored runs' numbers out: a cell that has one has run since. Folded cells, which show no
    number, are unfolded."""
    notebook = notebooks.read(path)
    sources = [notebooks.source(cell) for cell in notebook["cells"]]
    (end,) = (i for i, source in enumerate(sources) if up_to in source)
    notebook["cells"] = notebook["cells"][:end]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["execution_count"] = None
            cell["metadata"] = {}
    notebooks.write(path, notebook)


def run_all(page):
    """Run every cell of a notebook whose numbers were forgotten. While Lab still arranges its page
    the notebook may not be the current one, and the menu then does nothing: so it is clicked, and
    again until a cell waits for the kernel or has run."""
    for attempt in range(6):
        page.locator(".jp-Notebook .jp-Cell").first.click()
        menu(page, "Run", "Run All Cells")
        with contextlib.suppress(_late()):
            begun = f"() => {PROMPTS}.some(e => /[*0-9]/.test(e.textContent))"
            page.wait_for_function(begun, timeout=30_000)
            return
        shoot(page, f"run-all-{attempt}")
        page.keyboard.press("Escape")
    pytest.fail("Run All Cells was clicked six times and no cell began")


def saved(page, path):
    """The notebook as Lab saves it, read when the server has said that it is written.

    The key writes the file if it lacks anything that the page shows, and then asks for a
    checkpoint, which saving by the clock does not. In a panel the key is the panel's, so a cell is
    clicked first; while another save is under way Lab passes over it, so it is pressed until a
    checkpoint is asked for.
    """

    def is_done(request):
        asks = urlsplit(request.url).path.endswith(f"/{path.name}/checkpoints")
        return asks and request.method == "POST"

    for _ in range(6):
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.keyboard.press("Escape")
        with contextlib.suppress(_late()):
            with page.expect_request(is_done, timeout=20_000) as asked:
                page.keyboard.press("Control+s")
            answer = asked.value.response()
            assert answer is not None and answer.ok, "the server did not save the notebook"
            return notebooks.read(path)
    pytest.fail("Control+S was pressed six times and nothing was saved")


def rests(page, n_cells):
    """Wait until every cell has its number, and nothing has waited for the kernel for three
    seconds: where all were told to run twice, a number may be the first run's."""
    status = page.locator(".jp-Notebook-ExecutionIndicator").first
    idle, deadline = 0, time.monotonic() + 540
    while idle < 6:
        told = page.evaluate(f"() => {PROMPTS}.map(e => e.textContent)")
        ran = len(told) == n_cells and all(re.search("[0-9]", text) for text in told)
        quiet = ran and status.get_attribute("data-status") == "idle"
        idle = idle + 1 if quiet else 0
        assert time.monotonic() < deadline, f"the kernel never came to rest: {' '.join(told)}"
        time.sleep(0.5)


def appears(page, selector):
    """The first such element, once its cell has run and the page has drawn it.

    The book's settings keep all cells in the page, so nothing needs to be scrolled to.
    """
    wanted = page.locator(selector)
    try:
        wanted.first.wait_for(state="attached", timeout=300_000)
    except _late():
        shoot(page, "missing")
        told = page.locator(".jp-Notebook .jp-InputPrompt").all_text_contents()
        status = page.locator(".jp-Notebook-ExecutionIndicator").first.get_attribute("data-status")
        pytest.fail(f"{selector} never appeared; kernel {status}; cells {' '.join(told)}")
    return wanted.first


def reads(page, text):
    """Wait until the grid's line of words says this."""
    page.wait_for_function(
        "t => document.querySelector('[data-panel=CacheGrid] output').textContent.includes(t)",
        arg=text,
        timeout=60_000,
    )


def holds(grid, n_reused):
    """Wait until the grid has drawn so many reused rows."""
    from playwright.sync_api import expect

    expect(grid.locator("rect.reused")).to_have_count(n_reused, timeout=60_000)


def whole(page):
    """Whether each output is shown whole, however long, and not in a box that scrolls."""
    return page.evaluate(
        "() => [...document.querySelectorAll('.jp-OutputArea')].every("
        "e => e.scrollHeight <= e.clientHeight + 2)"
    )


def test_the_book_opens_at_a_welcome_that_says_where_one_stands(browser, lab):
    with opened(browser, lab) as page:
        assert urlsplit(page.url).path == f"/lab/tree/{WELCOME}"
        says(page, "Nothing is noted yet. The book has 13 chapters")  # before anything ran
        run_all(page)
        run_cell(
            page, "standing(read=", "from kvlab.course.standing import standing\nstanding([1, 2])"
        )
        says(page, "You have read 2 of 13 chapters and done 0 of")
        assert page.locator(".Toastify__toast").count() == 0, "a pop-up: news, or an update"
        page.get_by_text("Every exercise, one by one").click()
        assert page.locator(".jp-OutputArea").bounding_box()["height"] > 1500 and whole(page)
        shoot(page, "welcome")
        for scheme, light in (("dark", "false"), ("light", "true")):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("l => document.body.dataset.jpThemeLight === l", arg=light)
        page.locator(".jp-OutputArea a", has_text="chapter 3").first.click()
        title = page.get_by_role("heading", name="3. How many libraries are in the building?")
        title.wait_for(timeout=60_000)
        page.get_by_role("tab", name=WELCOME).click()
        page.locator("a", has_text="A dozen of its calls").click()
        page.locator(".jp-MarkdownViewer h1").wait_for(timeout=60_000)
        shoot(page, "welcome-docs")


def test_the_chapter_runs_and_its_slider_moves(browser, lab):
    path = "chapters/06_kv_cache.ipynb"
    prepare(lab[2] / path, up_to="timed_both_ways(model")  # it takes half a minute
    cells = [c for c in notebooks.read(lab[2] / path)["cells"] if c["cell_type"] == "code"]
    with opened(browser, lab, path) as page:
        shoot(page, "chapter-top")
        run_all(page)
        grid = appears(page, "[data-panel=CacheGrid]")
        rests(page, len(cells))
        grid.scroll_into_view_if_needed()
        slider, status = grid.locator("input[type=range]"), grid.locator("output")
        shoot(page, "chapter-grid-first")
        reads(page, "step 7")
        slider.focus()
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        reads(page, "step 3")
        assert "1 of 23 rows computed, 22 reused" in status.text_content()
        holds(grid, 20 + 21 + 22 + 1)
        shoot(page, "chapter-grid")
        grid.locator("input[type=checkbox]").click()
        reads(page, "Without")
        holds(grid, 1)
        shoot(page, "chapter-without")
        assert whole(page)
        found = saved(page, lab[2] / path)
    code = [c for c in found["cells"] if c["cell_type"] == "code"]
    assert all(c["execution_count"] for c in code)
    errors = [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert not errors, json.dumps(errors)[:2000]


def run_cell(page, text, source=None):
    """Run the first cell that says this, after putting a source into it when one is given.

    A key that comes while Lab still arranges its page may go elsewhere: so it is pressed until the
    cell's number is a new one.
    """
    cell = page.locator(".jp-CodeCell").filter(has_text=text).first
    cell.scroll_into_view_if_needed()
    node, number = cell.element_handle(), ".jp-InputPrompt"
    before = node.query_selector(number).text_content()
    ran = """([cell, before]) => {
        const now = cell.querySelector('.jp-InputPrompt').textContent;
        return now !== before && /[0-9]/.test(now);
    }"""
    holds_source = """([cell, lines]) => {
        const told = [...cell.querySelectorAll('.cm-line')].map(e => e.textContent);
        return told.filter(line => line).join() === lines.join();
    }"""
    for attempt in range(5):
        node.query_selector(".cm-content").click()
        with contextlib.suppress(_late()):
            if source is not None:
                page.keyboard.press("Control+a")
                page.keyboard.insert_text(source)
                lines = [line for line in source.splitlines() if line]
                page.wait_for_function(holds_source, arg=[node, lines], timeout=20_000)
            page.keyboard.press("Control+Enter")
            page.wait_for_function(ran, arg=[node, before], timeout=60_000)
            return
        shoot(page, f"run-cell-{attempt}")
    pytest.fail(f"the cell that says {text!r} was run five times and got no number but {before!r}")


def says(page, text):
    """Wait until some output says this."""
    try:
        page.wait_for_function(
            "t => [...document.querySelectorAll('.jp-OutputArea-output')]"
            ".some(e => e.textContent.includes(t))",
            arg=text,
            timeout=60_000,
        )
    except _late():
        shoot(page, "unsaid")
        told = page.locator(".jp-OutputArea-output").all_text_contents()
        pytest.fail(f"no output says {text!r}, but: {told}")


def test_an_exercise_answered_wrongly_and_then_rightly(browser, lab):
    right = notebooks.answers(notebooks.read(ROOT / "solutions" / "06_kv_cache.ipynb"))["q6_1"]
    right = "\n".join(line for line in right.splitlines() if "###" not in line)
    with opened(browser, lab, "exercises/06_kv_cache.ipynb") as page:
        run_cell(page, "from kvlab import check")
        run_cell(page, "Keys and values of all layers", WRONG)
        run_cell(page, 'check("6.1"')
        says(page, "6.1 A cache that never moves: failed.")
        says(page, "all layers share one store")
        shoot(page, "exercise-wrong")
        run_cell(page, "class KVCache", right)
        run_cell(page, 'check("6.1"')
        says(page, "6.1 A cache that never moves: passed.")
        shoot(page, "exercise-right")
    with opened(browser, lab, WELCOME) as page:
        run_cell(page, "standing(read=")
        says(page, "6.1 A cache that never moves: passed on ")
        says(page, "1 of 8 exercises done, open: 6.2, 6.3")
