"""Chapter 5: wrong answers that people really give, and a second right answer to each exercise.

A wrong answer must be rejected, and is named if met. A second right answer is source text, as
`kvlab grade` reads a notebook's cells, in another style than the solution's.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

import torch

# 5.1

SECOND_PREFILL = """
import torch

def prefill(tokens, embed, w_q, w_k, w_v, w_o):
    x, depth, d = embed.index_select(0, tokens), w_k.size(0), w_k.size(1)
    seen = torch.ones(len(tokens), len(tokens)).tril().bool()
    kept = torch.empty(2, depth, len(tokens), d, dtype=torch.float64)
    for i in range(depth):
        kept[0, i] = torch.einsum("sc,dc->sd", x, w_k[i])
        kept[1, i] = torch.einsum("sc,dc->sd", x, w_v[i])
        q = torch.einsum("sc,dc->sd", x, w_q[i])
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q[None], kept[0, i][None], kept[1, i][None], attn_mask=seen)[0]
        x = torch.einsum("sd,cd->sc", mixed, w_o[i]).add(x)
    return [torch.einsum("c,vc->v", x[-1], embed).max(0).indices.item(), *kept]
"""


def _prefill(
    tokens_S, embed_VC, w_q, w_k, w_v, w_o, *, row=-1, hide=None, hidden=float("-inf"), root=None,
    residual=True, first_input=False, over=-1,
):  # fmt: skip
    """Prefill; each wrong answer below changes one thing. Queries come as a fourth result."""
    n, width = len(tokens_S), w_k.shape[1]
    embedded_SC = x_SC = embed_VC[tokens_S]
    hide_SS = (hide or (lambda ones: ones.triu(1)))(torch.ones(n, n)).bool()
    root = width**0.5 if root is None else root
    queries, keys, values = [], [], []
    for layer in range(len(w_k)):
        in_SC = embedded_SC if first_input else x_SC
        q, k, v = (in_SC @ w[layer].T for w in (w_q, w_k, w_v))
        score_SS = (q @ k.T / root).masked_fill(hide_SS, hidden)
        out_SC = score_SS.softmax(over) @ v @ w_o[layer].T
        x_SC = x_SC + out_SC if residual else out_SC
        queries.append(q), keys.append(k), values.append(v)
    token = int((embed_VC @ x_SC[row]).argmax())
    return token, torch.stack(keys), torch.stack(values), torch.stack(queries)


def first_row(*given):
    return _prefill(*given, row=0)[:3]


def keeps_queries(*given):
    token, _, v, q = _prefill(*given)
    return token, q, v


def forgets_last(*given):
    token, k, v, _ = _prefill(*given)
    return token, k[:, :-1], v[:, :-1]


def stores_first_new(tokens_S, *weights):
    token = _prefill(tokens_S, *weights)[0]
    longer_S = torch.cat((tokens_S, torch.tensor([token])))
    return token, *_prefill(longer_S, *weights)[1:3]


def no_mask(*given):
    return _prefill(*given, hide=torch.zeros_like)[:3]


def masked_to_zero(*given):
    return _prefill(*given, hidden=0.0)[:3]


def masks_itself(*given):
    return _prefill(*given, hide=lambda ones: ones.triu())[:3]


def sees_later_only(*given):
    return _prefill(*given, hide=lambda ones: ones.tril(-1))[:3]


def softmax_over_queries(*given):
    return _prefill(*given, over=0)[:3]


def wrong_root(tokens_S, embed_VC, *weights):
    return _prefill(tokens_S, embed_VC, *weights, root=embed_VC.shape[1] ** 0.5)[:3]


def swapped(*given):
    token, k, v, _ = _prefill(*given)
    return token, v, k


def last_layer_for_all(*given):
    token, k, v, _ = _prefill(*given)
    return token, k[-1:].expand(k.shape), v[-1:].expand(v.shape)


def all_from_embedding(*given):
    return _prefill(*given, first_input=True)[:3]


def not_scaled(*given):
    return _prefill(*given, root=1.0)[:3]


def no_residual(*given):
    return _prefill(*given, residual=False)[:3]


# 5.2

SECOND_TRACE = """
def trace(n_prompt, would_write, n_new, eos):
    fed, lengths, held, waiting = [], [], 0, n_prompt
    for written, token in enumerate(would_write, start=1):
        held += waiting
        fed.append(waiting)
        lengths.append(held)
        if token == eos or written == n_new:
            break
        waiting = 1
    return [fed, lengths]
