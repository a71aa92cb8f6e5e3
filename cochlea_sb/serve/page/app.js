// The page of `cochlea serve`: what the address asks for, the keys, and the buttons.
import { FILTERS, address, ask, outlineOf, parsed, say, soundOf } from "./api.js";
import { card, cardOf, cards, clear, columns, drawWave, facts, likeThis, move, results, showMark, showSelected } from "./cards.js";
import * as collections from "./collections.js";
import * as map from "./map.js";
import { audio, current, onSelect, play, toggle } from "./player.js";
import { record } from "./recorder.js";

const PAGE = 24, TEXT = "text:";
const form = document.getElementById("filters"), wave = document.getElementById("wave");
const byId = (id) => document.getElementById(id);
const names = new Map();       // uploaded examples -> their names
let shown = 0, turn = 0, polling = 0;

// ------------------------------------------------------------ the address

function filters() {
  const values = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value) values.set(name, value);
  return values;
}

/** Go to a query: `{like: [...], yes: [...], no: [...], doubtful, view, seed}`, with the filters of the form. */
function go(query) {
  const next = filters();
  for (const [name, value] of Object.entries(query)) for (const one of [value].flat()) if (one) next.append(name, one);
  history.pushState(null, "", `/?${next}`);
  return show();
}

const likes = () => address().getAll("like");
const others = (sound) => likes().filter((text) => parsed(text).place !== likeThis(sound));
const like = (sound) => go({ like: likeThis(sound) });
const random = () => go({ seed: String(Math.floor(Math.random() * 1e9)) });
const actions = { like, inFolder: (folder) => { form.elements.folder.value = folder; go(asked()); } };

/** The query of the address, without the filters. */
function asked() {
  const now = address(), query = {};
  for (const name of new Set(now.keys())) if (!FILTERS.includes(name)) query[name] = now.getAll(name);
  return query;
}

async function show() {
  const now = address();
  for (const field of form.elements) {
    if (!FILTERS.includes(field.name)) continue;
    if (field.type === "checkbox") field.checked = now.has(field.name);
    else field.value = now.get(field.name) || "";
  }
  if (!now.size) {
    history.replaceState(null, "", `/?fold_copies=1&seed=${Math.floor(Math.random() * 1e9)}`);
    return show();
  }
  clear();
  shown = 0;
  const mine = ++polling;
  byId("next").hidden = now.has("view");
  if (now.get("view") === "duplicates" && map.isOpen()) toggleMap();
  showLibrary().catch((error) => say(error.message));
  await showQuery();
  try {
    if (now.get("view") === "duplicates") await showDuplicates(mine);
    else if (now.get("view") === "collection") await showCollection();
    else await more();
  } catch (error) { say(error.message); }
  if (document.activeElement === document.body) cards()[0]?.focus({ preventScroll: true });
}

/** How many sounds the library holds now, and their labels. */
async function showLibrary() {
  const library = await ask("/api/library"), field = form.elements.label, chosen = field.value;
  byId("facts").textContent = `${library.sounds.toLocaleString()} sounds`;
  byId("describe").hidden = !library.takes_text;
  if (field.options.length !== library.labels.length + 1) {
    field.replaceChildren(new Option("all", ""), ...library.labels.map((label) => new Option(label, label)));
    field.value = chosen || address().get("label") || "";
  }
  return library;
}

