"use strict";
// The map of an atlas. Every text of the data is set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const people = data.ids.length;
const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6bb1", "#a6761d", "#66a61e",
  "#e7298a", "#1b9e9e", "#999933"];
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const STEPS = 32;            // colors of a continuous column
const MISSING = "#9aa0a8";
const PICTURES = 220;        // at most so many people in view are drawn as pictures
const KEPT = 800;            // decoded pictures
const REACH = 14;            // pixels from a pointer to a person

const element = (name) => document.getElementById(name);
const canvas = element("canvas"), tip = element("tip"), card = element("card"), legend = element("legend");
const pen = canvas.getContext("2d");
const state = { column: 0, hidden: new Set(), hovered: -1, selected: -1, zoom: 1, x: 0.5, y: 0.5, width: 1, height: 1 };

function make(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}
const address = (person) => data.pictures.length ? "data:image/webp;base64," + data.pictures[person] : null;

// ---------------------------------------------------------------- places, from 0 to 1 in both directions
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  if (!(high > low)) { const middle = Number.isFinite(low) ? low : 0; low = middle - 0.5; high = middle + 0.5; }
  return [low, high];
}
const spans = [extent(data.x), extent(data.y)];
if (data.square) {
  const size = Math.max(...spans.map(([low, high]) => high - low));
  for (const span of spans) { const middle = (span[0] + span[1]) / 2; span[0] = middle - size / 2; span[1] = middle + size / 2; }
}
const px = Float32Array.from(data.x, (value) => ((value ?? spans[0][0]) - spans[0][0]) / (spans[0][1] - spans[0][0]));
const py = Float32Array.from(data.y, (value) => 1 - ((value ?? spans[1][0]) - spans[1][0]) / (spans[1][1] - spans[1][0]));

function unit() {            // pixels of the whole map at a zoom of 1, in x and y
  const width = state.width - 84, height = state.height - 66;
  const both = Math.min(width, height);
  return data.square ? [both * state.zoom, both * state.zoom] : [width * state.zoom, height * state.zoom];
}
function onScreen(person, [ux, uy]) {
  return [(px[person] - state.x) * ux + state.width / 2, (py[person] - state.y) * uy + state.height / 2];
}

// ---------------------------------------------------------------- colors
function shade(fraction) {
  const place = Math.min(Math.max(fraction, 0), 1) * (SCALE.length - 1), i = Math.min(Math.floor(place), SCALE.length - 2);
  const mixed = SCALE[i].map((value, j) => Math.round(value + (SCALE[i + 1][j] - value) * (place - i)));
  return `rgb(${mixed.join(",")})`;
}
let groups = [];             // {color, code, people}
function group() {
  const column = data.columns[state.column], found = new Map();
  const range = column.values ? extent(column.values) : null;
  const code = (person) => {
    if (!column.values) return column.codes[person];
    const value = column.values[person];
    return value === null ? -1 : Math.round((value / 2 - range[0] / 2) / (range[1] / 2 - range[0] / 2) * (STEPS - 1));  // halves do not overflow
  };
  for (let person = 0; person < people; person++) {
    const key = code(person);
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(person);
  }
  groups = [...found].map(([key, list]) => ({
    code: key, people: list,
    color: key < 0 ? MISSING : column.values ? shade(key / (STEPS - 1)) : COLORS[key % COLORS.length],
  })).sort((a, b) => a.code < 0 ? -1 : b.code < 0 ? 1 : b.people.length - a.people.length);  // rare ones on top
}
function isShown(person) {
  const column = data.columns[state.column];
  return !state.hidden.size || !state.hidden.has(column.values ? (column.values[person] === null ? -1 : 0) : column.codes[person]);
}
const brief = (value) => String(Number(value.toPrecision(4)));
function valueOf(column, person) {
  if (column.values) return column.values[person] === null ? "missing" : brief(column.values[person]);
  return column.codes[person] < 0 ? "missing" : column.levels[column.codes[person]];
}

