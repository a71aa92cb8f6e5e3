#!/usr/bin/env python3
"""Embed sounds and write Parquet shards, with one row for each window: path, start_seconds, embedding, label, ...

    python recipes/embed.py ~/samples --model results/cnn/1986 --output embeddings
    python recipes/embed.py user/name --model user/model --output embeddings --device cuda --precision bf16

The source is a folder, a table of files with a column file_name, or a dataset on the Hub. After an interruption, run
the same command again: it skips the complete shards. `datasets.load_dataset("parquet", data_dir="embeddings")` loads
the shards, and `cochlea index embeddings --library NAME` adds them to a library.
"""

import argparse
import hashlib
import json
from itertools import chain, islice
from pathlib import Path

from tqdm import tqdm

from cochlea_sb.cli import first_line, run
from cochlea_sb.data.corpus import write_problems
from cochlea_sb.data.sounds import list_sources
from cochlea_sb.errors import UserError
from cochlea_sb.inference.audio_encoder import AudioEncoder
from cochlea_sb.inference.batch import encode_sounds
from cochlea_sb.inference.sound_encoder import SHIPPED
from cochlea_sb.library.shards import read_facts, write_shard
from cochlea_sb.machine import silence_decoders


def main(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("source", nargs="+", help="folder, table of files, or dataset on the Hub")
    parser.add_argument("--output", required=True, help="folder to write the shards to")
    parser.add_argument("--model", help="folder or Hub name of the encoder; default: the model shipped with cochlea_sb")
    parser.add_argument("--hop_seconds", type=float, default=0.48, help="step between windows; default 0.48")
    parser.add_argument("--shard_sounds", type=int, default=1000, help="number of sounds in a shard; default 1000")
    parser.add_argument("--folder_labels", action="store_true", help="take the folder of a file as its label")
    parser.add_argument("--config", help="configuration of a dataset on the Hub")
    parser.add_argument("--split", default="train", help="split of a dataset; default train")
    parser.add_argument("--device", help="where the encoder runs: cpu, cuda, ...")
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "fp16", "bf16"], help="precision of the encoder"
    )
    parser.add_argument("--threads", type=int, help="number of threads that decode; default: half the cores")
    parser.add_argument("--workers", type=int, default=1, help="number of processes, each for a part of the shards")
    parser.add_argument("--worker", type=int, default=0, help="number of this process, from 0")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.shard_sounds <= 10_000 or not 0 <= arguments.worker < arguments.workers:
        raise UserError(
            f"--shard_sounds is {arguments.shard_sounds}, --worker is {arguments.worker} and --workers is "
            f"{arguments.workers}: expected 1 to 10,000 sounds, and a worker from 0 to --workers minus 1."
        )

    run_opts = {"eval_precision": arguments.precision}
    run_opts |= {"device": arguments.device} if arguments.device else {}
    encoder = AudioEncoder.from_hparams(arguments.model or SHIPPED, run_opts=run_opts)
    hop_seconds = encoder.hop_frames(arguments.hop_seconds) * encoder.frame_seconds
    identity = encoder.identity() | {"precision": arguments.precision}
    options = {"folder_labels": arguments.folder_labels, "config": arguments.config, "split": arguments.split}
    sources = list_sources(arguments.source, **options)

    # Each shard file holds a fixed part of the list of sounds, so a part is done if its file exists.
    output = Path(arguments.output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    stretches = [sources[i : i + arguments.shard_sounds] for i in range(0, len(sources), arguments.shard_sounds)]
    shards = {output / f"embeddings-{i:05d}-of-{len(stretches):05d}.parquet": part for i, part in enumerate(stretches)}
    strangers = sorted(path.name for path in output.glob("embeddings-*.parquet") if path not in shards)
    if strangers:
        raise UserError(
            f"'{output}' holds shards of another run, such as '{strangers[0]}': choose another --output, or delete "
            "these shards."
        )
    made_of = {
        path: hashlib.blake2b(json.dumps([(s.path, s.label, s.size, s.changed_ns) for s in part]).encode()).hexdigest()
        for path, part in shards.items()
    }
    for path in filter(Path.exists, shards):
        facts = read_facts(path) or {}
        same = facts.get("identity", {}).get("fingerprint") == identity["fingerprint"]
        if not same or (facts["hop_seconds"], facts["made_of"]) != (hop_seconds, made_of[path]):
            raise UserError(
                f"'{path}' was made from other sounds, by another model or with another hop: choose another --output, "
                "or delete this file."
            )

    # One stream of all sounds keeps the encoder busy from one shard to the next.
    todo = [path for path in list(shards)[arguments.worker :: arguments.workers] if not path.exists()]
    stream = encode_sounds(encoder, chain(*(shards[path] for path in todo)), hop_seconds, threads=arguments.threads)
    with tqdm(total=sum(len(shards[path]) for path in todo), unit="sound", desc="Embedding") as bar:
        for path in todo:
            embedded = []
            for one in islice(stream, len(shards[path])):
                embedded.append(one)
                bar.update()
            write_shard(path, embedded, identity, hop_seconds, made_of=made_of[path])

    done = [path for path in shards if path.exists()]
    unread = [(row["path"], row["problem"]) for path in done for row in read_facts(path)["unread"]]
    print(f"{len(done)} of {len(shards)} shards are in {output}")
    if unread:
        skipped = output.with_name(f"{output.name}-skipped.csv")  # not in the folder: `datasets` loads it
        write_problems(unread, skipped)
        print(f"{len(unread)} sounds could not be read; {skipped} says why")


if __name__ == "__main__":
    silence_decoders()
    run(main)
