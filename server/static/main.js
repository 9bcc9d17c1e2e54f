// Puts the page together: what is open, by the address; the server's state; what buttons do.

import { announce } from "./announcer.js";
import { legalEfforts, servedModel } from "./api.js";
import { Composer } from "./composer.js";
import { askKey, askName, askSettings, confirmed } from "./dialogs.js";
import { byId, el } from "./dom.js";
import { exportConversation } from "./export.js";
import { Monitor } from "./monitor.js";
import { prefer, preference } from "./preferences.js";
import { Session } from "./session.js";
import { Sidebar } from "./sidebar.js";
import { stateInWords, Status } from "./status.js";
import { openStore } from "./store.js";
import { bindTheme } from "./theme_button.js";
import { Thread } from "./thread.js";
import { leaf, ROOT, titleOf } from "./tree.js";

const SUGGESTIONS = ["What is the capital of France?", "47 + 38?", "Count from 3 to 9."];

bindTheme();
const store = await openStore();
const session = new Session(store, () => preference("settings", {}));
const monitor = new Monitor();
new Thread(session);
const composer = new Composer(session);
const sidebar = new Sidebar(session);
const status = new Status(monitor);
let known = false; // whether the model's name and the efforts are

wireButtons();
wireEvents();
await route();
monitor.check();

function wireButtons() {
  byId("new").addEventListener("click", startNew);
  byId("skip").addEventListener("click", () => composer.focus());
  byId("rename-button").addEventListener("click", async () => {
    const name = await askName(titleOf(session.current));
    if (name) await session.rename(name);
  });
  byId("export-button").addEventListener("click", () => exportConversation(session.current));
  byId("delete-button").addEventListener("click", async () => {
    const text = `“${titleOf(session.current)}” and all its branches will be gone from this browser.`;
    if (!(await confirmed("Delete the conversation?", text, "Delete"))) return;
    await session.remove();
    announce("Deleted.");
    startNew();
  });
  byId("settings-button").addEventListener("click", async () => {
    const settings = await askSettings(session.current.settings);
    if (!settings) return;
    await session.set(settings);
    prefer("settings", session.current.settings);
  });
  byId("key-button").addEventListener("click", changeKey);
}

function wireEvents() {
  window.addEventListener("hashchange", route);
  window.addEventListener("pagehide", () => session.saveAll());
  for (const type of ["open", "change", "end"]) session.addEventListener(type, showBar);
  session.addEventListener("change", keepAddress);
  session.addEventListener("end", ({ detail }) => {
    if (detail.error?.status === 401) changeKey();
    monitor.check();
  });
  session.addEventListener("unsaved", () => announce("The conversation could not be kept in this browser."));
  monitor.addEventListener("health", ({ detail }) => showHealth(detail));
  byId("welcome").addEventListener("click", ({ target }) => {
    if (target.closest(".suggestion")) composer.ask(target.textContent);
  });
}

function startNew() {
  sidebar.close();
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
  session.startNew();
  showView("chat");
  composer.focus();
}

/** Shows what the address names: #/status, #/c/ID, or a new conversation. */
async function route() {
  const id = /^#\/c\/([0-9a-f]+)$/.exec(location.hash)?.[1];
  if (location.hash === "#/status") {
    showView("status");
    return;
  }
  showView("chat");
  if (id && id !== session.current.id && !(await session.open(id))) startNew();
  else if (!id && leaf(session.current) !== ROOT) session.startNew();
  if (matchMedia("(pointer: fine)").matches) composer.focus();
}

/** A conversation gets its address with its first message. */
function keepAddress() {
  const address = `#/c/${session.current.id}`;
  const begun = leaf(session.current) !== ROOT;
  if (begun && location.hash !== address && location.hash !== "#/status") history.pushState(null, "", address);
}

function showView(view) {
  const chat = view === "chat";
  byId("chat").hidden = !chat;
  byId("status").hidden = chat;
  if (chat) byId("status-link").removeAttribute("aria-current");
  else byId("status-link").setAttribute("aria-current", "page");
  monitor.watch(!chat);
  showBar();
  if (!chat) byId("title").focus();
}

function showBar() {
  const chat = !byId("chat").hidden;
  const begun = chat && leaf(session.current) !== ROOT;
  const title = chat ? titleOf(session.current) : "Status";
  byId("title").textContent = title;
  document.title = begun || !chat ? `${title} · mxserve` : "mxserve";
  for (const id of ["rename-button", "export-button", "delete-button"]) byId(id).hidden = !begun;
  byId("settings-button").hidden = !chat;
  const { system } = session.current.settings;
  byId("settings-button").classList.toggle("in-use", Boolean(system?.trim()));
}

function showHealth({ state, figures, message }) {
  byId("dot").dataset.state = state;
  byId("server-name").textContent = figures?.model ?? session.model ?? "Server";
  const busy = figures && state === "ok" ? `${figures.active} of ${figures.slots} slots in use` : null;
  byId("server-state").textContent = busy ?? stateInWords(state);
  const banner = byId("banner");
  const text = {
    ok: "",
    refused: "",
    unreachable: "The server cannot be reached. Trying again every two seconds.",
    loading: "The model is loading. You can write already.",
    draining: "The server is stopping.",
  }[state];
  const told = text ?? `The server cannot serve: ${message ?? stateInWords(state)}`;
  if (banner.textContent !== told) banner.textContent = told;
  banner.hidden = !told;
  if (state === "refused") changeKey();
  else if (state === "ok" && !known) meet();
}

/** Learns the model's name and what it takes. */
async function meet() {
  try {
    const card = await servedModel();
    session.model = card.id;
    status.model = card;
    composer.offer(await efforts());
    known = true;
    byId("welcome-model").textContent = card.id;
    byId("server-name").textContent = card.id;
    if (!card.id.includes("demo")) return;
    byId("suggestions").replaceChildren(
      ...SUGGESTIONS.map((text) => el("button", { type: "button", class: "suggestion", text })),
    );
  } catch (error) {
    byId("server-state").textContent = error.message; // it is tried again with the next sample
  }
}

/** The legal efforts; a server's description of itself is asked for once per version of it. */
async function efforts() {
  const { version } = monitor.newest.figures;
  const remembered = preference("efforts");
  if (remembered?.version === version) return remembered.values;
  const values = await legalEfforts();
  prefer("efforts", { version, values });
  return values;
}

async function changeKey() {
  byId("key-button").hidden = false;
  if (!(await askKey())) return;
  known = false;
  monitor.check();
}
