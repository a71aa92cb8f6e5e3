#!/usr/bin/env python3
"""Time a bag of audio words on one core: the fit to many hours of frames, and encoding.

    python benchmarks/bag_of_audio_words.py [--hours 20] [--words 1000]

The frames are generated: random chords over a noise floor. The script prints the seconds of the fit, the peak memory of
the process, and the encoding speed for a minute of sound, in times real time. For comparison, it prints the speed of
the front end alone, and of the matrix products of frames and words alone.
"""

import argparse
import resource
import time

import torch

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.bag_of_audio_words import BagOfAudioWords
from cochlea_sb.features import LogMel

MINUTE = 6000  # frames


def generate(minutes, silence, seed=0):
    """A bank with ``minutes`` sounds of one minute."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.empty(minutes * MINUTE, 64, dtype=torch.float16)
    bands = torch.arange(64.0)
    for minute in frames.split(MINUTE):
        notes = 64 * torch.rand(MINUTE // 25, 3, generator=generator).repeat_interleave(
            25, 0
        )  # a new chord each 0.25 s
        peaks = -((bands - notes[..., None]) / 1.5).square().amin(1) / 2
        minute.copy_(torch.logaddexp(peaks, -7 + torch.randn(MINUTE, 64, generator=generator)))
    return FrameBank(frames, torch.full((minutes,), MINUTE), silence)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=20)
    parser.add_argument("--words", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bank = generate(round(60 * arguments.hours), LogMel().silence)
    print(f"{bank}: {arguments.hours:g} hours")
    encoder = BagOfAudioWords(LogMel().silence, n_words=arguments.words).eval()
    start = time.perf_counter()
    encoder.fit(bank)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"fit: {time.perf_counter() - start:.0f} s; the peak memory of the process was {most:.2f} GiB")

    wav, front_end = 0.1 * torch.randn(1, 60 * 16000), LogMel()
    n_windows = 1 + -(-(MINUTE - 96) // 48)
    frames, words = torch.randn(96 * 64, encoder.words.shape[1]), encoder.words.T.contiguous()

    def products():  # of frames and words: no implementation can avoid them
        for _ in range(-(-n_windows // 64)):
            frames @ words

    with torch.inference_mode():
        rounds = {"front end": lambda: front_end(wav), "products alone": products}
        rounds["front end and encoder"] = lambda: encoder(front_end(wav))
        best = dict.fromkeys(rounds, float("inf"))
        for _ in range(10):
            for name, function in rounds.items():
                start = time.perf_counter()
                function()
                best[name] = min(best[name], time.perf_counter() - start)
    for name, seconds in best.items():
        print(f"{name}: {60 / seconds:,.0f} times real time")
    floor = best["front end"] + best["products alone"]
    print(f"front end and encoder reach {floor / best['front end and encoder']:.0%} of the speed that these two allow")


if __name__ == "__main__":
    main()
