"""Read the command line and the yaml of a recipe. The scripts in recipes/ call it."""

import io
import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import ruamel.yaml
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.utils.run_opts import RunOptions

from cochlea_sb.errors import UserError, one_line

# Arguments of `cochlea_sb.data.corpus.load_corpus`
CORPUS_KEYS: tuple[str, ...] = ("data_folder", "dataset", "config", "split", "folder_labels", "num_proc")
CORPUS_KEYS += ("sounds_per_class", "label_column", "source_column")
# Arguments of `cochlea_sb.data.streams.SoundStream`
STREAM_KEYS: tuple[str, ...] = ("data_folder", "dataset", "config", "split", "label_column", "source_column")
STREAM_KEYS += ("valid_folds", "valid_share")
# Arguments of `cochlea_sb.training.pairs.PairBatches`, of pairs in memory and of a stream
PAIR_KEYS = ("deformation", "crop_frames", "proximity_seconds", "max_seconds")
# Options that are text, whatever they look like: a folder may be called 2024 or null.
TEXTS = {"data_folder", "dataset", "config", "split", "label_column", "source_column"}
TEXTS |= {"output_folder", "save_folder", "train_log", "model"}
SEVERAL = {"data_folder"}  # options that may have several values
LEAST: dict[str, float] = {"seed": 0, "number_of_epochs": 0, "embedding_size": 1, "steps_per_epoch": 1}
LEAST |= {"lr": 0, "weight_decay": 0, "warm_up_steps": 0, "crop_frames": 1, "max_seconds": 1, "n_sources": 0}
LEAST |= {"num_proc": 1, "labels_per_class": 1, "memory_gb": 0}  # may be null
LEAST |= {"sounds_per_class": 1, "buffer_hours": 0.01}
# Keys that may differ when a run is continued, is evaluated by recipes/evaluate.py, or was moved to another folder.
MAY_CHANGE = {"number_of_epochs", "lr_schedule", "epoch_counter", "num_proc", "ckpt_interval_minutes", "memory_gb"}
MAY_CHANGE |= {"buffer_hours", "draws_per_sound"}  # a continued run reads its stream from the start
MAY_CHANGE |= {"evaluate_all", "robustness", "few_labels", "model"}
MAY_CHANGE |= {"output_folder", "save_folder", "train_log", "train_logger", "checkpointer"}


def parse_arguments(argv: Sequence[str]) -> tuple[str, RunOptions, dict[str, Any]]:
    """Read a command line: return the path of the yaml, the options of SpeechBrain, and the overrides of yaml keys.

    Unlike with `speechbrain.parse_arguments`, paths may contain ``=``, ``#`` or a space. ``--help`` prints the
    keys of the yaml with their comments, and exits.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        if not any(os.path.isfile(token) for token in argv):
            print("Give a yaml before --help, such as hparams/cnn.yaml --help: the keys of the yaml are options too.\n")
        for file in filter(os.path.isfile, argv):
            print(f"{describe_keys(file)}\n\nOptions of SpeechBrain:\n")
    options = {f"--{name}" for name in RunOptions().as_dict()} | {"-h", "--help"}
    theirs: list[str] = []
    overrides: dict[str, Any] = {}
    key, unset = None, object()
    for token in argv:
        if token.startswith("--") and len(token) > 2 or token == "-h":
            name, equals, value = token.partition("=")
            key = None if name in options else name[2:]
            if key is None:
                theirs.append(token)
            else:
                overrides[key] = parse_value(value, key) if equals else unset
        elif key is not None and overrides[key] is unset:
            overrides[key] = parse_value(token, key)
        elif key in SEVERAL:
            given = overrides[key]
            overrides[key] = [*(given if isinstance(given, list) else [given]), parse_value(token, key)]
        elif key is not None:
            raise UserError(f"'{token}' follows the value of --{key}: expected one value; quote it if it has spaces.")
        else:
            theirs.append(token)
    for name, given in overrides.items():
        if given is unset:
            raise UserError(f"--{name} has no value: add a value after it.")
    local_rank = os.environ.get("LOCAL_RANK")
    if "cuda" in theirs and local_rank is not None:  # with torchrun, each process uses its own GPU
        theirs[theirs.index("cuda")] = f"cuda:{local_rank}"
    hparams_file, run_opts, _ = RunOptions.from_command_line_args(theirs)
    if not os.path.isfile(hparams_file):
        raise UserError(f"'{hparams_file}' is not a file: the first argument names a yaml such as hparams/cnn.yaml.")
    return hparams_file, run_opts, overrides


def describe_keys(hparams_file: str | os.PathLike[str]) -> str:
    """List the keys of a yaml that are options (numbers, texts and lists), with their defaults and comments."""
    text = read_recipe(hparams_file)
    tree = ruamel.yaml.YAML().load(text)
    plain_kinds = (int, float, str, list, type(None), ruamel.yaml.comments.TaggedScalar)
    keys = {key for key, value in tree.items() if isinstance(value, plain_kinds) and not key.startswith("__")}
    lines = [line.partition(":") for line in text.splitlines()]
    options = [f"  --{key}{value.replace('!ref ', '')}" for key, _, value in lines if key in keys and "!n" not in value]
    return "\n".join([f"Options of {os.fspath(hparams_file)}, with their defaults:\n", *options])


def parse_value(text: str, key: str = "") -> Any:
    """Parse the value of the option ``key`` as yaml.

    The text itself is returned if the key is in `TEXTS`, if the text is invalid yaml, or if it is the path of an
    existing file. A text that looks like a number or a list is parsed even if a file has this name.
    """
    if key in TEXTS:
        return text
    try:
        value = ruamel.yaml.YAML(typ="safe").load(text)
    except ruamel.yaml.error.YAMLError:
        return text
    return text if isinstance(value, (str, dict)) and os.path.exists(os.path.expanduser(text)) else value


def load_experiment(hparams_file: str | os.PathLike[str], overrides: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Build the objects of a yaml. Return the objects by key, and the yaml with overrides and references resolved.

    Raises `UserError` if an override is not a key of the yaml, or if an object can't be built.
    """
    try:
        text = read_recipe(hparams_file)
        known = ruamel.yaml.YAML().load(text)
        unknown = [key for key in overrides if key not in known]
        if unknown:
            near = get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"its keys are {', '.join(known)}."
            raise UserError(f"'{hparams_file}' has no key '{unknown[0]}': {hint}")
        for key, value in overrides.items():
            check_kind(key, known[key], value)
        return load_hyperpyyaml(text, overrides), resolve_references(text, overrides).getvalue()
    except UserError:
        raise
    except (ruamel.yaml.error.YAMLError, ImportError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"'{hparams_file}' could not be built: {one_line(error)}") from error


