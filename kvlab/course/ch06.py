"""Chapter 6, "Never compute the same key twice": its exercises and how they are judged.

L layers, B rows of the batch, H query heads, G key/value heads, S new tokens, T slots, N new
tokens, D head width, C model width, V vocabulary. Cases are in float64, so that a right answer
agrees to nine digits and a wrong one cannot hide in rounding.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from kvlab.course import ch06_answers as given
from kvlab.course.answer import Answer, Lent, LocalAnswer, NotData
from kvlab.course.compare import brief
from kvlab.course.lending import LentModel, tiny_model
from kvlab.course.spec import (
    Case,
    Clock,
    Exercise,
    Law,
    Outcome,
    Wrong,
    choice,
    claims,
    named,
    paired,
    raised_by,
)
from kvlab.generation import generate_uncached
from kvlab.measure import Comparison
from kvlab.ops import apply_rope, rope_angles

# --- 6.1 a cache that never moves -------------------------------------------------------------


def _cache_case(rng: random.Random) -> Case:
    """Sizes with no two alike, and the chunks in which tokens arrive."""
    n_layers, batch, n_kv_heads, head_dim = rng.sample([2, 3, 4, 5, 6], 4)
    chunks = [rng.randint(1, 5) for _ in range(rng.randint(2, 4))]
    capacity = sum(chunks) + rng.choice([1, 2, 7])
    return {
        "n_layers": n_layers,
        "batch": batch,
        "n_kv_heads": n_kv_heads,
        "capacity": capacity,
        "head_dim": head_dim,
        "chunks": chunks,
        "_seed": rng.randrange(2**31),
    }


def _shape(case: Case) -> list[int]:
    names = ("n_layers", "batch", "n_kv_heads", "capacity", "head_dim")
    return [case[name] for name in names]


def _fresh_kv(case: Case, n: int, torch_rng: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (case["batch"], case["n_kv_heads"], n, case["head_dim"])
    return (
        torch.randn(shape, generator=torch_rng, dtype=torch.float64),
        torch.randn(shape, generator=torch_rng, dtype=torch.float64),
    )


def _rows(case: Case, salt: int = 0) -> list[list[tuple[Tensor, Tensor]]]:
    """For each chunk, each layer's keys and values."""
    torch_rng = torch.Generator().manual_seed(case["_seed"] + salt)
    return [
        [_fresh_kv(case, n, torch_rng) for _ in range(case["n_layers"])] for n in case["chunks"]
    ]


def _fill(cache, chunks) -> None:
    for chunk in chunks:
        for layer, (k, v) in enumerate(chunk):
            cache.call("append", layer, k, v)


def _read_all(cache, n_layers: int) -> Outcome:
    seen = {}
    for layer in range(n_layers):
        got = cache.call("read", layer)
        k, v = got if isinstance(got, list) and len(got) == 2 else (got, None)
        seen[f"keys of layer {layer}, k_BGTD"] = k
        seen[f"values of layer {layer}, v_BGTD"] = v
    return seen


def _concatenated(chunks) -> Outcome:
    seen = {}
    for layer in range(len(chunks[0])):
        seen[f"keys of layer {layer}, k_BGTD"] = torch.cat([c[layer][0] for c in chunks], dim=2)
        seen[f"values of layer {layer}, v_BGTD"] = torch.cat([c[layer][1] for c in chunks], dim=2)
    return seen


def _run_holds(answer: Answer, case: Case) -> Outcome:
    cache = answer.make(*_shape(case))
    _fill(cache, _rows(case))
    seen = _read_all(cache, case["n_layers"])
    kinds = {str(t.dtype) for t in seen.values() if isinstance(t, Tensor)}
    return {**seen, "the type of what read returns": sorted(kinds)}


def _expect_holds(case: Case, _outcome: Outcome) -> Outcome:
    want = _concatenated(_rows(case))
    return {**want, "the type of what read returns": ["torch.float64"]}


def _run_full(answer: Answer, case: Case) -> Outcome:
    """As many tokens as there are slots: nothing is too many."""
    cache = answer.make(*_shape(case))
    _fill(cache, _rows(_filled(case)))
    return _read_all(cache, case["n_layers"])


def _expect_full(case: Case, _outcome: Outcome) -> Outcome:
    return _concatenated(_rows(_filled(case)))


def _filled(case: Case) -> Case:
    """The same case with a last chunk that leaves no slot free."""
    return {**case, "chunks": [*case["chunks"], case["capacity"] - sum(case["chunks"])]}


def _run_partial(answer: Answer, case: Case) -> Outcome:
    """In the middle of a step, when layer 0 already has the new tokens and the others do not."""
    cache = answer.make(*_shape(case))
    chunks = _rows(case)
    _fill(cache, chunks[:-1])
    cache.call("append", 0, *chunks[-1][0])
    return _read_all(cache, case["n_layers"])


def _expect_partial(case: Case, _outcome: Outcome) -> Outcome:
    chunks = _rows(case)
    want = _concatenated(chunks[:-1])
    for name, i in (("keys of layer 0, k_BGTD", 0), ("values of layer 0, v_BGTD", 1)):
        want[name] = torch.cat([want[name], chunks[-1][0][i]], dim=2)
    return want


