// The page: what is asked for, what is drawn, and which buttons do what.
"use strict";
(function (root) {
  const { drawHead, drawWeights, cell, slots, fromLink, toLink, Session, DEFAULTS } = root.kvlab;
  const first = root.kvlab.first;
  const FRAMES = 20; // in which the rows of a long step appear
  const ROW = 24; // pixels of a token's line in the close view
  const at = (id) => document.getElementById(id);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const show = (number, digits = 0) =>
    number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  const start = { text: first.examples[0].text, question: first.examples[0].question };
  let wanted = fromLink(location.hash, start);
  let model = null, tokenizer = null, session = null, running = 0;
  let view = early(); // what is drawn now
  const SHARED = first.weights[0].length / first.layers[0].length; // query heads that share a head
  const chosen = { layer: 3, head: 0, row: -1, column: 0, moment: Infinity };

  /** The example's cache as it was when the page was made, drawn until the model is there. */
  function early() {
    const numbers = (text, scale) =>
      Float32Array.from(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), (b) => (b - 128) * scale);
    const seen = first.pieces.length;
    return {
      seen, fresh: 0, pieces: first.pieces, parts: first.parts, answer: first.answer,
      layers: first.layers.map((heads) => heads.map((head) => ({
        k: numbers(head.k, head.kScale), v: numbers(head.v, head.vScale), width: first.width,
        used: seen, pos: Int32Array.from({ length: seen }, (_, i) => i),
      }))),
      moments: [{ pos: seen - 1, weights: first.weights.map((heads) =>
        heads.map((text) => numbers(text, 1).map((b) => (b + 128) / 255))) }],
    };
  }

  function viewOf(session) {
    const { cache, moments, fresh, ids } = session;
    return {
      seen: ids.length, fresh, layers: cache.layers, moments, answer: session.answer,
      pieces: ids.map((id) => tokenizer.decode([id], true)), parts: ids.map((_, i) => session.part(i)),
    };
  }

  // --- drawing ----------------------------------------------------------------------------------

  /** Show the rows of the latest step one after the other, where motion is welcome. */
  async function reveal() {
    const mine = running, from = view.seen - view.fresh;
    if (calm.matches || view.fresh < 2) return draw();
    for (let frame = 1; frame <= FRAMES && mine === running; frame++) {
      draw(from + Math.ceil((view.fresh * frame) / FRAMES));
      await new Promise(requestAnimationFrame);
    }
  }

  function draw(shown = view.seen) {
    at("answer").textContent = view.answer;
    view.layers.forEach((heads, layer) => heads.forEach((head, g) => {
      const button = headButton(layer, g);
      drawHead(button.querySelector("canvas"), head, view.seen, shown);
      button.querySelector("canvas").style.height = `${Math.min(360, Math.max(60, 3 * view.seen))}px`;
      button.setAttribute("aria-pressed", layer === chosen.layer && g === chosen.head);
      button.querySelector("span").textContent = `Layer ${layer}, head ${g}: ${head.used} rows`;
    }));
    drawClose(shown);
  }

  function headButton(layer, g) {
    const id = `head-${layer}-${g}`;
    if (at(id)) return at(id);
    const button = document.createElement("button");
    button.id = id;
    button.type = "button";
    button.append(document.createElement("span"), document.createElement("canvas"));
    button.addEventListener("click", () => {
      Object.assign(chosen, { layer, head: g });
      draw();
    });
    at("heads").append(button);
    return button;
  }

  function drawClose(shown = view.seen) {
    const { layer, head: g } = chosen, head = view.layers[layer][g];
    at("which").textContent = `Layer ${layer}, key/value head ${g}, read by query heads ` +
      `${g * SHARED} to ${(g + 1) * SHARED - 1}.`;
    drawHead(at("cells"), head, view.seen, shown);
    drawWeights(at("weights"), head, ownWeights(), view.seen);
    for (const id of ["cells", "weights"]) at(id).style.height = `${ROW * view.seen}px`;
    drawMoment();
    drawTokens(head);
    tell();
  }

  /** The weights of those query heads that read the chosen head, at the chosen step. */
  function ownWeights() {
    const moment = view.moments[Math.min(chosen.moment, view.moments.length - 1)];
    if (!moment) return Array.from({ length: SHARED }, () => new Float32Array(0));
    const from = chosen.head * SHARED;
    return moment.weights[chosen.layer].slice(from, from + SHARED);
  }

  function drawMoment() {
    const slider = at("moment"), last = view.moments.length - 1;
    slider.max = Math.max(0, last);
    slider.value = Math.min(chosen.moment, last);
    slider.disabled = last < 1;
    const pos = view.moments[slider.value]?.pos;
    at("moment-shown").textContent =
      pos === undefined ? "no token: rows just went" : `token ${pos} “${view.pieces[pos]}”`;
  }

  function drawTokens(head) {
    const list = at("tokens"), has = slots(head, view.seen);
    while (list.children.length > view.seen) list.lastChild.remove();
    for (let pos = 0; pos < view.seen; pos++) {
      const button = list.children[pos] || list.appendChild(tokenButton(pos));
      button.textContent = `${pos} ${view.pieces[pos].replace("\n", "⏎")}`;
      button.dataset.part = view.parts[pos];
      button.setAttribute("aria-pressed", has[pos] < 0);
      button.toggleAttribute("data-new", pos >= view.seen - view.fresh);
      button.disabled = !session || !wanted.cache || view.parts[pos] === "answer" || pos === 0;
    }
  }

  function tokenButton(pos) {
    const button = document.createElement("button");
    button.type = "button";
    button.addEventListener("click", () => {
      const gone = new Set(wanted.gone);
      if (!gone.delete(pos)) gone.add(pos);
      wanted.gone = [...gone].sort((a, b) => a - b);
      ask(true);
    });
    return button;
  }

  // --- one cell's number ------------------------------------------------------------------------

  function tell() {
    if (chosen.row < 0 || chosen.row >= view.seen) return;
    const head = view.layers[chosen.layer][chosen.head];
    const slot = slots(head, view.seen)[chosen.row], where = cell(chosen.column, head.width);
    const token = `Token ${chosen.row} “${view.pieces[chosen.row]}”`;
    if (slot < 0) {
      at("readout").textContent = `${token}: its row is not in this head any more.`;
      return;
    }
    if (!where) return;
    const number = head[where.side][slot * head.width + where.channel];
    const name = where.side === "k" ? "key" : "value";
    const weights = ownWeights().map((of) => show(of[slot] ?? 0, 3)).join(", ");
    at("readout").textContent = `${token}, layer ${chosen.layer}, head ${chosen.head}: ${name}, ` +
      `channel ${where.channel}: ${show(number, 3)}. Weights: ${weights}.`;
  }

  function point(event) {
    const box = at("cells").getBoundingClientRect();
    chosen.column = Math.floor(((event.clientX - box.left) / box.width) * at("cells").width);
    chosen.row = Math.floor(((event.clientY - box.top) / box.height) * view.seen);
    tell();
  }

  function move(event) {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
                            ArrowRight: [0, 1] }[event.key] || [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    const last = at("cells").width - 1, width = view.layers[0][0].width;
    chosen.row = Math.min(view.seen - 1, Math.max(0, chosen.row + down));
    chosen.column = Math.min(last, Math.max(0, chosen.column + right));
    while (!cell(chosen.column, width)) chosen.column += right || 1;
    at("close").scrollTop = ROW * (chosen.row - 4);
    tell();
  }

  // --- asking -----------------------------------------------------------------------------------

  /** Take what the controls say; a text of its own has tokens of its own. */
  function readControls() {
    const before = `${wanted.text}\n${wanted.question}`;
    for (const name of ["text", "question", "policy", "side", "along", "when"]) {
      wanted[name] = at(name).value;
    }
    for (const name of ["share", "sparsity"]) wanted[name] = Number(at(name).value);
    wanted.cache = at("cache").checked;
    if (before !== `${wanted.text}\n${wanted.question}`) wanted.gone = [];
  }

  function showControls() {
    for (const name of ["text", "question", "policy", "side", "along", "when", "share", "sparsity"]) {
      at(name).value = wanted[name];
    }
    at("cache").checked = wanted.cache;
    const own = first.examples.findIndex((e) => e.text === wanted.text && e.question === wanted.question);
    at("example").value = own < 0 ? "" : own;
    showBudget();
  }

  function showBudget() {
    at("share-shown").textContent = `${at("share").value} %`;
    at("sparsity-shown").textContent = `${at("sparsity").value} %`;
    at("share").disabled = at("policy").value === "none";
    for (const id of ["along", "sparsity"]) at(id).disabled = at("side").value === "none";
    at("when").disabled = at("policy").value === "none" && at("side").value === "none";
    for (const control of at("prune").elements) {
      if (control.type === "submit") control.disabled = !model || !at("cache").checked;
    }
  }

  function begin() {
    running++;
    readControls();
    try {
      session = new Session(model, tokenizer, { ...wanted });
    } catch (error) {
      session = null;
      at("status").textContent = error.message;
      return false;
    }
    history.replaceState(null, "", toLink(wanted, start));
    return true;
  }

  const SAYS = {
    text: (s) => `${s.read.length} tokens of text were read in one pass and their rows written.`,
    question: (s) => `${s.asked.length} tokens of the question were read.`,
    pruned: () => "The cache was pruned.",
    answer: (s) => `Token ${s.answered.length} of the answer was chosen, and its own rows written.`,
  };

  /** The next step; whether there was one. */
  async function step() {
    const did = session.next();
    chosen.moment = Infinity; // the newest
    view = viewOf(session);
    showCost();
    if (did) {
      const again = session.wanted.cache || did === "text" ? "" : " All tokens before it were run again.";
      at("status").textContent = SAYS[did](session) + again;
    } else finish();
    await reveal();
    return did !== undefined;
  }

  function finish() {
    const { answered, cost } = session;
    const speed = cost.steps ? `, ${show((1000 * cost.steps) / cost.answering)} tokens a second` : "";
    at("status").textContent = `Done: ${answered.length} tokens answered${speed}.`;
    log();
    session.finished = true;
  }

  async function play() {
    const mine = running;
    at("step").disabled = true;
    while (mine === running && (await step())) await pause(calm.matches ? 0 : 40);
    at("step").disabled = false;
  }

  /** From the beginning; at once where only the rest of the answer matters. */
  async function ask(atOnce = false) {
    if (!begin()) return;
    if (!atOnce) return play();
    const mine = running;
    while (session.next()) {
      if (!wanted.cache) await pause(0);
      if (mine !== running) return;
    }
    chosen.moment = Infinity;
    view = viewOf(session);
    draw();
    showCost();
    finish();
  }

  function showCost() {
    const column = session.wanted.cache ? 0 : 1, { cost } = session;
    const heads = session.cache.layers.length * session.cache.layers[0].length;
    const found = {
      tokens: show(cost.tokens), rows: show(cost.tokens * heads),
      bytes: session.wanted.cache ? show(session.cache.bytes) : "0",
      milliseconds: show(cost.milliseconds, 1),
      each: cost.steps ? show(cost.answering / cost.steps, 1) : "",
    };
    for (const [name, text] of Object.entries(found)) {
      document.querySelectorAll(`#cost td[data-of="${name}"]`)[column].textContent = text;
    }
  }

  function went() {
    const { cache, policy, share, when, side, along, sparsity, gone } = session.wanted;
    if (!cache) return "no cache";
    const said = [];
    if (policy !== "none") {
      said.push(`${at("policy").querySelector(`[value=${policy}]`).text}: ${share} % kept`);
    }
    if (side !== "none") {
      const of = { k: "keys", v: "values", both: "keys and values" }[side];
      said.push(`${sparsity} % of ${of} by ${along}`);
    }
    if (said.length) said.push(`after the ${when}`);
    if (gone.length) said.push(`tokens ${gone.join(", ")}`);
    return said.join("; ") || "nothing";
  }

  function log() {
    const line = document.createElement("tr");
    const held = session.wanted.cache ? show(session.rows) : "0";
    for (const text of [session.wanted.question, went(), held, session.answer]) {
      line.appendChild(document.createElement("td")).textContent = text;
    }
    at("log").tBodies[0].prepend(line);
  }

  // --- buttons ----------------------------------------------------------------------------------

  function listen() {
    at("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      ask();
    });
    at("step").addEventListener("click", () => {
      if ((session && !session.finished) || begin()) step();
    });
    at("again").addEventListener("click", () => {
      wanted.gone = [];
      if (begin()) step();
    });
    at("prune").addEventListener("submit", (event) => {
      event.preventDefault();
      ask(true);
    });
    at("whole").addEventListener("click", () => {
      wanted = { ...wanted, ...DEFAULTS, text: wanted.text, question: wanted.question };
      showControls();
      ask(true);
    });
    at("link").addEventListener("click", copyLink);
    at("example").addEventListener("change", () => {
      const example = first.examples[at("example").value];
      if (!example) return;
      at("text").value = example.text;
      at("question").value = example.question;
      if (model) ask(true);
    });
    at("cache").addEventListener("change", () => {
      showBudget();
      if (model) ask();
    });
    at("prune").addEventListener("input", showBudget);
    at("moment").addEventListener("input", () => {
      chosen.moment = Number(at("moment").value);
      drawClose();
    });
    at("cells").addEventListener("pointermove", point);
    at("cells").addEventListener("pointerdown", point);
    at("cells").addEventListener("keydown", move);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
    addEventListener("hashchange", () => {
      wanted = fromLink(location.hash, start);
      showControls();
      if (model) ask(true);
    });
  }

  async function copyLink() {
    readControls();
    history.replaceState(null, "", toLink(wanted, start));
    try {
      await navigator.clipboard.writeText(location.href);
      at("status").textContent = "The link was copied.";
    } catch {
      at("status").textContent = "The link is in the address bar: copy it from there.";
    }
  }

  /** Called by weights.js, when it has arrived. */
  root.kvlab.arrived = (data) => {
    const bytes = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
    model = new root.kvlab.Model(data.config, bytes);
    tokenizer = new root.kvlab.Tokenizer(data.tokenizer);
    for (const id of ["play", "step", "again", "whole", "ask-again"]) at(id).disabled = false;
    at("status").textContent = "The model is here.";
    showBudget();
    ask(true);
  };

  /** Called where weights.js is missing. */
  root.kvlab.lacking = () => {
    at("status").textContent =
      "The model did not load: weights.js is not beside this page. Build it with: kvlab site";
  };

  for (const [i, example] of first.examples.entries()) {
    at("example").append(new Option(example.name, i));
  }
  at("example").append(new Option("your own", ""));
  showControls();
  listen();
  draw();
  if (root.kvlab.data) root.kvlab.arrived(root.kvlab.data);
})(globalThis);
