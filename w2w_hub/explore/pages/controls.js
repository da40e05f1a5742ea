// Sends the values of a panel's controls to Python: event "edit" when one changes, "act" when a button is clicked.
const value = (control) => {
  if (control.type === "checkbox") return control.checked;
  if (control.type === "range" || control.type === "number") return control.value === "" ? null : Number(control.value);
  return control.value;
};
const collect = () => {
  const values = {};
  for (const control of element.querySelectorAll("[data-kind]")) {
    if (control.type === "radio" && !control.checked) continue;
    (values[control.dataset.kind] ??= {})[control.dataset.name] = value(control);
  }
  return values;
};
const show = (control) => {
  const output = control.parentElement.querySelector("output");
  if (control.type === "range" && output) output.textContent = String(Number(Number(control.value).toPrecision(3)));
};
// after Python has rendered the panel again: what the visitor touched follows the new values, too
const restore = () => {
  for (const control of element.querySelectorAll("[data-kind]")) {
    if (control.type === "radio" || control.type === "checkbox") control.checked = control.dataset.on === "1";
    else if (control.value !== control.dataset.value) control.value = control.dataset.value;
    show(control);
  }
};
element.addEventListener("change", (event) => {
  if (event.target.dataset.kind) trigger("edit", { values: collect() });
});
element.addEventListener("input", (event) => {
  show(event.target);
  if (!event.target.classList.contains("filter")) return;
  const words = event.target.value.toLowerCase();
  for (const control of event.target.parentElement.nextElementSibling.querySelectorAll("[data-words]"))
    control.hidden = !control.dataset.words.toLowerCase().includes(words);
});
element.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target.dataset.kind !== "row") return;
  event.target.parentElement.parentElement.querySelector("[data-act]")?.click();
});
element.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) navigator.clipboard?.writeText(copy.nextElementSibling.textContent).then(() => (copy.textContent = "Copied"));
  const button = event.target.closest("[data-act]");
  if (button) trigger("act", { act: button.dataset.act, name: button.dataset.name ?? "", values: collect() });
});
watch("value", restore);