"""


def _written(would_write, n_new, eos):
    """How many tokens are written."""
    said = would_write[:n_new]
    return said.index(eos) + 1 if eos in said else len(said)


def _trace(n_prompt, n):
    return [n_prompt] + [1] * (n - 1), [n_prompt + i for i in range(n)]


def first_token_counted(n_prompt, would_write, n_new, eos):
    fed, lengths = _trace(n_prompt, _written(would_write, n_new, eos))
    return fed, [n + 1 for n in lengths]


def last_token_stored(n_prompt, would_write, n_new, eos):
    return _trace(n_prompt, _written(would_write, n_new, eos) + 1)


def ignores_eos(n_prompt, would_write, n_new, eos):
    return _trace(n_prompt, n_new)


def zero_is_no_eos(n_prompt, would_write, n_new, eos):
    return _trace(n_prompt, _written(would_write, n_new, eos or None))


def searches_beyond_limit(n_prompt, would_write, n_new, eos):
    return _trace(n_prompt, _written(would_write, n_new if eos is None else None, eos))


def feeds_eos(n_prompt, would_write, n_new, eos):
    n = _written(would_write, n_new, eos)
    return _trace(n_prompt, n + (eos in would_write[:n_new]))


def swallows_eos(n_prompt, would_write, n_new, eos):
    n = _written(would_write, n_new, eos)
    return _trace(n_prompt, n - (eos in would_write[:n_new]))


def reads_all_again(n_prompt, would_write, n_new, eos):
    _, lengths = _trace(n_prompt, _written(would_write, n_new, eos))
    return lengths, lengths


def prompt_one_by_one(n_prompt, would_write, n_new, eos):
    n = n_prompt + _written(would_write, n_new, eos) - 1
    return [1] * n, list(range(1, n + 1))


def starts_again(n_prompt, would_write, n_new, eos):
    fed, _ = _trace(n_prompt, _written(would_write, n_new, eos))
    return fed, [n_prompt, *range(1, len(fed))]


# 5.3

SECOND_WORK = """
def count_work(n_prompt, n_new, sizes):
    pair = 4 * sizes["n_layers"] * sizes["n_heads"] * sizes["head_dim"]
    found = {}
    for way, calls in {
        "naive": [(n_prompt + i, n_prompt + i) for i in range(n_new)],
        "cached": [(n_prompt, n_prompt)] + [(1, n_prompt + i) for i in range(1, n_new)],
    }.items():
        found[way + "_rows"] = sum(s for s, _ in calls)
        found[way + "_flops"] = sum(
            2 * s * sizes["matrices"] + 2 * sizes["head"] + pair * s * t for s, t in calls)
    return found
