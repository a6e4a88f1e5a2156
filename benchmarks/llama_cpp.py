"""llama.cpp as a peer: the same weights in its own formats, timed by its own clock.

`xllamacpp` is a prebuilt wheel of it. Files of other formats are made from one GGUF file, their
header as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

FORMATS = ("F16", "Q8_0")  # besides the file's own


def in_formats(path: Path, folder: Path) -> dict[str, Path]:
    """A GGUF file by the name of what its matrices are stored in, and the same in `FORMATS`.

    Raises: ValueError for what is no GGUF file.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a GGUF file: {error}") from None
    sizes = Counter()
    for tensor in reader.tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    found = {sizes.most_common(1)[0][0]: path}
    for name in FORMATS:
        if name not in found:
            found[name] = folder / f"{name}.gguf"
            _write(gguf, reader, found[name], gguf.GGMLQuantizationType[name])
    return found


def _write(gguf, reader, path: Path, kind) -> None:
    fields = {name: f for name, f in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = fields.pop("general.architecture").contents()
    out = gguf.GGUFWriter(str(path), architecture)
    fields.pop("general.file_type", None)
    for name, entry in fields.items():
        items = entry.types[-1] if len(entry.types) > 1 else None
        out.add_key_value(name, entry.contents(), entry.types[0], sub_type=items)
    for tensor in reader.tensors:
        x = gguf.dequantize(tensor.data, tensor.tensor_type)
        if x.ndim == 1:
            out.add_tensor(tensor.name, x)
        else:
            out.add_tensor(tensor.name, gguf.quantize(x, kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


class Answer:
    """llama.cpp generating greedily; each call notes how long decoding took, by its own clock.

    Its clock starts with the first new token, so it covers one step less than there are tokens.
    """

    def __init__(self, path: Path, prompt: Sequence[int], n_new: int, n_threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path, params.verbosity = str(path), -1
        params.n_ctx, params.n_parallel = len(prompt) + n_new + 8, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
        self._server = xllamacpp.Server(params)
        self._asked = {
            "prompt": list(prompt), "n_predict": n_new, "temperature": 0, "ignore_eos": True,
            "cache_prompt": False,
        }  # fmt: skip
        self.n_new, self.seconds, self.prompt_seconds = n_new, [], []

    def __call__(self) -> None:
        said = self._server.handle_completions(self._asked)
        timings = said["timings"]
        if timings["predicted_n"] != self.n_new:
            raise ValueError(
                f"llama.cpp gave {timings['predicted_n']} tokens of the {self.n_new} asked for."
            )
        self.seconds.append(timings["predicted_ms"] / 1e3)
        self.prompt_seconds.append(timings["prompt_ms"] / 1e3)
