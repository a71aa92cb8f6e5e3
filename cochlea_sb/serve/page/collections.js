// Collections: named lists of sounds that are marked with yes or no. This browser keeps them.
import { soundOf } from "./api.js";

let key = "", kept = { current: "favourites", all: {} };
const chooser = document.getElementById("collection");

/** Read the collections of a library: each has its own. */
export function open(library) {
  key = `cochlea collections of ${library}`;
  kept = JSON.parse(localStorage.getItem(key) || "null") || kept;
  show();
}

export function marks() { return kept.all[kept.current] ??= { yes: [], no: [] }; }
export function markOf(id) { const { yes, no } = marks(); return yes.includes(id) ? "yes" : no.includes(id) ? "no" : ""; }
export function name() { return kept.current; }

export function mark(id, answer) {
  const own = marks(), before = markOf(id);
  for (const kind of ["yes", "no"]) own[kind] = own[kind].filter((other) => other !== id);
  if (before !== answer) own[answer].push(id);
  save();
}

export function choose(chosen) { kept.current = chosen; marks(); save(); }

function save() { localStorage.setItem(key, JSON.stringify(kept)); show(); }

export function show() {
  const { yes, no } = marks();
  chooser.replaceChildren(...Object.keys(kept.all).map((one) => new Option(one, one, false, one === kept.current)));
  document.getElementById("marks").textContent = `${yes.length} yes, ${no.length} no`;
  const link = document.getElementById("zip");
  link.href = yes.length ? `/api/collection.zip?${new URLSearchParams(yes.map((id) => ["id", id]))}` : "#";
  link.download = `${kept.current}.zip`;
  for (const id of ["zip", "rank", "doubtful", "show_collection", "save_marks"]) {
    document.getElementById(id).classList.toggle("off", !yes.length);
  }
}

/** Save the marks as two lists of paths, which `cochlea rank` reads. */
export async function saveLists() {
  for (const kind of ["yes", "no"]) {
    const sounds = (await Promise.allSettled(marks()[kind].map(soundOf))).filter((one) => one.value).map((one) => one.value);
    if (!sounds.length) continue;
    const link = document.createElement("a");
    const paths = sounds.map((sound) => `${sound.folder}/${sound.name}`).filter((path) => !/[\r\n]/.test(path));
    const text = paths.map((path) => `${path}\n`).join("");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = `${kept.current}-${kind}.txt`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
