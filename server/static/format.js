// Figures and texts as people read and write them. No DOM.

const COUNT = new Intl.NumberFormat("en");

/** What a person typed without the blank lines around it; a first line keeps its indent. */
export function typed(text) {
  return text.trimEnd().replace(/^(?:[ \t]*\n)+/, "");
}

/** 12345 -> 12,345 */
export function count(number) {
  return COUNT.format(number);
}

/** Milliseconds -> 320 ms, 4.1 s, 2 min 5 s, 3 h 20 min, 4 d 3 h */
export function duration(ms) {
  if (ms < 950) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Bytes -> 1.5 GiB */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = number < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(number) / 10));
  const value = number / 1024 ** power;
  return `${power === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[power]}`;
}

/** Tokens a second -> 41.2 */
export function rate(number) {
  return number >= 100 ? count(Math.round(number)) : number.toFixed(1);
}