def _run_overflow(answer: Answer, case: Case) -> Outcome:
    """One token more than fits must raise ValueError and leave everything as it was."""
    cache = answer.make(*_shape(case))
    chunks = _rows(case)
    _fill(cache, chunks)
    torch_rng = torch.Generator().manual_seed(case["_seed"] + 9)
    too_many = case["capacity"] - sum(case["chunks"]) + 1
    raised = raised_by(cache.call, "append", 0, *_fresh_kv(case, too_many, torch_rng))
    return {"raised when one token too many came": raised, **_read_all(cache, case["n_layers"])}


def _expect_overflow(case: Case, _outcome: Outcome) -> Outcome:
    return {"raised when one token too many came": "ValueError", **_concatenated(_rows(case))}


def _run_in_place(answer: Answer, case: Case) -> Outcome:
    """A view that was read early shows what is written into the same slots after a reset."""
    cache = answer.make(*_shape(case))
    first, second = _rows(case), _rows(case, salt=1)
    _fill(cache, first[:1])
    early = [cache.hold("read", layer) for layer in range(case["n_layers"])]
    _fill(cache, first[1:])
    cache.call("reset")
    _fill(cache, second[:1])
    seen = {}
    for layer, view in enumerate(early):
        k, v = view.now()
        seen[f"layer {layer}, read before reset, looked at after it, k_BGTD"] = k
        seen[f"layer {layer}, read before reset, looked at after it, v_BGTD"] = v
    return {**seen, **_read_all(cache, case["n_layers"])}


def _expect_in_place(case: Case, _outcome: Outcome) -> Outcome:
    second = _rows(case, salt=1)[:1]
    seen = {}
    for layer, (k, v) in enumerate(second[0]):
        seen[f"layer {layer}, read before reset, looked at after it, k_BGTD"] = k
        seen[f"layer {layer}, read before reset, looked at after it, v_BGTD"] = v
    return {**seen, **_concatenated(second)}


PREALLOCATED = Exercise(
    number="6.1",
    title="A cache that never moves",
    name="KVCache",
    points=3,
    minutes=15,
    difficulty=2,
    cases=_cache_case,
    size=lambda case: case["capacity"] * case["n_layers"],
    laws=(
        Law("read gives back what was appended", _run_holds, _expect_holds),
        Law("each layer counts its own tokens", _run_partial, _expect_partial),
        Law("too many tokens raise ValueError and change nothing", _run_overflow, _expect_overflow),
        Law("the last slot can be filled", _run_full, _expect_full),
        Law("memory is taken once, and read gives views of it", _run_in_place, _expect_in_place),
    ),
    hints=(
        "How many numbers will the cache hold when it is full? You know that before the first "
        "token comes. And how many counters does a step need that goes through the layers one "
        "after another?",
        "Make one tensor for all keys, torch.zeros(n_layers, batch, n_kv_heads, capacity, "
        "head_dim, dtype=torch.float64), one like it for all values, and a list with one counter "
        "per layer.",
        "append: start = self.used[layer]; stop = start + k_BGSD.shape[2]; raise ValueError if "
        "stop > capacity; then self.k[layer, :, :, start:stop] = k_BGSD (values alike) and "
        "self.used[layer] = stop. read returns the slices [layer, :, :, :self.used[layer]].",
    ),
    second=given.SECOND_CACHE,
    wrong=(
        Wrong(given.Concatenates, "append makes a new tensor each time (torch.cat does), so the "
              "whole cache is copied for every token. Write into memory that you took once."),
        Wrong(given.LastLayerForAll, "all layers share one store, so every layer reads what the "
              "last layer wrote. Each layer has keys and values of its own."),
        Wrong(given.FirstTokenLost, "the first token is never stored: writing starts one slot too "
              "late, or reading does."),
        Wrong(given.OneCounter, "there is one counter for all layers, so it moves on once per "
              "layer and not once per token."),
        Wrong(given.ReturnsCopies, "read returns copies. A view costs nothing; a copy of the whole "
              "cache at every step costs as much as reading it."),
        Wrong(given.ResetTakesNewMemory, "reset makes new tensors. It only has to set the counters "
              "to 0: what they do not count is free."),
        Wrong(given.LastSlotRefused, "the last slot can never be filled: stop is one behind the "
              "last slot, so only stop > capacity is too many."),
        Wrong(given.CountsBeforeCheck, "the counter moves before the check, so a refused append "
              "leaves it too far on. Check first."),
        Wrong(given.SinglePrecision, "torch makes float32 unless it is told otherwise: half of the "
              "digits are lost. Ask for dtype=torch.float64."),
        Wrong(given.KeysAsValues, "keys are stored as values."),
        Wrong(given.GrowsFirstLayer, "the cache grows when it is full, and growth moves the upper "
              "layers' rows. It should refuse instead."),
        Wrong(given.HalfWrittenOverflow, "too many tokens are written as far as they fit before "
              "the error comes. Check first, then write."),
        Wrong(given.ResetForgetsCounters, "reset clears the numbers but not the counters, so old "
              "slots still count as used."),
    ),
)  # fmt: skip


# --- 6.2 cached attention ---------------------------------------------------------------------


