"""What the live page needs beside its own scripts: the model's files, and a first picture.

L layers, G key/value heads, H query heads, T tokens, D head width.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kvlab import pocket
from kvlab.checkpoint import load
from kvlab.measure.probe import Probe
from kvlab.model import Transformer
from kvlab.pocket.asking import world_question
from kvlab.tokenizer import Tokenizer

_JSON = ("config", "tokenizer")
LONG = "A password in a long text"
LONG_TOKENS, DEPTH, SEED = 320, 0.2, 7


def weights() -> str:
    """A script that hands the page the pocket model: its weights as text, its tokenizer."""
    folder = pocket.path()
    read = {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in _JSON}
    model = (folder / "model.safetensors").read_bytes()
    data = {**read, "weights": base64.b64encode(model).decode()}
    return f"kvlab.data = {json.dumps(data)};\nif (kvlab.arrived) kvlab.arrived(kvlab.data);\n"


def first(examples: Sequence[tuple[str, str, str]]) -> str:
    """A script with examples, and the cache of the first as the model left it, in 8 bits.

    Each example is what it is called, the text that is read first, and what is asked after it. A
    long text of the pocket model's world comes behind them.
    """
    model, tokenizer = load("pocket")
    asked = world_question(tokenizer, random.Random(SEED), LONG_TOKENS, depth=DEPTH)
    question = asked.question.removeprefix("\nUser: ").removesuffix("\nAssistant:")
    listed = [
        {"name": name, "text": text, "question": said}
        for name, text, said in (*examples, (LONG, asked.text, question))
    ]
    told = {"examples": listed, **_picture(model, tokenizer, *examples[0][1:])}
    return f'"use strict";\nglobalThis.kvlab = {{ first: {json.dumps(told)} }};\n'


@torch.inference_mode()
def _picture(model: Transformer, tokenizer: Tokenizer, text: str, question: str) -> dict[str, Any]:
    """The cache after a greedy answer: codes of keys, values and the last token's weights."""
    read = tokenizer.encode(text)
    prompt = tokenizer.encode(f"{text}\nUser: {question}\nAssistant:")
    ids, cache = list(prompt), model.new_cache(1, len(prompt) + 32)
    logits_BSV = model(torch.tensor([ids]), cache=cache)
    while (new := int(logits_BSV[0, -1].argmax())) not in model.config.eos_ids:
        ids.append(new)
        with Probe(model, cache, keep=("weights",)) as probe:
            logits_BSV = model(torch.tensor([[new]]), cache=cache, backend="reference")
    layers = [cache.read(i) for i in range(model.config.n_layers)]
    n_read, n_prompt = len(read), len(prompt)
    parts = ["text"] * n_read + ["question"] * (n_prompt - n_read)
    return {
        "width": model.config.head_dim,
        "pieces": tokenizer.pieces(ids),
        "parts": parts + ["answer"] * (len(ids) - n_prompt),
        "answer": tokenizer.decode(ids[n_prompt:]),
        "layers": [
            [_coded(k_TD, v_TD) for k_TD, v_TD in zip(kv.k_BGTD[0], kv.v_BGTD[0], strict=True)]
            for kv in layers
        ],
        "weights": [
            [_text((weight_T * 255).round()) for weight_T in heads[-1][0, :, -1]]
            for heads in probe.weights
        ],
    }


def _coded(k_TD: Tensor, v_TD: Tensor) -> dict[str, Any]:
    """Keys and values as bytes around 128, with what a step of each is worth."""
    told: dict[str, Any] = {}
    for side, x_TD in (("k", k_TD), ("v", v_TD)):
        scale = float(x_TD.abs().amax()) / 127
        told |= {side: _text((x_TD / scale).round() + 128), f"{side}Scale": scale}
    return told


def _text(codes: Tensor) -> str:
    return base64.b64encode(codes.to(torch.uint8).numpy().tobytes()).decode()
