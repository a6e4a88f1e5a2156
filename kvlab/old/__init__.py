"""What things were called before: old names work for this release, with one warning each."""

import warnings
from functools import wraps

_GOES = "the old name will go with the next release."


def in_new_words(given, new, stacklevel=2, whose="it"):
    """Keywords `given` by old names or new ones, by the new ones."""
    found = {}
    for name, value in given.items():
        now = new.get(name, name)
        if name in new:
            if now in given:
                raise TypeError(
                    f"{whose} was given {name}= and {now}=, which are one; pass {now}=."
                )
            warnings.warn(f"{name}= is now {now}=; {_GOES}", FutureWarning, stacklevel)
        found[now] = value
    return found


def renamed(**new):
    """A decorator for keywords that have other names now: `@renamed(every="at_once")`."""

    def wrap(function):
        @wraps(function)
        def called(*args, **given):
            return function(*args, **in_new_words(given, new, 3, function.__qualname__))

        return called

    return wrap


class Former:
    """An attribute under its old name: `check_room = Former("check_capacity")` in a class."""

    def __init__(self, now):
        self._now = now

    def __set_name__(self, owner, name):
        self._was = name

    def __get__(self, it, owner=None):
        if it is None:
            return self
        kind = type(it).__name__
        warnings.warn(
            f"{kind}.{self._was} is now {kind}.{self._now}; {_GOES}", FutureWarning, stacklevel=2
        )
        return getattr(it, self._now)
