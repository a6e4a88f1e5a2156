"""The pocket model's tokenizer: byte-level BPE of 2,048 tokens, digits apart.

    python -m kvlab.pocket.bpe --out kvlab/pocket/weights

It is trained on the world's texts and on some of Python's own documentation, which differs between
Python versions: hence tokenizer.json is committed, and training the model never trains it.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kvlab import files
from kvlab.pocket import path, world

EOS = "<eos>"  # opens every text and ends every document; id 0
VOCAB_SIZE = 2048
CONTEXT = 2048
# what the tokenizer sees of the world: all kinds, the prose more often, for its rarer words
MIX = dict.fromkeys(world.WRITERS, 1.0) | {"facts": 3.0, "fact_prose": 3.0, "prose": 3.0}


def python_docs() -> tuple[dict[str, str], dict[str, str]]:
    """Return this Python's own documentation by name: what to train on, and the held-out tenth.

    It is the topics of `help()` and the docstrings of the standard library, a text for each topic
    and each module. A hash of the name holds a text out.
    """
    from pydoc_data.topics import topics

    found = {f"topic {name}": text for name, text in topics.items()}
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        module = file.relative_to(library).with_suffix("")
        if NOT_DOCUMENTED.isdisjoint(module.parts):
            found[f"module {'.'.join(module.parts)}"] = docstrings(file)
    found = {name: found[name] for name in sorted(found) if len(found[name]) >= 500}
    held = {name for name in found if zlib.crc32(name.encode()) % 10 == 0}
    return (
        {name: text for name, text in found.items() if name not in held},
        {name: text for name, text in found.items() if name in held},
    )


NOT_DOCUMENTED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages"}


def docstrings(file: Path) -> str:
    """Join all docstrings of a source file; nothing where it cannot be read."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners)]
    return "\n\n".join(text for text in found if text)


def texts(n_documents: int = 8000, docs_chars: int = 200_000, seed: int = 1) -> Iterator[str]:
    """Yield the texts that the merges are counted on."""
    rng = random.Random(seed)
    for _ in range(n_documents):
        yield world.text_of(world.document(rng, 200, MIX))
    docs = "\n".join(python_docs()[0].values())
    for start in range(0, len(docs), len(docs) // 20 + 1):
        yield docs[start : start + docs_chars // 20]


def train(corpus: Iterator[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train the tokenizer; " 4821" becomes " 4", "8", "2", "1": a code is looked up by digits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{EOS} $A", pair=f"{EOS} $A $B", special_tokens=[(EOS, 0)]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and the two small files that transformers wants beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.writing(folder / "tokenizer.json") as part:
        tokenizer.save(str(part))
    special = {"bos_token": EOS, "eos_token": EOS, "pad_token": EOS}
    config = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special)


def write_json(file: Path, content: dict) -> None:
    """Write a JSON file with a newline at its end."""
    files.write(file, json.dumps(content, indent=2) + "\n")


def load(folder: Path | None = None) -> Tokenizer:
    """Load the committed tokenizer."""
    return Tokenizer.from_file(str((folder or path()) / "tokenizer.json"))


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode text alone, without the token that opens a text."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def main(argv: Sequence[str] | None = None) -> None:
    """Train the tokenizer and say how it cuts the world's words."""
    parser = argparse.ArgumentParser("python -m kvlab.pocket.bpe", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json")
    args = parser.parse_args(argv)
    tokenizer = train(texts())
    save(tokenizer, args.out)
    rng = random.Random(99)
    sample = [world.text_of(world.document(rng, 200, MIX)) for _ in range(400)]
    n_tokens = sum(len(ids_of(tokenizer, text)) for text in sample)
    n_words = sum(len(text.split()) for text in sample)
    print(f"{tokenizer.get_vocab_size()} tokens; {n_tokens / n_words:.2f} a word of the world")
    held = "\n".join(python_docs()[1].values())[:100_000]
    n_held = len(ids_of(tokenizer, held))
    print(f"{len(held.encode()) / n_held:.2f} bytes a token of held-out documentation")
    lists = {
        "names": world.NAMES,
        "values": world.WORDS + world.PLACES,
        "capitals": [country.capital for country in world.COUNTRIES],
        "countries": [country.name for country in world.COUNTRIES],
    }
    for label, words in lists.items():
        cut = [word for word in words if len(ids_of(tokenizer, f" {word}")) > 1]
        print(f"{label}: {len(words) - len(cut)} of {len(words)} are one token; not {cut}")


if __name__ == "__main__":
    main()
