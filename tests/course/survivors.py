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
    "1.5": {
        "return direction_D / direction_D.norm() * length -> return _narrow(direction_D / direction_D.norm() * length)": "a key is judged by its length and by who picks it, to a tenth: float32 does as well.",
    },
    "1.6": {
        "torch.Generator().manual_seed(seed) -> torch.Generator()": "a fresh generator always begins alike, so one seed gives one set of matrices; that another seed gives others is not asked.",
        "100 -> 101  in  for _ in range(100):": "how long to train is the learner's choice: the matrices are judged.",
        "100 -> 99  in  for _ in range(100):": "how long to train is the learner's choice: the matrices are judged.",
        "w_q.detach() -> w_q  in  return w_q.detach(), w_k.detach(), w_v.detach()": "whether a matrix still asks for slopes is not said; its numbers are the same.",
        "w_k.detach() -> w_k  in  return w_q.detach(), w_k.detach(), w_v.detach()": "whether a matrix still asks for slopes is not said; its numbers are the same.",
        "w_v.detach() -> w_v  in  return w_q.detach(), w_k.detach(), w_v.detach()": "whether a matrix still asks for slopes is not said; its numbers are the same.",
        '-1 -> 1  in  weights = (torch.einsum("nd,ntd->nt", q, k) / C**0.5).softma': "a table has two axes: the last one and number 1 are the same.",
        "64 -> 65  in  i = torch.randint(len(pairs_NTC), (64,), generator=rng)": "how many lists to a step is the learner's choice.",
        "64 -> 63  in  i = torch.randint(len(pairs_NTC), (64,), generator=rng)": "how many lists to a step is the learner's choice.",
        "torch.einsum('nd,ntd->nt', q, k) / C ** 0.5 -> torch.einsum('nd,ntd->nt', q, k)": "the matrices are judged, with the division; trained without it they still reach the bars.",
        "C ** 0.5 -> C * 0.5  in  (torch.randn(rows, C, generator=rng, dtype=torch.float64) / ": "a smaller start learns as well.",
        "C ** 0.5 -> C  in  (torch.randn(rows, C, generator=rng, dtype=torch.float64) / ": "a smaller start learns as well.",
        'C ** 0.5 -> C * 0.5  in  weights = (torch.einsum("nd,ntd->nt", q, k) / C**0.5).softma': "the matrices are judged, with the division; trained with another one they still reach the bars.",
        'C ** 0.5 -> C  in  weights = (torch.einsum("nd,ntd->nt", q, k) / C**0.5).softma': "the matrices are judged, with the division; trained with another one they still reach the bars.",
        "out - answers_NE[i] -> answers_NE[i] - out  in  loss = ((out - answers_NE[i]) ** 2).mean()": "the square of a difference has no order.",
        "0.5 -> 1.5  in  (torch.randn(rows, C, generator=rng, dtype=torch.float64) / ": "a smaller start learns as well.",
        '0.5 -> 1.5  in  weights = (torch.einsum("nd,ntd->nt", q, k) / C**0.5).softma': "the matrices are judged, with the division; trained with another one they still reach the bars.",
    },
    "1.7": {
        "0 -> -1  in  weights_T = (k_TD @ q_LHSD[layer, head, at] / D**0.5).softma": "a row of scores has one axis: number 0 is the last.",
    },
}

