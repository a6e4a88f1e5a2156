"""GGUF files, written here by the `gguf` package, beside `transformers` and llama.cpp."""

import itertools
import json

import numpy as np
import pytest
import torch

from kvlab import gguf_file
from kvlab.checkpoint import load, read_config
from tests.test_families import peer

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
    words = ["".join(word) for word in itertools.product("ktsl", "aeiou", "nrm", "aei")]
    found.train_from_iterator([" ".join(words), "the queen"], trainer)
    model = json.loads(found.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]


def write(
    path,
    model,
    kind="F32",
    *,
    changes=(),
    tables=True,
    freqs=None,
    n_layers=None,
    architecture=None,
    template=None,
):
    """A `transformers` model as a GGUF file, its matrices of one kind."""
    config = model.config
    name = ARCHITECTURE.get(config.model_type, config.model_type)
    out = gguf.GGUFWriter(str(path), architecture or name)
    out.add_block_count(n_layers or config.num_hidden_layers)
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
    if template is not None:
        out.add_chat_template(template)
    for key, value in changes:
        add_entry = {str: out.add_string, float: out.add_float32, int: out.add_uint32}
        add_entry[type(value)](key, value)
    if freqs is not None:
        out.add_tensor("rope_freqs.weight", freqs.astype(np.float32))
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
    assert read_config(tmp_path / "m.gguf") == model.config


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


def test_the_tokenizer_comes_from_the_file(tmp_path):
    model, tokenizer = load(write(tmp_path / "m.gguf", wide("llama")))
    text = "the queen's castle, naïve\n  你好"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and len(ids) < len(text.encode())
    assert len(tokenizer) == 300 and model.config.eos_ids == (0,)


def test_the_chat_template_comes_from_the_file(tmp_path):
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    file = write(tmp_path / "m.gguf", wide("llama"), template=source)
    tokenizer = load(file)[1]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    want = theirs.apply_chat_template([{"role": "user", "content": "the queen"}], return_dict=False)
    assert tokenizer.chat("the queen") == want and want[0] == want[-1] == 0
    with pytest.raises(ValueError, match="has no chat template"):
        load(write(tmp_path / "m.gguf", wide("llama")))[1].chat("the queen")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F32", "float32"), ("BF16", "bfloat16"), ("F16", "float16"), ("Q4_K", "float16")],
)
def test_auto_is_the_type_nearest_to_the_files(tmp_path, kind, dtype):
    model, _ = load(write(tmp_path / "m.gguf", wide("llama"), kind), dtype="auto")
    assert model.dtype == getattr(torch, dtype)


def test_llama_cpp_gives_the_same_tokens(tmp_path):
    """At each place where the two best logits are further apart than half precision rounds."""
    llama_cpp_agrees(write(tmp_path / "m.gguf", wide("llama"), "F16"))


def llama_cpp_agrees(path):
    llama_cpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp (llama.cpp)")
    model, tokenizer = load(path)
    # the end of a text, and parts of characters, which their answer leaves out
    banned = [i for i in range(300) if i == 0 or "\ufffd" in tokenizer.decode([i])]
    params = llama_cpp.CommonParams()
    params.model.path, params.n_ctx, params.verbosity = str(path), 256, -1
    server, prompt = llama_cpp.Server(params), TOKENS_BS[0].tolist()
    asked = {"prompt": prompt, "n_predict": 48, "temperature": 0, "n_probs": 1}
    never = {"logit_bias": [[i, False] for i in banned], "cache_prompt": False}
    said = server.handle_completions(asked | never)
    theirs = [place["id"] for place in said["choices"][0]["logprobs"]["content"]]
    tokens_BS = torch.tensor([prompt + theirs])
    with torch.no_grad():
        all_BSV = model(tokens_BS, torch.arange(tokens_BS.shape[1])[None])
    logits_NV = all_BSV[0, len(prompt) - 1 : -1]
    logits_NV[:, banned] = -torch.inf
    best, second = logits_NV.topk(2).values.T
    clear = best - second > 0.05
    assert len(theirs) == 48 and clear.sum() > 24
    assert logits_NV.argmax(-1)[clear].tolist() == torch.tensor(theirs)[clear].tolist()


def entry(name, value):
    return {"changes": [(name, value)]}


REFUSED = {
    "unknown type": (lambda p: write(p, wide("llama"), "Q5_0"), r"stored as Q5_0; expected one of"),
    "architecture": (
        lambda p: write(p, wide("llama"), architecture="gemma3"),
        r"of architecture 'gemma3'; expected one of llama, qwen2, qwen3",
    ),
    "experts": (
        lambda p: write(p, wide("llama"), **entry("llama.expert_count", 8)),
        r"asks for expert_count = 8",
    ),
    "sliding": (
        lambda p: write(p, wide("llama"), **entry("llama.attention.sliding_window", 64)),
        r"asks for attention.sliding_window = 64",
    ),
    "no tokenizer": (
        lambda p: write(p, wide("llama"), tables=False), r"The tokenizer in .* cannot be read"
    ),
    "a thousand million layers": (
        lambda p: write(p, wide("llama"), n_layers=10**9), r"counts 10{9} layers and holds 21 t"
    ),
    "a layer too few": (
        lambda p: write(p, wide("llama"), n_layers=1), r"'blk\.1\.[a-z_.]+', which a llama of 1 lay"
    ),
    "a layer too many": (
        lambda p: write(p, wide("llama"), n_layers=3), r"do not fit .*model\.layers\.2\.\S+ is miss"
    ),
    "no numbers": (lambda p: p.write_bytes(b""), r"is cut off or no GGUF file"),
    "another file": (lambda p: p.write_bytes(b"PK\3\4" * 99), r"is cut off or no GGUF file"),
    "no file": (lambda p: None, r"cannot be opened: No such file"),
    "a folder": (lambda p: p.mkdir(), r"cannot be opened: Is a directory"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_read_is_refused_by_name(tmp_path, what):
    made, said = REFUSED[what]
    made(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match=said) as caught:
        load(tmp_path / "m.gguf")
    assert "m.gguf" in str(caught.value) and len(str(caught.value)) < 500


def test_a_cut_or_lying_file_is_refused_wherever_it_is_cut(tmp_path):
    whole = write(tmp_path / "m.gguf", wide("llama"), "Q8_0").read_bytes()
    tensors = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    end = max(int(tensor.data_offset + tensor.n_bytes) for tensor in tensors)  # then it is padded
    cuts = [*np.random.default_rng(0).integers(1, end, 12).tolist(), end - 1]
    for n in cuts:
        (tmp_path / "cut.gguf").write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"cut\.gguf is cut off or no GGUF file"):
            gguf_file._parsed(gguf, tmp_path / "cut.gguf")
    # the last field of a tensor's description is where it lies
    at = whole.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4
    for lie in (len(whole), 2**62, 2**64 - 1):
        bad = whole[:at] + lie.to_bytes(8, "little") + whole[at + 8 :]
        (tmp_path / "lie.gguf").write_bytes(bad)
        with pytest.raises(ValueError, match=r"lie\.gguf is cut off or no GGUF file"):
            load(tmp_path / "lie.gguf")
    for count in (8, 16):  # how many tensors, how many entries
        bad = whole[:count] + (2**60).to_bytes(8, "little") + whole[count + 8 :]
        (tmp_path / "many.gguf").write_bytes(bad)
        with pytest.raises(ValueError, match=r"many\.gguf is cut off or no GGUF file"):
            load(tmp_path / "many.gguf")
