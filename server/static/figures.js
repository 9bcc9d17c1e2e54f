// The line of figures under an answer: tokens, speed, what the prompt cache saved; more when opened.

import { tokensPerSecond } from "./answer.js";
import { el } from "./dom.js";
import { count, duration, rate } from "./format.js";

/** A <details> for the answer, or null where nothing is known of it. */
export function figuresNode(answer) {
  const { usage, cache, times } = answer;
  if (!usage) return null;
  const speed = tokensPerSecond(answer);
  const told = [`${count(usage.completion_tokens)} tokens`];
  if (speed !== null) told.push(`${rate(speed)} tok/s`);
  if (cache) told.push(reuse(cache));
  if (answer.state === "writing") return el("p", { class: "figures", text: told.join(" · ") });
  const rows = [
    ["Prompt", `${count(usage.prompt_tokens)} tokens`],
    ["From the cache", `${count(cached(answer))} tokens`],
    ["Answer", `${count(usage.completion_tokens)} tokens`],
  ];
  const thought = usage.completion_tokens_details?.reasoning_tokens;
  if (thought) {
    const cut = usage.completion_tokens_details.thinking_cut ? ", cut by the effort's budget" : "";
    rows.push(["Of it thought", `${count(thought)} tokens${cut}`]);
  }
  if (times.first !== null) rows.push(["First token after", duration(times.first)]);
  if (speed !== null) rows.push(["Speed", `${rate(speed)} tokens a second`]);
  if (cache?.diverged) rows.push(["Cache", divergence(cache.diverged)]);
  if (answer.effort) rows.push(["Effort", answer.effort]);
  if (answer.model) rows.push(["Model", answer.model]);
  return el(
    "details",
    { class: "figures" },
    el("summary", { text: told.join(" · ") }),
    el("dl", {}, rows.map(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })])),
  );
}

function cached({ usage, cache }) {
  return usage.prompt_tokens_details?.cached_tokens ?? cache?.reused_tokens ?? 0;
}

function reuse({ reused_tokens: reused, prefilled_tokens: prefilled }) {
  return `${count(reused)} of ${count(reused + prefilled)} reused`;
}

function divergence({ message, change }) {
  const where = message === null ? "" : ` at message ${message}`;
  if (change === "evicted") return `no longer held${where}`;
  return `differs from what is held${where}${change ? ` (${change})` : ""}`;
}
