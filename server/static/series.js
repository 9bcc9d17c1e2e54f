// What the plots show, out of the monitor's samples. No DOM.

const SMOOTHED_MS = 3000; // over which a rate is taken

/** One figure over time: [{at, value}]; null is a gap. `pick` takes the figures of /health. */
export function figureSeries(samples, pick) {
  return samples.map(({ at, figures }) => ({ at, value: figures ? (pick(figures) ?? null) : null }));
}

/** A counter's increase in a second over time; `name` is one of those of `tokens`. */
export function rateSeries(samples, name) {
  let first = 0;
  return samples.map(({ at, tokens }, index) => {
    while (at - samples[first].at > SMOOTHED_MS && first < index - 1) first += 1;
    const before = samples[first];
    if (!tokens || !before.tokens || first === index) return { at, value: null };
    const gained = tokens[name] - before.tokens[name];
    // A counter that went back belongs to a server that was started again.
    return { at, value: gained < 0 ? null : (gained * 1000) / (at - before.at) };
  });
}

/** The next of 1, 2, 5, 10, ... times a power of ten that is at least `value`: the top of a scale. */
export function roundedUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= value * (1 - 1e-9));
}
