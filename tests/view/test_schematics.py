import re
import shutil
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from io import BytesIO
from itertools import combinations

import pytest
import torch
from matplotlib.image import imread

from kvlab import ModelConfig
from kvlab.view import schematics
from kvlab.view.colours import ON_DARK
from kvlab.view.schematics.sheet import ROLES, fitted, width_of, wrapped

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TEXT = "{http://www.w3.org/2000/svg}text"


def config(heads, libraries, width=128, layers=32, hidden=4096, mlp=14336, vocab=128_256, **more):
    return ModelConfig(vocab, hidden, mlp, layers, heads, libraries, width, **more)


POCKET = config(6, 2, 32, 4, 192, 512, 2048, tie_embeddings=True)
HUGE = config(128, 8, 128, 128, 16384, 53248, 2**31 - 1)
LONG = "A model with a very long name that no page holds in a single line of its own, see"
KEYS = [
    [0.1, -3, 2, 0, 0, 0, 0, 0.5],
    [9, 1, 1, 1, 1, 1, 1, -0.04],
    [1, 2, 3, 4, 5, 6, 7, 8],
    [0, 0, 0, 0, 0, 0, 0, 0],
]
DRAWN = {
    "building": lambda: schematics.building(POCKET),
    "building of MHA": lambda: schematics.building(config(32, 32)),
    "building of 32 and 8": lambda: schematics.building(config(32, 8)),
    "building of 71 and 1": lambda: schematics.building(config(71, 1)),
    "three buildings": lambda: schematics.building(config(8, 8), config(8, 2), config(8, 1)),
    "four buildings": lambda: schematics.building(
        config(32, 32), config(32, 1), HUGE, POCKET, names=[LONG, "一" * 40, "<b>&", "W" * 60]
    ),
    "rope": lambda: schematics.rope_arrows((7, 4), 32),
    "rope moved": lambda: schematics.rope_arrows([(7, 4), (17, 14), (107, 104)], 32),
    "rope far": lambda: schematics.rope_arrows([(9_999_999, 0), (0, 0), (3, 9), (5, 4)], 128, 63),
    "meeting": lambda: schematics.meeting(),
    "meeting of strange tokens": lambda: schematics.meeting(
        ["W" * 40, "一二三四五六七八九十", "\n", " <b>&", "", "\x00\ud800", *"abcdef"],
        [1.0] + [0] * 11,
        query=LONG,
    ),
    "meeting of one": lambda: schematics.meeting(["a"], [1]),
    **{
        f"mask of {new} after {past}": lambda new=new, past=past: schematics.mask(new, past)
        for new, past in ((6, 0), (4, 6), (1, 9), (1, 0), (64, 0), (2, 62), (33, 20))
    },
    **{
        f"phases {prompt}, {new}, {cached}": lambda prompt=prompt, new=new, cached=cached: (
            schematics.phases(prompt, new, cached)
        )
        for prompt, new in ((17, 4), (1, 1), (1, 2), (2000, 512), (10**7, 10**7), (3, 13))
        for cached in (True, False)
    },
    "guesses": lambda: schematics.guesses(" The", [" a", " b", " c"], [" a", " b", " d", " e"]),
    "guesses, all right": lambda: schematics.guesses("a", ["b"], ["b", "c"]),
    "guesses, none": lambda: schematics.guesses("a", [], ["b"]),
    "guesses, many and strange": lambda: schematics.guesses(
        LONG, ["W" * 40, "\n", "<b>&", "", "一" * 20, "f", "g", "h"], [*"abcdefgh", LONG]
    ),
    "strips": lambda: schematics.strips(
        [
            (
                "24 GB",
                "14 chats",
                [("model", 16, "model"), *[("", 0.5, "used")] * 14, ("", 1, "free")],
            ),
            (
                "80 GB",
                "119 chats",
                [("model", 16, "model"), *[("", 0.5, "used")] * 119, ("", 4, "held")],
            ),
        ],
        title="The model is paid for once",
    ),
    "strips of strange names": lambda: schematics.strips(
        [(LONG, LONG, [("W" * 40, 1, "used"), ("<b>&", 1e9, "held"), ("\n", 1e-9, "free")])],
        title=LONG,
        says={"used": LONG, "held": "", "free": "一" * 30},
    ),
    "block map": lambda: schematics.block_map(
        {
            "A": ([5, 2], [" a", " b", "\n", " W", "c"]),
            "B": ([5, 7], ["a", "b", "c", "W" * 30, "x"]),
        },
        10,
        4,
    ),
    "block map of strange names": lambda: schematics.block_map(
        {LONG: ([*range(20)], ["一" * 9] * 40), "<b>&": ([0, 1], ["W"] * 4), "": ([], [])}, 24, 2
    ),
    "block map of large blocks": lambda: schematics.block_map({"A": ([63], ["a"] * 64)}, 64, 64),
    "block map of nobody": lambda: schematics.block_map({}, 1, 1),
    "four ways": lambda: schematics.four_ways(KEYS, 3, [True, False, True, False]),
    "four ways of the largest": lambda: schematics.four_ways(
        [[-99.9] * 8] * 8, 4, [True] * 8, bytes_per_number=8
    ),
    "four ways of one": lambda: schematics.four_ways([[0] * 8], 1, [True], bytes_per_number=1),
    "cache": lambda: schematics.cache_in_memory(POCKET, 24, 17),
    "cache, full": lambda: schematics.cache_in_memory(POCKET, 8, 8),
    "cache, empty": lambda: schematics.cache_in_memory(POCKET, 1, 0),
    "cache, huge": lambda: schematics.cache_in_memory(HUGE, 10**9, 10**9 - 1),
    "cache, long": lambda: schematics.cache_in_memory(HUGE, 131_072, 1000, bytes_per_number=2),
    "cache of many heads": lambda: schematics.cache_in_memory(config(32, 32), 100, 50),
    "block": lambda: schematics.block(POCKET),
    "block of a huge model": lambda: schematics.block(HUGE),
    "block with query norms": lambda: schematics.block(config(32, 8, qk_norm=True)),
    "whole": lambda: schematics.whole(POCKET, name="the pocket model"),
    "whole, huge": lambda: schematics.whole(HUGE, "loop", LONG),
    **{
        f"whole, {here}, {'small' if small else 'large'}": lambda here=here, small=small: (
            schematics.whole(POCKET, here, small=small)
        )
        for here in schematics.PLACES
        for small in (False, True)
    },
    "whole, huge and small": lambda: schematics.whole(HUGE, "cache", LONG, small=True),
}


