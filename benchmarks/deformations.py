#!/usr/bin/env python3
"""Time each deformation in windows per second, and compare it with `torchaudio.functional.pitch_shift` on waveforms.

    python benchmarks/deformations.py [--device cuda]

Within each round, every deformation is timed once. The printed figures are medians over the rounds.
"""

import argparse
import statistics
import time

import torch
import torchaudio

from cochlea_sb.augment.combined import Composition
from cochlea_sb.augment.energies import energies_from_log_mel, log_mel_from_energies
from cochlea_sb.augment.equalization import Equalization
from cochlea_sb.augment.frequency_resize import FrequencyResize
from cochlea_sb.augment.gaussian_noise import GaussianNoise
from cochlea_sb.augment.mixture import Mixture
from cochlea_sb.augment.pitch_shift import PitchShift
from cochlea_sb.augment.time_stretch import TimeStretch
from cochlea_sb.augment.translation import Translation
from cochlea_sb.features import LogMel


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=256, help="windows")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device, batch_size = arguments.device, arguments.batch_size

    wavs = 0.1 * torch.randn(batch_size, 15360, device=device)
    log_mel = LogMel().to(device)(wavs)
    energies = energies_from_log_mel(log_mel)
    kinds = [GaussianNoise, Translation, TimeStretch, PitchShift, FrequencyResize, Equalization, Mixture]
    modules = {kind.__name__: kind().to(device) for kind in kinds}
    everything = Composition(list(modules.values()))
    few = max(1, batch_size // 8)  # torchaudio needs minutes for a whole batch
    jobs = {
        "torchaudio pitch_shift (waveform)": (few, lambda: torchaudio.functional.pitch_shift(wavs[:few], 16000, 3)),
        **{name: (batch_size, lambda module=module: module(energies)) for name, module in modules.items()},
        "all of them": (batch_size, lambda: everything(energies)),
        "to energies and back": (batch_size, lambda: log_mel_from_energies(energies_from_log_mel(log_mel))),
    }
    rates = {name: [] for name in jobs}
    for _ in range(arguments.rounds + 1):
        for name, (windows, job) in jobs.items():
            start = time.perf_counter()
            job()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            rates[name].append(windows / (time.perf_counter() - start))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}  # the first round warms up
    peer = medians["torchaudio pitch_shift (waveform)"]
    print(f"device {device}, batches of {batch_size} windows, {torch.get_num_threads()} threads\n")
    print("| deformation | windows/s | over torchaudio |")
    print("|---|---|---|")
    for name, rate in medians.items():
        print(f"| {name} | {rate:,.0f} | {rate / peer:,.0f} x |")


if __name__ == "__main__":
    main()
