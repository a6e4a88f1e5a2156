"""All cases one after the other, and what came of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx

from kvlab.serve.torture.cases import ALL
from kvlab.serve.torture.target import Failed, NotSupported, Target

CASES = {case.__name__: case for case in ALL}


@dataclass(frozen=True)
class Outcome:
    """A case's name, what a good server does, how this one did, and why."""

    case: str
    asks: str
    verdict: str  # "passed", "failed", "not supported"
    why: str = ""


def run(target: Target, names: Sequence[str] = ()) -> Iterator[Outcome]:
    """Put a server to the test, case by case; all cases unless some are named.

    Raises: ValueError for a case that there is not, and where no such server answers.
    """
    for name in names:
        if name not in CASES:
            raise ValueError(f"There is no case {name!r}; there are {', '.join(CASES)}.")
    target.find_model()
    return (_outcome(target, name) for name in names or CASES)


def _outcome(target: Target, name: str) -> Outcome:
    case = CASES[name]
    asks = " ".join((case.__doc__ or "").split())
    try:
        case(target)
    except NotSupported as error:
        return Outcome(name, asks, "not supported", str(error))
    except Failed as error:
        return Outcome(name, asks, "failed", str(error))
    except httpx.TimeoutException:
        return Outcome(name, asks, "failed", f"No answer within {target.seconds:g} seconds.")
    except (httpx.HTTPError, OSError) as error:
        return Outcome(name, asks, "failed", f"{type(error).__name__}: {error}")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        why = f"An answer is not as OpenAI's interface has it: {type(error).__name__}: {error}"
        return Outcome(name, asks, "failed", why)
    return Outcome(name, asks, "passed")


def as_line(outcome: Outcome) -> str:
    """One outcome for people."""
    why = f"\n    {outcome.why}" if outcome.why else ""
    return f"{outcome.verdict:<13} {outcome.case}: {outcome.asks}{why}"