def boxes(drawing):
    """Each text with the box that it needs at most: left, top, right, bottom."""
    root = ElementTree.fromstring(drawing.svg)
    for text in root.iter(TEXT):
        size, x, y = (float(text.get(name)) for name in ("font-size", "x", "y"))
        wide = width_of(text.text, size, text.get("font-weight") == "bold")
        left = x - wide * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
        yield text.text, (left, y - 0.76 * size, left + wide, y + 0.24 * size)


def clashes(placed, width, height):
    """What leaves the page, and what lies on each other."""
    bad = [
        words
        for words, (left, top, right, bottom) in placed
        if left < 0 or top < 0 or right > width or bottom > height
    ]
    for (one, a), (other, b) in combinations(placed, 2):
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if wide > 0.5 and high > 2:
            bad.append((one, other))
    return bad


def page(drawing):
    view = ElementTree.fromstring(drawing.svg).get("viewBox").split()
    return float(view[2]), float(view[3])


@pytest.fixture(params=DRAWN)
def drawing(request):
    return DRAWN[request.param]()


def test_no_text_lies_on_another_or_leaves_the_page(drawing):
    placed = list(boxes(drawing))
    assert placed and clashes(placed, *page(drawing)) == []
    assert page(drawing)[0] == 760
    assert all(float(t.get("font-size")) >= 11 for t in
               ElementTree.fromstring(drawing.svg).iter(TEXT))  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawing_is_the_same_bytes_every_time(name):
    assert DRAWN[name]()._repr_mimebundle_() == DRAWN[name]()._repr_mimebundle_()


