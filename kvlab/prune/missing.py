"""What stands in `Evidence` for what a score did not declare: whoever uses it is told how to."""

from __future__ import annotations

import torch

CURES = {
    "q_BHWD": "declare how many queries it needs: @needs(queries=32)",
    "q_pos_BW": "declare how many queries it needs: @needs(queries=32)",
    "mass_BGT": "declare what is summed up: @needs(mass=attention_mass)",
    "turns": "declare that it needs rope's turns: @needs(rope=True)",
    "o_CI": "declare that it needs the output projection: @needs(output=True)",
    "n_B": "only a score of whole tokens, in Evict, is told how many stay",
    "seen_B": "a mass function is not told how long a text will be, only a score is",
}


class Missing:
    """Goes where a tensor would, and refuses whatever is done with it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"Missing({self._name!r})"

    def refuse(self, *_, **__) -> None:
        raise ValueError(
            f"This score looks at {self._name}, which was not collected; {CURES[self._name]}."
        )

    def __getattr__(self, name: str):
        if name.startswith("__"):  # whether it can be copied, and the like
            raise AttributeError(name)
        return self.refuse()

    @classmethod
    def __torch_function__(cls, _function, _types, args=(), kwargs=None):
        """torch's functions ask this, wherever the thing is among their arguments."""
        torch.utils._pytree.tree_map_only(cls, cls.refuse, (args, kwargs or {}))


_USES = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul "
    "rmatmul neg pos abs invert and rand or ror xor rxor lt le gt ge getitem setitem len iter "
    "contains bool int float index array"
)
for _use in _USES.split():
    setattr(Missing, f"__{_use}__", Missing.refuse)
