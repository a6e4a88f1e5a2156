"""Weights of one byte: a quarter of float32's memory, so a quarter of what a decoding step reads.

I inputs and O outputs of a linear layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvlab import checks
from kvlab.model import Transformer


class Int8Linear(nn.Module):
    """A linear layer whose weights are whole numbers from -127 to 127, with a scale per output.

    Here they are made floats again for each product, which is right but slow: the compiled step
    reads them as they are.
    Source: Dettmers et al. 2022, "LLM.int8()", section 2.1, absmax per row.
    Differs: activations stay floats, but for one row in the compiled step, which rounds them to 15
    bits.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_OI = linear.weight.detach()
        wide = torch.promote_types(weight_OI.dtype, torch.float32)
        most_O = weight_OI.abs().amax(1).to(wide).clamp(min=torch.finfo(wide).tiny)
        scale_O = most_O / 127
        self.register_buffer("weight", (weight_OI / scale_O[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale_O)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., I) -> (..., O)."""
        weight_OI = (self.weight * self.scale[:, None]).to(x.dtype)
        return F.linear(x, weight_OI, self.bias)


def int8_weights_(model: Transformer) -> Transformer:
    """Round every matrix of a model to int8, in place, and return the model.

    The embedding, norms and biases stay as they are, and so does the head where it shares the
    embedding's memory. Rounding loses something: measure what, on your own text.
    """
    checks.model("model", model)
    checks.in_one_piece("Rounding to int8 was asked for", model)
    if model.training:
        raise ValueError("A model in training was to be rounded to int8; call model.eval() first.")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    return model