function drawLegend() {
  const column = data.columns[state.column];
  legend.replaceChildren(make("h2", column.name));
  const entry = (code, text, color, count) => {
    const button = make("button", null, { type: "button", "aria-pressed": String(!state.hidden.has(code)) });
    const dot = make("i");
    dot.style.background = color;
    button.append(dot, make("span", text), make("b", count.toLocaleString("en")));
    button.addEventListener("click", () => {
      state.hidden.has(code) ? state.hidden.delete(code) : state.hidden.add(code);
      button.setAttribute("aria-pressed", String(!state.hidden.has(code)));
      redraw();
    });
    legend.append(button);
  };
  let missing = 0;
  if (column.values) {
    const range = extent(column.values), bar = make("div", null, { class: "scale" }), ends = make("div", null, { class: "ends" });
    bar.style.background = `linear-gradient(90deg,${[0, 0.25, 0.5, 0.75, 1].map(shade).join(",")})`;
    ends.append(...range.map((value) => make("span", brief(value))));
    legend.append(bar, ends);
    missing = column.values.filter((value) => value === null).length;
    if (missing) entry(0, "known", shade(0.5), people - missing);
  } else {
    const counts = new Array(column.levels.length).fill(0);
    for (const code of column.codes) code < 0 ? missing++ : counts[code]++;
    column.levels.forEach((text, code) => entry(code, text, COLORS[code % COLORS.length], counts[code]));
  }
  if (missing) entry(-1, "missing", MISSING, missing);
}

// ---------------------------------------------------------------- drawing
const pictures = new Map();
function picture(person) {
  let found = pictures.get(person);
  if (!found) {
    found = new Image();
    found.onload = redraw;
    found.src = address(person);
    if (pictures.size >= KEPT) pictures.delete(pictures.keys().next().value);
    pictures.set(person, found);
  }
  return found.complete && found.naturalWidth ? found : null;
}
let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}
function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step)), times = step / power;
  return (times < 1.5 ? 1 : times < 3.5 ? 2 : times < 7.5 ? 5 : 10) * power;
}
function drawAxes(size, style) {
  pen.strokeStyle = style.line; pen.fillStyle = style.soft; pen.lineWidth = 1; pen.font = "11px system-ui, sans-serif";
  for (const axis of [0, 1]) {
    const [low, high] = spans[axis], pixels = axis ? state.height : state.width, center = axis ? 1 - state.y : state.x;
    const value = (part) => low + (center + part * pixels / size[axis]) * (high - low);
    const step = nice((value(0.5) - value(-0.5)) / Math.max(pixels / 110, 2)), first = Math.ceil(value(-0.5) / step);
    for (let i = first; i * step <= value(0.5); i++) {
      const place = Math.round(((i * step - low) / (high - low) - center) * size[axis]) + 0.5;
      const at = axis ? state.height / 2 - place : state.width / 2 + place;
      pen.globalAlpha = 0.5; pen.beginPath();
      axis ? (pen.moveTo(0, at), pen.lineTo(state.width, at)) : (pen.moveTo(at, 0), pen.lineTo(at, state.height));
      pen.stroke(); pen.globalAlpha = 1;
      axis ? pen.fillText(brief(i * step), 5, at - 3) : pen.fillText(brief(i * step), at + 3, state.height - 5);
    }
  }
  pen.fillStyle = style.ink; pen.font = "12px system-ui, sans-serif";
  pen.textAlign = "center"; pen.fillText(data.axes[0], state.width / 2, state.height - 20);
  pen.save(); pen.translate(state.width - 10, state.height / 2); pen.rotate(-Math.PI / 2);
  pen.fillText(data.axes[1], 0, 0); pen.restore(); pen.textAlign = "start";
}
function draw() {
  const css = getComputedStyle(document.documentElement), size = unit();
  const style = Object.fromEntries(["ink", "soft", "line", "paper"].map((name) => [name, css.getPropertyValue("--" + name)]));
  pen.clearRect(0, 0, state.width, state.height);
  drawAxes(size, style);
  const inView = [], column = data.columns[state.column], radius = Math.min(2.6 + Math.log2(state.zoom + 1) * 0.7, 7);
  for (const one of groups) {
    if (state.hidden.has(column.values && one.code >= 0 ? 0 : one.code)) continue;
    pen.beginPath();
    for (const person of one.people) {
      const [x, y] = onScreen(person, size);
      if (x < -40 || y < -40 || x > state.width + 40 || y > state.height + 40) continue;
      inView.push([person, x, y, one.color]);
      pen.moveTo(x + radius, y); pen.arc(x, y, radius, 0, 7);
    }
    pen.globalAlpha = 0.8; pen.fillStyle = one.color; pen.fill(); pen.globalAlpha = 1;
  }
  if (data.pictures.length && inView.length <= PICTURES) drawPictures(inView);
  for (const [person, color] of [[state.hovered, style.soft], [state.selected, style.ink]]) {
    if (person < 0) continue;
    const [x, y] = onScreen(person, size);
    pen.strokeStyle = color; pen.lineWidth = 2.5; pen.beginPath(); pen.arc(x, y, radius + 5, 0, 7); pen.stroke();
  }
  if (!document.documentElement.dataset.drawn) document.documentElement.dataset.drawn = String(Math.round(performance.now()));
}
function drawPictures(inView) {
  const side = Math.max(28, Math.min(88, Math.sqrt(state.width * state.height / (inView.length + 1) / 4)));
  for (const [person, x, y, color] of inView) {
    const shown = picture(person);
    if (!shown) continue;
    pen.fillStyle = color; pen.fillRect(x - side / 2 - 2, y - side / 2 - 2, side + 4, side + 4);
    pen.drawImage(shown, x - side / 2, y - side / 2, side, side);
  }
}

