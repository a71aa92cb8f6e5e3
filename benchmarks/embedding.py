#!/usr/bin/env python3
"""Time the indexing of a folder; compare it with decoding alone, encoding alone and a plain SpeechBrain loop.

    python benchmarks/embedding.py FOLDER --model MODEL [--device cuda] [--rounds 3] [--plain_sounds 100]

Decoding alone and the encoder alone have the same threads as in the pipeline. The pipeline runs both at the same time,
so its lower bound is the slower of the two. The plain loop calls `EncoderClassifier.load_audio` and `encode_batch` for
one sound after the other. It is compared with `encode_sounds` on randomly chosen sounds, without sample rates that
torchaudio resamples extremely slowly (44,101 Hz). Each round times every job once; medians are printed.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from tqdm import tqdm

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.data.sounds import list_sources
from cochlea_sb.inference.batch import decode, encode_decoded, encode_sounds
from cochlea_sb.inference.read_ahead import read_ahead
from cochlea_sb.machine import n_cores, torch_threads

LARGEST_TERM = 40_000  # torchaudio takes minutes if the reduced ratio of rates has a larger term


def seconds(function):
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def plain_loop(encoder, paths, folder):
    """Encode files in the way of SpeechBrain's documentation."""
    for path in paths:
        encoder.encode_batch(encoder.load_audio(path, savedir=folder))


def resamples(path, rate=16000):
    """Whether torchaudio can resample a file to the rate in reasonable time."""
    try:
        native = soundfile.info(path).samplerate
    except soundfile.SoundFileError:
        return False
    return native // math.gcd(native, rate) <= LARGEST_TERM


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain_sounds", type=int, default=100)
    arguments = parser.parse_args()
    run_opts = {"device": arguments.device}
    encoder = AudioEncoder.from_hparams(arguments.model, run_opts=run_opts)
    sources = list_sources(arguments.folder)
    threads = max(1, n_cores() // 2)
    decoded = [sound for sound in map(lambda source: decode(source, encoder.sample_rate), tqdm(sources)) if len(sound)]
    of_sound = sum(map(len, decoded)) / encoder.sample_rate
    usable = [sound.source for sound in decoded if resamples(sound.source.path)]
    chosen = np.random.default_rng(0).permutation(len(usable))[: arguments.plain_sounds]
    chosen = [usable[i] for i in chosen]

    def decode_alone():
        for _ in read_ahead(lambda source: decode(source, encoder.sample_rate), sources, threads=threads):
            pass

    def encode_alone():
        with torch_threads(max(1, n_cores() - threads)):
            for first in range(0, len(decoded), 100):
                list(encode_decoded(encoder, decoded[first : first + 100], 0.48))
        if arguments.device != "cpu":
            torch.cuda.synchronize()

    def end_to_end():
        with tempfile.TemporaryDirectory() as folder:
            SoundLibrary.create(Path(folder, "library"), encoder).add(arguments.folder, progress=False)

    with tempfile.TemporaryDirectory() as folder:
        plain = EncoderClassifier.from_hparams(arguments.model, savedir=folder, run_opts=run_opts)
        paths = [source.path for source in chosen]
        jobs = {
            "decoding alone": decode_alone,
            "encoder alone": encode_alone,
            "end to end": end_to_end,
            "plain loop": lambda: plain_loop(plain, paths, folder),
            "ours": lambda: list(encode_sounds(encoder, chosen)),
        }
        list(encode_sounds(encoder, chosen[:20]))
        plain_loop(plain, paths[:5], folder)
        taken = {name: [] for name in jobs}
        for _ in tqdm(range(arguments.rounds), desc="rounds"):
            for name, job in jobs.items():
                taken[name].append(seconds(job))
    middle = {name: median(values) for name, values in taken.items()}
    print(f"\n{len(sources):,} files, {of_sound:,.0f} s of sound, {n_cores()} cores, {arguments.device}\n")
    print("| | seconds | times real time |\n|---|---|---|")
    for name in ("decoding alone", "encoder alone", "end to end"):
        print(f"| {name} | {middle[name]:.2f} | {of_sound / middle[name]:,.0f} |")
    floor = max(middle["decoding alone"], middle["encoder alone"])
    print(f"\nEnd to end divided by the slower part: {middle['end to end'] / floor:.2f}")
    ratio = middle["plain loop"] / middle["ours"]
    print(
        f"{len(chosen)} sounds: plain loop {middle['plain loop']:.2f} s, ours {middle['ours']:.2f} s, {ratio:.1f} times"
    )


if __name__ == "__main__":
    main()
