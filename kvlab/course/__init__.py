"""Exercises: check an answer, ask for a hint, grade a notebook.

`check` runs in the reader's own kernel and is quick. `grade` runs each answer in a process of its
own, with other random numbers. Both judge by the same specification, one module per chapter.

Importing this package imports nothing: the process that an answer runs in is a child of it and
must not find the specifications already loaded.
"""

__all__ = ["check", "hint"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module 'kvlab.course' has no attribute {name!r}")
    from kvlab.course import checking

    return getattr(checking, name)
