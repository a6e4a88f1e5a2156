// Text to token ids and back: byte-level BPE from a checkpoint's tokenizer.json.
"use strict";
(function (root) {
  const SPLIT = / ?[0-9]/g; // a digit is a token of its own
  const WORDS =
    /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

  /** GPT-2's letters for the 256 bytes: those that can be printed stand for themselves. */
  function letters() {
    const printed = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    let others = 0;
    return Array.from({ length: 256 }, (_, b) =>
      String.fromCodePoint(printed(b) ? b : 256 + others++),
    );
  }

  class Tokenizer {
    constructor(json) {
      this.ids = json.model.vocab;
      this.tokens = [];
      for (const [token, id] of Object.entries(this.ids)) this.tokens[id] = token;
      this.ranks = new Map(
        json.model.merges.map((pair, rank) => [Array.isArray(pair) ? pair.join(" ") : pair, rank]),
      );
      this.special = new Map(json.added_tokens.map((token) => [token.content, token.id]));
      for (const [content, id] of this.special) this.tokens[id] = content;
      this.letters = letters();
      this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    }

    /** Ids of a text, behind the token that begins every text. */
    encode(text) {
      return [0, ...this.continue(text)];
    }

    /** Ids of a text that goes on from another. */
    continue(text) {
      const names = [...this.special.keys()].map((n) => n.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
      const ids = [];
      for (const part of text.split(new RegExp(`(${names.join("|")})`))) {
        if (this.special.has(part)) ids.push(this.special.get(part));
        else for (const word of words(part)) ids.push(...this.word(word));
      }
      return ids;
    }

    /** Join the pair that was learnt first, again and again, until no pair was learnt. */
    word(text) {
      let parts = Array.from(new TextEncoder().encode(text), (byte) => this.letters[byte]);
      for (;;) {
        let best = Infinity, at = -1;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
          if (rank < best) [best, at] = [rank, i];
        }
        if (at < 0) return parts.map((part) => this.ids[part]);
        const [left, right] = [parts[at], parts[at + 1]];
        const joined = [];
        for (let i = 0; i < parts.length; i++) {
          if (parts[i] === left && parts[i + 1] === right) joined.push(parts[i] + parts[++i]);
          else joined.push(parts[i]);
        }
        parts = joined;
      }
    }

    /** The text of some ids; special tokens are left out, unless `all`. */
    decode(ids, all = false) {
      const bytes = [];
      for (const id of ids) {
        const token = this.tokens[id];
        if (this.special.has(token)) {
          if (all) bytes.push(...new TextEncoder().encode(token));
        } else for (const letter of token) bytes.push(this.bytes.get(letter));
      }
      return new TextDecoder().decode(new Uint8Array(bytes));
    }
  }

  /** A text cut into digits and words, before pairs are joined. */
  function words(text) {
    const parts = [];
    let from = 0;
    for (const digit of text.matchAll(SPLIT)) {
      parts.push(text.slice(from, digit.index), digit[0]);
      from = digit.index + digit[0].length;
    }
    parts.push(text.slice(from));
    return parts.flatMap((part) => part.match(WORDS) ?? []);
  }

  root.kvlab = Object.assign(root.kvlab || {}, { Tokenizer });
})(globalThis);
