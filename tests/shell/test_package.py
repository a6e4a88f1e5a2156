"""The package as it is built: what the wheel holds, that it answers, and what is said of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import kvlab
from kvlab.shell.cli import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
USE = """
import kvlab
from kvlab.course.exercises import ALL
model, tokenizer = kvlab.load("pocket")
prompt = tokenizer.chat("What is the capital of France?")
said = tokenizer.decode(kvlab.generate(model, prompt, 8)[0]).strip()
print(kvlab.__file__, len(ALL), kvlab.check("6.6", lambda: "none").passed, said, sep="|")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the files that belong to it, in a folder without git."""
    pytest.importorskip("hatchling", reason="needs hatchling, to build the wheel")
    project = tmp_path_factory.mktemp("project")
    left = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "kvlab", project / "kvlab", ignore=left)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT", ".gitignore"):
        shutil.copy(ROOT / name, project)
    for room in ("tests", "benchmarks/results", "chapters"):
        (project / room).mkdir(parents=True)
        (project / room / "not_ours.py").touch()
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    done = subprocess.run(line, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (project / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = [path for path in (ROOT / "kvlab").rglob("*") if path.is_file()]
    assert names == {
        path.relative_to(ROOT).as_posix() for path in package if "__pycache__" not in path.parts
    }
    for name in ("py.typed", "__init__.pyi", "pocket/weights/model.safetensors",
                 "course/ch06/q6_1_cache.py", "shell/lab_settings/overrides.json",
                 "view/panel.js"):  # fmt: skip
        assert f"kvlab/{name}" in names, name
    assert sum(info.compress_size for info in wheel.infolist()) < 6_000_000


def test_it_says_what_pyproject_says(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    told = Parser().parsestr(wheel.read(name).decode("utf-8"))
    project = SETTINGS["project"]
    assert told["Name"] == "kvlab" and told["Version"] == project["version"] == kvlab.__version__
    assert set(told.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    needed = [line for line in told.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(needed) == len(project["dependencies"])
    assert set(told.get_all("License-File")) == set(project["license-files"])


def test_the_wheel_answers_where_it_is_unpacked(wheel, tmp_path):
    wheel.extractall(tmp_path / "unpacked")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "unpacked"), "KVLAB_DATA": str(tmp_path)}
    line = [sys.executable, "-P", "-c", USE]
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, exercises, passed, said = done.stdout.strip().split("|")
    assert Path(where).is_relative_to(tmp_path) and int(exercises) >= 88
    assert passed == "False" and said.startswith("The capital of France is Paris.")


def test_how_to_cite_it_names_this_version_and_no_person():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert str(cited["version"]) == kvlab.__version__ and cited["license"] == "MIT"
    assert cited["authors"] == [{"name": "kvlab contributors"}]


# --- files that other machines read ---


def test_the_dev_container_sets_up_by_a_line_that_is_right():
    from kvlab.shell import cli

    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    program, dash, module, *words = told["postCreateCommand"].split()
    assert (program, dash, module) == ("python3", "-m", "kvlab")
    args, rest = cli.parse(words)
    assert args.command == "test" and all((ROOT / name).exists() for name in rest)
    assert told["containerEnv"] == {"KVLAB_TORCH": "cpu"}


def test_workflows_run_what_is_there():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    matrix = jobs["suite"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert "python -m kvlab test" in lines and ".ci/release" in lines
    python = (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8")
    assert python.strip().removeprefix("python-") in matrix["python"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("file", ["binder/postBuild", ".ci/release", ".ci/run"])
def test_scripts_can_be_run(file):
    assert os.access(ROOT / file, os.X_OK) or os.name == "nt"
    checked = subprocess.run(["bash", "-n", str(ROOT / file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_nothing_of_one_machine_stands_in_them():
    files = [".devcontainer/devcontainer.json", "binder/postBuild", ".ci/release", "CITATION.cff",
             ".github/workflows/tests.yml", "docs/elsewhere.md"]  # fmt: skip
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"/(root|home|tmp|work|opt)/|file://|localhost", text), name


@pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="needs bash")
@pytest.mark.parametrize("lacking", ["pyproject.toml", "kvlab/__init__.py", "CITATION.cff",
                                     "CHANGELOG.md", None])  # fmt: skip
def test_a_release_is_held_to_what_the_project_says_of_itself(lacking, tmp_path):
    said = {"pyproject.toml": 'version = "9.8.7"', "kvlab/__init__.py": '__version__ = "9.8.7"',
            "CITATION.cff": "version: 9.8.7", "CHANGELOG.md": "## [9.8.7]"}  # fmt: skip
    for room in (".ci", "kvlab", "bin"):
        (tmp_path / room).mkdir()
    shutil.copy(ROOT / ".ci" / "release", tmp_path / ".ci")
    for name, text in said.items():
        (tmp_path / name).write_text("9.8.6" if name == lacking else text + "\n")
    # stands in for git in a folder with a change; what would be built is not
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\necho ' M kvlab/cache.py'\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHON": "false"}
    done = subprocess.run(
        ["bash", ".ci/release", "9.8.7"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    expected = f"{lacking} does not say {said[lacking]}" if lacking else "not committed"
    assert done.returncode == 1 and expected in done.stderr


# --- types ---


def test_the_names_that_type_checkers_see_are_those_that_there_are():
    text = (ROOT / "kvlab" / "__init__.pyi").read_text(encoding="utf-8")
    told = re.findall(r"^from kvlab\.([\w.]+) import (\w+) as \2$", text, re.M)
    assert {name: home for home, name in told} == kvlab._HOME
    assert len(told) == len(kvlab._HOME)


def test_others_code_is_clean_in_every_type():
    """`pyright` alone in the project's folder does this; it reads tests/typed_use.py, strictly."""
    pytest.importorskip("pyright", reason="needs pyright")
    if shutil.which("node") is None:
        pytest.skip("needs node, which pyright runs in")
    line = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    env = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors, 0 warnings" in done.stdout
