// The status view: what the server does now, and did in the last minutes.

import { byId, el } from "./dom.js";
import { bytes, count, duration, rate } from "./format.js";
import { Plot } from "./plot.js";
import { figureSeries, rateSeries, roundedUp } from "./series.js";

const WORDS = {
  ok: "Ready",
  loading: "Loading the model",
  draining: "Stopping",
  dead: "Failed",
  unreachable: "Cannot be reached",
  refused: "Asks for an API key",
};

/** A state of the server in words. */
export function stateInWords(state) {
  return WORDS[state] ?? state;
}

export class Status {
  #monitor;
  #context = null;
  #cards;

  constructor(monitor) {
    this.#monitor = monitor;
    this.#cards = {
      speed: new Card("Tokens a second", rate),
      slots: new Card("Answers", String, ["being written", "waiting"]),
      memory: new Card("Memory", bytes),
      cache: new Card("Prompt cache", bytes, ["in memory", "on disk"]),
    };
    byId("cards").append(...Object.values(this.#cards).map((card) => card.element));
    monitor.addEventListener("health", () => this.#show());
  }

  /** The model's card, for its context length. */
  set model(card) {
    this.#context = card?.context_length ?? null;
    this.#show();
  }

  #show() {
    const { newest, samples, watched } = this.#monitor;
    if (!watched || !newest) return;
    const figures = samples.findLast((sample) => sample.figures)?.figures ?? null;
    byId("status-state").textContent = newest.message ?? stateInWords(newest.state);
    byId("status-state").dataset.state = newest.state;
    if (figures) this.#draw(samples, newest.at, figures);
    this.#facts(figures, newest);
  }

  #draw(samples, now, figures) {
    const { speed, slots, memory, cache } = this.#cards;
    const written = rateSeries(samples, "generated");
    const fastest = Math.max(0, ...written.map(({ value }) => value ?? 0));
    const last = written.at(-1).value;
    speed.show(last === null ? "–" : rate(last), `at most ${rate(fastest)}`);
    speed.plot.draw([{ name: "Tokens a second", points: written }], now, roundedUp(Math.max(fastest, 10)));

    const active = figureSeries(samples, (each) => each.active);
    const queued = figureSeries(samples, (each) => each.queued);
    const most = Math.max(4, roundedUp(Math.max(...[...active, ...queued].map(({ value }) => value ?? 0))));
    slots.show(`${figures.active} of ${figures.slots}`, figures.queued ? `${figures.queued} waiting` : "nobody waits");
    slots.plot.draw([{ name: "Being written", points: active }, { name: "Waiting", points: queued }], now, most);

    const { active_bytes: used, peak_bytes: peak, limit_bytes: limit } = figures.memory ?? {};
    if (used !== undefined) {
      memory.show(bytes(used), `at most ${bytes(peak)} of ${bytes(limit)}`);
      const points = figureSeries(samples, (each) => each.memory?.active_bytes);
      memory.plot.draw([{ name: "Memory", points }], now, peak > limit / 4 ? limit : headroom(peak));
    }

    const held = figureSeries(samples, (each) => each.cache_bytes);
    const disk = figureSeries(samples, (each) => each.disk_cache_bytes);
    const largest = headroom(Math.max(...[...held, ...disk].map(({ value }) => value ?? 0)));
    cache.show(bytes(figures.cache_bytes), `${bytes(figures.disk_cache_bytes)} on disk`);
    cache.plot.draw([{ name: "In memory", points: held }, { name: "On disk", points: disk }], now, largest);
  }

  #facts(figures, { tokens }) {
    const rows = [];
    if (figures) {
      rows.push(["Model", figures.model ?? "–"]);
      if (this.#context) rows.push(["Context", `${count(this.#context)} tokens`]);
      rows.push(["Server", `mxserve ${figures.version}`]);
      rows.push(["Cached states", count(figures.cache_entries)]);
      if (figures.model_state) rows.push(["Weights", figures.model_state]);
      if (figures.uptime_s) rows.push(["Up for", duration(1000 * figures.uptime_s)]);
      const age = figures.last_step_age_s;
      rows.push(["Last step", age === null ? "idle" : `${duration(age * 1000)} ago`]);
    }
    if (tokens) {
      rows.push(["Generated since the start", `${count(tokens.generated)} tokens`]);
      rows.push(["Prompts since the start", `${count(tokens.prompt)} tokens`]);
      const part = tokens.prompt ? Math.round((100 * tokens.reused) / tokens.prompt) : 0;
      rows.push(["Of them reused", `${count(tokens.reused)} tokens, ${part} %`]);
    }
    const list = rows.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value })));
    byId("facts").replaceChildren(...list);
  }
}

/** The top of a scale of bytes. */
function headroom(largest) {
  return Math.max(1024, largest * 1.25);
}

/** A figure in large, a remark, and its plot. */
class Card {
  #value = el("p", { class: "value", text: "–" });
  #remark = el("p", { class: "remark" });

  constructor(title, format, names = []) {
    this.plot = new Plot(format);
    const legend = names.map((name, number) => el("span", { class: `key key-${number}`, text: name }));
    this.element = el(
      "section",
      { class: "card" },
      el("h2", {}, title, el("span", { class: "legend" }, legend)),
      this.#value,
      this.#remark,
      this.plot.element,
    );
  }

  show(value, remark) {
    this.#value.textContent = value;
    this.#remark.textContent = remark;
  }
}
