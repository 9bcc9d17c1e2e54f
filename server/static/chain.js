// Spans in the order of a text, as a chain in which what lies between two can be put into another.

const MAX_DEPTH = 24; // of spans within spans

export class Chain {
  #first = null;
  last = null;

  /** Puts `node`, a plain object with a `type`, at the end; returns it. */
  append(node) {
    node.previous = this.last;
    node.next = null;
    if (this.last) this.last.next = node;
    else this.#first = node;
    this.last = node;
    return node;
  }

  /**
   * Puts what lies between two nodes (the end, where `after` is null) into `node`, which takes its
   * place; false where there is nothing, or where it would nest too deep.
   */
  wrap(before, after, node) {
    const first = before.next;
    if (first === after) return false;
    let depth = 0;
    for (let inner = first; inner !== after; inner = inner.next) {
      depth = Math.max(depth, inner.depth ?? 0);
      if (depth >= MAX_DEPTH) return false;
    }
    const last = after === null ? this.last : after.previous;
    first.previous = null;
    last.next = null;
    Object.assign(node, { first, depth: depth + 1, previous: before, next: after });
    before.next = node;
    if (after === null) this.last = node;
    else after.previous = node;
    return true;
  }

  /** The tree that parseInline returns. */
  list() {
    return listed(this.#first);
  }
}

/** Nodes from `first` on as a list, with neighbouring texts joined. */
function listed(first) {
  const nodes = [];
  for (let node = first; node; node = node.next) {
    const { type, text, url } = node;
    const last = nodes.at(-1);
    if (type === "text" && last?.type === "text") last.text += text;
    else if (type === "text" && text) nodes.push({ type, text });
    else if (type === "code" || type === "math") nodes.push({ type, text });
    else if (type === "break") nodes.push({ type });
    else if (type !== "text") {
      nodes.push({ type, ...(url ? { url } : {}), children: listed(node.first) });
    }
  }
  return nodes;
}
