"""Small changes to bytes and to JSON, drawn at random."""

import copy
import json

ODD = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e-320,
    1e308, float("inf"), float("nan"), "", "a", "true", "0", "\x00", "\ud800", "é🙂", "x" * 5000,
    "../x", "/", [], {}, [[]], [None], {"": None}, [1, 2, 3], {"a": {"b": []}}, ["x"] * 100,
]  # fmt: skip

DEEP = "@deep"  # what `text_of` writes as lists in lists


def odd(rng):
    """A value that nobody expects."""
    if rng.random() < 0.02:
        return DEEP
    return copy.deepcopy(rng.choice(ODD))


def bytes_of(rng, whole):
    """A file with a few bytes changed, cut, doubled or put in."""
    made = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        at = rng.randrange(len(made) + 1)
        # what says how to read the rest stands at the beginning
        at = min(at, rng.choice((8, 64, 1024, len(made))))
        n, how = rng.choice((1, 1, 2, 4, 8, 100)), rng.randrange(6)
        if how == 0:
            made[at : at + n] = rng.randbytes(n)
        elif how == 1:
            made[at : at + n] = b"\xff" * n
        elif how == 2:
            del made[at : at + n]
        elif how == 3:
            made[at:at] = rng.randbytes(n)
        elif how == 4:
            made[at:at] = made[at : at + n] * rng.choice((1, 2, 50))
        elif rng.random() < 0.3:
            del made[at:]
        elif at < len(made):
            made[at] ^= 1 << rng.randrange(8)
    return bytes(made)


def json_of(rng, value):
    """The same JSON with a few values changed, left out, moved or added."""
    made = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = made
        while True:
            if not isinstance(place, (dict, list)) or not place:
                break
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = rng.choice(keys)
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
                place = inner
                continue
            how = rng.randrange(5)
            if how == 0:
                del place[key]
            elif how == 1 and isinstance(place, dict):
                place[str(odd(rng))[:100]] = place.pop(key)
            elif how == 2 and isinstance(place, list):
                place.insert(key, odd(rng))
            elif how == 3 and isinstance(inner, (int, float)):
                place[key] = inner * rng.choice((-1, 2, 10, 10**6)) + rng.choice((-1, 0, 1))
            else:
                place[key] = odd(rng)
            break
    return made


def text_of(value):
    """JSON as bytes; halves of characters stay escaped."""
    deep = "[" * 30_000 + "]" * 30_000
    return json.dumps(value).replace(json.dumps(DEEP), deep).encode()
