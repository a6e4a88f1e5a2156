"""12.4: rows that keep some of their numbers, and a bitmap of which.

T rows, D numbers in each, N of them kept, X bytes of a bitmap.

Long because a packed row goes wrong in many small ways, each with a name.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, Near
from kvlab.course.ch12._normal import normal

TYPES = (torch.float32, torch.float64)

Q = Exercise(
    "12.4",
    "Packed rows",
    "PackedRows",
    points=5,
    minutes=30,
    difficulty=3,
    statement="""
Hold rows that keep exactly `n` of their D numbers, those with the largest absolute values.

- `values()` gives them in the row's order, shape (T, n).
- `marks()` gives a bitmap, `torch.uint8` of shape (T, D / 8): number j of a row is bit `j % 8` of byte `j // 8`, bit 0 being the lowest (worth 1).
- `unpack(values_TN, marks_TX)` gives back the rows of which these are the values and marks, in the values' type and with zeros where a number was dropped. They may be those of other rows, of more or fewer rows and with another n, but as wide as yours: the dense rows are gone.
- `nbytes()` is what values and marks of all rows take; a number takes as many bytes as those of `x_TD` do (`x_TD.itemsize`).
- `most_kept()` is the greatest N for which a row of this width and type, marks included, is smaller than a dense one.

