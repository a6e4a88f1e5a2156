"""What an exercise's file imports: `from kvlab.course.author import Exercise, AtMost, …`."""

from kvlab.course.author.compare import AtLeast, AtMost, Hidden, Near, as_tensor, brief
from kvlab.course.author.laws import named, paired, raised_by
from kvlab.course.author.lending import (
    LentDevice,
    LentFunction,
    LentModel,
    per_thread,
    pocket_model,
    tiny_model,
)
from kvlab.course.author.quiz import choice, claims, one_number
from kvlab.course.author.spec import Case, Exercise, Outcome
from kvlab.course.author.variant import per_student
from kvlab.course.sandbox.answer import Answer, LocalAnswer, NotData
from kvlab.course.sandbox.loan import Lent

__all__ = [
    "Answer",
    "AtLeast",
    "AtMost",
    "Case",
    "Exercise",
    "Hidden",
    "Lent",
    "LentDevice",
    "LentFunction",
    "LentModel",
    "LocalAnswer",
    "Near",
    "NotData",
    "Outcome",
    "as_tensor",
    "brief",
    "choice",
    "claims",
    "named",
    "one_number",
    "paired",
    "per_student",
    "per_thread",
    "pocket_model",
    "raised_by",
    "tiny_model",
]
