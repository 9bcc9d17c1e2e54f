// The official SDK for JavaScript: Chat Completions and Responses.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import {
  CITY, FRANCE, ITALY, KEY, MODEL, RESULT, SPAIN_AS_JSON, URL, WEATHER_IN_PARIS, check, expect, thrown,
} from "./report.mjs";

const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0, timeout: 120_000 });
const FUNCTION = { name: "get_weather", description: "Get the weather in a city.", parameters: CITY };
const TOOLS = [{ type: "function", function: FUNCTION }];
const say = (content) => [{ role: "user", content }];
const given = (messages, fields = {}) => ({ model: MODEL, messages, temperature: 0, ...fields });
const chat = (messages, fields) => client.chat.completions.create(given(messages, fields));

await check("models", async () => {
  const cards = [];
  for await (const card of client.models.list()) cards.push(card);
  expect(cards.length === 1 && cards[0].id === MODEL, cards);
});

await check("plain and streamed", async () => {
  const whole = (await chat(say(FRANCE))).choices[0].message.content;
  expect(whole.includes("Paris"), whole);
  let text = "", usage = null;
  const fields = { stream: true, stream_options: { include_usage: true } };
  for await (const part of await chat(say(FRANCE), fields)) {
    text += part.choices[0]?.delta?.content ?? "";
    usage = part.usage ?? usage;
  }
  expect(text === whole && usage.completion_tokens > 0, { text, whole, usage });
});

await check("stream helper", async () => {
  const stream = client.chat.completions.stream(given(say(FRANCE)));
  expect((await stream.finalContent()).includes("Paris"), "helper");
});

await check("reasoning on and off", async () => {
  const on = await chat(say(FRANCE), { reasoning_effort: "low" });
  expect(on.choices[0].message.reasoning_content, on);
  const off = await chat(say(FRANCE), { reasoning_effort: "none" });
  expect(!off.choices[0].message.reasoning_content, off);
});

await check("tool round trip", async () => {
  const runner = client.chat.completions.runTools({
    ...given(say(WEATHER_IN_PARIS)),
    tools: [{
      type: "function",
      function: { ...FUNCTION, parse: JSON.parse, function: ({ city }) => {
        expect(city === "Paris", city);
        return JSON.stringify(RESULT);
      } },
    }],
  });
  const answer = await runner.finalContent();
  expect(answer.includes("21"), answer);
});

await check("tools, streamed helper", async () => {
  const stream = client.chat.completions.stream(given(say(WEATHER_IN_PARIS), { tools: TOOLS }));
  const calls = (await stream.finalMessage()).tool_calls;
  expect(calls?.length === 1 && JSON.parse(calls[0].function.arguments).city === "Paris", calls);
});

await check("structured output", async () => {
  const form = zodResponseFormat(z.object({ country: z.string(), capital: z.string() }), "capital");
  const answer = await client.chat.completions.parse(
    given(say(SPAIN_AS_JSON), { response_format: form }));
  expect(answer.choices[0].message.parsed.capital === "Madrid", answer);
});

await check("second turn cached", async () => {
  const system = { role: "system", content: "You are a helper of openai-node." };
  const first = await chat([system, ...say(FRANCE)]);
  const said = { role: "assistant", content: first.choices[0].message.content };
  const second = await chat([system, ...say(FRANCE), said, ...say(ITALY)]);
  expect(second.choices[0].message.content.includes("Rome"), second);
  expect(second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens, second.usage);
});

await check("errors", async () => {
  const bad = await thrown(() => chat(say(FRANCE), { temperature: 9 }));
  expect(bad.status === 400 && bad.param === "temperature", bad);
  const unknown = await thrown(() => client.embeddings.create({ model: MODEL, input: "x" }));
  expect(unknown.status === 404 && unknown.message.includes("embeddings"), unknown.message);
  const long = await thrown(() => chat(say("word ".repeat(200_000)), { stream: true }));
  expect(long.code === "context_length_exceeded", long.message);
});

const respond = (input, fields = {}) =>
  client.responses.create({ model: MODEL, input, temperature: 0, ...fields });

await check("responses: plain and streamed", async () => {
  const whole = await respond(FRANCE);
  expect(whole.output_text.includes("Paris"), whole);
  const final = await client.responses
    .stream({ model: MODEL, input: FRANCE, temperature: 0 }).finalResponse();
  expect(final.output_text === whole.output_text, final);
});

await check("responses: tool round trip", async () => {
  const tools = [{ type: "function", strict: false, ...FUNCTION }];
  const asked = await respond(WEATHER_IN_PARIS, { tools });
  const [call] = asked.output.filter((item) => item.type === "function_call");
  expect(JSON.parse(call.arguments).city === "Paris", asked);
  const result = { type: "function_call_output", call_id: call.call_id, output: JSON.stringify(RESULT) };
  const answer = await respond(
    [...say(WEATHER_IN_PARIS), ...asked.output, result], { tools, store: false });
  expect(answer.output_text.includes("21"), answer);
  expect(answer.usage.input_tokens_details.cached_tokens > 0, answer.usage);
});

await check("responses: errors", async () => {
  const bad = await thrown(() => respond(FRANCE, { temperature: 9 }));
  expect(bad.status === 400 && bad.message.includes("temperature"), bad.message);
});
