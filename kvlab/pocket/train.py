"""Train the pocket model from nothing, on one CPU core, in about an hour.

    python -m kvlab.pocket.train --seed 0 --out runs/pocket

The order matters more than the size. A boot camp comes first: copying, then repeating, then pairs,
then recall by name emerge one after the other, each rather suddenly. Only then does the text grow
long. A gate at a stage's end measures the skill that the next stage rests on; it gives the stage
more steps while the skill is missing, and in the end stops the run.

A run that was stopped goes on with `--resume`, and ends with the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from kvlab import files
from kvlab.config import ModelConfig
from kvlab.model import Transformer
from kvlab.pocket import bpe, evaluate, path, world
from kvlab.pocket.muon import Muon
from kvlab.progress import progress

CONFIG = ModelConfig(
    vocab_size=bpe.VOCAB_SIZE,
    hidden_size=192,
    intermediate_size=512,
    n_layers=4,
    n_heads=6,
    n_kv_heads=2,
    head_dim=32,
    max_positions=bpe.CONTEXT,
    tie_embeddings=True,
    bos_id=0,
    eos_ids=(0,),
)
LEARNING_RATE = 3e-3
WARMUP_STEPS = 60
# what the schedule below, and its stages on 128 tokens, take at most when no gate asks for more: on
# the slowest core that trained it (0.63 s a step of 2,048 tokens); the card's took three quarters
FULL_MINUTES, CAMP_MINUTES = 70, 20
EXTRA_STEPS = 200  # what a stage gets once more when its gate fails
N_EXTENSIONS = 5  # how often, in each stage

# ----------------------------------------------------------------------------------- the schedule
REPETITION = {
    "facts": 0.08,
    "prose": 0.05,
    "story": 0.04,
    "key_value": 0.23,
    "copy": 0.15,
    "repeat": 0.30,
    "pair": 0.15,
}
PAIRS = {
    "facts": 0.07,
    "prose": 0.05,
    "story": 0.06,
    "key_value": 0.25,
    "copy": 0.03,
    "repeat": 0.14,
    "pair": 0.26,
    "records": 0.14,
}
RELATIONS = {
    "facts": 0.06,
    "prose": 0.04,
    "story": 0.22,
    "key_value": 0.28,
    "copy": 0.02,
    "repeat": 0.03,
    "records": 0.09,
    "apart": 0.26,
}
CODES = {
    "facts": 0.06,
    "prose": 0.04,
    "story": 0.18,
    "key_value": 0.15,
    "codes": 0.14,
    "profiles": 0.09,
    "latest": 0.06,
    "counting": 0.05,
    "numbers": 0.08,
    "copy": 0.02,
    "repeat": 0.02,
    "records": 0.05,
    "apart": 0.06,
}
ANSWERS = {
    "facts": 0.40,
    "fact_prose": 0.10,
    "prose": 0.25,
    "story": 0.05,
    "copy": 0.10,
    "repeat": 0.10,
}
EVERYTHING = {
    "facts": 0.12,
    "fact_prose": 0.04,
    "prose": 0.12,
    "story": 0.09,
    "key_value": 0.20,
    "codes": 0.06,
    "needle": 0.17,
    "profiles": 0.06,
    "latest": 0.05,
    "counting": 0.03,
    "numbers": 0.03,
    "copy": 0.01,
    "repeat": 0.01,
    "apart": 0.01,
}
COPYING = ("copy", "repeat", "pair", "apart")  # skills measured as a loss
KINDS_GATE = {
    "recall password": 0.8,
    "recall color": 0.8,
    "recall pet": 0.8,
    "recall place": 0.8,
    "recall code": 0.8,
    "where": 0.8,
    "has": 0.8,
}

LAST_GATE = KINDS_GATE | {
    "recall code": 0.9,
    "recall password 256": 0.95,
    "recall password 950": 0.9,
    "recall first code 950": 0.9,
    "two kinds": 0.8,
    "facts": 0.95,
}


@dataclass(frozen=True)
class Stage:
    """Steps on windows of one length, drawn from one mix.

    `gate` maps a skill to the least share of right answers, or for COPYING to the highest loss.

    `docs` of the windows are Python's documentation; `long` of the rest start with one document
    that fills the window, and `far` of these ask for what their first sentences told. The learning
    rate goes evenly from the first `rate` to the second.
    """

    name: str
    context: int
    steps: int
    tokens_per_step: int
    mix: dict[str, float]
    docs: float = 0.0
    long: float = 0.0
    far: float = 0.0
    gate: dict[str, float] = field(default_factory=dict)
    rate: tuple[float, float] = (LEARNING_RATE, LEARNING_RATE)


SCHEDULE = (
    Stage("repetition", 128, 800, 2048, REPETITION, gate={"repeat": 0.5}),
    Stage("pairs", 128, 300, 2048, PAIRS, gate={"pair": 0.5}),
    Stage("relations", 128, 400, 2048, RELATIONS, gate={"recall password": 0.8, "apart": 0.5}),
    Stage("codes", 128, 400, 2048, CODES, gate=KINDS_GATE),
    Stage("everything 256", 256, 450, 4096, EVERYTHING, 0.70, 0.15, rate=(3e-3, 3e-3)),
    Stage("everything 512", 512, 400, 4096, EVERYTHING, 0.60, 0.35, rate=(3e-3, 2.2e-3)),
    Stage("everything 1024", 1024, 450, 4096, EVERYTHING, 0.50, 0.50, 0.5, rate=(2.2e-3, 0.8e-3)),
    Stage(
        "everything 2048",
        2048,
        250,
        4096,
        EVERYTHING,
        docs=0.30,
        long=0.60,
        far=0.7,
        rate=(0.8e-3, 0.02e-3),
        gate=LAST_GATE,
    ),
    # what little was read at a falling rate is weak: documentation, and codes 1,000 tokens back
    Stage(
        "once more 1280",
        1280,
        300,
        4096,
        EVERYTHING,
        docs=0.40,
        long=0.80,
        far=0.5,
        rate=(1.5e-3, 0.02e-3),
        gate=LAST_GATE,
    ),
)
CAMP = SCHEDULE[:4]


class GateFailed(RuntimeError):
    """A skill did not emerge."""


# ---------------------------------------------------------------------------------------- windows
class Feeder:
    """Cuts written documents into windows of tokens and loss weights."""

    def __init__(self, tokenizer: Tokenizer, docs: Sequence[str] | None = None) -> None:
        self.tokenizer = tokenizer
        self.docs = bpe.ids_of(
            tokenizer, "\n\n".join(bpe.python_docs()[0].values() if docs is None else docs)
        )

    def encoded(self, document: world.Document) -> tuple[list[int], list[float]]:
        """Return the tokens of one document, after the token that opens it, and their weights."""
        ids, weights = [0], [world.PLAIN]
        for piece, found in zip(
            document,
            self.tokenizer.encode_batch([p.text for p in document], add_special_tokens=False),
            strict=True,
        ):
            ids += found.ids
            weights += [piece.weight] * len(found.ids)
        return ids, weights

    def window(self, rng: random.Random, stage: Stage) -> tuple[list[int], list[float]]:
        """Fill one window of context + 1 tokens; no document is cut, what is left is padding."""
        size = stage.context + 1
        if rng.random() < stage.docs:
            start = rng.randrange(len(self.docs) - size)
            return self.docs[start : start + size], [world.PLAIN] * size
        ids, weights = self._long(rng, stage) if rng.random() < stage.long else ([], [])
        misses = 0
        while len(ids) < size and misses < 3:
            room = 40 if misses else rng.randint(50, max(51, stage.context - 30))
            more, their_weights = self.encoded(world.document(rng, room, stage.mix))
            if len(ids) + len(more) <= size:
                ids += more
                weights += their_weights
            else:
                misses += 1
        n_left = size - len(ids)
        ends = [world.PLAIN] + [world.NOTHING] * n_left  # the last document ends, then nothing does
        return ids + [0] * n_left, weights + ends[:n_left]

    def _long(self, rng: random.Random, stage: Stage) -> tuple[list[int], list[float]]:
        size = stage.context + 1
        write = world.far if stage.far and rng.random() < stage.far else world.long
        for share in (1.0, 0.93, 0.86):
            ids, weights = self.encoded(write(rng, int((size - 20) * share)))
            if len(ids) <= size:
                return ids, weights
        return [], []

    def batch(self, rng: random.Random, stage: Stage) -> tuple[Tensor, Tensor]:
        """Draw one step's tokens_BS and weight_BS, one token longer than the context."""
        n_rows = max(1, stage.tokens_per_step // stage.context)
        rows = [self.window(rng, stage) for _ in range(n_rows)]
        return torch.tensor([ids for ids, _ in rows]), torch.tensor([w for _, w in rows])


# ------------------------------------------------------------------------------------------ model
def new_model(config: ModelConfig, seed: int) -> Transformer:
    """Draw a fresh model in which each layer adds nothing yet: the stream is the embedding alone.

    With o_proj and down_proj at zero a prototype learned to copy hundreds of steps earlier (seen
    once).
    """
    torch.manual_seed(seed)
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            torch.nn.init.normal_(parameter, 0.0, parameter.shape[1] ** -0.5)
    return model


def optimisers_for(model: Transformer) -> list[torch.optim.Optimizer]:
    """Give the layers' matrices to Muon, embedding and norms to AdamW."""
    named = dict(model.named_parameters())
    matrices = {n for n, p in named.items() if p.dim() == 2 and "embed" not in n}
    return [
        Muon([p for n, p in named.items() if n in matrices], lr=LEARNING_RATE, weight_decay=0.05),
        torch.optim.AdamW(
            [p for n, p in named.items() if n not in matrices],
            lr=LEARNING_RATE,
            betas=(0.9, 0.98),
            weight_decay=0.0,
        ),
    ]


def loss_of(model: Transformer, tokens_BS: Tensor, weight_BS: Tensor) -> Tensor:
    """Weighted mean loss of the next tokens; logits are made only where the weight is not 0."""
    wanted_BS = weight_BS[:, 1:] > 0
    logits_NV = model.head(model.hidden(tokens_BS[:, :-1])[wanted_BS])
    loss_N = F.cross_entropy(logits_NV, tokens_BS[:, 1:][wanted_BS], reduction="none")
    weight_N = weight_BS[:, 1:][wanted_BS]
    return (loss_N * weight_N).sum() / weight_N.sum()


# -------------------------------------------------------------------------------------------- run
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
        probe: evaluate.Skills | None = None,
        report_every: int = 200,
        keep_going: bool = False,
    ) -> None:
        self.seed, self.out, self.schedule = seed, out, schedule
        self.report_every, self.keep_going = report_every, keep_going
        self.feeder = feeder or Feeder(bpe.load())
        self.probe = probe or evaluate.Skills(self.feeder.tokenizer)
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


