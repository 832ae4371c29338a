// Loads the page again when the server says that something changed. Pages work without it.
"use strict";
const main = document.getElementById("main");
if (main && window.EventSource) {
  const refresh = async () => {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    const current = document.getElementById("main");
    // A person who types, or has chosen something, is not interrupted.
    if (!fresh || current.querySelector("form")?.contains(document.activeElement)) return;
    current.replaceWith(fresh);
  };
  new EventSource(main.dataset.changes).addEventListener("message", () => {
    if (!document.hidden) refresh().catch(() => {});
  });
}
