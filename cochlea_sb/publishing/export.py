"""What is published of a results folder, a sound library or embedded sounds: a folder of its own, with a card.

Models become what `AudioEncoder.from_hparams` and SpeechBrain's ``EncoderClassifier`` load by name; libraries and
embeddings become datasets. `cochlea_sb.hub.upload` takes the folder from there.
"""

import json
import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ruamel.yaml

from cochlea_sb import __version__
from cochlea_sb.data import LIBRARY_MANIFEST
from cochlea_sb.data.sources import ROW
from cochlea_sb.errors import UserError
from cochlea_sb.files import names_on_hub, write_text
from cochlea_sb.hub import CARD, stamped
from cochlea_sb.inference.audio_encoder import SHIPPED, AudioEncoder
from cochlea_sb.inference.model_folder import WEIGHTS, YAML
from cochlea_sb.library.shards import METADATA, embedding_shards, read_facts, write_parquet
from cochlea_sb.library.sound_library import SoundLibrary
from cochlea_sb.library.store import Store
from cochlea_sb.publishing.cards import PICTURES, embeddings_card, library_card, model_card

# Settings of a run that say where things lay, or how it was measured, and nothing of the model.
OF_THE_RUN = {"__set_seed", "output_folder", "save_folder", "train_log", "data_folder", "dataset", "config", "split"}
OF_THE_RUN |= {"num_proc", "ckpt_interval_minutes", "model", "evaluate_all", "few_labels", "robustness"}


class Published(NamedTuple):
    """What `export` made.

    repo_type : str, ``model`` or ``dataset``
    replaces : tuple of str, patterns of files that an earlier upload may have left, for `cochlea_sb.hub.upload`
    notes : list of str, sentences that the publisher should read
    """

    repo_type: str
    replaces: tuple[str, ...]
    notes: list[str]


def export(
    source: str | Path,
    folder: str | Path,
    name: str,
    *,
    license: str | None = None,
    data: str | None = None,
    model: str | None = None,
) -> Published:
    """Make the folder that is to be published.

    Arguments
    ---------
    source : str or Path
        Results folder, library, or folder of embedding shards. A card (``README.md``) that it holds is taken as it is.
    folder : str or Path
        A new one; of a library it may hold links to files.
    name : str
        ``user/name``, as the card calls it.
    license : str, optional
        Identifier, such as ``apache-2.0``.
    data : str, optional
        What a model was trained on, in words.
    model : str, optional
        ``user/name`` of the encoder of a library or of embeddings, if it was a folder of this machine.

    Returns
    -------
    Published

    Raises
    ------
    UserError
        If ``source`` is none of these, or damaged or incomplete, or the folder is there; if an option does not go with
        it; or if ``model`` is another encoder, or can't be loaded.
    """
    source, folder = Path(source).expanduser(), Path(folder)
    if model is not None and model != SHIPPED and not names_on_hub(model):
        raise UserError(f"The model is '{model}': expected the encoder's user/name on the Hub.")
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise UserError(
            f"The licence is '{license}': expected its identifier on the Hub, such as apache-2.0, cc-by-4.0."
        )
    own_card = (source / CARD).is_file()
    if own_card and (license or data):
        raise UserError(
            f"'{source / CARD}' is the card, as it is: write licence and data there, and leave them out here."
        )
    is_model = (source / YAML).exists()
    if (data if not is_model else model) is not None:
        what = "model: a model has no other" if is_model else "data: it says what a model was trained on"
        raise UserError(f"'{source}' wants no --{what}.")
    if Store(source).exists():
        make = partial(export_library, model=model)
    elif embedding_shards(source):
        make = partial(export_embeddings, model=model)
    elif is_model:
        make = partial(export_model, data=data)
    else:
        raise UserError(
            f"'{source}' is nothing to publish: give a results folder of recipes/train.py, a library of `cochlea "
            "index`, or the shards of recipes/embed.py."
        )
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise UserError(f"'{folder}' is there already: push that folder, or delete it first.") from error
    try:
        repo_type, replaces, notes, on_card = make(source, folder, name, license=license)
        if own_card:
            shutil.copyfile(source / CARD, folder / CARD)
        else:
            notes += on_card
            if license is None:
                notes.append("The card names no licence: --license apache-2.0, for example, says one.")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return Published(repo_type, replaces, notes)


