// What this browser remembers besides conversations: theme, last settings, API key.

const NAME = "mxserve";
const KEY = "mxserve-key";
let kept = read();

function read() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? {};
  } catch {
    return {};
  }
}

/** A remembered value, or `otherwise`. */
export function preference(name, otherwise = null) {
  return kept[name] ?? otherwise;
}

/** Remembers a value, where the browser lets a page keep anything. */
export function prefer(name, value) {
  kept = { ...kept, [name]: value };
  attempt(() => localStorage.setItem(NAME, JSON.stringify(kept)));
}

let key = attempt(() => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY)) ?? "";

/** The API key; "" is none. */
export function apiKey() {
  return key;
}

/** Takes a key for this tab, or for this browser where it is to be remembered. */
export function useKey(value, remember) {
  key = value;
  attempt(() => {
    sessionStorage.setItem(KEY, value);
    if (remember && value) localStorage.setItem(KEY, value);
    else localStorage.removeItem(KEY);
  });
}

function attempt(work) {
  try {
    return work();
  } catch {
    return null; // a browser that keeps nothing: then it lasts as long as the page
  }
}
