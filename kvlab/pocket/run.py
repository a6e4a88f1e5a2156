"""One training run: its steps, its gates, its log and its checkpoints.

A gate at a stage's end gives the stage more steps while a skill is missing, and in the end stops
the run. A run that was stopped goes on from its checkpoint, and ends with the same weights as one
that was not.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kvlab import files
from kvlab.config import ModelConfig
from kvlab.measure.progress_bar import progress
from kvlab.pocket import bpe
from kvlab.pocket.feeder import Feeder
from kvlab.pocket.learning import CONFIG, export, loss_of, new_model, optimisers_for
from kvlab.pocket.schedule import COPYING, SCHEDULE, Stage, fingerprint
from kvlab.pocket.skills import Skills

WARMUP_STEPS = 60
EXTRA_STEPS = 200  # what a stage gets once more when its gate fails
N_EXTENSIONS = 5  # how often, in each stage


class GateFailed(RuntimeError):
    """A skill did not emerge."""


class Run:
    """One training run: everything that a checkpoint has to hold, and the steps."""

    def __init__(
        self,
        seed: int,
        out: Path,
        *,
        config: ModelConfig = CONFIG,
        schedule: Sequence[Stage] = SCHEDULE,
        feeder: Feeder | None = None,
        probe: Skills | None = None,
        report_every: int = 200,
        keep_going: bool = False,
    ) -> None:
        self.seed, self.out, self.schedule = seed, out, schedule
        self.report_every, self.keep_going = report_every, keep_going
        self.feeder = feeder or Feeder(bpe.load())
        self.probe = probe or Skills(self.feeder.tokenizer)
        self.model = new_model(config, seed)
        self.optimisers = optimisers_for(self.model)
        self.rng = random.Random(1000 + seed)
        self.stage_steps = [stage.steps for stage in schedule]  # grows when a gate asks for more
        self.stage, self.step_in_stage, self.step, self.tokens = 0, 0, 0, 0
        self.extensions, self.failed = 0, []
        self.loss: float | None = None
        self.seconds = {"writing": 0.0, "learning": 0.0, "measuring": 0.0}

    # -- one step
    def rate(self) -> float:
        """Return the learning rate of the step to come."""
        first, last = self.schedule[self.stage].rate
        share = self.step_in_stage / self.stage_steps[self.stage]
        return (first + (last - first) * share) * min(1.0, (self.step + 1) / WARMUP_STEPS)

    def learn(self) -> None:
        """Take one step."""
        with self.timed("writing"):
            tokens_BS, weight_BS = self.feeder.batch(self.rng, self.schedule[self.stage])
        with self.timed("learning"):
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = self.rate()
            loss = loss_of(self.model, tokens_BS, weight_BS)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        new = loss.item()
        self.loss = new if self.loss is None else 0.97 * self.loss + 0.03 * new
        self.tokens += tokens_BS[:, 1:].numel()
        self.step += 1
        self.step_in_stage += 1

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the time of a block to what it was spent on."""
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start

    # -- all steps
    def train(self, stop_after: int | None = None) -> None:
        """Run to the end, or until this many steps are done in all.

        Raises: GateFailed, unless the run keeps going.
        """
        with progress() as show:
            while self.stage < len(self.schedule):
                while self.step_in_stage < self.stage_steps[self.stage]:
                    if self.step == stop_after:
                        return
                    self.learn()
                    what = f"{self.schedule[self.stage].name}, loss {self.loss:.2f}"
                    show(self.step, what, sum(self.stage_steps))
                    at_end = self.step_in_stage == self.stage_steps[self.stage]
                    if self.step % self.report_every == 0 and not at_end:
                        self.report()
                        self.save()
                self.pass_gate()
                export(self.model, self.out / "model")
                self.save()

    def pass_gate(self) -> None:
        """Go on if the stage's skills are there; else give it more steps, or stop."""
        stage = self.schedule[self.stage]
        skills = self.report()
        missing = {
            skill: skills[skill]
            for skill, bar in stage.gate.items()
            if (skills[skill] > bar if skill in COPYING else skills[skill] < bar)
        }
        if missing and self.extensions < N_EXTENSIONS:
            self.extensions += 1
            self.stage_steps[self.stage] += min(EXTRA_STEPS, stage.steps)
            self.note(gate="more steps", stage=stage.name, missing=missing)
            return
        if missing:
            self.note(gate="failed", stage=stage.name, missing=missing)
            least = ", ".join(
                f"{s} is {v:.2f}, not {stage.gate[s]:.2f}" for s, v in missing.items()
            )
            if not self.keep_going:
                raise GateFailed(f"after stage {stage.name!r}: {least}")
            self.failed.append(f"after stage {stage.name!r}: {least}")
        elif stage.gate:
            self.note(gate="passed", stage=stage.name)
        self.stage += 1
        self.step_in_stage = self.extensions = 0

    # -- words about it
    def report(self) -> dict[str, float]:
        """Measure the skills, log them and return them."""
        with self.timed("measuring"):
            skills = self.probe(self.model, self.schedule[self.stage].context)
        self.note(
            step=self.step,
            stage=self.schedule[self.stage].name,
            tokens=self.tokens,
            seconds={what: round(value, 1) for what, value in self.seconds.items()},
            rate=round(self.rate(), 6),
            loss=round(self.loss or 0.0, 4),
            **{skill: round(value, 4) for skill, value in skills.items()},
        )
        return skills

    def note(self, **entry: Any) -> None:
        """Add a line to the log, and print it."""
        line = json.dumps(entry)
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(line + "\n")
        print(line, flush=True)

    # -- checkpoints
    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def save(self) -> None:
        """Write a checkpoint; a run that dies meanwhile leaves the one before it whole."""
        version, numbers, gauss = self.rng.getstate()
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "writer_state": [version, list(numbers), gauss],
            "torch_state": torch.get_rng_state(),
            "seed": self.seed,
            "schedule": [fingerprint(stage) for stage in self.schedule],
            "stage_steps": self.stage_steps,
            "stage": self.stage,
            "step_in_stage": self.step_in_stage,
            "step": self.step,
            "tokens": self.tokens,
            "extensions": self.extensions,
            "failed": self.failed,
            "loss": self.loss,
            "seconds": self.seconds,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        # an open file: torch would put its name into the checkpoint
        with files.writing(self.checkpoint) as part, part.open("wb") as file:
            torch.save(state, file)

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises: ValueError if there is none, or it is of another run.
        """
        if not self.checkpoint.exists():
            raise ValueError(f"nothing to resume: there is no {self.checkpoint}")
        state = torch.load(self.checkpoint, weights_only=True)
        if state["seed"] != self.seed:
            raise ValueError(f"{self.checkpoint} has seed {state['seed']}, not {self.seed}")
        begun = state["stage"] + (state["step_in_stage"] > 0)
        if state["schedule"][:begun] != [fingerprint(stage) for stage in self.schedule[:begun]]:
            raise ValueError(f"{self.checkpoint} is of another schedule: what it did has changed")
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        version, numbers, gauss = state["writer_state"]
        self.rng.setstate((version, tuple(numbers), gauss))
        torch.set_rng_state(state["torch_state"])
        self.stage_steps[:begun] = state["stage_steps"][:begun]
        for name in ("stage", "step_in_stage", "step", "tokens", "extensions"):
            setattr(self, name, state[name])
        self.failed, self.loss, self.seconds = state["failed"], state["loss"], state["seconds"]
