// A conversation as a tree of messages: editing and regenerating add branches, nothing is lost. No DOM.

export const ROOT = "root";

/** An empty conversation. `settings` is kept with it; times are in milliseconds since 1970. */
export function newConversation(settings, now = Date.now()) {
  const root = { id: ROOT, parent: null, children: [], chosen: null };
  return { id: newId(), title: "", created: now, updated: now, settings: { ...settings }, nodes: { [ROOT]: root } };
}

/** 16 random bytes in hexadecimal; crypto.randomUUID exists only where the page came over TLS. */
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** Adds `message` ({role, content, ...}) under `parent` and chooses it. Returns its node. */
export function append(conversation, parent, message) {
  const node = { ...message, id: newId(), parent, children: [], chosen: null };
  conversation.nodes[node.id] = node;
  conversation.nodes[parent].children.push(node.id);
  conversation.nodes[parent].chosen = node.id;
  return node;
}

/** The messages that are shown: from the first along the chosen branches to the last. */
export function chosenPath(conversation) {
  const path = [];
  for (let at = conversation.nodes[ROOT].chosen; at; at = conversation.nodes[at].chosen) {
    path.push(conversation.nodes[at]);
  }
  return path;
}

/** The messages from the first to node `id`, which is the last of them. */
export function history(conversation, id) {
  const path = [];
  for (let at = id; at !== ROOT; at = conversation.nodes[at].parent) path.unshift(conversation.nodes[at]);
  return path;
}

/** The end of the chosen path: where the next message goes. */
export function leaf(conversation) {
  return chosenPath(conversation).at(-1)?.id ?? ROOT;
}

/** Which of how many versions node `id` is: {index, count}, index from 0. */
export function versions(conversation, id) {
  const { children } = conversation.nodes[conversation.nodes[id].parent];
  return { index: children.indexOf(id), count: children.length };
}

/** Chooses the version of node `id` that is `step` further (or back); returns the one chosen. */
export function chooseVersion(conversation, id, step) {
  const parent = conversation.nodes[conversation.nodes[id].parent];
  const at = parent.children.indexOf(id) + step;
  parent.chosen = parent.children[Math.max(0, Math.min(parent.children.length - 1, at))];
  return parent.chosen;
}

/** A title for a conversation that has none: the beginning of its first message. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = chosenPath(conversation)[0]?.content.trim().replace(/\s+/g, " ") ?? "";
  return first.length > 60 ? `${first.slice(0, 59).trimEnd()}…` : first || "New conversation";
}

/** Takes node `id` and what follows it away; the version before it is chosen. */
export function discard(conversation, id) {
  const parent = conversation.nodes[conversation.nodes[id].parent];
  parent.children = parent.children.filter((child) => child !== id);
  if (parent.chosen === id) parent.chosen = parent.children.at(-1) ?? null;
  const gone = [id];
  while (gone.length) {
    const node = conversation.nodes[gone.pop()];
    gone.push(...node.children);
    delete conversation.nodes[node.id];
  }
}
