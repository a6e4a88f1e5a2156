"""The pocket model: a small language model with its world, its training and its weights.

`world` writes the corpus, `bpe` trains the tokenizer, `train` the weights. `exam` measures them
all over: `questions` asks, `heads` watches, `perplexity` reads and writes, and `card` tells it.
Importing this package imports none of these.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """Return the folder that holds the shipped model's Hugging Face files."""
    return Path(__file__).resolve().parent / "weights"
