// The page "Try it": a picture may be dropped anywhere on it, or pasted. Where it is clear whom to ask, that asks at once.
"use strict";

const form = document.getElementById("try");
const drop = document.getElementById("drop");
const file = form.elements.namedItem("picture");

for (const part of form.querySelectorAll("[data-scripts]")) part.hidden = false;

function show() {
  const chosen = file.files[0];
  document.getElementById("drop-file").textContent = chosen ? `${chosen.name}, ${Math.ceil(chosen.size / 1024)} KiB` : "";
}

function take(transfer) {
  const picture = [...transfer.files].find(each => ["image/jpeg", "image/png"].includes(each.type));
  if (!picture) {
    document.getElementById("drop-file").textContent = "That is no JPEG or PNG.";
    return;
  }
  const list = new DataTransfer();
  list.items.add(picture);
  file.files = list.files;
  form.elements.namedItem("request").value = "";
  show();
  if (form.checkValidity()) form.requestSubmit();
}

const hasFiles = event => event.dataTransfer?.types.includes("Files");

document.addEventListener("dragover", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", event => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer);
});
document.addEventListener("paste", event => {
  if (!event.clipboardData?.files.length) return;
  event.preventDefault();
  take(event.clipboardData);
});
file.addEventListener("change", show);

// One question at a time.
form.addEventListener("submit", () => {
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  button.textContent = "Asking…";
});
addEventListener("pageshow", () => {
  const button = form.querySelector("button[type=submit]");
  button.disabled = false;
  button.textContent = "Ask";
});
