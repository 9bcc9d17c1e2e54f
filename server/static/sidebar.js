// The list of conversations; on a narrow screen a drawer over the page.

import { byId, el } from "./dom.js";

const DAY = 86_400_000;

export class Sidebar {
  #session;
  #nav = byId("sidebar");
  #main = byId("main");
  #menu = byId("menu");

  constructor(session) {
    this.#session = session;
    this.#menu.addEventListener("click", () => this.#toggle(true));
    byId("close-sidebar").addEventListener("click", () => this.#toggle(false));
    byId("backdrop").addEventListener("click", () => this.#toggle(false));
    this.#nav.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#open) {
        event.stopPropagation();
        this.#toggle(false);
      }
    });
    this.#nav.addEventListener("click", (event) => {
      if (event.target.closest("a")) this.#toggle(false, false);
    });
    for (const type of ["open", "change", "end", "titles"]) session.addEventListener(type, () => this.show());
    this.show();
  }

  /** Closes the drawer where it is open. */
  close() {
    this.#toggle(false, false);
  }

  get #open() {
    return this.#nav.classList.contains("open");
  }

  #toggle(open, focus = true) {
    if (open === this.#open) return;
    this.#nav.classList.toggle("open", open);
    byId("backdrop").hidden = !open;
    this.#main.inert = open;
    this.#menu.setAttribute("aria-expanded", String(open));
    if (!focus) return;
    if (open) byId("close-sidebar").focus();
    else this.#menu.focus();
  }

  /** Shows all titles, in groups by when they were last used. */
  async show() {
    const titles = await this.#session.titles();
    const groups = new Map();
    for (const each of titles) {
      const name = when(each.updated);
      groups.set(name, [...(groups.get(name) ?? []), each]);
    }
    const focused = document.activeElement?.getAttribute("href");
    const list = byId("conversations");
    list.replaceChildren(...[...groups].map(([name, members]) => this.#group(name, members)));
    if (!titles.length) list.append(el("p", { class: "nothing", text: "Conversations stay in this browser." }));
    if (focused && document.activeElement === document.body) list.querySelector(`[href="${focused}"]`)?.focus();
  }

  #group(name, members) {
    const id = `group-${name.toLowerCase().replaceAll(" ", "-")}`;
    return el(
      "section",
      { "aria-labelledby": id },
      el("h2", { id, text: name }),
      el("ul", {}, members.map(({ id: conversation, title }) => this.#row(conversation, title))),
    );
  }

  #row(id, title) {
    const writing = this.#session.isWriting(id);
    return el(
      "li",
      {},
      el(
        "a",
        {
          href: `#/c/${id}`,
          title,
          class: writing ? "writing" : null,
          "aria-current": id === this.#session.current.id ? "page" : null,
        },
        title,
        writing ? el("span", { class: "unseen", text: " (being written)" }) : null,
      ),
    );
  }
}

function when(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY) return "Yesterday";
  return time >= today - 7 * DAY ? "This week" : "Earlier";
}
