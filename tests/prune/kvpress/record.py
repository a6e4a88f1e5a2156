"""Record what kvpress keeps of a small random Llama: `kept.json`, read by test_policies.py.

It needs an environment of its own, because kvpress pins transformers below 5.3:
    pip install torch==2.13.0 'transformers<5.3' kvpress
    python tests/prune/kvpress/record.py
Each entry is a bit mask in hexadecimal: bit i is token (of think: channel) i.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import kvpress

sys.path.insert(0, str(Path(__file__).parent))
from weights import KEPT, N_TOKENS, SEEDS, SHARES, SIZES, WINDOW, weights


def model_of(made, n_shared, attention):
    config = LlamaConfig(
        vocab_size=SIZES["vocab_size"], hidden_size=SIZES["hidden_size"],
        intermediate_size=SIZES["intermediate_size"], head_dim=SIZES["head_dim"],
        num_hidden_layers=SIZES["n_layers"], num_key_value_heads=SIZES["n_kv_heads"],
        num_attention_heads=SIZES["n_kv_heads"] * n_shared, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False, attn_implementation=attention,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    model.load_state_dict({name: torch.tensor(x) for name, x in made.items()})
    return model


def presses(ratio):
    snap = {"compression_ratio": ratio, "window_size": WINDOW}
    return {
        "snapkv": kvpress.SnapKVPress(**snap),
        "tova": kvpress.TOVAPress(ratio),
        "streaming": kvpress.StreamingLLMPress(ratio),
        "knorm": kvpress.KnormPress(ratio),
        "keydiff": kvpress.KeyDiffPress(ratio),
        "observed": kvpress.ObservedAttentionPress(ratio),
        "expected_attention": kvpress.ExpectedAttentionPress(ratio),
        "pyramidkv": kvpress.PyramidKVPress(**snap, beta=4),
        "criticalkv": kvpress.CriticalKVPress(kvpress.SnapKVPress(**snap)),
        "adakv": kvpress.AdaKVPress(kvpress.SnapKVPress(**snap)),
        "think": kvpress.ThinKPress(ratio, window_size=WINDOW),
    }


def bits(numbers):
    return hex(sum(1 << int(n) for n in numbers))


@torch.no_grad()
def kept(model, tokens, name, press):
    dense, thin = DynamicCache(), DynamicCache()
    model(tokens, past_key_values=dense)
    with press(model):
        model(tokens, past_key_values=thin)
    found = []
    for i, layer in enumerate(model.model.layers):
        heads = []
        for g in range(SIZES["n_kv_heads"]):
            full, left = dense.layers[i].keys[0, g], thin.layers[i].keys[0, g]
            if name == "think":
                heads.append(bits((left != 0).any(0).nonzero()[:, 0]))
            elif name == "adakv":
                _, head, slot = layer.self_attn.masked_key_indices
                gone = set(slot[head == g].tolist())
                heads.append(bits(set(range(N_TOKENS)) - gone))
            else:
                same = (left[:, None] == full[None]).all(-1)
                assert (same.sum(1) == 1).all()
                heads.append(bits(same.int().argmax(1)))
        found.append(heads)
        layer.self_attn.masked_key_indices = None
    return found


def main():
    cases = []
    for n_shared in SHARES:
        for seed in SEEDS:
            made, tokens = weights(n_shared, seed)
            for n in KEPT:
                case = {"n_shared": n_shared, "seed": seed, "n": n}
                for name, press in presses(1 - n / N_TOKENS).items():
                    eager = "eager" if name == "observed" else "sdpa"
                    model = model_of(made, n_shared, eager)
                    case[name] = kept(model, torch.tensor(tokens), name, press)
                cases.append(case)
                print(case["n_shared"], seed, n, flush=True)
    made_by = {name: version(name) for name in ("kvpress", "transformers", "torch")}
    path = Path(__file__).parent / "kept.json"
    path.write_text(json.dumps({"made_by": made_by, "cases": cases}, indent=0) + "\n")


if __name__ == "__main__":
    main()