"""


def _work(
    n_prompt, n_new, sizes, *, grows=1, more=0, heads=None, pair=4, each=2, slots=None, layers=None,
    pairs=None, n_heads=None,
):  # fmt: skip
    """Rows and FLOP of both ways; each wrong answer below changes one thing."""
    layers = sizes["n_layers"] if layers is None else layers
    per_pair = pair * (n_heads or sizes["n_heads"]) * sizes["head_dim"] * layers
    pairs = pairs or (lambda s, t: s * t)

    def flops(s, t):
        n_logits = heads(s) if heads else 1
        return each * (s * sizes["matrices"] + n_logits * sizes["head"]) + per_pair * pairs(s, t)

    texts = [n_prompt + grows * i for i in range(n_new)]
    if more:
        texts = [t + 1 for t in texts]
    slots = slots or (lambda i: n_prompt + i)
    steps = [(1, slots(i)) for i in range(1, n_new + more)]
    return {
        "naive_rows": sum(texts),
        "cached_rows": n_prompt + len(steps),
        "naive_flops": sum(flops(t, t) for t in texts),
        "cached_flops": flops(n_prompt, n_prompt) + sum(flops(*step) for step in steps),
    }


def rows_do_not_grow(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, grows=0)


def last_token_read(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, more=1)


def head_for_every_row(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, heads=lambda s: s)


def scores_only(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, pair=2)


def decode_sees_itself_only(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, slots=lambda i: 1)


def decode_misses_itself(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, slots=lambda i: n_prompt + i - 1)


def multiplications_only(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, pair=2, each=1)


def one_layer_of_attention(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, layers=1)


def each_token_once(n_prompt, n_new, sizes):
    return {**_work(n_prompt, n_new, sizes), "naive_rows": n_prompt + n_new}


def rows_of_all_layers(n_prompt, n_new, sizes):
    right = _work(n_prompt, n_new, sizes)
    rows = {name: sizes["n_layers"] * right[name] for name in ("naive_rows", "cached_rows")}
    return {**right, **rows}


def divides_with_slash(n_prompt, n_new, sizes):
    rows = n_new * n_prompt + n_new * (n_new - 1) / 2
    return {**_work(n_prompt, n_new, sizes), "naive_rows": rows}


def triangle(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, pairs=lambda s, t: s * t - s * (s - 1) // 2)


def matrices_per_layer(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, {**sizes, "matrices": sizes["n_layers"] * sizes["matrices"]})


def head_left_out(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, {**sizes, "head": 0})


def one_head(n_prompt, n_new, sizes):
    return _work(n_prompt, n_new, sizes, n_heads=1)


# 5.4

SECOND_STOPWATCH = """
def stopwatch(device, slow, fast, n):
    def seconds(work):
        device.synchronize()
        before = device.now()
        device.run(work)
        device.synchronize()
        return device.now() - before

    def middle(numbers):
        half = len(numbers) // 2
        ordered = sorted(numbers)
        return ordered[half] if len(numbers) % 2 else (ordered[half - 1] + ordered[half]) / 2

    pairs = []
    for i in range(-1, n):
        first = seconds((slow, fast)[i % 2])
        second = seconds((fast, slow)[i % 2])
        pairs.append((second, first) if i % 2 else (first, second))
    pairs = pairs[1:]
    return [middle([a for a, _ in pairs]), middle([b for _, b in pairs]),
            middle([a / b for a, b in pairs])]
"""


def _reading(device, work, before=True, after=True):
    if before:
        device.synchronize()
    start = device.now()
    device.run(work)
    if after:
        device.synchronize()
    return device.now() - start


def _summary(slow, fast, middle=statistics.median):
    return middle(slow), middle(fast), middle(a / b for a, b in zip(slow, fast, strict=True))


def _stopwatch(device, slow, fast, n, *, warm=None, middle=statistics.median, **how):
    """A stopwatch; each wrong answer below changes one thing."""
    for work in (slow, fast) if warm is None else warm(slow, fast):
        device.run(work)
    pairs = [(_reading(device, slow, **how), _reading(device, fast, **how)) for _ in range(n)]
    return _summary(*zip(*pairs, strict=True), middle)


def clock_too_early(device, slow, fast, n):
    return _stopwatch(device, slow, fast, n, before=False, after=False)


def waits_before_only(device, slow, fast, n):
    return _stopwatch(device, slow, fast, n, after=False)


def waits_behind_only(device, slow, fast, n):
    return _stopwatch(device, slow, fast, n, before=False)


def own_clock(device, slow, fast, n):
    seconds = {slow: [], fast: []}
    for _ in range(n):
        for work in (slow, fast):
            start = time.perf_counter()
            device.run(work)
            device.synchronize()
            seconds[work].append(time.perf_counter() - start)
    return _summary(seconds[slow], seconds[fast])


def ratio_of_medians(device, slow, fast, n):
    slow_seconds, fast_seconds, _ = _stopwatch(device, slow, fast, n)
    return slow_seconds, fast_seconds, slow_seconds / fast_seconds


def cold_counts(device, slow, fast, n):
    return _stopwatch(device, slow, fast, n, warm=lambda slow, fast: ())


def warms_one(device, slow, fast, n):
    return _stopwatch(device, slow, fast, n, warm=lambda slow, fast: (slow,))


def mean(device, slow, fast, n):
    return _stopwatch(device, slow, fast, n, middle=statistics.fmean)


def fastest(device, slow, fast, n):
    slow_seconds, fast_seconds, _ = _stopwatch(device, slow, fast, n, middle=min)
    return slow_seconds, fast_seconds, slow_seconds / fast_seconds


def one_reading_for_all(device, slow, fast, n):
    found = []
    for work in (slow, fast):
        device.run(work)
        device.synchronize()
        start = device.now()
        for _ in range(n):
            device.run(work)
        device.synchronize()
        found.append((device.now() - start) / n)
    return *found, found[0] / found[1]


def blocks(device, slow, fast, n):
    found = []
    for work in (slow, fast):
        device.run(work)
        found.append([_reading(device, work) for _ in range(n)])
    return _summary(*found)


def upside_down(device, slow, fast, n):
    slow_seconds, fast_seconds, ratio = _stopwatch(device, slow, fast, n)
    return slow_seconds, fast_seconds, 1 / ratio


# 5.5

SECOND_LATENCIES = """
import collections

