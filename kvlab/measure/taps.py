"""Listening to a model at work: the taps that its tensors pass, and one way to hear them.

B rows, S new tokens, H query heads, G key/value heads, T slots, D head width, C model width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor, nn

from kvlab.model import Transformer

# Called with a tensor, or with a layer's number and a tensor; what it returns takes that one's
# place, unless it is None.
Listener = Callable[[Tensor], Tensor | None]
LayerListener = Callable[[int, Tensor], Tensor | None]


def listen(
    model: nn.Module,
    *,
    starts: Callable[[Tensor], None] | None = None,
    tap_q: LayerListener | None = None,
    tap_k: LayerListener | None = None,
    tap_v: LayerListener | None = None,
    tap_weights: LayerListener | None = None,
    after: LayerListener | None = None,
    ends: Listener | None = None,
    tap_logits: Listener | None = None,
) -> ExitStack:
    """Call functions with what passes a model, until the `with` block of the result ends.

    Where there is no block, `close()` of the result ends it. In order: `starts` hears the tokens,
    the taps what they are named for, `after` what a layer's attention gives, `ends` the last
    layer's output after the norm, `tap_logits` the logits. Of a model that is not ours `attentions`
    is all that the taps and `after` need.
    Shapes: starts tokens_BS; tap_q q_BHSD; tap_k k_BGSD; tap_v v_BGSD; tap_weights weights_BHST;
    after, ends x_BSC; tap_logits logits_BSV.
    Raises: ValueError for a compiled model.
    """
    refuse_compiled(model, "A listener was given")
    taps = {"tap_q": tap_q, "tap_k": tap_k, "tap_v": tap_v, "tap_weights": tap_weights}
    with ExitStack() as hooks:
        if starts:
            hook = model.model.register_forward_pre_hook(lambda _module, given: starts(given[0]))
            hooks.callback(hook.remove)
        for i, attention in enumerate(model.attentions):
            for name, heard in taps.items():
                _hear(hooks, heard and getattr(attention, name), heard, i)
            _hear(hooks, attention, after, i)
        _hear(hooks, ends and model.model, ends)
        _hear(hooks, tap_logits and model.tap_logits, tap_logits)
        return hooks.pop_all()


def _hear(hooks: ExitStack, module: nn.Module | None, heard: Callable | None, *layer: int) -> None:
    if heard is not None:
        hook = module.register_forward_hook(lambda _module, _given, passed: heard(*layer, passed))
        hooks.callback(hook.remove)


def taps(model: Transformer) -> list[nn.Module]:
    """All modules that do nothing but let a tensor be heard."""
    names = ("tap_q", "tap_k", "tap_v", "tap_weights")
    found = [getattr(attention, name) for attention in model.attentions for name in names]
    return [*found, model.tap_logits]


def watched(taps: list[nn.Module]) -> bool:
    """Whether anything listens at these taps."""
    return any(tap._forward_hooks for tap in taps)


def compiled(model: nn.Module) -> bool:
    """Whether `.compile()` changed a model in place: it then goes on without looking for hooks."""
    return any(module._compiled_call_impl is not None for module in model.modules())


def refuse_compiled(model: nn.Module, what: str) -> None:
    """Refuse a compiled model; `what` begins the sentence, as "A probe was given"."""
    if compiled(model):
        raise ValueError(
            f"{what} a model that `.compile()` changed, and compiled code passes no taps: use a "
            "model that was not compiled."
        )