CH02: Reasons = {
    "2.1": {},
    "2.2": {},
    "2.3": {
        "torch.float64 -> torch.float32  in  x_BSC = torch.randn(n_texts, n_tokens, width, dtype=torch.fl": "what is lent computes in float64 whatever it is given, and the texts are the answer's own.",
        "torch.float64 -> torch.float32  in  changed_BSC[text, j] = torch.randn(width, dtype=torch.float6": "any other numbers of about this size show a leak.",
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
        "1 -> 0  in  full_V = logits(None).log_softmax(-1)": "the logits have one axis: the last one is number 0.",
        "1 -> 0  in  missed = [float((full_V.exp() * (full_V - logits(t).log_soft": "the logits have one axis: the last one is number 0.",
    },
    "2.8": {
        "(outputs(changed) - before_LSC)[:, -1].abs() > 1e-09 -> (outputs(changed) - before_LSC)[:, -1].abs() >= 1e-09": "no output moves by 1e-9 to the last bit.",
        "0 -> 1  in  reach = [0] * len(before_LSC)": "the last token moves its own row in every layer, so that each number is written over.",
        "0 -> -1  in  reach = [0] * len(before_LSC)": "the last token moves its own row in every layer, so that each number is written over.",
        "ids[j] + 1 -> ids[j] - 1  in  changed[j] = (ids[j] + 1) % 2048": "any other id is a change.",
        "2048 -> 2047  in  changed[j] = (ids[j] + 1) % 2048": "any other id is a change.",
        "1 -> 2  in  changed[j] = (ids[j] + 1) % 2048": "any other id is a change.",
        "outputs(changed) - before_LSC -> before_LSC - outputs(changed)  in  moved_LC = (outputs(changed) - before_LSC)[:, -1].abs() > 1e": "the absolute value of a difference has no order.",
    },
}

CH03: Reasons = {
    "3.1": {},
    "3.2": {
        "torch.ones(n_new, n_new, dtype=torch.bool) -> torch.ones(n_new, n_new, dtype=torch.bool)": "both sizes are the same number.",
        "-2 -> 2  in  scores_BHSS = q_BHSD @ k_BHSD.transpose(-1, -2) / (width / n": "of four axes the last but one is number 2.",
    },
    "3.3": {
        "-2 -> 2  in  scores_BGQT = q_BGQD @ k_BGTD.transpose(-1, -2) / width**0.5": "of four axes the last but one is number 2.",
    },
    "3.4": {},
    "3.5": {
        "width // 2 -> width / 2  in  i = torch.arange(width // 2, dtype=x_BHSD.dtype)": "D is even, and arange counts to a float as well.",
    },
    "3.7": {},
}

CH04: Reasons = {
    "4.1": {
        "-1 -> 1  in  return x_SC / (x_SC.square().mean(-1, keepdim=True) + eps).s": "a table has two axes: the last one and number 1 are the same.",
    },
    "4.2": {
        "torch.zeros(n, n, dtype=torch.bool) -> torch.zeros(n, n, dtype=torch.bool)": "both sizes are the same number.",
        "(part(changed_SC) - before_SC).abs().amax(-1) > 1e-09 -> (part(changed_SC) - before_SC).abs().amax(-1) >= 1e-09": "no part moves a row by 1e-9 to the last bit.",
        "-1 -> 1  in  moved_SS[:, j] = (part(changed_SC) - before_SC).abs().amax(-": "a table has two axes: the last one and number 1 are the same.",
        "part(changed_SC) - before_SC -> before_SC - part(changed_SC)  in  moved_SS[:, j] = (part(changed_SC) - before_SC).abs().amax(-": "the absolute value of a difference has no order.",
    },
    "4.3": {},
    "4.4": {
        "top_p < 1 -> top_p <= 1  in  if top_p < 1:": "with p = 1 all tokens stay, but for those that rounding has taken the sum from: they have nothing.",
        "1 -> 2  in  if top_p < 1:": "with p = 1 all tokens stay, but for those that rounding has taken the sum from: they have nothing.",
        "top_k < len(scaled_V) -> top_k <= len(scaled_V)  in  if top_k is not None and top_k < len(scaled_V):": "the V likeliest of V tokens are all of them.",
        "0 -> -1  in  probs_V = scaled_V.softmax(0)": "a row has one axis: number 0 is the last one.",
        "True -> False  in  sorted_V, order_V = probs_V.sort(descending=True, stable=Tru (2)": "so few numbers torch sorts in the same way without being asked.",
        "0 -> -1  in  out_V = sorted_V.cumsum(0) - sorted_V >= top_p": "a row has one axis: number 0 is the last one.",
    },
    "4.5": {},
    "4.7": {
        "((a_LC * b_LC).sum(-1) / lengths_L).tolist() -> (a_LC * b_LC).sum(-1) / lengths_L": "five numbers in a tensor are five numbers.",
        "(a_LC - b_LC).abs().amax(-1) > 1e-06 -> (a_LC - b_LC).abs().amax(-1) >= 1e-06": "no two vectors differ by 1e-6 to the last bit.",
        "-1 -> 1  in  lengths_L = a_LC.norm(dim=-1) * b_LC.norm(dim=-1)": "a table has two axes: the last one and number 1 are the same.",
        "-1 -> 1  in  lengths_L = a_LC.norm(dim=-1) * b_LC.norm(dim=-1) (2)": "a table has two axes: the last one and number 1 are the same.",
        "-1 -> 1  in  apart = ((a_LC - b_LC).abs().amax(-1) > 1e-6).tolist()": "a table has two axes: the last one and number 1 are the same.",
        "-1 -> 1  in  return ((a_LC * b_LC).sum(-1) / lengths_L).tolist(), first": "a table has two axes: the last one and number 1 are the same.",
        "a_LC - b_LC -> b_LC - a_LC  in  apart = ((a_LC - b_LC).abs().amax(-1) > 1e-6).tolist()": "the absolute value of a difference has no order.",
    },
}

