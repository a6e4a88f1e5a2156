"""9.4: an answer's tokens as text that may be shown: whole characters, and no stop string.

Long because a stream goes wrong in many ways, and each of them is named.
"""

from __future__ import annotations

import codecs

from kvlab.course.author import Exercise

Q = Exercise(
    "9.4",
    "What may be shown?",
    "Shown",
    points=4,
    minutes=25,
    difficulty=4,
    statement="""
Write what stands between a model and a reader (chapter 9, "What may be shown?"). `Shown(stops)` gets a list of stop strings, none of them empty. `push(token_bytes)` gets the bytes of one token, as a list of numbers from 0 to 255, and returns the text that may be shown now, often `""`. `end()` is
called when no more tokens come, and returns what was held back and may be shown after all. The bytes of all tokens together are a text in UTF-8, whose end may be missing.

- A character whose bytes are not all there yet is held back. If the end cuts it off, it is left away.
- Nothing of a stop string is ever shown, and nothing that comes after it. Of several the one counts that is **complete first**; if two are complete with the same character, the one that began earlier. What stands before it is shown, and once it is found `push` and `end` return `""`.
- Text that could be the beginning of a stop string is held back until it is clear that it is not; all other text is shown at once, as much of it as is possible.

About 20 lines. With the stop string `"END"`, the tokens `"the E"`, `"N"`, `"EN"`, `"D of"` give `"the "`, `""`, `"EN"` (the second `"EN"` is still held) and `""`. With the stop string `"xy"` and the tokens `"a"`, `"x"`, then `end()`: `"a"`, `""`, `"x"`. The two bytes of `"é"` as two tokens give `""` and `"é"`.
""",
    hints=(
        "Two things are held, one after the other: bytes that are no character yet, and characters that may begin a stop string. Which end of the held text can still become one?",
        "codecs.getincrementaldecoder('utf-8')() keeps the bytes of a character that is not whole. Put its text behind what is held, look for stop strings in that, and if there is none hold the longest end of it with which some stop string starts.",
        "text = self.held + self.decoder.decode(bytes(token_bytes)); found = [(text.find(s) + len(s), text.find(s)) for s in self.stops if s in text]; if found: at = min(found)[1]; self.done = True; return text[:at]. Else n = the largest n < the longest stop's length with "
        "any(s.startswith(text[len(text) - n:]) for s in self.stops), 0 <= n <= len(text); hold text[len(text) - n:], return the rest. end returns what is held unless done; the decoder's bytes are dropped.",
    ),
    imports=("codecs",),
    size=lambda case: sum(map(len, case["tokens"])),
)

WORDS = [
    "the ",
    "king ",
    "queen ",
    "né ",
    "naïve ",
    "한국어 ",
    "🦊 ",
    "…",
    "a☃b ",
    "\n\n",
    "User: ",
    "END",
]


@Q.case
def case(rng):
    """A text with wide characters, cut anywhere into tokens, and stop strings that nearly occur."""
    text = "".join(rng.choice(WORDS) for _ in range(rng.randint(5, 9)))
    at = rng.randint(2, len(text) - 4)
    stop = text[at : at + rng.randint(2, 4)]
    near = stop[:-1] + "#"
    stops = rng.sample([stop, near, "\n\nUser:", "☃☃", stop + "?"], rng.randint(2, 4))
    return {"tokens": cut(rng, text), "stops": stops}


def cut(rng, text: str) -> list[list[int]]:
    """The bytes of a text in pieces of one to six."""
    data, tokens = list(text.encode()), []
    while data:
        n = rng.choice([1, 1, 2, 2, 3, 4, 6])
        tokens.append(data[:n])
        data = data[n:]
    return tokens


@Q.solution
class Shown:
    """Turns the bytes of tokens into text that may be shown."""

    def __init__(self, stops):
        ### BEGIN SOLUTION
        self.stops, self.held, self.done = list(stops), "", False
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        ### END SOLUTION

    def push(self, token_bytes):
        """Return what may be shown now that this token came."""
        ### BEGIN SOLUTION
        if self.done:
            return ""
        text = self.held + self.decoder.decode(bytes(token_bytes))
        found = [(text.find(s) + len(s), text.find(s)) for s in self.stops if s in text]
        if found:
            self.done, self.held = True, ""
            return text[: min(found)[1]]
        n_held = 0
        for n in range(1, len(text) + 1):
            if any(s.startswith(text[-n:]) for s in self.stops):
                n_held = n
        self.held = text[len(text) - n_held :]
        return text[: len(text) - n_held]
        ### END SOLUTION

    def end(self):
        """Return what was held back and may be shown, as no more comes."""
        ### BEGIN SOLUTION
        held, self.held = self.held, ""
        return held
        ### END SOLUTION


