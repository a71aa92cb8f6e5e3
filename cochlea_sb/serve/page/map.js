// The map: a point for each sound, drawn by WebGL; names and marks are drawn on a canvas above it.
import { ask, say, soundOf } from "./api.js";

const STRIDE = 14, GRID = 256, REACH = 14;   // bytes of a point; cells for picking; pixels
const COLOURS = ["#3b82f6", "#ef4444", "#10b981", "#f59e0b", "#8b5cf6", "#ec4899", "#14b8a6", "#f97316", "#84cc16", "#06b6d4",
                 "#a855f7", "#94a3b8"];
const NAMED = [0.1, 1.6, 5, 1e9];              // zooms at which the names of a level begin to show; the last ends
const section = document.getElementById("map"), base = document.getElementById("points"), over = document.getElementById("names");
let facts = null, bytes = null, places = null, ids = null, cells = null, gl = null, program = null;
let zoom = 1, middle = [0.5, 0.5], drawing = false, marked = { results: [], query: [] }, selected = null, pick = () => {};

export function onPick(listener) { pick = listener; }
export const state = { ready: false, frames: 0 };

export async function open(by) {
  section.hidden = false;
  state.ready = false;
  say("Drawing the map ...");
  const started = performance.now();
  do {
    facts = await ask(`/api/map?by=${by}`);
    if (facts.ready) break;
    say(`Placing the sounds, once: ${Math.round((performance.now() - started) / 1000)} s ...`);
    await new Promise((done) => setTimeout(done, 1000));
  } while (!section.hidden);
  if (section.hidden) return;
  const answer = await fetch(`/api/map/points?by=${by}`);
  bytes = await answer.arrayBuffer();
  const view = new DataView(bytes), count = facts.count;
  places = new Float32Array(2 * count);
  for (let i = 0; i < count; i++) {
    places[2 * i] = view.getUint16(STRIDE * i, true) / 65535;
    places[2 * i + 1] = view.getUint16(STRIDE * i + 2, true) / 65535;
  }
  ids = null;
  index();
  start();
  say("");
  state.ready = true;
  reset();
}

/** Show the whole map. */
export function reset() { zoom = 1; middle = [0.5, 0.5]; draw(); }

export function close() { section.hidden = true; }
export function isOpen() { return !section.hidden; }

