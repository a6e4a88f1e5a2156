"""A checkpoint in Hugging Face's files, checked and opened.

Weights are read from memory-mapped safetensors straight into the model, so nothing executes and
memory peaks at about the size of the weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kvlab.config import ModelConfig
from kvlab.model import Transformer
from kvlab.tokenizer import Tokenizer

_SHIPPED = {"pocket": Path(__file__).parent / "pocket" / "weights"}
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> tuple[Transformer, Tokenizer]:
    """Open a model and its tokenizer: "pocket", or a folder with Hugging Face files.

    `dtype` is a torch type or its name ("bfloat16"); "auto" keeps the type of the file.
    Raises: ValueError when the name, the folder, a file, the architecture or the device is not
    what was expected.
    """
    folder = _find(name)
    device = check_device(device)
    config = ModelConfig.from_hf(_read_json(folder / "config.json"))
    weights = _read_weights(folder, device, _as_dtype(dtype))
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
    if not (folder / "config.json").is_file():
        shipped = ", ".join(map(repr, _SHIPPED))
        state = "it has no config.json" if folder.is_dir() else "that is not a folder"
        raise ValueError(
            f"Model {str(name)!r} was asked for: {state}. Expected {shipped}, or a folder with "
            "config.json, model.safetensors and tokenizer.json."
        )
    return folder


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
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = _read_json(index).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
            raise ValueError(f"{index} has no weight_map from names to files.")
        return [folder / name for name in sorted(set(files.values()))]
    return [folder / "model.safetensors"]


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
                    weights[name] = file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{path} is truncated or not a safetensors file ({error}). Fetch it again."
            ) from None
    for name, tensor in weights.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(
                f"{name} in {folder} is stored as {tensor.dtype}; expected floats of 16 to 64 "
                "bits. Quantised weights are not read."
            )
        weights[name] = tensor.to(dtype or tensor.dtype)
    if len(types := {str(w.dtype) for w in weights.values()}) > 1:
        raise ValueError(f"{folder} mixes {', '.join(sorted(types))}; name one dtype, not 'auto'.")
    return weights


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
