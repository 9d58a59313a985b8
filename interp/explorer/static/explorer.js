// The explorer: a word, every head's map of it, one head's map over the image. One ES module without dependencies:
// `mount` for a page, the default export for anywidget. What it shows comes from interp/explorer/contents.py.

const STEPS = 255;
const Z_TOP = 4; // own scale: z-score over the map's patches, 0 to 4, as in every figure
const NARROW = 18; // a head's tile is at least so many CSS pixels wide

// ---- bytes -------------------------------------------------------------------------------------------------------

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function floats(text) {
  return new Float32Array((await inflate(text)).buffer);
}

function palette(hex) {
  return Uint8Array.from({ length: hex.length / 2 }, (_, i) => parseInt(hex.substr(2 * i, 2), 16));
}

function once(make) {
  const kept = new Map();
  return (key, ...rest) => {
    if (!kept.has(key)) kept.set(key, make(key, ...rest));
    return kept.get(key);
  };
}

// ---- one panel's numbers -----------------------------------------------------------------------------------------

class Panel {
  constructor(about) {
    Object.assign(this, about);
    [this.rows, this.cols] = about.grid;
    this.patches = this.rows * this.cols;
    this.place = new Map(about.shown.map((head, k) => [head, k])); // number of the head -> place among those shown
    this.read = once(async (key) => {
      const [way, unit] = key.split("/").map(Number);
      const [maps, scale] = await Promise.all([inflate(this.ways[way].maps[unit][0]), floats(this.ways[way].maps[unit][1])]);
      return { maps, scale };
    });
    this.scored = once((key) => {
      const cut = key.indexOf("/");
      return floats(this.ways[Number(key.slice(0, cut))].scores[key.slice(cut + 1)]);
    });
    this.bits = once((key) => inflate(key === "peaks" ? this.peaks : this.masks[key]));
  }

  way(state) {
    const fits = (w) => w.query === state.query && w.weighting === state.weighting && w.normalise === state.normalise;
    return this.ways.findIndex(fits);
  }

  // The unit of this panel that goes with a unit of another: the same place in the same answer, or else the same words.
  unitLike(other, unit) {
    if (other === this) return unit;
    if (other.answer === this.answer) return unit < this.units.length ? unit : -1;
    const words = (text) => text.toLowerCase().replace(/^(a|an|the) /, "").trim();
    const wanted = words(other.units[unit].text);
    return this.units.findIndex((u) => words(u.text) === wanted);
  }

  // Values of one head's map, or of the mean of several.
  mean(read, places) {
    const values = new Float64Array(this.patches);
    for (const k of places) {
      const low = read.scale[2 * k], step = (read.scale[2 * k + 1] - low) / STEPS;
      for (let i = 0; i < this.patches; i++) values[i] += (low + step * read.maps[k * this.patches + i]) / places.length;
    }
    return values;
  }

  score(scores, unit, place) {
    return scores[unit * this.shown.length + place];
  }
}

function zScores(values) {
  let sum = 0, squares = 0;
  for (const v of values) sum += v;
  const mean = sum / values.length;
  for (const v of values) squares += (v - mean) ** 2;
  const spread = Math.sqrt(squares / values.length);
  return values.map((v) => (spread > 0 ? (v - mean) / spread : NaN));
}

function highest(values) {
  let best = -1;
  values.forEach((v, i) => { if (Number.isFinite(v) && (best < 0 || v > values[best])) best = i; });
  return best;
}

// ---- small things ------------------------------------------------------------------------------------------------

