import xml.etree.ElementTree as ElementTree

import pytest
import traitlets

from kvlab.view import Timeline

RECT = "{http://www.w3.org/2000/svg}rect"


def heights(panel, name):
    rects = ElementTree.fromstring(panel.svg).iter(RECT)
    return [float(r.get("height")) for r in rects if r.get("class") == name]


def texts(panel):
    return [t.text for t in ElementTree.fromstring(panel.svg).iter(RECT.replace("rect", "text"))]


def test_without_a_cache_all_rows_before_the_newest_are_computed_again():
    panel = Timeline(n_prompt=17, n_new=4)
    assert panel.rows == [(17, 0), (1, 17), (1, 18), (1, 19)]
    assert panel.running_total == [17, 35, 54, 74]
    assert "74 keys, 54 of them computed again" in repr(panel) and "17 keys, 23%" in repr(panel)
    panel.cached = True
    assert panel.rows == [(17, 0), (1, 0), (1, 0), (1, 0)]
    assert panel.running_total == [17, 18, 19, 20]
    assert "20 keys, 0 of them computed again" in repr(panel) and "17 keys, 85%" in repr(panel)


@pytest.mark.parametrize(("n_prompt", "n_new"), [(1, 1), (5, 2), (64, 32)])
def test_totals_are_the_closed_forms(n_prompt, n_new):
    panel = Timeline(n_prompt=n_prompt, n_new=n_new)
    assert panel.running_total[-1] == n_new * n_prompt + n_new * (n_new - 1) // 2
    panel.cached = True
    assert panel.running_total[-1] == n_prompt + n_new - 1


def test_bars_are_as_high_as_rows_on_one_scale_for_both_ways():
    panel = Timeline(n_prompt=6, n_new=3)
    unit = heights(panel, "first")[0] / 6
    assert heights(panel, "again") == pytest.approx([6 * unit, 7 * unit])
    assert [t for t in texts(panel) if t.isdigit()][:2] == ["0", "8"], "the axis"
    assert [t for t in texts(panel) if t.isdigit()][2:] == ["6", "0", "7", "1", "8", "2"]
    panel.cached = True
    assert heights(panel, "again") == []
    assert heights(panel, "first") == pytest.approx([6 * unit, unit, unit])


def test_a_single_new_token_has_no_decode():
    panel = Timeline(n_prompt=3, n_new=1, cached=True)
    assert "prefill" in panel.svg and "decode" not in panel.svg
    assert repr(panel).endswith("3 keys, 100% of all.)")


def test_all_three_controls_are_there_and_have_ends():
    kinds = {c["name"]: (c["kind"], c.get("max")) for c in Timeline().controls}
    assert kinds == {"n_prompt": ("slider", 64), "n_new": ("slider", 32), "cached": ("tick", None)}
    with pytest.raises(traitlets.TraitError):
        Timeline(n_new=0)
