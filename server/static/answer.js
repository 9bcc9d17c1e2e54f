// One streamed answer as it grows: chunks of a chat completion in, text and figures out. No DOM.

const BURST_MS = 50; // what comes within it came at once: headers wait for the first words
const STEADY_MS = 150; // the shortest time a speed is taken from

/** A message of the assistant that nothing has come for yet. */
export function newAnswer(model, effort) {
  return {
    role: "assistant",
    content: "",
    reasoning: "",
    state: "writing", // then done, stopped or failed
    model,
    effort,
    finish: null,
    error: null, // {message, code, status, retryAfter} where it failed
    usage: null,
    cache: null,
    // In ms since it was asked for; `thought` is how long that took. What had been written when the
    // first text came, `burst` tokens up to `settled`, came at once and says nothing of the speed.
    times: { first: null, last: null, thought: null, burst: 0, settled: null },
  };
}

/** Adds one chunk that came `elapsed` ms after the request was sent. */
export function addChunk(answer, chunk, elapsed) {
  const { times } = answer;
  const choice = chunk.choices?.[0];
  const thought = choice?.delta?.reasoning_content;
  const text = choice?.delta?.content;
  if (thought || text) {
    times.first ??= elapsed;
    times.last = elapsed;
  }
  if (thought) {
    answer.reasoning += thought;
    times.thought = elapsed - times.first;
  }
  if (text) {
    if (answer.reasoning && !answer.content) times.thought = elapsed - times.first;
    answer.content += text;
  }
  if (choice?.finish_reason) answer.finish = choice.finish_reason;
  if (chunk.usage) {
    answer.usage = chunk.usage;
    if (times.first !== null && elapsed - times.first < BURST_MS) {
      times.burst = chunk.usage.completion_tokens;
      times.settled = elapsed;
    }
  }
  if (chunk.x_mxserve?.cache) answer.cache = chunk.x_mxserve.cache;
}

/** Whether the thought is what is being written. */
export function isThinking(answer) {
  return answer.state === "writing" && answer.reasoning !== "" && answer.content === "";
}

/**
 * Tokens a second while the answer was written. Where most of it came at once, it is counted from when
 * it was asked for, which is never too much. Null where there is nothing to count.
 */
export function tokensPerSecond({ usage, times }) {
  const tokens = usage?.completion_tokens ?? 0;
  if (tokens < 2 || !times.last) return null;
  const steady = times.last - times.settled;
  if (times.settled !== null && steady >= STEADY_MS) return ((tokens - times.burst) * 1000) / steady;
  return (tokens * 1000) / times.last;
}

/** How long the thought took: {ms, bound}, where `bound` is true if all that is known is an upper one. */
export function thoughtTime({ times }, now = null) {
  const ms = now === null ? (times.thought ?? 0) : now - times.first;
  return ms < BURST_MS ? { ms: (times.first ?? 0) + ms, bound: true } : { ms, bound: false };
}

/** What `x-mxserve-cache` says ({reused, prefilled, common, message, change}) as the last chunk does. */
export function cacheOfHeader(header) {
  if (!header) return null;
  const fields = {};
  for (const [, name, number, word] of header.matchAll(/([a-z]+)=(?:(\d+)|"([^"]*)")/g)) {
    fields[name] = number === undefined ? word : Number(number);
  }
  const differed = fields.change !== undefined || fields.message !== undefined;
  return {
    reused_tokens: fields.reused ?? 0,
    prefilled_tokens: fields.prefilled ?? 0,
    common_tokens: fields.common ?? 0,
    diverged: differed ? { message: fields.message ?? null, change: fields.change ?? null } : null,
  };
}

/** The request for the answer that comes after `messages` (nodes of the conversation). */
export function requestBody(messages, settings, model) {
  const sent = settings.system?.trim() ? [{ role: "system", content: settings.system }] : [];
  for (const { role, content, reasoning } of messages) {
    if (role === "user") sent.push({ role, content });
    else if (content || reasoning) {
      // With its thought, so that the prompt begins with what the server has computed already.
      sent.push({ role, content, ...(reasoning ? { reasoning_content: reasoning } : {}) });
    }
  }
  const body = {
    model,
    messages: sent,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  if (settings.effort) body.reasoning_effort = settings.effort;
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"]) {
    if (typeof settings[name] === "number") body[name] = settings[name];
  }
  return body;
}