function make(kind, about = {}, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(about)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function digits(value) {
  if (!Number.isFinite(value)) return "–";
  return Math.abs(value) < 0.001 && value !== 0 ? value.toExponential(1) : value.toFixed(3);
}

const headName = (panel, head) => `L${panel.layers[Math.floor(head / panel.heads)]}H${head % panel.heads}`;
const headPair = (panel, head) => [panel.layers[Math.floor(head / panel.heads)], head % panel.heads];
const wordsOf = (name) => name.replaceAll("_", " ");

// A word whose thing is known, if there is one.
function firstUnit(panel) {
  const known = Object.keys(panel.masks).map(Number);
  return known.length ? Math.min(...known) : 0;
}

// ---- the whole thing ---------------------------------------------------------------------------------------------

export async function mount(root, contents, options = {}) {
  const panels = contents.panels.map((about) => new Panel(about));
  const images = contents.images.map((source) => make("img", { src: source, alt: "" }));
  const colours = { map: palette(contents.colours.map), score: palette(contents.colours.score) };
  const numbers = panels.map((_, i) => i);
  const siblings = (i) => numbers.filter((k) => panels[k].group === panels[i].group && panels[k].step !== null);
  const latest = (i) => siblings(i).at(-1) ?? i;
  const started = panels[0].ways[0];
  const first = latest(0);
  const state = {
    panel: first, beside: -1, unit: firstUnit(panels[first]), head: panels[first].shown[0], picked: [], mean: false,
    query: started.query, weighting: started.weighting, normalise: started.normalise, metric: "",
    scale: "own", grid: "maps", opacity: 0.85, smooth: false, peak: true, outline: true, mask: false,
  };
  const metrics = [...new Set(panels.flatMap((p) => p.ways.flatMap((w) => Object.keys(w.scores))))];
  const rank = (name) => (name.startsWith("specificity") ? 0 : name === "image_mass" ? 1 : 2);
  metrics.sort((a, b) => rank(a) - rank(b));
  state.metric = metrics[0] || "";
  const better = (name) => name.startsWith("specificity") || (contents.metrics[name]?.higher_is_better ?? true);
  let drawing = 0;

  await Promise.all(images.map((image) => image.decode()));
  await lookAtBest();
  read(options.link ? location.hash : "");
  root.classList.add("ix");
  root.textContent = "";
  const said = make("p", { className: "ix-said", role: "status", "aria-live": "polite" });
  const controls = make("div", { className: "ix-controls", role: "group", "aria-label": "What is shown" });
  const steps = make("div", { className: "ix-steps" });
  const folded = make("details", { className: "ix-fold", open: root.clientWidth > 600 }, make("summary", { textContent: "what is shown, and how" }), controls);
  const views = make("div", { className: "ix-views" });
  const chosen = make("div", { className: "ix-chosen" });
  root.append(steps, folded, views, chosen, said);
  buildControls();
  buildSteps();
  buildViews();
  await draw();
  const resized = new ResizeObserver(() => draw());
  resized.observe(views);
  const linked = () => { read(location.hash); buildControls(); buildSteps(); buildViews(); draw(); };
  if (options.link) window.addEventListener("hashchange", linked);

  // The page opens on the head that scores best on its first word.
  async function lookAtBest() {
    const panel = panels[state.panel], way = panel.way(state);
    if (contents.start) { state.head = panel.layers.indexOf(contents.start[0]) * panel.heads + contents.start[1]; return; }
    if (!(state.metric in panel.ways[way].scores)) return;
    const scores = await panel.scored(`${way}/${state.metric}`), sign = better(state.metric) ? 1 : -1;
    const own = panel.shown.map((_, k) => sign * panel.score(scores, state.unit, k));
    const best = highest(own);
    if (best >= 0) state.head = panel.shown[best];
  }

  // ---- state from and to a link: #token=7&head=L3H2

  function read(hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    const panel = () => panels[state.panel];
    if (given.has("panel") && panels[given.get("panel")]) state.panel = Number(given.get("panel"));
    if (given.has("step")) {
      const at = siblings(state.panel).find((i) => panels[i].step === Number(given.get("step")));
      if (at !== undefined) state.panel = at;
    }
    if (given.has("beside") && panels[given.get("beside")]) state.beside = Number(given.get("beside"));
    for (const name of ["query", "weighting", "normalise"]) {
      if (given.has(name) && panel().ways.some((w) => w[name] === given.get(name))) state[name] = given.get(name);
    }
    if (metrics.includes(given.get("metric"))) state.metric = given.get("metric");
    for (const name of ["scale", "grid"]) if (given.has(name)) state[name] = given.get(name);
    if (given.has("token")) {
      const at = unitOfToken(panel(), Number(given.get("token")));
      if (at >= 0) state.unit = at;
    }
    if (given.has("phrase") && panel().units[given.get("phrase")]?.phrase) state.unit = Number(given.get("phrase"));
    const head = (text) => {
      const [, layer, number] = /^L(\d+)H(\d+)$/i.exec(text.replace(" ", "")) || [];
      const row = panel().layers.indexOf(Number(layer));
      const found = row * panel().heads + Number(number);
      return row >= 0 && Number(number) < panel().heads && panel().place.has(found) ? found : -1;
    };
    if (given.has("head") && head(given.get("head")) >= 0) state.head = head(given.get("head"));
    if (given.has("heads")) state.picked = given.get("heads").split(",").map(head).filter((h) => h >= 0);
    if (given.has("mean")) state.mean = state.picked.length > 0;
  }

  function write() {
    const panel = panels[state.panel], unit = panel.units[state.unit];
    const link = new URLSearchParams();
    if (unit.phrase) link.set("phrase", state.unit); else link.set("token", unit.tokens[0]);
    link.set("head", headName(panel, state.head).replace(" ", ""));
    if (state.picked.length) link.set("heads", state.picked.map((h) => headName(panel, h).replace(" ", "")).join(","));
    if (state.mean) link.set("mean", "1");
    if (state.panel !== first) link.set("panel", state.panel);
    if (state.beside >= 0) link.set("beside", state.beside);
    for (const name of ["query", "weighting", "normalise"]) if (state[name] !== started[name]) link.set(name, state[name]);
    if (state.metric !== metrics[0]) link.set("metric", state.metric);
    if (state.scale !== "own") link.set("scale", state.scale);
    if (state.grid !== "maps") link.set("grid", state.grid);
    if (options.link) history.replaceState(null, "", "#" + link.toString());
    options.onPicked?.(picked());
  }

  function picked() {
    return state.picked.map((head) => headPair(panels[state.panel], head));
  }

  function unitOfToken(panel, token) {
    const exact = panel.units.findIndex((u) => u.tokens.length === 1 && u.tokens[0] === token);
    return exact >= 0 ? exact : panel.units.findIndex((u) => u.tokens.includes(token));
  }

  // ---- controls

  function choice(label, name, values, text = wordsOf) {
    const select = make("select", { onchange: () => set({ [name]: typeof state[name] === "number" ? Number(select.value) : select.value }) });
    for (const value of values) select.append(make("option", { value, textContent: text(value), selected: String(value) === String(state[name]) }));
    return values.length > 1 ? [make("label", {}, label, " ", select)] : [];
  }

  function tick(label, name) {
    const box = make("input", { type: "checkbox", checked: state[name], onchange: () => set({ [name]: box.checked }) });
    return make("label", {}, box, " ", label);
  }

  function buildControls() {
    const all = (name) => [...new Set(panels.flatMap((p) => p.ways.map((w) => w[name])))];
    const titles = (i) => (i < 0 ? "nothing" : panels[i].title);
    const opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: state.opacity, "aria-label": "opacity of the map", oninput: () => set({ opacity: Number(opacity.value) }) });
    const groups = [...new Map(numbers.map((i) => [panels[i].group, latest(i)])).values()];
    const here = groups.find((i) => panels[i].group === panels[state.panel].group);
    const group = make("select", { onchange: () => set({ panel: Number(group.value) }) });
    for (const i of groups) group.append(make("option", { value: i, textContent: panels[i].group, selected: i === here }));
    controls.replaceChildren(
      ...(groups.length > 1 ? [make("label", {}, "panel ", group)] : []),
      ...(panels.length > 1 ? choice("beside it", "beside", [-1, ...numbers], titles) : []),
      ...choice("row", "query", all("query"), (q) => (q === "self" ? "the token's own" : "predicts the token")),
      ...choice("maps of", "weighting", all("weighting"), (w) => (w === "value" ? "attention × value" : "attention")),
      ...choice("mean over the answer", "normalise", all("normalise"), (n) => (n === "none" ? "left in" : "subtracted")),
      ...choice("score", "metric", metrics),
      ...choice("heads as", "grid", ["maps", "scores"]),
      ...choice("colours", "scale", ["own", "shared"], (s) => (s === "own" ? "each map's own (z-score)" : "shared by all heads")),
      make("label", {}, "opacity ", opacity),
      tick("peak", "peak"), tick("smooth", "smooth"),
      ...(panels.some((p) => Object.keys(p.masks).length) ? [tick("true mask", "outline")] : []),
      ...(panels.some((p) => p.peaks) ? [tick(`mask at the peak (${panels.find((p) => p.peaks).peaks_by})`, "mask")] : []),
    );
    if (contents.left_out.length) controls.append(make("span", { className: "ix-soft", textContent: `left out for size: ${contents.left_out.join(", ")}` }));
  }

  function buildSteps() {
    const own = siblings(state.panel);
    if (own.length < 2) { steps.replaceChildren(); return; }
    const slider = make("input", {
      type: "range", min: 0, max: own.length - 1, step: 1, className: "ix-step", "aria-label": "checkpoint",
      oninput: () => set({ panel: own[Number(slider.value)] }),
    });
    slider.value = own.indexOf(state.panel);
    const shown = make("b", { textContent: `step ${panels[state.panel].step}` });
    let timer = 0;
    const play = make("button", { type: "button", textContent: "play", onclick: () => {
      play.textContent = timer ? "play" : "stop";
      if (timer) { clearInterval(timer); timer = 0; return; }
      timer = setInterval(() => {
        if (!play.isConnected) { clearInterval(timer); return; }
        slider.value = (Number(slider.value) + 1) % own.length;
        set({ panel: own[slider.value] });
      }, 700);
    } });
    steps.replaceChildren(make("label", {}, "checkpoint ", slider, " ", shown), play);
  }

  function set(change) {
    const before = panels[state.panel], unit = state.unit;
    Object.assign(state, change);
    if ("panel" in change) {
      const at = panels[state.panel].unitLike(before, unit);
      state.unit = at >= 0 ? at : 0;
    }
    if ("panel" in change || "beside" in change) buildViews();
    if ("panel" in change) {
      if (panels[state.panel].group === before.group && steps.firstChild) steps.querySelector("b").textContent = `step ${panels[state.panel].step}`;
      else buildSteps();
    }
    return draw();
  }

  // ---- views: the answer, the image, the heads

  function buildViews() {
    views.replaceChildren();
    for (const index of state.beside >= 0 ? [state.panel, state.beside] : [state.panel]) {
      const panel = panels[index];
      const image = make("canvas", { className: "ix-image", role: "img" });
      const heads = make("canvas", {
        className: "ix-heads", tabIndex: 0, role: "application", "aria-roledescription": "grid of heads",
        "aria-label": "Heads: layers down, heads across. Arrow keys move, space picks.",
      });
      const caption = make("p", { className: "ix-caption" });
      const legend = make("p", { className: "ix-soft" });
      const help = make("p", { className: "ix-soft", textContent: "layers down, heads across · click: look · space or shift-click: pick · arrow keys move" });
      const view = make("article", { className: "ix-view" },
        make("h3", { textContent: panel.title }), answerOf(panel),
        make("div", { className: "ix-pair" }, make("figure", {}, image, caption), make("div", { className: "ix-scroll" }, heads, legend, help)));
      Object.assign(view, { panel, image, heads, caption, legend });
      heads.addEventListener("click", (event) => clicked(view, event));
      heads.addEventListener("keydown", (event) => moved(view, event));
      heads.addEventListener("mousemove", (event) => hovered(view, event));
      views.append(view);
    }
  }

  function answerOf(panel) {
    const line = make("div", { className: "ix-answer", role: "group", "aria-label": "Words of the answer" });
    panel.tokens.forEach((token, i) => {
      const at = unitOfToken(panel, i);
      if (at < 0) { line.append(make("span", { textContent: token })); return; }
      const button = make("button", { type: "button", className: "ix-token", textContent: token, onclick: () => choose(panel, at) });
      button.dataset.unit = at;
      button.dataset.token = i;
      line.append(button);
    });
    const phrases = make("div", { className: "ix-phrases", role: "group", "aria-label": "Phrases" });
    panel.units.forEach((unit, i) => {
      if (!unit.phrase) return;
      const button = make("button", { type: "button", className: "ix-phrase", textContent: unit.text, onclick: () => choose(panel, i) });
      button.dataset.phrase = i;
      phrases.append(button);
    });
    for (const group of [line, phrases]) group.addEventListener("keydown", (event) => walked(group, event));
    return make("div", { className: "ix-words" }, make("span", { className: "ix-soft", textContent: panel.prompt }), line, phrases);
  }

  function choose(panel, unit) {
    const at = panels[state.panel].unitLike(panel, unit);
    if (at >= 0) set({ unit: at });
  }

  function walked(group, event) {
    const turn = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!turn) return;
    event.preventDefault();
    const buttons = [...group.querySelectorAll("button")];
    const next = buttons[Math.min(buttons.length - 1, Math.max(0, buttons.indexOf(document.activeElement) + turn))];
    next.focus();
    next.click();
  }

  function headAt(view, event) {
    const box = view.heads.getBoundingClientRect(), { left, top, tile, tall } = view.layout;
    const col = Math.floor((event.clientX - box.left - left) / tile), row = Math.floor((event.clientY - box.top - top) / tall);
    const head = row * view.panel.heads + col;
    const inside = col >= 0 && col < view.panel.heads && row >= 0 && row < view.panel.layers.length;
    return inside && view.panel.place.has(head) ? head : -1;
  }

  function clicked(view, event) {
    const head = headAt(view, event);
    if (head < 0) return;
    if (event.shiftKey || event.ctrlKey || event.metaKey) pick(head);
    else set({ head, mean: false });
  }

  function hovered(view, event) {
    const head = headAt(view, event);
    view.heads.title = head < 0 ? "" : described(view, head);
  }

  function moved(view, event) {
    const panel = view.panel, rows = panel.layers.length;
    const turn = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === " " || event.key === "Enter") { event.preventDefault(); pick(state.head); return; }
    if (event.key === "Escape") { set({ picked: [], mean: false }); return; }
    if (!turn) return;
    event.preventDefault();
    let row = Math.floor(state.head / panel.heads), col = state.head % panel.heads;
    for (let k = 0; k < Math.max(rows, panel.heads); k++) {
      row = (row + turn[0] + rows) % rows;
      col = (col + turn[1] + panel.heads) % panel.heads;
      if (panel.place.has(row * panel.heads + col)) break;
    }
    set({ head: row * panel.heads + col, mean: false });
  }

  function pick(head) {
    const there = state.picked.includes(head);
    const heads = there ? state.picked.filter((h) => h !== head) : [...state.picked, head];
    set({ picked: heads, head, mean: heads.length > 1 });
  }

  // ---- drawing

  async function draw() {
    const mine = ++drawing;
    root.dataset.state = "drawing";
    const all = await Promise.all([...views.children].map(async (view) => {
      const panel = view.panel, unit = panel.unitLike(panels[state.panel], state.unit), way = panel.way(state);
      const there = unit >= 0 && way >= 0;
      const named = there && state.metric in panel.ways[way].scores;
      const [read, scores, mask, peaks] = await Promise.all([
        there ? panel.read(`${way}/${unit}`) : null,
        named ? panel.scored(`${way}/${state.metric}`) : null,
        there && String(unit) in panel.masks ? panel.bits(String(unit)) : null,
        there && panel.peaks && state.mask ? panel.bits("peaks") : null,
      ]);
      return { view, unit, read, scores, mask, peaks };
    }));
    if (mine !== drawing) return; // something newer is on its way
    for (const one of all) show(one);
    for (const button of root.querySelectorAll(".ix-token, .ix-phrase")) {
      const panel = button.closest(".ix-view").panel, unit = panel.unitLike(panels[state.panel], state.unit);
      const tokens = unit < 0 ? [] : panel.units[unit].tokens;
      const on = "phrase" in button.dataset ? Number(button.dataset.phrase) === unit : tokens.includes(Number(button.dataset.token));
      button.setAttribute("aria-pressed", on);
    }
    showPicked();
    write();
    root.dataset.state = "drawn";
    root.dispatchEvent(new CustomEvent("drawn"));
  }

  function show({ view, unit, read, scores, mask, peaks }) {
    const panel = view.panel;
    Object.assign(view, { unit, read, scores });
    const places = (state.mean ? state.picked : [state.head]).map((h) => panel.place.get(h)).filter((k) => k !== undefined);
    const values = read && places.length ? panel.mean(read, places) : null;
    const peak = values ? highest(values) : -1;
    drawHeads(view);
    drawImage(view, values, peak, state.outline ? mask : null, state.mask ? peaks : null);
    const what = state.mean ? `mean of ${places.length} heads` : described(view, state.head);
    const at = peak < 0 ? "" : ` · highest patch: row ${Math.floor(peak / panel.cols)}, column ${peak % panel.cols}, ${digits(values[peak])}`;
    view.caption.textContent = unit < 0 ? "this answer does not have that word" : read ? what + at : "not recorded in this way";
    view.image.setAttribute("aria-label", unit < 0 ? "the image" : `Map of “${panel.units[unit].text}”: ${view.caption.textContent}`);
    if (view.panel === panels[state.panel]) said.textContent = unit < 0 ? "" : `${panel.units[unit].text}: ${view.caption.textContent}`;
  }

  function described(view, head) {
    const place = view.panel.place.get(head), name = headName(view.panel, head);
    if (!view.scores || place === undefined) return name;
    return `${name} · ${wordsOf(state.metric)} ${digits(view.panel.score(view.scores, view.unit, place))}`;
  }

  function paint(pixels, at, share, table) {
    const k = 3 * Math.round(Math.min(1, Math.max(0, share)) * 255);
    pixels[at] = table[k]; pixels[at + 1] = table[k + 1]; pixels[at + 2] = table[k + 2]; pixels[at + 3] = 255;
  }

  // Every head's map (or score), one pixel a patch, then drawn large without smoothing.
  function drawHeads(view) {
    const panel = view.panel, rows = panel.layers.length, { rows: high, cols: wide } = panel;
    const room = Math.max(160, view.heads.parentElement.clientWidth - 2);
    const left = 30, top = 18, tile = Math.max(NARROW, Math.min(64, Math.floor((room - left) / panel.heads)));
    const bar = 4, tall = Math.max(8, Math.round((tile - 2) * high / wide)) + bar + 2;
    view.layout = { left, top, tile, tall };
    const dense = window.devicePixelRatio || 1, canvas = view.heads;
    canvas.width = Math.round((left + tile * panel.heads) * dense);
    canvas.height = Math.round((top + tall * rows) * dense);
    canvas.style.width = `${left + tile * panel.heads}px`;
    canvas.style.height = `${top + tall * rows}px`;
    const draw = canvas.getContext("2d"), look = getComputedStyle(root);
    draw.scale(dense, dense);
    draw.imageSmoothingEnabled = false;
    draw.font = "11px system-ui, sans-serif";
    draw.fillStyle = look.color;
    const every = Math.ceil(22 / tile), everyRow = Math.ceil(13 / tall);
    draw.textAlign = "center";
    for (let h = 0; h < panel.heads; h += every) draw.fillText(h, left + tile * (h + 0.5), 12);
    draw.textAlign = "right";
    for (let l = 0; l < rows; l += everyRow) draw.fillText(panel.layers[l], left - 6, top + tall * (l + 0.5) + 4);
    const sheet = new OffscreenCanvas(wide, high * panel.shown.length), on = sheet.getContext("2d");
    const range = view.scores ? scoreRange(view) : null;
    view.legend.textContent = range ? `bar under each head: ${wordsOf(state.metric)}, ${digits(range[0])} (dark) to ${digits(range[1])} (yellow); one image is a picture and no evidence` : `no ${wordsOf(state.metric)} here`;
    if (view.read && state.grid === "maps") on.putImageData(mapsAsPixels(view, wide, high), 0, 0);
    panel.shown.forEach((head, k) => {
      const x = left + tile * (head % panel.heads) + 1, y = top + tall * Math.floor(head / panel.heads) + 1;
      const score = view.scores ? panel.score(view.scores, view.unit, k) : NaN;
      const share = range && Number.isFinite(score) ? (score - range[0]) / (range[1] - range[0] || 1) : NaN;
      if (view.read && state.grid === "maps") draw.drawImage(sheet, 0, k * high, wide, high, x, y, tile - 2, tall - bar - 2);
      else fill(draw, share, x, y, tile - 2, tall - bar - 2);
      fill(draw, share, x, y + tall - bar - 2, tile - 2, bar - 1);
      if (state.picked.includes(head)) frame(draw, x, y, tile - 2, tall - 3, "#00d5ff", 2);
      if (head === state.head) frame(draw, x, y, tile - 2, tall - 3, "#ff7a1a", 3);
    });
  }

  function fill(draw, share, x, y, wide, high) {
    const k = 3 * Math.round(Math.min(1, Math.max(0, share)) * 255), t = colours.score;
    draw.fillStyle = Number.isFinite(share) ? `rgb(${t[k]} ${t[k + 1]} ${t[k + 2]})` : "rgb(127 127 127 / 0.25)";
    draw.fillRect(x, y, wide, high);
  }

  function frame(draw, x, y, wide, high, colour, width) {
    draw.strokeStyle = colour;
    draw.lineWidth = width;
    draw.strokeRect(x, y, wide, high);
  }

  function mapsAsPixels(view, wide, high) {
    const { panel, read } = view, pixels = new ImageData(wide, high * panel.shown.length);
    const top = state.scale === "shared" ? sharedTop(view) : 0;
    for (let k = 0; k < panel.shown.length; k++) {
      const start = k * panel.patches, part = read.maps.subarray(start, start + panel.patches);
      const low = read.scale[2 * k], step = (read.scale[2 * k + 1] - low) / STEPS;
      let sum = 0, squares = 0;
      for (const q of part) { sum += q; squares += q * q; }
      const mean = sum / panel.patches, spread = Math.sqrt(Math.max(0, squares / panel.patches - mean * mean));
      if (!Number.isFinite(low) || (!(spread > 0) && !top)) continue; // NaN or constant: nothing to see
      for (let i = 0; i < panel.patches; i++) {
        const share = top ? (low + step * part[i]) / top : (part[i] - mean) / spread / Z_TOP;
        paint(pixels.data, 4 * (start + i), share, colours.map);
      }
    }
    return pixels;
  }

  function sharedTop({ panel, read }) {
    let top = 0;
    for (let k = 0; k < panel.shown.length; k++) if (read.scale[2 * k + 1] > top) top = read.scale[2 * k + 1];
    return top || 1;
  }

  function scoreRange({ panel, scores, unit }) {
    const own = Array.from(scores.subarray(unit * panel.shown.length, (unit + 1) * panel.shown.length)).filter(Number.isFinite);
    if (!own.length) return null;
    const ends = [Math.min(...own), Math.max(...own)];
    return better(state.metric) ? ends : [ends[1], ends[0]];
  }

  function drawImage(view, values, peak, mask, peaks) {
    const panel = view.panel, [height, width] = panel.size, picture = images[panel.image], canvas = view.image;
    const scale = Math.min(3, picture.naturalWidth < 400 ? 3 : 1);
    canvas.width = picture.naturalWidth * scale;
    canvas.height = picture.naturalHeight * scale;
    const draw = canvas.getContext("2d"), by = canvas.width / width;
    draw.filter = values && state.opacity > 0 ? "grayscale(1) brightness(0.75)" : "none";
    draw.drawImage(picture, 0, 0, canvas.width, canvas.height);
    draw.filter = "none";
    if (values) {
      const sheet = new OffscreenCanvas(panel.cols, panel.rows), pixels = new ImageData(panel.cols, panel.rows);
      const shares = state.scale === "shared" ? Array.from(values, (v) => v / sharedTop(view)) : Array.from(zScores(values), (z) => z / Z_TOP);
      shares.forEach((share, i) => {
        paint(pixels.data, 4 * i, share, colours.map);
        pixels.data[4 * i + 3] = Number.isFinite(share) ? 255 * Math.min(1, Math.max(0, share * 1.6)) : 0;
      });
      sheet.getContext("2d").putImageData(pixels, 0, 0);
      const [x0, y0, x1, y1] = panel.box.map((side) => side * by);
      draw.globalAlpha = state.opacity;
      draw.imageSmoothingEnabled = state.smooth;
      draw.imageSmoothingQuality = "high";
      draw.drawImage(sheet, x0, y0, x1 - x0, y1 - y0);
      draw.globalAlpha = 1;
      if (peaks && peak >= 0) edge(draw, canvas, panel, peaks, peak * panel.mask_size[0] * panel.mask_size[1], "#ff5fd2");
      if (state.peak && peak >= 0) cross(draw, x0 + (peak % panel.cols + 0.5) * (x1 - x0) / panel.cols, y0 + (Math.floor(peak / panel.cols) + 0.5) * (y1 - y0) / panel.rows);
    }
    if (mask) edge(draw, canvas, panel, mask, 0, "#00d5ff");
  }

  function cross(draw, x, y) {
    for (const [colour, wide] of [["#fff", 5], ["#000", 2]]) {
      draw.strokeStyle = colour;
      draw.lineWidth = wide;
      draw.beginPath();
      for (const s of [-1, 1]) { draw.moveTo(x - 7, y - 7 * s); draw.lineTo(x + 7, y + 7 * s); }
      draw.stroke();
    }
  }

  // The outline of a mask: the sides of its pixels where it ends. The mask's first bit is `start`.
  function edge(draw, canvas, panel, bits, start, colour) {
    const [high, wide] = panel.mask_size, sx = canvas.width / wide, sy = canvas.height / high;
    const on = (r, c) => r >= 0 && c >= 0 && r < high && c < wide && (bits[(start + r * wide + c) >> 3] >> (7 - ((start + r * wide + c) & 7))) & 1;
    draw.beginPath();
    for (let r = 0; r < high; r++) for (let c = 0; c < wide; c++) {
      if (!on(r, c)) continue;
      if (!on(r - 1, c)) { draw.moveTo(c * sx, r * sy); draw.lineTo((c + 1) * sx, r * sy); }
      if (!on(r + 1, c)) { draw.moveTo(c * sx, (r + 1) * sy); draw.lineTo((c + 1) * sx, (r + 1) * sy); }
      if (!on(r, c - 1)) { draw.moveTo(c * sx, r * sy); draw.lineTo(c * sx, (r + 1) * sy); }
      if (!on(r, c + 1)) { draw.moveTo((c + 1) * sx, r * sy); draw.lineTo((c + 1) * sx, (r + 1) * sy); }
    }
    draw.strokeStyle = colour;
    draw.lineWidth = 2;
    draw.stroke();
  }

  function showPicked() {
    const panel = panels[state.panel], there = state.picked.includes(state.head);
    const option = `--heads ${state.picked.map((h) => headPair(panel, h).join(":")).join(",")}`;
    const copy = make("button", { type: "button", textContent: "copy", onclick: () => navigator.clipboard?.writeText(option) });
    chosen.replaceChildren(
      make("button", { type: "button", textContent: `${there ? "unpick" : "pick"} ${headName(panel, state.head)}`, onclick: () => pick(state.head) }),
      ...(state.picked.length
        ? [make("code", { textContent: option }), copy, make("button", { type: "button", textContent: "clear", onclick: () => set({ picked: [], mean: false }) })]
        : [make("span", { className: "ix-soft", textContent: "pick heads to see their mean" })]),
      ...(state.picked.length > 1 ? [tick(`the image shows the mean of the ${state.picked.length} picked`, "mean")] : []),
    );
  }

  return {
    get state() { return { ...state }; },
    set,
    picked,
    destroy() {
      resized.disconnect();
      window.removeEventListener("hashchange", linked);
      root.textContent = "";
    },
  };
}

export default {
  render({ model, el }) {
    const root = document.createElement("div");
    el.append(root);
    let handle = null, gone = false;
    const onPicked = (heads) => { model.set("picked", heads); model.save_changes(); };
    mount(root, JSON.parse(model.get("contents")), { onPicked }).then((made) => { handle = made; if (gone) made.destroy(); });
    return () => { gone = true; handle?.destroy(); };
  },
};
