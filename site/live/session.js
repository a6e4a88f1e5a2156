// One text, one question, one answer: which step comes next, and what each costs.
"use strict";
(function (root) {
  const { likeliest, evict, remove, thin } = root.kvlab;
  const LONGEST = 1024; // tokens of a prompt; the model was trained on texts of this length
  const ANSWER = 32;

  /** What is asked for: everything that a link to the page holds. */
  const DEFAULTS = {
    text: "", question: "", cache: true, policy: "none", share: 50, when: "text", side: "none",
    along: "token", sparsity: 50, gone: [],
  };

  class Session {
    constructor(model, tokenizer, wanted) {
      Object.assign(this, { model, tokenizer, wanted });
      const text = wanted.text.trim(), question = wanted.question.trim();
      const ask = question ? `User: ${question}\nAssistant:` : "";
      this.read = [0, ...tokenizer.continue(text)];
      this.asked = tokenizer.continue(text && ask ? `\n${ask}` : ask);
      const length = this.read.length + this.asked.length;
      if (length > LONGEST) {
        throw new Error(
          `The prompt has ${length} tokens; expected at most ${LONGEST}. Shorten the text.`,
        );
      }
      if (length === 1) throw new Error("Text and question are empty; write something to read.");
      this.ids = [];
      this.answered = [];
      this.cost = { tokens: 0, milliseconds: 0, steps: 0, answering: 0 };
      this.cache = model.newCache(length + ANSWER);
      this.logits = null;
      this.moments = []; // the weights of each step since rows last went
      this.fresh = 0; // tokens that the latest step wrote
      this.steps = this.run();
    }

    /** The next step's name; undefined at the end. */
    next() {
      return this.steps.next().value;
    }

    get answer() {
      return this.tokenizer.decode(this.answered);
    }

    /** What part of the prompt each token is of: "text", "question" or "answer". */
    part(index) {
      if (index < this.read.length) return "text";
      return index < this.read.length + this.asked.length ? "question" : "answer";
    }

    *run() {
      this.forward(this.read);
      yield "text";
      if (this.prune("text")) yield "pruned";
      if (this.asked.length) {
        this.forward(this.asked);
        yield "question";
        if (this.prune("question")) yield "pruned";
      }
      const ends = this.model.config.eos_token_id;
      while (this.answered.length < ANSWER) {
        const id = likeliest(this.logits);
        if (id === ends) return;
        this.answered.push(id);
        this.forward([id], true);
        yield "answer";
      }
    }

    /** Run tokens through the model: only these, or without a cache all so far once more. */
    forward(tokens, answering = false) {
      const start = performance.now();
      this.ids.push(...tokens);
      let run = tokens;
      if (!this.wanted.cache) {
        run = this.ids;
        this.cache = this.model.newCache(this.ids.length);
      }
      const { logits, weights } = this.model.forward(run, this.cache);
      const milliseconds = performance.now() - start;
      Object.assign(this, { logits, fresh: run.length });
      this.moments.push({ pos: this.ids.length - 1, weights });
      this.cost.tokens += run.length;
      this.cost.milliseconds += milliseconds;
      if (answering) {
        this.cost.steps += 1;
        this.cost.answering += milliseconds;
      }
    }

    /** Take away what was asked for at this place; whether anything was to go. */
    prune(place) {
      const { cache, policy, share, when, side, along, sparsity, gone } = this.wanted;
      if (!cache) return false;
      const rows = this.rows;
      const clicked = gone.filter((pos) => this.part(pos) === place);
      remove(this.cache, new Set(clicked));
      let did = clicked.length > 0;
      if (when === place) {
        if (policy !== "none") {
          evict(this.cache, policy, { share: share / 100 });
          did = true;
        }
        for (const one of side === "both" ? ["k", "v"] : side === "none" ? [] : [side]) {
          thin(this.cache, one, along, { sparsity: sparsity / 100 });
          did = true;
        }
      }
      if (this.rows < rows) this.moments = [];
      this.fresh = 0;
      return did;
    }

    /** Rows of keys that are held, in all layers and heads. */
    get rows() {
      return this.cache.layers.flat().reduce((sum, head) => sum + head.used, 0);
    }
  }

  /** What a link asks for; what it does not say, or says wrongly, is as at the start. */
  function fromLink(hash, start) {
    const said = new URLSearchParams(hash.replace(/^#/, ""));
    const wanted = { ...DEFAULTS, ...start };
    for (const name of ["text", "question"]) if (said.has(name)) wanted[name] = said.get(name);
    const choices = {
      policy: ["none", ...root.kvlab.POLICIES], when: ["text", "question"],
      side: ["none", "k", "v", "both"], along: ["token", "channel"],
    };
    for (const [name, allowed] of Object.entries(choices)) {
      if (allowed.includes(said.get(name))) wanted[name] = said.get(name);
    }
    for (const [name, least, most] of [["share", 5, 100], ["sparsity", 0, 90]]) {
      const number = Number(said.get(name));
      if (said.has(name) && number >= least && number <= most) wanted[name] = Math.round(number);
    }
    if (said.has("cache")) wanted.cache = said.get("cache") !== "0";
    const gone = (said.get("gone") || "").split(".").map(Number);
    wanted.gone = gone.filter((pos) => Number.isInteger(pos) && pos > 0 && pos < LONGEST);
    return wanted;
  }

  /** The other way round: only what differs from the start is said. */
  function toLink(wanted, start) {
    const said = new URLSearchParams();
    for (const [name, value] of Object.entries(wanted)) {
      const before = { ...DEFAULTS, ...start }[name];
      if (name === "gone") {
        if (value.length) said.set(name, value.join("."));
      } else if (value !== before) said.set(name, name === "cache" ? Number(value) : value);
    }
    return `#${said}`;
  }

  root.kvlab = Object.assign(root.kvlab, { Session, DEFAULTS, fromLink, toLink });
})(globalThis);
