"""An example for each command, and what exit codes mean. The standard library is all it needs."""

from __future__ import annotations

EXAMPLES = {
    "lab": "kvlab lab --no-browser --port 8890",
    "test": "kvlab test tests/test_cache.py",
    "fetch": "kvlab fetch smollm2",
    "demo": "kvlab demo --new-tokens 64 --plot demo.png",
    "generate": 'kvlab generate "What is the capital of France?" --stats',
    "serve": "kvlab serve --model smollm2 --port 8001",
    "torture": "kvlab torture http://127.0.0.1:8000 --case usage_adds_up",
    "eval": "kvlab eval pocket --prompts 20 --json",
    "prune-report": "kvlab prune-report --policies snapkv,kivi --budgets 0.5 --seeds 1",
    "serve-bench": "kvlab serve-bench --policies chunked,fair --loads 0.8 --plot who-waits.png",
    "export": "kvlab export my_model --dtype float16",
    "site": "kvlab site --live --out page",
    "doctor": "kvlab doctor --json",
    "grade": "kvlab grade submissions.zip --chapter 6 --json marks.json --per-student marks.csv",
    "marks": "kvlab marks week6.json week10.json --weights 6=1,10=2 --per-student term.csv",
    "similar": "kvlab similar submissions.zip --chapter 6 --at-least 0.95",
    "jobs": "kvlab jobs submissions --chapter 6 --docker --out jobs.sh",
    "progress": "kvlab progress",
    "hint": "kvlab hint 6.1 2",
    "cases": "kvlab cases 6.3",
    "release": "kvlab release --exercises my_course",
    "normalise": "kvlab normalise --check my_chapter.ipynb",
    "completion": "kvlab completion bash",
}
# What 1 says where nothing went wrong and the answer is no.
NO = {
    "test": "a test failed",
    "torture": "the server failed a case",
    "eval": "a bar was missed",
    "doctor": "something is missing",
    "grade": "a notebook that was named did not get all points, or one could not be graded",
    "release": "with --check, a notebook differs from its source",
    "normalise": "with --check, a notebook is untidy",
}
CODES = (
    "exit codes: 0 done; 1 refused or failed, and standard error says why; 2 a wrong\n"
    "command line; 130 stopped by Ctrl-C"
)
SET_UP = (
    "In the project's folder, python3 -m kvlab COMMAND first sets up what is missing; --torch cpu\n"
    "takes torch without CUDA then."
)


def below(command: str) -> str:
    """What stands below a command's help."""
    no = f"\n1 also where {NO[command]}" if command in NO else ""
    return f"example:\n  {EXAMPLES[command]}\n\n{CODES}{no}"
