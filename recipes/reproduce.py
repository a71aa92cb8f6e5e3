#!/usr/bin/env python3
"""Train and evaluate all recipes of the paper's table, over folds and seeds; run again, it goes on where it was.

    python recipes/reproduce.py esc10 --output_folder results/paper
    python recipes/reproduce.py esc10 --recipes joint cnn --folds 4 5 --seeds 1 --jobs 2 --number_of_epochs 10

The corpus is a labelled folder with a column `fold` (see the README); it comes first. What this command does not know
goes to recipes/train.py and recipes/evaluate.py, for those recipes that have such a key. A run leaves
results/paper/RECIPE/foldF-seedS, with what it says while it runs in run.log; the tables are table.md, table.json and
three pictures. What is recovered, and the curve of few labels, need the recipe `supervised` among them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from difflib import get_close_matches
from pathlib import Path

from ruamel.yaml import YAML
from speechbrain.utils.run_opts import RunOptions
from tqdm import tqdm

from cochlea_sb.cli import run
from cochlea_sb.data.corpus import column
from cochlea_sb.data.sounds import load_sounds
from cochlea_sb.errors import UserError
from cochlea_sb.evaluation.paper_table import markdown, summarise, write_tables
from cochlea_sb.evaluation.report import KINDS
from cochlea_sb.files import write_text
from cochlea_sb.machine import n_cores
from cochlea_sb.training.recipe import load_experiment, parse_value, read_recipe

ROOT = Path(__file__).resolve().parent.parent
HPARAMS = ROOT / "hparams"
RUNNING = []  # processes
RECIPES = ["noise", "translation", "mixture", "proximity", "joint", "zounds", "cochlea", "cnn"]
SUPERVISED = ["supervised", "supervised_triplets"]
ROBUST = ["joint", "cnn"]  # whose sounds are also deformed: it takes longer than all the rest of an evaluation


def split_options(tokens):
    """Options with their values, a list of lists of str, from ``--key value``, ``--key=value``, and ``--flag``."""
    options = []
    for token in tokens:
        if token.startswith("--"):
            name, equals, value = token.partition("=")
            options.append([name, value] if equals else [token])
        elif options:
            options[-1].append(token)
        else:
            raise UserError(f"'{token}' follows no option: expected one such as --device cuda.")
    return options


def options_by_recipe(recipes, options):
    """What of the further options each recipe knows; `UserError` for one that none does.

    Arguments
    ---------
    recipes : list of str
    options : list of list of str
        From `split_options`.

    Returns
    -------
    dict
        List of str by recipe.
    """
    of_speechbrain = set(RunOptions().as_dict())
    keys = {recipe: of_speechbrain | set(YAML().load(read_recipe(HPARAMS / f"{recipe}.yaml"))) for recipe in recipes}
    for name in (option[0][2:] for option in options):
        if not any(name in known for known in keys.values()):
            near = get_close_matches(name, set().union(*keys.values()), n=1)
            raise UserError(f"No recipe has a key '{name}'" + (f": did you mean '{near[0]}'?" if near else "."))
    return {
        recipe: [token for option in options if option[0][2:] in known for token in option]
        for recipe, known in keys.items()
    }


def commands(recipe, count, fold, seed, arguments, options):
    """The folder of a run and the commands that fill it."""
    name = recipe if count is None else f"{recipe}-{count}-labels"
    folder = Path(arguments.output_folder, name, f"fold{fold}-seed{seed}").resolve()
    common = [f"hparams/{recipe}.yaml", "--data_folder", str(Path(arguments.data_folder).expanduser().resolve())]
    common += ["--output_folder", str(folder), "--seed", str(seed)]
    common += ["--valid_folds", f"[{fold}]", "--valid_share", "0"]  # a fold that the corpus lacks is no other's share
    if arguments.whole:
        common += ["--evaluate_all", "True"]
    if count is not None:
        return folder, [["recipes/train.py", *common, *options, "--labels_per_class", str(count)]]
    measured = ["--few_labels", str(arguments.few)]
    if recipe not in arguments.robust or seed != arguments.seeds[0]:
        measured += ["--robustness", "[]"]
    return folder, [["recipes/train.py", *common, *options], ["recipes/evaluate.py", *common, *options, *measured]]


def carry_out(folder, scripts, threads):
    """Run the commands of one run, unless just these are done; what they say goes to run.log.

    Returns
    -------
    bool
        Whether it ended well.
    """
    done, what = folder / "done", json.dumps(scripts, indent=1)
    if done.is_file() and done.read_text(encoding="utf-8") == what:
        return True
    done.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "run.log", "w", encoding="utf-8") as log:
        for script in scripts:
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            command = [sys.executable, *script]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            RUNNING.append(process)
            if process.wait():
                return False
    write_text(done, what)
    return True


def why(folder):
    """What a run that failed said last."""
    lines = Path(folder, "run.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return next((line for line in reversed(lines) if line.startswith("Error: ")), lines[-1] if lines else "nothing")


def check_corpus(arguments, options):
    """Raise `UserError` where all runs would fail, before the first."""
    overrides = {"data_folder": arguments.data_folder}
    for name in ("folder_labels", "label_column", "robustness"):
        for option in options:
            if option[0] == f"--{name}" and len(option) == 2:
                overrides[name] = parse_value(option[1])
    hparams, _ = load_experiment(HPARAMS / "log_mel.yaml", overrides | {"output_folder": os.devnull})
    unknown = [kind for kind in hparams["robustness"] if kind not in KINDS]
    if unknown:
        raise UserError(f"--robustness names '{unknown[0]}': expected some of {', '.join(KINDS)}.")
    sounds = load_sounds(arguments.data_folder, folder_labels=hparams["folder_labels"])
    labelled = column(sounds, hparams["label_column"]) is not None
    folds = {str(fold).removesuffix(".0") for fold in column(sounds, "fold") or () if fold is not None}
    if not arguments.whole and not labelled:
        raise UserError(
            f"The sounds of '{arguments.data_folder}' have no labels: add a column 'label', or measure only whether "
            "sounds are found again (--whole --robust RECIPE ...)."
        )
    absent = [fold for fold in arguments.folds if str(fold) not in folds]
    if not arguments.whole and absent:
        known = f"it has {', '.join(sorted(folds))}" if folds else "it has no column 'fold': see --whole"
        raise UserError(f"'{arguments.data_folder}' has no fold {absent[0]}: {known}.")
    if not labelled and not set(arguments.robust) & set(arguments.recipes):
        raise UserError(
            f"The sounds of '{arguments.data_folder}' have no labels, so only whether they are found again can be "
            "measured: add --robust and the recipes."
        )


def main(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data_folder", help="labelled folder with folds")
    parser.add_argument("--output_folder", default="results/paper")
    parser.add_argument("--recipes", nargs="+", default=RECIPES + SUPERVISED, help="yamls of hparams/, without .yaml")
    parser.add_argument("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--whole", action="store_true", help="no folds: train and measure on all sounds")
    parser.add_argument("--robust", nargs="*", default=ROBUST, help="recipes whose sounds also come back deformed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--few", nargs="*", type=int, default=[1, 2, 5, 10, 20], help="labels of each class")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    arguments, options = parser.parse_known_args(argv)
    if arguments.jobs < 1:
        raise UserError(f"--jobs is {arguments.jobs}: expected at least 1.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs ends, too
    if arguments.whole:
        arguments.folds, arguments.few = [0], []
    for recipe in arguments.recipes:
        if not (HPARAMS / f"{recipe}.yaml").is_file():
            known = sorted({path.stem for path in HPARAMS.glob("*.yaml")} - {"corpus"})
            raise UserError(f"There is no recipe '{recipe}': expected some of {', '.join(known)}.")

    options = split_options(options)
    check_corpus(arguments, options)
    options = options_by_recipe(arguments.recipes, options)
    kinds = [(recipe, None) for recipe in arguments.recipes]
    if "supervised" in arguments.recipes:
        kinds += [("supervised", count) for count in arguments.few]
    # Seed by seed and fold by fold, so that an early table already holds every recipe.
    runs = [
        commands(recipe, count, fold, seed, arguments, options[recipe])
        for seed in arguments.seeds
        for fold in arguments.folds
        for recipe, count in kinds
    ]
    threads = max(1, n_cores() // arguments.jobs)
    failed = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = {pool.submit(carry_out, folder, scripts, threads): folder for folder, scripts in runs}
        try:
            for future in tqdm(as_completed(waiting), total=len(waiting), desc="Runs", unit="run"):
                if not future.result():
                    failed.append(waiting[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in RUNNING:
                process.terminate()
            raise

    sentence = failed and (
        f"{len(failed)} of {len(runs)} runs failed; the first, '{failed[0]}', said: {why(failed[0])} Mend that and run "
        "the same command again: it goes on with those."
    )
    few = arguments.few if "supervised" in arguments.recipes else []
    try:
        summary = summarise(arguments.output_folder, arguments.recipes, arguments.folds, arguments.seeds, few=few)
    except UserError as error:
        raise UserError(sentence or str(error)) from error
    where = f"{arguments.data_folder}, seeds {arguments.seeds}"
    description = (
        f"{where}: learnt from all sounds, and measured on all."
        if arguments.whole
        else f"{where}, folds {summary['folds']}, each measured by what the others taught: means over the folds"
        + (" with 95 % intervals." if len(summary["folds"]) > 1 else ".")
    )
    write_tables(summary, arguments.output_folder, description)
    print(f"\n{description}\n\n{markdown(summary)}\n")
    if failed:
        raise UserError(sentence)


if __name__ == "__main__":
    run(main)
