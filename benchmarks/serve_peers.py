"""Many requests at once, beside other engines: the same weights, the same tokens asked for.

transformers' `generate` gets padded batches, its continuous batching and llama.cpp's server get all
requests at once. All ways are run in turn in one process; a ratio is the median of the rounds'.

python -m benchmarks.serve_peers --out benchmarks/results/serve-peers-pocket.json
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.common import TINY, arguments, over, peer, random_model, record
from benchmarks.llama_cpp import Served, exported
from benchmarks.serve import LARGE, SMALL, Answers, Bench, Sizes
from kvlab import Transformer, load
from kvlab.measure import interleaved
from kvlab.tokenizer import Tokenizer

Asked = Sequence[tuple[list[int], int]]


def padded(theirs, asked: Asked, rows: int) -> Answers:
    """`generate` on batches as they come, each padded to its longest, until its longest answer."""
    found: Answers = []
    for start in range(0, len(asked), rows):
        batch = asked[start : start + rows]
        most, longest = max(n for _, n in batch), max(len(p) for p, _ in batch)
        ids_BS = torch.tensor([[0] * (longest - len(p)) + p for p, _ in batch])
        mask_BS = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p, _ in batch])
        with torch.inference_mode():
            out_BT = theirs.generate(
                ids_BS, attention_mask=mask_BS, max_new_tokens=most, min_new_tokens=most,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
        new = out_BT[:, longest:].tolist()
        found += [row[:n] for row, (_, n) in zip(new, batch, strict=True)]
    return found


class Continuous:
    """transformers' continuous batching with as many blocks as ours, its manager kept between calls
    so that its start is paid once."""

    def __init__(self, model: Transformer, asked: Asked, rows: int) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        self.theirs = peer(model, "sdpa")
        how = ContinuousBatchingConfig(
            page_size=16, num_blocks=600, max_batch_tokens=512, max_requests_per_batch=rows,
            allow_block_sharing=False,
        )  # fmt: skip
        said = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        self.manager = self.theirs.init_continuous_batching(said, continuous_batching_config=how)
        self.manager.start()
        self.asked = asked

    def __call__(self) -> Answers:
        names = [self.manager.add_request(p, max_new_tokens=n) for p, n in self.asked]
        found: dict[str, list[int]] = {}
        while len(found) < len(names):
            said = self.manager.get_result(timeout=60)
            if said is None:
                raise RuntimeError("transformers' continuous batching said nothing in 60 seconds.")
            if said.is_finished():
                found[said.request_id] = list(said.generated_tokens)
        return [found[name] for name in names]

    def close(self) -> None:
        self.manager.stop(block=True)


def cases(bench: Bench) -> dict[str, Asked]:
    """Prompts and answers of one length, and of mixed lengths."""
    size, draw = bench.sizes, bench.rng
    equal = [(bench.tokens(size.prompt), size.answer) for _ in range(size.users)]
    mixed = [
        (bench.tokens(draw.randint(2, 4 * size.prompt)),
         2 + int(6 * draw.paretovariate(1.1)) % (2 * size.answer))
        for _ in range(4 * size.users)
    ]  # fmt: skip
    return {f"{len(equal)} users": equal, f"{len(mixed)} users of mixed lengths": mixed}


def ways(bench: Bench, theirs, gguf: Path | None, asked: Asked) -> dict[str, Callable[[], Answers]]:
    """All that serve them."""
    rows = bench.sizes.users
    found = {
        "ours": lambda: bench.served(asked, max_running=rows),
        "ours, compiled steps": lambda: bench.served(asked, max_running=rows, compiled=True),
        "transformers, padded batches": lambda: padded(theirs, asked, rows),
        "transformers, continuous batching": Continuous(bench.model, asked, rows),
    }
    if gguf is not None:
        found["llama.cpp's server"] = Served(gguf, asked, rows, torch.get_num_threads())
    return found


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--model", default="pocket", help="pocket, smollm2, a folder or a file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gguf", type=Path, help="the same weights, for llama.cpp")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = (random_model(TINY), None) if args.tiny else load(args.model)
    sizes = SMALL if args.tiny else LARGE if model.config.n_params > 2e7 else Sizes()
    bench = Bench(model, sizes)
    with tempfile.TemporaryDirectory() as folder:
        gguf = args.gguf
        if gguf is None and tokenizer is not None:
            gguf = exported(model, tokenizer, Path(folder) / "model.gguf")
        rows = list(measured(bench, tokenizer, gguf, args.rounds))
    record(
        "benchmarks.serve_peers", args.out, rows,
        parameters=model.config.n_params, threads=args.threads,
    )  # fmt: skip


def measured(bench: Bench, tokenizer: Tokenizer | None, gguf: Path | None, rounds: int):
    """A row for each way in each case: how many times as fast as it both of ours are."""
    theirs = peer(bench.model, "sdpa")
    for name, asked in cases(bench).items():
        every = ways(bench, theirs, gguf, asked)
        answers: dict[str, list[Answers]] = {way: [] for way in every}
        runs = {
            way: (lambda said=answers[way], run=run: said.append(run()))
            for way, run in every.items()
        }
        try:
            seconds = interleaved(runs, rounds=rounds)
        finally:
            for way in every.values():
                getattr(way, "close", lambda: None)()
        ours, n_tokens = answers["ours"][0], sum(n for _, n in asked)
        for way in every:
            pairs = zip(ours, answers[way][0], strict=True)
            same = sum(_same(mine, theirs_said, bench, tokenizer) for mine, theirs_said in pairs)
            yield {
                "name": name, "peer": way,
                "tokens_per_second": round(n_tokens / statistics.median(seconds[way]), 1),
                **({} if way.startswith("ours") else {
                    "plain": over(seconds[way], seconds["ours"]),
                    "compiled": over(seconds[way], seconds["ours, compiled steps"]),
                }),
                "same_answers": f"{same} of {len(asked)}",
            }  # fmt: skip


def _same(ours: list[int], theirs: list[int] | str, bench: Bench, tokenizer) -> bool:
    """Whether two answers are the same; one that came as text, up to where the model would end."""
    if not isinstance(theirs, str):
        return ours == theirs
    ends = bench.model.config.eos_ids
    stop = next((i for i, token in enumerate(ours) if token in ends), len(ours))
    return theirs.startswith(tokenizer.decode(ours[:stop]))


if __name__ == "__main__":
    main()
