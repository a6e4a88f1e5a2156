// What may leave the cache: whole tokens by a score, or numbers of keys and of values.
//
// The same rules as kvlab.prune's, so that a budget here is a budget there: each key/value head
// keeps its own tokens, the first `sink` and the latest `recent` are safe, of equals the older
// stays.
"use strict";
(function (root) {
  const MASK = (1n << 64n) - 1n;
  const GOLDEN = 0x9e3779b97f4a7c15n;

  function mixed(x) {
    x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
    return x ^ (x >> 31n);
  }

  /** A number in (0, 1) that depends on whole numbers alone (SplitMix64's finaliser). */
  function chance(seed, layer, head, pos) {
    let x = mixed((BigInt(seed) * 31n + BigInt(layer) + GOLDEN) & MASK);
    for (const key of [head, pos]) x = mixed((BigInt(key) + mixed((x + GOLDEN) & MASK)) & MASK);
    return (Number(mixed(x) >> 11n) + 0.5) / 2 ** 53;
  }

  function norm(x, from, width) {
    let squares = 0;
    for (let i = from; i < from + width; i++) squares += x[i] * x[i];
    return Math.sqrt(squares);
  }

  /** Keys that point away from the mean direction of all keys (Park et al. 2025). */
  function keydiff(head) {
    const D = head.width, mean = new Float64Array(D);
    for (let t = 0; t < head.used; t++) {
      const length = Math.max(norm(head.k, t * D, D), 1e-12);
      for (let i = 0; i < D; i++) mean[i] += head.k[t * D + i] / length / head.used;
    }
    const lengthOfMean = Math.max(norm(mean, 0, D), 1e-8);
    return Array.from({ length: head.used }, (_, t) => {
      let product = 0;
      for (let i = 0; i < D; i++) product += head.k[t * D + i] * mean[i];
      return -product / Math.max(norm(head.k, t * D, D), 1e-8) / lengthOfMean;
    });
  }

  const each = (head, score) => Array.from({ length: head.used }, (_, t) => score(t));

  /** What a token is worth in one head, by policy: the best stay. */
  const SCORES = {
    recent: (head) => each(head, (t) => head.pos[t]),
    sinks: (head) => each(head, (t) => head.pos[t]),
    heavy: (head) => each(head, (t) => head.mass[t]),
    keydiff,
    random: (head, layer, g, seed) => each(head, (t) => chance(seed, layer, g, head.pos[t])),
  };

  /** How many tokens a head keeps of those seen: a share, but never fewer than are safe. */
  function budgetOf(share, seen, sink, recent) {
    return Math.min(seen, Math.max(Math.floor(share * seen + 1e-9), 1, sink + recent));
  }

  /** Evict from every layer and head; `sinks` alone protects the first four. */
  function evict(cache, policy, { share, recent = 8, seed = 0 }) {
    const sink = policy === "sinks" ? 4 : 0;
    const n = budgetOf(share, cache.seen, sink, recent);
    cache.layers.forEach((heads, layer) =>
      heads.forEach((head, g) => {
        if (n === cache.seen) return;
        const scores = SCORES[policy](head, layer, g, seed);
        const safe = each(head, (t) => head.pos[t] < sink || head.pos[t] >= cache.seen - recent);
        const order = each(head, (t) => t).sort(
          (a, b) => safe[b] - safe[a] || scores[b] - scores[a] || a - b,
        );
        const stays = new Uint8Array(head.used);
        for (const slot of order.slice(0, n)) stays[slot] = 1;
        head.keep(stays);
      }),
    );
  }

  /** Take tokens, by their positions, out of every layer and head. */
  function remove(cache, positions) {
    for (const head of cache.layers.flat()) {
      head.keep(each(head, (t) => !positions.has(head.pos[t])));
    }
  }

  /** Zero all but the `n` largest of the numbers at these places; of equals the first stays. */
  function zero(x, places, n) {
    const order = places.map((at, i) => [Math.abs(x[at]), i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    for (const [, i] of order.slice(n)) x[places[i]] = 0;
  }

  /**
   * Zero the smallest numbers of the keys ("k") or of the values ("v"): of each token's 32, or in
   * each channel of every `group` tokens. The latest `recent` tokens stay whole.
   */
  function thin(cache, side, along, { sparsity, recent = 8, group = 16 }) {
    const left = (count) => Math.max(1, Math.round(count * (1 - sparsity)));
    for (const head of sparsity > 0 ? cache.layers.flat() : []) {
      const D = head.width, x = head[side];
      const body = each(head, (t) => t).filter((t) => head.pos[t] < cache.seen - recent);
      const channels = Array.from({ length: D }, (_, i) => i);
      if (along === "token") {
        for (const t of body) zero(x, channels.map((i) => t * D + i), left(D));
        continue;
      }
      for (let from = 0; from + group <= body.length; from += group) {
        const tokens = body.slice(from, from + group);
        for (const i of channels) zero(x, tokens.map((t) => t * D + i), left(group));
      }
    }
  }

  const POLICIES = Object.keys(SCORES);
  root.kvlab = Object.assign(root.kvlab || {}, { evict, remove, thin, budgetOf, POLICIES });
})(globalThis);