@Q.also_right
class AllBytesAgain:
    """Keeps all bytes and counts what was shown; looks for the stop character by character."""

    def __init__(self, stops):
        self.raw, self.n, self.stops, self.cut = b"", 0, tuple(stops), None

    def _text(self):
        return self.raw.decode("utf-8", errors="ignore")

    def push(self, token_bytes):
        if self.cut is not None:
            return ""
        self.raw += bytes(token_bytes)
        text = self._text()
        for stop_at in range(self.n, len(text) + 1):
            hits = [s for s in self.stops if text[:stop_at].endswith(s)]
            if hits:
                self.cut = stop_at - max(map(len, hits))
                return text[self.n : self.cut]
        safe = len(text)
        for start in range(self.n, len(text)):
            if any(s.startswith(text[start:]) for s in self.stops):
                safe = start
                break
        piece, self.n = text[self.n : safe], safe
        return piece

    def end(self):
        return "" if self.cut is not None else self._text()[self.n :]


# --- laws ---


def _pieces(answer, tokens, stops):
    shown = answer.make(stops)
    seen = {}
    for i, token in enumerate(tokens):
        seen[f"shown with token {i}, {bytes(token)!r}"] = shown.call("push", token)
    return {**seen, "shown at the end": shown.call("end")}


def _law(says, what):
    def run(answer, case):
        return _pieces(answer, *what(case))

    def shows(case):
        tokens, stops = what(case)
        return f"the tokens {[bytes(t) for t in tokens]} and the stop strings {stops}"

    Q.law(says, shows=shows)(run)


def _of(tokens, stops):
    """A law's own tokens, texts or bytes."""
    made = [list(t.encode() if isinstance(t, str) else t) for t in tokens]
    return lambda case: (made, list(stops))


_law("plain text is shown at once", _of(["the ", "king", " and"], []))
_law("characters cut in two", _of([b"\xc3", b"\xa9", "né", b"\xf0\x9f", b"\xa6", b"\x8a!"], ["q"]))
_law("the end cuts a character off", _of(["a", b"\xed\x95", b"\x9c", b"\xed\x95"], []))
_law("a stop string in one token", _of(["ab", "cENDde", "f"], ["END"]))
_law("a stop string over several tokens", _of(["the E", "N", "EN", "D of"], ["END"]))
_law("no stop string after all", _of(["a", "x", "z", "x"], ["xy"]))
_law("a beginning inside a beginning", _of(["aaab", "aa", "aab", "x"], ["aabx"]))
_law("listed last, complete first", _of(["one two", " one"], ["two", "one"]))
_law("complete first, though another began earlier", _of(["xab", "cd", "e"], ["abcd", "bc"]))
_law("complete together: the one that began earlier", _of(["xa", "bc", "d"], ["bc", "abc", "c"]))
_law("a stop string of wide characters", _of(["a", b"\xe2\x98", b"\x83", "b"], ["☃b", "☃c"]))
_law("twice in one token: the first ends it", _of(["a", "bENDcENDd", "e"], ["END"]))
_law("a long beginning is held", _of(["x", "12", "345", "6", "78", "y"], ["123456789"]))
_law("in other letters it is another text", _of(["the end", " End", " END."], ["END"]))
_law("a text that is cut anywhere", lambda case: (case["tokens"], case["stops"]))
_law("a text without a stop string in it", lambda case: (case["tokens"], ["☃☃☃", "\n\n\n"]))


@Q.law("however it is cut, the same text is shown in all")
def _(answer, case):
    """Needs no right answer: one token with all bytes, and one byte a token."""
    data = [b for token in case["tokens"] for b in token]
    whole, single = (
        "".join(str(v) for v in _pieces(answer, tokens, case["stops"]).values())
        for tokens in ([data], [[b] for b in data])
    )
    leaks = sum(stop in whole for stop in case["stops"])
    return {"shown of one token of all bytes": whole, "of single bytes": single, "leaks": leaks}