Example: `[0.1, -3, 2, 0, 0, 0, 0, 0.5]` with n = 2 has the values `[-3, 2]` and the marks `[6]`, since 6 is 2 + 4. D is a multiple of 8, and no
two numbers of a row tie. Roughly 20 lines.
""",
    hints=(
        "Three things are to be known of a row: which numbers stay, what they are, and where. "
        "Which of them must be in the row's order, so that unpacking can find its way?",
        "kept = x_TD.abs().topk(n).indices.sort().values gives the places in order. Number j is "
        "bit j % 8 of byte j // 8: build (T, D / 8, 8) booleans, and add them up with weights 1, "
        "2, 4, ... 128. To unpack, take the bits apart the same way; the cumulative sum of a "
        "row's bits says which value belongs there.",
        "bits = zeros(T, D).scatter_(-1, kept, 1).view(T, -1, 8); marks = (bits * 2 ** "
        "torch.arange(8)).sum(-1).to(torch.uint8). unpack: values.new_zeros(T, D).scatter_(-1, "
        "places, values), places from the marks. nbytes: T * (n * x_TD.itemsize + D // 8). "
        "most_kept: the greatest N with N * itemsize + D // 8 < D * itemsize.",
    ),
)


@Q.case
def case(rng):
    width, n_tokens = rng.choice([32, 64]), rng.randint(2, 6)
    return {
        "x_TD": normal(rng.randrange(2**31), n_tokens, width, dtype=rng.choice(TYPES)),
        "n": rng.randint(3, width // 2 - 1),
        "_other": rng.randrange(2**31),
    }


@Q.solution
class PackedRows:
    """Rows that keep exactly n of their numbers, and a bitmap of which."""

    def __init__(self, x_TD, n):
        ### BEGIN SOLUTION
        self.width = x_TD.shape[1]
        kept_TN = x_TD.abs().topk(n, dim=-1).indices.sort(-1).values
        self.values_TN = x_TD.gather(-1, kept_TN)
        bits_TD = torch.zeros(x_TD.shape, dtype=torch.uint8).scatter_(-1, kept_TN, 1)
        worth = 2 ** torch.arange(8)
        self.marks_TX = (bits_TD.unflatten(-1, (-1, 8)) * worth).sum(-1).to(torch.uint8)
        ### END SOLUTION

    def values(self):
        """The kept numbers in the rows' order: values_TN."""
        ### BEGIN SOLUTION
        return self.values_TN
        ### END SOLUTION

    def marks(self):
        """The bitmap: marks_TX, one bit per number."""
        ### BEGIN SOLUTION
        return self.marks_TX
        ### END SOLUTION

    def unpack(self, values_TN, marks_TX):
        """The rows of these values and marks, with zeros where a number was dropped: x_TD."""
        ### BEGIN SOLUTION
        bits_TD = (marks_TX[..., None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)
        places_TN = bits_TD.bool().nonzero()[:, 1].view(values_TN.shape)
        dense_TD = values_TN.new_zeros(len(values_TN), self.width)
        return dense_TD.scatter_(-1, places_TN, values_TN)
        ### END SOLUTION

    def nbytes(self):
        """Bytes of all values and marks."""
        ### BEGIN SOLUTION
        return self.values_TN.nbytes + self.marks_TX.nbytes
        ### END SOLUTION

    def most_kept(self):
        """The greatest N with which a row is smaller than a dense one."""
        ### BEGIN SOLUTION
        size = self.values_TN.itemsize
        fitting = [n for n in range(self.width) if n * size + self.width // 8 < self.width * size]
        return fitting[-1]
        ### END SOLUTION


@Q.right
@Q.also_right
class RowByRow:
    """Each row's marks are one long number."""

    def __init__(self, x_TD, n):
        self.width, self.size, self.rows = x_TD.shape[1], x_TD.element_size(), []
        for row in x_TD:
            ranked = sorted(range(self.width), key=lambda j: -abs(row[j].item()))
            places = sorted(ranked[:n])
            number = sum(1 << j for j in places)
            self.rows.append((row[places], number.to_bytes(self.width // 8, "little")))

    def values(self):
        return torch.stack([values for values, _ in self.rows])

    def marks(self):
        return torch.tensor([list(marks) for _, marks in self.rows], dtype=torch.uint8)

    def unpack(self, values_TN, marks_TX):
        out = []
        for values, marks in zip(values_TN, marks_TX.tolist(), strict=True):
            number = int.from_bytes(bytes(marks), "little")
            row = torch.zeros(self.width, dtype=values.dtype)
            row[[j for j in range(self.width) if number >> j & 1]] = values
            out.append(row)
        return torch.stack(out)

    def nbytes(self):
        return sum(len(values) * self.size + len(marks) for values, marks in self.rows)

    def most_kept(self):
        n = self.width
        while n * self.size + self.width // 8 >= self.width * self.size:
            n -= 1
        return n


# --- laws ---


def _packed(answer, case):
    return answer.make(case["x_TD"], case["n"])


@Q.law("values in the row's order, marks bit by bit")
def stored(answer, case):
    packed = _packed(answer, case)
    return {"values_TN": packed.call("values"), "marks_TX": packed.call("marks")}


def _as(case, dtype):
    return {**case, "x_TD": case["x_TD"].to(dtype)}


def _unpacked(answer, case, kinds):
    """What it makes of values and marks of other rows, and the type of what comes, in both types."""
    seen, n_more = {}, len(case["x_TD"]) + 1
    for dtype in TYPES:
        mine = _as(case, dtype)
        x_TD = normal(case["_other"], n_more, case["x_TD"].shape[1], dtype=dtype)
        for whose, (other_TD, n) in kinds(mine["x_TD"], x_TD, case["n"]).items():
            rows = {"x_TD": other_TD, "n": n}
            dense_TD = _packed(answer, mine).call("unpack", *Q.of_right(stored, rows).values())
            what = f"{whose} rows unpacked, of {dtype}"
            seen[f"{what}, x_TD"] = dense_TD
            seen[f"{what}: the type"] = str(getattr(dense_TD, "dtype", type(dense_TD).__name__))
    return seen


@Q.law("unpack gives the rows of any values and marks, with zeros")
def _(answer, case):
    """Those of as many other rows tell whether the dense ones, or their places, were kept."""
    return _unpacked(
        answer, case, lambda own_TD, x_TD, n: {"own": (own_TD, n), "other": (x_TD[:-1], n)}
    )


@Q.law("unpack gives more rows and fewer, with more numbers and fewer")
def _(answer, case):
    return _unpacked(
        answer, case, lambda own_TD, x_TD, n: {"more": (x_TD, n + 1), "one": (x_TD[:1], 1)}
    )


@Q.law("packing again changes nothing")
def _(answer, case):
    """Packing what was unpacked."""
    first = _packed(answer, case)
    values_TN, marks_TX = first.call("values"), first.call("marks")
    second = answer.make(first.call("unpack", values_TN, marks_TX), case["n"])
    return {
        "packed again, values_TN": Near(values_TN).of(second.call("values")),
        "packed again, marks_TX": Near(marks_TX).of(second.call("marks")),
        "_values": values_TN,
        "_marks": marks_TX,
    }


@Q.law("two packed at a time know nothing of each other")
def _(answer, case):
    """One wider row that keeps all its numbers, packed after the first; each is asked then."""
    first = _packed(answer, case)
    wide_TD = torch.cat((case["x_TD"], case["x_TD"] * 1.5), 1)[:1]
    second = answer.make(wide_TD, wide_TD.shape[1])
    seen = {}
    for which, thing in (("first", first), ("second", second)):
        values_TN, marks_TX = thing.call("values"), thing.call("marks")
        seen |= {f"{which}, values_TN": values_TN, f"{which}, marks_TX": marks_TX}
        seen[f"{which}, nbytes"] = thing.call("nbytes")
        seen[f"{which}, unpacked, x_TD"] = thing.call("unpack", values_TN, marks_TX)
        seen[f"{which}, most_kept"] = thing.call("most_kept")
    return seen


@Q.law("bytes, marks included")
def _(answer, case):
    return {
        f"nbytes of rows of {dtype}": _packed(answer, _as(case, dtype)).call("nbytes")
        for dtype in TYPES
    }


@Q.law("how many may stay, for a row to be smaller than a dense one")
def _(answer, case):
    """In a wide row, too, where the marks are as large as several numbers."""
    seen = {}
    for width in (case["x_TD"].shape[1], 256):
        for dtype in TYPES:
            row = {"x_TD": normal(case["_other"], 1, width, dtype=dtype), "n": case["n"]}
            seen[f"most_kept of {width} of {dtype}"] = _packed(answer, row).call("most_kept")
    return seen


# --- what goes wrong: each does a thing or two of the solution another way ---


def _bits(marks_TX):
    return marks_TX[..., None] >> torch.arange(8, dtype=torch.uint8) & 1


def _reversed(marks_TX):
    return (_bits(marks_TX).flip(-1) * 2 ** torch.arange(8)).sum(-1).to(torch.uint8)


def _by_size(self):
    values_TN = self.values_TN
    return values_TN.gather(-1, values_TN.abs().argsort(-1, descending=True))


def _largest(self, x_TD, n):
    least_T1 = x_TD.topk(n).values[:, -1:]
    PackedRows.__init__(self, x_TD.where(x_TD >= least_T1, 0), n)


def _in_single_precision(self, values_TN, marks_TX):
    places_TN = _bits(marks_TX).flatten(1).nonzero()[:, 1].view(values_TN.shape)
    return torch.zeros(len(values_TN), self.width).scatter_(-1, places_TN, values_TN)


def _most(self, size, marks, less=1):
    """The most that stay, with so many bytes to a number and to a row's marks."""
    return (self.width * size - marks - less) // size


Q.mistakes(
    PackedRows,
    {
        "bits are reversed within each byte: number j is bit j % 8, counted from the low end.": {
            "marks": lambda self: _reversed(self.marks_TX)
        },
        "values are in the order of their size. The marks only say which places are filled, so "
        "values must come in the row's order.": {"values": _by_size},
        "the largest numbers stay, not the largest in absolute value: a strong negative one is "
        "lost.": {"__init__": _largest},
        "each mark takes a whole byte. A byte holds eight of them.": {
            "marks": lambda self: _bits(self.marks_TX).flatten(1)
        },
        "the marks are in a wider type: a sum of bits is int64. Turn them into torch.uint8, or "
        "each byte takes eight.": {"marks": lambda self: self.marks_TX.long()},
        "unpack gives the rows that the object was made of, whatever values and marks it gets. The "
        "dense rows are gone: values and marks are all there is.": {
            "unpack": lambda self, *_: PackedRows.unpack(self, self.values_TN, self.marks_TX)
        },
        "unpack puts the values where the object's own rows had theirs. The places are those of the "
        "marks that come with the values.": {
            "unpack": lambda self, values, marks: PackedRows.unpack(self, values, self.marks_TX)
        },
        "unpack gives another type than that of the values. Make the zeros with "
        "values.new_zeros(...).": {
            "unpack": lambda self, values, marks: PackedRows.unpack(self, values.double(), marks)
        },
        "unpack starts with torch.zeros, which is float32 whatever the values are. Make the zeros "
        "with values.new_zeros(...).": {"unpack": _in_single_precision},
        "unpack takes each byte's bits from the high end. Number j is bit j % 8, counted from the "
        "low end.": {
            "unpack": lambda self, values, marks: PackedRows.unpack(self, values, _reversed(marks))
        },
        "unpack puts the values into a row's first places and does not look at the marks.": {
            "unpack": lambda self, values, marks: torch.nn.functional.pad(
                values, (0, self.width - values.shape[1])
            )
        },
        "the marks are counted as a byte for each number. They are a bit: D / 8 bytes for a row.": {
            "nbytes": lambda self: self.values_TN.nbytes + 8 * self.marks_TX.nbytes,
            "most_kept": lambda self: _most(self, self.values_TN.itemsize, self.width),
        },
        "a number is counted as two bytes, as in the chapter's float16. Here it takes "
        "x_TD.itemsize.": {
            "nbytes": lambda self: 2 * self.values_TN.numel() + self.marks_TX.nbytes,
            "most_kept": lambda self: _most(self, 2, self.width // 8),
        },
        "nbytes counts the values alone. The marks are stored, too.": {
            "nbytes": lambda self: self.values_TN.nbytes
        },
        "nbytes is that of one row; there are T.": {
            "nbytes": lambda self: self.values_TN[0].nbytes + self.marks_TX[0].nbytes
        },
        "most_kept names a row that is just as large as a dense one. It has to be smaller.": {
            "most_kept": lambda self: _most(self, self.values_TN.itemsize, self.width // 8, less=0)
        },
        "nbytes counts the marks as D / 8 numbers. They are D / 8 bytes.": {
            "nbytes": lambda self: (
                (self.values_TN.numel() + self.marks_TX.numel()) * self.values_TN.itemsize
            )
        },
    },
)
