"use strict";
// One state, which the address keeps; `refresh` draws it and asks the server for the pictures that changed.

const $ = (id) => document.getElementById(id);
const PALETTE = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#7f7f7f"];
const VIRIDIS = [[68, 1, 84], [49, 104, 142], [53, 183, 121], [253, 231, 37]];
const FIRST_SLIDERS = 10;
const ERROR_LAYER = "error of decoded";
let info, state, sheet;
let shown = FIRST_SLIDERS; // sliders that are listed
let hover = null; // place of the pointer in the plane
const views = [], decodes = []; // newest answers of each run
const problems = new Map();
let points = null;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(name, question) {
  const options = question === undefined ? {} : { method: "POST", body: JSON.stringify(question) };
  return answered(await requested(name, options));
}

async function requested(address, options) {
  try {
    return await fetch(address, options);
  } catch { // no answer at all
    throw new Error("the server does not answer: has it been ended?");
  }
}

async function answered(response) {
  if (response.ok) return response.headers.get("content-type").includes("json") ? response.json() : response.blob();
  const reason = response.headers.get("content-type").includes("json") ? (await response.json()).error : await response.text();
  throw new Error(reason);
}

function report(place, text) {
  problems.set(place, text);
  $("status").textContent = [...new Set(problems.values())].filter(Boolean).join(" · ");
}

// Asks again when the question has changed; while an answer is awaited only the newest question is kept.
class Loaded {
  constructor(name, question, show, context = () => null) { // what `show` needs to know of the moment of the question
    Object.assign(this, { name, question, show, context, last: undefined, wanted: undefined, busy: false, place: Symbol(name) });
  }
  refresh() {
    const question = this.question();
    const text = JSON.stringify(question);
    if (text === this.last) return;
    this.last = text;
    this.wanted = { question, context: this.context() };
    if (!this.busy) this.run();
  }
  async run() {
    this.busy = true;
    while (this.wanted !== undefined) {
      const { question, context } = this.wanted;
      this.wanted = undefined;
      let answer = null;
      try {
        if (question !== null) answer = await ask(this.name, question);
        report(this.place, "");
      } catch (error) {
        if (this.wanted === undefined) this.last = undefined; // the same question may be asked again
        report(this.place, error.message);
        continue;
      }
      try {
        this.show(answer, context);
      } catch (error) {
        console.error(error);
        report(this.place, `an error of this page: ${error.message}`);
      }
    }
    this.busy = false;
  }
}

// State

function blank() {
  const latents = info.models.map((model) => {
    const [first, second = first] = model.dimensions;
    return { edits: {}, cell: null, x: first.dim, y: second.dim };
  });
  const colour = Object.keys(info.groups)[0] || "score";
  return { image: "test/0", other: null, share: 0, corruption: "run", strength: 0.5, noise: 0, label: null,
    layer: "decoded", opacity: 1, seed: 0, run: 0, colour, click: "move", pictures: 0, latents };
}

function toHash() {
  const words = new URLSearchParams(), plain = blank();
  for (const [key, value] of Object.entries(state)) {
    if (key !== "latents" && value !== plain[key]) words.set(key, value);
  }
  state.latents.forEach((latent, run) => {
    const moved = Object.entries(latent.edits).map(([key, value]) => `${key}:${value}`);
    if (moved.length) words.set(`z${run}`, moved.join(","));
    if (latent.cell) words.set(`cell${run}`, latent.cell.join("."));
    for (const axis of ["x", "y"]) {
      if (latent[axis] !== plain.latents[run][axis]) words.set(axis + run, latent[axis]);
    }
  });
  return words.toString();
}

function fromHash() {
  const words = new URLSearchParams(location.hash.slice(1)), found = blank();
  const numbers = ["share", "strength", "noise", "label", "opacity", "seed", "run", "pictures"];
  for (const key of Object.keys(found)) {
    if (key === "latents" || !words.has(key)) continue;
    const value = numbers.includes(key) ? Number(words.get(key)) : words.get(key);
    if (!Number.isNaN(value)) found[key] = value;
  }
  if (!(found.run in info.models)) found.run = 0;
  if (!(found.colour in info.groups)) found.colour = "score";
  found.latents.forEach((latent, run) => {
    const known = (dim) => info.models[run].dimensions.some((each) => each.dim === dim);
    for (const pair of (words.get(`z${run}`) || "").split(",")) {
      const [key, value] = pair.split(":");
      if (/^\d+(@\d+\.\d+)?$/.test(key) && Number.isFinite(Number(value))) latent.edits[key] = Number(value);
    }
    const cell = (words.get(`cell${run}`) || "").split(".").map(Number);
    if (cell.length === 2 && cell.every(Number.isInteger)) latent.cell = cell;
    for (const axis of ["x", "y"]) {
      if (words.has(axis + run) && known(Number(words.get(axis + run)))) latent[axis] = Number(words.get(axis + run));
    }
  });
  return found;
}

