// A page refreshes itself unless somebody could be disturbed: the tab is hidden, text is selected, a field has the focus
// or holds something that was typed, or a list is open to choose from.
"use strict";

function isBusy() {
  const field = document.activeElement;
  const selection = document.getSelection();
  const typing = field && field.matches("input, select, textarea") && document.getElementById("live").contains(field);
  return document.hidden || typing || (selection && !selection.isCollapsed) || hasTyped();
}

function hasTyped() {
  const changed = (field) =>
    field.type === "checkbox" ? field.checked !== field.defaultChecked
    : field.tagName === "SELECT" ? [...field.options].some((option) => option.selected !== option.defaultSelected && field.value)
    : field.value !== field.defaultValue;
  return [...document.querySelectorAll("#live input, #live select, #live textarea")].some(changed);
}

document.addEventListener("htmx:before:request", (event) => {
  if (isBusy()) event.preventDefault();
});

// An opened <details> stays open when the page is refreshed: the server does not know that it is open.
let opened = [];
document.addEventListener("htmx:before:swap", () => {
  opened = [...document.querySelectorAll("#live details")].map((one) => one.open);
});
document.addEventListener("htmx:after:swap", () => {
  document.querySelectorAll("#live details").forEach((one, number) => { one.open ||= Boolean(opened[number]); });
});

// A form is sent once: the server answers the second one like the first, and the button shows that it was pressed.
document.addEventListener("submit", (event) => {
  for (const button of event.target.querySelectorAll("button")) {
    if (event.target.method === "post") setTimeout(() => { button.disabled = true; });
  }
});
