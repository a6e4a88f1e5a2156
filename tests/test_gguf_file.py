"""GGUF files, written here by the `gguf` package, beside `transformers`' reading and llama.cpp's."""

import json

import numpy as np
import pytest
import torch

from kvlab import generate, gguf_file
from kvlab.checkpoint import load
from tests.test_families import LLAMA3, peer

gguf = pytest.importorskip("gguf", reason="needs gguf")
transformers = pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate")
tokenizers = pytest.importorskip("tokenizers")

PLAIN = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
# where a block of 256 numbers holds its half-precision scales, how many bytes it has, and a scale
# that makes its numbers about as large as a trained matrix's
BLOCKS = {
    "Q4_K": ((0, 2), 144, 1e-4), "Q5_K": ((0, 2), 176, 6e-5), "Q6_K": ((208,), 210, 2e-5),
}  # fmt: skip
ARCHITECTURE = {"llama": "llama", "llama3": "llama", "mistral": "llama"}
OURS = {theirs: name for name, theirs in (gguf_file._OUTER | gguf_file._INNER).items()}


def spelled(vocab=300):
    """A small byte-level vocabulary and its merges."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    found.train_from_iterator(["the king and the queen live in the castle " * 9], trainer)
    model = json.loads(found.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]


def write(path, model, kind="F32", *, changes=(), tables=True):
    """A `transformers` model as a GGUF file, its matrices of one kind."""
    config = model.config
    name = ARCHITECTURE.get(config.model_type, config.model_type)
    out = gguf.GGUFWriter(str(path), name)
    out.add_block_count(config.num_hidden_layers)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_key_length(config.head_dim)
    out.add_value_length(config.head_dim)
    out.add_rope_dimension_count(config.head_dim)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_vocab_size(config.vocab_size)
    if tables:
        tokens, merges = spelled(config.vocab_size)
        out.add_tokenizer_model("gpt2")
        out.add_tokenizer_pre("gpt-2")
        out.add_token_list(tokens)
        out.add_token_types([3] + [1] * (len(tokens) - 1))
        out.add_token_merges(merges)
        out.add_eos_token_id(0)
        out.add_bos_token_id(0)
        out.add_add_bos_token(False)
    for key, value in changes:
        out.add_uint32(key, value)
    for theirs, weight in model.state_dict().items():
        add(out, theirs, weight.float().numpy(), kind, config, name)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def add(out, theirs, x, kind, config, architecture):
    outer, _, what = theirs.rpartition(".")
    if outer in OURS:
        name = f"{OURS[outer]}.{what}"
    else:
        _, _, layer, inner = outer.split(".", 3)
        name = f"blk.{layer}.{OURS[inner]}.{what}"
    part = outer.split(".")[-1]
    if architecture == "llama" and part in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if part[0] == "q" else config.num_key_value_heads
        x = x.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(x.shape)
    if x.ndim == 1:
        return out.add_tensor(name, x)
    if kind in BLOCKS:
        data, which = blocks(x.shape, kind), gguf.GGMLQuantizationType[kind]
    elif kind == "F16":
        return out.add_tensor(name, x.astype(np.float16))
    else:
        which = gguf.GGMLQuantizationType[kind]
        data = gguf.quantize(x, which)
    return out.add_tensor(name, data, raw_dtype=which)


def blocks(shape, kind):
    """Any bytes are a legal block, if its scales are finite."""
    scales, n_bytes, scale = BLOCKS[kind]
    draw = np.random.default_rng(shape[0])
    rows = draw.integers(0, 256, (shape[0], shape[1] // 256, n_bytes), dtype=np.uint8)
    for at in scales:
        rows[..., at : at + 2] = np.full(1, scale, np.float16).view(np.uint8)
    return rows.reshape(shape[0], -1)


def wide(family, **changes):
    """Wide enough for blocks of 256 numbers."""
    return peer(
        family, vocab_size=300, hidden_size=256, intermediate_size=256, num_hidden_layers=2,
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, **changes},
    )  # fmt: skip


TOKENS_BS = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(1))


def logits(model):
    with torch.no_grad():
        return model(TOKENS_BS)


@pytest.mark.parametrize("family", ["llama", "llama-biased", "mistral", "qwen2", "qwen3"])
def test_a_file_in_full_precision_is_the_model_it_was_written_from(tmp_path, family):
    theirs = wide(family)
    model, _ = load(write(tmp_path / "m.gguf", theirs))
    pos_BS = torch.arange(40).expand(2, -1)
    torch.testing.assert_close(model(TOKENS_BS, pos_BS), logits(theirs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [*PLAIN, *BLOCKS])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_each_kind_is_read_as_transformers_reads_it(tmp_path, family, kind):
    # it takes every qwen3 for one with heads of 128
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128}
    write(tmp_path / "m.gguf", wide(family, **(heads if family == "qwen3" else {})), kind)
    model, _ = load(tmp_path / "m.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    )
    pos_BS = torch.arange(40).expand(2, -1)
    want = logits(theirs.eval()).logits
    assert want.std() > 0.01
    torch.testing.assert_close(model(TOKENS_BS, pos_BS), want, rtol=0, atol=1e-5)