CH05: Reasons = {
    "5.1": {
        "torch.ones(n, n) -> torch.ones(n, n)  in  later_SS = torch.ones(n, n).triu(1).bool()": "both sizes are the same number.",
        "-1 -> 1  in  x_SC = x_SC + scores_SS.softmax(-1) @ v_SD @ w_o.T": "a table has two axes: the last one and number 1 are the same.",
    },
    "5.2": {},
    "5.3": {
        'call(n_prompt, n_prompt) -> call(n_prompt, n_prompt)  in  "cached_flops": call(n_prompt, n_prompt) + sum(call(1, T) fo': "both lengths are the same number.",
        'call(T, T) -> call(T, T)  in  "naive_flops": sum(call(T, T) for T in texts),': "both lengths are the same number.",
    },
    "5.4": {
        "i % 2 == 0 -> i % 2 != 0  in  for work in (slow, fast) if i % 2 == 0 else (fast, slow):": "which of the two goes first in the first pair is not said; that they take turns is.",
        "0 -> 1  in  for work in (slow, fast) if i % 2 == 0 else (fast, slow):": "which of the two goes first in the first pair is not said; that they take turns is.",
    },
    "5.5": {},
    "5.10": {
        "0 -> -1  in  own = logits_BSV[0, len(prompt) - 1 :].argmax(-1).tolist()": "one row of the batch, the first and the last.",
        "-1 -> 1  in  own = logits_BSV[0, len(prompt) - 1 :].argmax(-1).tolist()": "a table has two axes: the last one and number 1 are the same.",
        "logits_BSV[0, len(prompt) - 1:].argmax(-1).tolist() -> logits_BSV[0, len(prompt) - 1:].argmax(-1)": "tensors of one number stand for ids as well.",
    },
}

CH06: Reasons = {
    "6.1": {},
    "6.2": {
        "-2 -> 2  in  scores_BHST = q_BHSD @ k_BHTD.transpose(-1, -2) / width**0.5": "counted from the front it is the same axis.",
    },
    "6.3": {
        "torch.equal(poisoned_ND, honest_ND) -> torch.equal(honest_ND, poisoned_ND)": "equality has no order.",
        "torch.equal(poisoned_ND, honest_ND) -> torch.equal(honest_ND, poisoned_ND) (2)": "equality has no order.",
    },
    "6.4": {
        "n_prompt + n_new - 1 -> n_prompt + n_new + 1  in  cache = model.new_cache(batch, n_prompt + n_new - 1)": "a cache with room to spare is as good.",
        "n_prompt + n_new - 1 -> n_prompt + n_new  in  cache = model.new_cache(batch, n_prompt + n_new - 1)": "a cache with room to spare is as good.",
        "1 -> 0  in  cache = model.new_cache(batch, n_prompt + n_new - 1)": "a cache with room to spare is as good.",
        "-1 -> 1  in  new = [logits_BSV[:, -1].argmax(-1)]": "counted from the front it is the same axis.",
        "-1 -> 1  in  new.append(logits_BSV[:, -1].argmax(-1))": "counted from the front it is the same axis.",
        "1 -> 0  in  new.append(logits_BSV[:, -1].argmax(-1)) (2)": "there is one position, the first and the last.",
    },
    "6.5": {},
    "6.8": {
        "0 -> -1  in  return int(model(torch.tensor([ids]), pos_BS, cache)[0, -1].": "one row of the batch, the first and the last.",
    },
}

