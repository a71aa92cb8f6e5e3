// The page of `cochlea serve`. The address is the query: it can be reloaded, bookmarked and sent.
const PAGE = 24;
const results = document.getElementById("results"), message = document.getElementById("message");
const form = document.getElementById("filters"), player = new Audio();
const names = new Map();       // id of a sound or an example -> what is shown
let shownCount = 0, playing = null, turn = 0;
const favourites = new Set(JSON.parse(localStorage.getItem("favourites") || "[]"));

async function ask(url, options) {
  const answer = await fetch(url, options);
  const body = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw new Error(body.error);
  return body;
}

// ------------------------------------------------------------ the query and the address

function examples() { return new URLSearchParams(location.search).getAll("like"); }

function filters() {
  const values = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value) values.set(name, value);
  return values;
}

function go(like) {
  const address = filters();
  for (const example of like) address.append("like", example);
  history.pushState(null, "", `/?${address}`);
  return show();
}

function parsed(example) {
  const [place, weight] = example.split("*"), [id, start, end] = place.split(",");
  return { id, start, end, weight: weight === undefined ? 1 : Number(weight) };
}

async function show() {
  const address = new URLSearchParams(location.search);
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.type === "checkbox") field.checked = address.size ? address.has(field.name) : field.checked;
    else field.value = address.get(field.name) || "";
  }
  results.replaceChildren();
  shownCount = 0;
  await showQuery();
  await more();
  results.querySelector(".card")?.focus();
}

async function showQuery() {
  const parts = await Promise.all(examples().map(async (text) => {
    const { id, start, end, weight } = parsed(text);
    if (!names.has(id) && !id.startsWith("u")) names.set(id, (await ask(`/api/sounds/${id}`)).name);
    const part = document.createElement("button");
    part.className = weight < 0 ? "example less" : "example";
    part.textContent = `${names.get(id) || "your sound"}${start ? ` ${Number(start).toFixed(2)}–${Number(end).toFixed(2)} s` : ""} ×`;
    part.title = "Remove from the query";
    part.onclick = () => go(examples().filter((other) => other !== text));
    return part;
  }));
  document.getElementById("query").replaceChildren(...parts);
}

async function more() {
  const mine = ++turn, like = examples(), address = filters();
  address.set("k", PAGE);
  let url = `/api/random?${address}`;
  if (like.length) {
    address.set("skip", shownCount);
    for (const example of like) address.append("like", example);
    url = `/api/search?${address}`;
  }
  try {
    const found = (await ask(url)).results;
    if (mine !== turn) return;
    shownCount += found.length;
    results.append(...found.map(card));
    message.textContent = found.length ? "" : shownCount ? "No more sounds." : "Nothing found.";
  } catch (error) { message.textContent = error.message; }
}

// ------------------------------------------------------------ cards

function card(sound) {
  names.set(sound.id, sound.name);
  const made = document.createElement("article");
  made.className = "card";
  made.tabIndex = 0;
  made.sound = sound;
  made.classList.toggle("favourite", favourites.has(sound.id));
  for (const [kind, text] of [["name", sound.name], ["folder", sound.folder], ["facts", facts(sound)]]) {
    const line = document.createElement("div");
    line.className = kind;
    line.textContent = text;
    line.title = text;
    made.append(line);
  }
  const canvas = document.createElement("canvas");
  canvas.width = 240; canvas.height = 48;
  made.append(canvas);
  made.onclick = () => { made.focus(); play(made); };
  made.ondblclick = () => go([likeThis(sound)]);
  made.onfocus = () => made.scrollIntoView({ block: "nearest" });
  seen.observe(made);
  return made;
}

function facts(sound) {
  const parts = [`${sound.seconds.toFixed(2)} s`];
  if (sound.score !== undefined) parts.push(sound.score.toFixed(3));
  if (sound.label) parts.push(sound.label);
  if (sound.copies?.length) parts.push(`and ${sound.copies.length} like it`);
  return parts.join(" · ");
}

function likeThis(sound) {
  const whole = sound.start === undefined || sound.seconds < 1.5;
  return whole ? sound.id : `${sound.id},${sound.start},${sound.end}`;
}

const TARGET_DB = -23;  // level of all previews; quieter sounds are not made louder
const outlines = new Map();

function outlineOf(sound) {
  if (!outlines.has(sound.id)) outlines.set(sound.id, ask(`/api/sounds/${sound.id}/outline`));
  return outlines.get(sound.id);
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
}, { rootMargin: "200px" });