function picture(run) { // what decides the pictures that no slider changes
  const label = info.models[run].num_classes ? state.label : null;
  const { image, corruption, strength, noise } = state;
  return { model: run, image, corruption, strength, noise, label };
}

function recipe(run, changes = {}) {
  const { edits, cell } = state.latents[run];
  const path = info.models[run].generates ? { other: state.other, share: state.share } : {};
  return { ...picture(run), edits, cell, ...path, ...changes };
}

const active = () => state.latents[state.run];
const keyOf = (dim) => (active().cell ? `${dim}@${active().cell.join(".")}` : `${dim}`);
const letter = () => (info.models[state.run].latent.length === 3 ? "c" : "z");
const title = (dim) => `${letter()}${dim}`;

function choose(name, target = document.querySelector("[name=target]:checked").value) {
  if (target === "other") {
    state.other = state.other === name ? null : name;
    if (!state.other) state.share = 0;
  } else {
    Object.assign(state, { image: name, label: null, share: 0 });
    for (const latent of state.latents) latent.edits = {};
  }
  refresh();
}

function move(changes) { // values of dimensions of the active run
  for (const [dim, value] of Object.entries(changes)) active().edits[keyOf(dim)] = Number(value.toFixed(4)); // as in the link
  refresh();
}

// Drawing

let resources = [], timer;

function refresh() {
  clearTimeout(timer); // browsers allow few changes of the address in a row
  timer = setTimeout(() => history.replaceState(null, "", `#${toHash()}`), 250);
  drawControls();
  drawStage();
  drawSliders();
  drawPlane();
  for (const each of resources) each.refresh();
}

function drawControls() {
  for (const button of $("thumbnails").children) {
    const name = `test/${button.dataset.number}`;
    button.className = name === state.image ? "image" : name === state.other ? "other" : "";
    button.setAttribute("aria-selected", name === state.image);
  }
  const [kind] = state.image.split("/"), ofRun = kind === "test" && !info.names;
  $("corruption").options[0].textContent = ofRun ? "as in the run" : "none, as in the file"; // files are not corrupted by the run
  $("corruption").disabled = kind === "prior";
  $("corruption").value = kind === "prior" ? "none" : state.corruption;
  const adjustable = !["run", "none"].includes($("corruption").value);
  $("label").options[0].textContent = kind === "prior" || (kind === "test" && info.groups.class) ? "its own" : `${className(0)} (no label)`;
  $("strength-field").hidden = $("noise-field").hidden = !adjustable;
  for (const id of ["strength", "opacity", "share"]) $(id).value = state[id];
  for (const id of ["noise", "seed"]) if (document.activeElement !== $(id)) $(id).value = state[id];
  $("opacity-number").textContent = `${Math.round(state.opacity * 100)} %`;
  $("share-number").textContent = `${Math.round(state.share * 100)} %`;
  $("label").value = state.label === null ? "" : state.label;
  $("share-field").hidden = !state.other;
  $("path-note").hidden = Boolean(state.other);
  $("path-part").hidden = !info.models.some((model) => model.generates);
  $("samples-part").hidden = !info.models[state.run].samples;
  for (const input of $("which").querySelectorAll("input")) input.checked = Number(input.value) === state.run;
  for (const id of ["x", "y"]) $(id).value = active()[id];
  for (const id of ["colour", "click"]) $(id).value = state[id];
  $("pictures").checked = Boolean(state.pictures);
  for (const [number, button] of [...$("samples").children].entries()) {
    button.classList.toggle("image", state.image === `prior/${state.seed}/${number}`);
  }
  for (const row of document.querySelectorAll(".path")) {
    [...row.children].forEach((button, step) => button.classList.toggle("now", Math.abs(step / 8 - state.share) < 0.01));
  }
}

