"""`shard_`: what one process keeps of a model, and what it exchanges with the others."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from kvlab import checks
from kvlab.model import Transformer
from kvlab.parallel.mesh import Mesh
from kvlab.parallel.pipeline import Elsewhere, Handover, Received
from kvlab.parallel.shares import check, share, stages
from kvlab.parallel.tensor import VocabularyShare, keep_outputs_, split_layer_, whole_logits


def shard_(model: Transformer, mesh: Mesh) -> Transformer:
    """Leave a model what this process of the mesh holds of it, in place, and return it.

    All processes call it with equal models, and then make the same calls of their own. The class is
    the same, weights are replaced by shares, and hooks exchange what has to be: `generate`,
    `stream`, the engine, and caches that `new_cache` makes with this process's layers and heads go
    on as before. Logits are whole in all processes of the last stage; other stages give zeros,
    so use `mesh.same(pick)`, or `kvlab.parallel.pipelined`.
    A checkpoint that was loaded in its own type is mapped from its file, and only the shares are
    read. Pruning, compiled steps, int8 and export take a whole model.
    Raises: ValueError for more parts than the model has, or a model that was cut before.
    """
    checks.model("model", model)
    checks.kind("mesh", mesh, Mesh, "a Mesh, as kvlab.parallel.Mesh(tp=2)")
    if getattr(model, "mesh", None) is not None:
        raise ValueError(f"A model was to be cut that is a share already, of {model.mesh!r}.")
    whole = model.config
    check(whole, mesh.tp, mesh.pp)
    layers = stages(whole, mesh.pp)[mesh.stage]
    own = share(whole, mesh.tp_rank, mesh.tp)
    model.requires_grad_(False)
    model.model.layers = nn.ModuleList(model.model.layers[i] for i in layers)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.index = index
        if mesh.tp > 1:
            split_layer_(layer, own, mesh)
    config = replace(
        whole, n_layers=len(layers), n_heads=len(own.heads), n_kv_heads=len(own.kv_heads),
        intermediate_size=len(own.mlp), tie_embeddings=whole.tie_embeddings and mesh.pp == 1,
    )  # fmt: skip
    _cut_ends_(model, own.vocab, mesh)
    model.config = model.model.config = config
    model.mesh = mesh
    return model


def _cut_ends_(model: Transformer, own: range, mesh: Mesh) -> None:
    """Leave a stage its share of embedding and head, if it has them, else what stands for them."""
    config, decoder = model.config, model.model
    weight_VC = decoder.embed_tokens.weight[own.start : own.stop]
    if mesh.pp > 1 and config.tie_embeddings:  # a head of its own
        model.lm_head = nn.Linear(1, 1, bias=False, device="meta")
        model.lm_head.weight = nn.Parameter(decoder.embed_tokens.weight, requires_grad=False)
    if not mesh.is_first:
        decoder.embed_tokens = Received(config.hidden_size, weight_VC, mesh)
    elif mesh.tp > 1:
        decoder.embed_tokens = VocabularyShare(weight_VC, config.vocab_size, own, mesh)
    if not mesh.is_last:
        decoder.norm, model.lm_head = Handover(mesh), Elsewhere(config.vocab_size)
    elif mesh.tp > 1:
        if hasattr(model, "lm_head"):
            keep_outputs_(model.lm_head, own)
        model.tap_logits.register_forward_hook(_putting_together(config, mesh))


def _putting_together(config, mesh: Mesh):
    def put(_module: nn.Module, _given: tuple, part: Tensor) -> Tensor:
        return whole_logits(part, config, mesh)

    return put
