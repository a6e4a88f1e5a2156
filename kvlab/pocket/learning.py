"""The pocket model before its first step, what it learns by, and the files it is written to.

B windows, S tokens of each, N tokens that have a loss, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from kvlab import files
from kvlab.config import ModelConfig
from kvlab.model import Transformer
from kvlab.pocket import bpe, path
from kvlab.pocket.muon import Muon
from kvlab.pocket.schedule import LEARNING_RATE

CONFIG = ModelConfig(
    vocab_size=bpe.VOCAB_SIZE,
    hidden_size=192,
    intermediate_size=512,
    n_layers=4,
    n_heads=6,
    n_kv_heads=2,
    head_dim=32,
    max_positions=bpe.CONTEXT,
    tie_embeddings=True,
    bos_id=0,
    eos_ids=(0,),
)


def new_model(config: ModelConfig, seed: int) -> Transformer:
    """Draw a fresh model in which each layer adds nothing yet: the stream is the embedding alone.

    With o_proj and down_proj at zero a prototype learned to copy hundreds of steps earlier (seen
    once).
    """
    torch.manual_seed(seed)
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            torch.nn.init.normal_(parameter, 0.0, parameter.shape[1] ** -0.5)
    return model


def optimisers_for(model: Transformer) -> list[torch.optim.Optimizer]:
    """Give the layers' matrices to Muon, embedding and norms to AdamW."""
    named = dict(model.named_parameters())
    matrices = {n for n, p in named.items() if p.dim() == 2 and "embed" not in n}
    return [
        Muon([p for n, p in named.items() if n in matrices], lr=LEARNING_RATE, weight_decay=0.05),
        torch.optim.AdamW(
            [p for n, p in named.items() if n not in matrices],
            lr=LEARNING_RATE,
            betas=(0.9, 0.98),
            weight_decay=0.0,
        ),
    ]


def loss_of(model: Transformer, tokens_BS: Tensor, weight_BS: Tensor) -> Tensor:
    """Weighted mean loss of the next tokens; logits are made only where the weight is not 0."""
    wanted_BS = weight_BS[:, 1:] > 0
    logits_NV = model.head(model.hidden(tokens_BS[:, :-1])[wanted_BS])
    loss_N = F.cross_entropy(logits_NV, tokens_BS[:, 1:][wanted_BS], reduction="none")
    weight_N = weight_BS[:, 1:][wanted_BS]
    return (loss_N * weight_N).sum() / weight_N.sum()


def export(model: Transformer, folder: Path) -> None:
    """Write a model as Hugging Face files, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().half().contiguous() for name, p in model.state_dict().items()}
    with files.writing(folder / "model.safetensors") as part:
        save_file(weights, part, metadata={"format": "pt"})
    bpe.write_json(folder / "config.json", model.config.to_hf("float16"))
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    bpe.write_json(folder / "generation_config.json", ends)
    spoken = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    for name in (*spoken, "chat_template.jinja"):
        if (path() / name).exists() and folder.resolve() != path():
            files.write(folder / name, (path() / name).read_bytes())
