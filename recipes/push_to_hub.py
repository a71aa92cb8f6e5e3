#!/usr/bin/env python3
"""Publish a model, a sound library or embedded sounds on the Hugging Face Hub.

    python recipes/push_to_hub.py results/cnn/1986 user/name --license apache-2.0
    python recipes/push_to_hub.py results/cnn/1986 user/name --dry_run             writes the folder, publishes nothing
    python recipes/push_to_hub.py sounds.library user/sounds --model user/name     a library, as a dataset
    python recipes/push_to_hub.py embeddings user/embeddings --private             shards of recipes/embed.py

Log in before: `hf auth login`, or HF_TOKEN. The upload is one commit, so nobody sees half of it. After an interruption
run the command again; files that the Hub has already are not sent again. To edit the card, edit it in the folder of a
dry run and push that folder.
"""

import argparse
from pathlib import Path

from cochlea_sb.cli import run
from cochlea_sb.publishing.export import export
from cochlea_sb.publishing.push import push


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="FOLDER", help="results folder, library, or embedding shards")
    parser.add_argument("name", metavar="USER/NAME", help="name on the Hub")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--revision", help="branch to commit to; default main")
    parser.add_argument("--license", help="identifier of the licence, such as apache-2.0")
    parser.add_argument("--data", help="the model's training data, in words")
    parser.add_argument("--model", metavar="USER/NAME", help="the encoder of a library or of embeddings, on the Hub")
    parser.add_argument("--card", choices=["replace", "keep"], help="for a card on the Hub that somebody has edited")
    parser.add_argument("--dry_run", action="store_true", help="write the folder to publish, and upload nothing")
    arguments = parser.parse_args(argv)

    options = {key: getattr(arguments, key) for key in ("license", "data", "model")}
    if arguments.dry_run:
        source = Path(arguments.source).expanduser().resolve()
        folder = source.with_name(f"{source.name}-to-publish")
        show(export(source, folder, arguments.name, **options).notes)
        print(f"Nothing was published. The folder is {folder}; to publish it:")
        print(f"python recipes/push_to_hub.py {folder} {arguments.name}")
        return
    options |= {key: getattr(arguments, key) for key in ("private", "revision", "card")}
    address, notes = push(arguments.source, arguments.name, **options)
    show(notes)
    print(f"Published: {address}")


def show(notes):
    for note in notes:
        print(f"Note: {note}")


if __name__ == "__main__":
    run(main)
