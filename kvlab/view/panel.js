// The page's half of every kvlab.view panel: its controls, and a picture that Python draws.
function label(text, ...inside) {
  const made = document.createElement("label");
  made.append(text, ...inside);
  return made;
}

const CONTROLS = {
  slider(control, model, send) {
    const input = document.createElement("input");
    input.type = "range";
    input.min = control.min;
    input.step = control.by;
    input.setAttribute("aria-label", control.spoken || control.label);
    const number = document.createElement("span");
    number.className = "number";
    input.addEventListener("input", () => send(Number(input.value)));
    const show = () => {
      input.max = typeof control.max === "string" ? model.get(control.max) : control.max;
      input.value = model.get(control.name);
      number.textContent = model.get(control.name);
    };
    return [label(`${control.label} `, input, " ", number), show];
  },
  tick(control, model, send) {
    const input = document.createElement("input");
    input.type = "checkbox";
    input.addEventListener("change", () => send(input.checked));
    return [label("", input, ` ${control.label}`), () => { input.checked = model.get(control.name); }];
  },
  choice(control, model, send) {
    const input = document.createElement("select");
    for (const value of control.options) input.append(new Option(value, value));
    input.addEventListener("change", () => send(input.value));
    return [label(`${control.label} `, input), () => { input.value = model.get(control.name); }];
  },
};

function render({ model, el }) {
  el.classList.add("kvlab-panel");
  el.dataset.panel = model.get("panel");
  // JupyterLab takes the arrow keys for itself unless an element says that it needs them.
  el.dataset.lmSuppressShortcuts = "true";
  el.addEventListener("keydown", (event) => event.stopPropagation());

  const controls = document.createElement("div");
  controls.className = "controls";
  const status = document.createElement("output");
  status.setAttribute("aria-live", "polite");
  const picture = document.createElement("div");
  picture.className = "picture";

  const shows = [];
  for (const control of model.get("controls")) {
    const send = (value) => {
      model.set(control.name, value);
      model.save_changes();
    };
    const [element, show] = CONTROLS[control.kind](control, model, send);
    element.dataset.control = control.name;
    controls.append(element);
    shows.push(show);
  }
  // What a picture offers to click stands in its data-pick, as {"trait": value, …}; every one of
  // these traits has a control as well, for those who use the keyboard.
  picture.addEventListener("click", (event) => {
    const picked = event.target.closest("[data-pick]");
    if (!picked) return;
    for (const [name, value] of Object.entries(JSON.parse(picked.dataset.pick))) {
      model.set(name, value);
    }
    model.save_changes();
  });
  el.append(controls, status, picture);

  const show = () => {
    shows.forEach((one) => one());
    status.textContent = model.get("status");
    picture.innerHTML = model.get("svg");
  };
  model.on("change", show);
  show();
  return () => model.off("change", show);
}
export default { render };
