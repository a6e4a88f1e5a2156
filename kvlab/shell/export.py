"""A model written as Hugging Face files, which `transformers` opens unchanged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from kvlab import checks, files
from kvlab.model import Transformer
from kvlab.tokenizer import Tokenizer

SHARD_BYTES = 5 * 10**9  # of one file of weights, at the most


def export(
    model: Transformer,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    dtype: torch.dtype | str = "auto",
) -> Path:
    """Write config, weights and tokenizer into a new folder, and return it.

    Weights of more than 5 GB go into several files, as `transformers` writes them.
    `dtype` is the precision of the file, as in `load`; "auto" is the model's own. The tokenizer's
    chat template goes with it, and the special tokens that it names.
    Raises: ValueError when the model is quantised or none that `transformers` has, or the folder
    holds something already or cannot be written; it is then as it was.
    """
    folder, stored = Path(folder).expanduser(), checks.dtype("dtype", dtype) or model.dtype
    checks.in_one_piece("Export was asked for", model)
    config = model.config.to_hf(str(stored).removeprefix("torch."))
    if not all(weight.is_floating_point() for weight in model.state_dict().values()):
        raise ValueError(
            "Export of a model with int8 weights was asked for; expected one whose weights are "
            "all floats. Export it before int8_weights_."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        held = next(folder.iterdir()).name if folder.is_dir() else "it is a file"
        raise ValueError(
            f"Export into {folder} was asked for, but there is something already ({held}); "
            "expected a new or an empty folder."
        )
    try:
        place = Path(os.path.realpath(folder))
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".export-") as made:
            whole = Path(made) / "model"
            whole.mkdir()
            _write(model, tokenizer, whole, stored, config)
            _move(whole, place)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"Export into {folder} failed: {_why(error)}.") from None
    return folder


def _why(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def _write(
    model: Transformer,
    tokenizer: Tokenizer,
    folder: Path,
    dtype: torch.dtype,
    hf: dict[str, Any],
) -> None:
    config = model.config
    _write_weights(model.state_dict(), folder, dtype)
    tokenizer.inner.save(str(folder / "tokenizer.json"))
    end = _token(tokenizer, config.eos_ids[0] if config.eos_ids else None)
    # a batch needs something to pad with, and nothing reads it
    named = {"bos_token": _token(tokenizer, config.bos_id), "eos_token": end, "pad_token": end}
    ids = {"bos_token_id": config.bos_id, "eos_token_id": list(config.eos_ids) or None}
    written = {
        "config.json": hf,
        "generation_config.json": {k: v for k, v in ids.items() if v is not None},
        "tokenizer_config.json": {
            **{k: v for k, v in named.items() if v is not None},
            **getattr(tokenizer.template, "tokens", {}),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.max_positions,
            "clean_up_tokenization_spaces": False,
        },
    }
    source = getattr(tokenizer.template, "source", None)
    if source is not None:
        files.write(folder / "chat_template.jinja", source)
    for name, content in written.items():
        files.write(folder / name, json.dumps(content, indent=2) + "\n")


def _write_weights(weights: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    """One file, or several of at most SHARD_BYTES with an index of what is in which."""
    sizes = {name: weight.numel() * dtype.itemsize for name, weight in weights.items()}
    shards = _shards(sizes)
    places = {}
    for i, names in enumerate(shards, 1):
        of = f"-{i:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        some = {name: weights[name].detach().to("cpu", dtype).contiguous() for name in names}
        with files.writing(
            folder / f"model{of}.safetensors"
        ) as part:  # the library makes it private
            save_file(some, part, metadata={"format": "pt"})
        places |= dict.fromkeys(names, f"model{of}.safetensors")
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        text = json.dumps(index, indent=2) + "\n"
        files.write(folder / "model.safetensors.index.json", text)


def _shards(sizes: dict[str, int]) -> list[list[str]]:
    """Names in their order, cut where the next one would make more bytes than a file may have."""
    found, full = [[]], 0
    for name, size in sizes.items():
        if found[-1] and full + size > SHARD_BYTES:
            found.append([])
            full = 0
        found[-1].append(name)
        full += size
    return found


def _move(whole: Path, place: Path) -> None:
    """Put a folder in the place of an empty one, or of none.

    The folder in which we are stays, since whoever started us is in it too: its files come there.
    """
    if place.exists() and os.path.samefile(place, os.curdir):
        for file in sorted(whole.iterdir(), key=lambda file: file.name == "config.json"):
            shutil.move(file, place)  # the config last: without it nothing is opened
        return
    if place.exists():
        with contextlib.suppress(PermissionError):  # an owner that we may not give
            files.as_before(whole, place.stat())
        place.rmdir()
    shutil.move(whole, place)


def _token(tokenizer: Tokenizer, i: int | None) -> str | None:
    return None if i is None else tokenizer.inner.id_to_token(i)
