// Keeps the live parts of a page fresh: fetches the page again and swaps every
// element marked data-live by its id. What is not marked, such as the form, is
// never touched; nor is a part in which text is selected just now.
"use strict";

const stale = document.getElementById("stale");
let timer = 0;
let misses = 0;

function inUse(part) {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
}

function swap(fresh) {
  document.querySelectorAll("[data-live]").forEach((part) => {
    const next = fresh.getElementById(part.id);
    if (!next || inUse(part) || part.outerHTML === next.outerHTML) return;
    const scrolled = Array.from(part.querySelectorAll(".scroll"), (s) => s.scrollLeft);
    const node = document.importNode(next, true);
    part.replaceWith(node);
    node.querySelectorAll(".scroll").forEach((s, i) => { s.scrollLeft = scrolled[i] || 0; });
  });
  document.title = fresh.title;
  document.body.dataset.refresh = fresh.body.dataset.refresh;
}

async function refresh() {
  // The page of a POST that was refused holds the form's error and input; its
  // live parts are the overview's.
  const where = location.pathname === "/reports" ? "/" : location.pathname + location.search;
  try {
    const answer = await fetch(where, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(answer.statusText);
    swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
    misses = 0;
  } catch {
    misses++;
  }
  stale.hidden = misses < 2;
  schedule();
}

function schedule() {
  clearTimeout(timer);
  const every = Number(document.body.dataset.refresh);
  if (every > 0 && !document.hidden) timer = setTimeout(refresh, every * Math.min(1 + misses, 5));
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (Number(document.body.dataset.refresh) > 0) refresh();
});
schedule();
