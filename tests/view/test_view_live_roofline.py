import xml.etree.ElementTree as ElementTree

import pytest
import traitlets

from kvlab import ModelConfig
from kvlab.measure import Roofline, decode_work
from kvlab.view import LiveRoofline

SMALL = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, n_layers=2, n_heads=4, n_kv_heads=2,
    head_dim=8,
)  # fmt: skip
MACHINE = Roofline(10.0, 40.0)
CIRCLE = "{http://www.w3.org/2000/svg}circle"


def chosen(panel):
    """Where the large dot is."""
    dots = list(ElementTree.fromstring(panel.svg).iter(CIRCLE))
    return float(dots[-1].get("cx")), float(dots[-1].get("cy"))


def test_it_says_what_binds_a_step_and_the_tokens_that_leaves():
    panel = LiveRoofline(MACHINE, SMALL, context=1)
    assert panel.ridge == 4 and panel.work == decode_work(SMALL, context=1)
    assert "memory-bound" in panel.status
    panel.batch = 64
    work = decode_work(SMALL, batch=64, context=1)
    assert work.intensity > 4 and "compute-bound" in panel.status
    tokens = 64 / MACHINE.seconds(work)
    assert f"{tokens:,.0f} tokens a second" in panel.status
    panel.number = "2"
    assert panel.work.bytes == work.bytes // 2


def test_the_dot_climbs_to_the_ridge_and_then_goes_level():
    panel = LiveRoofline(MACHINE, SMALL, context=1)
    places = []
    for batch in (1, 2, 64, 128):
        panel.batch = batch
        places.append(chosen(panel))
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = places
    assert x1 < x2 < x3 < x4 and y1 > y2 > y3 == y4


def test_long_chats_keep_a_batch_below_the_ridge():
    panel = LiveRoofline(MACHINE, SMALL, batch=512, context=16384)
    assert "memory-bound" in panel.status


def test_what_was_measured_is_a_cross_with_its_name():
    drawn = LiveRoofline(MACHINE, SMALL, {"pocket <1>": (0.5, 1.0)}).svg
    assert "pocket &lt;1&gt;" in drawn
    ElementTree.fromstring(drawn)
    slow = LiveRoofline(MACHINE, SMALL, {"slow": (0.5, 0.01)}).svg
    assert ">0.0078125<" in slow, "the axis goes down to it"


def test_large_rates_are_written_in_tflop():
    assert "GFLOP" in LiveRoofline(MACHINE, SMALL).svg
    drawn = LiveRoofline(Roofline(3350.0, 989_000.0), SMALL).svg
    assert "TFLOP" in drawn and ">512<" in drawn


def test_its_controls_have_ends():
    kinds = {c["name"]: c["kind"] for c in LiveRoofline(MACHINE, SMALL).controls}
    assert kinds == {"batch": "slider", "context": "slider", "number": "choice"}
    with pytest.raises(traitlets.TraitError):
        LiveRoofline(MACHINE, SMALL, batch=0)


@pytest.mark.parametrize("machine", [Roofline(0.5, 2000.0), Roofline(900.0, 1.0)])
def test_a_ridge_beyond_the_picture_is_drawn_at_its_edge(machine):
    ElementTree.fromstring(LiveRoofline(machine, SMALL).svg)
