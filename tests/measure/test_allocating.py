"""New memory that operations ask for."""

import pytest
import torch

from kvlab.measure.allocating import new_bytes

K_GTD, Q_GRD = torch.ones(2, 40, 8), torch.ones(2, 3, 8)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: K_GTD.mT.unflatten(1, (2, -1))[:, None].expand(-1, 9, -1, -1, -1), 0),
        (lambda: K_GTD.clone(), K_GTD.nbytes),
        (lambda: K_GTD.clone().add_(1.0).view(-1), K_GTD.nbytes),
        (lambda: Q_GRD @ K_GTD.mT, 2 * 3 * 40 * 4),
        (lambda: Q_GRD[:, :, None] @ K_GTD[:, None].mT, 3 * K_GTD.nbytes + 2 * 3 * 40 * 4),
        (lambda: K_GTD.sort(-1), K_GTD.nbytes * 3),  # numbers, and indices of 8 bytes
        (lambda: None, 0),
    ],
)
def test_what_lies_elsewhere_counts_and_views_do_not(call, expected):
    assert new_bytes(call) == expected


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="expected a function"):
        new_bytes(K_GTD)
