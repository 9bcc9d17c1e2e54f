import assert from "node:assert/strict";
import test from "node:test";

import { parseInline, safeUrl } from "../../../server/static/inline.js";
import { parseBlocks } from "../../../server/static/markdown.js";

/** A tree of spans in one line: strong is S(...), and so on. */
function told(spans) {
  return spans
    .map((span) => {
      if (span.type === "text") return span.text;
      if (span.type === "break") return "|";
      if (span.type === "code" || span.type === "math") return `${span.type}<${span.text}>`;
      const name = { strong: "S", emphasis: "E", deleted: "D", link: `L[${span.url}]` }[span.type];
      return `${name}(${told(span.children)})`;
    })
    .join("");
}

const SPANS = [
  ["plain", "plain"],
  ["*a* _b_ **c** __d__ ~~e~~", "E(a) E(b) S(c) S(d) D(e)"],
  ["***both***", "E(S(both))"],
  ["**a *b* c**", "S(a E(b) c)"],
  ["*a **b** c*", "E(a S(b) c)"],
  ["snake_case_name and 2*3*4", "snake_case_name and 2E(3)4"],
  ["a * b * c", "a * b * c"],
  ["**open", "**open"],
  ["*a **b*", "*a *E(b)"],
  ["\\*not\\* \\_this\\_", "*not* _this_"],
  ["`a*b*` and ``c`d``", "code<a*b*> and code<c`d>"],
  ["`open *a*", "`open E(a)"],
  ["one\ntwo  \nthree\\\nfour", "one|two|three|four"],
  ["[t](https://a.example/x)", "L[https://a.example/x](t)"],
  ['[t](<https://a.example/x y> "title")', "L[https://a.example/x%20y](t)"],
  ["[**t** `c`](https://a.example)", "L[https://a.example/](S(t) code<c>)"],
  ["[a [b](https://b.example) c](https://a.example)", "[a L[https://b.example/](b) c](L[https://a.example/](https://a.example))"],
  ["![alt](https://a.example/i.png)", "L[https://a.example/i.png](alt)"],
  ["<https://a.example> <mailto:a@b.example>", "L[https://a.example/](https://a.example) L[mailto:a@b.example](a@b.example)"],
  ["see https://a.example/x_(y)). Then", "see L[https://a.example/x_(y)](https://a.example/x_(y))). Then"],
  ["xhttps://a.example", "xhttps://a.example"],
  ["&lt;b&gt; &amp; &copy;", "<b> & &copy;"],
  ["\\(x_1 * y_2\\) and $a_1 + b$ but $5 and $6", "math<x_1 * y_2> and math<a_1 + b> but $5 and $6"],
  ["$$\\sum_i x_i$$", "math<\\sum_i x_i>"],
  ["<b>no</b> <script>alert(1)</script>", "<b>no</b> <script>alert(1)</script>"],
  ["[x](javascript:alert(1))", "[x](javascript:alert(1))"],
  ["[x](data:text/html,hi) [y](/relative) [z](//evil.example)", "[x](data:text/html,hi) [y](/relative) [z](//evil.example)"],
];

for (const [text, expected] of SPANS) {
  test(`spans of ${JSON.stringify(text)}`, () => assert.equal(told(parseInline(text)), expected));
}

test("addresses", () => {
  for (const bad of [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "\u0000javascript:x",
    "vbscript:x", "data:text/html,x", "blob:https://a.example/1", "file:///etc/passwd", "//a.example", "/a", "a", "",
  ]) assert.equal(safeUrl(bad), null, bad);
  assert.equal(safeUrl("HTTPS://A.example"), "https://a.example/");
  assert.equal(safeUrl("mailto:a@b.example"), "mailto:a@b.example");
});

function shape(blocks) {
  return blocks.map((block) => {
    if (block.type === "heading") return `h${block.level}:${block.text}`;
    if (block.type === "code") return `code(${block.language}${block.closed ? "" : ",open"}):${block.text}`;
    if (block.type === "quote") return ["quote", ...shape(block.blocks)];
    if (block.type === "list") {
      const name = `${block.ordered ? `ol${block.start}` : "ul"}${block.loose ? ",loose" : ""}`;
      return [name, ...block.items.map(({ blocks, checked }) => [...(checked === null ? [] : [checked]), ...shape(blocks)])];
    }
    if (block.type === "table") return ["table", block.align, block.head, ...block.rows];
    return block.type === "rule" ? "rule" : block.text;
  });
}

