"""A checkpoint in Hugging Face's files, checked and opened.

Weights are read from memory-mapped safetensors straight into the model, so nothing executes and
memory peaks at about the size of the weights.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kvlab.config import ModelConfig, as_ids
from kvlab.model import Transformer
from kvlab.tokenizer import Tokenizer

_SHIPPED = {"pocket": Path(__file__).parent / "pocket" / "weights"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> tuple[Transformer, Tokenizer]:
    """Open a model and its tokenizer: "pocket", a folder with Hugging Face files, or a hub id.

    `dtype` is a torch type or its name ("bfloat16"); "auto" keeps the type of the file. A folder
    wins over a hub id ("owner/name"), which is fetched by `huggingface_hub` into its own cache.
    Raises: ValueError when the name, the folder, a file, the architecture or the device is not
    what was expected, or the hub cannot be reached.
    """
    device, dtype = check_device(device), _as_dtype(dtype)
    folder = _find(name)
    config = _read_config(folder)
    weights = _read_weights(folder, device, dtype)
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    return _assemble(config, weights, folder), tokenizer


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it."""
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise ValueError(
            f"Device {str(device)!r} was asked for; expected 'cpu', 'cuda' or 'cuda:0'."
        )
    if wanted.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (wanted.index or 0) >= count:
            raise ValueError(
                f"Device {str(device)!r} was asked for, but torch {torch.__version__} sees "
                f"{count} CUDA devices here. Use device='cpu', or see `kvlab doctor`."
            )
    return wanted


def _find(name: str | Path) -> Path:
    folder = _SHIPPED.get(str(name), Path(name).expanduser())
    if (folder / "config.json").is_file():
        return folder
    if not folder.exists() and isinstance(name, str) and _HUB_ID.fullmatch(name):
        return _from_hub(name)
    shipped = ", ".join(map(repr, _SHIPPED))
    state = "it has no config.json" if folder.is_dir() else "that is not a folder"
    raise ValueError(
        f"Model {str(name)!r} was asked for: {state}. Expected {shipped}, a folder with "
        "config.json, model.safetensors and tokenizer.json, or a hub id like 'owner/name'."
    )


def _from_hub(name: str) -> Path:
    """A hub's checkpoint in the local cache, fetched if it is not there yet."""
    try:
        from huggingface_hub import snapshot_download

        files = snapshot_download(name, allow_patterns=["*.json", "*.safetensors"], etag_timeout=5)
    except Exception as error:  # the hub's own errors are many, and all of them end here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"Model {name!r} is no folder here, and could not be fetched from the hub ({reason}). "
            "Check the name and the network, or download its files elsewhere and pass the folder."
        ) from None
    return Path(files)


def _read_config(folder: Path) -> ModelConfig:
    """The architecture; ids that end a text are those of generation_config.json, if it has any."""
    config = ModelConfig.from_hf(_read_json(folder / "config.json"))
    generation = folder / "generation_config.json"
    ends = as_ids(_read_json(generation).get("eos_token_id")) if generation.is_file() else ()
    return replace(config, eos_ids=ends) if ends else config


def _as_dtype(dtype: torch.dtype | str) -> torch.dtype | None:
    """A torch type, or None for the file's own."""
    if dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in _DTYPES:
        raise ValueError(
            f"dtype {dtype!r} was asked for; expected 'float32', 'bfloat16', 'float16', "
            "'float64' or 'auto'."
        )
    return found


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a JSON object.")
    return found


def _weight_files(folder: Path) -> list[Path]:
    """One file where there is one, as `transformers` has it; else those that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    files = _read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
        raise ValueError(f"{index} has no weight_map from names to files.")
    return [folder / name for name in sorted(set(files.values()))]


def _read_weights(
    folder: Path, device: torch.device, dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    weights = {}
    for path in _weight_files(folder):
        if not path.is_file():
            raise ValueError(f"No weights at {path}; expected a safetensors file.")
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118  (safe_open is no dict)
                    weights[name] = _as(file.get_tensor(name), dtype, name, folder)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{path} is truncated or not a safetensors file ({error}). Fetch it again."
            ) from None
    if len(types := {str(w.dtype) for w in weights.values()}) > 1:
        raise ValueError(f"{folder} mixes {', '.join(sorted(types))}; name one dtype, not 'auto'.")
    return weights


def _as(tensor: torch.Tensor, dtype: torch.dtype | None, name: str, folder: Path) -> torch.Tensor:
    if tensor.dtype not in _DTYPES:
        raise ValueError(
            f"{name} in {folder} is stored as {tensor.dtype}; expected floats of 16 to 64 "
            "bits. Quantised weights are not read."
        )
    return tensor.to(dtype or tensor.dtype)


def _assemble(config: ModelConfig, weights: dict[str, torch.Tensor], folder: Path) -> Transformer:
    with torch.device("meta"):
        model = Transformer(config)
    if config.tie_embeddings:
        weights.pop("lm_head.weight", None)
    weights = {k: v for k, v in weights.items() if not k.endswith("rotary_emb.inv_freq")}
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    came = {name: tuple(w.shape) for name, w in weights.items()}
    wrong = [
        f"{name} is {came.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(expected.keys() | came.keys())
        if came.get(name) != expected.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(
            f"The weights in {folder} do not fit its config.json: {wrong[0]}{more}. "
            "Check that both belong to the same model."
        )
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()