def latencies(events):
    times = collections.defaultdict(lambda: collections.defaultdict(list))
    for at, who, what in events:
        times[who][what].append(at)
    table = {}
    for who, its in times.items():
        came = its["token"]
        table[who] = [
            min(came) - its["sent"][0] if came else None,
            (max(came) - min(came)) / (len(came) - 1) if len(came) > 1 else None,
        ]
    return table
"""


def _latencies(events, *, tpot=None, begin="sent", single=None, skip_waiting=False):
    """The table; each wrong answer below changes one thing."""
    tpot = tpot or (lambda sent, came: (came[-1] - came[0]) / (len(came) - 1))
    starts, tokens = {}, {}
    for at, who, what in events:
        tokens.setdefault(who, [])
        if what == begin:
            starts[who] = at
        elif what == "token":
            tokens[who].append(at)
    table = {}
    for who, came in tokens.items():
        if came:
            pace = tpot(starts[who], came) if len(came) > 1 else single
            table[who] = [came[0] - starts[who], pace]
        elif not skip_waiting:
            table[who] = [None, None]
    return table


def divides_by_n(events):
    return _latencies(events, tpot=lambda sent, came: (came[-1] - came[0]) / len(came))


def first_token_in_tpot(events):
    return _latencies(events, tpot=lambda sent, came: (came[-1] - sent) / len(came))


def absolute(events):
    first = {}
    for at, who, what in events:
        if what == "token":
            first.setdefault(who, at)
    return {who: [first.get(who), tpot] for who, (_, tpot) in _latencies(events).items()}


def from_started(events):
    return _latencies(events, begin="started")


def from_start_of_log(events):
    table = _latencies(events)
    first = {}
    for at, who, what in events:
        if what == "token":
            first.setdefault(who, at)
    begin = events[0][0]
    return {
        who: [first[who] - begin if who in first else None, tpot]
        for who, (_, tpot) in table.items()
    }


def one_stream(events):
    return _across(events, first_too=True)


def from_any_token(events):
    return _across(events, first_too=False)


def _across(events, *, first_too):
    """Gaps from one token of the log to the next, with or without those that begin an answer."""
    table, last, gaps = _latencies(events), None, {}
    for at, who, what in events:
        if what == "token":
            its = gaps.setdefault(who, [] if first_too else None)
            if its is None:
                gaps[who] = []
            elif last is not None:
                its.append(at - last)
            last = at
    return {
        who: [ttft, sum(gaps[who]) / len(gaps[who]) if gaps.get(who) else None]
        for who, (ttft, _) in table.items()
    }


def zero_for_one(events):
    return _latencies(events, single=0.0)


def forgets_the_waiting(events):
    return _latencies(events, skip_waiting=True)


def median_gap(events):
    def middle(sent, came):
        return statistics.median(b - a for a, b in pairwise(came))

    return _latencies(events, tpot=middle)