function idOf(i) {
  return [...new Uint8Array(bytes, STRIDE * i + 6, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function numberOf(id) {
  if (!ids) { ids = new Map(); for (let i = 0; i < facts.count; i++) ids.set(idOf(i), i); }
  return ids.get(id);
}

/** Sort the points into GRID x GRID cells, so that a pointer looks at a few of them. */
function index() {
  const count = facts.count, cell = (i) => Math.min(GRID - 1, places[2 * i + 1] * GRID | 0) * GRID + Math.min(GRID - 1, places[2 * i] * GRID | 0);
  const first = new Uint32Array(GRID * GRID + 1), order = new Uint32Array(count);
  for (let i = 0; i < count; i++) first[cell(i) + 1]++;
  for (let c = 0; c < GRID * GRID; c++) first[c + 1] += first[c];
  const next = first.slice();
  for (let i = 0; i < count; i++) order[next[cell(i)]++] = i;
  cells = { first, order };
}

function size() { return [base.clientWidth, base.clientHeight]; }
function scale() { return zoom * Math.min(...size()) * 0.96; }
function toPixels(x, y) { const [w, h] = size(), s = scale(); return [(x - middle[0]) * s * w / Math.min(w, h) + w / 2, (y - middle[1]) * s * h / Math.min(w, h) + h / 2]; }
function toPlace(px, py) { const [w, h] = size(), s = scale(); return [(px - w / 2) / s / w * Math.min(w, h) + middle[0], (py - h / 2) / s / h * Math.min(w, h) + middle[1]]; }

/** The nearest point within REACH pixels, or -1. */
export function nearest(px, py) {
  const [x, y] = toPlace(px, py), [x1, y1] = toPlace(px + REACH, py + REACH);
  const across = Math.abs(x1 - x), down = Math.abs(y1 - y), inside = (v) => Math.min(GRID - 1, Math.max(0, v * GRID | 0));
  let best = -1, least = REACH * REACH;
  for (let row = inside(y - down); row <= inside(y + down); row++) {
    for (let at = cells.first[row * GRID + inside(x - across)]; at < cells.first[row * GRID + inside(x + across) + 1]; at++) {
      const i = cells.order[at], [qx, qy] = toPixels(places[2 * i], places[2 * i + 1]);
      const far = (qx - px) ** 2 + (qy - py) ** 2;
      if (far < least) { least = far; best = i; }
    }
  }
  return best;
}

// ------------------------------------------------------------ drawing

function start() {
  gl ??= base.getContext("webgl", { antialias: false, preserveDrawingBuffer: true });
  if (!gl) return say("This browser has no WebGL: the map can't be drawn.");
  if (!program) {
    const compile = (kind, text) => { const shader = gl.createShader(kind); gl.shaderSource(shader, text); gl.compileShader(shader); return shader; };
    program = gl.createProgram();
    gl.attachShader(program, compile(gl.VERTEX_SHADER, `
      attribute vec2 place; attribute float group; uniform vec2 middle, scale; uniform float size; uniform vec3 colours[12];
      varying vec3 colour;
      void main() {
        vec2 p = (place - middle) * scale;
        gl_Position = vec4(p.x, -p.y, 0.0, 1.0); gl_PointSize = size; colour = colours[int(min(group, 11.0))];
      }`));
    gl.attachShader(program, compile(gl.FRAGMENT_SHADER, `
      precision mediump float; varying vec3 colour;
      void main() { gl_FragColor = vec4(colour, 1.0) * 0.75 * smoothstep(0.55, 0.4, length(gl_PointCoord - 0.5)); }`));
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    const values = COLOURS.flatMap((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255));
    gl.uniform3fv(gl.getUniformLocation(program, "colours"), values);
  }
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, bytes, gl.STATIC_DRAW);
  const place = gl.getAttribLocation(program, "place");
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, 2, gl.UNSIGNED_SHORT, true, STRIDE, 0);
  recolour();
}

export function recolour() {
  const kind = document.getElementById("colour").value, group = gl.getAttribLocation(program, "group");
  gl.enableVertexAttribArray(group);
  gl.vertexAttribPointer(group, 1, gl.UNSIGNED_BYTE, false, STRIDE, kind === "label" ? 4 : 5);
  const shown = facts[`${kind}s`], dots = shown.map((text, number) => {
    const dot = document.createElement("span");
    dot.style.setProperty("--dot", COLOURS[number]);
    dot.textContent = kind === "label" ? text : text.split("/").pop();
    dot.title = text;
    return dot;
  });
  document.getElementById("legend").replaceChildren(...dots);
  draw();
}

export function draw() {
  if (drawing || section.hidden || !state.ready) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; state.frames++; paint(); });
}

