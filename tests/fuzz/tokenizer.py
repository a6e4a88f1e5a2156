"""tokenizer.json and chat templates, changed and then used on all kinds of text."""

import json
import shutil
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers

from kvlab import Tokenizer
from kvlab.chat import ChatTemplate
from kvlab.pocket import path
from tests.fuzz.mutating import bytes_of, json_of, odd, text_of

REFUSALS = (ValueError,)
TEXTS = ["", "a", "The cat\n", "\x00", "e\u0301\u202e", "🙂" * 9, "<eos>", "12.5 \t", "x" * 3000]


@cache
def bases():
    """A vocabulary of each kind; the large one is the pocket model's, cut short."""
    large = json.loads((path() / "tokenizer.json").read_text(encoding="utf-8"))
    large["model"]["merges"] = large["model"]["merges"][:40]
    words = Inner(models.WordLevel({"a": 0, "<unk>": 1, "cat": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fallback = {"<unk>": 0, "a": 1, "▁": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}}
    spelled = Inner(models.BPE(fallback, [], unk_token="<unk>", byte_fallback=True))
    spelled.normalizer = normalizers.Replace(" ", "▁")
    spelled.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    pieces = Inner(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("▁", -2.0)], unk_id=0))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return [large, *(json.loads(made.to_str()) for made in (words, spelled, pieces))]


@cache
def templates():
    from tests.test_chat import STYLES

    return list(STYLES.values())


def make(rng):
    whole = rng.choice(bases())
    changed = text_of(json_of(rng, whole))
    if rng.random() < 0.2:
        changed = bytes_of(rng, text_of(whole))
    template = rng.choice(templates()).encode()
    if rng.random() < 0.7:
        template = bytes_of(rng, template)
    say = {"text": rng.choice(TEXTS), "ids": [rng.randrange(300) for _ in range(30)]}
    say["messages"] = [{"role": "user", "content": rng.choice((*TEXTS, odd(rng)))}]
    return {"tokenizer.json": changed, "template": template, "say.json": text_of(say)}


def run(case, folder):
    (folder / "tokenizer.json").write_bytes(case["tokenizer.json"])
    template = ChatTemplate(case["template"].decode("utf-8", "replace"), {}, Path("here"))
    try:
        say = json.loads(case["say.json"])
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json", template)
    except RecursionError:
        return
    known = [i for i in say["ids"] if tokenizer.inner.id_to_token(i) is not None]
    tokenizer.decode(known)
    tokenizer.pieces(known)
    "".join(tokenizer.stream(say["ids"]))
    for use in (lambda: tokenizer.encode(say["text"]), lambda: tokenizer.chat(say["messages"])):
        try:
            use()
        except ValueError as refusal:
            if len(str(refusal)) >= 500:
                raise


def tidy(folder):
    shutil.rmtree(folder)
