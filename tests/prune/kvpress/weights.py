"""A small random Llama whose weights depend on its seed alone; read by both sides."""

import numpy as np

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "head_dim": 16, "n_layers": 3,
    "n_kv_heads": 2,
}  # fmt: skip
SHARES = (1, 2, 4)  # query heads of a group
SEEDS = (0, 1)
KEPT = (48, 24)  # tokens left of
N_TOKENS = 64
WINDOW = 4


def weights(n_shared, seed):
    """Name -> float64 array, and the tokens of one prompt. RandomState's streams never change.

    No token comes twice: in the first layer both would have keys of one norm, a tie for knorm.
    """
    draw = np.random.RandomState(seed * 10 + n_shared)
    wide, mlp, width = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["head_dim"]
    kv = SIZES["n_kv_heads"] * width
    shapes = {"model.embed_tokens": (SIZES["vocab_size"], wide)}
    for i in range(SIZES["n_layers"]):
        at = f"model.layers.{i}."
        shapes |= {
            at + "self_attn.q_proj": (kv * n_shared, wide), at + "self_attn.k_proj": (kv, wide),
            at + "self_attn.v_proj": (kv, wide), at + "self_attn.o_proj": (wide, kv * n_shared),
            at + "mlp.gate_proj": (mlp, wide), at + "mlp.up_proj": (mlp, wide),
            at + "mlp.down_proj": (wide, mlp), at + "input_layernorm": (wide,),
            at + "post_attention_layernorm": (wide,),
        }  # fmt: skip
    shapes |= {"model.norm": (wide,), "lm_head": (SIZES["vocab_size"], wide)}
    made = {
        name + ".weight": draw.standard_normal(shape) * 1.5 * shape[-1] ** -0.5
        if len(shape) > 1
        else np.ones(shape)
        for name, shape in shapes.items()
    }
    return made, draw.permutation(SIZES["vocab_size"])[None, :N_TOKENS]
