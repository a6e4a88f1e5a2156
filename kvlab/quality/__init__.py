"""What pruning costs: the same prompts under every method, beside the dense cache, at equal bytes.

A prompt's text is read once and its cache thinned; only then the rest of the prompt is fed, the
right tokens one after the other. What follows is scored and never what was read, because reading
is dense whatever the policy. "Visible" says that the question was read before thinning and "unseen"
that it came after. Dense numbers are the model's own; bytes are those of 16-bit storage.
"""

from kvlab.measure.intervals import bootstrap, wilson
from kvlab.quality.errors import Heard, heard, output_errors
from kvlab.quality.held import held_bytes, storage
from kvlab.quality.measuring import measured
from kvlab.quality.methods import (
    BASELINES,
    DENSE,
    EVICTIONS,
    FLOOR,
    METHODS,
    Method,
    Packed,
    Shape,
    as_method,
    at_bytes,
    check_names,
    floor,
    parts_of,
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
from kvlab.quality.reading import Answers, answers, collecting, fed, read, thinned

__all__ = [
    "BASELINES", "DENSE", "EVICTIONS", "FILLER", "FLOOR", "METHODS", "NAMES", "WORDS", "Answers",
    "Heard", "Method", "Packed", "Prompts", "Question", "Shape", "answers", "as_method", "asked",
    "at_bytes", "bootstrap", "check_names", "collecting", "continuations", "fed", "floor", "heard",
    "held_bytes", "measured", "output_errors", "parts_of", "plain_questions", "read", "storage",
    "thinned", "wilson",
]  # fmt: skip