// ---------------------------------------------------------------- one person
function nearestTo(x, y, reach) {
  const size = unit();
  let best = -1, least = reach * reach;
  for (let person = 0; person < people; person++) {
    const [a, b] = onScreen(person, size), apart = (a - x) ** 2 + (b - y) ** 2;
    if (apart < least && isShown(person)) { best = person; least = apart; }
  }
  return best;
}
function hover(person, x, y) {
  if (person !== state.hovered) { state.hovered = person; redraw(); }
  tip.hidden = person < 0;
  if (person < 0) return;
  if (tip.dataset.person !== String(person) || tip.dataset.column !== String(state.column)) {
    const column = data.columns[state.column], source = address(person);
    tip.dataset.person = person; tip.dataset.column = state.column;
    tip.replaceChildren(...(source ? [make("img", null, { src: source, alt: data.ids[person] })] : []),
      make("div", data.ids[person]), make("div", `${column.name}: ${valueOf(column, person)}`));
  }
  tip.style.left = `${Math.max(4, x + 16 + tip.offsetWidth > state.width ? x - tip.offsetWidth - 16 : x + 16)}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 12, state.height - tip.offsetHeight - 4))}px`;
}
function select(person, follow) {
  state.selected = person;
  if (person < 0) { card.replaceChildren(make("p", "Nobody is selected.")); redraw(); return; }
  if (follow) reveal(person);
  const table = make("table"), near = make("div", null, { class: "near" }), source = address(person);
  for (const column of data.columns) {
    const row = make("tr");
    row.append(make("th", column.name, { scope: "row" }), make("td", valueOf(column, person)));
    table.append(row);
  }
  data.neighbors[person].forEach((other, i) => {
    const button = make("button", null, { type: "button", "aria-label": `go to ${data.ids[other]}` });
    if (address(other)) button.append(make("img", null, { src: address(other), alt: "" }));
    button.append(make("div", data.ids[other]), make("small", `cosine ${data.cosines[person][i].toFixed(2)}`));
    button.addEventListener("click", () => select(other, true));
    near.append(button);
  });
  card.replaceChildren(make("h2", data.ids[person]), ...(source ? [make("img", null, { src: source, alt: data.ids[person] })] : []),
    table, ...(near.children.length ? [make("h3", "Nearest"), near] : []));
  redraw();
}
function reveal(person) {
  const [x, y] = onScreen(person, unit());
  if (x < 40 || y < 40 || x > state.width - 40 || y > state.height - 40) { state.x = px[person]; state.y = py[person]; }
}

// ---------------------------------------------------------------- moving
function zoom(factor, x, y) {
  const before = unit(), next = Math.min(Math.max(state.zoom * factor, 0.5), 4000);
  if (x === undefined && state.selected >= 0) {  // stay at the selected person, if they are in view
    const [a, b] = onScreen(state.selected, before);
    if (a > 0 && b > 0 && a < state.width && b < state.height) [x, y] = [a, b];
  }
  const dx = (x ?? state.width / 2) - state.width / 2, dy = (y ?? state.height / 2) - state.height / 2;
  state.zoom = next;
  const after = unit();
  state.x += dx / before[0] - dx / after[0]; state.y += dy / before[1] - dy / after[1];
  tip.hidden = true; redraw();
}
function move(dx, dy) { const size = unit(); state.x -= dx / size[0]; state.y -= dy / size[1]; redraw(); }
function showAll() { Object.assign(state, { zoom: 1, x: 0.5, y: 0.5 }); redraw(); }
function step(dx, dy) {      // to the nearest person in a direction
  if (state.selected < 0) { select(nearestTo(state.width / 2, state.height / 2, Infinity), true); return; }
  const size = unit(), [x, y] = onScreen(state.selected, size);
  let best = -1, least = Infinity;
  for (let person = 0; person < people; person++) {
    if (person === state.selected || !isShown(person)) continue;
    const [a, b] = onScreen(person, size), along = (a - x) * dx + (b - y) * dy, across = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
    if (along > 0 && across <= along && along + 2 * across < least) { best = person; least = along + 2 * across; }
  }
  if (best >= 0) select(best, true);
}