function layersOf(run) {
  const decoded = decodes[run] ? { decoded: decodes[run].decoded, [ERROR_LAYER]: decodes[run].error } : {};
  return { ...decoded, ...(views[run] ? views[run].layers : {}) };
}

function drawStage() {
  const all = info.models.map((_, run) => layersOf(run));
  info.models.forEach((model, run) => {
    const figure = $("runs").children[run], [below, top] = figure.querySelectorAll("img");
    const chosen = all[run][state.layer] || all[run].decoded;
    if (all[run].original) below.src = all[run].original;
    if (chosen) top.src = chosen;
    top.style.opacity = state.opacity;
    const kl = views[run] && views[run].kl !== null ? `KL ${views[run].kl.toFixed(1)} nats` : "";
    const psnr = decodes[run] && decodes[run].psnr !== null ? `PSNR ${decodes[run].psnr.toFixed(1)} dB` : "";
    const lacks = views[run] && decodes[run] && !all[run][state.layer] ? `decoded, as it has no ${state.layer}` : "";
    figure.querySelector("span").textContent = [nameOf(state.image), kl, psnr, lacks].filter(Boolean).join(" · ");
    const cell = figure.querySelector(".cell"), place = state.latents[run].cell;
    if (!cell) return;
    cell.hidden = !place;
    if (place) {
      const [, rows, columns] = model.latent;
      cell.style.top = `${(100 * place[0]) / rows}%`;
      cell.style.left = `${(100 * place[1]) / columns}%`;
      cell.style.height = `${100 / rows}%`;
      cell.style.width = `${100 / columns}%`;
    }
  });
  if (decodes[state.run]) $("mini").src = decodes[state.run].decoded;
  if (views[0]) $("strength-number").textContent = views[0].corruption || "";
  const names = [...new Set(all.flatMap((layers) => Object.keys(layers)))];
  if (names.join() !== [...$("layers").children].map((button) => button.dataset.layer).join()) {
    $("layers").replaceChildren(...names.map((layer) => {
      const button = element("button", { type: "button", onclick: () => { state.layer = layer; refresh(); } },
        element("img", { alt: "" }), element("span", { textContent: layer }));
      button.dataset.layer = layer;
      button.setAttribute("role", "radio");
      return button;
    }));
  }
  for (const button of $("layers").children) {
    const source = all[state.run][button.dataset.layer] || all.find((layers) => layers[button.dataset.layer])[button.dataset.layer];
    button.firstChild.src = source;
    button.setAttribute("aria-checked", button.dataset.layer === state.layer);
  }
}

function nameOf(image) {
  const [kind, number, sample] = image.split("/");
  if (kind === "prior") return `sample ${sample} of seed ${number}`;
  if (kind === "own") return "your image";
  const label = info.groups.class ? ` (${className(info.groups.class[number])})` : "";
  return (info.names ? info.names[number] : `image ${number}`) + label;
}

const className = (number) => (info.class_names && info.class_names[number]) || `class ${number}`;

function drawSliders() {
  const model = info.models[state.run], { edits, cell } = active();
  const isMap = model.latent.length === 3;
  $("cell-note").hidden = !isMap;
  $("cell-note").textContent = cell
    ? `Channels of the cell in row ${cell[0]}, column ${cell[1]}; click it again for all cells.`
    : "Channels, moved at all cells alike; click on the picture to choose one cell.";
  const list = model.dimensions.slice(0, shown), kind = `${state.run} ${shown} ${list.length}`;
  $("more").hidden = list.length === model.dimensions.length;
  if ($("sliders").dataset.kind !== kind) {
    $("sliders").dataset.kind = kind;
    const head = element("div", { className: "slider head" }, "", "", "value", model.weight_name, "");
    head.replaceChildren(...["", "", "value", model.weight_name, ""].map((text) => element("span", { textContent: text })));
    $("sliders").replaceChildren(head, ...list.map(slider));
  }
  const values = decodes[state.run] && decodes[state.run].values;
  for (const row of [...$("sliders").children].slice(1)) {
    const dim = Number(row.dataset.dim), input = row.querySelector("input");
    const each = model.dimensions.find((one) => one.dim === dim);
    const moved = keyOf(dim) in edits;
    const value = moved ? edits[keyOf(dim)] : values ? values[dim] : 0;
    let [low, high] = isMap && !cell ? each.all : each.cell;
    if (high - low < 1e-3) [low, high] = [low - 1, high + 1];
    input.min = Math.min(low, value);
    input.max = Math.max(high, value);
    input.value = value;
    row.classList.toggle("moved", moved);
    row.querySelector("output").textContent = value.toFixed(2);
  }
}

