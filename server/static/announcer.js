// What a screen reader is told, politely: an answer paragraph by paragraph as each is complete.

import { byId, el } from "./dom.js";

const KEPT = 12; // what was read out may go

/** Says `text` when the reader has finished what it says now. */
export function announce(text) {
  const region = byId("announcer");
  region.append(el("p", { text }));
  while (region.childElementCount > KEPT) region.firstElementChild.remove();
}

/** Announces the complete blocks of a growing answer, each once. */
export class BlockAnnouncer {
  #said = 0;

  /** `container` shows the answer; its first `complete` children will not change any more. */
  say(container, complete) {
    for (; this.#said < complete; this.#said += 1) {
      const text = container.children[this.#said]?.textContent.trim();
      if (text) announce(text);
    }
  }
}
