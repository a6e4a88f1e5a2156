"""How a language model answers a prompt, small enough to read and real enough to use.

Importing this module imports nothing else: each name below is fetched from its module when it is
first asked for, so that `python -m kvlab` can start on a bare Python and set itself up.
"""

import sys

# `python -m kvlab` looks for modules in the working folder first, where a stranger's notebooks may
# lie and a json.py beside them. All of ours are found by this package's own path.
if sys.argv[:1] == ["-m"] and not (getattr(sys.flags, "safe_path", 0) or sys.flags.isolated):
    sys.path.pop(0)

__version__ = "0.1.0"

__path__.append(__path__[0] + "/old")  # what modules were called before they moved

_HOME = {
    "ModelConfig": "config",
    "Tokenizer": "tokenizer",
    "Cache": "cache",
    "KVCache": "cache",
    "LayerKV": "cache",
    "attend": "attention",
    "Transformer": "model",
    "Sampler": "sampling",
    "greedy": "sampling",
    "decode": "generation",
    "generate": "generation",
    "generate_uncached": "measure.uncached",
    "prefill": "generation",
    "stream": "generation",
    "export": "shell.export",
    "load": "checkpoint",
    "Elements": "prune",
    "Evict": "prune",
    "Evidence": "prune",
    "Pruner": "prune",
    "Sparsify": "prune",
    "Then": "prune",
    "density": "prune",
    "needs": "prune",
    "Channels": "pack",
    "CodesPerChannel": "pack",
    "CodesPerToken": "pack",
    "PackedKVCache": "pack",
    "PerToken": "pack",
    "compiled_decode": "fast.compiled",
    "int8_weights_": "fast.int8",
    "check_policy": "quality.laws",
    "Probe": "measure.probe",
    "check": "course",
    "hint": "course",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    from importlib import import_module

    if name in _HOME:
        value = getattr(import_module("kvlab." + _HOME[name]), name)
        globals()[name] = value
        return value
    module = "kvlab." + name
    try:
        if not name.startswith("_"):
            return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    raise AttributeError("module 'kvlab' has no attribute '" + name + "'")


def __dir__():
    return sorted(__all__)
