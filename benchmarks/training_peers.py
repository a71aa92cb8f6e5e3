#!/usr/bin/env python3
"""Compare a training step with those of two peers that deform waveforms: windows a second, with the same encoder.

    pip install -e '.[bench]'
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/training_peers.py [--channels 32 64 128 256] [--device cuda]

- SpeechBrain, as its templates teach: a DynamicItemDataset reads two random crops of each file, and an Augmenter
  applies SpeedPerturb, DropFreq, DropChunk and white noise (AddNoise) to the batch.
- torch-audiomentations, as its README teaches: a torch dataset reads the crops, and a Compose applies PitchShift,
  AddColoredNoise and Gain to the batch, each with its default probability of 0.5. Its AddBackgroundNoise needs an older
  torchaudio, so nothing is mixed in.

All have the same files (wav, 16 kHz), crops of 1.44 s, batches, front end, encoder, loss and optimizer. A round times
some steps of each. ``--workers`` is the number of loader processes of the peers. "Encoder alone" is a step with crops
that are ready, the lower bound of all: the column "beyond it" compares what each adds to it.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import speechbrain as sb
import torch
from speechbrain.augment import time_domain
from speechbrain.augment.augmenter import Augmenter

from cochlea_sb.data.corpus import load_corpus
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import WINDOW_FRAMES
from cochlea_sb.synthetic.library import write_library
from cochlea_sb.training.batch import DeformedBatch
from cochlea_sb.training.brain import EmbeddingBrain
from cochlea_sb.training.pairs import PairBatches
from cochlea_sb.training.recipe import load_experiment

RATE, CROP = 16000, 144 * 160  # samples


def random_crop(path):
    """Read 1.44 s from a random place of a file, and pad a shorter file with silence: float32 [CROP]."""
    n_samples = soundfile.info(path).frames
    start = random.randint(0, max(0, n_samples - CROP))
    wav, _ = soundfile.read(path, CROP, start, dtype="float32")
    return torch.from_numpy(np.pad(wav, (0, CROP - len(wav))))


def speechbrain_batches(files, batch_size, workers):
    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides("anchor", "positive")
    def crops(wav):
        yield random_crop(wav)
        yield random_crop(wav)

    items = {str(file): {"wav": str(file)} for file in files}
    dataset = sb.dataio.dataset.DynamicItemDataset(items, [crops], ["id", "anchor", "positive"])
    options = {"batch_size": batch_size, "shuffle": True, "drop_last": True, "num_workers": workers}
    while True:
        for batch in sb.dataio.dataloader.make_dataloader(dataset, **options):
            yield torch.cat([batch.anchor.data, batch.positive.data])


def speechbrain_augmentation():
    augmentations = [
        time_domain.SpeedPerturb(RATE, speeds=[95, 100, 105]),
        time_domain.DropFreq(),
        time_domain.DropChunk(),
        time_domain.AddNoise(snr_low=0, snr_high=60, noise_sample_rate=RATE, clean_sample_rate=RATE),
    ]
    augmenter = Augmenter(min_augmentations=4, max_augmentations=4, augmentations=augmentations)
    return lambda wavs: augmenter(wavs, torch.ones(len(wavs), device=wavs.device))[0]


class Crops(torch.utils.data.Dataset):
    """Two random crops of each file."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, number):
        return torch.stack([random_crop(self.files[number]), random_crop(self.files[number])])


def plain_batches(files, batch_size, workers):
    while True:
        loader = torch.utils.data.DataLoader(Crops(files), batch_size, True, num_workers=workers, drop_last=True)
        for crops in loader:
            yield crops.transpose(0, 1).flatten(0, 1)


def audiomentations_augmentation():
    from torch_audiomentations import AddColoredNoise, Compose, Gain, PitchShift

    transforms = [
        PitchShift(sample_rate=RATE, output_type="dict"),
        AddColoredNoise(output_type="dict"),
        Gain(output_type="dict"),
    ]
    compose = Compose(transforms, output_type="dict")
    return lambda wavs: compose(wavs[:, None], sample_rate=RATE).samples[:, 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch_size", type=int, default=128, help="pairs")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps in a round")
    arguments = parser.parse_args()
    hparams, _ = load_experiment("hparams/cnn.yaml", {"channels": arguments.channels})
    hparams["checkpointer"] = None
    front_end = hparams["compute_features"].to(arguments.device)
    options = {"device": arguments.device, "precision": arguments.precision}
    brain = EmbeddingBrain(hparams["modules"], hparams["opt_class"], hparams, options)
    brain.init_optimizers()
    brain.modules.train()
    n_pairs = arguments.batch_size
    positive_of = torch.arange(2 * n_pairs, device=brain.device).roll(n_pairs)
    groups = torch.arange(n_pairs, device=brain.device).repeat(2)[:, None].expand(-1, 2)

    def peer_step(batches, augment):
        return step_on(front_end(augment(next(batches).to(brain.device, non_blocking=True)))[:, :WINDOW_FRAMES])

    def step_on(windows):
        with brain.training_ctx:
            outputs = brain.project(brain.modules.embedding_model(windows)[:, 0])
        loss = brain.objective(outputs, DeformedBatch(windows, groups, positive_of))
        loss.backward()
        brain.optimizers_step()
        return loss.detach()

    with tempfile.TemporaryDirectory() as folder:
        write_library(folder, 40)
        files = sorted(Path(folder).rglob("*.wav"))
        bank = FrameBank.from_dataset(load_corpus(front_end, folder).frames, front_end, arguments.device)
        ours = PairBatches(bank, n_pairs, 10**9, crop_frames=hparams["crop_frames"])
        loaded = speechbrain_batches(files, n_pairs, arguments.workers)
        plain = plain_batches(files, n_pairs, arguments.workers)
        theirs, third = speechbrain_augmentation(), audiomentations_augmentation()
        ready = ours[0].crops[:, :WINDOW_FRAMES].float()
        steps = {
            "encoder alone": lambda: step_on(ready),
            "cochlea_sb": lambda: brain.fit_batch(ours[random.randrange(10**9)]),
            "SpeechBrain, waveforms": lambda: peer_step(loaded, theirs),
            "torch-audiomentations": lambda: peer_step(plain, third),
        }
        seconds = {name: [] for name in steps}
        for number in range(arguments.rounds + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                float(torch.stack([step() for _ in range(arguments.steps)]).sum())  # waits for a GPU
                if number:  # the first round warms up
                    seconds[name].append((time.perf_counter() - start) / arguments.steps)
    print(f"{arguments.device}, {arguments.precision}, {n_pairs} pairs, channels {arguments.channels}", end="")
    print(f", {torch.get_num_threads()} threads, {arguments.workers} loader processes")
    middles = {name: np.median(values) for name, values in seconds.items()}
    least, own = middles["encoder alone"], middles["cochlea_sb"]
    print(f"{'':24}{'ms a step':>10}{'windows/s':>11}{'relative':>10}{'beyond it, ms':>15}{'relative':>10}")
    for name, middle in middles.items():
        beyond = f"{1000 * (middle - least):15.1f}{(middle - least) / max(own - least, 1e-9):10.2f}"
        print(f"{name:24}{1000 * middle:10.1f}{2 * n_pairs / middle:11,.0f}{middle / own:10.2f}{beyond}")


if __name__ == "__main__":
    main()
