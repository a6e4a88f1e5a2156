"""`kvlab completion`: a script by which a shell completes commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What the shell is to read, made by shtab.

    Raises: ValueError where shtab is not installed, or for another shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"Completion for {shell!r} was asked for; there is {', '.join(SHELLS)}.")
    try:
        import shtab
    except ModuleNotFoundError:
        raise ValueError(
            "Completion is made by shtab, which is not in this environment; in the project's "
            'folder: pip install ".[completion]"'
        ) from None
    for action in _actions(parser):
        if action.choices is None and action.nargs != 0 and (names := _files(action)):
            action.complete = shtab.DIRECTORY if names == "folder" else shtab.FILE
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument, of commands too."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _files(action: argparse.Action) -> str:
    """Whether an argument takes a file's name, a folder's, or neither ("")."""
    said = action.metavar if isinstance(action.metavar, str) else ""
    if said == "FOLDER" or action.dest == "folder":
        return "folder"
    return "file" if "FILE" in said or "." in said or action.dest in ("files", "model") else ""
