// How an exercise in JavaScript tells what it tried: one JSON line on stdout for each check.
// Runs beside a client's own packages; where the server is comes from the environment.

export const ROOT = process.env.MXSERVE_URL;
export const URL = `${ROOT}/v1`;
export const MODEL = process.env.MXSERVE_MODEL;
export const KEY = "none";

export const FRANCE = "What is the capital of France?";
export const ITALY = "What is the capital of Italy?";
export const SPAIN_AS_JSON = "Give the capital of Spain as JSON.";
export const WEATHER_IN_PARIS = "What is the weather in Paris?";
export const CITY = {
  type: "object",
  properties: { city: { type: "string", description: "the city" } },
  required: ["city"],
};
export const RESULT = { temperature: 21, condition: "sunny" };

// Fails the running check, with what was got in place of what was wanted.
export function expect(condition, what = "") {
  if (!condition) {
    const text = typeof what === "string" ? what : JSON.stringify(what);
    throw new Error(`not as expected: ${String(text).slice(0, 600)}`);
  }
}

// Runs `body` and reports it under this name; a failure ends this check, not the exercise.
export async function check(name, body) {
  const started = performance.now();
  let error = null;
  try {
    await body();
  } catch (failure) {
    const where = (failure?.stack ?? "").split("\n").find((line) => line.includes("/exercises/"));
    error = `${failure?.name}: ${failure?.message} (${(where ?? "").trim().split("/").at(-1)})`;
  }
  const seconds = Math.round((performance.now() - started) / 10) / 100;
  console.log(JSON.stringify({ check: name, passed: error === null, seconds, error }));
}

// The error that `body` throws.
export async function thrown(body) {
  try {
    await body();
  } catch (failure) {
    return failure;
  }
  throw new Error("nothing was thrown");
}