def export_model(
    source: Path, folder: Path, name: str, license: str | None, data: str | None
) -> tuple[str, tuple[str, ...], list[str], list[str]]:
    """The model, its configuration and card, the figures that are its own, and the pictures."""
    encoder = AudioEncoder.from_hparams(str(source), run_opts={"device": "cpu"})  # what others can't load stays here
    on_card, report = [], read_json(source / "evaluation.json")
    config = model_config(encoder)
    if report and report.get("fingerprint") != config["fingerprint"]:
        report = None
        on_card.append("The card holds no figures, since evaluation.json is of another model: run recipes/evaluate.py.")
    elif not report:
        on_card.append("The card holds no figures: recipes/evaluate.py measures them, on labelled sounds.")
    measured = {"few_labels.png", "robustness.png"}
    pictures = [picture for picture in PICTURES if (source / picture).is_file() and (report or picture not in measured)]
    for file in (YAML, WEIGHTS, *pictures):
        shutil.copyfile(source / file, folder / file)
    if report:
        write_text(folder / "evaluation.json", json.dumps(report, indent=1) + "\n")
    training, settings = read_json(source / "training.json"), None
    if training and (epochs := epochs_in(source / "history.json")):
        training["epochs"] = epochs
    if (source / "train.yaml").is_file():
        settings = settings_of((source / "train.yaml").read_text(encoding="utf-8"))
    if not training and not data:
        on_card.append("The card does not tell what the model was trained on: --data says it, in words.")
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")
    card = model_card(
        name,
        config,
        training=training,
        settings=settings,
        report=report,
        pictures=pictures,
        license=license,
        data=data,
    )
    write_text(folder / CARD, stamped(card))
    return "model", ("evaluation.json", *PICTURES), [], on_card


