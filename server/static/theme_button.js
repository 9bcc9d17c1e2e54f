// The button that goes from the system's theme to light, to dark and back.

import { byId, icon } from "./dom.js";
import { prefer, preference } from "./preferences.js";

const NEXT = { system: "light", light: "dark", dark: "system" };

export function bindTheme() {
  const button = byId("theme");
  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.replaceChildren(icon(theme));
    const label = `Theme: ${theme === "system" ? "as the system" : theme}`;
    button.setAttribute("aria-label", label);
    button.title = label;
  };
  button.addEventListener("click", () => {
    const theme = NEXT[preference("theme", "system")] ?? "system";
    prefer("theme", theme);
    show(theme);
  });
  show(preference("theme", "system"));
}
