"""Where checkpoints are that have a name, and those of Hugging Face's hub, which are fetched."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from kvlab.config import ModelConfig

P = ParamSpec("P")
R = TypeVar("R")

# the one that comes along, and the one that `kvlab fetch` brings into this environment
NAMED = {
    "pocket": Path(__file__).parent / "pocket" / "weights",
    "smollm2": Path(sys.prefix) / "share" / "kvlab" / "smollm2",
}
UNFETCHED = (
    "Model 'smollm2' was asked for and has not been fetched yet. One command does it, a download "
    "of 93 MB: python3 -m kvlab fetch smollm2"
)
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# all that is read; other safetensors of a repository may be the same weights once more
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def find(name: str | Path) -> Path:
    """The folder of a checkpoint, fetched if it is the hub's. Raises: ValueError if it is none."""
    try:
        folder = NAMED.get(str(name)) or Path(name).expanduser()
        if (folder / "config.json").is_file():
            return folder
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL
        why = getattr(error, "strerror", None) or str(error)[:200]
        raise ValueError(f"Model {str(name)[:80]!r} was asked for: no path ({why}).") from None
    if str(name) in NAMED:
        raise ValueError(UNFETCHED)
    if not folder.exists() and isinstance(name, str) and ID.fullmatch(name):
        # the config comes first: nothing large is fetched for a model that would be refused
        ModelConfig.from_hf(read_json(fetched(name, ("config.json",)) / "config.json"))
        return fetched(name, FILES)
    shipped = ", ".join(map(repr, NAMED))
    state = "it has no config.json" if folder.is_dir() else "that is not a folder"
    if folder.is_dir() and (found := [path.name for path in folder.glob("*.gguf")]):
        state += f", but {min(found)[:80]}, which can be named itself"
    raise ValueError(
        f"Model {str(name)!r} was asked for: {state}. Expected {shipped}, a folder with "
        "config.json, model.safetensors and tokenizer.json, or a hub id like 'owner/name'."
    )


def fetched(name: str, wanted: tuple[str, ...]) -> Path:
    """A hub's checkpoint in the local cache, fetched if it is not there yet.

    Raises: ValueError that says why the hub does not give it.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise _no_hub(name, "needs huggingface_hub: pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted), etag_timeout=5))
    except errors.GatedRepoError:
        page = f"https://huggingface.co/{name}"
        why = f"is gated: accept its terms at {page} and log in (hf auth login)"
    except errors.RepositoryNotFoundError:
        why = "does not exist or is private: check the name, or log in (hf auth login)"
    except Exception as error:  # the library lets its network client's own errors through
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        why = f"could not be fetched from the hub ({reason})"
    raise _no_hub(name, why)


def _no_hub(name: str, why: str) -> ValueError:
    return ValueError(
        f"Model {name!r} was asked for: it is no folder here, and as a hub id it {why}. "
        "Or download its files on a machine where that works, and pass the folder."
    )


def read_json(path: Path) -> dict:
    """The object in a file.

    Raises: ValueError naming the file when it cannot be read or holds anything else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a JSON object.")
    return found


def no_weights(path: Path) -> str:
    """What to say where weights are not: what else is beside them, and what to do with it."""
    names = sorted(p.name for p in path.parent.iterdir())
    cure = "expected a safetensors file."
    if any(re.fullmatch(r"(pytorch_)?model.*\.(bin|pth?)", name) for name in names):
        cure = (
            "pickled weights are there, which are not read, because they may execute. Once, with "
            "transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)."
        )
    elif parts := [name for name in names if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]:
        cure = (
            f"{parts[0]} is there, but not all of the checkpoint: shards need "
            "model.safetensors.index.json, and each file that it names. Fetch it again."
        )
    elif found := [name for name in names if name.endswith(".gguf")]:
        cure = f"{found[0][:80]} is there, which can be named itself."
    return f"No weights at {path}: {cure}"


def no_tokenizer(path: Path) -> str:
    """What to say where a tokenizer.json is not: what else is there, and what makes one of it."""
    others = ("tokenizer.model", "vocab.json", "vocab.txt")
    cure = f"No tokenizer at {path}; expected a Hugging Face tokenizer.json beside the model."
    if found := [name for name in others if (path.parent / name).is_file()]:
        cure += (
            f" {found[0]} is there: AutoTokenizer.from_pretrained(folder).save_pretrained(folder) "
            "of transformers writes the other from it."
        )
    return cure


def in_short(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: refusals of fewer than 500 characters, however long the names in them are."""

    @wraps(function)
    def called(*args: P.args, **given: P.kwargs) -> R:
        try:
            return function(*args, **given)
        except ValueError as error:
            said = str(error)
            if len(said) < 500:
                raise
            raise ValueError(f"{said[:250]} … {said[-220:]}") from None

    return called