CH07: Reasons = {
    "7.1": {},
    "7.2": {
        "range(n) -> range(n + 1)  in  for _ in range(n):": "one reading more, to warm up, is welcome.",
    },
    "7.3": {},
    "7.4": {
        "T - mean_T -> T + mean_T  in  products = sum((T - mean_T) * (ms - mean_ms) for T, ms in zi": "the other factor adds up to 0, so that a constant in this one makes no difference.",
        "T - mean_T -> T  in  products = sum((T - mean_T) * (ms - mean_ms) for T, ms in zi": "the other factor adds up to 0, so that a constant in this one makes no difference.",
        "ms - mean_ms -> ms + mean_ms  in  products = sum((T - mean_T) * (ms - mean_ms) for T, ms in zi": "the other factor adds up to 0, so that a constant in this one makes no difference.",
        "ms - mean_ms -> ms  in  products = sum((T - mean_T) * (ms - mean_ms) for T, ms in zi": "the other factor adds up to 0, so that a constant in this one makes no difference.",
        "T - mean_T -> mean_T - T  in  per_token = products / sum((T - mean_T) ** 2 for T in length": "the square of a difference has no order.",
    },
    "7.5": {},
    "7.6": {},
    "7.7": {
        "torch.maximum(m_S, scores_ST.amax(-1)) -> torch.maximum(scores_ST.amax(-1), m_S)": "the larger of two has no order.",
        '0.0 -> 1.0  in  safe_S = new_S.masked_fill(new_S == float("-inf"), 0.0)  # e': "in a row that has seen nothing any finite number may be subtracted.",
        '0.0 -> -1.0  in  safe_S = new_S.masked_fill(new_S == float("-inf"), 0.0)  # e': "in a row that has seen nothing any finite number may be subtracted.",
        "-1 -> 1  in  new_S = torch.maximum(m_S, scores_ST.amax(-1))": "a table has two axes: the last one and number 1 are the same.",
        "-1 -> 1  in  l_S = l_S * old_S + weights_ST.sum(-1)": "a table has two axes: the last one and number 1 are the same.",
    },
    "7.8": {},
}

CH10: Reasons = {
    "10.1": {
        "-1 -> 1  in  return torch.zeros_like(score, dtype=torch.bool).scatter(-1,": "counted from the front it is the same axis.",
        "-1 -> 1  in  order = score.argsort(dim=-1, descending=True, stable=True)": "counted from the front it is the same axis.",
        "True -> False  in  order = score.argsort(dim=-1, descending=True, stable=True) (2)": "on a processor torch sorts stably whether it is asked to or not, so no case can tell.",
    },
    "10.2": {
        "-2 -> 2  in  logits_GRWT = q_GRWD @ k_GTD[:, None].transpose(-1, -2) / wi": "counted from the front it is the same axis.",
    },
    "10.3": {
        "-1 -> 1  in  keep = torch.zeros_like(rows, dtype=torch.bool).scatter(-1, ": "counted from the front it is the same axis.",
        "-1 -> 1  in  order = rows.abs().argsort(dim=-1, descending=True, stable=T": "counted from the front it is the same axis.",
        "True -> False  in  order = rows.abs().argsort(dim=-1, descending=True, stable=T (2)": "on a processor torch sorts stably whether it is asked to or not, so no case can tell.",
    },
    "10.4": {
        "(q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softmax(-1) -> q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5": "the score is the learner's choice: any that halves the error passes.",
        "q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5 -> q_RWD @ k_TD.T * k_TD.shape[1] ** 0.5": "the score is the learner's choice: any that halves the error passes.",
        "q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5 -> q_RWD @ k_TD.T": "the score is the learner's choice: any that halves the error passes.",
        "k_TD.shape[1] ** 0.5 -> k_TD.shape[1] * 0.5  in  weights_RWT = (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softma": "the score is the learner's choice: any that halves the error passes.",
        "k_TD.shape[1] ** 0.5 -> k_TD.shape[1]  in  weights_RWT = (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softma": "the score is the learner's choice: any that halves the error passes.",
        "True -> False  in  order = score_TD.flatten().argsort(descending=True, stable=T (2)": "the score is the learner's choice: any that halves the error passes.",
        "0.5 -> -0.5  in  weights_RWT = (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softma": "the score is the learner's choice: any that halves the error passes.",
        "1 -> 0  in  weights_RWT = (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softma (2)": "the score is the learner's choice: any that halves the error passes.",
    },
    "10.6": {},
}