function paint() {
  const [w, h] = size(), ratio = devicePixelRatio || 1;
  for (const canvas of [base, over]) if (canvas.width !== w * ratio || canvas.height !== h * ratio) { canvas.width = w * ratio; canvas.height = h * ratio; }
  if (gl) {
    const spread = 2 * zoom * 0.96;
    gl.viewport(0, 0, base.width, base.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(gl.getUniformLocation(program, "middle"), ...middle);
    gl.uniform2f(gl.getUniformLocation(program, "scale"), spread, spread);
    gl.uniform1f(gl.getUniformLocation(program, "size"), ratio * Math.min(12, Math.max(2, 60 * Math.sqrt(zoom) / Math.sqrt(facts.count) + 1.5)));
    gl.drawArrays(gl.POINTS, 0, facts.count);
  }
  const pen = over.getContext("2d"), style = getComputedStyle(document.documentElement);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, w, h);
  const taken = [];
  for (const { x, y, name, level } of facts.regions) {
    const alpha = Math.min(1, Math.max(0, zoom / NAMED[level] - 1), Math.max(0, 2 - zoom / NAMED[level + 1])), [px, py] = toPixels(x, y);
    pen.font = `600 ${level ? 12 : 15}px system-ui, sans-serif`;
    const half = pen.measureText(name).width / 2;
    if (!alpha || taken.some((box) => Math.abs(box.py - py) < 18 && Math.abs(box.px - px) < box.half + half + 6)) continue;
    taken.push({ px, py, half });
    pen.globalAlpha = alpha;
    pen.lineWidth = 4; pen.strokeStyle = style.getPropertyValue("--back"); pen.fillStyle = style.getPropertyValue("--fore");
    pen.textAlign = "center";
    pen.strokeText(name, px, py); pen.fillText(name, px, py);
  }
  pen.globalAlpha = 1;
  const ring = (id, radius, width, colour) => {
    const i = numberOf(id);
    if (i === undefined) return;
    const [px, py] = toPixels(places[2 * i], places[2 * i + 1]);
    pen.beginPath(); pen.arc(px, py, radius, 0, 7); pen.lineWidth = width; pen.strokeStyle = colour; pen.stroke();
  };
  const fore = style.getPropertyValue("--fore"), strong = style.getPropertyValue("--strong");
  for (const id of marked.results) ring(id, 5, 1.5, fore);
  for (const id of marked.query) ring(id, 9, 3, "#e11d48");
  if (selected) ring(selected, 8, 3, strong);
}

/** Show the results and the query of the list on the map. */
export function highlight(results, query) { marked = { results, query }; draw(); }
export function select(id) { selected = id; draw(); }

// ------------------------------------------------------------ the pointer

const pointers = new Map();
let moved = 0, heard = -1;

function inside(value) { return Math.min(1, Math.max(0, value)); }
function at(event) { const box = over.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; }

async function hear(i) { if (i >= 0) pick(await soundOf(idOf(i))); }

over.addEventListener("pointerdown", (event) => { over.setPointerCapture(event.pointerId); pointers.set(event.pointerId, at(event)); moved = 0; });
over.addEventListener("pointermove", (event) => {
  const [x, y] = at(event), before = pointers.get(event.pointerId);
  if (!state.ready) return;
  if (before) {
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (others.length) zoomAt(...others[0], Math.hypot(x - others[0][0], y - others[0][1]) / Math.max(1, Math.hypot(before[0] - others[0][0], before[1] - others[0][1])));
    else { const [ax, ay] = toPlace(...before), [bx, by] = toPlace(x, y); middle = [inside(middle[0] + ax - bx), inside(middle[1] + ay - by)]; }
    moved += Math.hypot(x - before[0], y - before[1]);
    pointers.set(event.pointerId, [x, y]);
    draw();
  } else if (event.shiftKey) {
    const i = nearest(x, y);
    if (i >= 0 && i !== heard) { heard = i; hear(i); }
  }
});
over.addEventListener("pointerup", (event) => { pointers.delete(event.pointerId); if (moved < 4 && state.ready) hear(nearest(...at(event))); });
over.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
over.addEventListener("wheel", (event) => { event.preventDefault(); zoomAt(...at(event), Math.exp(-event.deltaY / 400)); }, { passive: false });
over.addEventListener("dblclick", reset);
addEventListener("resize", draw);

export function zoomAt(px, py, factor) {
  const [x, y] = toPlace(px, py);
  zoom = Math.min(200, Math.max(0.5, zoom * factor));
  const [nx, ny] = toPlace(px, py);
  middle = [inside(middle[0] + x - nx), inside(middle[1] + y - ny)];
  draw();
}
