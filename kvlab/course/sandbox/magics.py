"""A notebook's cell as plain Python: what only IPython understands is passed over, line by line.

Standard library alone: an answer's process imports this.
"""

from __future__ import annotations

import io
import re
import tokenize
import warnings

# An escape at the start of a statement, or what is assigned from one: `%time f()`, `files = !ls`.
_ESCAPED = re.compile(
    r"(?P<indent>[ \t]*)(?P<target>[^\W\d][\w.\[\], \t]*=[ \t]*)?(?P<mark>%%?|!!?|\?)(?P<rest>.*)"
)
_QUESTION = re.compile(r"[ \t]*%{0,2}[^\W\d][\w.*\[\]]*\?\??[ \t]*;?[ \t]*$")  # torch.einsum?
_RUN_THEIR_REST = ("time", "prun")
_PROMPT = re.compile(r"^(>>>|\.\.\.)( |$)", re.M)


def python_of(source: str) -> str:
    """A cell's text as Python of as many lines; what is Python already stays as it is.

    A magic that runs its line in the cell gives way to that line (`%time x = f()`), other magics,
    shell lines and questions to nothing, and what is assigned from them is empty.
    """
    if compiles(source):
        return source
    done: list[str] = []
    goes_on = False  # a shell line, over a backslash
    for line in _from_the_margin(source).split("\n"):
        plain = None if goes_on else _plain(line)
        if goes_on:
            goes_on = line.endswith("\\")
            done.append("")
        elif plain is not None and _at_a_start(done):
            goes_on = line.endswith("\\")
            done.append(plain)
        else:
            done.append(line)
    return "\n".join(done)


def compiles(source: str) -> bool:
    """Whether it is Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(source, "<cell>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError):
            return False
    return True


def _from_the_margin(source: str) -> str:
    """The text without the indent and the prompts that its first line has, as IPython takes it."""
    text = re.sub(r"\r\n?", "\n", source)
    first = re.search(r"^([ \t]*)(\S*)", text.lstrip("\n"))
    if first[1]:
        text = re.sub(f"^{first[1]}", "", text, flags=re.M)
    return _PROMPT.sub("", text) if first[2] == ">>>" else text


def _plain(line: str) -> str | None:
    """The Python in place of a line for IPython, None for a line that is none."""
    found = _ESCAPED.match(line)
    indent = re.match(r"[ \t]*", line)[0]
    nothing = f"{indent}pass" if indent else ""  # a future import has only empty lines before it
    if found is None:
        return nothing if _QUESTION.match(line) else None
    target, (name, _, rest) = found["target"] or "", found["rest"].partition(" ")
    if found["mark"] == "%" and name in _RUN_THEIR_REST and compiles(rest.strip()):
        return indent + target + rest.strip()
    if target:
        return f"{indent}{target}{[] if found['mark'][0] == '!' else None}"
    return nothing


def _at_a_start(lines: list[str]) -> bool:
    """Whether a statement may begin after these lines: no bracket or string of theirs is open."""
    if lines and lines[-1].endswith("\\"):
        return False
    try:
        for _ in tokenize.generate_tokens(io.StringIO("\n".join([*lines, ""])).readline):
            pass
    except tokenize.TokenError:
        return False
    except SyntaxError:  # an indent that fits nowhere
        pass
    return True
