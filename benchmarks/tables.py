"""Fill the tables of docs/benchmarks.md and docs/negative.md: `python -m benchmarks.tables`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.filling import ROOT, Result, Table, filled, where
from kvlab import files


def cache(result: Result) -> list[str]:
    """What a cache saves."""
    lines = [
        "| new tokens | rows computed | seconds, median pair | range | with the compiled step |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['new_tokens']} | {row['rows_ratio']:.1f} times fewer "
            f"| {row['ratio']:.1f} times as fast "
            f"| {row['ratio_low']:.1f} to {row['ratio_high']:.1f} "
            f"| {row['ratio_compiled']:.1f} times as fast |"
        )
    grown = result["growth"]
    text = (
        f"Pocket model, {result['prompt_tokens']} prompt tokens, greedy, float32, same tokens both "
        "ways. For one token a cache only costs. From "
        f"{grown['from_tokens']} to {grown['to_tokens']} tokens after a prompt of "
        f"{grown['prompt_tokens']}, time grows like length to the power {grown['cached']} with a "
        f"cache, {grown['uncached']} without."
    )
    return [*lines, "", text + " " + where(result)]


def decode(result: Result) -> list[str]:
    """One row, against transformers."""
    counts = sorted({row["threads"] for row in result["rows"]})
    named: dict[str, dict[int, Result]] = {}
    for row in result["rows"]:
        named.setdefault(row["name"], {})[row["threads"]] = row
    heads = [f"{n} thread{'s' * (n > 1)}: tokens/s | ratio | of reading" for n in counts]
    lines = [f"| one row, decoding | {' | '.join(heads)} |", "|---" * (1 + 3 * len(counts)) + "|"]
    for name, by_threads in named.items():
        cells = []
        for n in counts:
            row = by_threads[n]
            share = row.get("share_of_reading")
            cells += [
                f"{row['tokens_per_second']:.1f}",
                f"{row['ratio']:.2f}",
                "" if share is None else f"{share:.0%}",
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    errors = ", ".join(
        f"{name} {error['largest_error']:.2g} ({error['same_likeliest_token']:.0%})"
        for name, error in result["logit_errors"].items()
        if name != "float32"
    )
    largest = result["logit_errors"]["float32"]["largest_logit"]
    text = (
        f"{result['parameters'] / 1e6:.0f}M parameters, random weights, the same in all; "
        f"{result['prompt_tokens']} prompt tokens, {result['new_tokens']} new ones. Ratio: median "
        f"over rounds, to {result['base']}. Of reading: bytes of weights, keys and values over "
        "the time, as a share of the rate at which the machine reads memory. Largest error of a "
        f"logit, the largest being {largest:.2g}, and how often the likeliest token is the same: "
        f"{errors}."
    )
    return [*lines, "", text + " " + where(result)]


def prefill(result: Result) -> list[str]:
    """Reading prompts."""
    lines = ["| prompt | reading it | tokens/s | of multiplying |", "|---|---|---|---|"]
    for row in result["rows"]:
        lines.append(
            f"| {row['prompt_tokens']} | {row['name']} | {row['tokens_per_second']:.0f} "
            f"| {row['share_of_multiplying']:.0%} |"
        )
    return [*lines, "", "The same model. " + where(result)]


def batch(result: Result) -> list[str]:
    """Many rows."""
    sizes = sorted({row["batch"] for row in result["rows"]})
    lines = [f"| rows | {' | '.join(map(str, sizes))} |", "|---" * (1 + len(sizes)) + "|"]
    for name in ("plain", "compiled"):
        rows = {row["batch"]: row for row in result["rows"] if row["name"] == name}
        cells = [f"{rows[n]['tokens_per_second']:.0f} ({rows[n]['ratio']:.1f})" for n in sizes]
        lines.append(f"| {name}: tokens/s (times one row) | {' | '.join(cells)} |")
    return [*lines, "", f"The same model, {result['context']} tokens before. " + where(result)]


def threads(result: Result) -> list[str]:
    """What waiting for each other costs torch's threads."""
    counts = sorted({row["neighbours"] for row in result["rows"]})
    heads = [f"beside {n or 'no'} neighbour{'s' * (n != 1)}" for n in counts]
    lines = [f"| milliseconds | threads | {' | '.join(heads)} |"]
    lines.append("|---" * (2 + len(counts)) + "|")
    cells: dict[tuple[str, str], list[str]] = {}
    for row in result["rows"]:
        low, high = row["wall_ms_range"]
        cells.setdefault((row["what"], row["way"]), []).append(
            f"{row['wall_ms']:.3g} ({low:.3g} to {high:.3g}; {row['cpu_ms']:.3g})"
        )
    lines += [f"| {what} | {way} | {' | '.join(found)} |" for (what, way), found in cells.items()]
    text = (
        f"Medians of {result['rounds']} rounds in turn and, in brackets, their range and the "
        "processor's time. A neighbour never rests and is held on one core; the machine has "
        f"{result['cores']}. A decode step is one behind {result['context']} tokens or a few more."
    )
    return [*lines, "", text + " " + where(result)]