CH11: Reasons = {
    "11.1": {
        "-1 -> 1  in  best_S = pruned_SV.argmax(-1)": "counted from the front it is the same axis.",
        "-1 -> 1  in  p_SV, q_SV = dense_SV.log_softmax(-1), pruned_SV.log_softmax": "counted from the front it is the same axis.",
        "-1 -> 1  in  p_SV, q_SV = dense_SV.log_softmax(-1), pruned_SV.log_softmax (2)": "counted from the front it is the same axis.",
        "-1 -> 1  in  kl = float((p_SV.exp() * (p_SV - q_SV)).sum(-1).mean())": "counted from the front it is the same axis.",
        "-1 -> 1  in  nats = float(-q_SV.gather(-1, answer_S[:, None]).mean())": "counted from the front it is the same axis.",
        "-1 -> 1  in  agrees = float((best_S == dense_SV.argmax(-1)).double().mean": "counted from the front it is the same axis.",
    },
    "11.2": {
        "-2 -> 2  in  logits_GRTT = q_GRTD @ k_GTD[:, None].transpose(-1, -2) / wi": "counted from the front it is the same axis.",
        "torch.ones(n_tokens, n_tokens) -> torch.ones(n_tokens, n_tokens)  in  later_TT = torch.ones(n_tokens, n_tokens).triu(1).bool()": "two neighbouring arguments are the same.",
    },
    "11.3": {
        "-1 -> 1  in  heavy_GT = torch.zeros_like(mass_GT, dtype=torch.bool).scatt": "counted from the front it is the same axis.",
        "-1 -> 1  in  order = contest_GT.argsort(dim=-1, descending=True, stable=T": "counted from the front it is the same axis.",
    },
    "11.4": {},
    "11.6": {},
}

