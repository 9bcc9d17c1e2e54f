// Markdown inside a block: emphasis, code, links, math. Makes a tree of plain objects, no DOM.
//
// Emphasis follows CommonMark's delimiter runs. Nothing that a text holds can make this take more
// than about linear time.

import { Chain } from "./chain.js";

const SPECIAL = /[\\`*_~[\]!<&$\n]|h(?=ttps?:\/\/)/g;
const PUNCTUATION = /[!-/:-@[-`{-~]|[\p{P}\p{S}]/u;
const SPACE = /\s/;
const WORD = /[\p{L}\p{N}_]/u;
const TARGET =
  /\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\<]|\\.|\((?:[^\s()\\]|\\.)*\))*))(?:\s+(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))?\s*\)/sy;
const ANGLED = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const BARE = /https?:\/\/[^\s<>"`]+/y;
const ENTITY = /&(amp|lt|gt|quot|apos|nbsp|#39);/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", "#39": "'" };
const MATH_LIKE = /[\\^_{}=+<>]|^[A-Za-z]$/;

/**
 * `text` as a list of nodes: {type: "text" | "code" | "math", text}, {type: "break"},
 * {type: "strong" | "emphasis" | "deleted", children}, {type: "link", url, children}. A link whose
 * address is not allowed stays text.
 */
export function parseInline(text) {
  return new Inline(text).parse();
}

/** `url` where it is absolute and http, https or mailto; else null. */
export function safeUrl(url) {
  try {
    const parsed = new URL(url.trim());
    return ["http:", "https:", "mailto:"].includes(parsed.protocol) ? parsed.href : null;
  } catch {
    return null;
  }
}

class Inline {
  #text;
  #at = 0;
  #chain = new Chain();
  #runs = []; // delimiter runs that may still open or close something
  #brackets = [];
  #missing = new Set(); // closers of which there is none any more

  constructor(text) {
    this.#text = text;
  }

  parse() {
    while (this.#at < this.#text.length) this.#step();
    this.#emphasis(0);
    return this.#chain.list();
  }

  #step() {
    const text = this.#text;
    SPECIAL.lastIndex = this.#at;
    const found = SPECIAL.exec(text);
    const next = found ? found.index : text.length;
    if (next > this.#at) this.#plain(text.slice(this.#at, next));
    this.#at = next;
    if (found && !this.#special(found[0])) {
      this.#plain(found[0]);
      this.#at += 1;
    }
  }

  /** Handles what begins with `char`; false where it begins nothing. */
  #special(char) {
    switch (char) {
      case "\\":
        return this.#escape();
      case "`":
        return this.#code();
      case "*":
      case "_":
      case "~":
        return this.#run(char);
      case "[":
        return this.#open("[");
      case "!":
        return this.#text[this.#at + 1] === "[" && this.#open("![");
      case "]":
        return this.#close();
      case "<":
        return this.#angled();
      case "&":
        return this.#entity();
      case "$":
        return this.#dollar();
      case "h":
        return this.#bare();
      default:
        return this.#newline();
    }
  }

  #escape() {
    const next = this.#text[this.#at + 1];
    if (next === "(" && this.#enclosed("\\(", "\\)")) return true;
    if (next === "[" && this.#enclosed("\\[", "\\]")) return true;
    if (next === "\n") return this.#emit({ type: "break" }, 2);
    if (next === undefined || !/[!-/:-@[-`{-~]/.test(next)) return false;
    this.#plain(next);
    this.#at += 2;
    return true;
  }

  #enclosed(open, close) {
    const from = this.#at + open.length;
    const end = this.#find(close, from);
    if (end <= from) return false;
    return this.#emit({ type: "math", text: this.#text.slice(from, end) }, end + close.length - this.#at);
  }

  #dollar() {
    if (this.#text.startsWith("$$", this.#at)) return this.#enclosed("$$", "$$");
    const end = this.#find("$", this.#at + 1);
    const inside = end < 0 ? "" : this.#text.slice(this.#at + 1, end);
    const price = /\d/.test(this.#text[end + 1] ?? "") || inside.includes("\n");
    if (price || !MATH_LIKE.test(inside) || inside.trim() !== inside) return false;
    return this.#emit({ type: "math", text: inside }, end + 1 - this.#at);
  }

  #code() {
    const fence = /`+/y;
    fence.lastIndex = this.#at;
    const [ticks] = fence.exec(this.#text);
    let end = this.#at;
    for (;;) {
      end = this.#find(ticks, end + ticks.length);
      if (end < 0) break;
      fence.lastIndex = end;
      const run = fence.exec(this.#text)[0].length;
      if (run === ticks.length) break;
      end += run - ticks.length;
    }
    if (end < 0) {
      this.#missing.add(ticks);
      this.#plain(ticks);
      this.#at += ticks.length;
      return true;
    }
    let inside = this.#text.slice(this.#at + ticks.length, end).replaceAll("\n", " ");
    if (/^ .*[^ ].* $/s.test(inside) || /^ [^ ] $/.test(inside)) inside = inside.slice(1, -1);
    return this.#emit({ type: "code", text: inside }, end + ticks.length - this.#at);
  }

  #find(what, from) {
    if (this.#missing.has(what)) return -1;
    const index = this.#text.indexOf(what, from);
    if (index < 0) this.#missing.add(what);
    return index;
  }

  #run(char) {
    let end = this.#at;
    while (this.#text[end] === char) end += 1;
    const length = end - this.#at;
    if (char === "~" && length !== 2) {
      this.#plain(char.repeat(length));
      this.#at = end;
      return true;
    }
    const before = this.#text[this.#at - 1] ?? " ";
    const after = this.#text[end] ?? " ";
    const left = !SPACE.test(after) && (!PUNCTUATION.test(after) || SPACE.test(before) || PUNCTUATION.test(before));
    const right = !SPACE.test(before) && (!PUNCTUATION.test(before) || SPACE.test(after) || PUNCTUATION.test(after));
    const strict = char === "_"; // not inside words
    const node = this.#chain.append({ type: "text", text: char.repeat(length) });
    this.#runs.push({
      node,
      char,
      length,
      opens: left && (!strict || !right || PUNCTUATION.test(before)),
      closes: right && (!strict || !left || PUNCTUATION.test(after)),
    });
    this.#at = end;
    return true;
  }

  /** Pairs the runs from number `bottom` on, innermost first, and forgets them. */
  #emphasis(bottom) {
    const runs = this.#runs;
    const open = []; // numbers of runs that may open, in order
    const floor = new Map(); // where looking for an opener was in vain, by kind of closer
    for (let at = bottom; at < runs.length; at += 1) {
      const closer = runs[at];
      while (closer.closes && closer.length > 0) {
        const kind = `${closer.char}${closer.opens}${closer.length % 3}`;
        const lowest = floor.get(kind) ?? 0;
        let depth = open.length - 1;
        while (depth >= lowest && !pairs(runs[open[depth]], closer)) depth -= 1;
        if (depth < lowest) {
          floor.set(kind, open.length);
          break;
        }
        const opener = runs[open[depth]];
        open.length = depth + 1; // what is between them opens nothing any more
        for (const [key, height] of floor) floor.set(key, Math.min(height, open.length));
        const size = closer.char === "~" || (opener.length >= 2 && closer.length >= 2) ? 2 : 1;
        const type = closer.char === "~" ? "deleted" : size === 2 ? "strong" : "emphasis";
        if (!this.#chain.wrap(opener.node, closer.node, { type })) {
          open.length = 0; // those further out hold the same depths
          floor.clear();
          break;
        }
        for (const run of [opener, closer]) {
          run.length -= size;
          run.node.text = run.char.repeat(run.length);
        }
        if (opener.length === 0) open.pop();
      }
      if (closer.opens && closer.length > 0) open.push(at);
    }
    runs.length = bottom;
  }

  #open(marker) {
    const node = this.#chain.append({ type: "text", text: marker });
    this.#brackets.push({ node, runs: this.#runs.length, image: marker === "![", active: true });
    this.#at += marker.length;
    return true;
  }

  #close() {
    const bracket = this.#brackets.pop();
    if (!bracket?.active) return false;
    TARGET.lastIndex = this.#at + 1;
    const found = TARGET.exec(this.#text);
    const url = found && safeUrl((found[1] ?? found[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1"));
    if (!url || bracket.node === this.#chain.last) return false;
    this.#emphasis(bracket.runs);
    // An image becomes a link to it: the page loads nothing from elsewhere.
    if (!this.#chain.wrap(bracket.node, null, { type: "link", url })) return false;
    bracket.node.text = "";
    if (!bracket.image) for (const outer of this.#brackets) outer.active = false;
    this.#at = TARGET.lastIndex;
    return true;
  }

  #angled() {
    ANGLED.lastIndex = this.#at;
    const found = ANGLED.exec(this.#text);
    const url = found && safeUrl(found[1]);
    if (!url) return false;
    return this.#link(url, found[1].replace(/^mailto:/, ""), found[0].length);
  }

  #bare() {
    if (WORD.test(this.#text[this.#at - 1] ?? " ")) return false;
    BARE.lastIndex = this.#at;
    let shown = BARE.exec(this.#text)?.[0];
    if (!shown) return false;
    let end = shown.length;
    let unopened = shown.split(")").length - shown.split("(").length;
    while (end > 0) {
      const last = shown[end - 1];
      if (last === ")" && unopened > 0) unopened -= 1;
      else if (!/[.,;:!?'"*_~\]]/.test(last)) break;
      end -= 1;
    }
    shown = shown.slice(0, end);
    const url = safeUrl(shown);
    return url !== null && this.#link(url, shown, shown.length);
  }

  #link(url, text, length) {
    const inner = { type: "text", text, previous: null, next: null };
    return this.#emit({ type: "link", url, first: inner, depth: 1 }, length);
  }

  #entity() {
    ENTITY.lastIndex = this.#at;
    const found = ENTITY.exec(this.#text);
    if (!found) return false;
    this.#plain(ENTITIES[found[1]]);
    this.#at += found[0].length;
    return true;
  }

  #newline() {
    const last = this.#chain.last;
    if (last?.type === "text") last.text = last.text.replace(/ +$/, "");
    this.#emit({ type: "break" }, 1);
    while (this.#text[this.#at] === " ") this.#at += 1;
    return true;
  }

  #plain(text) {
    this.#chain.append({ type: "text", text });
  }

  #emit(node, length) {
    this.#chain.append(node);
    this.#at += length;
    return true;
  }
}

/** CommonMark's rule of three: runs that both open and close pair by their lengths. */
function pairs(opener, closer) {
  if (opener.char !== closer.char) return false;
  if (closer.char === "~") return true;
  if (!opener.closes && !closer.opens) return true;
  if ((opener.length + closer.length) % 3 !== 0) return true;
  return opener.length % 3 === 0 && closer.length % 3 === 0;
}