function slider(each) {
  const input = element("input", { type: "range", step: "any", oninput: () => move({ [each.dim]: Number(input.value) }) });
  input.setAttribute("aria-label", `dimension ${each.dim}`);
  const back = element("button", { type: "button", textContent: "↺", title: "Undo this move",
    onclick: () => { delete active().edits[keyOf(each.dim)]; refresh(); } });
  const row = element("div", { className: "slider" }, element("b", { textContent: title(each.dim) }), input,
    element("output"), element("span", { className: "weight", textContent: each.weight.toFixed(2) }), back);
  row.dataset.dim = each.dim;
  return row;
}

// The plane

function scale() {
  const side = $("plane").clientWidth, margin = 26;
  const bounds = ["x", "y"].map((axis) => {
    const low = Math.min(...points[axis]), high = Math.max(...points[axis]), more = 0.06 * (high - low) || 1;
    return [low - more, high + more];
  });
  const span = side - 2 * margin, [[x0, x1], [y0, y1]] = bounds;
  return {
    side, margin, bounds,
    toPixel: (x, y) => [margin + ((x - x0) / (x1 - x0)) * span, side - margin - ((y - y0) / (y1 - y0)) * span],
    toValue: (px, py) => [x0 + ((px - margin) / span) * (x1 - x0), y0 + ((side - margin - py) / span) * (y1 - y0)],
  };
}

function colourOf(number) {
  const model = info.models[state.run];
  if (state.colour !== "score") {
    const value = info.groups[state.colour][number];
    return value < 0 ? "#888" : PALETTE[value % PALETTE.length];
  }
  const sorted = model.sorted || (model.sorted = [...model.scores].sort((a, b) => a - b)); // by rank: one outlier would darken the rest
  const share = sorted.length > 1 ? sorted.indexOf(model.scores[number]) / (sorted.length - 1) : 0;
  const step = Math.min(2, Math.floor(share * 3)), rest = share * 3 - step;
  return `rgb(${VIRIDIS[step].map((low, k) => Math.round(low + (VIRIDIS[step + 1][k] - low) * rest)).join(",")})`;
}

function drawPlane() {
  if (!points) return;
  const canvas = $("plane"), ratio = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
  const { side, margin, bounds, toPixel } = scale(), style = getComputedStyle(document.documentElement);
  const [soft, line, mark] = ["--soft", "--line", "--mark"].map((name) => style.getPropertyValue(name).trim());
  canvas.width = canvas.height = Math.round(side * ratio);
  pen.scale(ratio, ratio);
  pen.imageSmoothingEnabled = false;
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  pen.fillStyle = soft;
  pen.strokeStyle = line;
  const [[x0, x1], [y0, y1]] = bounds, zero = toPixel(0, 0);
  pen.beginPath();
  if (x0 < 0 && x1 > 0) { pen.moveTo(zero[0], margin); pen.lineTo(zero[0], side - margin); }
  if (y0 < 0 && y1 > 0) { pen.moveTo(margin, zero[1]); pen.lineTo(side - margin, zero[1]); }
  pen.stroke();
  const text = (words, x, y, align) => { pen.textAlign = align; pen.fillText(words, x, y); };
  text(x0.toFixed(1), margin, side - 8, "left");
  text(x1.toFixed(1), side - margin, side - 8, "right");
  text(`${title(active().x)} →`, side / 2, side - 8, "center");
  pen.save();
  pen.translate(14, side / 2);
  pen.rotate(-Math.PI / 2);
  text(y0.toFixed(1), margin - side / 2, 0, "left");
  text(y1.toFixed(1), side / 2 - margin, 0, "right");
  text(`${title(active().y)} →`, 0, 0, "center");
  pen.restore();
  for (let number = 0; number < info.count; number++) {
    const [x, y] = toPixel(points.x[number], points.y[number]);
    pen.fillStyle = pen.strokeStyle = colourOf(number);
    if (state.pictures && sheet.complete && sheet.naturalWidth) {
      const small = 20, cut = info.thumbnail;
      pen.drawImage(sheet, (number % 16) * cut, Math.floor(number / 16) * cut, cut, cut, x - small / 2, y - small / 2, small, small);
      pen.lineWidth = 2;
      pen.strokeRect(x - small / 2, y - small / 2, small, small);
    } else {
      pen.beginPath();
      pen.arc(x, y, 3.5, 0, 2 * Math.PI);
      pen.fill();
    }
  }
  const place = decodes[state.run] && decodes[state.run].place;
  if (place) cross(pen, ...toPixel(place[active().x], place[active().y]), mark);
  drawLegend();
}

