import sys
import threading
import time

import pytest

from kvlab.measure import progress_bar
from kvlab.measure.progress_bar import alive, progress


def test_progress_is_drawn_on_a_terminal_alone(monkeypatch, capsys):
    pytest.importorskip("rich")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with progress() as show:
            show(1, "asking", 4)
        assert ("asking" in capsys.readouterr().err) is terminal


def test_a_file_gets_a_line_now_and_then(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress() as show:
        for done, at in enumerate((110, 131, 140, 190)):
            now[0] = at
            show(done, "asking", 4)
    assert capsys.readouterr().err == "1 of 4: asking\n3 of 4: asking\n"


@pytest.fixture
def at_once(monkeypatch):
    """No pytest around, as far as anybody can see, and readers with no patience."""
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.setattr(progress_bar, "PATIENCE", 0.01)


def test_a_word_is_said_while_something_takes_long(at_once, capsys):
    with alive("counting"):
        seen = ""
        while "counting" not in seen:
            seen += capsys.readouterr().err
    assert seen.startswith("kvlab: still counting, 0 s so far ...")


def test_nothing_is_said_of_what_is_quick_nor_after_its_end(at_once, monkeypatch, capsys):
    monkeypatch.setattr(progress_bar, "PATIENCE", 500)
    before = set(threading.enumerate())
    with pytest.raises(KeyError), alive("counting"):
        raise KeyError
    assert capsys.readouterr().err == "" and set(threading.enumerate()) == before


def test_nothing_is_said_under_pytest(at_once, monkeypatch, capsys):
    monkeypatch.setenv("PYTEST_VERSION", "9")
    with alive("counting"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
