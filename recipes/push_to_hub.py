#!/usr/bin/env python3
"""Publish a model, a sound library or embeddings on the Hugging Face Hub.

    python recipes/push_to_hub.py results/cnn/1986 user/name --license apache-2.0
    python recipes/push_to_hub.py results/cnn/1986 user/name --dry_run             writes the folder, publishes nothing
    python recipes/push_to_hub.py sounds.library user/sounds --model user/name     a library, as a dataset
    python recipes/push_to_hub.py embeddings user/embeddings --private             shards of recipes/embed.py

Log in first, by `hf auth login` or HF_TOKEN. The upload is a single commit, so nobody sees a part of it. After an
interruption, run the command again: it skips the files that the Hub already has. To change the card, edit it in the
folder that --dry_run wrote, and push that folder.
"""

import argparse
from pathlib import Path

from cochlea_sb.cli import first_line, run
from cochlea_sb.publishing.export import export
from cochlea_sb.publishing.push import push


def main(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("source", metavar="FOLDER", help="results folder, library, or embedding shards")
    parser.add_argument("name", metavar="USER/NAME", help="name on the Hub")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--revision", help="branch to commit to; default main")
    parser.add_argument("--license", help="identifier of the licence, such as apache-2.0")
    parser.add_argument("--data", help="description of the training data")
    parser.add_argument("--model", metavar="USER/NAME", help="the Hub name of the encoder that made the embeddings")
    parser.add_argument("--card", choices=["replace", "keep"], help="what to do with a card edited on the Hub")
    parser.add_argument("--dry_run", action="store_true", help="write the folder to publish, and upload nothing")
    arguments = parser.parse_args(argv)

    options = {key: getattr(arguments, key) for key in ("license", "data", "model")}
    if arguments.dry_run:
        source = Path(arguments.source).expanduser().resolve()
        folder = source.with_name(f"{source.name}-to-publish")
        show(export(source, folder, arguments.name, **options).notes)
        print(f"Nothing was published. The folder is {folder}. To publish the folder:")
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
