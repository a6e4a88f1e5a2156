"""`kvlab generate`: a prompt read, put into the model's own form, and answered."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator

from kvlab.cache import Cache
from kvlab.checkpoint import load
from kvlab.fast.choosing import Step, step_for
from kvlab.generation import stream
from kvlab.model import Transformer
from kvlab.parallel.mesh import Mesh
from kvlab.prompts import check_positions
from kvlab.sampling import Sampler
from kvlab.tokenizer import Tokenizer


def run(args: Namespace) -> int:
    """Answer one prompt on standard output, piece by piece or as JSON. Returns 0."""
    prompt = read(args.prompt)
    _sampler(args)  # refuses before anything is opened
    model, tokenizer = load(args.model, device=args.device, dtype=args.dtype)
    return say(args, prompt, model, tokenizer)


def say(
    args: Namespace, prompt: str, model: Transformer, tokenizer: Tokenizer, mesh: Mesh | None = None
) -> int:
    """Answer a prompt with a model that is open. Returns 0.

    Of the processes of a `mesh`, each of which does this with its share, the first one speaks.
    """
    prompt_ids = as_ids(tokenizer, prompt, system=args.system, raw=args.raw)
    check_positions(model, len(prompt_ids), args.new_tokens)  # before memory is taken
    how = _thinning(args, model, len(prompt_ids))
    cache = how.get("cache")
    used = cache or model.new_cache(1, _capacity(args, len(prompt_ids)))
    step = step_for(model, used, args.new_tokens)
    pick = _sampler(args) if mesh is None else mesh.same(_sampler(args))
    how |= {"cache": used, "decode": step.decode, "pick": pick}
    quiet = mesh is not None and mesh.rank > 0
    ids: list[int] = []
    at = [time.perf_counter()]
    pieces = []
    for piece in tokenizer.stream(
        _noted(stream(model, prompt_ids, args.new_tokens, **how), ids, at)
    ):
        pieces.append(piece)
        if not args.json and not quiet:
            print(piece, end="", flush=True)
    if quiet:
        return 0
    stats = _stats(model, used, prompt_ids, at, step, mesh) if args.stats else {}
    dense = cache and cache.seen * model.config.kv_bytes_per_token(model.dtype.itemsize)
    held = {"cache_bytes": cache.live_bytes, "dense_bytes": dense} if cache else {}
    found = {"prompt_tokens": prompt_ids, "new_tokens": ids, "text": "".join(pieces), **held}
    if args.json:
        print(json.dumps(found | ({"stats": stats} if stats else {})))
    else:
        _say_the_rest(found, stats, tokenizer)
    return 0


def _say_the_rest(found: dict, stats: dict, tokenizer: Tokenizer) -> None:
    """What stands after an answer, and on stderr beside it."""
    print()
    if stats:
        print(_as_text(stats), file=sys.stderr)
    if "cache_bytes" in found:
        print(f"cache: {found['cache_bytes']:,} of {found['dense_bytes']:,} bytes", file=sys.stderr)
    if not found["text"].strip():
        said = "".join(tokenizer.pieces(found["new_tokens"][:8]))
        print(f"kvlab generate: the answer has no text; the model said {said!r}.", file=sys.stderr)


def as_ids(
    tokenizer: Tokenizer, prompt: str, *, system: str | None = None, raw: bool = False
) -> list[int]:
    """A prompt as the model reads it: in its chat form, if its checkpoint has one.

    Raises: ValueError for a system's words that no form has a place for.
    """
    has_form = tokenizer.template is not None and not raw
    if system is not None and not has_form:
        why = "--raw leaves it away" if raw else "this checkpoint has no chat template"
        raise ValueError(f"--system is for the chat form, and {why}. Put it into the prompt.")
    if not has_form:
        return tokenizer.encode(prompt)
    messages = [] if system is None else [{"role": "system", "content": system}]
    return tokenizer.chat([*messages, {"role": "user", "content": prompt}])


def _noted(steps: Iterable, ids: list[int], at: list[float]) -> Iterator[int]:
    """The ids of one row's steps, each also put at the end of `ids`, and its time of `at`."""
    for step in steps:
        ids.append(int(step.token_B[0]))
        at.append(time.perf_counter())
        yield ids[-1]


