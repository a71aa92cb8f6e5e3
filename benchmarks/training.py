#!/usr/bin/env python3
"""Compare the time of a training step with its lower bound: forward, backward and update of the encoder alone.

    python benchmarks/training.py [--device cuda] [--precision bf16] [--compile] [--batch_size 128]

The lower bound takes crops that are ready, and is never compiled. Each round times both, so that other work of the
machine slows both alike. The result is the ratio of the medians.
"""

import argparse
import time

import torch

from cochlea_sb.data.corpus import load_corpus
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import WINDOW_FRAMES
from cochlea_sb.machine import keep_freed_memory
from cochlea_sb.training.brain import EmbeddingBrain
from cochlea_sb.training.pairs import PairBatches
from cochlea_sb.training.recipe import load_experiment


def timed(step, repeats, device):
    """Mean seconds of a call of ``step``, over ``repeats`` calls."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the encoder, as the recipes do")
    parser.add_argument("--batch_size", type=int, default=128, help="pairs")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=None, help="steps in a round; default: 2 on a CPU, 50 on a GPU")
    arguments = parser.parse_args()
    device, batch_size = arguments.device, arguments.batch_size
    repeats = arguments.repeats or (50 if device.startswith("cuda") else 2)

    hparams, _ = load_experiment("hparams/cnn.yaml", {})
    frames, _ = load_corpus(hparams["compute_features"])
    bank = FrameBank.from_dataset(frames, hparams["compute_features"], device)
    batches = PairBatches(bank, batch_size, 10**9, crop_frames=hparams["crop_frames"])
    hparams["checkpointer"] = None
    run_opts = {"device": device, "precision": arguments.precision, "compile": arguments.compile}
    brain = EmbeddingBrain(hparams["modules"], hparams["opt_class"], hparams, run_opts)
    brain._compile()
    brain.init_optimizers()
    brain.modules.train()

    def whole():
        brain.step += 1
        brain.avg_train_loss = brain.update_average(brain.fit_batch(batches[brain.step]), brain.avg_train_loss)

    bare_hparams, _ = load_experiment("hparams/cnn.yaml", {})
    encoder = bare_hparams["embedding_model"].to(device).train()
    optimizer = bare_hparams["opt_class"](encoder.parameters())
    crops = batches[0].crops[:, :WINDOW_FRAMES].float()
    target = torch.randn(2 * batch_size, 128, device=device)

    def bare():
        with brain.training_ctx:
            embeddings = encoder(crops)[:, 0]
        (embeddings.float() * target).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    keep_freed_memory()  # affects both steps alike
    for step in (whole, bare) * 3:
        step()
    rounds = [(timed(whole, repeats, device), timed(bare, repeats, device)) for _ in range(arguments.rounds)]
    whole_seconds, bare_seconds = torch.tensor(rounds).median(0).values.tolist()
    ratios = sorted(a / b for a, b in rounds)
    print(f"device {device}, {arguments.precision}{', compiled' if arguments.compile else ''}", end=", ")
    print(f"{batch_size} pairs of windows, {torch.get_num_threads()} threads")
    for name, seconds in (("bare forward, backward, update", bare_seconds), ("whole training step", whole_seconds)):
        print(f"{name:32}{1000 * seconds:8.2f} ms {2 * batch_size / seconds:10,.0f} windows/s")
    print(f"ratio {whole_seconds / bare_seconds:.3f} (rounds: {ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
