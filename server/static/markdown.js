// Markdown blocks: paragraphs, headings, code, quotes, lists, tables, rules. No DOM.
//
// What models write of CommonMark and GitHub's tables: no setext headings, no indented code, no
// reference links, and HTML is text. Spans inside a block are inline.js's affair.

const MAX_DEPTH = 12; // of quotes and lists; what is deeper is a paragraph
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|[ \t]*)$/;
const DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const BLANK = /^[ \t]*$/;
const TASK = /^\[([ xX])\][ \t]+/;

/**
 * The blocks of `text`, each with `raw`, its own source:
 * {type: "paragraph" | "heading" (level), text}, {type: "code", language, text, closed},
 * {type: "quote", blocks}, {type: "list", ordered, start, loose, items: [{blocks, checked}]},
 * {type: "table", align, head: [text], rows: [[text]]}, {type: "rule"}.
 */
export function parseBlocks(text) {
  return blocksOf(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocksOf(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (BLANK.test(lines[at])) {
      at += 1;
      continue;
    }
    const [block, end] = blockAt(lines, at, depth);
    block.raw = lines.slice(at, end).join("\n");
    blocks.push(block);
    at = end;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    return [{ type: "heading", level: heading[1].length, text: heading[2] ?? "" }, at + 1];
  }
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < MAX_DEPTH && itemAt(line)) return list(lines, at, depth);
  if (tableAt(lines, at)) return table(lines, at);
  let end = at + 1;
  while (end < lines.length && !interrupts(lines, end)) end += 1;
  return [{ type: "paragraph", text: lines.slice(at, end).join("\n").trim() }, end];
}

/** Whether line `at` ends a paragraph before it. */
function interrupts(lines, at) {
  const line = lines[at];
  const begins = [BLANK, FENCE, HEADING, RULE, QUOTE].some((pattern) => pattern.test(line));
  return begins || itemAt(line)?.text || tableAt(lines, at);
}

function code(lines, at, [, indent, fence, info]) {
  let end = at + 1;
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \\t]*$`);
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const inside = lines.slice(at + 1, end).map((line) => dedented(line, indent.length));
  const language = info.trim().split(/[\s{]/)[0].slice(0, 40);
  const closed = end < lines.length;
  const block = { type: "code", language, text: inside.join("\n"), closed };
  return [block, Math.min(end + 1, lines.length)];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && (QUOTE.test(lines[end]) || (end > at && !interrupts(lines, end)))) {
    end += 1;
  }
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", blocks: blocksOf(inside, depth + 1) }, end];
}

function itemAt(line) {
  const found = ITEM.exec(line);
  if (!found || RULE.test(line)) return null;
  const [, indent, marker, gap = " ", text = ""] = found;
  const ordered = marker.length > 1;
  const width = indent.length + marker.length + (gap.length > 4 ? 1 : gap.length);
  return { indent: indent.length, width, ordered, kind: marker.at(-1), number: parseInt(marker, 10), text };
}

function list(lines, at, depth) {
  const first = itemAt(lines[at]);
  const items = [];
  let loose = false;
  let end = at;
  while (end < lines.length) {
    const item = itemAt(lines[end]);
    if (!item || item.kind !== first.kind || item.indent > first.indent + 3) break;
    const next = itemEnd(lines, end, item);
    const inside = lines.slice(end, next.end).map((line) => dedented(line, item.width));
    inside[0] = lines[end].slice(item.width);
    const task = TASK.exec(inside[0]);
    if (task) inside[0] = inside[0].slice(task[0].length);
    const checked = task ? task[1] !== " " : null;
    items.push({ blocks: blocksOf(inside, depth + 1), checked });
    loose ||= inside.some((line, number) => BLANK.test(line) && number > 0 && number < inside.length - 1);
    loose ||= next.blank && lines[next.resume] !== undefined && itemAt(lines[next.resume])?.kind === first.kind;
    end = next.resume;
    if (next.blank && itemAt(lines[end] ?? "")?.kind !== first.kind) {
      end = next.end;
      break;
    }
  }
  const start = first.ordered ? first.number : null;
  return [{ type: "list", ordered: first.ordered, start, loose, items }, end];
}

/** Where the item that begins at `at` ends, and where what follows its blank lines begins. */
function itemEnd(lines, at, item) {
  let end = at + 1;
  let blank = false;
  for (let next = at + 1; next < lines.length; next += 1) {
    const line = lines[next];
    if (BLANK.test(line)) {
      blank = true;
      continue;
    }
    const indent = line.search(/[^ ]/);
    // Models indent what is nested by two as often as by the marker's width.
    const nested = indent >= item.width || (indent >= item.indent + 2 && itemAt(line));
    if (!nested && (blank || interrupts(lines, next))) return { end, resume: next, blank };
    end = next + 1;
    blank = false;
  }
  return { end, resume: end, blank: false };
}

function dedented(line, width) {
  let spaces = 0;
  while (spaces < width && line[spaces] === " ") spaces += 1;
  return line.slice(spaces);
}

function tableAt(lines, at) {
  const next = lines[at + 1];
  if (next === undefined || !lines[at].includes("|") || !next.includes("-")) return false;
  return DELIMITER.test(next) && cells(lines[at]).length === cells(next).length;
}

function table(lines, at) {
  const head = cells(lines[at]);
  const align = cells(lines[at + 1]).map((cell) => {
    const left = cell.startsWith(":");
    const right = cell.endsWith(":");
    return left && right ? "center" : right ? "right" : left ? "left" : null;
  });
  const rows = [];
  let end = at + 2;
  while (end < lines.length && !BLANK.test(lines[end]) && lines[end].includes("|")) {
    const row = cells(lines[end]);
    rows.push(head.map((_, column) => row[column] ?? ""));
    end += 1;
  }
  return [{ type: "table", align, head, rows }, end];
}

/** A row's cells: bars in code or behind a backslash divide nothing. */
function cells(line) {
  const found = [];
  let cell = "";
  let ticked = false;
  const inner = line.trim().replace(/^\|/, "");
  for (let at = 0; at < inner.length; at += 1) {
    const char = inner[at];
    if (char === "\\" && inner[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (char === "|" && !ticked) {
      found.push(cell.trim());
      cell = "";
    } else {
      if (char === "`" && (ticked || inner.includes("`", at + 1))) ticked = !ticked;
      cell += char;
    }
  }
  if (cell.trim() || !inner.endsWith("|")) found.push(cell.trim());
  return found;
}