function cross(pen, x, y, colour) {
  for (const [width, ink] of [[5, "#fff"], [2.5, colour]]) {
    pen.lineWidth = width;
    pen.strokeStyle = ink;
    pen.beginPath();
    pen.arc(x, y, 7, 0, 2 * Math.PI);
    pen.moveTo(x - 12, y); pen.lineTo(x + 12, y);
    pen.moveTo(x, y - 12); pen.lineTo(x, y + 12);
    pen.stroke();
  }
}

function drawLegend() {
  const kind = `${state.run} ${state.colour}`;
  if ($("legend").dataset.kind === kind) return;
  $("legend").dataset.kind = kind;
  if (state.colour === "score") {
    const { score_name, scores } = info.models[state.run], digits = (value) => Number(value.toPrecision(2));
    $("legend").replaceChildren(element("span", {}, `${score_name}, by rank: ${digits(Math.min(...scores))}`,
      element("i", { className: "scale" }), `${digits(Math.max(...scores))}`));
    return;
  }
  const values = [...new Set(info.groups[state.colour])].sort((a, b) => a - b);
  $("legend").replaceChildren(...values.slice(0, 20).map((value) => {
    const dot = element("i");
    dot.style.background = value < 0 ? "#888" : PALETTE[value % PALETTE.length];
    const name = value < 0 ? "unknown" : state.colour === "class" ? className(value) : `${state.colour} ${value}`;
    return element("span", {}, dot, name);
  }));
}

function placeOf(event) {
  const box = $("plane").getBoundingClientRect();
  return scale().toValue(event.clientX - box.left, event.clientY - box.top);
}

function nearest(x, y) {
  const { toPixel } = scale(), [px, py] = toPixel(x, y);
  let best = 0, least = Infinity;
  for (let number = 0; number < info.count; number++) {
    const [qx, qy] = toPixel(points.x[number], points.y[number]), distance = (px - qx) ** 2 + (py - qy) ** 2;
    if (distance < least) [best, least] = [number, distance];
  }
  return best;
}

function bindPlane() {
  const canvas = $("plane");
  canvas.onpointermove = (event) => { hover = points && placeOf(event); pointer.refresh(); };
  canvas.onclick = (event) => {
    if (!points) return;
    const [x, y] = placeOf(event);
    if (state.click === "choose") choose(`test/${nearest(x, y)}`);
    else move({ [active().x]: x, [active().y]: y });
  };
  canvas.onkeydown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step || !points || !decodes[state.run]) return;
    event.preventDefault();
    const { bounds } = scale(), { x, y } = active(), values = decodes[state.run].values;
    const now = (dim) => (keyOf(dim) in active().edits ? active().edits[keyOf(dim)] : values[dim]);
    move({ [x]: now(x) + (step[0] * (bounds[0][1] - bounds[0][0])) / 40, [y]: now(y) + (step[1] * (bounds[1][1] - bounds[1][0])) / 40 });
  };
}

let pointer;

// Once