def test_a_drawing_says_what_it_shows(drawing):
    root = ElementTree.fromstring(drawing.svg)
    assert root[0].text == drawing.title and root[1].text == drawing.alt
    data = drawing._repr_mimebundle_()
    assert data["image/svg+xml"] == drawing.svg and data["text/plain"] == repr(drawing)
    image = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', data["text/html"])[1]
    assert b64decode(image).decode() == drawing.svg
    shown = ElementTree.fromstring(re.search(r"<img.*>$", data["text/html"])[0][:-1] + "/>")
    assert shown.get("alt") == drawing.alt and len(drawing.alt) > 40
    assert len(drawing.title) > 20 and "\n" not in drawing.title + drawing.alt


def test_a_drawing_is_saved_as_it_is_shown(tmp_path):
    drawing = DRAWN["block"]()
    drawing.save(tmp_path / "block.svg")
    assert (tmp_path / "block.svg").read_text(encoding="utf-8") == drawing.svg


def test_every_colour_has_one_for_dark_pages_and_both_can_be_read():
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    def contrast(one, other):
        high, low = sorted((light(one), light(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    paper = ROLES["paper"]
    for role, colour in ROLES.items():
        least = {"ink": 12, "soft": 6, "paper": 1, "pale": 1, "mixture": 2.5}.get(role, 3)
        assert contrast(colour, paper) >= least
        assert contrast(ON_DARK[colour], ON_DARK[paper]) >= least


def test_words_are_cut_and_wrapped_to_what_fits():
    assert fitted("key", 100) == "key" and fitted("keys and values", 60).endswith("…")
    assert width_of(fitted("keys and values", 60)) <= 60
    lines = wrapped("keys and values of all layers", 90)
    assert " ".join(lines) == "keys and values of all layers" and len(lines) > 1
    assert all(width_of(line) <= 90 for line in lines)
    assert width_of("一") > width_of("m") > width_of("i")


def test_the_building_counts_what_the_cache_pays():
    three = schematics.building(config(8, 8), config(8, 2), config(8, 1), bytes_per_number=2)
    for n_bytes in ("131,072 bytes a token", "32,768 bytes a token", "16,384 bytes a token"):
        assert n_bytes in three.svg
        assert f"costs the cache {n_bytes.removesuffix(' a token')}." in three.alt
    assert "up to 8 times" in three.title
    assert "6 query heads share 2 libraries" in schematics.building(POCKET).title
    assert "a library of its own" in schematics.building(config(4, 4)).title
    assert "share one library" in schematics.building(config(4, 1)).title


def test_only_the_distance_turns_the_arrows_apart():
    moved = schematics.rope_arrows([(7, 4), (17, 14)], 32)
    assert moved.svg.count("3 positions apart: 171.9°") == 2 and "only the distance" in moved.title
    assert moved.alt.count("between the arrows is 171.9°") == 2
    assert "6 positions apart: -" in schematics.rope_arrows((3, 9), 32).svg
    assert "only the distance" not in schematics.rope_arrows([(7, 4), (17, 4)], 32).title
    assert "1 position apart: 1°" in schematics.rope_arrows((1, 0), 2, theta=7.0).svg.replace(
        "57.3°", "1°"
    )


def test_a_place_is_marked_where_it_is():
    for here, (_, said) in schematics.PLACES.items():
        large = schematics.whole(POCKET, here)
        assert large.svg.count(">you are here<") == 1 and f"You are here: {said}." in large.alt
        small = schematics.whole(POCKET, here, small=True)
        assert small.title.startswith(f"You are here: {said}") and small.alt == large.alt
        assert ("goes in again" in small.svg) == (here == "loop")  # the loop has its arrow
    assert "you are here" not in schematics.whole(POCKET).svg


@pytest.mark.parametrize("place", schematics.PLACES)
def test_no_word_of_the_line_of_boxes_is_cut(place):
    assert "…" not in schematics.whole(POCKET, here=place, small=True).svg


def test_the_mask_is_a_triangle_or_a_rectangle_that_ends_in_one():
    assert "a triangle" in schematics.mask(6).title and "cache" not in schematics.mask(6).svg
    assert "4 new tokens after 6" in schematics.mask(4, 6).title
    assert "nothing left to forbid" in schematics.mask(1, 9).title
    widths = re.findall(r'width="([0-9.]+)" height="34" rx="0" fill="#0072B2"',
                        schematics.mask(4, 6).svg)  # fmt: skip
    assert [float(w) for w in widths] == [34, 68, 102, 136]


def test_guesses_are_used_up_to_the_first_wrong_one():
    drawn = schematics.guesses("x", ["a", "b", "c"], ["a", "z", "c", "d"])
    assert drawn.title == "Of 3 guesses 1 can be used, and one call gives 2 tokens"
    assert "then comes 'z'" in drawn.alt
    words = [words for words, _ in boxes(drawn)]
    assert words.count("=") == 1 and words.count("≠") == 1
    assert schematics.guesses("x", ["a"], ["b", "c"]).title.startswith("Of 1 guess 0 can be used")
    every = schematics.guesses("x", ["a", "b"], ["a", "b", "c"])
    assert every.title.endswith("one call gives 3 tokens")
    assert "forgotten" not in every.svg and "forgotten" in drawn.svg


def test_phases_count_keys_as_the_formula_does():
    plain, cached = schematics.phases(17, 4, cached=False), schematics.phases(17, 4)
    assert "of 74 keys, 54 had been computed before" in plain.title
    assert "In all 20 keys, 0 of them computed again" in cached.alt
    for rows in ("17", "18", "19", "20"):
        assert f">{rows}</text>" in plain.svg
    assert plain.svg.count("(striped)") == 1 and "striped" not in cached.svg


def test_a_block_of_two_chats_is_drawn_once_and_told():
    chats = {"A": ([5, 2], ["a", "b", "c"]), "B": ([5], ["a", "b"])}
    drawn = schematics.block_map(chats, 8, 2)
    told = "2 of 8 blocks in use, 1 of them by more than one chat, and 3 of 4 slots in them filled"
    assert drawn.title == told
    assert "Block 5 is shared by A and B." in drawn.alt
    assert drawn.svg.count(">free</text>") == 6 and drawn.svg.count(">a</text>") == 1
    assert "shared" not in schematics.block_map({"A": ([1], ["a"])}, 2, 2).alt


def test_four_ways_tell_the_bytes_and_the_places():
    drawn = schematics.four_ways(KEYS, 3, [True, False, True, False])
    assert drawn.title == "64 bytes of keys: 64 with zeros in them, 32 compacted, 28 packed"
    assert "Row 0 keeps the places 1, 2, 7." in drawn.alt and "tokens 0 and 2" in drawn.alt
    words = [words for words, _ in boxes(drawn)]
    assert words.count("−3.0") == 4 and words.count("9.0") == 3  # of the row that goes one less
    assert words.count("-0.0") == 0 and words.count("1") == 4 * 3 + 4  # bits, tokens, one address
    assert "Numbers from 6 × t; marks, bit 0 first, in byte t." in words


@pytest.mark.parametrize(
    "rows, n, keep",
    [
        ([[0] * 7], 1, [True]),
        ([[0] * 8] * 9, 1, [True] * 9),
        ([], 1, []),
        ([[0] * 8], 5, [True]),
        ([[0] * 8], 1, [False]),
        ([[0] * 8], 1, [True, True]),
        ([[100] + [0] * 7], 1, [True]),
    ],
)
def test_four_ways_refuse_what_no_page_holds(rows, n, keep):
    with pytest.raises(ValueError, match="expected"):
        schematics.four_ways(rows, n, keep)


def test_strips_have_one_scale_and_tell_their_sums():
    drawn = schematics.strips(
        [("small", "", [("", 2, "used"), ("", 2, "free")]), ("large", "", [("", 8, "used")])],
        title="t",
    )
    assert drawn.alt == "small: keys and values 2, free 2. large: keys and values 8."
    assert 'width="720"' in drawn.svg and drawn.svg.count('width="180"') == 2


def test_the_cache_tells_bytes_as_the_config_does():
    drawn = schematics.cache_in_memory(POCKET, 24, 17)
    each = POCKET.kv_bytes_per_token()
    assert f"= {each:,} bytes." in drawn.svg and f"= {17 * each:,} bytes." in drawn.svg
    assert f"24 × {each:,} = {24 * each:,} bytes" in drawn.svg
    assert "reads all 18 that are then filled" in drawn.title
    assert "is refused" in schematics.cache_in_memory(POCKET, 8, 8).title
    half = schematics.cache_in_memory(POCKET, 24, 17, bytes_per_number=2)
    assert f"= {each // 2:,} bytes." in half.svg


def test_the_meeting_names_who_gets_most():
    drawn = schematics.meeting(["a", "b"], torch.tensor([0.25, 0.75]), query="c")
    assert "mostly b's (75%)" in drawn.title and "c is compared" in drawn.alt
    assert ">25.0%<" in drawn.svg and ">c?<" in drawn.svg


def test_one_of_a_kind_is_told_as_one():
    one = config(1, 1, 8, 1, 8, 8, 9)
    many = re.compile(
        r"\b1 [a-z/ ]*(heads|floors|blocks|layers|rows|keys|slots|ones|are)\b|1 block.* add "
    )
    for drawn in (
        schematics.building(one),
        schematics.block(one),
        schematics.whole(one),
        schematics.phases(1, 1),
        schematics.phases(1, 2, False),
        schematics.mask(2, 1),
        schematics.cache_in_memory(one, 1, 0),
        schematics.cache_in_memory(one, 2, 1),
        schematics.block_map({"A": ([0], ["a"])}, 1, 1),
    ):
        for told in (drawn.title, drawn.alt, *(words for words, _ in boxes(drawn))):
            assert not many.search(told), told


REFUSED = [
    *(
        lambda t=t, w=w: schematics.meeting(t, w)
        for t, w in ((["a"], [0.5]), (["a", "b"], [1]), ("ab", [0.5, 0.5]), (None, [1]), ([], []),
                     (["a"], None), (["a", "b"], [1.5, -0.5]), (["a"], ["1"]), (["a"], [True]),
                     (["a"] * 13, [1] + [0] * 12), (["a"], [float("nan")]), (["a"], 1))
    ),
    *(lambda n=n: schematics.mask(*n) for n in ((0,), (-1,), (1.5,), (None,), ("3",), (1, -1),
                                                (65,), (60, 5), (1, True))),
    *(lambda n=n: schematics.phases(*n) for n in ((0, 1), (1, 0), (1.0, 2), (1, None), (True, 1),
                                                  (1, 1, 2), (10**8, 1), (1, 10**8))),
    *(lambda g=g: schematics.guesses(*g) for g in (
        (None, [], ["a"]), ("a", "b", ["b", "c"]), ("a", [1], ["b", "c"]), ("a", ["b"], ["b"]),
        ("a", ["b"] * 9, ["b"] * 10), ("a", ["b"], None))),
    *(lambda r=r: schematics.strips(r, title="t") for r in (
        None, [], [("a", "b")], [("a", "b", [])], [("a", "b", [("c", 1)])],
        [("a", "b", [("c", 1, "nothing")])], [("a", "b", [("c", -1, "used")])],
        [("a", "b", [("c", "1", "used")])], [("a", "b", [(None, 1, "used")])])),
    lambda: schematics.strips([("a", "b", [("c", 1, "used")])], title=None),
    *(lambda m=m: schematics.block_map(*m) for m in (
        (None, 4, 2), ({"A": ([0], ["a"])}, 0, 2), ({"A": ([0], ["a"])}, 65, 2),
        ({"A": ([4], ["a"])}, 4, 2), ({"A": ([0], ["a"] * 3)}, 4, 2),
        ({"A": ([0, 1], ["a"])}, 4, 2), ({"A": ([None], ["a"])}, 4, 2),
        ({"A": [0]}, 4, 2), ({"A": 3}, 4, 2), ({"A": (None, ["a"])}, 4, 2),
        ({"A": ([0], None)}, 4, 2), ({1: ([0], ["a"])}, 4, 2), ({"A": ([0], [1])}, 4, 2),
        ({"A": ([0, 0], ["a"] * 4)}, 4, 2))),
    lambda: schematics.cache_in_memory(None, 4, 2),
    *(lambda n=n: schematics.cache_in_memory(POCKET, *n) for n in (
        (0, 0), (4, 5), (4, -1), (None, 1), (4, 1.5), (10**10, 0))),
    lambda: schematics.cache_in_memory(POCKET, 4, 2, bytes_per_number=0.5),
    lambda: schematics.building(None),
    lambda: schematics.building(POCKET, 3),
    lambda: schematics.building(POCKET, names=[]),
    lambda: schematics.building(POCKET, names=3),
    lambda: schematics.building(POCKET, bytes_per_number=0),
    lambda: schematics.building(*[POCKET] * 5),
    lambda: schematics.block("pocket"),
    lambda: schematics.whole((POCKET, None)),
    lambda: schematics.whole(POCKET, "nowhere"),
    lambda: schematics.whole(POCKET, ["cache"]),
    *(
        lambda x=x: schematics.rope_arrows(x, 32)
        for x in (None, 3, "74", [], (1,), (1, 2, 3), [(1, 2), 3], (1.5, 2), (-1, 0), (True, 1),
                  (10**7, 0), [(0, 0)] * 5, [("a", 1)])
    ),
    *(lambda x=x: schematics.rope_arrows((1, 0), x) for x in (None, 0, 3, -2, 2.0, True)),
    *(lambda x=x: schematics.rope_arrows((1, 0), 8, x) for x in (None, -1, 4, 0.5)),
    *(lambda x=x: schematics.rope_arrows((1, 0), 8, 0, x) 
      for x in (None, 0, -1, float("inf"), "a")),
]  # fmt: skip


@pytest.mark.parametrize("call", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(call):
    with pytest.raises(ValueError) as refused:
        call()
    said = str(refused.value)
    assert type(refused.value) is ValueError and "\n" not in said and 20 < len(said) < 300


MEASURE = """() => [...document.querySelectorAll('svg')].map(svg =>
    [...svg.querySelectorAll('text')].map(text => {
        const b = text.getBBox();
        return [text.textContent, [b.x, b.y, b.x + b.width, b.y + b.height]];
    }))"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.mark.browser
def test_a_browser_measures_no_text_on_another(browser):
    drawings = [make() for make in DRAWN.values()]
    sheet = browser.new_page()
    sheet.set_content("".join(drawing.svg for drawing in drawings))
    measured = sheet.evaluate(MEASURE)
    assert len(measured) == len(drawings)
    for name, drawing, placed in zip(DRAWN, drawings, measured, strict=True):
        assert clashes(placed, *page(drawing)) == [], name
        for (words, real), (same, told) in zip(placed, boxes(drawing), strict=True):
            assert words == same
            # a browser may round a glyph to whole pixels
            assert real[2] - real[0] <= told[2] - told[0] + 1 or not words.isascii(), words


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_drawing_is_light_or_dark_as_its_notebook_is(browser, scheme):
    """Whatever the browser is set to; without a notebook around it, as that says."""
    html = DRAWN["block"]()._repr_mimebundle_()["text/html"]
    sheet = browser.new_page(color_scheme=scheme)
    for theme, dark in (("true", False), ("false", True), ("", scheme == "dark")):
        about = f' data-jp-theme-light="{theme}"' if theme else ""
        sheet.set_content(f"<body{about}>{html}</body>")
        picture = imread(BytesIO(sheet.locator("img").screenshot()))
        paper = picture[4, 40, :3]
        assert (paper.max() < 0.2) if dark else (paper.min() > 0.98)
        assert picture[..., :3].max() > 0.7 and picture[..., :3].min() < 0.3
