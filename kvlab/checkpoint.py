"""A checkpoint, opened by its name and checked: a model and its tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from kvlab import chat, checks, gguf_file, hub, safetensors_file
from kvlab.config import ModelConfig
from kvlab.families import as_ids
from kvlab.model import Transformer
from kvlab.tokenizer import Tokenizer

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
_UNTIED = (
    "The config in {folder} ties lm_head.weight to the embedding, but the file holds another one. "
    "Set tie_word_embeddings to false if the head is its own."
)


@hub.in_short
def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> tuple[Transformer, Tokenizer]:
    """Open a model and its tokenizer: "pocket", "smollm2", a folder with Hugging Face files, a
    GGUF file, or a hub id.

    `dtype` is a torch type or its name ("bfloat16"); "auto" keeps the type of the file. A folder
    wins over a hub id ("owner/name"), which is fetched by `huggingface_hub` into its own cache.
    Raises: ValueError when the name, the folder, a file, the architecture or the device is not
    what was expected, or the hub cannot be reached.
    """
    if not isinstance(name, (str, Path)):
        raise ValueError(
            f'A model\'s name was asked for and {type(name).__name__} came; expected "pocket", a '
            "path, or a hub id. A model that is open already is used as it is."
        )
    device, dtype = checks.device("device", device), checks.dtype("dtype", dtype)
    if dtype is not None:
        checks.held(device, dtype)
    if str(name).endswith(".gguf"):
        config, weights, tokenizer = gguf_file.read(Path(name).expanduser(), device, dtype)
        return assemble(config, weights, Path(name)), tokenizer
    folder = hub.find(name)
    config = _read_config(folder)
    weights = safetensors_file.read(
        folder, device, dtype, lambda shapes: _fit(config, shapes, folder)
    )
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json", chat.read(folder))
    return assemble(config, weights, folder), tokenizer


@hub.in_short
def read_config(name: str | Path) -> ModelConfig:
    """The architecture of what `load` would open by this name; no weight is read.

    Raises: ValueError as `load` does.
    """
    if str(name).endswith(".gguf"):
        return gguf_file.read_config(Path(name).expanduser())
    return _read_config(hub.find(name))


def _read_config(folder: Path) -> ModelConfig:
    """The architecture; ids that end a text are those of generation_config.json, if it has any."""
    path = folder / "config.json"
    try:
        config = ModelConfig.from_hf(hub.read_json(path))
        path = folder / "generation_config.json"
        ends = as_ids(hub.read_json(path).get("eos_token_id")) if path.is_file() else ()
        return replace(config, eos_ids=ends) if ends else config
    except ValueError as error:
        said = str(error)
        raise error if str(path) in said else ValueError(f"{said} ({path})") from None


def assemble(config: ModelConfig, weights: dict[str, torch.Tensor], folder: Path) -> Transformer:
    """A model of these weights, which are checked against its configuration; `folder` is named."""
    model = _fit(config, {name: tuple(w.shape) for name, w in weights.items()}, folder)
    head = weights.pop(HEAD, None) if config.tie_embeddings else None
    if head is not None and not torch.equal(head, weights.setdefault(TABLE, head)):
        raise ValueError(_UNTIED.format(folder=folder))
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _fit(config: ModelConfig, came: dict[str, tuple[int, ...]], folder: Path) -> Transformer:
    """A model without numbers, of which these are all names and shapes.

    Raises: ValueError that names the first that is not.
    """
    if config.n_layers > len(came):  # a layer has nine tensors or more
        raise ValueError(
            f"The config in {folder} asks for {config.n_layers} layers, but the file holds "
            f"{len(came)} tensors. Check that both belong to the same model."
        )
    with torch.device("meta"):
        model = Transformer(config)
    came, expected = dict(came), {n: tuple(p.shape) for n, p in model.state_dict().items()}
    head = came.pop(HEAD, None) if config.tie_embeddings else None
    if head is not None and head != came.setdefault(TABLE, head):
        raise ValueError(_UNTIED.format(folder=folder))
    wrong = [
        f"{name} is {came.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(expected.keys() | came.keys())
        if came.get(name) != expected.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        headless = expected.keys() - came.keys() == {HEAD}
        cure = " If the head is the embedding, set tie_word_embeddings to true." * headless
        raise ValueError(
            f"The weights in {folder} do not fit its config.json: {wrong[0]}{more}.{cure} "
            "Check that both belong to the same model."
        )
    return model
