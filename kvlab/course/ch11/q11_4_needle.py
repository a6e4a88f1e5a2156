"""11.4: a fact at a chosen depth of a text of exactly known length, and how policies are told apart."""

from __future__ import annotations

import math

from kvlab.course.author import Exercise, named, raised_by

Q = Exercise(
    "11.4",
    "A needle in a text",
    "needle",
    points=4,
    minutes=25,
    difficulty=2,
    statement=r"""
To see what a policy forgets one puts a fact, the *needle*, at a chosen depth of a text and asks for it at the end (chapter 11, "The order of things"). Build such prompts. `sentences` is a
list of sentences, each a list of ids; `fact` and `question` are lists of ids, too.

- Of the sentences, take as many from the first on as fit: sentences, fact and question together have at most `n_tokens` ids. Stop at the first sentence that
  does not fit, also where a later one would. No sentence is cut.
- With k sentences taken, the fact stands in front of sentence number `round(depth * k)`, counted from 0: depth 0 is the beginning of the
  text, depth 1 comes after all k (the *recency* task: the fact is the last thing told). `round` is Python's.
- The question comes last.

Return two things: the prompt as a list of ids, and the pair `(start, stop)`, the fact's places in it: `prompt[start:stop] == fact`. Raise `ValueError` if
fact and question alone are longer than `n_tokens`. Do not change what you are given. Roughly 10 lines.

Sentences `[[1, 2], [3], [4, 5, 6]]`, fact `[9]`, question `[7, 7]`, 6 tokens, depth 0.5: two sentences fit, the fact stands in front of sentence
number `round(1.0)` = 1, and the result is `[1, 2, 9, 3, 7, 7]` with `(2, 3)`.
""",
    hints=(
        "How many ids are left for sentences when fact and question have theirs? And where does the loop stop?",
        "room = n_tokens - len(fact) - len(question); below 0: ValueError. Go through the sentences; where one is longer than the room, "
        "break; else take it and make the room smaller. place = round(depth * len(taken)).",
        "before = [i for sentence in taken[:place] for i in sentence], and after the same of taken[place:]; return before + fact + after + question, (len(before), "
        "len(before) + len(fact)).",
    ),
)


@Q.case
def case(rng):
    """Sentences of 2 to 6 ids; the first that does not fit is followed by one that would."""
    while True:
        sentences = [
            [rng.randrange(100) for _ in range(rng.randint(2, 6))] for _ in range(rng.randint(7, 9))
        ]
        fact = [rng.randrange(100, 200) for _ in range(rng.randint(2, 4))]
        question = [rng.randrange(200, 300) for _ in range(rng.randint(3, 5))]
        n_taken = rng.choice([3, 5])
        taken = sum(map(len, sentences[:n_taken]))
        spare = len(sentences[n_taken]) - 1
        if len(sentences[n_taken + 1]) <= spare:
            n_tokens = taken + spare + len(fact) + len(question)
            depth = rng.choice([0.3, 0.5, 0.6, 0.7, 0.8])
            return {
                "sentences": sentences,
                "fact": fact,
                "question": question,
                "n_tokens": n_tokens,
                "depth": depth,
            }


@Q.solution
def needle(sentences, fact, question, n_tokens, depth):
    """Return the prompt, and where the fact stands in it: ids, (start, stop)."""
    ### BEGIN SOLUTION
    room = n_tokens - len(fact) - len(question)
    if room < 0:
        raise ValueError(f"fact and question have more than {n_tokens} tokens")
    taken = []
    for sentence in sentences:
        if len(sentence) > room:
            break
        taken.append(sentence)
        room -= len(sentence)
    place = round(depth * len(taken))
    before = [i for sentence in taken[:place] for i in sentence]
    after = [i for sentence in taken[place:] for i in sentence]
    return before + fact + after + question, (len(before), len(before) + len(fact))
    ### END SOLUTION


@Q.also_right
@Q.right
def by_running_totals(sentences, fact, question, n_tokens, depth):
    """Counts how many fit by their running totals; the fact is one more sentence."""
    totals, total = [], len(fact) + len(question)
    if total > n_tokens:
        raise ValueError("no room for the fact and the question")
    for sentence in sentences:
        total += len(sentence)
        totals.append(total)
    n_fit = sum(total <= n_tokens for total in totals)
    place = round(depth * n_fit)
    told = [*sentences[:place], fact, *sentences[place:n_fit], question]
    start = sum(len(part) for part in told[:place])
    return [i for part in told for i in part], (start, start + len(fact))


# --- laws ---


def _made(answer, case, says="", **other):
    names = ("sentences", "fact", "question", "n_tokens", "depth")
    given = {name: case[name] for name in names} | other
    made = named(answer(*given.values()), "prompt", "places")
    return {
        f"prompt{says}": made["prompt"],
        f"(start, stop){says}": list(made["places"]),
    }


@Q.law("a needle in the middle")
def _(answer, case):
    return _made(answer, case)


@Q.law("at the beginning, and after all that is told")
def _(answer, case):
    return _made(answer, case, " at depth 0", depth=0.0) | _made(
        answer, case, " at depth 1", depth=1.0
    )


@Q.law("half a place is rounded as round does it")
def _(answer, case):
    """In the middle of 1, 3 and 5 sentences: 0.5 becomes 0, 1.5 becomes 2 and 2.5 becomes 2."""
    seen = {}
    for n in (1, 3, 5):
        says = f" of {n} sentences at depth 0.5"
        seen |= _made(answer, case, says, sentences=case["sentences"][:n], n_tokens=99, depth=0.5)
    return seen


