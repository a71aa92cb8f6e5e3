#!/usr/bin/env python3
"""Publish a model, a sound library or embeddings on the Hugging Face Hub.

    python recipes/push_to_hub.py results/cnn/1986 user/name --license apache-2.0
    python recipes/push_to_hub.py results/cnn/1986 user/name --dry_run             writes the folder, publishes nothing
    python recipes/push_to_hub.py sounds.library user/sounds --model user/name     a library, as a dataset
    python recipes/push_to_hub.py sounds.library user/page --space                 its page with its sounds, as a Space
    python recipes/push_to_hub.py embeddings user/embeddings --private             shards of recipes/embed.py

Log in first, by `hf auth login` or HF_TOKEN. The upload is a single commit, so nobody sees a part of it. After an
interruption, run the command again: it skips the files that the Hub already has. To change the card, edit it in the
folder that --dry_run wrote, and push that folder.
"""

import argparse
import shlex
from pathlib import Path

from cochlea_sb.library.sound_library import SoundLibrary
from cochlea_sb.program import first_line, run
from cochlea_sb.publishing.cards import PORT
from cochlea_sb.publishing.export import export
from cochlea_sb.publishing.push import push
from cochlea_sb.publishing.space import export_space


def main(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("source", metavar="FOLDER", help="results folder, library, or embedding shards")
    parser.add_argument("name", metavar="USER/NAME", help="name on the Hub")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--revision", help="branch to commit to; default main")
    parser.add_argument("--license", help="identifier of the licence, such as apache-2.0")
    parser.add_argument("--data", help="description of the training data")
    parser.add_argument("--model", metavar="USER/NAME", help="the Hub name of the encoder that made the embeddings")
    parser.add_argument("--space", action="store_true", help="publish a library with its sounds as a page for everyone")
    parser.add_argument("--card", choices=["replace", "keep"], help="what to do with a card edited on the Hub")
    parser.add_argument("--dry_run", action="store_true", help="write the folder to publish, and upload nothing")
    arguments = parser.parse_args(argv)

    options = {key: getattr(arguments, key) for key in ("license", "data", "model")}
    if arguments.dry_run:
        source = Path(arguments.source).expanduser().resolve()
        folder = source.with_name(f"{source.name}-{'space' if arguments.space else 'to-publish'}")
        show((export_space if arguments.space else export)(source, folder, arguments.name, **options).notes)
        if arguments.space:
            show_trial(source, folder)
        print(f"Nothing was published. The folder is {folder}. To publish the folder:")
        print(f"python recipes/push_to_hub.py {folder} {arguments.name}{' --space' if arguments.space else ''}")
        return
    options |= {key: getattr(arguments, key) for key in ("private", "revision", "card", "space")}
    address, notes = push(arguments.source, arguments.name, **options)
    show(notes)
    print(f"Published: {address}")


def show_trial(source, folder):
    """Print the commands that run the folder of a Space on this computer."""
    library, hop = str(source.with_name(f"{source.name}-trial")), f"{SoundLibrary.open(source).hop_seconds:g}"
    index = ["cochlea", "index", f"{folder}/sounds", "--library", library, "--model", f"{folder}/model"]
    print("To try the folder here, with Docker:")
    print(shlex.join(["docker", "build", "--tag", "sounds", str(folder)]))
    print(f"docker run --rm --publish 127.0.0.1:{PORT}:{PORT} sounds")
    print("Or without Docker:")
    print(shlex.join([*index, "--hop_seconds", hop]))
    print(shlex.join(["cochlea", "serve", library, "--port", str(PORT)]))
    print(f"Then open http://127.0.0.1:{PORT}/ in a browser.")


def show(notes):
    for note in notes:
        print(f"Note: {note}")


if __name__ == "__main__":
    run(main)