def pruned(result: Result) -> list[str]:
    """Packed rows and evicted tokens, with what was aimed at beside what was found."""
    names = list(dict.fromkeys(r["name"] for r in rows_of(result, "attention")))
    names = [name for name in names if not name.startswith("dense")]
    lines = [f"| attention to | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    lines += one_thread(result, "attention", names, lambda row: f"{row['tokens']} tokens")
    lines += work_of_rows(result)
    lines += ["", "| packing | threads | share of the time | aim |", "|---|---|---|---|"]
    for row in rows_of(result, "packing a prompt"):
        lines.append(
            f"| {row['tokens']} tokens, of reading them | {row['threads']} | {row['share']:.1%} "
            f"({row['share_low']:.1%} to {row['share_high']:.1%}) | under {row['target']:.0%} |"
        )
    for row in rows_of(result, "packing a step"):
        lines.append(
            f"| a step after {row['tokens']} tokens | {row['threads']} | {row['share']:.1%} mean, "
            f"{row['share_median']:.1%} median, {row['share_worst']:.1%} worst "
            f"| under {row['target']:.0%} |"
        )
    names = list(dict.fromkeys(row["name"] for row in rows_of(result, "decoding")))
    names = [name for name in names if name.endswith("compiled")]
    lines += ["", f"| a whole step | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    lines += one_thread(result, "decoding", names, lambda row: f"{result['context']} tokens")
    text = (
        f"Attention of one new token, {result['kv_heads']} KV heads of width {result['width']} "
        f"with {result['query_heads_per_kv_head']} query heads each, random rows; ratios are "
        "medians over rounds, to the fastest of our dense ways at the same precision, and in "
        f"brackets what was aimed at. Whole step: {result['parameters'] / 1e6:.0f}M parameters "
        f"with random weights behind {result['context']} tokens, random rows put into the cache "
        "where a text would have been read. One thread; two, torch's products and tokens a second "
        "are in the recorded result. Below 1 it is a loss. Nanoseconds a row: of one in the "
        "processor's cache, for four query heads; in brackets its multiply-adds alone."
    )
    return [*lines, "", text + " " + where(result)]


def work_of_rows(result: Result) -> list[str]:
    """What reading a packed row takes where its bytes are near."""
    rows, cells = rows_of(result, "work"), {}
    for row in rows:
        line = cells.setdefault((row["dtype"], row["kept"]), {})
        alone = row["nanoseconds_alone"]
        line[row["name"]] = f"{row['nanoseconds']:.1f}" + (
            "" if alone is None else f" ({alone:.1f})"
        )
    names = list(dict.fromkeys(row["name"] for row in rows))
    if not rows:
        return []
    return [
        "",
        f"| nanoseconds a row | {' | '.join(names)} |",
        "|---" * (1 + len(names)) + "|",
        *(
            f"| {kept} of {result['width']}, {dtype} "
            f"| {' | '.join(line.get(name, '') for name in names)} |"
            for (dtype, kept), line in cells.items()
        ),
    ]


def one_thread(
    result: Result, what: str, names: Sequence[str], says: Callable[[Result], str]
) -> list[str]:
    """A line for each length and type, a ratio to the best dense way for each name."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows_of(result, what):
        if row["threads"] == 1:
            line = lines.setdefault(f"{says(row)}, {row['dtype']}", {})
            line[row["name"]] = aimed(row["ratio"], row["target"])
    return [
        f"| {line} | {' | '.join(cells[name] for name in names)} |" for line, cells in lines.items()
    ]


def live_page(result: Result) -> list[str]:
    """The page in a browser, with its cache and without."""
    lines = [
        "| what is asked | prompt | answer | tokens/s with the cache | without | as fast, a token "
        "| range | as fast, all in all |",
        "|---" * 8 + "|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['name']} | {row['prompt_tokens']} | {row['new_tokens']} "
            f"| {row['tokens_per_second_cached']:.0f} | {row['tokens_per_second_uncached']:.1f} "
            f"| {row['ratio']:.0f} times | {row['ratio_low']:.0f} to {row['ratio_high']:.0f} "
            f"| {row['ratio_whole']:.1f} times |"
        )
    cores = ", ".join(map(str, result["on_cores"]))
    text = (
        f"Pocket model in single precision, in {result['browser']}, held on core {cores}; medians "
        f"of {result['rounds']} rounds in turn, the same tokens both ways. Prompt and answer are "
        "in tokens; all in all includes reading the text and the question. "
        "Nothing was drawn while time was taken."
    )
    return [*lines, "", text + " " + where(result)]


def rows_of(result: Result, what: str) -> list[Result]:
    """One kind of a result's rows."""
    return [row for row in result["rows"] if row["what"] == what]


def aimed(found: float, target: float | None) -> str:
    """A ratio, with what was aimed at."""
    return f"{found:.2f}" + ("" if target is None else f" ({target:g})")


TABLES: dict[str, Table] = {
    "cache": cache,
    "decode": decode,
    "prefill": prefill,
    "batch": batch,
    "threads": threads,
    "live_page": live_page,
    "pruned": pruned,
}


if __name__ == "__main__":
    from benchmarks.negative import TABLES as NEGATIVE

    for page, tables in (("benchmarks.md", TABLES), ("negative.md", NEGATIVE)):
        path = ROOT / "docs" / page
        files.write(path, filled(path.read_text("utf-8"), tables))