def _attention_case(rng: random.Random) -> Case:
    batch, n_groups = rng.sample([2, 3], 2)
    width, head_dim = rng.choice([10, 14]), rng.choice([4, 6, 8])
    chunks = [rng.randint(2, 5), 1, rng.randint(2, 4), 1, 1]
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    n_heads = n_groups * 2
    return {
        "x_BSC": normal(batch, sum(chunks), width),
        "w_q": normal(n_heads * head_dim, width) * width**-0.5,
        "w_k": normal(n_groups * head_dim, width) * width**-0.5,
        "w_v": normal(n_groups * head_dim, width) * width**-0.5,
        "chunks": chunks,
        "_head_dim": head_dim,
        "_groups": n_groups,
    }


def _empty_past(case: Case) -> Tensor:
    batch = case["x_BSC"].shape[0]
    return torch.zeros(batch, case["_groups"], 0, case["_head_dim"], dtype=torch.float64)


def _call_attention(answer: Answer, case: Case, x_BSC: Tensor, k: Tensor, v: Tensor) -> Outcome:
    got = answer(x_BSC, case["w_q"], case["w_k"], case["w_v"], k, v)
    seen = named(got, "out_BHSD", "k_BGTD", "v_BGTD")
    for name, value in seen.items():
        if not isinstance(value, Tensor) or value.dim() != 4:
            raise NotData(f"your code returned {name} as {brief(value)}; expected 4 axes.")
    return seen


def _run_at_once(answer: Answer, case: Case) -> Outcome:
    past = _empty_past(case)
    return _call_attention(answer, case, case["x_BSC"], past, past)


def _run_chunked(answer: Answer, case: Case) -> Outcome:
    k = v = _empty_past(case)
    outs, start = [], 0
    for n in case["chunks"]:
        seen = _call_attention(answer, case, case["x_BSC"][:, start : start + n], k, v)
        out_BHSD, k, v = seen.values()
        outs.append(out_BHSD)
        start += n
    return {"out_BHSD": torch.cat(outs, dim=2), "k_BGTD": k, "v_BGTD": v}


