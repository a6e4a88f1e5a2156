"""Functions of torch that an exercise forbids, through the doors that lead to what they compute."""

import _thread
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kvlab.course.grading.grade import grade_source
from kvlab.course.sandbox.answer import AnswerRaised, LocalAnswer
from kvlab.course.sandbox.forbid import without
from tests.course.answering import BY_NUMBER

FORBIDS = {"softmax": BY_NUMBER["1.3"].forbids, "attention": BY_NUMBER["2.2"].forbids}
BEFORE = functools.partial(torch.softmax, dim=-1)


def eye(s_ST):
    return torch.eye(s_ST.shape[-1], dtype=s_ST.dtype)[None]


def without_functions(s_ST):
    with torch._C.DisableTorchFunction():
        return torch.softmax(s_ST, -1)


SOFTMAX = {
    "torch": lambda s: torch.softmax(s, -1),
    "a method": lambda s: s.softmax(-1),
    "functional": lambda s: F.softmax(s, -1),
    "a module": lambda s: torch.nn.Softmax(-1)(s),
    "kept before": lambda s: BEFORE(s),
    "softmin": lambda s: F.softmin(-s, -1),
    "a logarithm": lambda s: torch.nn.LogSoftmax(-1)(s).exp(),
    "special": lambda s: torch.special.softmax(s, -1),
    "an operation": lambda s: torch.ops.aten._softmax(s, -1, False),
    "an operation that writes": lambda s: torch.ops.aten._softmax.out(s, -1, False, out=s.clone()),
    "a safe one": lambda s: torch.ops.aten._safe_softmax(s, -1),
    "a sparse one": lambda s: torch.sparse.softmax(s.to_sparse(), 1).to_dense(),
    "a masked one": lambda s: torch.masked.softmax(s, -1),
    "a masked operation": lambda s: torch._masked_softmax(s, s > 1e9, -1),
    "a nested one": lambda s: torch.nested.nested_tensor(list(s)).softmax(-1).to_padded_tensor(0.0),
    "the sum": lambda s: (s - s.logsumexp(-1, keepdim=True)).exp(),
    "the sum two by two": lambda s: (
        s - functools.reduce(torch.logaddexp, s.unbind(-1))[:, None]
    ).exp(),
    "the running sum": lambda s: (s - s.logcumsumexp(-1)[:, -1:]).exp(),
    "a loss": lambda s: torch.stack(
        [-F.cross_entropy(s[0:1], torch.tensor([t])) for t in range(4)]
    ).exp(),
    "a distribution": lambda s: torch.distributions.Categorical(logits=s).probs,
    "Gumbel's": lambda s: F.gumbel_softmax(s),
    "written in Python": lambda s: torch._refs.softmax(s, -1),
    "taken apart": lambda s: torch._decomp.decompositions._softmax(s, -1, False),
    "mapped": lambda s: torch.vmap(lambda row: torch.softmax(row, -1))(s),
    "a gradient": lambda s: torch.func.grad(lambda x: x.logsumexp(-1).sum())(s),
    "traced": lambda s: torch.fx.symbolic_trace(torch.nn.Softmax(-1))(s),
    "compiled": lambda s: torch.compile(torch.nn.Softmax(-1), backend="eager")(s),
    "past the functions": without_functions,
    "attention": lambda s: F.scaled_dot_product_attention(s[None], eye(s), eye(s), scale=1.0)[0],
}
ATTENTION = {
    "functional": lambda s: F.scaled_dot_product_attention(s[None], s[None], s[None]),
    "an operation": lambda s: torch.ops.aten._scaled_dot_product_attention_math(
        s[None, None], s[None, None], s[None, None]
    )[0],
    "a flash of it": lambda s: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        s[None, None], s[None, None], s[None, None]
    )[0],
    "a module": lambda s: torch.nn.MultiheadAttention(1, 1)(*[s[..., None].float()] * 3)[0],
    "a layer": lambda s: torch.nn.TransformerEncoderLayer(4, 1)(s[None].float()),
}
CASES = [("softmax", name) for name in SOFTMAX] + [("attention", name) for name in ATTENTION]


def in_a_thread(call, s_ST):
    found = []
    thread = threading.Thread(target=lambda: found.append(call(s_ST)))
    thread.start()
    thread.join()
    return found


def in_a_plain_thread(call, s_ST):
    found, done = [], _thread.allocate_lock()
    done.acquire()

    def run():
        try:
            found.append(call(s_ST))
        finally:
            done.release()

    _thread.start_new_thread(run, ())
    assert done.acquire(timeout=60)
    return found


def in_a_pool(call, s_ST):
    with ThreadPoolExecutor(1) as pool:
        return [pool.submit(in_a_thread, call, s_ST).result()]


