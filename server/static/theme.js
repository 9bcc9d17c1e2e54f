// Sets the theme before the first paint, so it is no module. preferences.js remembers the choice.
(() => {
  try {
    const { theme } = JSON.parse(localStorage.getItem("mxserve")) ?? {};
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // The system's theme then.
  }
})();
