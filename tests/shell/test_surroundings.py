import io
import os
import subprocess
import sys

import pytest

from kvlab.course.grading import report
from kvlab.shell import bootstrap, surroundings

ROOT = bootstrap.ROOT
NAMES = ("李明", "Zoë 🙂")
# every command that answers without long work, its words beyond Latin letters
COMMANDS = """
import os, sys
from kvlab.shell import cli, surroundings
surroundings.settle()
for line in (
    ["--help"], ["doctor"], ["progress"], ["hint", "1.1"], ["release", "--check"],
    ["demo", "\\u4f60\\u597d \\U0001f642", "-n", "2"],
    ["generate", "\\u4f60\\u597d \\U0001f642", "-n", "2"],
    ["generate", "x", "--model", "\\u674e\\u660e"],
    ["export", sys.argv[1] + os.fsdecode(b"/\\xe6\\x9d\\x8e")],  # as a shell passes it
    ["normalise", "--check", *sys.argv[2:]],
    ["grade", *sys.argv[2:], "--csv", sys.argv[1] + "/m.csv", "--json", sys.argv[1] + "/m.json"],
    ["marks", sys.argv[1] + "/m.json"],
    ["marks", sys.argv[1] + "/m.json", "--analysis"],
    ["marks", sys.argv[1] + "/m.json", "--per-student"],
    ["marks", sys.argv[1] + "/m.json", "--csv"],
    ["similar", *sys.argv[2:]],
    ["similar", *sys.argv[2:], "--csv"],
    ["cases", "1.1"],
    ["jobs", sys.argv[1]],
    ["jobs", sys.argv[1], "--docker"],
):
    try:
        code = cli.main(line)
    except SystemExit as stopped:
        code = stopped.code
    assert code == (line[0] == "grade" or "--model" in line), (line, code)
"""


@pytest.mark.parametrize(
    "how",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
    ids=["cp1252", "ascii", "C"],
)
def test_no_text_ends_a_command_whose_output_cannot_hold_it(how, tmp_path):
    notebooks = [tmp_path / f"{name}.ipynb" for name in NAMES]
    for path in notebooks:  # the chapter with the quickest answers, and nothing answered in it
        path.write_bytes((ROOT / "exercises" / "03_heads.ipynb").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, tmp_path, *notebooks],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **how}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode("ascii", "replace")[-2000:]
    marks = (tmp_path / "m.csv").read_text(encoding="utf-8")
    assert all(name in marks for name in NAMES)


def test_a_stream_keeps_what_it_can_write_and_escapes_the_rest():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp1252")
    surroundings.take_any_text(stream)
    print("Zoë 李", file=stream, flush=True)
    assert raw.getvalue().decode("cp1252").strip() == "Zoë \\u674e"
    chosen = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    surroundings.take_any_text(chosen)
    assert chosen.errors == "replace"  # the user's own choice
    surroundings.take_any_text(None)  # pythonw has no streams


def test_a_name_is_read_as_utf8_where_the_system_could_not():
    name = "Zoë 李".encode().decode("ascii", "surrogateescape")
    assert report.printable(name) == "Zoë 李"
    assert report.printable("a\ud800\udcff\x1b") == "a\ufffd\ufffd\ufffd"


def test_threads_wait_without_spinning_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    surroundings.settle()
    assert os.environ == {"OMP_WAIT_POLICY": "PASSIVE"}
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    surroundings.settle()
    assert os.environ == {"OMP_WAIT_POLICY": "ACTIVE"}


def test_the_policy_is_set_before_torch_is_there():
    code = (
        "import os, sys\nfrom kvlab.shell import surroundings\nsurroundings.settle()\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    out = subprocess.run(
        [sys.executable, "-c", code], env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout.split() == ["PASSIVE", "False"]
