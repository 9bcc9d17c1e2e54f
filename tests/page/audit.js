// Run in the page: what is wrong with it for eyes and for assistive technology, as lists of findings.

/** Text whose contrast with what is behind it is below WCAG's 4.5 (3 where it is large). */
function faint() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const part = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] > 250) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || node.closest(":disabled")) continue;
    if (!node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(rgba(style.color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < least) found.push(`${node.className || node.tagName} ${ratio.toFixed(2)}`);
  }
  return found;
}

/** Controls and regions without a name, ids that are there twice or not at all, and the like. */
function unnamed() {
  const found = [];
  const byIds = (ids) => ids.split(" ").map((id) => document.getElementById(id)?.textContent).join("");
  const name = (node) =>
    node.getAttribute("aria-label") ||
    byIds(node.getAttribute("aria-labelledby") ?? "") ||
    [...(node.labels ?? [])].map((label) => label.textContent).join("") ||
    (node.matches("input, textarea, select") ? "" : node.textContent);
  const needing =
    "button, a, input, textarea, select, summary, dialog, nav, section, " +
    "[role=region], [role=img], [role=group]";
  const shown = (node) => node.outerHTML.slice(0, 120);
  for (const node of document.querySelectorAll(needing)) {
    if (!name(node)?.trim()) found.push(`no name: ${shown(node)}`);
  }
  for (const { id } of document.querySelectorAll("[id]")) {
    const alike = document.querySelectorAll(`[id="${CSS.escape(id)}"]`);
    if (alike.length > 1) found.push(`twice: ${id}`);
  }
  for (const attribute of ["aria-labelledby", "aria-describedby", "aria-controls", "for"]) {
    for (const node of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of node.getAttribute(attribute).split(" ")) {
        if (!document.getElementById(id)) found.push(`${attribute}=${id} names nothing`);
      }
    }
  }
  const odd = "img:not([alt]), [tabindex]:not([tabindex='0']):not([tabindex='-1'])";
  for (const node of document.querySelectorAll(odd)) found.push(shown(node));
  for (const one of ["main", "h1", "html[lang]"]) {
    if (document.querySelectorAll(one).length !== 1) found.push(one);
  }
  return found;
}