CH12: Reasons = {
    "12.1": {
        'i % 2 == 0 -> i % 2 != 0  in  order = ("slow", "fast") if i % 2 == 0 else ("fast", "slow")': "which of the two begins the first pair is left open.",
        '0 -> 1  in  order = ("slow", "fast") if i % 2 == 0 else ("fast", "slow")': "which of the two begins the first pair is left open.",
    },
    "12.2": {
        "order_BGN[..., None].expand(-1, -1, -1, x_BGTD.shape[-1]) -> order_BGN[..., None].expand(-1, -1, -1, x_BGTD.shape[-1])": "two neighbouring arguments are both -1.",
        "order_BGN[..., None].expand(-1, -1, -1, x_BGTD.shape[-1]) -> order_BGN[..., None].expand(-1, -1, -1, x_BGTD.shape[-1]) (2)": "two neighbouring arguments are both -1.",
        "(~keep_BGT).byte() -> ~keep_BGT  in  order_BGN = (~keep_BGT).byte().argsort(dim=-1, stable=True)[": "on a processor torch sorts stably whether it is asked to or not, so no case can tell.",
        "True -> False  in  order_BGN = (~keep_BGT).byte().argsort(dim=-1, stable=True)[": "on a processor torch sorts stably whether it is asked to or not, so no case can tell.",
    },
    "12.3": {
        "channels_BG1N.expand(-1, -1, k_BGTD.shape[2], -1) -> channels_BG1N.expand(-1, -1, k_BGTD.shape[2], -1)": "two neighbouring arguments are both -1.",
        "channels_BG1N.expand(-1, -1, q_BGRD.shape[2], -1) -> channels_BG1N.expand(-1, -1, q_BGRD.shape[2], -1)": "two neighbouring arguments are both -1.",
        "-2 -> 2  in  scores_BGRT = q_BGRN @ narrow_BGTN.transpose(-1, -2) / q_BGR": "counted from the front it is the same axis.",
    },
    "12.4": {
        "-1 -> 1  in  self.values_TN = x_TD.gather(-1, kept_TN)": "counted from the front it is the same axis.",
        "-1 -> 1  in  bits_TD = torch.zeros(x_TD.shape, dtype=torch.uint8).scatter": "counted from the front it is the same axis.",
        "-1 -> 1  in  return dense_TD.scatter_(-1, places_TN, values_TN)": "counted from the front it is the same axis.",
        "-1 -> 1  in  kept_TN = x_TD.abs().topk(n, dim=-1).indices.sort(-1).values": "counted from the front it is the same axis.",
        "range(self.width) -> range(self.width + 1)  in  fitting = [n for n in range(self.width) if n * size + self.w": "the greatest N lies well inside both ranges.",
        "self.width // 8 -> self.width / 8  in  fitting = [n for n in range(self.width) if n * size + self.w": "the greatest N lies well inside both ranges.",
        "bits_TD.bool() -> bits_TD  in  places_TN = bits_TD.bool().nonzero()[:, 1].view(values_TN.sh": "nonzero asks the same of bytes and booleans.",
        "-1 -> 1  in  kept_TN = x_TD.abs().topk(n, dim=-1).indices.sort(-1).values (2)": "counted from the front it is the same axis.",
        "-1 -> 1  in  self.marks_TX = (bits_TD.unflatten(-1, (-1, 8)) * worth).sum (2)": "counted from the front it is the same axis.",
    },
    "12.5": {},
    "12.7": {},
}

CH13: Reasons = {
    "13.1": {
        "is_sink_T.nonzero()[:, 0].tolist() -> is_sink_T.nonzero()[:, 0]": "a row of whole numbers is read as a list of them is.",
        "error.item() -> error  in  return is_sink_T.nonzero()[:, 0].tolist(), out_HSD, error.it": "a tensor of one number is compared as the number is.",
        "out_HSD - dense_HSD -> dense_HSD - out_HSD  in  error = (out_HSD - dense_HSD).norm() / dense_HSD.norm()": "a difference is as long as its opposite.",
        "0 -> -1  in  return is_sink_T.nonzero()[:, 0].tolist(), out_HSD, error.it": "what nonzero finds along one axis has one column.",
    },
    "13.2": {
        "row.nonzero()[:, 0].tolist() -> row.nonzero()[:, 0]  in  found = [row.nonzero()[:, 0].tolist() for row in size_GD >= ": "a row of whole numbers is read as a list of them is.",
        "a_GTP * cos_TP - b_GTP * sin_TP -> b_GTP * sin_TP - a_GTP * cos_TP": "a channel's size does not know its sign.",
        "-1 -> 1  in  return before, after, torch.stack((ratio_G, turned_ratio_G),": "a table has two axes: the last one and number 1 are the same.",
        "-1 -> 1  in  middle_G1 = size_GD.median(-1, keepdim=True).values": "a table has two axes: the last one and number 1 are the same.",
        "-1 -> 1  in  return found, size_GD.amax(-1) / middle_G1[:, 0]": "a table has two axes: the last one and number 1 are the same.",
        "0 -> -1  in  return found, size_GD.amax(-1) / middle_G1[:, 0]": "the medians have one column.",
        "0 -> -1  in  found = [row.nonzero()[:, 0].tolist() for row in size_GD >= ": "what nonzero finds along one axis has one column.",
    },
    "13.3": {},
    "13.4": {
        "meet <= max(lengths) -> meet < max(lengths)  in  return meet if meet <= max(lengths) else None": "lines that meet at the very longest length are not asked for: rounding would decide.",
        "0 -> 1  in  every = range(len(dense[0]))": "every length has as many rounds.",
        "0 -> -1  in  every = range(len(dense[0]))": "every length has as many rounds.",
        "n - mean_n -> n + mean_n  in  products = sum((n - mean_n) * (ms - mean_ms) for n, ms in zi": "the other factors sum to 0, so a constant more or less changes no sum, and a square no sign.",
        "n - mean_n -> n  in  products = sum((n - mean_n) * (ms - mean_ms) for n, ms in zi": "the other factors sum to 0, so a constant more or less changes no sum, and a square no sign.",
        "ms - mean_ms -> ms + mean_ms  in  products = sum((n - mean_n) * (ms - mean_ms) for n, ms in zi": "the other factors sum to 0, so a constant more or less changes no sum, and a square no sign.",
        "ms - mean_ms -> ms  in  products = sum((n - mean_n) * (ms - mean_ms) for n, ms in zi": "the other factors sum to 0, so a constant more or less changes no sum, and a square no sign.",
        "n - mean_n -> mean_n - n  in  slope = products / sum((n - mean_n) ** 2 for n in lengths)": "the other factors sum to 0, so a constant more or less changes no sum, and a square no sign.",
    },
    "13.5": {},
}

