"""Mutants that the judge takes for right answers, each with the reason why they are.

By exercise and by the mutant's name, as `python -m tests.course.mutants` prints it. An exercise
that is here, with an empty table if need be, has been swept.
"""
# ruff: noqa: E501

Reasons = dict[str, dict[str, str]]

CH01: Reasons = {
    "1.1": {},
    "1.2": {},
    "1.3": {
        "-1 -> 1  in  top_S1 = scores_ST.amax(-1, keepdim=True)": "a table has two axes: the last one and number 1 are the same.",
        '0.0 -> 1.0  in  top_S1 = top_S1.masked_fill(top_S1 == float("-inf"), 0.0)': "in a row of nothing but minus infinity any finite number may be subtracted.",
        '0.0 -> -1.0  in  top_S1 = top_S1.masked_fill(top_S1 == float("-inf"), 0.0)': "in a row of nothing but minus infinity any finite number may be subtracted.",
        "-1 -> 1  in  total_S1 = lifted_ST.sum(-1, keepdim=True)": "a table has two axes: the last one and number 1 are the same.",
        "1.0 -> 2.0  in  return lifted_ST / total_S1.masked_fill(total_S1 == 0, 1.0)": "it stands where everything is minus infinity or 0, and any finite number but 0 does.",
    },
    "1.4": {
        "-1 -> 1  in  weights_ST = scores_ST.softmax(dim=-1)": "a table has two axes: the last one and number 1 are the same.",
    },
    "1.5": {},
}

CH02: Reasons = {
    "2.1": {},
    "2.2": {},
    "2.3": {
        "torch.float64 -> torch.float32  in  x_BSC = torch.randn(n_texts, n_tokens, width, dtype=torch.fl": "what is lent computes in float64 whatever it is given, and the texts are the answer's own.",
        "1.0 -> 2.0  in  changed_BSC[text, j] += 1.0": "any change of about this size shows a leak.",
        "(attention(changed_BSC) - before_BSC).abs().amax(-1) > 1e-09 -> (attention(changed_BSC) - before_BSC).abs().amax(-1) >= 1e-09": "no suspect moves an output by 1e-9 to the last bit.",
        "(attention(changed_BSC) - before_BSC).abs().amax(-1) -> (attention(changed_BSC) - before_BSC).abs()": "any() over texts then runs over channels, too: the same question.",
        "attention(changed_BSC) - before_BSC -> before_BSC - attention(changed_BSC)": "the absolute value of a difference has no order.",
    },
    "2.4": {
        "range(1, len(x_SC)) -> range(1, len(x_SC) + 1)  in  for n in range(1, len(x_SC)):": "the whole text is its own beginning: one call more, and no difference.",
        "(attention(x_SC[:n]) - whole_SC[:n]).abs().max() > 1e-09 -> (attention(x_SC[:n]) - whole_SC[:n]).abs().max() >= 1e-09": "no suspect moves a row by 1e-9 to the last bit.",
        "attention(x_SC[:n]) - whole_SC[:n] -> whole_SC[:n] - attention(x_SC[:n])": "the absolute value of a difference has no order.",
    },
    "2.5": {
        "weights_LHST[:, :, -1].mean((0, 1)).tolist() -> weights_LHST[:, :, -1].mean((0, 1))": "a row of numbers is sorted in the same order as a list of them.",
        "logits(None).log_softmax(-1) -> logits(None)  in  full_V = logits(None).log_softmax(-1)": "with unnormalised weights the divergence is multiplied by a positive number and moved by a constant: the order stays.",
        "1 -> 0  in  full_V = logits(None).log_softmax(-1)": "the logits have one axis: the last one is number 0.",
        "1 -> 0  in  missed = [float((full_V.exp() * (full_V - logits(t).log_soft": "the logits have one axis: the last one is number 0.",
    },
}

CH03: Reasons = {
    "3.1": {},
    "3.2": {},
}

CH05: Reasons = {
    "5.1": {
        "torch.ones(n, n) -> torch.ones(n, n)  in  later_SS = torch.ones(n, n).triu(1).bool()": "both sizes are the same number.",
        "-1 -> 1  in  x_SC = x_SC + scores_SS.softmax(-1) @ v_SD @ w_o.T": "a table has two axes: the last one and number 1 are the same.",
    },
    "5.2": {},
    "5.4": {
        "i % 2 == 0 -> i % 2 != 0  in  for work in (slow, fast) if i % 2 == 0 else (fast, slow):": "which of the two goes first in the first pair is not said; that they take turns is.",
        "0 -> 1  in  for work in (slow, fast) if i % 2 == 0 else (fast, slow):": "which of the two goes first in the first pair is not said; that they take turns is.",
    },
    "5.5": {},
}

CH06: Reasons = {}

CH10: Reasons = {}

CH11: Reasons = {}

SURVIVORS: Reasons = {**CH01, **CH02, **CH03, **CH05, **CH06, **CH10, **CH11}
