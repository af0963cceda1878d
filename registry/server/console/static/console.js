// What the pages do beyond what the server renders: copying commands, choosing all rows, telling that the page is not
// up to date. Everything else works without this file.
"use strict";

function copied(button) {
  const text = button.querySelector("span");
  const before = text.textContent;
  text.textContent = "Copied";
  setTimeout(() => { text.textContent = before; }, 1500);
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {  // no permission, or plain HTTP: select it instead, so that the keyboard copies it
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);
    if (!document.execCommand("copy")) return;
  }
  copied(button);
}

function ready(root) {
  for (const button of root.querySelectorAll("[data-copy][hidden]")) button.hidden = false;
  for (const box of root.querySelectorAll("[data-all][hidden]")) box.hidden = false;
}

document.addEventListener("click", event => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

// A box that ticks all boxes of its form with the name that it says.
document.addEventListener("change", event => {
  const all = event.target.closest("[data-all]");
  if (!all) return;
  for (const box of document.querySelectorAll(`input[name="${CSS.escape(all.dataset.all)}"]`)) box.checked = all.checked;
});

// A field that sends its form when it is changed.
document.addEventListener("change", event => {
  if (event.target.closest("[data-submit]")) event.target.form.requestSubmit();
});

// A form that changes something is sent once, however often its button is pressed; again when its page is shown again.
document.addEventListener("submit", event => {
  const form = event.target;
  if (form.method !== "post" || event.defaultPrevented) return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("[data-sent]")) delete form.dataset.sent;
});

// `/` goes to the search field, as people are used to.
document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
  const search = document.querySelector("[data-search]");
  if (search) { event.preventDefault(); search.focus(); }
});

document.addEventListener("htmx:after:swap", () => ready(document));
document.addEventListener("htmx:after:request", event => tellTrouble(event));

// A part that could not be renewed keeps what it showed; the page says so, and since when.
function tellTrouble(event) {
  const box = document.getElementById("trouble");
  const status = event.detail?.ctx?.response?.status;
  if (!box || status === undefined) return;
  if (status === 401) box.textContent = "Your session has ended. Load the page again to sign in.";
  else if (status >= 400) box.textContent = `Not up to date: the registry answered ${status}.`;
  else { box.hidden = true; return; }
  box.hidden = false;
}

function start() {
  ready(document);
  const form = document.querySelector("form[data-send]");
  if (form) form.requestSubmit();
}
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
