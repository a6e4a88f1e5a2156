// The pocket model: Llama's shape, with a key/value cache that anybody may look into.
//
// S new tokens, T cached tokens, H query heads, G key/value heads, D head width, C model width, F
// MLP width. Arrays are flat Float32Arrays, the last axis side by side; sums are in double
// precision, as JavaScript's are. A plain script, so that the page opens from a file as well.
"use strict";
(function (root) {
  /** Every half-precision number as a float: a table of 65,536. */
  function halves() {
    const table = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) {
      const sign = bits & 0x8000 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
      else if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
      else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
    }
    return table;
  }

  /** The tensors of a safetensors file in half precision, as Float32Arrays by their names. */
  function tensorsOf(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = Number(view.getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    const table = halves();
    const tensors = {};
    for (const [name, entry] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      if (entry.dtype !== "F16") throw new Error(`${name} is ${entry.dtype}; expected F16.`);
      const [start, stop] = entry.data_offsets;
      const numbers = new Float32Array((stop - start) / 2);
      for (let i = 0; i < numbers.length; i++) {
        numbers[i] = table[view.getUint16(8 + length + start + 2 * i, true)];
      }
      tensors[name] = numbers;
    }
    return tensors;
  }

  /** y[s, o] = sum over i of x[s, i] w[o, i]: four rows of x share each read of w. */
  function multiply(x, w, nRows, nIn, nOut) {
    const y = new Float32Array(nRows * nOut);
    let s = 0;
    for (; s + 4 <= nRows; s += 4) {
      const a = s * nIn, b = a + nIn, c = b + nIn, d = c + nIn;
      for (let o = 0; o < nOut; o++) {
        const from = o * nIn;
        let p = 0, q = 0, r = 0, t = 0;
        for (let i = 0; i < nIn; i++) {
          const number = w[from + i];
          p += x[a + i] * number;
          q += x[b + i] * number;
          r += x[c + i] * number;
          t += x[d + i] * number;
        }
        y[s * nOut + o] = p;
        y[(s + 1) * nOut + o] = q;
        y[(s + 2) * nOut + o] = r;
        y[(s + 3) * nOut + o] = t;
      }
    }
    for (; s < nRows; s++) {
      const row = s * nIn;
      for (let o = 0; o < nOut; o++) {
        const from = o * nIn;
        let p = 0, q = 0, r = 0, t = 0;
        for (let i = 0; i < nIn; i += 4) {
          p += x[row + i] * w[from + i];
          q += x[row + i + 1] * w[from + i + 1];
          r += x[row + i + 2] * w[from + i + 2];
          t += x[row + i + 3] * w[from + i + 3];
        }
        y[s * nOut + o] = p + q + (r + t);
      }
    }
    return y;
  }

  /** Each row divided by its root mean square, each channel scaled. */
  function rmsNorm(x, weight, nRows, width, eps) {
    const y = new Float32Array(x.length);
    for (let s = 0; s < nRows; s++) {
      let squares = 0;
      for (let i = 0; i < width; i++) squares += x[s * width + i] ** 2;
      const scale = 1 / Math.sqrt(squares / width + eps);
      for (let i = 0; i < width; i++) y[s * width + i] = x[s * width + i] * scale * weight[i];
    }
    return y;
  }

  /** Turn each pair (channel i, channel i + D/2) of every head by its position's angle, in place. */
  function rope(x, nRows, nHeads, width, theta, firstPos) {
    const half = width / 2;
    for (let s = 0; s < nRows; s++) {
      for (let i = 0; i < half; i++) {
        // single precision, as torch computes it
        const turn = Math.fround(1 / Math.fround(theta ** ((2 * i) / width)));
        const angle = Math.fround((firstPos + s) * turn);
        const cos = Math.fround(Math.cos(angle)), sin = Math.fround(Math.sin(angle));
        for (let h = 0; h < nHeads; h++) {
          const at = (s * nHeads + h) * width + i;
          const low = x[at], high = x[at + half];
          x[at] = low * cos - high * sin;
          x[at + half] = high * cos + low * sin;
        }
      }
    }
  }

  /** One key/value head of one layer: rows of keys and values, and the position of each. */
  class Head {
    constructor(capacity, width) {
      this.width = width;
      this.k = new Float32Array(capacity * width);
      this.v = new Float32Array(capacity * width);
      this.pos = new Int32Array(capacity);
      this.mass = new Float64Array(capacity); // attention that a token got from all queries so far
      this.used = 0;
    }

    /** Keep the slots for which `stays` holds, in their order. */
    keep(stays) {
      let to = 0;
      for (let slot = 0; slot < this.used; slot++) {
        if (!stays[slot]) continue;
        const from = slot * this.width;
        this.k.copyWithin(to * this.width, from, from + this.width);
        this.v.copyWithin(to * this.width, from, from + this.width);
        this.pos[to] = this.pos[slot];
        this.mass[to] = this.mass[slot];
        to++;
      }
      this.used = to;
    }

    copy() {
      const twin = new Head(0, this.width);
      for (const name of ["k", "v", "pos", "mass"]) twin[name] = this[name].slice();
      twin.used = this.used;
      return twin;
    }
  }

  /** Keys and values of every layer and head. `seen` counts tokens, those that went included. */
  class Cache {
    constructor(config, capacity) {
      this.capacity = capacity;
      this.seen = 0;
      this.layers = Array.from({ length: config.num_hidden_layers }, () =>
        Array.from({ length: config.num_key_value_heads }, () => new Head(capacity, config.head_dim)),
      );
    }

    /** Bytes of the rows that are held, in single precision as the page stores them. */
    get bytes() {
      return this.layers.flat().reduce((sum, head) => sum + head.used * head.width * 2 * 4, 0);
    }

    copy() {
      const twin = Object.create(Cache.prototype);
      twin.capacity = this.capacity;
      twin.seen = this.seen;
      twin.layers = this.layers.map((heads) => heads.map((head) => head.copy()));
      return twin;
    }
  }

  class Model {
    /** From a checkpoint's config.json and the bytes of its model.safetensors. */
    constructor(config, bytes) {
      this.config = config;
      this.tensors = tensorsOf(bytes);
    }

    newCache(capacity) {
      return new Cache(this.config, capacity);
    }

    /**
     * Read tokens behind those in the cache, and write their keys and values into it.
     *
     * Gives the logits after the last token, and the weights that its queries gave: by layer and
     * query head, one for each slot that its key/value head holds.
     */
    forward(tokens, cache) {
      const { config, tensors } = this;
      const nRows = tokens.length, width = config.hidden_size, eps = config.rms_norm_eps;
      if (nRows === 0) throw new Error("No tokens came; expected at least one.");
      if (cache.seen + nRows > cache.capacity) {
        throw new Error(
          `${cache.seen + nRows} tokens do not fit a cache made for ${cache.capacity}.`,
        );
      }
      const embedding = tensors["model.embed_tokens.weight"];
      const x = new Float32Array(nRows * width);
      tokens.forEach((id, s) => x.set(embedding.subarray(id * width, (id + 1) * width), s * width));
      const weights = [];
      for (let layer = 0; layer < config.num_hidden_layers; layer++) {
        const name = `model.layers.${layer}.`;
        const of = (part) => tensors[`${name}${part}.weight`];
        const normed = rmsNorm(x, of("input_layernorm"), nRows, width, eps);
        const seen = this.attention(normed, layer, nRows, cache, of);
        weights.push(seen.weights);
        for (let i = 0; i < x.length; i++) x[i] += seen.out[i];
        const thought = this.mlp(
          rmsNorm(x, of("post_attention_layernorm"), nRows, width, eps), nRows, of,
        );
        for (let i = 0; i < x.length; i++) x[i] += thought[i];
      }
      cache.seen += nRows;
      const last = rmsNorm(
        x.subarray((nRows - 1) * width), tensors["model.norm.weight"], 1, width, eps,
      );
      return { logits: multiply(last, embedding, 1, width, config.vocab_size), weights };
    }

    attention(x, layer, nRows, cache, of) {
      const { config } = this;
      const width = config.hidden_size, D = config.head_dim, theta = config.rope_theta;
      const H = config.num_attention_heads, G = config.num_key_value_heads;
      const q = multiply(x, of("self_attn.q_proj"), nRows, width, H * D);
      const k = multiply(x, of("self_attn.k_proj"), nRows, width, G * D);
      const v = multiply(x, of("self_attn.v_proj"), nRows, width, G * D);
      rope(q, nRows, H, D, theta, cache.seen);
      rope(k, nRows, G, D, theta, cache.seen);
      const out = new Float32Array(nRows * H * D);
      const weights = [];
      for (let g = 0; g < G; g++) {
        const head = cache.layers[layer][g];
        for (let s = 0; s < nRows; s++) {
          const at = (s * G + g) * D, slot = head.used;
          head.k.set(k.subarray(at, at + D), slot * D);
          head.v.set(v.subarray(at, at + D), slot * D);
          head.pos[slot] = cache.seen + s;
          head.mass[slot] = 0;
          head.used++;
        }
        for (let h = (g * H) / G; h < ((g + 1) * H) / G; h++) {
          for (let s = 0; s < nRows; s++) {
            const row = (s * H + h) * D;
            weights[h] = attend(q.subarray(row, row + D), head, nRows - 1 - s, out, row);
          }
        }
      }
      return { out: multiply(out, of("self_attn.o_proj"), nRows, H * D, width), weights };
    }

    mlp(x, nRows, of) {
      const width = this.config.hidden_size, F = this.config.intermediate_size;
      const gate = multiply(x, of("mlp.gate_proj"), nRows, width, F);
      const up = multiply(x, of("mlp.up_proj"), nRows, width, F);
      for (let i = 0; i < gate.length; i++) up[i] *= gate[i] / (1 + Math.exp(-gate[i]));
      return multiply(up, of("mlp.down_proj"), nRows, F, width);
    }
  }

  /** One query over the slots of its head, the newest `hidden` of which come after it. */
  function attend(query, head, hidden, out, at) {
    const D = head.width, n = head.used - hidden, scale = D ** -0.5;
    const weights = new Float32Array(n);
    let most = -Infinity;
    for (let t = 0; t < n; t++) {
      let score = 0;
      for (let i = 0; i < D; i++) score += query[i] * head.k[t * D + i];
      weights[t] = score * scale;
      if (weights[t] > most) most = weights[t];
    }
    let sum = 0;
    for (let t = 0; t < n; t++) sum += weights[t] = Math.exp(weights[t] - most);
    for (let t = 0; t < n; t++) {
      const weight = (weights[t] /= sum);
      head.mass[t] += weight;
      for (let i = 0; i < D; i++) out[at + i] += weight * head.v[t * D + i];
    }
    return weights;
  }

  /** The likeliest token, of equals the first. */
  function likeliest(logits) {
    let best = 0;
    for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
    return best;
  }

  root.kvlab = Object.assign(root.kvlab || {}, { Model, Cache, likeliest });
})(globalThis);