def epochs_in(path: Path) -> int | None:
    """How many epochs a run has come to, by its ``history.json``."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))[-1]["epoch"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def model_config(encoder: AudioEncoder) -> dict[str, Any]:
    """What ``config.json`` says: which SpeechBrain class loads the model, and what it is.

    Arguments
    ---------
    encoder : AudioEncoder

    Returns
    -------
    dict
    """
    return {
        "speechbrain_interface": "EncoderClassifier",
        "cochlea_sb": __version__,
        "encoder": type(encoder.mods.embedding_model).__name__,
        "features": type(encoder.mods.compute_features).__name__,
        "sample_rate": encoder.sample_rate,
        "window_seconds": encoder.window_seconds,
        "embedding_size": encoder.embedding_size,
        "parameters": sum(values.numel() for values in encoder.mods.embedding_model.state_dict().values()),
        "fingerprint": encoder.identity()["fingerprint"],
    }


def settings_of(text: str) -> str:
    """The plain settings of a training yaml, as yaml, without what is of the run or of the machine."""
    tree = ruamel.yaml.YAML(typ="rt").load(text)
    plain = {
        key: value
        for key, value in tree.items()
        if key not in OF_THE_RUN and isinstance(value, (int, float, str, list)) and not re.search(r"[/\\~]", str(value))
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in plain.items())


def export_library(
    source: Path, folder: Path, name: str, license: str | None, model: str | None
) -> tuple[str, tuple[str, ...], list[str], list[str]]:
    """What a library can find: all in one index, nothing of what was forgotten or could not be read."""
    store = Store(folder)
    manifest = Store(source).link_to(folder)
    manifest["encoder"] = public_encoder(manifest["encoder"], model)
    write_text(folder / LIBRARY_MANIFEST, json.dumps(manifest, indent=1))
    SoundLibrary.open(folder).merge()
    manifest, catalogue, _, _ = store.read()
    catalogue = catalogue.filter(pc.greater(catalogue["n_windows"], 0))
    paths = without_root(catalogue["path"].to_pylist())
    catalogue = catalogue.set_column(catalogue.column_names.index("path"), "path", pa.array(paths, pa.string()))
    with store.lock():
        store.commit(manifest | {"catalogue": store.write_catalogue(catalogue)})
    (folder / "lock").unlink()
    library = SoundLibrary.open(folder)
    hours = (pc.sum(catalogue["seconds"]).as_py() or 0) / 3600
    facts = {"sounds": len(library), "windows": library.n_windows, "hours": hours, "hop_seconds": library.hop_seconds}
    card = library_card(name, encoder=manifest["encoder"], license=license, **facts)
    write_text(folder / CARD, stamped(card))
    notes = notes_on(paths, len(library), manifest["encoder"]["source"])
    return "dataset", ("index-*", "sounds-*", "delta-*"), notes, []


def export_embeddings(
    source: Path, folder: Path, name: str, license: str | None, model: str | None
) -> tuple[str, tuple[str, ...], list[str], list[str]]:
    """The shards of embedded sounds; of those that could not be read, nothing."""
    files = [Path(file) for file in embedding_shards(source)]
    expected = re.fullmatch(r"embeddings-\d+-of-(\d+).parquet", files[0].name)
    if expected and len(files) != int(expected[1]):
        raise UserError(
            f"'{source}' holds {len(files)} of {int(expected[1])} shards: finish recipes/embed.py first, each --worker."
        )
    facts = [read_facts(file) or {} for file in files]
    encoder = public_encoder(facts[0]["identity"], model)
    tables = pa.concat_tables(pq.read_table(file, columns=["path"]) for file in files)
    known = tables["path"].unique().to_pylist()
    shown = dict(zip(known, without_root(known), strict=True))
    for file, own in zip(files, facts, strict=True):
        table = pq.read_table(file)
        paths = pa.array([shown[path] for path in table["path"].to_pylist()], pa.string())
        own = own | {"identity": own["identity"] | encoder, "unread": [], "made_of": None}
        table = table.set_column(table.column_names.index("path"), "path", paths)
        write_parquet(folder / file.name, table.replace_schema_metadata({METADATA: json.dumps(own).encode()}))
    sizes = {"sounds": len(known), "windows": len(tables), "hop_seconds": facts[0]["hop_seconds"]}
    sizes["dimensions"] = pq.read_schema(files[0]).field("embedding").type.list_size
    write_text(folder / CARD, stamped(embeddings_card(name, encoder=encoder, license=license, **sizes)))
    notes = notes_on(list(shown.values()), sizes["sounds"], encoder["source"])
    return "dataset", ("embeddings-*.parquet",), notes, []


def public_encoder(identity: dict[str, Any], model: str | None) -> dict[str, Any]:
    """An encoder's identity as others can make use of it; `UserError` where ``model`` is another."""
    source, fingerprint = identity["source"], identity["fingerprint"]
    if model is None:
        known = source == SHIPPED or names_on_hub(source or "")
        return identity | {"source": source if known else None, "revision": identity["revision"] if known else None}
    found = AudioEncoder.from_hparams(model, run_opts={"device": "cpu"}).identity()
    if found["fingerprint"] != fingerprint:
        raise UserError(
            f"The model '{model}' has the fingerprint {found['fingerprint'][:12]}, and the encoder that was used "
            f"{fingerprint[:12]}: publish that one, or name its commit ({model}@COMMIT)."
        )
    return identity | {"source": found["source"], "revision": found["revision"]}


def without_root(paths: list[str]) -> list[str]:
    """Paths as they are below the folder that holds them all: what is above is the publisher's own.

    Example
    -------
    >>> without_root(["/home/ada/sounds/dog.wav", "/home/ada/sounds/birds/owl.wav"])
    ['dog.wav', 'birds/owl.wav']
    """
    bare = [path.removeprefix(ROW) for path in paths]
    folders = [os.path.dirname(path) for path in bare if os.path.isabs(path)]
    root = os.path.commonpath(folders) if folders else ""
    short = [os.path.relpath(path, root) if os.path.isabs(path) else path for path in bare]
    return [ROW + new if path.startswith(ROW) else new for path, new in zip(paths, short, strict=True)]


def notes_on(paths: list[str], count: int, source: str | None) -> list[str]:
    """What the publisher of a catalogue should know."""
    notes = [f"It holds the paths of {count:,} sounds, such as '{path}'." for path in paths[:1]]
    if source is None:
        notes.append("Its encoder is not on the Hub: publish that first, and name it (--model user/name).")
    return notes


def read_json(path: Path) -> dict[str, Any] | None:
    """A dictionary from a file; None where there is no such file, or no dictionary in it."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