function build() {
  $("title").textContent = info.models.map((model) => model.name).join(" and ");
  document.title = `${$("title").textContent} – saaae explore`;
  $("about").textContent = info.models.map((model) => `${model.kind}, latent ${model.latent.join("×")}`).join(" and ")
    + ` · ${info.count} ${info.names ? "images" : "test images"} of ${info.size} pixels`;
  $("runs").replaceChildren(...info.models.map(stage));
  $("thumbnails").replaceChildren(...Array.from({ length: info.count }, (_, number) => thumbnail(number)));
  const option = (value, text) => element("option", { value, textContent: text });
  $("corruption").replaceChildren(option("run", "as in the run"), option("none", "none"), ...info.corruptions.map((name) => option(name, name.replace("_", " "))));
  const classes = Math.max(...info.models.map((model) => model.num_classes || 0));
  $("class-field").hidden = !classes;
  $("label").replaceChildren(option("", "its own"), ...Array.from({ length: classes }, (_, number) => option(number, className(number))));
  $("colour").replaceChildren(...[...Object.keys(info.groups), "score"].map((name) => option(name, name)));
  $("which").hidden = info.models.length < 2;
  $("which").replaceChildren(...info.models.map((model, run) => element("label", {},
    element("input", { type: "radio", name: "which", value: run, onchange: () => { state.run = run; axes(); refresh(); } }), ` ${model.name}`)));
  axes();
  $("path").replaceChildren(...info.models.map(() => element("div", { className: "path" })));
  bindPlane();
  bindControls();
}

function axes() {
  for (const id of ["x", "y"]) {
    $(id).replaceChildren(...info.models[state.run].dimensions.map((each) => element("option", { value: each.dim, textContent: title(each.dim) })));
  }
}

function stage(model, run) {
  const stack = element("div", { className: "stack" }, element("img", { alt: "original" }), element("img", { alt: "chosen layer" }));
  if (model.latent.length === 3) {
    const cells = element("div", { className: "cells", tabIndex: 0, title: "A click chooses a cell of the latent" });
    const [, rows, columns] = model.latent;
    cells.setAttribute("role", "application");
    cells.setAttribute("aria-label", "Cells of the latent map; arrow keys choose one, Escape none");
    const set = (cell) => { state.run = run; state.latents[run].cell = cell; axes(); refresh(); };
    cells.onclick = (event) => {
      const box = cells.getBoundingClientRect(), old = state.latents[run].cell;
      const row = Math.min(rows - 1, Math.floor((rows * (event.clientY - box.top)) / box.height));
      const column = Math.min(columns - 1, Math.floor((columns * (event.clientX - box.left)) / box.width));
      set(old && old[0] === row && old[1] === column ? null : [row, column]);
    };
    cells.onkeydown = (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key === "Escape") set(null);
      if (!step) return;
      event.preventDefault();
      const [row, column] = state.latents[run].cell || [0, 0], within = (value, count) => Math.max(0, Math.min(count - 1, value));
      set([within(row + step[0], rows), within(column + step[1], columns)]);
    };
    stack.append(element("div", { className: "cell", hidden: true }), cells);
  }
  return element("figure", { className: "run" },
    element("figcaption", {}, element("b", { textContent: info.models.length > 1 ? model.name : "" }), element("span")), stack);
}

function thumbnail(number) {
  const canvas = element("canvas", { width: info.thumbnail, height: info.thumbnail });
  const name = info.names ? info.names[number] : `image ${number}`;
  const button = element("button", { type: "button", title: name, onclick: () => choose(`test/${number}`) }, canvas);
  button.dataset.number = number;
  button.setAttribute("role", "option");
  button.setAttribute("aria-label", name);
  return button;
}

function drawThumbnails() {
  const cut = info.thumbnail;
  for (const button of $("thumbnails").children) {
    const number = Number(button.dataset.number);
    button.firstChild.getContext("2d").drawImage(sheet, (number % 16) * cut, Math.floor(number / 16) * cut, cut, cut, 0, 0, cut, cut);
  }
  drawPlane();
}

async function take(file) {
  if (!file) return;
  try {
    const ending = (/\.[^.]+$/.exec(file.name) || [""])[0];
    const answer = await answered(await requested(`own?ending=${encodeURIComponent(ending)}`, { method: "POST", body: file }));
    report("own", "");
    choose(answer.image);
  } catch (error) {
    report("own", `${file.name}: ${error.message}`);
  }
}

