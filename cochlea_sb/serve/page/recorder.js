// Records the microphone, and makes a WAV file of what is not silent.
import { say } from "./api.js";

const QUIET = 0.02;  // of the loudest sample: parts below it at the start and the end are cut off
let recorder = null;

export async function record(button, upload) {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }), parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (part) => parts.push(part.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      button.textContent = "Record";
      try { upload(wav(trimmed(await decoded(new Blob(parts)))), "your recording"); } catch (error) { say(error.message); }
    };
    recorder.start();
    button.textContent = "Stop";
  } catch (error) { say(`The microphone can't be used: ${error.message}`); }
}

async function decoded(blob) {
  const context = new AudioContext({ sampleRate: 44100 });
  try { return (await context.decodeAudioData(await blob.arrayBuffer())).getChannelData(0); } finally { context.close(); }
}

export function trimmed(wave) {
  let loudest = 0;
  for (const sample of wave) loudest = Math.max(loudest, Math.abs(sample));
  if (loudest < 1e-4) throw new Error("The recording is silent: check the microphone.");
  const limit = QUIET * loudest;
  let start = 0, end = wave.length;
  while (Math.abs(wave[start]) < limit) start++;
  while (Math.abs(wave[end - 1]) < limit) end--;
  return wave.subarray(Math.max(0, start - 441), Math.min(wave.length, end + 4410));
}

function wav(wave, rate = 44100) {
  const view = new DataView(new ArrayBuffer(44 + 2 * wave.length));
  const text = (at, word) => [...word].forEach((sign, place) => view.setUint8(at + place, sign.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * wave.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true);
  view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, 2 * wave.length, true);
  wave.forEach((sample, place) => view.setInt16(44 + 2 * place, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true));
  return new Blob([view], { type: "audio/wav" });
}
