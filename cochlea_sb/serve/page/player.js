// Plays one sound at a time, from the matching stretch, with the same loudness for all.
import { outlineOf, say } from "./api.js";

const TARGET_DB = -20, MOST_GAIN_DB = 24;
export const audio = new Audio();
export let current = null;      // the sound that was last selected
let context = null, gain = null, turn = 0;
const listeners = [];
export function onSelect(listener) { listeners.push(listener); }

/** Gain that brings a sound to TARGET_DB without clipping its loudest sample. */
export function gainOf(level, peak) {
  return 10 ** (Math.min(TARGET_DB - level, -peak, MOST_GAIN_DB) / 20);
}

function connect() {
  if (context) return context.resume();
  context = new AudioContext();
  gain = context.createGain();
  context.createMediaElementSource(audio).connect(gain).connect(context.destination);
}

/** Select a sound, and play it from `from` seconds, or from its matching stretch. */
export async function play(sound, from = sound.start || 0) {
  const mine = ++turn;
  audio.pause();
  current = sound;
  for (const listener of listeners) listener(sound);
  const { level, peak } = await outlineOf(sound.id).catch(() => outlineOf(sound.id)).catch(() => ({ level: 0, peak: 0 }));
  if (mine !== turn) return;
  connect();
  gain.gain.value = document.getElementById("match_loudness").checked ? gainOf(level, peak) : 1;
  const url = `/api/sounds/${sound.id}/audio`;
  if (!audio.src.endsWith(url)) audio.src = url;
  audio.onloadedmetadata = () => { audio.currentTime = from; };
  if (audio.readyState >= 1) audio.currentTime = from;
  audio.play().catch((error) => { if (error.name !== "AbortError") say(`${sound.name} can't be played.`); });
}

export function toggle() {
  if (!current) return;
  if (audio.ended || !audio.src) play(current);
  else if (audio.paused) audio.play().catch(() => {}); else audio.pause();
}
