"""3.5: rope, and that a score knows nothing but the distance."""

import torch

from kvlab.course.author import Exercise, Near

Q = Exercise(
    "3.5",
    "Turn by position",
    "turn",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
To the section "Where am I? Two arrows". Turn each head's vectors by the position of their token, as checkpoints in Hugging
Face's layout want it. A vector of D numbers is D/2 pairs, each an arrow in a plane: channel i and channel i + D/2, for i from 0 to
D/2 - 1. At position p pair i turns counterclockwise, from its first channel towards its second, by p · theta^(-2i/D) radians. An
arrow (a, b) turned by an angle t is (a cos t - b sin t, a sin t + b cos t).

`x_BHSD` holds queries or keys, `pos_S` the position of each of the S tokens, whole numbers in any order; `theta` is a number. Return the
turned vectors in the dtype they came in, and let the angles be as exact as that: the cases are in float64, the pocket model is in float32.

D = 4, theta = 100: pair 0 turns by 1 radian a position, pair 1 by 0.1. At position 2 the vector `[1, 1, 0, 0]` becomes
`[cos 2, cos 0.2, sin 2, sin 0.2]` = `[-0.416, 0.980, 0.909, 0.199]`. At position 0 nothing changes. About six lines.

In chapter 3 you can let your function turn the pocket model's queries and keys: `own_rope(model, lambda x, pos: turn(x, pos, 10000.0))`.
""",
    hints=(
        "How many angles does one token need? Which two channels does each of them turn?",
        "Angles of shape (S, D/2): pos_S[:, None] times theta ** (-2 * i / D), i = 0 ... D/2 - 1. Let a be the first half of "
        "the channels and b the second; put the two turned halves together with torch.cat.",
        "i = torch.arange(D // 2, dtype=x_BHSD.dtype); angle = pos_S[:, None] * theta ** (-2 * i / D); a, b = x_BHSD.chunk(2, "
        "dim=-1); c, s = angle.cos(), angle.sin(); return torch.cat((a * c - b * s, a * s + b * c), dim=-1)",
    ),
    n_cases=8,
)
GIVEN = ("x_BHSD", "pos_S", "theta")


@Q.case
def case(rng):
    """Two pairs or more; positions out of order, with gaps, and now and then far out."""
    n_rows, n_heads, n_new = rng.sample([2, 3, 4, 5], 3)
    width = rng.choice([4, 6, 8])
    far = rng.choice([0, 0, 1000])
    positions = [far + p for p in rng.sample(range(1, 40), n_new - 1)]
    positions.insert(rng.randrange(n_new), rng.choice([0, 3000]))
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    shape = (n_rows, n_heads, n_new, width)
    return {
        "x_BHSD": torch.randn(shape, generator=torch_rng, dtype=torch.float64),
        "pos_S": torch.tensor(positions),
        "theta": float(rng.choice([100, 10_000, 500_000])),
        "_shift": rng.randint(1, 500),
        "_seed": rng.randrange(2**31),
    }


@Q.solution
def turn(x_BHSD, pos_S, theta):
    """Turn each pair (channel i, channel i + D/2) by the position's angle: x_BHSD again."""
    ### BEGIN SOLUTION
    width = x_BHSD.shape[-1]
    i = torch.arange(width // 2, dtype=x_BHSD.dtype)
    angle_SD = pos_S[:, None] * theta ** (-2 * i / width)
    cos_SD, sin_SD = angle_SD.cos(), angle_SD.sin()
    a_BHSD, b_BHSD = x_BHSD.chunk(2, dim=-1)
    first_BHSD = a_BHSD * cos_SD - b_BHSD * sin_SD
    second_BHSD = a_BHSD * sin_SD + b_BHSD * cos_SD
    return torch.cat((first_BHSD, second_BHSD), dim=-1)
    ### END SOLUTION


@Q.right
def by_complex_numbers(x_BHSD, pos_S, theta):
    half, x64_BHSD = x_BHSD.shape[-1] // 2, x_BHSD.double()
    arrows = torch.complex(x64_BHSD[..., :half].contiguous(), x64_BHSD[..., half:].contiguous())
    speed = torch.tensor([theta ** (-k / half) for k in range(half)], dtype=torch.float64)
    angle = pos_S.double()[:, None] * speed
    turned = arrows * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1).to(x_BHSD.dtype)


@Q.also_right
def pair_by_pair(x, pos, theta):
    out, half = x.clone(), x.shape[-1] // 2
    for s, p in enumerate(pos.tolist()):
        for i in range(half):
            t = torch.tensor(p * theta ** (-i / half), dtype=torch.float64)
            m = torch.stack([torch.stack([t.cos(), -t.sin()]), torch.stack([t.sin(), t.cos()])])
            out[:, :, s, [i, i + half]] = x[:, :, s, [i, i + half]] @ m.T.to(x.dtype)
    return out


Q.agrees("pair by pair", *GIVEN, gives="x_BHSD")


@Q.law("one pair, one token, and position 0")
def _(answer, case):
    x_BHSD, pos_S, theta = (case[name] for name in GIVEN)
    return {
        "one pair, x_BHSD": answer(x_BHSD[..., :2], pos_S, theta),
        "one token, x_BHSD": answer(x_BHSD[:1, :1, -1:], pos_S[-1:], theta),
        "position 0, x_BHSD": Near(x_BHSD).of(answer(x_BHSD, torch.zeros_like(pos_S), theta)),
    }


@Q.law("only the distance counts: a text that moves keeps every score", atol=1e-8)
def _(answer, case):
    x_BHSD, pos_S, theta = (case[name] for name in GIVEN)
    torch_rng = torch.Generator().manual_seed(case["_seed"])
    other_BHSD = torch.randn(x_BHSD.shape, generator=torch_rng, dtype=torch.float64)
    scores = []
    for at_S in (pos_S, pos_S + case["_shift"]):
        q_BHSD, k_BHSD = answer(x_BHSD, at_S, theta), answer(other_BHSD, at_S, theta)
        scores.append(q_BHSD @ k_BHSD.transpose(-1, -2))
    return {"scores_BHST": Near(scores[0], rtol=1e-8, atol=1e-8).of(scores[1])}


@Q.law("float32 comes back as float32", rtol=1e-3, atol=1e-3)
def _(answer, case):
    """At positions so small that float32 angles are good enough."""
    pos_S = torch.arange(len(case["pos_S"]))
    x_BHSD = answer(case["x_BHSD"].float(), pos_S, case["theta"])
    return {"the dtype": str(x_BHSD.dtype), "x_BHSD": x_BHSD}


@Q.law("no arrow becomes longer or shorter")
def _(answer, case):
    x_BHSD = case["x_BHSD"]
    turned_BHSD = answer(x_BHSD, case["pos_S"], case["theta"])
    return {"lengths_BHS": Near(x_BHSD.norm(dim=-1)).of(turned_BHSD.norm(dim=-1))}


def turned(
    x, pos, theta,
    *,
    power=lambda i, width: -2 * i / width,
    halves=lambda x: x.chunk(2, dim=-1),
    join=lambda a, b: torch.cat((a, b), dim=-1),
    at=lambda pos: pos,
    sense=1,
    unit=1.0,
):  # fmt: skip
    """The solution in steps, each of which can go wrong."""
    i = torch.arange(x.shape[-1] // 2, dtype=x.dtype)
    angle = sense * unit * at(pos)[:, None] * theta ** power(i, x.shape[-1])
    a, b = halves(x)
    cos, sin = angle.cos(), angle.sin()
    return join(a * cos - b * sin, a * sin + b * cos)


def _in_single(x, pos, theta):
    i = torch.arange(x.shape[-1] // 2, dtype=torch.float32)
    angle = pos.float()[:, None] * theta ** (-2 * i / x.shape[-1])
    a, b = x.chunk(2, dim=-1)
    cos, sin = angle.cos().double(), angle.sin().double()
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


Q.mistakes(
    turned,
    {
        "neighbouring channels are paired, as in the paper. Here channel i goes with channel i + D/2.": {
            "halves": lambda x: (x[..., ::2], x[..., 1::2]),
            "join": lambda a, b: torch.stack((a, b), -1).flatten(-2),
        },
        "neighbouring channels are paired and come back half a head apart. Here channel i goes with channel i + D/2, before and after.": {
            "halves": lambda x: (x[..., ::2], x[..., 1::2])
        },
        "all pairs turn equally fast: pair i turns by theta^(-2i/D) radians a position.": {
            "power": lambda i, width: 0 * i
        },
        "the power is -i/D: there are D/2 pairs, so it is -2i/D.": {"power": lambda i, width: -i / width},
        "the power is positive, so later pairs turn faster; they turn slower: theta^(-2i/D).": {
            "power": lambda i, width: 2 * i / width
        },
        "the power begins at pair 1: pair 0 turns by one radian a position.": {
            "power": lambda i, width: -2 * (i + 1) / width
        },
        "the arrows turn clockwise: the sine's sign is the wrong way round. Scores among your own vectors stay right, and no checkpoint's would.": {
            "sense": -1
        },
        "tokens are counted instead of read: use `pos_S`, not arange(S).": {
            "at": lambda pos: torch.arange(len(pos))
        },
        "positions begin at 1: at position 0 nothing turns.": {"at": lambda pos: pos + 1},
        "the angle is taken as degrees: it is in radians.": {"unit": torch.pi / 180},
        "the angle is a share of a whole turn: it is in radians.": {"unit": 2 * torch.pi},
        "the two halves come back in the opposite order.": {"join": lambda a, b: torch.cat((b, a), dim=-1)},
        "the result is float64 whatever came: make i in the dtype of x, or bring the result back to it.": lambda x, pos, theta: (
            turned(x.double(), pos, theta)
        ),
        "angles are computed in float32: at position 3,000 their last digits are lost. Make them in the dtype of x.": _in_single,
    },
)  # fmt: skip
