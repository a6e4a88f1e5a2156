"""`python -m kvlab` and the script, in a folder where strangers' files lie."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kvlab

SCRIPT = Path(sys.executable).with_name("kvlab")
LOADED = """import json, sys
print(json.dumps([n for n, m in sys.modules.items() if getattr(m, "__file__", None)]))
"""


def run(folder, *line):
    return subprocess.run(line, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A folder with a file for each module that something of ours might import, but for those
    that Python loads for its own `-m` before any line of ours."""
    before = tmp_path_factory.mktemp("before")
    (before / "first").mkdir()
    (before / "first" / "__init__.py").write_text(LOADED)
    (before / "first" / "__main__.py").touch()
    done = run(before, sys.executable, "-m", "first")
    assert done.returncode == 0, done.stderr
    folder = tmp_path_factory.mktemp("strange")
    names = {*sys.stdlib_module_names, "torch", "numpy", "numba", "sitecustomize", "usercustomize"}
    for name in names - set(json.loads(done.stdout)):
        (folder / f"{name}.py").write_text("open('ran', 'a').write(__name__)")
    return folder


@pytest.mark.parametrize("way", [["-m"], ["-P", "-m"], ["-I", "-m"]])
def test_the_working_folder_is_not_looked_at_for_modules(way, strange):
    done = run(strange, sys.executable, *way, "kvlab", "--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, kvlab.__version__), done.stderr
    assert not (strange / "ran").exists()


def test_nor_by_the_script(strange):
    if not SCRIPT.exists():
        pytest.skip("kvlab is not installed")
    assert run(strange, str(SCRIPT), "--version").returncode == 0
    assert not (strange / "ran").exists()


def test_a_script_of_the_readers_own_keeps_its_folder(tmp_path):
    (tmp_path / "helper.py").write_text("x = 3")
    done = run(tmp_path, sys.executable, "-c", "import kvlab, helper; print(helper.x)")
    assert done.stdout == "3\n"


def test_what_a_safe_start_searches_first_stays(tmp_path):
    """With -P the working folder is not there to be taken away."""
    (tmp_path / "first").mkdir()
    text = "import sys; there = list(sys.path); import kvlab; print(there == sys.path)"
    (tmp_path / "first" / "__init__.py").write_text(text)
    (tmp_path / "first" / "__main__.py").touch()
    line = [sys.executable, "-P", "-m", "first"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