function bindControls() {
  const whole = (id) => { const value = Math.floor(Number($(id).value)); if (value >= 0 && value < 1e6) { state[id] = value; refresh(); } };
  for (const id of ["strength", "opacity", "share"]) $(id).oninput = () => { state[id] = Number($(id).value); refresh(); };
  for (const id of ["noise", "seed"]) $(id).oninput = () => whole(id);
  for (const id of ["corruption", "colour", "click"]) $(id).onchange = () => { state[id] = $(id).value; refresh(); };
  for (const id of ["x", "y"]) $(id).onchange = () => { active()[id] = Number($(id).value); refresh(); };
  $("label").onchange = () => { state.label = $("label").value === "" ? null : Number($("label").value); refresh(); };
  $("pictures").onchange = () => { state.pictures = Number($("pictures").checked); refresh(); };
  $("next").onclick = () => { state.seed = (state.seed + 1) % 1e6; $("seed").value = state.seed; refresh(); };
  $("more").onclick = () => { shown += FIRST_SLIDERS; refresh(); };
  $("unmove").onclick = () => { active().edits = {}; state.share = 0; refresh(); };
  $("reset").onclick = () => { state = blank(); axes(); refresh(); };
  $("link").onclick = async () => {
    history.replaceState(null, "", `#${toHash()}`);
    try {
      await navigator.clipboard.writeText(location.href);
      report("link", "");
    } catch {
      report("link", "the browser does not allow copying: copy the address of this page");
      return;
    }
    $("link").textContent = "Copied";
    setTimeout(() => { $("link").textContent = "Copy link"; }, 1500);
  };
  $("download").onclick = async () => {
    try {
      const blob = await ask("picture", { recipes: info.models.map((_, run) => recipe(run)) });
      const link = element("a", { href: URL.createObjectURL(blob), download: `${info.models[0].name}-${state.image.replaceAll("/", "-")}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      report("download", "");
    } catch (error) {
      report("download", error.message);
    }
  };
  $("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
  const drop = $("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // a file beside the field would replace the page
      drop.classList.toggle("over", kind === "dragover" && drop.contains(event.target));
      if (kind === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    });
  }
  window.addEventListener("hashchange", () => { state = fromHash(); axes(); refresh(); });
  window.addEventListener("resize", drawPlane);
}

function loaders() {
  const each = info.models.map((model, run) => [
    new Loaded("view", () => picture(run), (answer) => { views[run] = answer; drawStage(); }),
    new Loaded("decode", () => recipe(run), (answer) => { decodes[run] = answer; drawStage(); drawSliders(); drawPlane(); }),
    new Loaded("path", () => (state.other && model.generates ? recipe(run, { share: 0 }) : null), (answer) => {
      const images = answer ? answer.images : [];
      document.querySelectorAll(".path")[run].replaceChildren(...images.map((src, step) => element("button",
        { type: "button", title: `${Math.round((100 * step) / 8)} %`, onclick: () => { state.share = step / 8; refresh(); } }, element("img", { src, alt: `step ${step}` }))));
      drawControls();
    }),
  ]).flat();
  const plane = () => { const { x, y, cell } = active(); return { model: state.run, x, y, cell }; };
  pointer = new Loaded("decode", () => hover && recipe(state.run, { other: null, share: 0,
    edits: { ...active().edits, [keyOf(active().x)]: hover[0], [keyOf(active().y)]: hover[1] } }), (answer, asked) => {
    if (!answer) return;
    Object.assign($("pointer-image"), { src: answer.decoded, hidden: false });
    const at = (dim) => `${asked.letter}${dim} = ${answer.values[dim].toFixed(2)}`;
    $("pointer-text").textContent = `decoded at ${at(asked.x)}, ${at(asked.y)}`;
  }, () => ({ x: active().x, y: active().y, letter: letter() }));
  return [...each,
    new Loaded("plane", plane, (answer) => { points = answer; drawPlane(); }),
    new Loaded("samples", () => (info.models[state.run].samples
      ? { model: state.run, seed: state.seed, label: info.models[state.run].num_classes ? state.label : null } : null), (answer) => {
      const images = answer ? answer.images : [];
      $("samples").replaceChildren(...images.map((src, number) => element("button", { type: "button", title: "Choose this sample as the image",
        onclick: () => { const { label } = state; choose(`prior/${state.seed}/${number}`); state.label = label; refresh(); } }, element("img", { src, alt: `sample ${number}` }))));
      drawControls();
    }),
  ];
}

async function start() {
  try {
    info = await ask("info");
  } catch (error) {
    report("info", error.message);
    return;
  }
  state = fromHash();
  sheet = element("img", { src: "thumbnails.png", onload: drawThumbnails,
    onerror: () => report("thumbnails", "the small images could not be loaded") });
  build();
  resources = loaders();
  refresh();
}

start();
