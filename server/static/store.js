// Conversations in the browser's IndexedDB; where there is none, in memory until the page is left.

const DATABASE = "mxserve";
const CONVERSATIONS = "conversations"; // whole, by id
const TITLES = "titles"; // {id, title, updated}: what the list needs

const LEFT = "mxserve-left"; // in localStorage: what a page that went could not wait to have kept

/** Opens the store; where the browser has none, it lasts as long as the page. */
export async function openStore() {
  try {
    const store = new IndexedStore(await open());
    for (const [conversation, title] of left()) await store.put(conversation, title);
    return store;
  } catch {
    return new MemoryStore();
  }
}

/**
 * Keeps `conversations` ([[conversation, title]]) at once: a page that goes away has no time for a
 * database. The next page puts them where they belong.
 */
export function keepAtOnce(conversations) {
  try {
    if (conversations.length) localStorage.setItem(LEFT, JSON.stringify(conversations));
  } catch {
    // Too long, or not allowed: then what was last saved counts.
  }
}

function left() {
  try {
    const found = JSON.parse(localStorage.getItem(LEFT)) ?? [];
    localStorage.removeItem(LEFT);
    return found;
  } catch {
    return [];
  }
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      for (const name of [CONVERSATIONS, TITLES]) request.result.createObjectStore(name, { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

class IndexedStore {
  #database;

  constructor(database) {
    this.#database = database;
    database.onversionchange = () => database.close();
  }

  /** All titles, the newest first. */
  async titles() {
    const titles = await this.#run("readonly", (store) => store(TITLES).getAll());
    return titles.sort((a, b) => b.updated - a.updated);
  }

  /** One conversation, or undefined. */
  get(id) {
    return this.#run("readonly", (store) => store(CONVERSATIONS).get(id));
  }

  put(conversation, title) {
    const { id, updated } = conversation;
    return this.#run("readwrite", (store) => {
      store(TITLES).put({ id, title, updated });
      return store(CONVERSATIONS).put(conversation);
    });
  }

  remove(id) {
    return this.#run("readwrite", (store) => {
      store(TITLES).delete(id);
      return store(CONVERSATIONS).delete(id);
    });
  }

  #run(mode, work) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction([CONVERSATIONS, TITLES], mode);
      const request = work((name) => transaction.objectStore(name));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  }
}

class MemoryStore {
  #kept = new Map();

  async titles() {
    const titles = [...this.#kept.values()].map(({ conversation, title }) => ({
      id: conversation.id,
      title,
      updated: conversation.updated,
    }));
    return titles.sort((a, b) => b.updated - a.updated);
  }

  async get(id) {
    return this.#kept.get(id)?.conversation;
  }

  async put(conversation, title) {
    this.#kept.set(conversation.id, { conversation, title });
  }

  async remove(id) {
    this.#kept.delete(id);
  }
}
