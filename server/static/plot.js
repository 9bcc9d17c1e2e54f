// A plot of the last minutes: lines over time in SVG, with its figures as text for who cannot see it.

import { el, svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 84;
const SPAN_MS = 180_000;
const GAP_MS = 20_000; // without samples the line is broken

export class Plot {
  #drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "Nothing yet" });
  #top = el("span", { class: "top" });
  #format;

  /** `format` makes a value text. */
  constructor(format) {
    this.#format = format;
    this.element = el(
      "div",
      { class: "plot" },
      this.#top,
      this.#drawing,
      el("div", { class: "axis", "aria-hidden": "true" }, el("span", { text: "3 min ago" }), el("span", { text: "now" })),
    );
  }

  /**
   * Draws `lines` ([{name, points: [{at, value}]}], the first one filled) up to `now`, between 0 and
   * `top`.
   */
  draw(lines, now, top) {
    this.#top.textContent = this.#format(top);
    const told = lines.map(({ name, points }) => {
      const known = points.filter(({ value }) => value !== null);
      if (!known.length) return `${name}: nothing yet`;
      const most = Math.max(...known.map(({ value }) => value));
      return `${name}: now ${this.#format(known.at(-1).value)}, at most ${this.#format(most)}`;
    });
    this.#drawing.setAttribute("aria-label", told.join("; "));
    const paths = lines.flatMap(({ points }, number) => {
      const runs = unbroken(points.filter(({ at }) => now - at <= SPAN_MS));
      return runs.flatMap((run) => {
        const spots = run.map(({ at, value }) => [
          WIDTH * (1 - (now - at) / SPAN_MS),
          (HEIGHT - 2) * (1 - Math.min(1, value / top)) + 1,
        ]);
        const line = `M${spots.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
        const drawn = svg("path", { d: line, class: `line line-${number}` });
        if (number > 0) return [drawn];
        const area = `${line}L${spots.at(-1)[0].toFixed(1)} ${HEIGHT}L${spots[0][0].toFixed(1)} ${HEIGHT}Z`;
        return [svg("path", { d: area, class: "area" }), drawn];
      });
    });
    const rules = [0.25, 0.5, 0.75].map((part) =>
      svg("path", { d: `M0 ${HEIGHT * part}H${WIDTH}`, class: "rule" }),
    );
    this.#drawing.replaceChildren(...rules, ...paths);
  }
}

/** Runs of known points without long gaps. */
function unbroken(points) {
  const runs = [];
  let last = null;
  for (const point of points) {
    if (point.value === null) {
      last = null;
      continue;
    }
    if (last === null || point.at - last.at > GAP_MS) runs.push([]);
    runs.at(-1).push(point);
    last = point;
  }
  return runs;
}