def _stats(
    model: Transformer, cache: Cache, prompt: list[int], at: list[float], step: Step,
    mesh: Mesh | None,
) -> dict:  # fmt: skip
    """Seconds to the first token, tokens a second after it, and bytes; `at` begins at the start.

    Of several processes: bytes of the first one's share, and what it exchanged with the others.
    """
    messages = [] if mesh is None else mesh.exchanged.values()
    several = mesh and {
        "processes": mesh.size,
        "messages": sum(m.n for m in messages),
        "message_bytes": sum(m.bytes for m in messages),
    }
    start, first, *_, last = [*at, at[-1]]
    n_later = len(at) - 2
    return {
        "prompt_tokens": len(prompt),
        "new_tokens": len(at) - 1,
        "first_token_seconds": round(first - start, 4),
        "tokens_per_second": round(n_later / (last - first), 2) if n_later else None,
        "weight_bytes": sum(weight.nbytes for weight in model.parameters()),
        "cache_bytes": cache.live_bytes,
        "cache_bytes_allocated": cache.allocated_bytes,
        "step": step.how,
        "step_because": step.why,
        "step_ready_seconds": round(step.seconds, 4),
        **(several or {}),
    }


def _as_text(stats: dict) -> str:
    speed = stats["tokens_per_second"]
    later = "no more came" if speed is None else f"then {speed:.1f} a second"
    shared = ""
    if "processes" in stats:
        shared = (
            f"\nbytes are those of the first of {stats['processes']} processes, which exchanged "
            f"{stats['message_bytes'] / 1e6:,.2f} MB in {stats['messages']:,} messages"
        )
    ready = f", ready after {stats['step_ready_seconds']:.1f} s" * (stats["step"] == "compiled")
    return (
        f"{stats['prompt_tokens']} prompt tokens, {stats['new_tokens']} new ones: the first after "
        f"{stats['first_token_seconds']:.2f} s, {later}; {stats['weight_bytes'] / 1e6:,.1f} MB of "
        f"weights, {stats['cache_bytes'] / 1e6:,.2f} MB of keys and values in "
        f"{stats['cache_bytes_allocated'] / 1e6:,.2f} MB taken\n"
        f"the {stats['step']} step{ready}: {stats['step_because']}{shared}"
    )


def _sampler(args: Namespace) -> Sampler:
    return Sampler(args.temperature, args.top_k, args.top_p, args.seed)


def read(given: str) -> str:
    """The prompt itself, or what standard input holds for "-", less the line's end."""
    if given == "-":
        try:
            given = sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"Standard input is not text in UTF-8 (byte {error.start}).") from None
    if not given.strip():
        raise ValueError("The prompt is empty; expected some text.")
    return given


def _capacity(args: Namespace, n_prompt: int) -> int:
    """Slots for prompt and answer; the last new token is not fed."""
    return max(1, n_prompt + args.new_tokens - 1)


def _thinning(args, model, n_prompt: int) -> dict:
    """Policy and cache that the options of `generate` ask for; nothing where they ask for none."""
    if args.policy is None and args.sparsity is None:
        if args.budget is not None:
            raise ValueError("A budget came without a policy; name one: --policy snapkv.")
        return {}
    from kvlab.pack import PerToken
    from kvlab.pack.rows import n_kept
    from kvlab.prune.scores import evictions

    named = evictions(0.5 if args.budget is None else args.budget)
    if args.policy is not None and args.policy not in named:
        raise ValueError(f"There is no policy {args.policy!r}; there are {', '.join(named)}.")
    capacity = _capacity(args, n_prompt)
    if args.sparsity is None:
        return {"prune": named[args.policy], "cache": model.new_cache(1, capacity)}
    rule = PerToken(n_kept(args.sparsity, model.config.head_dim))
    cache = model.new_cache(1, capacity, k=rule, v=rule, sink=4)
    return {"prune": named.get(args.policy), "cache": cache}
