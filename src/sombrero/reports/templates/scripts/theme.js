"use strict";
(() => {
  // Light or dark: as the system says, until the reader chooses. A page opened from a file may have no storage.
  const root = document.documentElement;
  const key = "sombrero-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem(key, theme); } catch { /* chosen for this view alone */ } };
  const shown = () => root.dataset.theme || (system.matches ? "dark" : "light");
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => { button.textContent = shown() === "dark" ? "Light colours" : "Dark colours"; };
    button.addEventListener("click", () => {
      root.dataset.theme = shown() === "dark" ? "light" : "dark";
      store(root.dataset.theme);
      name();
    });
    system.addEventListener("change", name);
    button.hidden = false;
    name();
  });
})();
