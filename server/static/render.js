// Markdown as DOM nodes. Text of a model becomes text nodes, never markup.

import { el, icon } from "./dom.js";
import { highlighted } from "./highlight.js";
import { parseInline } from "./inline.js";
import { parseBlocks } from "./markdown.js";

const shown = new WeakMap(); // container -> the sources of its children, one each

/**
 * Makes `container` show `text`. What a longer text has in common with the last one keeps its nodes,
 * so that a growing answer can be selected, and its code copied, while it is written.
 * Returns how many blocks are complete: all but the last.
 */
export function renderMarkdown(container, text) {
  const blocks = parseBlocks(text);
  const before = shown.get(container) ?? [];
  let same = 0;
  while (same < before.length && before[same] === blocks[same]?.raw) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of blocks.slice(same)) container.append(blockNode(block));
  shown.set(container, blocks.map((block) => block.raw));
  return blocks.length - 1;
}

function blockNode(block) {
  switch (block.type) {
    case "heading": // the page's own headings come first
      return el(`h${Math.min(6, block.level + 2)}`, {}, spans(block.text));
    case "code":
      return codeNode(block);
    case "quote":
      return el("blockquote", {}, block.blocks.map(blockNode));
    case "list":
      return listNode(block);
    case "table":
      return tableNode(block);
    case "rule":
      return el("hr");
    default:
      return el("p", {}, spans(block.text));
  }
}

function codeNode({ language, text }) {
  const code = el("code");
  for (const piece of highlighted(text, language)) {
    code.append(piece.kind ? el("span", { class: `code-${piece.kind}`, text: piece.text }) : piece.text);
  }
  const name = language || "text";
  return el(
    "div",
    { class: "code" },
    el("div", { class: "code-head" }, el("span", { text: name }), copyButton(() => text, "Copy code")),
    el("pre", { tabindex: 0, role: "region", "aria-label": `Code, ${name}` }, code),
  );
}

function listNode({ ordered, start, loose, items }) {
  const list = el(ordered ? "ol" : "ul", {
    class: loose ? "loose" : null,
    start: ordered && start !== 1 ? start : null,
  });
  for (const { blocks, checked } of items) {
    const item = el("li", { class: checked === null ? null : "task" });
    if (checked !== null) {
      item.append(
        el("input", { type: "checkbox", disabled: true, checked, "aria-label": checked ? "Done" : "To do" }),
      );
    }
    for (const [number, block] of blocks.entries()) {
      if (block.type === "paragraph" && !loose) {
        if (number > 0) item.append(el("br"));
        item.append(...spans(block.text));
      } else item.append(blockNode(block));
    }
    list.append(item);
  }
  return list;
}

function tableNode({ align, head, rows }) {
  const cell = (tag) => (text, column) =>
    el(tag, { class: align[column] ? `to-${align[column]}` : null, scope: tag === "th" ? "col" : null }, spans(text));
  const table = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, head.map(cell("th")))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell("td"))))),
  );
  return el("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Table" }, table);
}

function spans(text) {
  return parseInline(text).map(spanNode);
}

function spanNode(span) {
  switch (span.type) {
    case "code":
      return el("code", { text: span.text });
    case "math":
      return el("code", { class: "math", text: span.text });
    case "break":
      return el("br");
    case "strong":
      return el("strong", {}, span.children.map(spanNode));
    case "emphasis":
      return el("em", {}, span.children.map(spanNode));
    case "deleted":
      return el("del", {}, span.children.map(spanNode));
    case "link":
      return el(
        "a",
        { href: span.url, target: "_blank", rel: "noopener noreferrer nofollow" },
        span.children.map(spanNode),
      );
    default:
      return document.createTextNode(span.text);
  }
}

/** A button that puts `text()` on the clipboard and says so for a moment. */
export function copyButton(text, label, attributes = {}) {
  const button = el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, ...attributes }, icon("copy"));
  button.addEventListener("click", async () => {
    const copied = await toClipboard(text());
    button.replaceChildren(icon(copied ? "check" : "close"));
    button.setAttribute("aria-label", copied ? "Copied" : "Not copied");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text); // there is none where the page came without TLS
    return true;
  } catch {
    const area = el("textarea", { class: "hidden-area", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