@Q.law(
    "two readers, each with a stop string of its own", shows=lambda _: "stop strings END and STOP"
)
def _(answer, case):
    stops = ["END"], ["STOP"]
    readers = [(said[0], answer.make(said)) for said in stops]
    seen = {}
    for token in ("aEN", "D bST", "OP c"):
        for stop, reader in readers:
            seen[f"up to {stop}, with {token!r}"] = reader.call("push", list(token.encode()))
    return seen | {f"up to {stop}, at the end": reader.call("end") for stop, reader in readers}


# --- what goes wrong: each changes one thing of the solution ---


class _Own(Shown):
    """The solution in steps that can be replaced."""

    def push(self, token_bytes):
        if self.done:
            return ""
        text = self.held + self.text(token_bytes)
        hits = [(text.find(s) + len(s), text.find(s), s) for s in self.stops if s in text]
        if hits:
            self.done, self.held = True, ""
            return self.upto(text, self.which(hits, text))
        n = self.n_held(text)
        self.held = text[len(text) - n :]
        return text[: len(text) - n]

    def text(self, token_bytes):
        return self.decoder.decode(bytes(token_bytes))

    def which(self, hits, text):
        return min(hits)

    def upto(self, text, hit):
        return text[: hit[1]]

    def n_held(self, text):
        lengths = range(1, len(text) + 1)
        return max([n for n in lengths if any(s.startswith(text[-n:]) for s in self.stops)] + [0])


class _Buffers(_Own):
    def push(self, token_bytes):
        self.all = getattr(self, "all", "") + super().push(token_bytes)
        return ""

    def end(self):
        return getattr(self, "all", "") + super().end()


class _GoesOn(_Own):
    def push(self, token_bytes):
        said = super().push(token_bytes)
        self.done = False
        return said


def _first_listed(self, hits, text):
    return next(h for s in self.stops for h in hits if h[2] == s)


def _end_with_rest(self):
    return self.held + self.decoder.decode(b"", final=True) if not self.done else ""


def _loose(self, token_bytes):
    return bytes(token_bytes).decode("utf-8", errors="replace")


def _broken_end(self):
    rest = self.decoder.getstate()[0].decode("utf-8", errors="replace")
    return "" if self.done else self.held + rest


Q.mistakes(
    _Own,
    {
        "each token is decoded alone. A character of several tokens is none of them.": {
            "text": _loose
        },
        "bytes that are no character yet are thrown away; keep them for the next token.": {
            "text": lambda self, t: bytes(t).decode("utf-8", errors="ignore")
        },
        "nothing is held back: the beginning of a stop string is shown before the rest of it "
        "comes.": {"n_held": lambda self, text: 0},
        "only one character is held back. A stop string may have begun further back.": {
            "n_held": lambda self, text: (
                int(any(s.startswith(text[-1:]) for s in self.stops)) if text else 0
            )
        },
        "as many characters as the longest stop string has are held back, whatever they are.": {
            "n_held": lambda self, text: min(len(text), max(map(len, self.stops), default=1) - 1)
        },
        "the shortest end that could begin a stop string is held; hold the longest.": {
            "n_held": lambda self, text: (
                min(
                    [
                        n
                        for n in range(1, len(text) + 1)
                        if any(s.startswith(text[-n:]) for s in self.stops)
                    ]
                    + [len(text) + 1]
                )
                % (len(text) + 1)
            )
        },
        "what was held back is lost at the end.": {"end": lambda self: ""},
        "a character that the end cut off is shown as a question mark; leave it away.": {
            "end": _broken_end
        },
        "the stop string is shown.": {"upto": lambda self, text, hit: text[: hit[0]]},
        "the first stop string of the list counts. The one that is complete first ends the text.": {
            "which": _first_listed
        },
        "the one that begins first counts. The one that is complete first ends the text.": {
            "which": lambda self, hits, text: min(hits, key=lambda h: h[1])
        },
        "of two that are complete together, the shorter is taken; the longer began earlier.": {
            "which": lambda self, hits, text: min(hits, key=lambda h: (h[0], -h[1]))
        },
        "the text before the stop string is lost with it.": {"upto": lambda self, text, hit: ""},
    },
)
for change, says in (
    (_Buffers, "everything is held back to the end. That is no stream."),
    (_GoesOn, "the answer goes on behind the stop string. Once it is found nothing is shown."),
):
    Q.mistakes(None, {says: change})
