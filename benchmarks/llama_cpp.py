"""llama.cpp as a peer: the same weights in its own formats, timed by its own clock.

`xllamacpp` is a prebuilt wheel of it. Files of other formats are made from one GGUF file, their
header as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kvlab import Transformer, gguf_file
from kvlab.tokenizer import Tokenizer

FORMATS = ("F16", "Q8_0")  # besides the file's own
NAMES = {ours: theirs for theirs, ours in (gguf_file._OUTER | gguf_file._INNER).items()}


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


def exported(model: Transformer, tokenizer: Tokenizer, path: Path) -> Path:
    """One of our models, of Llama's shape, as a GGUF file of full precision.

    Raises: ValueError for other families, whose files are laid out differently.
    """
    import gguf

    config = model.config
    if config.family != "llama" or config.rope_scaling is not None:
        raise ValueError(
            f"The model is of the family {config.family}, rope scaling {config.rope_scaling}; "
            "only plain Llama is written as GGUF. Give its own file with --gguf."
        )
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_block_count(config.n_layers)
    out.add_context_length(config.max_positions)
    out.add_embedding_length(config.hidden_size)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.n_heads)
    out.add_head_count_kv(config.n_kv_heads)
    out.add_key_length(config.head_dim)
    out.add_value_length(config.head_dim)
    out.add_rope_dimension_count(config.head_dim)
    out.add_layer_norm_rms_eps(config.norm_eps)
    out.add_rope_freq_base(config.rope_theta)
    spelling = json.loads(tokenizer.inner.to_str())["model"]
    words = sorted(spelling["vocab"], key=spelling["vocab"].get)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(words)
    out.add_token_types([3] + [1] * (len(words) - 1))
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spelling["merges"]])
    out.add_eos_token_id(config.eos_ids[0])
    out.add_add_bos_token(False)
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}
    for ours, weight in model.state_dict().items():
        outer, _, what = ours.rpartition(".")
        x, inner = weight.float().numpy(), outer.split(".", 3)[-1]
        if outer in NAMES:
            name = f"{NAMES[outer]}.{what}"
        else:
            name = f"blk.{outer.split('.')[2]}.{NAMES[inner]}.{what}"
        if (n := heads.get(inner.split(".")[-1])) is not None:  # Llama's files turn pairs
            x = x.reshape(n, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(x.shape)
        out.add_tensor(name, x)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


class Served:
    """llama.cpp's server with a place for each of some requests, all asked at once.

    Its cache is in half precision, as it comes: in float32 it takes twice the time. Told to go on
    beyond a text's end it never writes the token that ends it, where others write it and go on.
    """

    def __init__(
        self, path: Path, asked: Sequence[tuple[list[int], int]], rows: int, n_threads: int
    ) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path, params.verbosity = str(path), -1
        longest = max(len(p) + n for p, n in asked)
        params.n_ctx, params.n_parallel = rows * (longest + 8), rows
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
        self._server = xllamacpp.Server(params)
        self._asked = [
            {"prompt": p, "n_predict": n, "temperature": 0, "ignore_eos": True,
             "cache_prompt": False}
            for p, n in asked
        ]  # fmt: skip

    def __call__(self) -> list[str]:
        """The answers as text: it does not tell its tokens."""
        with ThreadPoolExecutor(len(self._asked)) as pool:
            said = list(pool.map(self._server.handle_completions, self._asked))
        return [one["choices"][0]["text"] for one in said]