@pytest.mark.parametrize(("what", "door"), CASES)
def test_no_door_leads_to_what_is_forbidden(what, door):
    answer = {"softmax": SOFTMAX, "attention": ATTENTION}[what][door]
    with pytest.raises(AnswerRaised, match="may not be used in this exercise"):
        LocalAnswer(answer, FORBIDS[what])(torch.ones(3, 4).double())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", [in_a_thread, in_a_plain_thread, in_a_pool])
def test_nor_through_a_thread(way):
    s_ST, starts = torch.ones(3, 4).double(), (threading.Thread.start, _thread.start_new_thread)
    for call, comes in ((torch.exp, True), (BEFORE, False)):
        with without(FORBIDS["softmax"]):
            found = way(call, s_ST)
        assert bool(found and found != [[]]) == comes
    assert (threading.Thread.start, _thread.start_new_thread) == starts
    assert bool(way(BEFORE, s_ST))


def test_other_threads_are_not_bound_and_a_late_one_stays_so():
    go, found, free = threading.Event(), [], []

    def late():
        go.wait(60)
        try:
            found.append(torch.softmax(torch.ones(2), -1))
        except RuntimeError as error:
            found.append(str(error))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 0).result()
        with without(("softmax",)):
            thread = threading.Thread(target=late)
            thread.start()
            free.append(pool.submit(torch.softmax, torch.ones(2), -1).result())
        go.set()
        thread.join()
    assert len(free) == 1 and "softmax may not be used" in found[0]


def test_a_function_of_the_learners_own_may_have_any_name():
    def softmax(s_ST):
        lifted_ST = (s_ST - s_ST.amax(-1, keepdim=True)).exp()
        return lifted_ST / lifted_ST.sum(-1, keepdim=True)

    s_ST = torch.tensor([[0.0, 1.0]])
    assert torch.allclose(LocalAnswer(softmax, FORBIDS["softmax"])(s_ST), torch.softmax(s_ST, -1))


def test_a_pool_of_the_answers_cell_is_bound_in_grading(nursery):
    source = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
pool.submit(int).result()

def stable_softmax(scores_ST):
    return pool.submit(torch.softmax, scores_ST, -1).result().nan_to_num(0.0)
"""
    verdict = grade_source(BY_NUMBER["1.3"], source, 3, nursery)
    assert "softmax may not be used" in verdict.message, verdict


# --- how large a tensor may become ---

K_GTD, Q_GRD = torch.ones(2, 400, 64), torch.ones(2, 16, 64)
COPIES = {
    "repeat_interleave": lambda: K_GTD.repeat_interleave(16, 0),
    "repeat": lambda: K_GTD.repeat(16, 1, 1),
    "expand and reshape": lambda: K_GTD[:, None].expand(-1, 16, -1, -1).flatten(0, 1),
    "an index": lambda: K_GTD[torch.arange(32) // 16],
    "a broadcast product": lambda: Q_GRD[:, :, None] @ K_GTD[:, None].mT,
    "products, then their sum": lambda: (Q_GRD[:, :, None] * K_GTD[:, None]).sum(-1),
    "a stack": lambda: torch.stack([K_GTD[h // 16] for h in range(32)]),
    "one of two results": lambda: K_GTD.repeat(16, 1, 1).sort(),
}
NO_COPIES = {
    "a product of groups": lambda: Q_GRD @ K_GTD.mT,
    "einsum": lambda: torch.einsum("grd,gtd->grt", Q_GRD, K_GTD),
    "head by head": lambda: torch.stack([K_GTD[h // 16] @ Q_GRD[0, 0] for h in range(32)]),
    "a view that repeats": lambda: K_GTD[:, None].expand(-1, 16, -1, -1),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_tensor_beyond_the_limit_is_refused(how):
    said = pytest.raises(RuntimeError, match="numbers was made, and 100,000 are enough")
    with said, without(["tensors over 100000"]):
        COPIES[how]()


def test_nor_does_numpy_copy_unseen():
    k_GTD = torch.ones(2, 400, 64, dtype=torch.float64)
    said = pytest.raises(
        RuntimeError, match="arrays of numpy or lists of 8.* numbers lay in memory"
    )
    with said, without(["tensors over 100000"]):
        np.repeat(k_GTD.numpy(), 16, 0).sum()
    with without(["tensors over 100000"]):
        k_GTD.tolist()
        [k_TD.numpy() @ np.ones(64) for k_TD in k_GTD for _ in range(16)]


@pytest.mark.parametrize("how", NO_COPIES)
def test_what_stays_below_the_limit_or_is_a_view_is_not(how):
    with without(["tensors over 100000"]):
        NO_COPIES[how]()
    with pytest.raises(RuntimeError), without(["tensors over 10", "tensors over 100000"]):
        NO_COPIES[how]()