def _expect_attention(case: Case, _outcome: Outcome) -> Outcome:
    """A loop over every query, which looks at its own past and nothing else."""
    x_BSC, width = case["x_BSC"], case["_head_dim"]
    batch, n_new, _ = x_BSC.shape
    cos, sin = rope_angles(torch.arange(n_new)[None], width, 10000.0, torch.float64)

    def heads(w: Tensor) -> Tensor:
        return (x_BSC @ w.T).unflatten(-1, (-1, width)).transpose(1, 2)

    q_BHSD = apply_rope(heads(case["w_q"]), cos, sin)
    k_BGTD, v_BGTD = apply_rope(heads(case["w_k"]), cos, sin), heads(case["w_v"])
    out_BHSD = torch.empty_like(q_BHSD)
    share = q_BHSD.shape[1] // k_BGTD.shape[1]
    for b in range(batch):
        for h in range(q_BHSD.shape[1]):
            k_TD, v_TD = k_BGTD[b, h // share], v_BGTD[b, h // share]
            for s in range(n_new):
                weight_T = (k_TD[: s + 1] @ q_BHSD[b, h, s] / width**0.5).softmax(0)
                out_BHSD[b, h, s] = weight_T @ v_TD[: s + 1]
    return {"out_BHSD": out_BHSD, "k_BGTD": k_BGTD, "v_BGTD": v_BGTD}


def _run_poisoned(answer: Answer, case: Case) -> Outcome:
    """One step with a past that is not what the text would give: it must be used as it is."""
    x_BSC, n_past = case["x_BSC"], 3
    torch_rng = torch.Generator().manual_seed(n_past)
    shape = (x_BSC.shape[0], case["_groups"], n_past, case["_head_dim"])
    k = torch.randn(shape, generator=torch_rng, dtype=torch.float64)
    v = torch.randn(shape, generator=torch_rng, dtype=torch.float64)
    out, k2, v2 = _call_attention(answer, case, x_BSC[:, :1], k, v).values()
    return {"out_BHSD": out, "past keys, k_BGTD": k2[:, :, :n_past],
            "past values, v_BGTD": v2[:, :, :n_past], "_k": k, "_v": v}  # fmt: skip


def _expect_poisoned(case: Case, outcome: Outcome) -> Outcome:
    k, v, width = outcome["_k"], outcome["_v"], case["_head_dim"]
    x_B1C = case["x_BSC"][:, :1]
    cos, sin = rope_angles(torch.tensor([[k.shape[2]]]), width, 10000.0, torch.float64)

    def heads(w: Tensor) -> Tensor:
        return (x_B1C @ w.T).unflatten(-1, (-1, width)).transpose(1, 2)

    q_BHSD = apply_rope(heads(case["w_q"]), cos, sin)
    k_BGTD = torch.cat((k, apply_rope(heads(case["w_k"]), cos, sin)), dim=2)
    v_BGTD = torch.cat((v, heads(case["w_v"])), dim=2)
    out_BHSD = torch.nn.functional.scaled_dot_product_attention(
        q_BHSD, k_BGTD, v_BGTD, enable_gqa=True
    )
    return {"out_BHSD": out_BHSD, "past keys, k_BGTD": k, "past values, v_BGTD": v}


CACHED_ATTENTION = Exercise(
    number="6.2",
    title="Attention with a past",
    name="attend_with_past",
    points=4,
    minutes=25,
    difficulty=3,
    cases=_attention_case,
    size=lambda case: case["x_BSC"].numel(),
    allows=("kvlab.ops",),
    laws=(
        Law("one call over the whole text", _run_at_once, _expect_attention),
        Law("any chunks give the same at every position", _run_chunked, _expect_attention),
        Law("the past is used as it is", _run_poisoned, _expect_poisoned),
    ),
    hints=(
        "How far into the text is the first row of x_BSC? The past knows: it has one slot per "
        "token already read.",
        "Positions: torch.arange(n_past, n_past + n_new). Turn the new queries and keys by them, "
        "then put the new keys behind the past ones with torch.cat along the slots.",
        "The query at position p may use slot t if t <= p: mask = torch.arange(n_past + n_new) <= "
        "positions[:, None], of shape (S, T). Repeat each KV head for its query heads with "
        "repeat_interleave(H // G, dim=1), then scores, masked_fill(~mask, -inf), softmax, mix.",
    ),
    second=given.SECOND_ATTENTION,
    wrong=(
        Wrong(given.positions_restart, "positions start again at 0 in every call. The first new "
              "token stands behind the past, at position n_past."),
        Wrong(given.first_token_not_stored, "the first token's key and value are dropped when the "
              "past is put together."),
        Wrong(given.prompt_bypasses_cache, "the prompt is attended to but its keys and values are "
              "not given back, so the next call has no past."),
        Wrong(given.square_mask, "the mask starts at the top left, as if the new queries stood at "
              "the start of the text. It must end at the bottom right."),
        Wrong(given.offset_twice, "the offset is counted twice: new tokens are put at twice their "
              "distance from the start."),
        Wrong(given.keys_not_turned, "past and new keys are turned again in every call. A key is "
              "turned once, by its own position, and then stays as it is."),
        Wrong(given.no_mask, "there is no mask, so tokens of one chunk see those that come after "
              "them."),
        Wrong(given.masks_itself, "a query does not see its own key. The first one of a text then "
              "sees nothing, and its softmax is nan. It may use slot t if t <= its position."),
        Wrong(given.not_turned, "nothing is turned: queries and keys need apply_rope by their "
              "positions."),
        Wrong(given.keys_unturned, "only the queries are turned. New keys are turned as well, each "
              "by its own position."),
        Wrong(given.queries_unturned, "only the keys are turned. New queries are turned as well, "
              "each by its own position."),
        Wrong(given.one_too_far, "positions are one too far. With n_past tokens before it, the "
              "first new token stands at position n_past."),
        Wrong(given.not_scaled, "scores are not divided by the root of D."),
        Wrong(given.heads_not_transposed, "the projection is cut into (B, H, S, D) at once, which "
              "mixes tokens and heads. Cut into (B, S, H, D), then transpose axes 1 and 2."),
        Wrong(given.only_new_returned, "only the new keys and values are given back. The next call "
              "needs the past ones, too."),
        Wrong(given.new_before_past, "the new keys are put before the past ones. Slot t is the "
              "place of token t: the past comes first."),
        Wrong(given.groups_interleaved, "query heads are paired with the wrong KV heads: "
              "neighbours share a KV head (repeat_interleave), not every G-th (repeat)."),
    ),
)  # fmt: skip


# --- 6.3 prove the reuse ----------------------------------------------------------------------


class Subject(Lent):
    """Something that claims to generate with a cache, and what can be done to it.

    `run(poison)` generates afresh and returns [outputs_ND, rows]: the attention output behind each
    new token, and how many token rows had their key computed. With `poison` = j, slot j of the
    cache is overwritten with noise right after the prompt was read. One that "recomputes one row"
    does so once, in the first step after the prompt.
    """

    lends = ("run",)

    def __init__(self, kind: str, n_prompt: int, n_new: int, capacity: int, seed: int) -> None:
        self._kind, self._n_prompt, self._n_new = kind, n_prompt, n_new
        torch_rng = torch.Generator().manual_seed(seed)
        width = 6
        self._x = torch.randn(capacity + 1, width, generator=torch_rng, dtype=torch.float64)
        self._w = torch.randn(3, width, width, generator=torch_rng, dtype=torch.float64)
        self._noise = 4 * torch.randn(2, width, generator=torch_rng, dtype=torch.float64)
        self._capacity = capacity
        # a row that the "ignores" subject never looks at: any of the prompt's
        self._blind = int(torch.randint(n_prompt, (1,), generator=torch_rng))

    def run(self, poison: int | None = None) -> list:
        if poison is not None and not 0 <= poison < self._capacity:
            raise ValueError(
                f"slot {poison} was to be poisoned; slots are 0 to {self._capacity - 1}"
            )
        k = torch.zeros(self._capacity, self._x.shape[1], dtype=torch.float64)
        v = torch.zeros_like(k)
        rows = self._project(k, v, 0, self._n_prompt)
        outs = []
        if poison is not None:
            k[poison], v[poison] = self._noise
        for i in range(self._n_new):
            stop = self._n_prompt + i
            if i:
                rows += self._project(k, v, self._start(i, stop), stop)
            outs.append(self._attend(k, v, stop))
        return [torch.stack(outs), rows]

    def _start(self, step: int, stop: int) -> int:
        """The first row that a step computes: the newest token's, or one from before."""
        if self._kind == "recomputes":
            return 0
        return stop - 2 if self._kind == "recomputes one row" and step == 1 else stop - 1

    def _project(self, k: Tensor, v: Tensor, start: int, stop: int) -> int:
        k[start:stop] = self._x[start:stop] @ self._w[1]
        v[start:stop] = self._x[start:stop] @ self._w[2]
        return stop - start

    def _attend(self, k: Tensor, v: Tensor, stop: int) -> Tensor:
        score = k @ (self._x[stop - 1] @ self._w[0]) / k.shape[1] ** 0.5
        seen = torch.arange(self._capacity) < stop
        if self._kind == "ignores a row":
            seen[self._blind] = False
        if self._kind == "reads an empty slot":
            seen[:] = True
        return score.masked_fill(~seen, float("-inf")).softmax(0) @ v


SUBJECTS = {
    "reuses": "reuses",
    "recomputes": "recomputes",
    "recomputes one row": "recomputes",
    "ignores a row": "ignores a row",
    "reads an empty slot": "reads an empty slot",
}


def _audit_case(rng: random.Random) -> Case:
    n_prompt, n_new = rng.sample(range(3, 9), 2)
    return {
        "n_prompt": n_prompt,
        "n_new": n_new,
        "capacity": n_prompt + n_new + rng.randint(1, 4),
        "_subjects": rng.sample(list(SUBJECTS), len(SUBJECTS)),
        "_seed": rng.randrange(2**31),
    }


def _run_audit(answer: Answer, case: Case) -> Outcome:
    seen = {}
    sizes = (case["n_prompt"], case["n_new"], case["capacity"])
    for i, kind in enumerate(case["_subjects"]):
        subject = Subject(kind, *sizes, case["_seed"] + i)
        seen[f"verdict on one that {kind}"] = answer(subject, *sizes)
    return seen


def _expect_audit(case: Case, _outcome: Outcome) -> Outcome:
    return {f"verdict on one that {kind}": SUBJECTS[kind] for kind in case["_subjects"]}


AUDIT = Exercise(
    number="6.3",
    title="Prove the reuse",
    name="audit",
    points=4,
    minutes=20,
    difficulty=3,
    cases=_audit_case,
    size=lambda case: case["capacity"],
    laws=(Law("each suspect gets the right verdict", _run_audit, _expect_audit),),
    hints=(
        "Same tokens prove nothing: somebody who computes everything again gets them too. What can "
        "you count, and what can you break, that tells the two apart?",
        "With a cache, P prompt tokens and N new ones need P + N - 1 projected rows: the last new "
        "token is never fed. If the count is right, poison slots one at a time and see whether the "
        "outputs move.",
        "honest, rows = subject.run(None). More rows than P + N - 1: 'recomputes'. A prompt slot j "
        "(0 <= j < P) whose poison leaves torch.equal(outputs, honest): 'ignores a row'. The last "
        "slot (capacity - 1) whose poison changes the outputs: 'reads an empty slot'. Else "
        "'reuses'.",
    ),
    second=given.SECOND_AUDIT,
    wrong=(
        Wrong(given.audit_counts_only, "the count alone is trusted. One who stores rows and never "
              "looks at some of them has the right count too."),
        Wrong(given.audit_expects_p_plus_n, "the honest count is taken to be P + N. The last new "
              "token is returned but never fed, so it is P + N - 1."),
        Wrong(given.audit_allows_one_more, "P + N rows are let through. The last new token is "
              "returned but never fed, so P + N - 1 are enough, and one more was computed again."),
        Wrong(given.audit_never_counts, "the rows are not counted. Poison alone does not show who "
              "computes again: the first output behind the prompt is made from the poisoned slot."),
        Wrong(given.audit_poisons_first_only, "only slot 0 is poisoned. The row that is ignored "
              "may be another."),
        Wrong(given.audit_never_tries_empty, "no unused slot is ever poisoned, so reading empty "
              "slots goes unseen."),
        Wrong(given.audit_trusts_everyone, "everyone is acquitted."),
        Wrong(given.audit_reversed, "poison is read the wrong way round: outputs that move are "
              "proof that a row is used."),
    ),
)  # fmt: skip


# --- 6.4 cached generate ----------------------------------------------------------------------


def _generate_case(rng: random.Random) -> Case:
    batch, n_prompt, n_new = rng.sample([2, 3, 4, 5, 6, 7, 8], 3)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return {
        "tokens_BS": torch.randint(61, (batch, n_prompt), generator=torch_rng),
        "n_new": n_new,
        "_seed": rng.randrange(2**31),
    }


def _run_tokens(answer: Answer, case: Case) -> Outcome:
    model = LentModel(tiny_model(case["_seed"]))
    tokens = answer(model, case["tokens_BS"], case["n_new"])
    slots, positions = map(list, zip(*model.calls, strict=True)) if model.calls else ([], [])
    return {
        "positions by call": positions,
        "tokens found in the cache by call": slots,
        "rows projected": model.rows,
        "tokens_BN": tokens,
    }


def _expect_tokens(case: Case, _outcome: Outcome) -> Outcome:
    tokens_BS, n_new = case["tokens_BS"], case["n_new"]
    n_prompt = tokens_BS.shape[1]
    fed = range(n_prompt, n_prompt + n_new - 1)
    return {
        "positions by call": [list(range(n_prompt)), *([position] for position in fed)],
        "tokens found in the cache by call": [0, *fed],
        "rows projected": n_prompt + n_new - 1,
        "tokens_BN": generate_uncached(tiny_model(case["_seed"]), tokens_BS, n_new),
    }


def _run_poisoned_tokens(answer: Answer, case: Case) -> Outcome:
    model = LentModel(tiny_model(case["_seed"]), poison=case["tokens_BS"].shape[1] // 2)
    return {"tokens_BN": answer(model, case["tokens_BS"], case["n_new"])}


def _expect_poisoned_tokens(case: Case, _outcome: Outcome) -> Outcome:
    reference = _run_poisoned_tokens(LocalAnswer(_reference_generate), case)
    return {"tokens_BN": reference["tokens_BN"]}


def _reference_generate(model, tokens_BS: Tensor, n_new: int) -> Tensor:
    batch, n_prompt = tokens_BS.shape
    cache = model.new_cache(batch, n_prompt + n_new)
    pos_BS = torch.arange(n_prompt).expand(batch, n_prompt)
    token_B = model(tokens_BS, pos_BS, cache)[:, -1].argmax(-1)
    out = [token_B]
    for i in range(n_new - 1):
        pos_B1 = torch.full((batch, 1), n_prompt + i)
        token_B = model(token_B[:, None], pos_B1, cache)[:, -1].argmax(-1)
        out.append(token_B)
    return torch.stack(out, dim=1)


N_TIMED_PROMPT, N_TIMED = 384, 24


def _time_generate(answer: Answer, case: Case) -> Comparison:
    """The answer against a loop that reads the whole text at each step, same model, same tokens."""
    model = tiny_model(
        1, torch.float32, hidden_size=128, intermediate_size=256, head_dim=32, n_layers=2
    )
    tokens_BS = torch.arange(N_TIMED_PROMPT)[None] % 61
    lent = LentModel(model)
    return paired(
        lambda: generate_uncached(model, tokens_BS, N_TIMED),
        lambda: answer(lent, tokens_BS, N_TIMED),
    )


CACHED_GENERATE = Exercise(
    number="6.4",
    title="Generate with a cache",
    name="cached_generate",
    points=5,
    minutes=20,
    difficulty=3,
    cases=_generate_case,
    size=lambda case: case["tokens_BS"].numel() * case["n_new"],
    laws=(
        Law("the prompt in one call, then a token a call; same tokens as without a cache",
            _run_tokens, _expect_tokens),
        Law("what stands in the cache decides", _run_poisoned_tokens, _expect_poisoned_tokens),
    ),
    clock=Clock(
        f"{N_TIMED} tokens behind {N_TIMED_PROMPT}, against the loop without a cache",
        _time_generate,
        at_least=1.3,
    ),
    hints=(
        "Two phases: one call for the whole prompt, then one call per token. What does each call "
        "take in, and at which position does its first token stand?",
        "Make the cache once, for n_prompt + n_new - 1 slots. The prompt's positions are 0 to "
        "n_prompt - 1; the i-th new token (from 0) is fed at position n_prompt + i.",
        "logits = model(tokens_BS, torch.arange(n_prompt).expand(batch, n_prompt), cache); token = "
        "logits[:, -1].argmax(-1). Then n_new - 1 times: token = model(token[:, None], "
        "torch.full((batch, 1), n_prompt + i), cache)[:, -1].argmax(-1). Stack all tokens.",
    ),
    second=given.SECOND_GENERATE,
    wrong=(
        Wrong(given.generate_without_cache, "every step reads the whole text again. The tokens are "
              "right, but nothing is reused."),
        Wrong(given.generate_prompt_one_by_one, "the prompt is fed token by token. All its tokens "
              "are known: read it in one call."),
        Wrong(given.generate_new_cache_each_step, "every step makes a new cache, which is empty. "
              "Make one before the prompt and hand it to every call."),
        Wrong(given.generate_first_row, "the token comes from the first row's logits. The last row "
              "saw the whole prompt."),
        Wrong(given.generate_positions_restart, "positions start again at 0 in decode. The first "
              "new token stands behind the prompt, at position P."),
        Wrong(given.generate_position_zero, "every new token is fed at position 0. It stands "
              "behind all that was read: P, P + 1, ..."),
        Wrong(given.generate_position_stays, "every new token is fed at position P. Each stands "
              "one further than the one before it."),
        Wrong(given.generate_one_too_far, "positions in decode are one too far. The prompt has 0 "
              "to P - 1, so the first new token has P."),
        Wrong(given.generate_one_too_few, "positions in decode are one too few: the first new "
              "token is put where the prompt's last one stands."),
        Wrong(given.generate_prompt_bypasses, "the prompt is read without the cache, so decoding "
              "has no past but its own tokens."),
        Wrong(given.generate_offset_twice, "the offset is counted twice: positions in decode go up "
              "by two, or start behind a gap."),
        Wrong(given.generate_last_prompt_twice, "the last prompt token is fed twice: once in the "
              "prompt and once again as the first step."),
        Wrong(given.generate_feeds_everything, "the whole text is fed again into a cache that "
              "already holds it."),
        Wrong(given.generate_one_step_more, "the last new token is fed too. Its logits are thrown "
              "away: one row for nothing."),
        Wrong(given.generate_first_prompt_token_lost, "the first prompt token never reaches the "
              "cache."),
    ),
)  # fmt: skip


# --- 6.5 fork and rewind ----------------------------------------------------------------------


def _fork_case(rng: random.Random) -> Case:
    case = dict(_cache_case(rng))
    case["chunks"] = [rng.randint(2, 5), rng.randint(1, 4)]
    case["rewind_to"] = rng.randint(1, case["chunks"][0] - 1)
    # room for both continuations in one memory: sharing it must show in what is read
    case["capacity"] = case["chunks"][0] + 2 * case["chunks"][1] + rng.randint(1, 5)
    return case


def _prefixed(name: str, seen: Outcome) -> Outcome:
    return {f"{name}: {key}": value for key, value in seen.items()}


def _run_fork(answer: Answer, case: Case) -> Outcome:
    """Two continuations of one prompt."""
    ours, theirs = _rows(case), _rows(case, salt=1)
    cache = answer.make(*_shape(case))
    _fill(cache, ours[:1])
    twin = cache.make("fork")
    _fill(cache, ours[1:])
    _fill(twin, theirs[1:])
    n = case["n_layers"]
    return {
        **_prefixed("the first", _read_all(cache, n)),
        **_prefixed("its fork", _read_all(twin, n)),
    }


def _expect_fork(case: Case, _outcome: Outcome) -> Outcome:
    ours, theirs = _rows(case), _rows(case, salt=1)
    return {
        **_prefixed("the first", _concatenated(ours)),
        **_prefixed("its fork", _concatenated([ours[0], theirs[1]])),
    }


def _run_rewind(answer: Answer, case: Case) -> Outcome:
    """Forget the end, then write something else behind what is left."""
    ours, theirs = _rows(case), _rows(case, salt=1)
    cache = answer.make(*_shape(case))
    _fill(cache, ours)
    cache.call("rewind", case["rewind_to"])
    before = _read_all(cache, case["n_layers"])
    _fill(cache, theirs[1:])
    after = _read_all(cache, case["n_layers"])
    return {**_prefixed("after rewind", before), **_prefixed("after writing on", after)}


def _expect_rewind(case: Case, _outcome: Outcome) -> Outcome:
    ours, theirs = _rows(case), _rows(case, salt=1)
    left = [[(k[:, :, : case["rewind_to"]], v[:, :, : case["rewind_to"]]) for k, v in ours[0]]]
    return {
        **_prefixed("after rewind", _concatenated(left)),
        **_prefixed("after writing on", _concatenated([left[0], theirs[1]])),
    }


def _run_rewind_in_place(answer: Answer, case: Case) -> Outcome:
    """Rewinding copies nothing: a view read before still sees the slots."""
    ours, theirs = _rows(case), _rows(case, salt=1)
    cache = answer.make(*_shape(case))
    _fill(cache, ours[:1])
    early = cache.hold("read", 0)
    cache.call("rewind", 0)
    _fill(cache, theirs[:1])
    k, v = early.now()
    return {"through a view read before, k_BGTD": k, "through a view read before, v_BGTD": v}


def _expect_rewind_in_place(case: Case, _outcome: Outcome) -> Outcome:
    k, v = _rows(case, salt=1)[0][0]
    return {"through a view read before, k_BGTD": k, "through a view read before, v_BGTD": v}


def _run_rewind_forward(answer: Answer, case: Case) -> Outcome:
    """There is nothing to rewind to beyond what was written."""
    cache = answer.make(*_shape(case))
    chunks = _rows(case)
    _fill(cache, chunks)
    raised = {
        f"raised by rewind({length})": raised_by(cache.call, "rewind", length)
        for length in (sum(case["chunks"]) + 1, -1)
    }
    return {**raised, **_read_all(cache, case["n_layers"])}


def _expect_rewind_forward(case: Case, _outcome: Outcome) -> Outcome:
    lengths = (sum(case["chunks"]) + 1, -1)
    raised = {f"raised by rewind({length})": "ValueError" for length in lengths}
    return {**raised, **_concatenated(_rows(case))}


def _run_rewind_nowhere(answer: Answer, case: Case) -> Outcome:
    """The present length is held, so going back to it is allowed and changes nothing."""
    cache = answer.make(*_shape(case))
    _fill(cache, _rows(case))
    raised = raised_by(cache.call, "rewind", sum(case["chunks"]))
    return {"raised by rewind to the present length": raised, **_read_all(cache, case["n_layers"])}


def _run_rewind_uneven(answer: Answer, case: Case) -> Outcome:
    """In the middle of a step, when layer 0 holds more tokens than the others."""
    cache = answer.make(*_shape(case))
    first, second = _rows(case)
    _fill(cache, [first])
    cache.call("append", 0, *second[0])
    too_far = raised_by(cache.call, "rewind", case["chunks"][0] + 1)
    cache.call("rewind", case["chunks"][0])
    seen = _prefixed("after rewind", _read_all(cache, case["n_layers"]))
    return {"raised by rewind to what only layer 0 holds": too_far, **seen}


def _expect_rewind_uneven(case: Case, _outcome: Outcome) -> Outcome:
    seen = _prefixed("after rewind", _concatenated(_rows(case)[:1]))
    return {"raised by rewind to what only layer 0 holds": "ValueError", **seen}


def _expect_rewind_nowhere(case: Case, _outcome: Outcome) -> Outcome:
    return {"raised by rewind to the present length": "nothing", **_concatenated(_rows(case))}


FORK_REWIND = Exercise(
    number="6.5",
    title="Fork and rewind",
    name="ForkingCache",
    points=4,
    minutes=15,
    difficulty=2,
    cases=_fork_case,
    size=lambda case: case["capacity"] * case["n_layers"],
    laws=(
        Law("two continuations, no cross-talk", _run_fork, _expect_fork),
        Law("rewind forgets the end, and writing goes on there", _run_rewind, _expect_rewind),
        Law("rewind copies nothing", _run_rewind_in_place, _expect_rewind_in_place),
        Law("rewind refuses what is not there", _run_rewind_forward, _expect_rewind_forward),
        Law("rewind to the present length", _run_rewind_nowhere, _expect_rewind_nowhere),
        Law("rewind in the middle of a step", _run_rewind_uneven, _expect_rewind_uneven),
    ),
    hints=(
        "What makes two caches independent: two names, or two pieces of memory? And what has to "
        "change so that a slot counts as free again?",
        "fork needs new tensors with the old contents (clone) and its own list of counters. rewind "
        "needs no tensor at all.",
        "fork: twin = ForkingCache(*self.k.shape); twin.k.copy_(self.k); twin.v.copy_(self.v); "
        "twin.used = list(self.used); return twin. rewind: raise ValueError unless "
        "0 <= length <= min(self.used); then self.used = [length] * len(self.used).",
    ),
    second=given.SECOND_FORK,
    wrong=(
        Wrong(given.ForkReturnsSelf, "the fork has the same memory and the same counters: that is "
              "what `return self` gives, and copy.copy too. Make new tensors."),
        Wrong(given.ForkShares, "the fork shares its memory with the first: what one writes, the "
              "other reads."),
        Wrong(given.ForkSharesValues, "the fork has keys of its own but shares the values."),
        Wrong(given.ForkSharesCounters, "both share one list of counters, so one moves the other "
              "along."),
        Wrong(given.RewindOneLayer, "only layer 0 is rewound. Each layer counts its own tokens."),
        Wrong(given.RewindOffByOne, "one token too many is kept: rewinding to length n leaves "
              "slots 0 to n - 1."),
        Wrong(given.RewindCopies, "rewind makes new tensors. Nothing needs to move: a slot is free "
              "when it is no longer counted."),
        Wrong(given.RewindUnchecked, "rewind goes to any length, even to slots that were never "
              "written."),
        Wrong(given.RewindByCapacity, "the length is compared with the capacity. Slots that were "
              "never written hold no token: compare with what is used."),
        Wrong(given.RewindNegative, "a negative length is let through."),
        Wrong(given.RewindRefusesPresent, "the length that the cache has now is refused. It does "
              "hold that many tokens: length <= used."),
        Wrong(given.RewindByLongest, "the longest layer decides. In the middle of a step the "
              "others hold less, and have nothing to rewind to: ask the shortest."),
    ),
)  # fmt: skip


# --- 6.6 and 6.7 quizzes ------------------------------------------------------------------------

SIXTH_TOKEN = choice(
    number="6.6",
    title="The 6th token",
    name="for_the_6th_token",
    points=1,
    minutes=3,
    difficulty=1,
    right="c",
    wrong={
        "a": "that is the plain loop. The numbers come out the same each time, so the work was "
        "done before.",
        "b": "new weights mix the values, but the values themselves are as constant as the keys: "
        "both are projections of the same token's stream.",
        "d": "nothing flows back: an earlier token never looks at a later one, so its key and "
        "value have nothing to learn from it.",
        "e": "then the 6th token could not know what the first four said: the query looks through "
        "all keys there are.",
    },
    because="One new pair is computed, of the 5th token; the four others are read as they are.",
    hints=(
        "Which of the pairs did not exist when the 5th token was made?",
        "Can a key of token 2 change when token 5 is put behind it? The chapter looked.",
        "Constant once computed, and still needed by the new query: they are read, not made.",
    ),
)

REUSE_CLAIMS = claims(
    number="6.7",
    title="What stays, what goes",
    name="about_reuse",
    points=2,
    minutes=5,
    difficulty=2,
    right=(False, False, True, False, True, False),
    wrong=(
        "nine pairs are used, but eight of them lie in the cache. A key cannot be out of date.",
        "its query was used in its own step, and nobody looks at a query again: it is thrown away.",
        "every later token may look at the first one, so behind layer 0 their streams change, and "
        "the first one's own key changes in every layer.",
        "only one query is new, but it is compared with every key: all of them are read.",
        "in layer 0 a key is made of its own token's embedding and position, before any attention. "
        "From layer 1 on the streams hold what attention mixed in.",
        "it is the other way round: it takes memory, and saves the work of computing again.",
    ),
    because="Constant for a fixed prefix at fixed positions, computed once, read at every step.",
    hints=(
        "For each claim ask: what is this key made of, and did that change?",
        "A key of layer 0 is made of an embedding and a position; a key of layer 3 of what three "
        "layers of attention mixed in.",
        "Two of the six are true: the one about another first token, and the one about layer 0.",
    ),
)

EXERCISES = (
    PREALLOCATED,
    CACHED_ATTENTION,
    AUDIT,
    CACHED_GENERATE,
    FORK_REWIND,
    SIXTH_TOKEN,
    REUSE_CLAIMS,
)