async function showQuery() {
  const all = likes();
  const parts = await Promise.all(all.map(async (text, place) => {
    const example = parsed(text), chip = document.createElement("span");
    chip.className = example.weight < 0 ? "example less" : "example";
    let title = names.get(example.id) || "your sound";
    if (example.id.startsWith(TEXT)) title = `“${example.id.slice(TEXT.length)}”`;
    else if (!example.id.startsWith("u")) title = await soundOf(example.id).then((sound) => sound.name, () => "a removed sound");
    const name = document.createElement("span");
    name.textContent = example.part ? `${title} ${example.start.toFixed(2)}–${example.end.toFixed(2)} s` : title;
    const weight = document.createElement("input");
    Object.assign(weight, { type: "number", step: "0.25", value: example.weight, title: "Weight; below 0: less of this" });
    weight.setAttribute("aria-label", `Weight of ${title}`);
    weight.onchange = () => go({ ...asked(), like: all.with(place, Number(weight.value) === 1 ? example.place : `${example.place}*${Number(weight.value)}`) });
    const remove = document.createElement("button");
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${title} from the query`);
    remove.onclick = () => { const rest = all.filter((_, other) => other !== place); rest.length ? go({ ...asked(), like: rest }) : random(); };
    chip.append(name, weight, remove);
    return chip;
  }));
  const now = address(), word = document.createElement("span");
  if (now.has("yes")) word.textContent = now.has("doubtful") ? "Sounds to mark next: the ranking is least sure of them" : `Ranked by ${now.getAll("yes").length} yes and ${now.getAll("no").length} no`;
  else if (now.get("view") === "collection") word.textContent = `The collection “${collections.name()}”`;
  else if (now.get("view") === "duplicates") word.textContent = "Files that hold the same sound";
  else if (!all.length) word.textContent = "Random sounds";
  else word.textContent = "Like";
  byId("query").replaceChildren(word, ...parts);
}

async function more() {
  const mine = ++turn, wanted = address();
  wanted.set("k", PAGE);
  wanted.set("skip", shown);
  const kind = wanted.has("like") ? "search" : wanted.has("yes") ? "rank" : "browse";
  try {
    const found = (await ask(`/api/${kind}?${wanted}`)).results;
    if (mine !== turn) return;
    shown += found.length;
    results.append(...found.map((sound) => card(sound, actions)));
    say(found.length ? "" : shown ? "No more sounds." : "Nothing found: change the filters.");
    byId("more").disabled = found.length < PAGE || wanted.has("doubtful");
    onMap();
  } catch (error) { say(error.message); byId("more").disabled = true; }
}

async function showDuplicates(mine) {
  for (;;) {
    const { done, groups } = await ask("/api/duplicates");
    if (mine !== polling) return;
    if (done < 1) {
      say(`Comparing sounds: ${Math.round(100 * done)} % ...`);
      await new Promise((next) => setTimeout(next, 1000));
      if (mine !== polling) return;
      continue;
    }
    say(groups.length ? `${groups.length} groups of the same sound. Nothing is deleted here.` : "No sound is here twice.");
    for (const group of groups.slice(0, 500)) {
      const made = document.createElement("section");
      made.className = "group";
      made.setAttribute("aria-label", `${group.length} files of the same sound`);
      made.append(...group.map((sound) => card(sound, actions)));
      results.append(made);
    }
    return;
  }
}

async function showCollection() {
  const { yes, no } = collections.marks();
  for (const [title, ids] of [["Yes", yes], ["No", no]]) {
    const found = (await Promise.allSettled(ids.map(soundOf))).filter((one) => one.value).map((one) => one.value);
    if (!found.length) continue;
    const made = document.createElement("section");
    made.className = "group";
    made.setAttribute("aria-label", title);
    made.append(...found.map(({ start, end, score, copies, ...sound }) => card(sound, actions)));
    results.append(made);
  }
  say(yes.length ? "" : "Nothing is marked yet: press f on a sound.");
  onMap();
}

// ------------------------------------------------------------ the player at the bottom

onSelect((sound) => {
  byId("player").hidden = false;
  byId("now_name").textContent = sound.name;
  byId("now_folder").textContent = `${sound.folder} · ${facts(sound)}`;
  byId("download").href = `/api/sounds/${sound.id}/file`;
  byId("download").download = sound.name;
  showSelected(sound);
  map.select(sound.id);
  part = null;
  drawPlayer();
});

let part = null;               // the part that is being selected, in seconds
async function drawPlayer() {
  if (!current) return;
  const sound = current, outline = await outlineOf(sound.id).catch(() => null);
  if (outline && sound === current) drawWave(wave, outline, part ? { ...sound, ...part } : sound, audio.currentTime);
}
function follow() { if (!audio.paused) { drawPlayer(); requestAnimationFrame(follow); } }
audio.addEventListener("playing", () => { byId("player").classList.add("playing"); follow(); });
for (const name of ["pause", "ended"]) audio.addEventListener(name, () => { byId("player").classList.remove("playing"); drawPlayer(); });
audio.addEventListener("error", () => { if (audio.error && current) say(`${current.name} can't be played: its file may be gone.`); });
new ResizeObserver(() => { wave.width = Math.max(240, wave.clientWidth); drawPlayer(); }).observe(wave);

const secondAt = (event) => {
  const box = wave.getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * current.seconds;
};
let pressed = null;
wave.onpointerdown = (event) => { if (current) { wave.setPointerCapture(event.pointerId); pressed = secondAt(event); } };
wave.onpointermove = (event) => {
  if (pressed === null) return;
  const second = secondAt(event);
  part = { start: Math.min(pressed, second), end: Math.max(pressed, second) };
  drawPlayer();
};
wave.onpointerup = (event) => {
  if (pressed === null) return;
  const from = pressed;
  pressed = null;
  if (part && part.end - part.start > Math.max(0.05, current.seconds / 100)) askPart();
  else { part = null; play(current, from); }
};
function askPart() { go({ like: `${current.id},${part.start.toFixed(3)},${Math.min(part.end, current.seconds).toFixed(3)}` }); }

// ------------------------------------------------------------ keys

const keys = {
  ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => move(columns()), ArrowUp: () => move(-columns()),
  " ": () => { const focused = document.activeElement?.sound; focused && focused.id !== current?.id ? play(focused) : toggle(); },
  m: () => selected((sound) => like(sound)),
  a: () => selected((sound) => go({ like: [...others(sound), likeThis(sound)] })),
  x: () => selected((sound) => others(sound).length ? go({ like: [...others(sound), `${likeThis(sound)}*-0.5`] }) : say("Ask for something first: then x takes away what is like this.")),
  "[": () => selected(() => { part = { start: audio.currentTime, end: current.seconds }; drawPlayer(); }),
  "]": () => selected(() => { part = { start: part?.start ?? 0, end: audio.currentTime }; part.end > part.start ? askPart() : say("The part is empty: press [ at its start and ] at its end."); }),
  f: () => selected((sound) => mark(sound, "yes")),
  n: () => selected((sound) => mark(sound, "no")),
  k: () => rank(false),
  l: () => byId("more").disabled ? say("No more sounds.") : more(),
  o: () => document.activeElement?.querySelector?.(".copies")?.click(),
  c: () => selected(async (sound) => {
    try { await navigator.clipboard.writeText(`${sound.folder}/${sound.name}`); say("The path is copied."); }
    catch { say(`${sound.folder}/${sound.name}`); }
  }),
  d: () => selected(() => byId("download").click()),
  g: () => toggleMap(),
  0: () => map.reset(),
  r: () => random(),
  "/": () => form.elements.words.focus(),
  "?": () => byId("keys").showModal(),
};

function selected(action) {
  const sound = document.activeElement?.sound || current;
  if (sound) { if (sound !== current && sound.id !== current?.id) play(sound); action(sound); } else say("Select a sound first.");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  if (event.target.matches("input, select")) { if (event.key === "Escape") event.target.blur(); return; }
  if (event.key === " " && event.target.matches("button, a")) return;
  if (event.key === "Enter" && event.target.sound) play(event.target.sound);
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
for (const button of document.querySelectorAll("#actions button")) button.onclick = () => { button.blur(); keys[button.dataset.key](); };

// ------------------------------------------------------------ marks and collections

function mark(sound, answer) {
  collections.mark(sound.id, answer);
  const made = cardOf(sound.id);
  if (made) showMark(made);
}

function rank(doubtful) {
  const { yes, no } = collections.marks();
  if (!yes.length) return say("Nothing is marked yet: press f on a sound that you want.");
  go({ yes, no, doubtful: doubtful ? "1" : "" });
}

byId("rank").onclick = () => rank(false);
byId("doubtful").onclick = () => rank(true);
byId("show_collection").onclick = () => go({ view: "collection" });
byId("save_marks").onclick = () => collections.saveLists();
byId("new_collection").onclick = () => {
  const name = prompt("Name of the new collection");
  if (name) { collections.choose(name.slice(0, 60)); cards().forEach(showMark); }
};
byId("collection").onchange = (event) => { collections.choose(event.target.value); cards().forEach(showMark); };
byId("zip").onclick = (event) => { if (event.target.getAttribute("href") === "#") event.preventDefault(); };

// ------------------------------------------------------------ the map

async function toggleMap() {
  byId("show_map").setAttribute("aria-pressed", String(!map.isOpen()));
  if (map.isOpen()) return map.close();
  try { await map.open(byId("by").value); onMap(); } catch (error) { map.close(); say(error.message); }
}

function onMap() {
  if (!map.isOpen()) return;
  map.highlight(cards().map((made) => made.sound.id), likes().map((text) => parsed(text).id));
  if (current) map.select(current.id);
}

map.onPick((sound) => play(cardOf(sound.id)?.sound || { ...sound, start: undefined }));
byId("show_map").onclick = toggleMap;
byId("colour").onchange = () => map.recolour();
byId("by").onchange = () => map.open(byId("by").value).then(onMap, (error) => say(error.message));

// ------------------------------------------------------------ asking by a file or a recording

async function upload(blob, name) {
  say(`Listening to ${name} ...`);
  try {
    const { id } = await ask("/api/examples", { method: "POST", body: blob });
    names.set(id, name);
    say("");
    await go({ like: id });
  } catch (error) { say(error.message.replace("<bytes>", name)); }
}

const fromOutside = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => { if (fromOutside(event)) { event.preventDefault(); document.body.classList.add("dropping"); } });
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  if (!fromOutside(event)) return;
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) upload(file, file.name);
});
byId("open").onclick = () => byId("file").click();
byId("file").onchange = (event) => { if (event.target.files[0]) upload(event.target.files[0], event.target.files[0].name); event.target.value = ""; };
byId("describe").onsubmit = (event) => {
  event.preventDefault();
  const words = new FormData(event.target).get("text").replace(/[*,]/g, " ").trim();  // both mean something in an example
  if (words) go({ like: TEXT + words });
};
byId("record").onclick = (event) => record(event.target, upload);

// ------------------------------------------------------------ start

byId("browse").onclick = random;
byId("more").onclick = () => more();
byId("help").onclick = () => byId("keys").showModal();
byId("show_duplicates").onclick = () => go({ view: "duplicates" });
form.onchange = (event) => { if (event.target.name) go(asked()); else if (current) play(current); };
form.onsubmit = (event) => { event.preventDefault(); go(asked()); };
window.onpopstate = show;
byId("tools").open = innerWidth > 600;
addEventListener("resize", () => { if (innerWidth > 600) byId("tools").open = true; });
try {
  collections.open((await showLibrary()).id);
  await show();
} catch (error) { say(error.message); }
