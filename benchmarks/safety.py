#!/usr/bin/env python3
"""What happens to whoever loads a hostile model: with plain SpeechBrain's EncoderClassifier, and with AudioEncoder.

    python benchmarks/safety.py

Every folder of tests/hostile_models.py is loaded in a process of its own, with at most 8 GB of memory and 60 seconds,
and a sound is embedded. Prints the table of docs/safety.md.
"""

import contextlib
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from speechbrain.inference.classifiers import EncoderClassifier

from cochlea_sb import AudioEncoder
from cochlea_sb.inference.model_folder import WEIGHTS, YAML, save_model
from cochlea_sb.training.recipe import load_experiment

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from hostile_models import HOSTILE  # noqa: E402

MEMORY, SECONDS = 8 << 30, 60
MEANING = {
    "runs its code": "code of the folder ran on this machine",
    "leaves the folder": "a file of another folder was read",
    "embeds with it": "the damaged or changed model was used without a word",
    "takes the machine": "more than 8 GB, or waited for 60 seconds",
    "traceback": "it ended in an exception from somewhere inside",
    "refuses": "one sentence that names the file and what is wrong",
}


def load(load_model, folder, sender):
    """Load a model and embed a sound with it; what came of it goes to the parent."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        try:
            load_model(folder).encode_batch(torch.zeros(1, 16000))
            sender.send("embeds with it")
        except MemoryError:
            sender.send("takes the machine")
        except BaseException as error:
            own = type(error) is ValueError and "\n" not in str(error) and str(folder) in str(error)
            sender.send("refuses" if own else f"traceback ({type(error).__name__})")


def outcome(load_model, spoil, good):
    """What comes of one hostile folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, ran = Path(temporary, "model"), Path(temporary, "ran")
        folder.mkdir()
        for name in (YAML, WEIGHTS):
            (folder / name).write_bytes((good / name).read_bytes())
        spoil(folder, ran, good)
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=load, args=(load_model, folder, sender))
        process.start()
        process.join(SECONDS)
        process.kill()
        process.join()
        said = receiver.recv() if receiver.poll() else "takes the machine"
        if ran.exists():
            return "runs its code"
        leads_out = any((folder / name).is_symlink() and (folder / name).exists() for name in (YAML, WEIGHTS))
        return "leaves the folder" if said == "embeds with it" and leads_out else said


def plain(folder):
    return EncoderClassifier.from_hparams(str(folder), savedir=str(folder / "saved"), run_opts={"device": "cpu"})


def ours(folder):
    return AudioEncoder.from_hparams(str(folder), run_opts={"device": "cpu"})


def make_good(folder, run):
    """Leave a model as training does."""
    hparams, text = load_experiment("hparams/cnn.yaml", {"output_folder": str(run)})
    save_model(folder, text, hparams["embedding_model"])


def main():
    torch.set_num_threads(1)  # threads do not outlive a fork
    with tempfile.TemporaryDirectory() as temporary:
        good = Path(temporary, "good")
        # In another process: HyperPyYAML's first use changes how yamls are read.
        maker = multiprocessing.get_context("fork").Process(target=make_good, args=(good, Path(temporary, "run")))
        maker.start()
        maker.join()
        counts = {"SpeechBrain": Counter(), "cochlea_sb": Counter()}
        print("| folder | plain SpeechBrain | cochlea_sb |\n|---|---|---|")
        for name, (spoil, _) in HOSTILE.items():
            found = {who: outcome(how, spoil, good) for who, how in (("SpeechBrain", plain), ("cochlea_sb", ours))}
            for who, what in found.items():
                counts[who][what.partition(" (")[0]] += 1
            print(f"| {name} | {found['SpeechBrain']} | {found['cochlea_sb']} |", flush=True)
    print(f"\n| of {len(HOSTILE)} | plain SpeechBrain | cochlea_sb | |\n|---|---|---|---|")
    for what, meaning in MEANING.items():
        print(f"| {what} | {counts['SpeechBrain'][what]} | {counts['cochlea_sb'][what]} | {meaning} |")


if __name__ == "__main__":
    main()
