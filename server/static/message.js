// One message of a conversation as an element that follows it: the user's, or an answer.

import { BlockAnnouncer } from "./announcer.js";
import { isThinking, thoughtTime } from "./answer.js";
import { el, icon, iconButton } from "./dom.js";
import { figuresNode } from "./figures.js";
import { duration, typed } from "./format.js";
import { copyButton, renderMarkdown } from "./render.js";
import { versions } from "./tree.js";

/** `actions`: {edit, regenerate, choose, elapsed, busy}, all of the thread. */
export function messageView(conversation, node, actions) {
  const View = node.role === "user" ? UserMessage : AnswerMessage;
  return new View(conversation, node, actions);
}

class UserMessage {
  constructor(conversation, node, actions) {
    this.node = node;
    this.conversation = conversation;
    this.actions = actions;
    this.text = el("div", { class: "bubble" });
    this.foot = el("div", { class: "foot" });
    this.element = el(
      "li",
      { class: "message from-user", "data-id": node.id },
      el("h2", { class: "unseen", text: "You" }),
      this.text,
      this.foot,
    );
  }

  update() {
    this.text.textContent = this.node.content;
    const { busy } = this.actions;
    refill(this.foot, [
      ...switcher(this.conversation, this.node, this.actions),
      copyButton(() => this.node.content, "Copy message"),
      iconButton("edit", "Edit message", () => this.#edit(), { disabled: busy() }),
    ]);
  }

  #edit() {
    const box = el("textarea", { class: "edit-box", "aria-label": "Edit the message", rows: 3 });
    const done = () => {
      form.replaceWith(this.text);
      this.foot.hidden = false;
      this.foot.querySelector('[aria-label="Edit message"]')?.focus();
    };
    const send = () => {
      const text = typed(box.value);
      if (!text || this.actions.busy()) return;
      done();
      this.actions.edit(this.node.id, text);
    };
    const form = el(
      "form",
      { class: "edit", on: { submit: (event) => (event.preventDefault(), send()) } },
      box,
      el(
        "div",
        { class: "row" },
        el("button", { type: "button", class: "button", text: "Cancel", on: { click: done } }),
        el("button", { type: "submit", class: "button primary", text: "Send" }),
      ),
    );
    box.value = this.node.content;
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        done();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.foot.hidden = true;
    this.text.replaceWith(form);
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }
}

class AnswerMessage {
  constructor(conversation, node, actions) {
    this.node = node;
    this.conversation = conversation;
    this.actions = actions;
    this.announcer = new BlockAnnouncer();
    this.waiting = el("p", { class: "waiting", hidden: true }, el("span", { class: "pulse" }), el("span"));
    this.thoughtText = el("div", { class: "prose thought-text" });
    this.summary = el("span");
    this.thought = el(
      "details",
      { class: "thought", hidden: true },
      el("summary", {}, icon("right"), this.summary),
      this.thoughtText,
    );
    this.thought.addEventListener("toggle", () => this.#showThought());
    this.text = el("div", { class: "prose answer" });
    this.note = el("div", { class: "note", hidden: true });
    this.foot = el("div", { class: "foot" });
    this.element = el(
      "li",
      { class: "message from-model", "data-id": node.id },
      el("h2", { class: "unseen", text: "Answer" }),
      this.thought,
      this.text,
      this.waiting,
      this.note,
      this.foot,
    );
  }

  update() {
    const { node } = this;
    const writing = node.state === "writing";
    this.element.dataset.state = node.state;
    this.element.setAttribute("aria-busy", String(writing));
    const complete = renderMarkdown(this.text, node.content);
    if (writing) this.announcer.say(this.text, complete);
    this.thought.hidden = !node.reasoning;
    this.#showThought();
    this.tick();
    this.#showNote();
    this.#showFoot(writing);
  }

  /** What changes with time alone. */
  tick() {
    const { node } = this;
    const elapsed = this.actions.elapsed();
    const thinking = isThinking(node);
    const { ms, bound } = thoughtTime(node, thinking ? elapsed : null);
    const under = bound && !thinking ? "under " : "";
    this.thought.classList.toggle("active", thinking);
    this.summary.textContent = `${thinking ? "Thinking" : "Thought"} for ${under}${duration(ms)}`;
    this.waiting.hidden = node.state !== "writing" || Boolean(node.content || node.reasoning);
    if (!this.waiting.hidden) {
      this.waiting.lastChild.textContent = elapsed > 1000 ? `Waiting for the first token, ${duration(elapsed)}` : "";
    }
  }

  /** The answer has ended: says the rest of it. */
  announceEnd() {
    this.announcer.say(this.text, this.text.childElementCount);
  }

  #showThought() {
    if (this.thought.open) renderMarkdown(this.thoughtText, this.node.reasoning);
  }

  #showNote() {
    const { state, error, finish } = this.node;
    this.note.className = `note ${state}`;
    this.note.hidden = false;
    if (state === "failed") {
      const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s or later.` : "";
      this.note.replaceChildren(
        el("p", { text: `${error.message}${wait}` }),
        el("button", {
          type: "button",
          class: "button",
          text: "Try again",
          on: { click: () => this.actions.regenerate(this.node.id) },
        }),
      );
    } else if (state === "stopped") this.note.replaceChildren("Stopped.");
    else if (finish === "length") this.note.replaceChildren("Cut at the limit of tokens.");
    else this.note.hidden = true;
  }

  #showFoot(writing) {
    const figures = figuresNode(this.node);
    if (writing) {
      this.foot.replaceChildren(...(figures ? [figures] : []));
      return;
    }
    const kept = this.foot.querySelector("details[open]") !== null;
    refill(this.foot, [
      ...switcher(this.conversation, this.node, this.actions),
      copyButton(() => this.node.content, "Copy answer"),
      iconButton("again", "Regenerate", () => this.actions.regenerate(this.node.id), {
        disabled: this.actions.busy(),
      }),
      ...(figures ? [figures] : []),
    ]);
    if (kept && figures) figures.open = true;
  }
}

/** New buttons for `foot`; the focus stays on the one of the same name. */
function refill(foot, nodes) {
  const focused = foot.contains(document.activeElement) ? document.activeElement : null;
  const label = focused?.getAttribute("aria-label");
  const opened = focused?.matches("summary");
  foot.replaceChildren(...nodes);
  if (label) foot.querySelector(`[aria-label="${label}"]`)?.focus();
  else if (opened) foot.querySelector("summary")?.focus();
}

/** Buttons that choose among the versions of a message; none where there is one. */
function switcher(conversation, node, { choose, busy }) {
  const { index, count } = versions(conversation, node.id);
  if (count < 2) return [];
  const step = (by, name, label) =>
    iconButton(name, label, () => choose(node.id, by, label), {
      disabled: busy() || index + by < 0 || index + by >= count,
    });
  return [
    el(
      "span",
      { class: "versions", role: "group", "aria-label": "Versions" },
      step(-1, "left", "Previous version"),
      el("span", { class: "number", text: `${index + 1}/${count}` }),
      step(1, "right", "Next version"),
    ),
  ];
}
