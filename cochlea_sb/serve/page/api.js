// The requests of the page, and its address, which is the query: it can be reloaded, bookmarked and sent.

export async function ask(url, options) {
  const answer = await fetch(url, options);
  const body = await answer.json().catch(() => null);
  if (!answer.ok || body === null) throw new Error(body?.error || answer.statusText || "The server's answer was cut off.");
  return body;
}

const sounds = new Map();  // id -> sound

export function remember(sound) { sounds.set(sound.id, { ...sounds.get(sound.id), ...sound }); return sound; }

export async function soundOf(id) {
  if (!sounds.has(id)) remember(await ask(`/api/sounds/${id}`));
  return sounds.get(id);
}

const outlines = new Map();

/** The outline of a sound. A request that `signal` ends is forgotten. */
export function outlineOf(id, signal) {
  if (!outlines.has(id)) {
    const asked = ask(`/api/sounds/${id}/outline`, { signal });
    let open = true;
    outlines.set(id, asked);
    asked.catch(() => outlines.get(id) === asked && outlines.delete(id)).finally(() => { open = false; });
    signal?.addEventListener("abort", () => open && outlines.delete(id));
  }
  return outlines.get(id);
}

export function address() { return new URLSearchParams(location.search); }

export const FILTERS = ["words", "label", "folder", "min_seconds", "max_seconds", "per_folder", "fold_copies"];

/** Parts of an example: "ID", "ID,start,end", each perhaps with "*weight". */
export function parsed(example) {
  const [place, weight] = example.split("*"), [id, start, end] = place.split(",");
  return { id, place, start: Number(start), end: Number(end), part: start !== undefined,
           weight: weight === undefined ? 1 : Number(weight) };
}

export function say(text) { document.getElementById("message").textContent = text; }
