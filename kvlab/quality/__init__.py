"""What pruning costs: the same prompts under every method, beside the dense cache, at equal bytes.

A prompt's text is read once and its cache pruned; only then the rest of the prompt is fed, the
right tokens one after the other. What follows is scored and never what was read, because reading
is dense whatever the policy. "Visible" says that the question was read before pruning and "unseen"
that it came after. Dense numbers are the model's own; bytes are those of 16-bit storage.
"""

from kvlab.measure.intervals import bootstrap, wilson
from kvlab.old._names import former
from kvlab.prune import parts_of
from kvlab.quality.errors import Recorded, output_errors, record
from kvlab.quality.held import held_bytes, storage
from kvlab.quality.measuring import measure
from kvlab.quality.methods import (
    BASELINES,
    DENSE,
    EVICTIONS,
    METHODS,
    WINDOW_ONLY,
    Method,
    Shape,
    as_method,
    at_bytes,
    check_names,
    window_only,
)
from kvlab.quality.prompts import (
    FILLER,
    NAMES,
    WORDS,
    Prompts,
    Question,
    asked,
    continuations,
    plain_questions,
)
from kvlab.quality.reading import Answers, answers, fed_tokens, needs_of_all, pruned, read
from kvlab.quality.stored import Packed, Stored

__all__ = [
    "BASELINES", "DENSE", "EVICTIONS", "FILLER", "METHODS", "NAMES", "WINDOW_ONLY", "WORDS",
    "Answers", "Method", "Packed", "Prompts", "Question", "Recorded", "Shape", "Stored", "answers",
    "as_method", "asked", "at_bytes", "bootstrap", "check_names", "continuations", "fed_tokens",
    "held_bytes", "measure", "needs_of_all", "output_errors", "parts_of", "plain_questions",
    "pruned", "read", "record", "storage", "wilson", "window_only",
]  # fmt: skip

__getattr__ = former(
    __name__,
    FLOOR="WINDOW_ONLY",
    Heard="Recorded",
    collecting="needs_of_all",
    fed="fed_tokens",
    floor="window_only",
    heard="record",
    measured="measure",
    thinned="pruned",
)
