import assert from "node:assert/strict";
import test from "node:test";

import { bytes, count, duration, rate } from "../../../server/static/format.js";
import { highlighted } from "../../../server/static/highlight.js";
import { figureSeries, rateSeries, roundedUp } from "../../../server/static/series.js";

test("figures as text", () => {
  assert.deepEqual([0, 999, 12345].map(count), ["0", "999", "12,345"]);
  const times = [0, 320.4, 4120, 9960, 59400, 125000, 12e6, 356e6];
  const told = ["0 ms", "320 ms", "4.1 s", "10 s", "59 s", "2 min 5 s", "3 h 20 min", "4 d 2 h"];
  assert.deepEqual(times.map(duration), told);
  assert.deepEqual([0, 1023, 1536, 1 << 20, 200 * 2 ** 30, 2 ** 50].map(bytes), ["0 B", "1023 B", "1.5 KiB", "1.0 MiB", "200 GiB", "1024 TiB"]);
  assert.deepEqual([4.25, 99.96, 1234.5].map(rate), ["4.3", "100.0", "1,235"]);
});

const sample = (at, generated, active = 0) => ({
  at,
  figures: active === null ? null : { active },
  tokens: generated === null ? null : { generated },
});

test("a rate is taken over a few seconds", () => {
  const samples = [0, 10, 30, 60, 60].map((generated, second) => sample(1000 * second, generated));
  assert.deepEqual(rateSeries(samples, "generated").map(({ value }) => value), [null, 10, 15, 20, 50 / 3]);
});

test("gaps and restarts have no rate", () => {
  const samples = [sample(0, 5), sample(1000, null), sample(2000, 15), sample(60000, 25), sample(61000, 3)];
  const values = rateSeries(samples, "generated").map(({ value }) => value);
  assert.deepEqual(values.slice(0, 3), [null, null, 5]);
  assert.equal(values.at(-1), null);
  assert.deepEqual(figureSeries([sample(0, 0, 3), sample(1, 0, null)], (each) => each.active).map(({ value }) => value), [3, null]);
});

test("scales", () => {
  assert.deepEqual([0, 0.3, 1, 1.2, 7, 10, 11, 480].map(roundedUp), [1, 0.5, 1, 2, 10, 10, 20, 500]);
});

test("code in colours loses nothing", () => {
  const code = 'def f(x):  # "no"\n    return "a#b" + str(0x1f) // 2 /* open\n\'';
  for (const language of ["python", "js", "sql", "html", "nothing", ""]) {
    assert.equal(highlighted(code, language).map(({ text }) => text).join(""), code);
  }
  const kinds = highlighted(code, "python").filter(({ kind }) => kind).map(({ kind, text }) => `${kind} ${text}`);
  assert.deepEqual(kinds.slice(0, 5), ["word def", "call f", 'comment # "no"', "word return", 'string "a#b"']);
  assert.deepEqual(highlighted("x".repeat(30_000) + " if", "js").length, 1);
});
