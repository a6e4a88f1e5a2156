"""What a training run's log tells, summed up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NO_SHARE = {
    "step", "stage", "tokens", "seconds", "rate", "loss", "copy", "repeat", "pair", "apart",
}  # fmt: skip


def training_of(log: Path) -> dict[str, Any]:
    """Sum up a training run from its log.

    `emerged` is the first step at which a skill was measured at 0.8 or more.
    Raises: ValueError when there is no such log, or nothing in it.
    """
    try:
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{log} is no log of a training run: {error}") from None
    starts = [entry for entry in entries if "seed" in entry]
    reports = [entry for entry in entries if "step" in entry]
    if not starts or not reports:
        raise ValueError(f"{log} has no report of a training run yet.")
    curve = {entry["step"]: entry for entry in reports}  # the last report of a step counts
    last = reports[-1]
    emerged: dict[str, int] = {}
    for step, entry in curve.items():
        for skill, value in entry.items():
            if skill not in NO_SHARE and value >= 0.8:
                emerged.setdefault(skill, step)
    return {
        "command": f"python -m kvlab.pocket.train --seed {starts[0]['seed']}",
        **starts[0],
        "starts": len(starts),
        "steps": last["step"],
        "tokens": last["tokens"],
        "minutes": {what: round(value / 60, 1) for what, value in last["seconds"].items()},
        "gates": [entry for entry in entries if "gate" in entry],
        "emerged": emerged,
        "curve": [{k: v for k, v in entry.items() if k != "seconds"} for entry in curve.values()],
    }
