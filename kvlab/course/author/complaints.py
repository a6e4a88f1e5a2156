"""What an error of torch's asks for, where its own words do not say it to a learner."""

import re

from kvlab.course.author.compare import KEEP_DTYPE

_COMPLAINTS = {
    r"argsort\(\) (received an invalid combination|takes from 1 to 0)": (
        "With stable=True torch wants the axis by its name: argsort(dim=-1, stable=True)."
    ),
    r"have the same dtype|expected scalar type|dtypes match|self\.dtype to be equal to src": (
        f"Tensors of two types meet: {KEEP_DTYPE}."
    ),
}


def explained(raised: str) -> str:
    """A sentence on what an error asks for, with a space before it; "" where its text says it."""
    for pattern, says in _COMPLAINTS.items():
        if re.search(pattern, raised):
            return f" {says}"
    return ""
