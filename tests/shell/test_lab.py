"""The commands that open JupyterLab and run the suite."""

import json
import os
import subprocess
import sys

import pytest

from kvlab.shell import bootstrap, lab
from kvlab.shell.cli import ROOT


@pytest.fixture
def root(tmp_path):
    for name in ("chapters", "solutions", "tests"):
        (tmp_path / name).mkdir()
    (tmp_path / "pyproject.toml").write_text('name = "kvlab"\n')
    return tmp_path


@pytest.fixture
def pytests(monkeypatch):
    """Stands in for pytest: records its arguments, answers with the exit codes set for a folder."""
    calls, codes = [], {}
    monkeypatch.setattr(lab, "bring_model", lambda: None)

    def run(command, **options):
        assert command[:3] == [sys.executable, "-m", "pytest"]
        calls.append(command[3:])
        return subprocess.CompletedProcess(command, codes.get(command[-1], 0))

    monkeypatch.setattr(subprocess, "run", run)
    return calls, codes


def test_lab_opens_the_welcome_or_a_chapter_and_reaches_the_whole_project(root):
    assert "--LabApp.default_url=/lab/tree/chapters" in lab.lab_command(root=root)
    (root / "chapters" / lab.FIRST).touch()
    assert f"--LabApp.default_url=/lab/tree/chapters/{lab.FIRST}" in lab.lab_command(root=root)
    (root / lab.WELCOME).touch()
    command = lab.lab_command(9123, True, ["--debug"], root)
    assert command[:4] == [sys.executable, "-P", "-m", "jupyterlab"]
    assert f"--LabApp.default_url=/lab/tree/{lab.WELCOME}" in command
    assert f"--ServerApp.root_dir={root}" in command
    assert {"--port=9123", "--no-browser", "--debug"} <= set(command)
    assert not {"--no-browser"} & set(lab.lab_command(root=root))


@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_root_is_allowed_only_for_root(root, monkeypatch, user, allowed):
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    assert ("--ServerApp.allow_root=True" in lab.lab_command(root=root)) == allowed


def test_the_first_chapter_is_the_first():
    assert min((ROOT / "chapters").glob("*.ipynb")) == (ROOT / "chapters" / lab.FIRST)


def test_the_books_settings():
    """News and update checks are off, it is as light or dark as the system, long lines wrap,
    cells stay in the page. (Outputs scroll in JupyterLab only where a cell says so.)"""
    settings = json.loads((lab.SETTINGS / "overrides.json").read_text())
    assert settings == {
        "@jupyterlab/apputils-extension:notification": {
            "fetchNews": "false",
            "checkForUpdates": False,
        },
        "@jupyterlab/apputils-extension:themes": {"adaptive-theme": True},
        "@jupyterlab/notebook-extension:tracker": {
            "codeCellConfig": {"lineNumbers": False, "lineWrap": True},
            "windowingMode": "none",
        },
    }
    assert f"--LabApp.app_settings_dir={lab.SETTINGS}" in lab.lab_command()


def test_run_lab_becomes_jupyter_with_this_environments_commands_first(root, monkeypatch):
    seen = []
    monkeypatch.setattr(lab, "become", lambda command, env: seen.append((command, env)) or 3)
    assert lab.run_lab(9, True, root=root) == 3
    [(command, env)] = seen
    assert command == lab.lab_command(9, True, root=root)
    assert env["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)
    assert env["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_the_whole_suite_is_tests_chapters_and_solutions(root, pytests, capsys):
    calls, _ = pytests
    for name in ("chapters", "solutions"):
        (root / name / "01_x.ipynb").touch()
    assert lab.run_tests(root=root) == 0
    assert [arguments[-1] for arguments in calls] == ["tests", "chapters", "solutions"]
    assert "--nbval" in calls[1] and "--nbval-sanitize-with=chapters/sanitize.cfg" in calls[1]
    assert "--nbval-lax" in calls[2]
    assert ["-n" in arguments for arguments in calls] == [True, False, False]
    assert "all passed: tests, chapters, solutions" in capsys.readouterr().err


def test_folders_without_notebooks_are_not_run(root, pytests):
    calls, _ = pytests
    assert lab.run_tests(root=root) == 0
    assert [arguments[-1] for arguments in calls] == ["tests"]


def test_arguments_make_one_run(root, pytests):
    calls, _ = pytests
    (root / "chapters" / "01_x.ipynb").touch()
    assert lab.run_tests(["-k", "cache"], root=root) == 0
    assert calls == [["-k", "cache"]]


@pytest.mark.parametrize(("folder", "code"), [("tests", 1), ("tests", 5), ("solutions", 1)])
def test_any_failure_fails_the_suite_and_no_test_is_one(root, pytests, capsys, folder, code):
    calls, codes = pytests
    for name in ("chapters", "solutions"):
        (root / name / "01_x.ipynb").touch()
    codes[folder] = code
    assert lab.run_tests(root=root) == 1
    assert len(calls) == 3
    assert f"failed in {folder} (pytest's exit code {code})" in capsys.readouterr().err


def test_without_the_project_both_say_where_it_is(tmp_path, pytests, capsys):
    assert lab.run_lab(root=tmp_path) == 1
    assert lab.run_tests(root=tmp_path) == 1
    assert capsys.readouterr().err.count("comes with the project's repository") == 2
    assert pytests[0] == []


def test_the_project_of_this_package_is_found():
    assert bootstrap.is_project(lab.ROOT)
