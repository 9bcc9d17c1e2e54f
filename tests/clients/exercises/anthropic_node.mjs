// The official SDK for JavaScript: Messages, whole and streamed.
import Anthropic from "@anthropic-ai/sdk";
import {
  CITY, FRANCE, ITALY, KEY, MODEL, RESULT, ROOT, WEATHER_IN_PARIS, check, expect, thrown,
} from "./report.mjs";

const client = new Anthropic({ baseURL: ROOT, apiKey: KEY, maxRetries: 0, timeout: 120_000 });
const TOOLS = [{ name: "get_weather", description: "Get the weather in a city.", input_schema: CITY }];
const say = (content) => [{ role: "user", content }];
const given = (messages, fields = {}) =>
  ({ model: MODEL, max_tokens: 500, temperature: 0, messages, ...fields });
const ask = (messages, fields) => client.messages.create(given(messages, fields));
const textOf = (message) =>
  message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

await check("plain and streamed", async () => {
  const whole = await ask(say(FRANCE));
  expect(textOf(whole).includes("Paris") && whole.stop_reason === "end_turn", whole);
  const final = await client.messages.stream(given(say(FRANCE))).finalMessage();
  expect(textOf(final) === textOf(whole) && final.usage.output_tokens > 0, final);
});

await check("thinking on and off", async () => {
  const on = await ask(say(FRANCE), {
    temperature: 1, max_tokens: 2000, thinking: { type: "enabled", budget_tokens: 1024 } });
  expect(on.content[0].type === "thinking" && on.content[0].signature, on);
  const off = await ask(say(FRANCE), { thinking: { type: "disabled" } });
  expect(off.content.every((block) => block.type === "text"), off);
});

await check("tool round trip, streamed", async () => {
  const asked = await client.messages
    .stream(given(say(WEATHER_IN_PARIS), { tools: TOOLS })).finalMessage();
  const [call] = asked.content.filter((block) => block.type === "tool_use");
  expect(asked.stop_reason === "tool_use" && call.input.city === "Paris", asked);
  const result = { type: "tool_result", tool_use_id: call.id, content: JSON.stringify(RESULT) };
  const answer = await ask([
    ...say(WEATHER_IN_PARIS),
    { role: "assistant", content: asked.content },
    { role: "user", content: [result] },
  ], { tools: TOOLS });
  expect(textOf(answer).includes("21"), answer);
});

await check("second turn cached", async () => {
  const system = "You are a helper of anthropic-node.";
  const first = await ask(say(FRANCE), { system });
  const second = await ask(
    [...say(FRANCE), { role: "assistant", content: first.content }, ...say(ITALY)], { system });
  expect(textOf(second).includes("Rome"), second);
  expect(second.usage.cache_read_input_tokens >= first.usage.input_tokens, second.usage);
});

await check("count_tokens", async () => {
  const told = await client.messages.countTokens({ model: MODEL, messages: say(FRANCE) });
  expect(told.input_tokens > 0, told);
});

await check("errors", async () => {
  const bad = await thrown(() => ask(say(FRANCE), { temperature: 9 }));
  expect(bad.status === 400 && bad.message.includes("temperature"), bad.message);
  expect(bad.error.type === "error", bad.error);
});
