#!/usr/bin/env python3
"""Embed sounds and write Parquet shards, with one row for each window: path, start_seconds, embedding, label, ...

    python recipes/embed.py ~/samples --model results/cnn/1986 --output embeddings
    python recipes/embed.py user/name --model user/model --output embeddings --device cuda --precision bf16
    python recipes/embed.py /shared/samples --output /shared/embeddings --ray auto

The source is a folder, a table of files with a column file_name, or a dataset on the Hub. After an interruption, run
the same command again: it skips the complete shards. `datasets.load_dataset("parquet", data_dir="embeddings")` loads
the shards, and `cochlea index embeddings --library NAME` adds them to a library.
"""

import argparse
from pathlib import Path

from cochlea_sb.data.corpus import write_problems
from cochlea_sb.data.sounds import list_sources
from cochlea_sb.errors import UserError
from cochlea_sb.inference.load import load_encoder
from cochlea_sb.inference.sound_encoder import SHIPPED
from cochlea_sb.integrations.ray import embed_on_ray
from cochlea_sb.library.shard_plan import Embedding, make_shards, missing_from, plan_shards, unread_sounds
from cochlea_sb.machine import progress_bar, silence_decoders
from cochlea_sb.program import first_line, run


def main(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("source", nargs="+", help="folder, table of files, or dataset on the Hub")
    parser.add_argument("--output", required=True, help="folder to write the shards to")
    parser.add_argument("--model", help="encoder, as in `cochlea index`; default: the model shipped with cochlea_sb")
    parser.add_argument("--trust_remote_code", action="store_true", help="let loading --model run code of its author")
    parser.add_argument("--hop_seconds", type=float, help="step between windows; default: of the encoder, 0.48")
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
    parser.add_argument("--ray", metavar="CLUSTER", help="embed on Ray: auto, the address of a cluster, or local")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.shard_sounds <= 10_000 or not 0 <= arguments.worker < arguments.workers:
        raise UserError(
            f"--shard_sounds is {arguments.shard_sounds}, --worker is {arguments.worker} and --workers is "
            f"{arguments.workers}: expected 1 to 10,000 sounds, and a worker from 0 to --workers minus 1."
        )

    run_opts = {"eval_precision": arguments.precision}
    device = "cpu" if arguments.ray else arguments.device  # with Ray, only the workers embed
    run_opts |= {"device": device} if device else {}
    trust = {"trust_remote_code": arguments.trust_remote_code}
    encoder = load_encoder(arguments.model or SHIPPED, run_opts=run_opts, **trust)
    hop_seconds = encoder.hop_frames(arguments.hop_seconds) * encoder.frame_seconds
    embedding = Embedding(encoder.identity() | {"precision": arguments.precision}, hop_seconds)
    options = {"folder_labels": arguments.folder_labels, "config": arguments.config, "split": arguments.split}
    output = Path(arguments.output).expanduser()
    shards = plan_shards(output, list_sources(arguments.source, **options), arguments.shard_sounds, embedding)

    todo = missing_from(shards[arguments.worker :: arguments.workers])
    if arguments.ray:
        settings = {"device": arguments.device, "threads": arguments.threads}
        embed_on_ray(arguments.ray, todo, embedding, options, **settings, **trust)
    else:
        with progress_bar(total=sum(len(shard.sources) for shard in todo), unit="sound", desc="Embedding") as bar:
            for _ in make_shards(encoder, todo, embedding, threads=arguments.threads, progress=bar.update):
                pass

    done = missing_from(shards, False)
    unread = unread_sounds(done)
    print(f"{len(done)} of {len(shards)} shards are in {output}")
    if unread:
        skipped = output.with_name(f"{output.name}-skipped.csv")  # not in the folder: `datasets` loads it
        write_problems(unread, skipped)
        print(f"{len(unread)} sounds could not be read; {skipped} says why")


if __name__ == "__main__":
    silence_decoders()
    run(main)