async function draw(made) {
  const { sound } = made, canvas = made.querySelector("canvas"), pen = canvas.getContext("2d");
  try {
    const { outline } = await outlineOf(sound);
    const styles = getComputedStyle(document.documentElement), width = canvas.width / outline.length;
    if (sound.start !== undefined) {
      pen.fillStyle = "#fa03";
      pen.fillRect(canvas.width * sound.start / sound.seconds, 0, Math.max(2, canvas.width * (sound.end - sound.start) / sound.seconds), 48);
    }
    pen.fillStyle = styles.getPropertyValue("--wave");
    outline.forEach((value, place) => pen.fillRect(place * width, 24 - value * .23, Math.max(1, width), Math.max(1, value * .46)));
  } catch (error) { canvas.title = error.message; }
}

// ------------------------------------------------------------ playing

async function play(made) {
  const { sound } = made;
  results.querySelector(".playing")?.classList.remove("playing");
  made.classList.add("playing");
  playing = made;
  const level = (await outlineOf(sound).catch(() => ({ level: 0 }))).level;
  if (playing !== made) return;
  const matched = document.getElementById("match_loudness").checked;
  player.volume = matched ? Math.min(1, 10 ** ((TARGET_DB - level) / 20)) : 1;
  player.src = `/api/sounds/${sound.id}/audio`;
  player.currentTime = 0;
  player.onloadedmetadata = () => { if (sound.start) player.currentTime = sound.start; };
  player.play().catch((error) => { if (error.name !== "AbortError") message.textContent = `${sound.name} can't be played.`; });
}
player.onended = () => playing?.classList.remove("playing");

// ------------------------------------------------------------ keys

function columns() {
  const cards = [...results.children], first = cards[0]?.offsetTop;
  const next = cards.findIndex((one) => one.offsetTop !== first);
  return next < 0 ? cards.length : next;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, dialog *")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const cards = [...results.children], at = cards.indexOf(document.activeElement), current = cards[at];
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
  if (event.key in steps && cards.length) {
    const next = cards[Math.min(cards.length - 1, Math.max(0, at < 0 ? 0 : at + steps[event.key]))];
    next.focus();
    play(next);
  } else if (event.key === " ") {
    if (current && current !== playing) play(current);
    else if (player.paused) player.play(); else player.pause();
  } else if (event.key === "m" && current) go([likeThis(current.sound)]);
  else if (event.key === "a" && current) go([...examples(), likeThis(current.sound)]);
  else if (event.key === "x" && current) go([...examples(), `${likeThis(current.sound)}*-0.5`]);
  else if (event.key === "f" && current) favourite(current);
  else if (event.key === "n") more();
  else if (event.key === "r") go([]);
  else if (event.key === "/") form.elements.words.focus();
  else if (event.key === "?") document.getElementById("keys").showModal();
  else return;
  event.preventDefault();
});

function favourite(made) {
  const { id } = made.sound, on = !favourites.has(id);
  on ? favourites.add(id) : favourites.delete(id);
  made.classList.toggle("favourite", on);
  localStorage.setItem("favourites", JSON.stringify([...favourites]));
}

// ------------------------------------------------------------ asking by a file or a recording

async function upload(blob, name) {
  message.textContent = `Listening to ${name} ...`;
  try {
    const { id } = await ask("/api/examples", { method: "POST", body: blob });
    names.set(id, name);
    message.textContent = "";
    await go([id]);
  } catch (error) { message.textContent = error.message; }
}

document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (file) upload(file, file.name);
});
const chooser = document.getElementById("file");
document.getElementById("open").onclick = () => chooser.click();
chooser.onchange = () => { if (chooser.files[0]) upload(chooser.files[0], chooser.files[0].name); };

let recorder = null;
document.getElementById("record").onclick = async (event) => {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }), parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (part) => parts.push(part.data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      event.target.textContent = "Record";
      upload(new Blob(parts), "your recording");
    };
    recorder.start();
    event.target.textContent = "Stop";
  } catch (error) { message.textContent = `The microphone can't be used: ${error.message}`; }
};

// ------------------------------------------------------------ start

document.getElementById("browse").onclick = () => go([]);
document.getElementById("more").onclick = () => more();
document.getElementById("help").onclick = () => document.getElementById("keys").showModal();
form.onchange = () => go(examples());
form.onsubmit = (event) => { event.preventDefault(); go(examples()); };
window.onpopstate = show;
try {
  const facts = await ask("/api/library");
  document.getElementById("facts").textContent = `${facts.sounds.toLocaleString()} sounds, ${facts.windows.toLocaleString()} windows`;
  form.elements.label.append(...facts.labels.map((label) => new Option(label, label)));
  await show();
} catch (error) { message.textContent = error.message; }
