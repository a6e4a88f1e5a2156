"""A folder's safetensors: their headers first, then their tensors.

Weights are read from memory-mapped files straight into the model, so nothing executes and memory
peaks at about the size of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kvlab import checks, hub


def read(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    fit: Callable[[dict[str, tuple[int, ...]]], object],
) -> dict[str, Tensor]:
    """All tensors of a folder's files, by name, as `dtype`, or as they are stored.

    `fit` is given their shapes, as the files' headers have them, before a number is read.
    Raises: ValueError that names a file that cannot be read, and what `fit` raises.
    """
    paths, shapes, weights = _weight_files(folder), {}, {}
    for path in paths:
        if not path.is_file():
            raise ValueError(hub.no_weights(path))
        with _readable(path):
            for name, shape in _header(path):
                if name in shapes:
                    raise ValueError(f"{name} is in two files of {folder}; expected it once.")
                shapes[name] = shape
    fit(shapes)
    for path in paths:
        with _readable(path):
            weights |= _tensors(path, device, dtype)
    if len(types := {str(w.dtype) for w in weights.values()}) > 1:
        raise ValueError(f"{folder} mixes {', '.join(sorted(types))}; name one dtype, not 'auto'.")
    return weights


def _weight_files(folder: Path) -> list[Path]:
    """One file where there is one, as `transformers` has it; else those that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    parts = hub.read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
        raise ValueError(f"{index} has no weight_map from names to files.")
    for name in parts.values():
        if Path(name).name != name or len(name) > 200:
            raise ValueError(f"{index} names {name[:80]!r}; expected a file beside it.")
    return [folder / name for name in sorted(set(parts.values()))]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A block that reads a file of weights, in which whatever fails names it."""
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{path} is larger than the memory that there is ({error}).") from None
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}). Fetch it again."
        ) from None


def _names(file: safe_open) -> list[str]:
    """What a file holds, without what follows from the config, as old files have it."""
    return [name for name in file.keys() if not name.endswith("rotary_emb.inv_freq")]  # noqa: SIM118


def _header(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of a file, of which no number is read."""
    file = safe_open(path, framework="pt")
    for name in _names(file):
        yield name, tuple(file.get_slice(name).get_shape())


def _tensors(
    path: Path, device: torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file, by name, each converted before the next is read.

    One that keeps its type stays a view of the mapped file. After one that is converted the file
    is opened anew: the old map goes, and with it the pages that were read. A device that does not
    hold all types gets each tensor converted.
    """
    first = "cpu" if device.type in checks.HOLDS else str(device)
    file = safe_open(path, framework="pt", device=first)
    for name in _names(file):
        tensor = file.get_tensor(name)
        if tensor.dtype not in checks.FLOATS:
            raise ValueError(
                f"{name} in {path.parent} is stored as {tensor.dtype}; expected floats of 16 to "
                "64 bits. Quantised weights are not read."
            )
        checks.held(device, dtype or tensor.dtype)
        if dtype not in (None, tensor.dtype):
            tensor = tensor.to(dtype)
            file = safe_open(path, framework="pt", device=first)
        yield name, tensor.to(device)
