// The box a message is written in, with the effort beside it; the button sends, or stops.

import { byId, el, icon } from "./dom.js";
import { typed } from "./format.js";
import { prefer } from "./preferences.js";

const NAMES = { none: "No thinking", xhigh: "Extra high", max: "Maximum" };

export class Composer {
  #session;
  #box = byId("message");
  #button = byId("send");
  #effort = byId("effort");

  constructor(session) {
    this.#session = session;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (session.writing) this.#stop();
      else this.#send();
    });
    this.#box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!session.writing) this.#send();
    });
    this.#box.addEventListener("input", () => this.#show());
    if (!CSS.supports("field-sizing: content")) this.#box.addEventListener("input", () => this.#fit());
    this.#effort.addEventListener("change", () => this.#chooseEffort());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && session.writing && !document.querySelector("dialog[open]")) this.#stop();
    });
    for (const type of ["open", "change", "end"]) session.addEventListener(type, () => this.#show());
    session.addEventListener("open", () => this.#fresh());
    this.#fresh();
    this.#show();
  }

  focus() {
    this.#box.focus();
  }

  /** Puts `text` into the box and sends it. */
  ask(text) {
    this.#box.value = text;
    this.#send();
  }

  /** The efforts that the server takes; the first choice is to leave it to the server. */
  offer(efforts) {
    const chosen = this.#session.current.settings.effort ?? "";
    const option = (value, text) => el("option", { value, text });
    this.#effort.replaceChildren(
      option("", "Default"),
      ...efforts.map((value) => option(value, NAMES[value] ?? value[0].toUpperCase() + value.slice(1))),
    );
    this.#effort.value = efforts.includes(chosen) ? chosen : "";
  }

  #fresh() {
    this.#effort.value = this.#session.current.settings.effort ?? "";
    if (this.#effort.selectedIndex < 0) this.#effort.value = "";
  }

  #chooseEffort() {
    prefer("settings", { ...this.#session.current.settings, effort: this.#effort.value });
    this.#session.set({ effort: this.#effort.value });
  }

  #send() {
    const text = typed(this.#box.value);
    if (!text || this.#session.writing) return;
    this.#box.value = "";
    this.#box.style.height = "";
    this.#session.send(text);
  }

  /** As high as its text, in browsers whose style sheets cannot say so. */
  #fit() {
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
  }

  #stop() {
    this.#session.stop();
    this.focus();
  }

  #show() {
    const writing = this.#session.writing !== null;
    this.#button.replaceChildren(icon(writing ? "stop" : "send"));
    this.#button.setAttribute("aria-label", writing ? "Stop" : "Send");
    this.#button.title = writing ? "Stop (Esc)" : "Send (Enter)";
    this.#button.classList.toggle("stops", writing);
    this.#button.disabled = !writing && this.#box.value.trim() === "";
  }
}
