"""A model in one GGUF file, as llama.cpp and Ollama keep it: read, checked, and unfolded.

The file is mapped, not read, and its header is held against its length before any tensor is
unfolded. The `gguf` package knows the block formats; `transformers` turns the tokenizer's tables
into one of the `tokenizers` library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as _Tokenizer
from torch import Tensor

from kvlab import checks, gguf_rope
from kvlab.chat import ChatTemplate
from kvlab.config import ModelConfig
from kvlab.families import as_ids
from kvlab.tokenizer import Tokenizer

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # mistral's models call themselves llama
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")
# parameters by their name in the file, without the layer's prefix; a bias is called like its matrix
_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read(
    path: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[ModelConfig, dict[str, Tensor], Tokenizer]:
    """Configuration, parameters by Hugging Face's names, and tokenizer of a GGUF file.

    `dtype` is the type to hold the parameters in; None takes the one nearest to the file's
    (float16 for blocks of fewer bits). A tensor is unfolded and converted before the next one;
    `progress` is given the tensors and gives them back one by one, as tqdm does.
    Raises: ValueError when the file is cut, its header lies, or it holds what this engine does not
    run; nothing is unfolded before that.
    """
    package = _package(path)
    entries, tensors = _parsed(package, path)
    config = ModelConfig.from_hf(_as_hf(entries, tensors, path))
    _refuse_kinds(tensors, path)
    names = {name: _our_name(name, config, path) for name in tensors if name != gguf_rope.FREQS}
    _refuse_shapes(config, {names[name]: tensors[name] for name in names}, path)
    tokenizer = _tokenizer(path, config)
    tokenizer.template = _template(entries, tokenizer, path)
    dtype = dtype or _nearest(tensors)
    checks.held(device, dtype)
    weights = {}
    for name, ours in progress(list(names.items())):
        found = torch.tensor(package.dequantize(tensors[name].data, tensors[name].tensor_type))
        if entries["general.architecture"] == "llama":
            found = _unpermuted(ours, found, config)
        weights[ours] = found.to(dtype).to(device)
    return config, weights, tokenizer


def read_config(path: Path) -> ModelConfig:
    """The configuration alone, from the header. Raises: ValueError as `read` does for that."""
    return ModelConfig.from_hf(_as_hf(*_parsed(_package(path), path), path))


def _package(path: Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise ValueError(
            f"{path} is a GGUF file, which the gguf package reads and transformers helps with: "
            'pip install "gguf>=0.17" transformers'
        ) from None
    return gguf


def _parsed(package: Any, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header's entries but the tokenizer's tables, and the tensors, each a view of the file."""
    try:
        reader = package.GGUFReader(path)
        entries = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("tokenizer.ggml.") or len(field.data) == 1
        }
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        # a place so large that it wraps round the reader's 64 bits ends up before the data
        if any(tensor.data_offset < reader.data_offset for tensor in tensors.values()):
            raise ValueError("a tensor lies before the data")
        return entries, tensors
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror or error}.") from None
    except Exception as error:  # the package says what breaks in it, of whatever type
        raise ValueError(
            f"{path} is cut off or no GGUF file ({str(error)[:200] or type(error).__name__}). "
            "Fetch it again."
        ) from None


