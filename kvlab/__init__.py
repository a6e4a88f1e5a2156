"""How a language model answers a prompt, small enough to read and real enough to use.

Importing this module imports nothing else: each name below is fetched from its module when it is
first asked for, so that `python -m kvlab` can start on a bare Python and set itself up.
"""

__version__ = "0.1.0"

_HOME = {
    "ModelConfig": "config",
    "Tokenizer": "tokenizer",
    "KVCache": "cache",
    "LayerKV": "cache",
    "attend": "attention",
    "Elements": "prune",
    "Evict": "prune",
    "Evidence": "prune",
    "Pruner": "prune",
    "Sparsify": "prune",
    "Then": "prune",
    "density": "prune",
    "needs": "prune",
    "Transformer": "model",
    "load": "loading",
    "export": "exporting",
    "int8_weights_": "int8",
    "Sampler": "generation",
    "decode": "generation",
    "generate": "generation",
    "generate_uncached": "generation",
    "greedy": "generation",
    "prefill": "generation",
    "stream": "generation",
    "compiled_decode": "graphs",
    "check_policy": "laws",
    "Probe": "probe",
    "check": "course",
    "hint": "course",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError("module 'kvlab' has no attribute '" + name + "'")
    from importlib import import_module

    value = getattr(import_module("kvlab." + _HOME[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
