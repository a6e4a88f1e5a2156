"""Prefill and decode on a time axis: what each call computes, and what of it again."""

from __future__ import annotations

from kvlab import checks
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.heads import counted
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, width_of

_LEFT, _PREFILL, _TALL, _MOST = 116, 92, 170, 12  # later calls beyond that are left out
_LARGEST = 10**7


def phases(n_prompt: int, n_new: int, cached: bool = True, *, title: str | None = None) -> Drawing:
    """One bar for each call of the model, as tall as the keys that it computes, one a token.

    Without a cache each later call reads the whole text, and the keys that an earlier call had
    computed stand in another colour.
    Raises: ValueError for numbers that are no counts.
    """
    n_prompt, n_new = checks.whole("n_prompt", n_prompt), checks.whole("n_new", n_new)
    checks.kind("cached", cached, bool, "True or False")
    for name, value in (("n_prompt", n_prompt), ("n_new", n_new)):
        if value > _LARGEST:
            raise ValueError(f"{name} is {checks.shown(value)}; expected at most {_LARGEST:,}.")
    again = 0 if cached else (n_new - 1) * n_prompt + (n_new - 1) * (n_new - 2) // 2
    total = n_prompt + n_new - 1 + again
    sheet = Sheet(title or _title(n_prompt, n_new, cached, total, again), _words(
        n_prompt, n_new, cached, total, again))  # fmt: skip
    base = sheet.top + 48 + _TALL
    calls = range(1, n_new)
    shown = [*calls] if len(calls) <= _MOST else [*calls[: _MOST - 2], None, calls[-1]]
    pitch = min(110.0, (WIDTH - MARGIN - _LEFT - _PREFILL) / max(len(shown), 1))
    most = n_prompt if cached else n_prompt + n_new - 1
    places = [(_LEFT, _PREFILL, 0)] + [
        (_LEFT + _PREFILL + pitch * i, pitch, call) for i, call in enumerate(shown)
    ]
    for x, wide, call in places:
        if call is None:
            sheet.text(x + wide / 2, base - 8, "…", anchor="middle", size=18)
        else:
            old = 0 if cached or not call else n_prompt + call - 1
            _bar(sheet, x, wide, base, n_prompt if not call else 1, old, _TALL / most)
            sheet.text(x + wide / 2, base + 20, f"{call + 1:,}", anchor="middle", size=12)
    right = places[-1][0] + places[-1][1]
    _axis(sheet, base, right)
    _brackets(sheet, base + 34, right, cached, n_new)
    return sheet.done(_legend(sheet, base + 92, cached))


def _title(n_prompt: int, n_new: int, cached: bool, total: int, again: int) -> str:
    if n_new == 1:
        read = counted(n_prompt, "prompt token")
        return f"One new token: prefill reads {read}, and that is all"
    if cached:
        keys = "one key" if n_prompt == 1 else f"{n_prompt:,} keys"
        return (f"Prefill computes the {keys} of the prompt in one call; with a cache "
                "each later call computes a single key")  # fmt: skip
    return (
        f"Without a cache each call reads the whole text: of {total:,} keys, {again:,} had been "
        "computed before"
    )


def _words(n_prompt: int, n_new: int, cached: bool, total: int, again: int) -> str:
    how = "With" if cached else "Without"
    later = "computes one key" if cached else "reads the whole text, one token longer each time"
    each = "The one later call" if n_new == 2 else f"Each of {n_new - 1:,} later calls"
    more = "" if n_new == 1 else (
        f" {each} {later} and gives one token more."
    )  # fmt: skip
    return (
        f"{how} a cache, {counted(n_prompt, 'prompt token')} and "
        f"{counted(n_new, 'new one')}: the first call, prefill, computes "
        f"{counted(n_prompt, 'key')} and gives token 1.{more} In all {counted(total, 'key')}, "
        f"{again:,} of them computed again."
    )


def _bar(
    sheet: Sheet, x: float, wide: float, base: float, new: int, again: int, unit: float
) -> None:
    """Keys computed again below, striped; those computed for the first time on top of them."""
    left, room = x + 6, wide - 12
    low, high = again * unit, max(new * unit, 3)
    if again:
        sheet.box(left, base - low, room, low, "query", tint=0.5, edge=1, round_=0)
        stripes = (base - step for step in range(6, int(low) - 2, 8))
        sheet.level(stripes, left, left + room, width=1.2)
    sheet.box(left, base - low - high, room, high, "key", tint=0.65, edge=1, round_=0)
    total = f"{new + again:,}"
    if width_of(total, 12) > wide:
        total = f"{(new + again) / 1e6:.1f}M"
    sheet.text(x + wide / 2, base - low - high - 7, total, anchor="middle", size=12)


def _axis(sheet: Sheet, base: float, right: float) -> None:
    """The ground line, with time running to the right, and what the numbers are."""
    sheet.arrow((_LEFT, base), (min(right + 14, WIDTH - 6), base), role="ink", width=1.5)
    sheet.text(_LEFT - 10, base - 8, "keys", anchor="end", size=12.5, role="soft")
    sheet.text(_LEFT - 10, base + 20, "gives token", anchor="end", size=12.5, role="soft")


def _brackets(sheet: Sheet, y: float, right: float, cached: bool, n_new: int) -> None:
    """Which calls belong to which phase, below them."""
    middle = _LEFT + _PREFILL
    _bracket(sheet, _LEFT + 4, middle - 4, y)
    sheet.text(_LEFT + 4, y + 20, "prefill", size=13, bold=True)
    sheet.text(_LEFT - 10, y + 38, "measured as", anchor="end", size=12.5, role="soft")
    sheet.text(_LEFT + 4, y + 38, "TTFT", size=12.5, role="soft")
    if n_new > 1:
        _bracket(sheet, middle + 4, right - 4, y)
        name = "decode: one call for each token" if cached else "the whole text again, each time"
        sheet.text(middle + 4, y + 20, name, size=13, bold=True)
        sheet.text(middle + 4, y + 38, "TPOT", size=12.5, role="soft")


def _bracket(sheet: Sheet, left: float, right: float, y: float) -> None:
    sheet.line((left, y - 5), (left, y), (right, y), (right, y - 5), width=1.5)


def _legend(sheet: Sheet, y: float, cached: bool) -> float:
    x = float(MARGIN)
    kinds = [("key", 0.65, "keys computed for the first time")]
    if not cached:
        kinds.append(("query", 0.5, "keys computed again (striped)"))
    for role, tint, words in kinds:
        sheet.box(x, y, 16, 16, role, tint=tint, edge=1, round_=0)
        x += 24 + sheet.text(x + 24, y + 13, words, size=12.5) + 26
    words = (
        "TTFT is the time to the first token, TPOT the time per token after it. Calls stand in "
        "their order; how long each of them takes is for a clock to say."
    )
    return sheet.lines(MARGIN, y + 36, words, WIDTH - 2 * MARGIN, size=12.5, role="soft")
