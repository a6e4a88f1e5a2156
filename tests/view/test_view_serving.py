"""The Gantt charts of served requests: who is there, in which unit, and what is said of gaps."""

import pytest

from kvlab.serve.workload import Done, Log, Story
from kvlab.view.serving import gantts, ticks


def log():
    """Two requests in steps of half a second; the second one comes late and reads for two steps."""
    steps = [Done(0.5 * i, 0.5, {0: 1} if i < 1 else {0: 1, 1: 4}) for i in range(4)]
    return Log([Story(0.0, [0.5, 1.0, 2.0]), Story(0.5, [1.5, 2.0])], steps)


def axes(**how):
    return gantts({"one": log()}, **how).axes[0]


def test_time_is_in_seconds_unless_a_step_is_given():
    assert axes().get_title(loc="left") == "one: longest gap 1 s"
    assert axes().get_xlabel() == "seconds"
    panel = axes(step=0.5)
    assert panel.get_title(loc="left") == "one: longest gap 2 steps"
    assert panel.get_xlabel() == "decode steps"
    assert axes(step=0.5, gaps=False).get_title(loc="left") == "one"
    assert [label.get_text() for label in panel.get_xticklabels()] == list("01234")


def test_requests_are_numbered_or_named():
    assert axes().get_ylabel() == "request"
    panel = axes(names=["a", "b", "c"])
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("end, n", [(0.4, 1), (9, 10), (10, 6), (130, 7), (10**6, 2)])
def test_ticks_are_few_and_round(end, n):
    found = ticks(end)
    assert len(found) == n and found[0] == 0 and found[-1] <= end
