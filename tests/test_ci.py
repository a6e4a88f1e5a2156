"""Continuous integration clones into a folder called kvlab, on a path with a space."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from kvlab.shell.cli import ROOT

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not all(map(shutil.which, ("bash", "git"))), reason="needs bash and git"
)
# stands in for the suite
MAIN = """import json, os, subprocess, sys
told = {"cwd": os.getcwd(), "argv": sys.argv[1:], "stdin": sys.stdin.read()}
told["text"] = open("a").read()
head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
print(json.dumps({**told, "head": head.stdout.strip()}))
sys.exit(7)
"""


def git(folder, *words):
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    line = ["git", *who, "-C", str(folder), *words]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A project with this `.ci/run` and two commits."""
    folder = tmp_path / "checkout"
    for room in (".ci", "kvlab"):
        (folder / room).mkdir(parents=True)
    for name in (".ci/run", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "kvlab" / "__main__.py").write_text(MAIN)
    git(folder, "init", "--quiet")
    for text in ("first", "second"):
        (folder / "a").write_text(text)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", text)
    return folder


def run(folder, tmp_path):
    """`bash .ci/run` with the few programs it needs: no apt-get, that would install something."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name in ("bash", "git", "mktemp", "rm", "dirname", "id"):
        (bin / name).symlink_to(shutil.which(name))
    (bin / "python3").symlink_to(sys.executable)
    env = {"PATH": str(bin), "HOME": str(tmp_path), "CI": "true"}
    line = ["bash", ".ci/run"]
    done = subprocess.run(
        line, cwd=folder, env=env, input="no test may read this", capture_output=True, text=True
    )
    assert sorted(path.name for path in (folder / ".ci").iterdir()) == ["run"], "something is left"
    return done


@pytest.mark.parametrize("kind", ["a branch", "on no branch", "shallow", "another user's"])
def test_the_commit_is_cloned_to_where_a_newcomer_would_clone_it(checkout, tmp_path, kind):
    folder, want = checkout, "second"
    if kind == "on no branch":
        git(folder, "checkout", "--quiet", "--detach", "HEAD~1")
        (folder / "a").write_text("third")
        git(folder, "commit", "--quiet", "--all", "--message", "third")
        want = "third"
    elif kind == "shallow":
        folder = tmp_path / "shallow"
        git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{checkout}", str(folder))
        git(folder, "checkout", "--quiet", "--detach")
        git(folder, "branch", "--delete", "--force", "main")
    elif kind == "another user's":
        if os.geteuid() != 0:
            pytest.skip("needs root")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
    head = git(folder, "-c", f"safe.directory={folder}", "rev-parse", "HEAD")
    (folder / "a").write_text("not committed")
    done = run(folder, tmp_path)
    assert done.returncode == 7, done.stderr
    told = json.loads(done.stdout)
    assert (told["argv"], told["stdin"], told["text"]) == (["test"], "", want)
    assert told["cwd"].endswith("/kvlab") and " " in told["cwd"]
    assert told["head"] == head


def test_what_cannot_be_cloned_fails_and_says_so(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    done = run(checkout, tmp_path)
    assert done.returncode == 1 and "could not be cloned" in done.stderr and done.stdout == ""
