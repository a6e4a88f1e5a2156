import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from kvlab.view import QueryDial

KEYS = {"queen": [100, 2, 4], "king": [95, 2, 0], "guitar": [0, 0, 4.5], "crowd": [0, 5, 2]}
VALUES = {"queen": [1, 2, 3], "king": [3, 2, 0], "guitar": [0, 0, 4], "crowd": [0, 5, 1]}


def bars(dial, name):
    root = ElementTree.fromstring(dial.svg)
    found = root.iter("{http://www.w3.org/2000/svg}rect")
    return [float(rect.get("width")) for rect in found if rect.get("class") == name]


@pytest.mark.parametrize("query", [(0.000001, 1, 3), (1, 0, 0), (-0.5, -2, 4.5), (0, 0, 0)])
@pytest.mark.parametrize("scaled", [True, False])
def test_it_computes_what_torch_computes(query, scaled):
    dial = QueryDial(
        KEYS, VALUES, royal=query[0], person=query[1], musician=query[2], scaled=scaled
    )
    q_13 = torch.tensor([query], dtype=torch.float64)
    k_T3, v_T3 = (torch.tensor(list(x.values()), dtype=torch.float64) for x in (KEYS, VALUES))
    score_T = (q_13 @ k_T3.T)[0] / (3**0.5 if scaled else 1)
    weight_T = score_T.softmax(-1)
    assert list(dial.scores.values()) == pytest.approx(score_T.tolist())
    assert list(dial.weights.values()) == pytest.approx(weight_T.tolist())
    assert dial.mixture == pytest.approx((weight_T @ v_T3).tolist())


def test_turning_the_query_moves_words_and_picture():
    dial = QueryDial(KEYS, VALUES)
    assert "queen gets" in dial.status and "divide by √3" in str(dial.controls)
    before = dial.svg
    assert "the query: royal 0, person 1, musician 3" in before
    dial.person, dial.musician = 0, 5
    assert "guitar gets" in repr(dial) and dial.weights["guitar"] > 0.5
    dial.royal, dial.person, dial.musician = 1, 0, -5
    assert "king gets" in dial.status and dial.svg != before


def test_bars_are_as_long_as_the_numbers_and_negative_ones_go_left():
    dial = QueryDial(KEYS, VALUES, royal=0, person=0, musician=-3)
    assert len(bars(dial, "down")) == 3 and len(bars(dial, "up")) == 1 + 3
    weights = bars(dial, "weight")
    shares = [w / sum(weights) for w in weights]
    assert shares == pytest.approx(list(dial.weights.values()), abs=2e-4)


def test_a_huge_score_does_not_overflow():
    dial = QueryDial({"a": [1e6, 0, 0], "b": [0, 0, 0]}, {"a": [1, 0, 0], "b": [0, 1, 0]}, royal=1)
    assert dial.weights["a"] == 1 and all(math.isfinite(x) for x in dial.mixture)


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same words"):
        QueryDial(KEYS, {"queen": [1, 2, 3]})
    with pytest.raises(ValueError, match="'queen' has"):
        QueryDial({"queen": [1, 2]}, {"queen": [1, 2, 3]})
