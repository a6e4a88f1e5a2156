// Drawings of a cache: every number a cell, blue below zero and orange above.
"use strict";
(function (root) {
  const GAP = 2; // columns between keys and values

  /** A colour scheme of the page, as numbers. */
  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => {
      const hex = style.getPropertyValue(name).trim();
      return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    };
    return { low: of("--low"), zero: of("--zero"), high: of("--high"), gone: of("--gone"),
             paper: of("--paper"), weight: of("--weight") };
  }

  function between(from, to, share) {
    return from.map((channel, i) => Math.round(channel + (to[i] - channel) * share));
  }

  /** Which slot of a head holds each position; -1 where the token went. */
  function slots(head, seen) {
    const found = new Int32Array(seen).fill(-1);
    for (let t = 0; t < head.used; t++) found[head.pos[t]] = t;
    return found;
  }

  /** The largest number of a head's keys, or values, to scale its colours by. */
  function largest(x, head) {
    let most = 1e-9;
    for (let i = 0; i < head.used * head.width; i++) most = Math.max(most, Math.abs(x[i]));
    return most;
  }

  /**
   * Draw a head into a canvas, a pixel a number: keys, a gap, values; a line for each position, those
   * from `shown` on still empty.
   */
  function drawHead(canvas, head, seen, shown = seen) {
    const D = head.width, across = 2 * D + GAP;
    const scheme = colours(), at = slots(head, seen);
    canvas.width = across;
    canvas.height = Math.max(1, seen);
    const context = canvas.getContext("2d");
    const image = context.createImageData(across, canvas.height);
    for (const [side, from] of [["k", 0], ["v", D + GAP]]) {
      const most = largest(head[side], head);
      for (let pos = 0; pos < Math.min(seen, shown); pos++) {
        for (let i = 0; i < D; i++) {
          let colour = scheme.gone;
          if (at[pos] >= 0) {
            const share = head[side][at[pos] * D + i] / most;
            colour = between(scheme.zero, share < 0 ? scheme.low : scheme.high,
                             Math.min(1, Math.abs(share)) ** 0.7);
          }
          image.data.set([...colour, 255], 4 * (pos * across + from + i));
        }
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** Draw the newest query's weights, a column for each query head that reads this head. */
  function drawWeights(canvas, head, weights, seen) {
    const scheme = colours(), at = slots(head, seen);
    canvas.width = Math.max(1, weights.length);
    canvas.height = Math.max(1, seen);
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    for (let pos = 0; pos < seen; pos++) {
      weights.forEach((of, h) => {
        const weight = at[pos] >= 0 ? of[at[pos]] ?? 0 : 0;
        const colour = between(scheme.paper, scheme.weight, Math.sqrt(weight));
        image.data.set([...colour, 255], 4 * (pos * canvas.width + h));
      });
    }
    context.putImageData(image, 0, 0);
  }

  /** Which number lies at a column of a head's drawing: of a key or a value, and its channel. */
  function cell(column, width) {
    if (column < width) return { side: "k", channel: column };
    if (column >= width + GAP) return { side: "v", channel: column - width - GAP };
    return null;
  }

  root.kvlab = Object.assign(root.kvlab, { drawHead, drawWeights, cell, slots, GAP });
})(globalThis);
