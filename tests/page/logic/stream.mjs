import assert from "node:assert/strict";
import test from "node:test";

import { addChunk, cacheOfHeader, isThinking, newAnswer, requestBody, thoughtTime, tokensPerSecond } from "../../../server/static/answer.js";
import { events } from "../../../server/static/sse.js";

function streamOf(bytes, size) {
  return new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
      controller.close();
    },
  });
}

async function read(text, size) {
  const found = [];
  for await (const data of events(streamOf(new TextEncoder().encode(text), size))) found.push(data);
  return found;
}

const TEXT = '\ufeff: hello\n\ndata: {"a": "é🗼"}\r\n\r\ndata:one\rdata: two\r\rid: 3\nevent: x\ndata\n\nretry: 5\n\ndata: [DONE]\n\ndata: lost';

for (const size of [1, 2, 3, 5, 7, 64, 1000]) {
  test(`events in pieces of ${size} bytes`, async () => {
    assert.deepEqual(await read(TEXT, size), ['{"a": "é🗼"}', "one\ntwo", "", "[DONE]"]);
  });
}

test("a reader that leaves cancels the stream", async () => {
  let cancelled = false;
  const stream = new ReadableStream({
    pull: (controller) => controller.enqueue(new TextEncoder().encode("data: x\n\n")),
    cancel: () => (cancelled = true),
  });
  for await (const _ of events(stream)) break;
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.ok(cancelled);
});

const delta = (fields) => ({ choices: [{ delta: fields, finish_reason: null }] });

test("an answer grows", () => {
  const answer = newAnswer("m", "low");
  addChunk(answer, delta({ role: "assistant", content: "" }), 50);
  assert.equal(answer.times.first, null);
  addChunk(answer, delta({ reasoning_content: "Fra" }), 100);
  assert.ok(isThinking(answer));
  addChunk(answer, { ...delta({ reasoning_content: "nce" }), usage: { completion_tokens: 2 } }, 300);
  addChunk(answer, delta({ content: "Par" }), 400);
  assert.ok(!isThinking(answer));
  addChunk(answer, delta({ content: "is" }), 900);
  addChunk(answer, { choices: [{ delta: {}, finish_reason: "stop" }] }, 950);
  const cache = { reused_tokens: 3, prefilled_tokens: 4, common_tokens: 3, diverged: null };
  addChunk(answer, { choices: [], usage: { completion_tokens: 5 }, x_mxserve: { cache } }, 960);
  assert.equal(answer.content, "Paris");
  assert.equal(answer.reasoning, "France");
  assert.deepEqual(answer.times, { first: 100, last: 900, thought: 300, burst: 0, settled: null });
  assert.deepEqual(thoughtTime(answer), { ms: 300, bound: false });
  assert.equal(answer.finish, "stop");
  assert.deepEqual(answer.cache, cache);
  assert.equal(tokensPerSecond(answer), 5000 / 900); // from the question on, since nothing else is known
});

test("speed is that of what did not come at once", () => {
  const answer = newAnswer("m", "low");
  const usage = (completion_tokens) => ({ usage: { completion_tokens } });
  addChunk(answer, { ...delta({ reasoning_content: "all " }), ...usage(20) }, 250);
  addChunk(answer, { ...delta({ reasoning_content: "at once" }), ...usage(40) }, 260);
  addChunk(answer, { ...delta({ content: "a" }), ...usage(41) }, 270);
  assert.equal(tokensPerSecond(answer), 41000 / 270);
  assert.deepEqual(thoughtTime(answer), { ms: 270, bound: true });
  addChunk(answer, { ...delta({ content: "b" }), ...usage(46) }, 520);
  addChunk(answer, { ...delta({ content: "c" }), ...usage(51) }, 770);
  assert.equal(tokensPerSecond(answer), 20);
});

test("a thought that goes on is timed until now", () => {
  const answer = newAnswer("m", "low");
  addChunk(answer, delta({ reasoning_content: "x" }), 100);
  assert.deepEqual(thoughtTime(answer, 2100), { ms: 2000, bound: false });
});

test("speed needs two tokens", () => {
  const answer = newAnswer("m", "");
  assert.equal(tokensPerSecond(answer), null);
  addChunk(answer, { ...delta({ content: "x" }), usage: { completion_tokens: 1 } }, 10);
  assert.equal(tokensPerSecond(answer), null);
});

test("the cache's header", () => {
  assert.deepEqual(cacheOfHeader('reused=1200, prefilled=34, common=1210, message=3, change="user message"'), {
    reused_tokens: 1200, prefilled_tokens: 34, common_tokens: 1210, diverged: { message: 3, change: "user message" },
  });
  assert.equal(cacheOfHeader("reused=0, prefilled=3, common=0").diverged, null);
  assert.equal(cacheOfHeader(null), null);
});

test("a request", () => {
  const messages = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b", reasoning: "t" },
    { role: "user", content: "c" },
    { role: "assistant", content: "", reasoning: "" },
    { role: "user", content: "d" },
  ];
  const settings = { system: "Be brief.", effort: "low", temperature: 0, top_p: null, seed: 5 };
  const body = requestBody(messages, settings, "m");
  assert.deepEqual(body.messages, [
    { role: "system", content: "Be brief." },
    { role: "user", content: "a" },
    { role: "assistant", content: "b", reasoning_content: "t" },
    { role: "user", content: "c" },
    { role: "user", content: "d" },
  ]);
  assert.deepEqual([body.reasoning_effort, body.temperature, body.seed, "top_p" in body], ["low", 0, 5, false]);
  const plain = requestBody(messages.slice(0, 1), { system: " ", effort: "" }, "m");
  assert.deepEqual(Object.keys(plain), ["model", "messages", "stream", "stream_options"]);
});
