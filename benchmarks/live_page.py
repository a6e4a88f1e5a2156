"""How fast the page in which the model runs writes an answer, with its cache and without.

    python -m benchmarks.live_page --core 0 --out benchmarks/results/live_page.json

The page is made anew and opened from the disk in chromium, and its own scripts answer its own
examples: each with the cache and without, in turn, several answers in a row, since a browser's
clock counts in tenths of a millisecond. Both ways must write the same tokens. A round that is not
counted comes first, in which the browser compiles the scripts. Nothing is drawn while time is
taken.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.common import arguments, over, record
from kvlab.shell import site

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
ANSWERS = 3  # of each way in a round
READY = "document.getElementById('status').textContent.startsWith('Done')"
MODEL = """() => {
  const { data, Model, Tokenizer } = kvlab;
  const bytes = Uint8Array.from(atob(data.weights), (letter) => letter.charCodeAt(0));
  kvlab.measured = [new Model(data.config, bytes), new Tokenizer(data.tokenizer)];
  return kvlab.first.examples;
}"""
ANSWER = """([example, cache, n]) => {
  const cost = { answering: 0, milliseconds: 0, steps: 0 };
  let session;
  for (let i = 0; i < n; i++) {
    session = new kvlab.Session(...kvlab.measured, { ...kvlab.DEFAULTS, ...example, cache });
    while (session.next());
    for (const name of Object.keys(cost)) cost[name] += session.cost[name];
  }
  return { ...cost, ids: session.ids, prompt: session.read.length + session.asked.length };
}"""


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--core", type=int, help="hold browser and all on this core alone")
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    with opened() as (page, version):
        examples = page.evaluate(MODEL)
        rows = [
            measured(page, example, args.rounds, 1 if args.tiny else ANSWERS)
            for example in (examples[:1] if args.tiny else examples)
        ]
    record(
        "benchmarks.live_page", args.out, rows, rounds=args.rounds, browser=f"Chromium {version}",
        on_cores=sorted(os.sched_getaffinity(0)), load=round(os.getloadavg()[0], 1),
    )  # fmt: skip


@contextmanager
def opened() -> Iterator[tuple[Any, str]]:
    """The page in a browser, its first answer written, and the browser's version."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("playwright is not here; it comes with the tests: pip install '.[dev]'.")
    if chromium is None:
        sys.exit("chromium is not here: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        made = site.build(folder, book=False)
        assert made is not None
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.goto((made / "live" / "index.html").as_uri())
        page.wait_for_function(READY, timeout=120_000)
        yield page, browser.version
        browser.close()


def measured(page: Any, example: dict[str, str], rounds: int, n: int) -> dict[str, Any]:
    """Both ways for one example, round by round in turn."""
    runs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for i in range(rounds + 1):
        for cache in (True, False) if i % 2 else (False, True):
            run = page.evaluate(ANSWER, [example, cache, n])
            if i:
                runs[cache].append(run)
    cached, uncached = runs[True], runs[False]
    if any(run["ids"] != cached[0]["ids"] for run in cached + uncached):
        sys.exit("The ways gave different tokens: no speed is quoted.")
    each = {way: [run["answering"] / run["steps"] for run in runs[way]] for way in runs}
    row = {
        "name": example["name"],
        "prompt_tokens": cached[0]["prompt"],
        "new_tokens": cached[0]["steps"] // n,
        **over(each[False], each[True]),
    }
    for name, way in (("cached", True), ("uncached", False)):
        speeds = [1000 / ms for ms in each[way]]
        row[f"tokens_per_second_{name}"] = round(statistics.median(speeds), 1)
        row[f"tokens_per_second_{name}_range"] = [round(min(speeds), 1), round(max(speeds), 1)]
    whole = {way: [run["milliseconds"] for run in runs[way]] for way in runs}
    return row | {f"{k}_whole": v for k, v in over(whole[False], whole[True]).items()}


if __name__ == "__main__":
    main()
