"""Faults that others shipped, planted one by one; the checks of equality must find each."""

from __future__ import annotations

import copy
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from kvlab import generate
from kvlab.parallel import Mesh, shard_, sharding, tensor
from kvlab.parallel.shares import Share, share, split
from kvlab.sampling import Sampler
from tests.parallel import cases


def bias_on_every_rank():
    """26: the bias of what is summed is added once per process."""
    keep = tensor.keep_inputs_
    return mock.patch.object(
        tensor, "keep_inputs_", lambda *given, has_bias: keep(*given, has_bias=True)
    )


def kv_heads_dealt_in_turn():
    """27: with fewer KV heads than processes, process r takes head r modulo their number."""

    def dealt(config, rank, n):
        own, n_kv = share(config, rank, n), config.n_kv_heads
        head = range(rank % n_kv, rank % n_kv + 1) if n > n_kv else own.kv_heads
        return Share(own.heads, head, own.mlp, own.vocab)

    return mock.patch.object(sharding, "share", dealt)


def gathered_for_one_row():
    """28: gathered logits are reshaped, which is right for a batch of one only."""

    def whole(part, config, mesh):
        sizes = [len(own) for own in split(config.vocab_size, mesh.tp)]
        padded = torch.nn.functional.pad(part, (0, max(sizes) - part.shape[-1]))
        stacked = torch.stack(mesh.gather(padded))
        return stacked.reshape(*part.shape[:-1], -1)[..., : config.vocab_size]

    return mock.patch.object(sharding, "whole_logits", whole)


def summed(times):
    def sums(self, x: Tensor) -> Tensor:
        for _ in range(times if self.tp > 1 else 0):
            dist.all_reduce(x, group=self._row)
        return x

    return mock.patch.object(Mesh, "sum", sums)


def summed_twice():
    """29: an all-reduce too many."""
    return summed(2)


def summed_never():
    """29: an all-reduce missing."""
    return summed(0)


def picked_by_each():
    """30: every process draws for itself, with its own seed."""
    return mock.patch.object(Mesh, "same", lambda self, pick: pick)


# each with a model and a mesh where it shows
FAULTS = {
    "26 bias on every rank": (bias_on_every_rank, "llama, biased", "two share"),
    "27 KV heads dealt in turn": (kv_heads_dealt_in_turn, "llama", "four share"),
    "28 gathered for one row": (gathered_for_one_row, "llama", "two share"),
    "29 summed twice": (summed_twice, "llama", "two share"),
    "29 summed never": (summed_never, "llama", "two share"),
    "30 picked by each": (picked_by_each, "llama", "two share"),
}


def planted(meshes):
    """What the checks say of each fault."""
    found = {}
    for name, (fault, model, where) in FAULTS.items():
        whole, mesh = cases.model_of(model, vocab_size=60), meshes[where]
        with fault():
            found[f"planted: {name}"] = faulty(whole, mesh)
    return found


def faulty(whole, mesh):
    """Logits, and what is drawn with a seed of each process's own."""
    shard, tokens = shard_(copy.deepcopy(whole), mesh), cases.tokens_of(3, 7)
    sampler = Sampler(1.5, seed=10 + mesh.rank)
    drawn = generate(shard, cases.PADDED, cases.N_NEW, pick=mesh.same(sampler))
    return {"off": cases.off(shard(tokens), whole(tokens)), "tokens": drawn.tolist()}