CH08: Reasons = {
    "8.1": {},
    "8.2": {},
    "8.3": {
        "0 -> -1  in  return [table[i // size] * size + i % size for i in range(se": "a range up to -1 is as empty as one up to 0.",
    },
    "8.4": {},
    "8.5": {},
    "8.6": {},
    "8.7": {},
}

CH09: Reasons = {
    "9.1": {
        "True -> False  in  for (seat, _), row_V in zip(rows, logits_BV, strict=True):": "the two that are taken together are of one length.",
    },
    "9.2": {},
    "9.3": {
        "True -> False  in  for (i, _), row_V in zip(rows, logits_BV, strict=True):": "the two that are taken together are of one length.",
    },
    "9.4": {
        "0 -> -1  in  n_held = 0": "a text cut one place behind its end, or before it, is whole.",
        "1 -> 0  in  for n in range(1, len(text) + 1):": "where n is 0 nothing is held, whatever the stop strings are.",
    },
    "9.5": {
        "torch.ones(S, S, dtype=torch.bool) -> torch.ones(S, S, dtype=torch.bool)": "the table is square.",
        "-1 -> 1  in  part_SC = part_SC + scores_SS.softmax(-1) @ v_SD @ w_o_CHD[:": "a table has two axes: the last one and number 1 are the same.",
    },
    "9.6": {
        "0.0 -> -1.0  in  free = [0.0 for _ in seconds]": "the later of two times is taken, and nothing arrives before 0.",
        "0.0 -> -1.0  in  arrived = 0.0": "the later of two times is taken, and the first stage is free at 0.",
    },
    "9.7": {
        "range(1, devices['n'] + 1) -> range(1, devices['n'] + 1 + 1)  in  for tp in range(1, devices[\"n\"] + 1):": "more than n share a layer with no stage at all: no pair is made.",
        '1 -> 2  in  for tp in range(1, devices["n"] + 1): (2)': "more than n share a layer with no stage at all: no pair is made.",
    },
    "9.8": {
        "n > 0 -> n >= 0  in  if n > 0:": "a request with 0 tokens in the list is in no step.",
        "0 -> -1  in  if n > 0:": "a request with 0 tokens in the list is in no step.",
        "2 -> 3  in  for _, pending, name in sorted(reading, key=lambda r: r[:2])": "which of two equally long prompts comes first is not said.",
    },
}

SURVIVORS: Reasons = {
    **CH01,
    **CH02,
    **CH03,
    **CH04,
    **CH05,
    **CH06,
    **CH07,
    **CH08,
    **CH09,
    **CH10,
    **CH11,
    **CH12,
    **CH13,
}

