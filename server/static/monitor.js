// How the server is, asked for as often as somebody looks. No DOM but the page's visibility.

import { ApiError, health, tokenCounters } from "./api.js";

const WATCHED_MS = 1000; // while the status is shown
const QUIET_MS = 15000;
const BUSY_MS = 2000; // while answers are written, so that their end is seen
const TROUBLED_MS = 2000; // while it cannot serve
const KEPT = 300; // samples

/**
 * Tells by "health" events, whose `detail` is the newest sample: {at, state, figures, message, tokens}.
 * `state` is what /health says (ok, loading, draining, dead), "unreachable", or "refused" (no key);
 * `at` is in ms of performance.now(); `figures` are those of /health, or null; `tokens` are those of
 * /metrics, or null, and only while watched.
 */
export class Monitor extends EventTarget {
  samples = [];
  watched = false;
  #timer = null;
  #asking = false;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => this.check());
  }

  get newest() {
    return this.samples.at(-1) ?? null;
  }

  /** Whether figures come every second, or only now and then. */
  watch(watched) {
    this.watched = watched;
    this.check();
  }

  /** Asks now, and from then on again and again. */
  async check() {
    clearTimeout(this.#timer);
    if (document.hidden || this.#asking) return;
    this.#asking = true;
    const sample = await ask();
    if (this.watched && sample.figures) sample.tokens = await tokenCounters();
    this.#asking = false;
    this.samples.push(sample);
    if (this.samples.length > KEPT) this.samples.shift();
    this.dispatchEvent(new CustomEvent("health", { detail: sample }));
    if (sample.state === "refused") return; // until there is another key
    this.#timer = setTimeout(() => this.check(), this.#wait(sample));
  }

  #wait({ state, figures }) {
    if (state !== "ok") return TROUBLED_MS;
    if (this.watched) return WATCHED_MS;
    return figures.active ? BUSY_MS : QUIET_MS;
  }
}

async function ask() {
  const at = performance.now();
  try {
    const figures = await health();
    return { at, state: figures.status, figures, message: figures.reason ?? null, tokens: null };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const state = error.status === 401 ? "refused" : "unreachable";
    return { at, state, figures: null, message: error.message, tokens: null };
  }
}
