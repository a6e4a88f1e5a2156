// The page's half of kvlab.view.CacheGrid: two controls, and a picture that Python draws.
function render({ model, el }) {
  el.classList.add("kvlab-cache-grid");
  // JupyterLab takes the arrow keys for itself unless an element says that it needs them.
  el.dataset.lmSuppressShortcuts = "true";
  el.addEventListener("keydown", (event) => event.stopPropagation());

  const controls = document.createElement("div");
  controls.className = "controls";

  const label = document.createElement("label");
  label.textContent = "step ";
  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = 0;
  slider.setAttribute("aria-label", "step: 0 is the prompt, then one step per new token");
  label.append(slider);

  const choice = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  choice.append(box, " with a cache");

  const status = document.createElement("output");
  status.setAttribute("aria-live", "polite");

  const picture = document.createElement("div");
  picture.className = "picture";

  controls.append(label, choice);
  el.append(controls, status, picture);

  const show = () => {
    slider.max = model.get("n_steps");
    slider.value = model.get("step");
    box.checked = model.get("cached");
    status.textContent = model.get("status");
    picture.innerHTML = model.get("svg");
  };
  const send = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  slider.addEventListener("input", () => send("step", Number(slider.value)));
  box.addEventListener("change", () => send("cached", box.checked));
  model.on("change:step change:cached change:svg change:status change:n_steps", show);
  show();
}
export default { render };