const BLOCKS = [
  ["", []],
  ["a\nb\n\nc", ["a\nb", "c"]],
  ["# One\n## Two ##\n#no\n####### seven", ["h1:One", "h2:Two", "#no\n####### seven"]],
  ["text\n---\n***\n_ _ _", ["text", "rule", "rule", "rule"]],
  ["```py title\na = 1\n\n# b\n```\nafter", ["code(py):a = 1\n\n# b", "after"]],
  ["~~~\n```\n~~~", ["code():```"]],
  ["````md\n```js\nx\n```\n````", ["code(md):```js\nx\n```"]],
  ["before\n```js\nunfinished", ["before", "code(js,open):unfinished"]],
  ["> a\nb\n> > c", [["quote", "a\nb", ["quote", "c"]]]],
  ["- a\n- b\n  more\n- c", [["ul", ["a"], ["b\nmore"], ["c"]]]],
  ["1. a\n2. b\n\n   p", [["ol1,loose", ["a"], ["b", "p"]]]],
  ["3) a\n4) b", [["ol3", ["a"], ["b"]]]],
  ["- a\n  - b\n    - c\n- d", [["ul", ["a", ["ul", ["b", ["ul", ["c"]]]]], ["d"]]]],
  ["1. a\n  - b\n2. c", [["ol1", ["a", ["ul", ["b"]]], ["c"]]]],
  ["- a\n\n- b\n\ntext", [["ul,loose", ["a"], ["b"]], "text"]],
  ["- [ ] a\n- [x] b", [["ul", [false, "a"], [true, "b"]]]],
  ["- a\n  ```sh\n  ls\n  ```\n- b", [["ul", ["a", "code(sh):ls"], ["b"]]]],
  ["* a\n- b", [["ul", ["a"]], ["ul", ["b"]]]],
  ["| a | b |\n|:--|--:|\n| 1 | `x|y` |\n| 2 \\| 3 |", [["table", ["left", "right"], ["a", "b"], ["1", "`x|y`"], ["2 | 3", ""]]]],
  ["a | b\n- | :-:\n1 | 2 | 3\n\nend", [["table", [null, "center"], ["a", "b"], ["1", "2"]], "end"]],
  ["a | b\n---", ["a | b", "rule"]],
  ["text\n| a |\n|---|\n| 1 |", ["text", ["table", [null], ["a"], ["1"]]]],
  ["- ", [["ul", []]]],
  ["a\r\nb\rc", ["a\nb\nc"]],
];

for (const [text, expected] of BLOCKS) {
  test(`blocks of ${JSON.stringify(text)}`, () => assert.deepEqual(shape(parseBlocks(text)), expected));
}

test("a growing text keeps its finished blocks", () => {
  const text = "# T\n\none *two*\n\n- a\n- b\n\n```js\nx = 1\n```\n\n| a |\n|---|\n| 1 |\n\nend";
  const whole = parseBlocks(text).map(({ raw }) => raw);
  for (let length = 1; length < text.length; length += 1) {
    const part = parseBlocks(text.slice(0, length)).map(({ raw }) => raw);
    for (const raw of part.slice(0, -1)) assert.ok(whole.some((block) => block.startsWith(raw)), JSON.stringify(raw));
  }
});

test("no text is too much, and none is lost", () => {
  const many = 20_000;
  const texts = [
    "*".repeat(many), "**a ".repeat(many), "*a ".repeat(many) + "a* ".repeat(many), "_a __b ".repeat(many), "[".repeat(many), "[a](".repeat(many),
    "![".repeat(many) + "](x)".repeat(many), "`".repeat(many), "` `` ".repeat(many), "\\(".repeat(many), "$x ".repeat(many), "<http://".repeat(many),
    "> ".repeat(many), "- ".repeat(many), "1. ".repeat(many), "|".repeat(many) + "\n" + "|-".repeat(many), "~~a ".repeat(many), "https://".repeat(many),
    "&amp".repeat(many), "```\n".repeat(many), "[a](https://a.example) ".repeat(many), "- a\n".repeat(many), "> a\n".repeat(many), "#".repeat(many),
  ];
  for (const text of texts) {
    const walk = (blocks) =>
      blocks.forEach((block) => {
        if (block.text !== undefined && block.type !== "code") parseInline(block.text);
        if (block.blocks) walk(block.blocks);
        for (const item of block.items ?? []) walk(item.blocks);
      });
    walk(parseBlocks(text));
  }
});

test("whatever the characters, words survive", () => {
  const marks = ["*", "**", "_", "`", "[", "](", ")", "~~", "<", ">", "&", "$", "\\", "!", "\n", " "];
  let seed = 7;
  const draw = (limit) => (seed = (seed * 1103515245 + 12345) % 2147483648) % limit;
  for (let round = 0; round < 3000; round += 1) {
    const parts = Array.from({ length: 12 }, (_, number) => marks[draw(marks.length)] + (number % 3 ? "" : `w${number}`));
    const flat = JSON.stringify(parseInline(parts.join("")));
    for (const word of ["w0", "w3", "w6", "w9"]) assert.ok(flat.includes(word), `${parts.join("")} lost ${word}`);
  }
});
