"""What the exercises of a chapter were called, for teachers' files of private cases."""

import warnings

NAMES = {
    "ch01": "PROJECT SCORES SOFTMAX ATTEND KEY TRAIN",
    "ch02": "MASK ATTENTION LEAK STABLE RANK QUERY_FOUR ALL_POSITIONS",
    "ch05": "PREFILL TRACE WORK STOPWATCH LATENCIES ROWS LENGTH FIRST NOTES",
    "ch06": "PREALLOCATED CACHED_ATTENTION AUDIT CACHED_GENERATE FORK_REWIND SIXTH_TOKEN "
    "REUSE_CLAIMS",
}


def by_old_name(chapter):
    """The `__getattr__` of a chapter's package: its exercises stood there in order."""
    old = NAMES[chapter.rpartition(".")[2]].split()

    def found(name):
        if name not in old:
            raise AttributeError(f"module {chapter!r} has no attribute {name!r}")
        from kvlab.course.exercises import find

        number = f"{int(chapter[-2:])}.{old.index(name) + 1}"
        warnings.warn(
            f"{chapter}.{name} is now kvlab.course.exercises.find({number!r}); the old name will "
            "go with the next release.",
            FutureWarning,
            2,
        )
        return find(number)

    return found