def _as_hf(entries: Mapping[str, Any], tensors: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The header as Hugging Face's config.json would have it."""
    kind = entries.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"{path} is of architecture {str(kind)[:40]!r}; expected one of "
            f"{', '.join(ARCHITECTURES)} (mistral is stored as llama)."
        )

    def entry(name: str, default: Any = ...) -> Any:
        found = entries.get(f"{kind}.{name}", default)
        if found is ...:
            raise ValueError(f"{path} has no entry {kind}.{name}; expected a whole header.")
        return found

    n_heads, width = entry("attention.head_count"), entry("embedding_length")
    _refuse_others(entry, tensors, path)
    eos = {entries.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
    return {
        "model_type": kind,
        "vocab_size": int(tensors["token_embd.weight"].shape[-1]),
        "hidden_size": width,
        "intermediate_size": entry("feed_forward_length"),
        "num_hidden_layers": entry("block_count"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": entry("attention.head_count_kv", n_heads),
        "head_dim": entry("attention.key_length", None),
        "max_position_embeddings": entry("context_length"),
        "rms_norm_eps": entry("attention.layer_norm_rms_epsilon"),
        "rope_parameters": gguf_rope.read(entry, tensors, path),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": kind != "qwen2" and "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "sliding_window": None,
        "bos_token_id": entries.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": list(as_ids(sorted(eos - {None}, key=str))),
    }


def _refuse_others(entry: Callable[..., Any], tensors: Mapping[str, Any], path: Path) -> None:
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path} has no token_embd.weight; expected a language model.")
    for name in ("expert_count", "attention.sliding_window"):
        if entry(name, 0):
            raise ValueError(f"{path} asks for {name} = {entry(name)}; this engine has none.")
    if entry("attention.value_length", None) != entry("attention.key_length", None):
        raise ValueError(f"{path} has keys and values of different widths; expected one width.")


def _our_name(name: str, config: ModelConfig, path: Path) -> str:
    """Hugging Face's name of a tensor; a layer that the header does not count is refused."""
    first, *rest = name.split(".")
    if first in _OUTER and rest == ["weight"]:
        return f"{_OUTER[first]}.weight"
    if first == "blk" and len(rest) == 3 and rest[1] in _INNER and rest[2] in ("weight", "bias"):
        layer, part, what = rest
        if layer.isdecimal() and int(layer) < config.n_layers:
            return f"model.layers.{int(layer)}.{_INNER[part]}.{what}"
    raise ValueError(
        f"{path} holds a tensor {name[:80]!r}, which a {config.family} of {config.n_layers} layers "
        "does not have; this engine would leave it out."
    )


def _refuse_kinds(tensors: Mapping[str, Any], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.tensor_type.name not in TYPES:
            raise ValueError(
                f"{name} in {path} is stored as {tensor.tensor_type.name}; expected one of "
                f"{', '.join(TYPES)}."
            )


def _refuse_shapes(config: ModelConfig, tensors: Mapping[str, Any], path: Path) -> None:
    """What the header says, held against the tensors' own shapes before any is unfolded."""
    if config.n_layers > len(tensors):
        raise ValueError(
            f"{path} counts {config.n_layers} layers and holds {len(tensors)} tensors; expected "
            "several to a layer."
        )
    c, f, d = config.hidden_size, config.intermediate_size, config.head_dim
    q, k = config.n_heads * d, config.n_kv_heads * d
    wanted = {
        "embed_tokens": (config.vocab_size, c), "lm_head": (config.vocab_size, c),
        "q_proj": (q, c), "k_proj": (k, c), "v_proj": (k, c), "o_proj": (c, q),
        "gate_proj": (f, c), "up_proj": (f, c), "down_proj": (c, f), "q_norm": (d,), "k_norm": (d,),
    }  # fmt: skip
    for name, tensor in tensors.items():
        part, what = name.split(".")[-2:]
        want, came = wanted.get(part, (c,)), tuple(int(n) for n in reversed(tensor.shape))
        want = want[:1] if what == "bias" else want
        if came != want:
            raise ValueError(f"{name} in {path} is {came}; by the header it is {want}.")


def _unpermuted(name: str, x: Tensor, config: ModelConfig) -> Tensor:
    """Llama's query and key rows as halves; the file has each pair that rope turns side by side."""
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return x
    return x.unflatten(0, (heads, config.head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def _nearest(tensors: Mapping[str, Any]) -> torch.dtype:
    """The type that holds what the file's largest tensor has."""
    largest = max(tensors.values(), key=lambda tensor: tensor.n_elements)
    return {"F32": torch.float32, "BF16": torch.bfloat16}.get(
        largest.tensor_type.name, torch.float16
    )


def _tokenizer(path: Path, config: ModelConfig) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ValueError(
            f"The tokenizer of {path} is turned into a tokenizer.json by transformers: "
            "pip install transformers"
        ) from None
    with checks.told(f"The tokenizer in {path} cannot be read by transformers"):
        found = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer = Tokenizer(_known_alone(found.backend_tokenizer, config.vocab_size))
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The tokenizer in {path} has {len(tokenizer)} tokens, the model {config.vocab_size}; "
            "expected both from one model."
        )
    return tokenizer


def _template(entries: Mapping[str, Any], tokenizer: Tokenizer, path: Path) -> ChatTemplate | None:
    source = entries.get("tokenizer.chat_template")
    if not isinstance(source, str):
        return None
    tokens = {}
    for name, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        i = entries.get(f"tokenizer.ggml.{theirs}_token_id")
        if isinstance(i, int) and 0 <= i < len(tokenizer):
            tokens[f"{name}_token"] = tokenizer.inner.id_to_token(i)
    return ChatTemplate(source, tokens, path)


def _known_alone(inner: _Tokenizer, n_tokens: int) -> _Tokenizer:
    """Without special tokens that the converter adds by itself and the model has no row for."""
    written = json.loads(inner.to_str())
    written["added_tokens"] = [t for t in written["added_tokens"] if t["id"] < n_tokens]
    return _Tokenizer.from_str(json.dumps(written))
