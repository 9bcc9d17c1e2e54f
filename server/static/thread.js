// The open conversation: its messages in a list that scrolls along with a growing answer.

import { announce } from "./announcer.js";
import { byId } from "./dom.js";
import { messageView } from "./message.js";
import { chosenPath } from "./tree.js";

const NEAR_END = 90; // pixels from the end at which the list follows

export class Thread {
  #session;
  #list = byId("thread");
  #scroller = byId("scroller");
  #views = []; // in the order of the list
  #frame = null;
  #follows = true;

  constructor(session) {
    this.#session = session;
    session.addEventListener("open", () => this.#reset());
    session.addEventListener("change", () => this.#changed());
    session.addEventListener("grow", ({ detail }) => this.#grow(detail));
    session.addEventListener("end", ({ detail }) => this.#end(detail));
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    byId("to-end").addEventListener("click", () => this.#toEnd());
    this.#list.addEventListener("toggle", ({ target }) => this.#opened(target), { capture: true });
    setInterval(() => this.#tick(), 200);
    this.#reset();
  }

  /** Scrolls to the end, and follows it from now on. */
  #toEnd() {
    this.#follows = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    byId("to-end").hidden = true;
  }

  #reset() {
    this.#views = [];
    this.#list.replaceChildren();
    this.#render();
    this.#toEnd();
  }

  #render() {
    const { current } = this.#session;
    const path = chosenPath(current);
    byId("welcome").hidden = path.length > 0;
    let same = 0;
    while (same < path.length && this.#views[same]?.node === path[same]) same += 1;
    for (const view of this.#views.splice(same)) view.element.remove();
    for (const node of path.slice(same)) {
      const view = messageView(current, node, this.#actions());
      this.#views.push(view);
      this.#list.append(view.element);
    }
    for (const view of this.#views) view.update();
    if (this.#follows) this.#toEnd();
  }

  #actions() {
    const session = this.#session;
    return {
      busy: () => session.writing !== null,
      elapsed: () => session.elapsed(),
      edit: (id, text) => this.#asked(session.edit(id, text)),
      regenerate: (id) => this.#asked(session.regenerate(id)),
      choose: (id, step, label) => this.#choose(id, step, label),
    };
  }

  #asked() {
    byId("message").focus();
  }

  /** A new answer is followed; another version of an old one is not. */
  #changed() {
    if (this.#session.writing) this.#follows = true;
    this.#render();
  }

  /** Shows another version, and gives the focus to the same button of it. */
  #choose(id, step, label) {
    this.#follows = false;
    const chosen = this.#session.choose(id, step);
    const shown = this.#list.querySelector(`[data-id="${chosen}"] .versions`);
    const buttons = [...(shown?.querySelectorAll("button:not(:disabled)") ?? [])];
    (buttons.find((button) => button.getAttribute("aria-label") === label) ?? buttons[0])?.focus();
    announce(`Version ${shown?.querySelector(".number").textContent.replace("/", " of ")}`);
  }

  #grow(answer) {
    if (this.#frame !== null) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = null;
      this.#view(answer)?.update();
      if (this.#follows) this.#toEnd();
    });
  }

  #end(answer) {
    const view = this.#view(answer);
    if (!view) return;
    for (const each of this.#views) each.update(); // their buttons work again
    view.announceEnd();
    const ends = { stopped: "Stopped.", failed: `Failed: ${answer.error?.message}`, done: "The answer is complete." };
    announce(ends[answer.state]);
    if (this.#follows) this.#toEnd();
  }

  #tick() {
    const { writing } = this.#session;
    if (writing) this.#view(writing)?.tick();
  }

  #view(answer) {
    return this.#views.find((view) => view.node === answer);
  }

  /** What was opened is shown whole where it fits. */
  #opened(details) {
    if (!details.open || !details.matches(":hover, :focus-within")) return;
    this.#follows = false;
    details.scrollIntoView({ block: "nearest" });
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_END;
    byId("to-end").hidden = this.#follows;
  }
}
