"""A checkpoint in Hugging Face's files: opened and checked.

Weights are read from memory-mapped safetensors straight into the model, so nothing executes and
memory peaks at about the size of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kvlab import chat, checks, gguf_file, hub
from kvlab.config import ModelConfig
from kvlab.families import as_ids
from kvlab.model import Transformer
from kvlab.tokenizer import Tokenizer


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
    weights = _read_weights(folder, device, dtype)
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


def _weight_files(folder: Path) -> list[Path]:
    """One file where there is one, as `transformers` has it; else those that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    parts = hub.read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
        raise ValueError(f"{index} has no weight_map from names to files.")
    for name in parts.values():
        if Path(name).name != name or len(name) > 200:
            raise ValueError(f"{index} names {name[:80]!r}; expected a file beside it.")
    return [folder / name for name in sorted(set(parts.values()))]


def _read_weights(
    folder: Path, device: torch.device, dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    weights = {}
    for path in _weight_files(folder):
        if not path.is_file():
            raise ValueError(hub.no_weights(path))
        try:
            for name, tensor in _tensors(path, device, dtype):
                if name in weights:
                    raise ValueError(f"{name} is in two files of {folder}; expected it once.")
                weights[name] = tensor
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{path} is truncated or not a safetensors file ({error}). Fetch it again."
            ) from None
    if len(types := {str(w.dtype) for w in weights.values()}) > 1:
        raise ValueError(f"{folder} mixes {', '.join(sorted(types))}; name one dtype, not 'auto'.")
    return weights


def _tensors(
    path: Path, device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of one file, by name, each converted before the next is read.

    One that keeps its type stays a view of the mapped file. After one that is converted the file
    is opened anew: the old map goes, and with it the pages that were read. A device that does not
    hold all types gets each tensor converted.
    """
    first = "cpu" if device.type in checks.HOLDS else str(device)
    file = safe_open(path, framework="pt", device=first)
    for name in list(file.keys()):
        if name.endswith("rotary_emb.inv_freq"):  # in old files; it follows from the config
            continue
        tensor = file.get_tensor(name)
        if tensor.dtype not in checks.FLOATS:
            raise ValueError(
                f"{name} in {path.parent} is stored as {tensor.dtype}; expected floats of 16 to "
                "64 bits. Quantised weights are not read."
            )
        checks.held(device, dtype or tensor.dtype)
        if dtype not in (None, tensor.dtype):
            tensor = tensor.to(dtype)
            file = safe_open(path, framework="pt", device=first)
        yield name, tensor.to(device)


def assemble(config: ModelConfig, weights: dict[str, torch.Tensor], folder: Path) -> Transformer:
    """A model of these weights, which are checked against its configuration; `folder` is named."""
    if config.n_layers > len(weights):  # a layer has nine tensors or more
        raise ValueError(
            f"The config in {folder} asks for {config.n_layers} layers, but the file holds "
            f"{len(weights)} tensors. Check that both belong to the same model."
        )
    with torch.device("meta"):
        model = Transformer(config)
    head = weights.pop("lm_head.weight", None) if config.tie_embeddings else None
    if head is not None and not torch.equal(
        head, weights.setdefault("model.embed_tokens.weight", head)
    ):
        raise ValueError(
            f"The config in {folder} ties lm_head.weight to the embedding, but the file holds "
            "another one. Set tie_word_embeddings to false if the head is its own."
        )
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    came = {name: tuple(w.shape) for name, w in weights.items()}
    wrong = [
        f"{name} is {came.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(expected.keys() | came.keys())
        if came.get(name) != expected.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        headless = expected.keys() - came.keys() == {"lm_head.weight"}
        cure = " If the head is the embedding, set tie_word_embeddings to true." * headless
        raise ValueError(
            f"The weights in {folder} do not fit its config.json: {wrong[0]}{more}.{cure} "
            "Check that both belong to the same model."
        )
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()