# Of the second right answers (`--second`), as far as they have been swept.
SECOND: Reasons = {
    "2.4": {
        "0.0 -> -1.0  in  far = 0.0": "the largest of distances that are not negative: a start below them changes nothing.",
        "far <= 1e-09 -> far < 1e-09  in  return far <= 1e-9": "no suspect moves a row by 1e-9 to the last bit.",
        "newer[:-1] - older -> older - newer[:-1]  in  far = max(far, float((newer[:-1] - older).abs().max()))": "the absolute value of a difference has no order.",
    },
    "5.4": {
        "device.synchronize() -> pass": "every reading ends with one, and so does the pair that warms up: the device has nothing left to do.",
        "device.synchronize() -> device  in  device.synchronize()": "every reading ends with one, and so does the pair that warms up: the device has nothing left to do.",
    },
    "6.1": {
        "store.narrow(3, 0, filled).unbind(0) -> store.narrow(3, 0, filled)": "a tensor taken apart along its first axis gives what unbind(0) gives.",
        "range(n_layers) -> range(n_layers + 1)  in  for layer in range(n_layers)": "one layer's memory more, which nothing reads.",
    },
    "6.5": {
        "range(n_layers) -> range(n_layers + 1)  in  self.kv = [[torch.zeros(shape, dtype=torch.float64) for _ in": "one layer's memory more, which nothing reads.",
        "True -> False  in  for store, new in zip(self.kv[layer], (k_BGSD, v_BGSD), stri": "the two that are taken together are of one length.",
    },
    "10.4": {
        "(q_RWD ** 2).mean((0, 1)).sqrt() -> (q_RWD ** 2).mean((0, 1))": "the score is the learner's choice: any that halves the error passes.",
        "1 -> 0  in  width = k_TD.shape[1]": "the score is the learner's choice: any that halves the error passes.",
        "(k_TD * q_D) ** 2 * a_T[:, None] -> (k_TD * q_D) ** 2": "the score is the learner's choice: any that halves the error passes.",
        "q_RWD @ k_TD.T / width ** 0.5 -> q_RWD @ k_TD.T * width ** 0.5  in  a_T = torch.softmax(q_RWD @ k_TD.T / width**0.5, -1).mean((0": "the score is the learner's choice: any that halves the error passes.",
        "q_RWD @ k_TD.T / width ** 0.5 -> q_RWD @ k_TD.T  in  a_T = torch.softmax(q_RWD @ k_TD.T / width**0.5, -1).mean((0": "the score is the learner's choice: any that halves the error passes.",
        "width ** 0.5 -> width * 0.5  in  a_T = torch.softmax(q_RWD @ k_TD.T / width**0.5, -1).mean((0": "the score is the learner's choice: any that halves the error passes.",
        "width ** 0.5 -> width  in  a_T = torch.softmax(q_RWD @ k_TD.T / width**0.5, -1).mean((0": "the score is the learner's choice: any that halves the error passes.",
        "range(score.numel()) -> range(score.numel() - 1)  in  keep[sorted(range(score.numel()), key=score.flatten().tolist": "the element left out is one of hundreds, and the error is judged.",
        "k_TD * q_D -> k_TD  in  return largest((k_TD * q_D) ** 2 * a_T[:, None]), largest((v": "the score is the learner's choice: any that halves the error passes.",
        "0.5 -> -0.5  in  a_T = torch.softmax(q_RWD @ k_TD.T / width**0.5, -1).mean((0": "the score is the learner's choice: any that halves the error passes.",
        "score.flatten().tolist() -> score.flatten()  in  keep[sorted(range(score.numel()), key=score.flatten().tolist": "a row of numbers is sorted in the same order as a list of them.",
    },
    "12.4": {
        "marks_TX.tolist() -> marks_TX  in  for values, marks in zip(values_TN, marks_TX.tolist(), stric": "bytes() takes a row of small whole numbers as it takes a list of them.",
        "True -> False  in  for values, marks in zip(values_TN, marks_TX.tolist(), stric": "the two that are taken together are of one length.",
        "self.width // 8 -> self.width / 8  in  while n * self.size + self.width // 8 >= self.width * self.s": "the rows' width is a multiple of 8.",
        "range(self.width) -> range(self.width + 1)  in  row[[j for j in range(self.width) if number >> j & 1]] = val": "marks have no bit behind the last channel.",
        "row[j].item() -> row[j]  in  ranked = sorted(range(self.width), key=lambda j: -abs(row[j]": "a tensor of one number is compared as the number is.",
    },
    "12.5": {},
    "12.7": {},
}
