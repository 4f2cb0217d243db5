"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const remembered = (value) => {
    try {
      if (value) localStorage.setItem("dear-theme", value);
      return localStorage.getItem("dear-theme");
    } catch {
      return null; // a browser may refuse storage to files
    }
  };
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
  };
  const theme = remembered();
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();

  for (const browser of document.querySelectorAll(".browser")) {
    const controls = browser.querySelector(".controls");
    const place = browser.querySelector(".queries");
    const queries = [...place.children].map((node, number) => ({
      node,
      number,
      text: node.dataset.q,
      differences: node.dataset.d ? node.dataset.d.split(" ").map(Number) : [],
    }));
    const [run, order, kept] = controls.querySelectorAll("select");
    const find = controls.querySelector("input");
    const count = controls.querySelector("output");
    const update = () => {
      const at = run ? Number(run.value) : -1;
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const value = (q) => (at < 0 ? 0 : q.differences[at]);
      const sign = order && order.value === "helped" ? -1 : 1;
      const keep = {
        all: () => true,
        lost: (q) => value(q) < 0,
        gained: (q) => value(q) > 0,
        same: (q) => value(q) === 0,
      }[kept ? kept.value : "all"];
      queries.sort((a, b) => sign * (value(a) - value(b)) || a.number - b.number);
      let shown = 0;
      for (const q of queries) {
        q.node.hidden = !(keep(q) && words.every((word) => q.text.includes(word)));
        shown += !q.node.hidden;
      }
      place.append(...queries.map((q) => q.node));
      // the first stage, and the run that was chosen
      for (const part of place.querySelectorAll("[data-run]")) part.hidden = at >= 0 && Number(part.dataset.run) !== at;
      count.textContent = `${shown} of ${queries.length} shown`;
    };
    controls.hidden = false;
    for (const control of [run, order, kept]) if (control) control.addEventListener("change", update);
    find.addEventListener("input", update);
    update();
    // a passage's text opens in its place
    place.addEventListener("click", (event) => {
      const link = event.target.closest(".ranked a");
      if (!link) return;
      event.preventDefault();
      const item = link.parentElement;
      const open = item.querySelector("p");
      link.setAttribute("aria-expanded", String(!open));
      if (open) return open.remove();
      const text = document.createElement("p");
      text.textContent = document.getElementById(link.hash.slice(1)).querySelector("dd").textContent;
      item.append(text);
    });
  }
})();
