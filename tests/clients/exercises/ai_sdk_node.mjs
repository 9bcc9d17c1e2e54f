// Vercel's AI SDK with its openai-compatible, openai and anthropic providers.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";
import {
  FRANCE, ITALY, KEY, MODEL, RESULT, SPAIN_AS_JSON, URL, WEATHER_IN_PARIS, check, expect, thrown,
} from "./report.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const settings = { baseURL: URL, apiKey: KEY };
const compatible = createOpenAICompatible({
  name: "mxserve", ...settings, includeUsage: true, supportsStructuredOutputs: true,
});
const openai = createOpenAI(settings);
const models = {
  "": compatible(MODEL),
  "openai provider, chat: ": openai.chat(MODEL),
  "openai provider, responses: ": openai.responses(MODEL),
  "anthropic provider, messages: ": createAnthropic(settings)(MODEL),
};
const given = (model, prompt, fields = {}) =>
  ({ model, prompt, temperature: 0, maxRetries: 0, maxOutputTokens: 600, ...fields });

for (const [name, model] of Object.entries(models)) {
  await check(`${name}plain and streamed`, async () => {
    const whole = await generateText(given(model, FRANCE));
    expect(whole.text.includes("Paris") && whole.usage.outputTokens > 0, whole.text);
    const stream = streamText(given(model, FRANCE, { onError: () => {} }));
    let text = "";
    for await (const part of stream.textStream) text += part;
    expect(text === whole.text, { text, whole: whole.text });
    expect((await stream.usage).outputTokens > 0, "usage of the stream");
  });

  await check(`${name}tool round trip`, async () => {
    const asked = [];
    const get_weather = tool({
      description: "Get the weather in a city.",
      inputSchema: z.object({ city: z.string().describe("the city") }),
      execute: async ({ city }) => (asked.push(city), RESULT),
    });
    const stream = streamText(given(model, WEATHER_IN_PARIS, {
      tools: { get_weather }, stopWhen: isStepCount(3), onError: () => {} }));
    await stream.consumeStream();
    const answer = await stream.text;
    expect(asked.join() === "Paris" && answer.includes("21"), { asked, answer });
  });
}

await check("reasoning", async () => {
  const { reasoningText } = await generateText(given(models[""], FRANCE));
  expect(reasoningText, "no reasoning was shown");
});

await check("structured output", async () => {
  const schema = z.object({ country: z.string(), capital: z.string() });
  for (const model of [models[""], models["openai provider, responses: "]]) {
    const { output } = await generateText(
      given(model, SPAIN_AS_JSON, { output: Output.object({ schema }) }));
    expect(output.country && output.capital, output);
  }
});

await check("second turn cached", async () => {
  const system = { role: "system", content: "You are a helper of the AI SDK." };
  const fields = { prompt: undefined, allowSystemInMessages: true };
  const before = [system, { role: "user", content: FRANCE }];
  const first = await generateText({ ...given(models[""]), ...fields, messages: before });
  const messages = [...before, ...first.response.messages, { role: "user", content: ITALY }];
  const second = await generateText({ ...given(models[""]), ...fields, messages });
  expect(second.text.includes("Rome"), second.text);
  expect(second.usage.inputTokenDetails.cacheReadTokens > 0, second.usage);
});

await check("errors", async () => {
  const bad = await thrown(() => generateText(given(models[""], FRANCE, { temperature: 9 })));
  expect(bad.statusCode === 400 && bad.message.includes("temperature"), bad.message);
});
