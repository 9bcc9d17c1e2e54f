// The dialogs: settings of a conversation, its name, a question before something is lost, the key.
//
// They are native <dialog> elements: focus stays inside, Esc closes, the focus goes back after.

import { byId } from "./dom.js";
import { apiKey, useKey } from "./preferences.js";

const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];

/** Shows a dialog; resolves to true where it was agreed to, else false. */
function shown(id) {
  const dialog = byId(id);
  const form = dialog.querySelector("form");
  return new Promise((resolve) => {
    const agree = (event) => {
      event.preventDefault(); // the policy lets no form be sent
      dialog.close("agreed");
    };
    const cancel = (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close("");
    };
    form.addEventListener("submit", agree);
    dialog.addEventListener("click", cancel);
    const closed = () => {
      form.removeEventListener("submit", agree);
      dialog.removeEventListener("click", cancel);
      resolve(dialog.returnValue === "agreed");
    };
    dialog.addEventListener("close", closed, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
  });
}

/** Asks before something is lost. */
export function confirmed(title, text, action) {
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-action").textContent = action;
  return shown("confirm");
}

/** A new name, or null. */
export async function askName(name) {
  const field = byId("name-field");
  field.value = name;
  field.select();
  return (await shown("rename")) && field.value.trim() ? field.value : null;
}

/** Settings as they are now chosen, or null. Numbers that are left empty are null. */
export async function askSettings(settings) {
  byId("system-field").value = settings.system ?? "";
  for (const name of NUMBERS) byId(`${name}-field`).value = settings[name] ?? "";
  if (!(await shown("settings"))) return null;
  const chosen = { system: byId("system-field").value };
  for (const name of NUMBERS) {
    const { valueAsNumber } = byId(`${name}-field`);
    chosen[name] = Number.isNaN(valueAsNumber) ? null : valueAsNumber;
  }
  return chosen;
}

let asking = null;

/** Asks for the API key, once at a time; true where there is another one now. */
export function askKey() {
  asking ??= key().finally(() => (asking = null));
  return asking;
}

async function key() {
  const field = byId("key-field");
  byId("key-text").textContent = apiKey()
    ? "The server refused the key that this page has."
    : "This server asks for an API key.";
  field.value = "";
  if (!(await shown("key"))) return false;
  useKey(field.value.trim(), byId("key-remember").checked);
  return true;
}
