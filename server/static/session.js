// The conversations of this page: which one is open, which answers are being written. No DOM.

import { addChunk, newAnswer, requestBody } from "./answer.js";
import { streamChat } from "./api.js";
import { keepAtOnce } from "./store.js";
import { append, chooseVersion, discard, history, leaf, newConversation, ROOT, titleOf } from "./tree.js";

const SAVE_EVERY_MS = 1500;

/**
 * Tells what happens by events: "open" (another conversation), "change" (its messages), "grow"
 * (`detail` is the answer that got longer), "end" (`detail` is an answer that ended), "titles".
 * Pages of other tabs are told of what was kept, and follow.
 */
export class Session extends EventTarget {
  current = null;
  model = null; // the served model's name, once it is known
  #store;
  #settings;
  #tabs = new BroadcastChannel("mxserve");
  #runs = new Map(); // conversation id -> {conversation, answer, abort, began, saved}

  /** `settings()`: those of a new conversation. */
  constructor(store, settings) {
    super();
    this.#store = store;
    this.#settings = settings;
    this.#tabs.onmessage = ({ data }) => this.#follow(data);
    this.startNew();
  }

  /** Opens a conversation that is kept; false where there is none of this id. */
  async open(id) {
    const conversation = this.#runs.get(id)?.conversation ?? (await this.#store.get(id));
    if (!conversation) return false;
    if (!this.#runs.has(id)) settle(conversation);
    this.current = conversation;
    this.#tell("open");
    return true;
  }

  /** Opens an empty conversation, which is kept from its first message on. */
  startNew() {
    this.current = newConversation(this.#settings());
    this.#tell("open");
  }

  titles() {
    return this.#store.titles();
  }

  /** The answer being written in the open conversation, or null. */
  get writing() {
    return this.#runs.get(this.current.id)?.answer ?? null;
  }

  /** How long the answer being written has taken so far, in ms. */
  elapsed() {
    const run = this.#runs.get(this.current.id);
    return run ? performance.now() - run.began : 0;
  }

  isWriting(id) {
    return this.#runs.has(id);
  }

  /** Adds a message and has it answered. */
  send(text) {
    const message = append(this.current, leaf(this.current), { role: "user", content: text });
    return this.#answer(message.id);
  }

  /** Another version of message `id` of the user, with an answer of its own. */
  edit(id, text) {
    const { parent } = this.current.nodes[id];
    const message = append(this.current, parent, { role: "user", content: text });
    return this.#answer(message.id);
  }

  /** Another version of answer `id`. One that failed before it said anything is replaced. */
  regenerate(id) {
    const { parent, state, content, reasoning } = this.current.nodes[id];
    if (state === "failed" && !content && !reasoning) discard(this.current, id);
    return this.#answer(parent);
  }

  choose(id, step) {
    const chosen = chooseVersion(this.current, id, step);
    this.#tell("change");
    this.#keep(this.current);
    return chosen;
  }

  stop() {
    this.#runs.get(this.current.id)?.abort.abort();
  }

  async rename(title) {
    this.current.title = title.trim();
    await this.#keep(this.current);
    this.#tell("change");
  }

  /** Changes the open conversation's settings. */
  async set(settings) {
    Object.assign(this.current.settings, settings);
    if (leaf(this.current) !== ROOT) await this.#keep(this.current);
  }

  /** Removes the open conversation and opens an empty one. */
  async remove() {
    const { id } = this.current;
    this.stop();
    this.#runs.delete(id);
    await this.#store.remove(id);
    this.#tabs.postMessage(id);
    this.startNew();
    this.#tell("titles");
  }

  /** Keeps every answer being written as it is now: the page is about to go. */
  saveAll() {
    keepAtOnce([...this.#runs.values()].map(({ conversation }) => [conversation, titleOf(conversation)]));
  }

  async #answer(parent) {
    const conversation = this.current;
    const answer = append(conversation, parent, newAnswer(this.model, conversation.settings.effort));
    const run = { conversation, answer, abort: new AbortController(), began: performance.now(), saved: 0 };
    this.#runs.set(conversation.id, run);
    conversation.updated = Date.now();
    this.#save(conversation);
    this.#tell("change");
    try {
      await this.#read(run, requestBody(history(conversation, parent), conversation.settings, this.model ?? "mxserve"));
      answer.state = "done";
    } catch (error) {
      if (run.abort.signal.aborted) answer.state = "stopped";
      else {
        const { message, code = null, status = null, retryAfter = null } = error;
        Object.assign(answer, { state: "failed", error: { message, code, status, retryAfter } });
      }
    }
    if (this.#runs.get(conversation.id) !== run) return; // removed meanwhile
    this.#runs.delete(conversation.id);
    conversation.updated = Date.now();
    this.#keep(conversation);
    this.#tell("end", answer);
  }

  async #read(run, body) {
    const onCache = (cache) => (run.answer.cache = cache);
    for await (const chunk of streamChat(body, { signal: run.abort.signal, onCache })) {
      const elapsed = performance.now() - run.began;
      addChunk(run.answer, chunk, elapsed);
      this.#tell("grow", run.answer);
      if (elapsed - run.saved > SAVE_EVERY_MS) {
        run.saved = elapsed;
        this.#save(run.conversation);
      }
    }
  }

  /** Saves a conversation in which nothing is being written, and tells other tabs. */
  async #keep(conversation) {
    await this.#save(conversation);
    this.#tabs.postMessage(conversation.id);
  }

  /** Another tab kept or removed conversation `id`. */
  async #follow(id) {
    this.#tell("titles");
    if (id !== this.current.id || this.#runs.has(id)) return;
    if (!(await this.open(id))) this.startNew();
  }

  async #save(conversation) {
    try {
      await this.#store.put(conversation, titleOf(conversation));
      this.#tell("titles");
    } catch (error) {
      this.#tell("unsaved", error);
    }
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** An answer that was being written when its page went is one that was stopped. */
function settle(conversation) {
  for (const node of Object.values(conversation.nodes)) {
    if (node.state === "writing") node.state = "stopped";
  }
}
