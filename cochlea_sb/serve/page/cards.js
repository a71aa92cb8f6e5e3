// Cards: one for each sound, with its waveform and the matching stretch.
import { outlineOf, remember, say } from "./api.js";
import { current, play } from "./player.js";
import { markOf } from "./collections.js";

export const results = document.getElementById("results");

export function facts(sound) {
  const parts = [`${sound.seconds.toFixed(2)} s`];
  if (sound.score !== undefined) parts.push(sound.score.toFixed(3));
  if (sound.label) parts.push(sound.label);
  if (sound.sample_rate) parts.push(`${sound.sample_rate.toLocaleString()} Hz`);
  if (sound.encoding) parts.push(sound.encoding);
  if (sound.size) parts.push(`${sound.size.toLocaleString()} bytes`);
  return parts.join(" · ");
}

/** What to write into the query for a sound: a long sound is asked for by its matching stretch. */
export function likeThis(sound) {
  return sound.start === undefined || sound.seconds < 1.5 ? sound.id : `${sound.id},${sound.start},${sound.end}`;
}

function element(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) { made.textContent = text; made.title = text; }
  return made;
}

export function card(sound, actions) {
  remember(sound);
  const made = element("article", "card");
  made.tabIndex = 0;
  made.sound = sound;
  made.draggable = true;
  made.setAttribute("aria-label", `${sound.name}, ${facts(sound)}`);
  const folder = element("button", "folder", sound.folder);
  folder.tabIndex = -1;
  folder.onclick = (event) => { event.stopPropagation(); actions.inFolder(sound.folder); };
  const canvas = element("canvas");
  canvas.width = 480; canvas.height = 96;
  const more = element("button", "more", "More like this");
  more.tabIndex = -1;
  more.onclick = (event) => { event.stopPropagation(); actions.like(sound); };
  const line = element("div", "line");
  line.append(element("span", "facts", facts(sound)), more);
  made.append(element("div", "name", sound.name), folder, canvas, line);
  if (sound.copies?.length) {
    const open = element("button", "copies", `and ${sound.copies.length} like it`);
    open.tabIndex = -1;
    open.onclick = (event) => {
      event.stopPropagation();
      open.remove();
      made.after(...sound.copies.map((copy) => card(copy, actions)));
    };
    made.append(open);
  }
  made.onclick = () => { made.focus(); play(sound); };
  made.ondragstart = (event) => {
    const url = new URL(`/api/sounds/${sound.id}/file`, location).href;
    event.dataTransfer.setData("DownloadURL", `application/octet-stream:${sound.name.replaceAll(":", "_")}:${url}`);
    event.dataTransfer.setData("text/plain", `${sound.folder}/${sound.name}`);
  };
  showMark(made);
  seen.observe(made);
  return made;
}

export function showMark(made) {
  const mark = markOf(made.sound.id);
  made.classList.toggle("yes", mark === "yes");
  made.classList.toggle("no", mark === "no");
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); drawCard(entry.target); }
}, { rootMargin: "300px" });

let drawing = new AbortController();

/** Remove all cards, and end their requests: a browser sends six at a time, and the next query must not wait. */
export function clear() {
  drawing.abort();
  drawing = new AbortController();
  results.replaceChildren();
}

async function drawCard(made) {
  const canvas = made.querySelector("canvas");
  try { drawWave(canvas, await outlineOf(made.sound.id, drawing.signal), made.sound); } catch (error) { canvas.title = error.message; }
}

/** Draw a waveform, a stretch (`start`, `end` in seconds), and the playhead `at` in seconds. */
export function drawWave(canvas, { outline }, { seconds, start, end }, at) {
  const pen = canvas.getContext("2d"), { width, height } = canvas, step = width / outline.length;
  const style = getComputedStyle(document.documentElement);
  pen.clearRect(0, 0, width, height);
  if (start !== undefined) {
    pen.fillStyle = style.getPropertyValue("--stretch");
    pen.fillRect(width * start / seconds, 0, Math.max(3, width * (end - start) / seconds), height);
  }
  pen.fillStyle = style.getPropertyValue("--wave");
  outline.forEach((value, place) => {
    const half = Math.max(1, value / 100 * (height / 2 - 2));
    pen.fillRect(place * step, height / 2 - half, Math.max(1, step - 1), 2 * half);
  });
  if (at !== undefined) {
    pen.fillStyle = style.getPropertyValue("--strong");
    pen.fillRect(width * at / seconds - 1, 0, 3, height);
  }
}

// ------------------------------------------------------------ the selected card

export function cards() { return [...results.querySelectorAll(".card")]; }
export function cardOf(id) { return cards().find((made) => made.sound.id === id); }

export function showSelected(sound) {
  for (const made of results.querySelectorAll(".selected")) made.classList.remove("selected");
  cardOf(sound.id)?.classList.add("selected");
}

/** Move the selection by `step` cards, and play. */
export function move(step) {
  const all = cards();
  if (!all.length) return say("There are no sounds here.");
  let at = all.indexOf(document.activeElement);
  if (at < 0 && current) at = all.findIndex((made) => made.sound.id === current.id);
  if (at >= 0 && step > 0 && all[at].sound.id !== current?.id) step = 0;  // the focused card was not heard yet
  const next = all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + step))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
  play(next.sound);
}

export function columns() {
  const all = cards(), top = all[0]?.offsetTop, next = all.findIndex((one) => one.offsetTop !== top);
  return next < 0 ? Math.max(1, all.length) : next;
}
