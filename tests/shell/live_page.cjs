// Runs the live page's own scripts without a page: cases come as JSON, answers go as JSON.
"use strict";
const fs = require("fs");
const path = require("path");

const folder = process.argv[2];
for (const name of ["first", "engine", "tokenizer", "policies", "session", "weights"]) {
  require(path.join(folder, `${name}.js`));
}
const { data, Model, Tokenizer, Session, DEFAULTS, fromLink, toLink, evict, thin, remove } =
  globalThis.kvlab;
const model = new Model(data.config, new Uint8Array(Buffer.from(data.weights, "base64")));
const tokenizer = new Tokenizer(data.tokenizer);

const DO = {
  /** Ids of a text, and the text of those ids. */
  spell: ({ text }) => {
    const ids = tokenizer.encode(text);
    return { ids, text: tokenizer.decode(ids) };
  },
  /** Logits after a prompt that is read in pieces. */
  logits: ({ pieces }) => {
    const cache = model.newCache(pieces.flat().length);
    let found;
    for (const piece of pieces) found = model.forward(piece, cache);
    return { logits: Array.from(found.logits), weights: found.weights.map((h) => h.map((w) => Array.from(w))) };
  },
  /** What is left of a cache: positions, keys and values of each layer and head. */
  pruned: ({ ids, policy, how, side, along, sparsity, gone }) => {
    const cache = model.newCache(ids.length + 1);
    model.forward(ids, cache);
    if (gone) remove(cache, new Set(gone));
    if (policy) evict(cache, policy, how);
    if (side) thin(cache, side, along, { sparsity, ...how });
    const { logits } = model.forward([ids.at(-1)], cache);
    return {
      logits: Array.from(logits),
      heads: cache.layers.map((heads) => heads.map((head) => ({
        pos: Array.from(head.pos.subarray(0, head.used)),
        k: side ? Array.from(head.k.subarray(0, head.used * head.width)) : [],
        v: side ? Array.from(head.v.subarray(0, head.used * head.width)) : [],
      }))),
    };
  },
  /**
   * Of rows that are given, head by head, which slots stay, or which places of keys; heads stand
   * layer after layer.
   */
  tied: ({ policy, along, how, seen, heads }) => {
    const cache = model.newCache(seen);
    cache.seen = seen;
    cache.layers.flat().forEach((head, i) => {
      for (const name of ["pos", "mass", "k"]) head[name].set(heads[i][name]);
      head.used = heads[i].pos.length;
      for (let slot = 0; slot < head.used; slot++) head.v[slot * head.width] = slot;
    });
    if (policy) evict(cache, policy, how);
    else thin(cache, "k", along, how);
    const slots = ({ v, used, width }) => Array.from({ length: used }, (_, t) => v[t * width]);
    const places = ({ k, used, width }) => Array.from(k.keys()).filter((i) => i < used * width && k[i]);
    const left = policy ? slots : places;
    return { stays: cache.layers.map((of) => of.map(left)) };
  },
  /** A whole session, as the page has it. */
  session: (wanted) => {
    const session = new Session(model, tokenizer, { ...DEFAULTS, ...wanted });
    const steps = [];
    for (let step = session.next(); step; step = session.next()) steps.push(step);
    const { answer, ids, cost } = session;
    return { answer, ids, steps, cost, rows: session.cache.layers.flat().map((head) => head.used) };
  },
  refused: (wanted) => {
    try {
      new Session(model, tokenizer, { ...DEFAULTS, ...wanted });
    } catch (error) {
      return { message: error.message };
    }
    return { message: "" };
  },
  link: ({ hash }) => {
    const wanted = fromLink(hash, { text: "a", question: "b" });
    return { wanted, again: fromLink(toLink(wanted, { text: "a", question: "b" }), { text: "a", question: "b" }) };
  },
};

const cases = JSON.parse(fs.readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(cases.map((one) => DO[one.do](one))));