const pointers = new Map();
let moved = 0;
function place(event) { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; }
function spread() {
  const [[ax, ay], [bx, by]] = [...pointers.values()];
  return [Math.hypot(ax - bx, ay - by), (ax + bx) / 2, (ay + by) / 2];
}
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, place(event)); moved = pointers.size > 1 ? 99 : 0;
});
canvas.addEventListener("pointermove", (event) => {
  const now = place(event), before = pointers.get(event.pointerId);
  if (!before) { hover(nearestTo(now[0], now[1], REACH), ...now); return; }
  if (pointers.size === 2) {
    const [apart, x, y] = spread();
    pointers.set(event.pointerId, now);
    const [after, nx, ny] = spread();
    move(nx - x, ny - y); zoom(after / Math.max(apart, 1), nx, ny);
    return;
  }
  pointers.set(event.pointerId, now);
  moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
  if (moved > 4) { tip.hidden = true; move(now[0] - before[0], now[1] - before[1]); }
});
function release(event) {
  const held = pointers.delete(event.pointerId);
  if (event.type === "pointerup" && held && moved <= 4) {
    const now = place(event), person = nearestTo(now[0], now[1], REACH);
    select(person, false); hover(event.pointerType === "touch" ? -1 : person, ...now);
  }
}
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, release);
canvas.addEventListener("pointerleave", () => hover(-1));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 16 : 1;
  zoom(Math.exp(-Math.max(-300, Math.min(300, event.deltaY * lines)) * 0.002), ...place(event));
}, { passive: false });
canvas.addEventListener("dblclick", (event) => zoom(2, ...place(event)));
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  if (arrow) event.shiftKey ? move(-60 * arrow[0], -60 * arrow[1]) : step(...arrow);
  else if (event.key === "+" || event.key === "=") zoom(1.5);
  else if (event.key === "-") zoom(1 / 1.5);
  else if (event.key === "0" || event.key === "Home") showAll();
  else if (event.key === "Escape") { select(-1); hover(-1); }
  else return;
  event.preventDefault();
});
element("closer").addEventListener("click", () => zoom(1.6));
element("farther").addEventListener("click", () => zoom(1 / 1.6));
element("all").addEventListener("click", showAll);

// ---------------------------------------------------------------- search and color
const search = element("search"), found = element("found");
function find() {
  const wanted = search.value.trim().toLowerCase();
  found.replaceChildren();
  if (!wanted) return;
  const matches = [];
  data.ids.forEach((name, person) => { if (name.toLowerCase().includes(wanted)) matches.push(person); });
  matches.sort((a, b) => data.ids[a].length - data.ids[b].length || a - b);
  for (const person of matches.slice(0, 8)) {
    const item = make("li"), button = make("button", data.ids[person], { type: "button" });
    button.addEventListener("click", () => { found.replaceChildren(); search.value = data.ids[person]; select(person, true); canvas.focus(); });
    item.append(button);
    found.append(item);
  }
  const more = matches.length ? (matches.length > 8 ? `and ${(matches.length - 8).toLocaleString("en")} more` : "") : "nobody has such an id";
  if (more) { const item = make("li"); item.append(make("p", more)); found.append(item); }
}
search.addEventListener("input", find);
search.addEventListener("keydown", (event) => {
  if (event.key === "Enter") found.querySelector("button")?.click();
  else if (event.key === "ArrowDown") { event.preventDefault(); found.querySelector("button")?.focus(); }
  else if (event.key === "Escape") { search.value = ""; find(); }
});
document.addEventListener("click", (event) => { if (!event.target.closest(".search")) found.replaceChildren(); });

const color = element("color");
data.columns.forEach((column, i) => color.append(make("option", column.name, { value: i })));
function setColumn(index) { state.column = index; state.hidden.clear(); color.value = index; group(); drawLegend(); redraw(); }
color.addEventListener("change", () => setColumn(Number(color.value)));

function resize() {
  const ratio = devicePixelRatio || 1;
  state.width = canvas.clientWidth; state.height = canvas.clientHeight;
  canvas.width = Math.round(state.width * ratio); canvas.height = Math.round(state.height * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  redraw();
}
new ResizeObserver(resize).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
resize();
setColumn(data.first);
select(-1);
