import sys
import time

import pytest

from kvlab.measure.progress_bar import progress


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
