// The server as the page uses it: requests with the key, errors of one kind, streamed answers.

import { cacheOfHeader } from "./answer.js";
import { apiKey } from "./preferences.js";
import { events } from "./sse.js";

/** A request that failed. `status` is null where the server was not reached, or broke off. */
export class ApiError extends Error {
  constructor(message, { status = null, code = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter; // seconds
  }
}

/** `path` is relative to the page. A response with status 200 to 299. Raises ApiError, or AbortError where `signal` aborted it. */
async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (apiKey()) headers.authorization = `Bearer ${apiKey()}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body ? JSON.stringify(body) : undefined,
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached.", { code: "unreachable" });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status } = response;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not this server's: a proxy's page, perhaps.
  }
  const told = error.message ?? `The server answered ${status}.`;
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  return new ApiError(told, { status, code: error.code ?? null, retryAfter });
}

/** The served model's card. */
export async function servedModel() {
  return (await (await ask("v1/models")).json()).data[0];
}

/** The reasoning efforts that are legal, as the server's own description of itself has them. */
export async function legalEfforts() {
  const { components } = await (await ask("openapi.json")).json();
  const { enum: values = [] } = components.schemas.ChatRequest.properties.reasoning_effort;
  return values.filter((value) => typeof value === "string");
}

/** GET /health. Also when it is a 503, which says why; raises ApiError otherwise. */
export async function health() {
  const headers = apiKey() ? { authorization: `Bearer ${apiKey()}` } : {};
  let response;
  try {
    response = await fetch("health", { headers, cache: "no-store", signal: AbortSignal.timeout(5000) });
  } catch {
    throw new ApiError("The server cannot be reached.", { code: "unreachable" });
  }
  if (response.ok) return response.json();
  if (response.status !== 503) throw await refusal(response);
  return response.json().catch(() => ({ status: "unavailable" }));
}

const COUNTERS = {
  generated: "vllm:generation_tokens_total",
  prompt: "vllm:prompt_tokens_total",
  reused: "vllm:prefix_cache_hits_total",
};

/** Tokens since the server's start {generated, prompt, reused}, out of GET /metrics; null without. */
export async function tokenCounters() {
  try {
    const lines = (await (await ask("metrics")).text()).split("\n");
    const found = Object.entries(COUNTERS).map(([name, metric]) => [name, sum(lines, metric)]);
    return found.some(([, value]) => value === null) ? null : Object.fromEntries(found);
  } catch {
    return null;
  }
}

function sum(lines, metric) {
  const own = lines.filter((line) => line.startsWith(`${metric}{`) || line.startsWith(`${metric} `));
  if (!own.length) return null;
  return own.reduce((total, line) => total + Number(line.slice(line.indexOf("} ") + 1).trim().split(" ").at(-1)), 0);
}

/**
 * The chunks of a streamed chat completion; `onCache` gets what the response header says of the
 * prompt cache, if it does. Raises ApiError, also for an error in the middle of the stream.
 */
export async function* streamChat(body, { signal, onCache }) {
  const response = await ask("v1/chat/completions", { body, signal });
  const cache = cacheOfHeader(response.headers.get("x-mxserve-cache"));
  if (cache) onCache(cache);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) {
        throw new ApiError(chunk.error.message, { status: response.status, code: chunk.error.code });
      }
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    // Reading a broken connection is a TypeError, and says nothing that a person could use.
  }
  throw new ApiError("The connection broke off before the answer was complete.", { code: "cut" });
}