def read_recipe(hparams_file: str | os.PathLike[str]) -> str:
    """Return the text of a yaml. If it contains ``base: cnn.yaml``, its other keys are added to the text of cnn.yaml.

    A key replaces the same key of the base together with its nested keys. The path of the base is relative to the
    folder of the yaml. Raises `UserError` if a base is missing or is its own base.
    """
    editor, differences, file = ruamel.yaml.YAML(), [], Path(hparams_file)
    editor.width = 10**6
    while True:
        text = file.read_text(encoding="utf-8")
        tree = editor.load(text)
        if not isinstance(tree, dict):
            raise UserError(f"'{file}' holds no keys: expected a yaml such as hparams/cnn.yaml.")
        if "base" not in tree:
            break
        differences.append(tree)
        file = file.parent / str(tree["base"])
        if not file.is_file() or len(differences) > 10:
            raise UserError(f"'{hparams_file}' is based on '{file}', which is not there or is based on itself.")
    if not differences:
        return text
    for difference in reversed(differences):
        tree.update((key, value) for key, value in difference.items() if key != "base")
    out = io.StringIO()
    editor.dump(tree, out)
    return out.getvalue()


def check_kind(key: str, default: Any, value: Any) -> None:
    """Raise `UserError` if an override is out of range, or has another type than the value in the yaml."""
    if default is None and value is None:
        return
    if default is None and key in LEAST and (not isinstance(value, int) or isinstance(value, bool)):
        raise UserError(f"--{key} is {value!r}: expected a whole number, or null.")
    if isinstance(value, (int, float)) and key in LEAST and not value >= LEAST[key]:  # also rejects NaN
        raise UserError(f"--{key} is {value!r}: expected at least {LEAST[key]}.")
    kinds: dict[str, Any] = {"True or False": bool, "a whole number": int, "a number": (int, float)}
    kinds["a list such as [noise]" if key == "robustness" else "a list such as [5]"] = list
    for name, kind in kinds.items():
        if isinstance(default, kind):
            if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                raise UserError(f"--{key} is {value!r}: expected {name} (the yaml says {default}).")
            return


def check_same_run(folder: str | os.PathLike[str], text: str) -> None:
    """Raise `UserError` if a results folder holds checkpoints or a model of a run with other settings than ``text``.

    ``text`` comes from `load_experiment`. The keys in `MAY_CHANGE` may differ.
    """
    before, model = Path(folder, "train.yaml"), Path(folder, "hyperparams.yaml")
    if not before.is_file() or not (model.is_file() or list(Path(folder).glob("save/CKPT*"))):
        return
    old, new = (dict(plain(yaml.compose(part, yaml.SafeLoader))[1]) for part in (before.read_text("utf-8"), text))
    for key in {**old, **new}:
        if key not in MAY_CHANGE and old.get(key) != new.get(key):
            raise UserError(
                f"'{folder}' holds a run with other settings ('{key}' differs): choose another --output_folder, or "
                "delete that folder to start over."
            )


def plain(node: yaml.Node) -> tuple[str, Any]:
    """Convert a yaml node to nested pairs (tag, value), so that yamls can be compared without comments."""
    if isinstance(node, yaml.MappingNode):
        return node.tag, [(key.value, plain(value)) for key, value in node.value]
    if isinstance(node, yaml.SequenceNode):
        return node.tag, [plain(value) for value in node.value]
    return node.tag, node.value
