// A conversation as a file: JSON with all its branches.

import { el } from "./dom.js";
import { titleOf } from "./tree.js";

/** Has the browser save `conversation`. */
export function exportConversation(conversation) {
  const title = titleOf(conversation);
  const kept = { format: "mxserve conversation 1", ...conversation, title };
  const blob = new Blob([JSON.stringify(kept, null, 2)], { type: "application/json" });
  const url = URL.createObjectURL(blob);
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";
  el("a", { href: url, download: `${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
