"""What the measurements share: one shape of model, its peers, and how a result is written down."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from kvlab import ModelConfig, Transformer, files
from kvlab.measure import Comparison, machine

# 124.7 million parameters; GQA with four KV heads; nothing but its weights is random
SHAPE = ModelConfig(
    vocab_size=32000, hidden_size=768, intermediate_size=2048, n_layers=12, n_heads=12,
    n_kv_heads=4, head_dim=64, max_positions=4096,
)  # fmt: skip
TINY = ModelConfig(
    vocab_size=300, hidden_size=32, intermediate_size=64, n_layers=2, n_heads=4, n_kv_heads=2,
    head_dim=8, max_positions=4096,
)  # fmt: skip


def arguments(text: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """What every measurement can be told."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument(
        "--tiny", "--quick", action="store_true", help="a toy shape: to try the code, no more"
    )
    parser.add_argument("--out", type=Path, help="write the result there as well")
    return parser


def random_model(config: ModelConfig, *, device: str = "cpu", dtype=torch.float32) -> Transformer:
    """A model with random weights, made where it is needed."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Transformer(config)
    return model.to(dtype).requires_grad_(False).eval()


def peer(model: Transformer, attention: str):
    """The same weights, in the same memory, as a model of `transformers`."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**model.config.to_hf(str(model.dtype).removeprefix("torch.")))
    config.eos_token_id = config.bos_token_id = None
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    weights = model.state_dict()
    if model.config.tie_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    theirs.load_state_dict(weights, strict=True, assign=True)
    theirs.tie_weights()
    rotary = theirs.model.rotary_emb
    theirs.model.rotary_emb = type(rotary)(config).to(model.device)
    return theirs.eval()


def peer_generate(
    theirs, tokens_BS: torch.Tensor, n_new: int, cache: str, streamer=None
) -> torch.Tensor:
    """`transformers` generating greedily; `cache` is "dynamic" or "static"."""
    kept = {} if cache == "dynamic" else {"cache_implementation": cache, "disable_compile": True}
    with torch.inference_mode():
        out = theirs.generate(
            tokens_BS, attention_mask=torch.ones_like(tokens_BS), max_new_tokens=n_new,
            min_new_tokens=n_new, do_sample=False, pad_token_id=0, streamer=streamer, **kept,
        )  # fmt: skip
    return out[:, tokens_BS.shape[1] :]


def over(base: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """How many times as fast as the base: the median of the rounds' ratios, and their range."""
    compared = Comparison(tuple(base), tuple(seconds))
    low, high = compared.spread
    return {
        "ratio": round(compared.ratio, 3),
        "ratio_low": round(low, 3),
        "ratio_high": round(high, 3),
    }


def record(
    module: str, out: Path | None, rows: Iterable[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """Print a result, write it down with where it was measured and how, and give it back."""
    import transformers

    where = {**machine(), "transformers": transformers.__version__}
    command = " ".join(["python -m", module, *sys.argv[1:]])
    result = {"command": command, "machine": where, **more, "rows": list(rows)}
    text = json.dumps(result, indent=1) + "\n"
    if out:
        files.write(out, text)
    print(text)
    return result
