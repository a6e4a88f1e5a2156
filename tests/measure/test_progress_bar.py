import sys

import pytest

from kvlab.measure.progress_bar import progress


def test_progress_is_drawn_on_a_terminal_alone(monkeypatch, capsys):
    pytest.importorskip("rich")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with progress() as show:
            show(1, "asking", 4)
        assert ("asking" in capsys.readouterr().err) is terminal