def fingerprint(stage: Stage) -> str:
    """Name a stage by a hash of all its numbers."""
    return hashlib.sha256(repr(stage).encode()).hexdigest()[:12]


def schedule_for(minutes: float) -> tuple[Stage, ...]:
    """Return the stages that fit into so many minutes of the card's machine.

    The stages on 128 tokens, in which recall emerges, are kept whole, and what is left goes to the
    long ones; their gate asks nothing of a run that is cut short. In less time than that nothing
    would be recalled: the run learns to answer questions instead.
    """
    if minutes < CAMP_MINUTES:
        steps = round(minutes / CAMP_MINUTES * sum(stage.steps for stage in CAMP))
        return (Stage("answers", 128, max(1, steps), 2048, ANSWERS, rate=(3e-3, 0.3e-3)),)
    share = (minutes - CAMP_MINUTES) / (FULL_MINUTES - CAMP_MINUTES)
    cut = (
        replace(
            stage,
            steps=max(1, round(stage.steps * share)),
            gate=stage.gate if share >= 1 else {},
        )
        for stage in SCHEDULE[len(CAMP) :]
    )
    return (*CAMP, *cut)


def export(model: Transformer, folder: Path) -> None:
    """Write a model as Hugging Face files, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().half().contiguous() for name, p in model.state_dict().items()}
    with files.writing(folder / "model.safetensors") as part:
        save_file(weights, part, metadata={"format": "pt"})
    bpe.write_json(folder / "config.json", model.config.to_hf("float16"))
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    bpe.write_json(folder / "generation_config.json", ends)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (path() / name).exists() and folder.resolve() != path():
            files.write(folder / name, (path() / name).read_bytes())


def provenance(feeder: Feeder) -> dict[str, Any]:
    """Say what besides the seed a retrained model depends on."""
    return {
        "cpu": evaluate.cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tokenizer_sha256": evaluate.sha256(path() / "tokenizer.json"),
        "docs_sha256": hashlib.sha256(
            "\n\n".join(bpe.python_docs()[0].values()).encode()
        ).hexdigest(),
    }


def draw_curve(out: Path) -> None:
    """Draw how the skills came, where matplotlib is installed."""
    try:
        from kvlab.pocket import curve
    except ImportError:
        print("matplotlib is not installed: no learning curve is drawn from log.jsonl")
        return
    if curve.draw([out / "log.jsonl"], out / "curve.png"):
        print(f"Learning curve: {out / 'curve.png'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, say how long it took on what, and leave the Hugging Face files in OUT/model."""
    parser = argparse.ArgumentParser("python -m kvlab.pocket.train", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="scale the schedule to about this long")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--keep-going", action="store_true", help="do not stop at a failed gate; still exit with 3"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    schedule = SCHEDULE
    if args.minutes is not None:
        if not args.minutes > 0:
            parser.error(f"--minutes {args.minutes:g} was asked for; expected more than 0")
        schedule = schedule_for(args.minutes)
        steps = ", ".join(f"{stage.steps} of {stage.name!r}" for stage in schedule)
        print(f"Of the {FULL_MINUTES} minutes of the full schedule, {args.minutes:g}: {steps}.")
        if args.minutes < CAMP_MINUTES:
            print("So short a run learns to answer questions, but to recall nothing.")
    n_steps = sum(stage.steps for stage in schedule)
    run = Run(
        args.seed,
        args.out,
        schedule=schedule,
        report_every=min(200, max(1, n_steps // 10)),  # a curve of ten points at least
        keep_going=args.keep_going,
    )
    if args.resume:
        try:
            run.resume()
        except ValueError as refused:
            parser.error(str(refused))
    elif run.checkpoint.exists():
        parser.error(
            f"{run.checkpoint} is there already: --resume goes on from it, another --out leaves it"
        )
    run.note(seed=args.seed, parameters=run.model.config.n_params, **provenance(run.feeder))
    try:
        run.train()
    except GateFailed as failure:
        print(f"FAILED {failure}", file=sys.stderr)
        return 3
    finally:
        draw_curve(args.out)
    spent = ", ".join(f"{value / 60:.1f} min {what}" for what, value in run.seconds.items())
    total = sum(run.seconds.values()) / 60
    print(f"{run.step} steps, {run.tokens / 1e6:.2f} M tokens, {total:.1f} minutes ({spent})")
    print(f"on {evaluate.cpu_name()}, {args.threads} thread(s), torch {torch.__version__}")
    print(f"Hugging Face files: {args.out / 'model'}")
    for failure in run.failed:
        print(f"FAILED {failure}", file=sys.stderr)
    return 3 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