@Q.law("all sentences fit, exactly as many as there are tokens, and none fits")
def _(answer, case):
    all_of_them = sum(map(len, case["sentences"]))
    told = len(case["fact"]) + len(case["question"])
    return (
        _made(answer, case, " with room to spare", n_tokens=all_of_them + told + 50)
        | _made(answer, case, " with room for all", n_tokens=all_of_them + told)
        | _made(answer, case, " with room for none", n_tokens=told)
        | _made(answer, case, " without sentences", sentences=[])
    )


@Q.law("the text may hold the fact's ids, too")
def _(answer, case):
    """The last sentence that is taken begins with the fact, and so does the first."""
    fact, first, *rest = case["fact"], *case["sentences"]
    sentences = [[*fact, *first], *rest]
    n_tokens = case["n_tokens"] + len(fact)
    return _made(answer, case, " where it is told twice", sentences=sentences, n_tokens=n_tokens)


@Q.law("no room for fact and question")
def _(answer, case):
    told = len(case["fact"]) + len(case["question"])
    given = case["sentences"], case["fact"], case["question"]
    return {"raised": raised_by(answer, *given, told - 1, case["depth"])}


# --- what goes wrong: each changes one thing of this ---


def _needle(
    sentences, fact, question, n_tokens, depth, *, reserve=lambda fact, question: len(fact) + len(question),
    ends=True, place=lambda depth, taken: round(depth * len(taken)), at=lambda before, fact: (before, before + len(fact)),
    refuses=True, cut=False, fits=int.__le__,
):  # fmt: skip
    if refuses and len(fact) + len(question) > n_tokens:
        raise ValueError("no room")
    room, taken = n_tokens - reserve(fact, question), []
    for sentence in sentences:
        if fits(len(sentence), room):
            taken.append(sentence)
            room -= len(sentence)
        elif ends:
            if cut and room > 0:
                taken.append(sentence[:room])
            break
    n = place(depth, taken)
    before, after = ([i for part in some for i in part] for some in (taken[:n], taken[n:]))
    return before + fact + after + question, at(len(before), fact)


def _searched(sentences, fact, *rest):
    prompt, _ = _needle(sentences, fact, *rest)
    start = next(i for i in range(len(prompt)) if prompt[i : i + len(fact)] == fact)
    return prompt, (start, start + len(fact))


def _by_token(sentences, fact, question, n_tokens, depth):
    prompt, _ = _needle(sentences, fact, question, n_tokens, 1.0)
    told = prompt[: len(prompt) - len(fact) - len(question)]
    start = round(depth * len(told))
    return told[:start] + fact + told[start:] + question, (start, start + len(fact))


def _question_first(sentences, fact, question, n_tokens, depth):
    prompt, (start, stop) = _needle(sentences, fact, question, n_tokens, depth)
    n = len(question)
    return question + prompt[: len(prompt) - n], (start + n, stop + n)


def _in_sentences(sentences, fact, question, n_tokens, depth):
    prompt, (start, _) = _needle(sentences, fact, question, n_tokens, depth)
    n, told = 0, 0
    while told < start:
        told, n = told + len(sentences[n]), n + 1
    return prompt, (n, n + len(fact))


Q.mistakes(
    _needle,
    {
        "a later, shorter sentence is still taken. Stop at the first that does not fit: the text goes on as "
        "it was told.": {"ends": False},
        "a sentence is cut to fill the room. Take whole sentences.": {"cut": True},
        "the fact takes no room: the prompt is longer than n_tokens.": {
            "reserve": lambda fact, question: len(question)
        },
        "the question takes no room: the prompt is longer than n_tokens.": {
            "reserve": lambda fact, question: len(fact)
        },
        "the depth is cut off (int) and not rounded.": {
            "place": lambda depth, taken: int(depth * len(taken))
        },
        "the depth is rounded up (ceil), and not to the nearest whole number.": {
            "place": lambda depth, taken: math.ceil(depth * len(taken))
        },
        "half is always rounded up. `round` takes it to the even neighbour: 2.5 becomes 2.": {
            "place": lambda depth, taken: math.floor(depth * len(taken) + 0.5)
        },
        "the depth is a share of k - 1. Of k sentences there are k + 1 places: round(depth * k).": {
            "place": lambda depth, taken: round(depth * max(len(taken) - 1, 0))
        },
        "the depth counts ids, so the fact stands within a sentence. It is a share of the sentences.": (
            _by_token
        ),
        "the question comes first. It comes last.": _question_first,
        "start is the number of sentences before the fact. It is the number of their ids.": _in_sentences,
        "the fact is looked for in the prompt, and found where the text tells it as well. Its place is known "
        "when it is put in: the number of ids before it.": _searched,
        "the depth counts from the end: 0 is the beginning of the text.": {
            "place": lambda depth, taken: round((1 - depth) * len(taken))
        },
        "the depth is that among all sentences. It is a share of those that were taken.": (
            lambda sentences, fact, question, n_tokens, depth: _needle(
                sentences, fact, question, n_tokens, depth,
                place=lambda depth, taken: min(len(taken), round(depth * len(sentences))),
            )
        ),
        "at depth 1 the fact stands in front of the last sentence, and not after it.": {
            "place": lambda depth, taken: min(round(depth * len(taken)), max(len(taken) - 1, 0))
        },
        "stop is the place of the fact's last token. prompt[start:stop] leaves that one out: add 1.": {
            "at": lambda before, fact: (before, before + len(fact) - 1)
        },
        "a sentence that fills the room to the last token is left out. It fits.": {"fits": int.__lt__},
        "fact and question that do not fit are accepted: raise ValueError.": {"refuses": False},
    },
)  # fmt: skip
