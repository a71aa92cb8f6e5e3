#!/usr/bin/env python3
"""Train and evaluate all recipes of the paper's table, over folds and seeds; run again, it goes on where it was.

    python recipes/reproduce.py esc10 --output_folder results/paper
    python recipes/reproduce.py esc10 --recipes joint cnn --folds 4 5 --seeds 1 --jobs 2 --number_of_epochs 10

The corpus is a labelled folder with a column `fold` (see the README); it comes first. What this command does not know
goes to recipes/train.py and recipes/evaluate.py, for those recipes that have such a key. A run leaves
results/paper/RECIPE/foldF-seedS; the tables are table.md, table.json and three pictures.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from difflib import get_close_matches
from pathlib import Path

from ruamel.yaml import YAML
from speechbrain.utils.run_opts import RunOptions
from tqdm import tqdm

from cochlea_sb.cli import run
from cochlea_sb.evaluation.paper_table import markdown, summarise, write_tables
from cochlea_sb.experiment import read_recipe
from cochlea_sb.files import write_text

ROOT = Path(__file__).resolve().parent.parent
HPARAMS = ROOT / "hparams"
RECIPES = ["noise", "translation", "mixture", "proximity", "joint", "zounds", "cochlea", "cnn"]
SUPERVISED = ["supervised", "supervised_triplets"]
ROBUST = ["joint", "cnn"]  # whose sounds are also deformed: it takes longer than all the rest of an evaluation


def options_by_recipe(recipes, tokens):
    """What of the further options each recipe knows; ``ValueError`` for one that none does.

    Arguments
    ---------
    recipes : list of str
    tokens : list of str
        As they were given: ``--key value``, ``--key=value``, or ``--flag``.

    Returns
    -------
    dict
        List of str by recipe.
    """
    options = []
    for token in tokens:
        if token.startswith("--"):
            options.append([token])
        elif options:
            options[-1].append(token)
        else:
            raise ValueError(f"'{token}' follows no option: expected one such as --device cuda.")
    of_speechbrain = set(RunOptions().as_dict())
    keys = {recipe: of_speechbrain | set(YAML().load(read_recipe(HPARAMS / f"{recipe}.yaml"))) for recipe in recipes}
    for name in (option[0][2:].partition("=")[0] for option in options):
        if not any(name in known for known in keys.values()):
            near = get_close_matches(name, set().union(*keys.values()), n=1)
            raise ValueError(f"No recipe has a key '{name}'" + (f": did you mean '{near[0]}'?" if near else "."))
    return {
        recipe: [token for option in options if option[0][2:].partition("=")[0] in known for token in option]
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
            if subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode:
                return False
    write_text(done, what)
    return True


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
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
    if arguments.jobs < 1 or not os.path.isdir(os.path.expanduser(arguments.data_folder)):
        raise ValueError(
            f"'{arguments.data_folder}' with --jobs {arguments.jobs}: expected a folder as the first argument, and at "
            "least one job."
        )
    if arguments.whole:
        arguments.folds, arguments.few = [0], []
    for recipe in arguments.recipes:
        if not (HPARAMS / f"{recipe}.yaml").is_file():
            raise ValueError(f"There is no recipe '{recipe}': expected some of {', '.join(RECIPES + SUPERVISED)}.")

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
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    failed = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = {pool.submit(carry_out, folder, scripts, threads): folder for folder, scripts in runs}
        try:
            for future in tqdm(as_completed(waiting), total=len(waiting), desc="Runs", unit="run"):
                if not future.result():
                    failed.append(waiting[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

    few = arguments.few if "supervised" in arguments.recipes else []
    summary = summarise(arguments.output_folder, arguments.recipes, arguments.folds, arguments.seeds, few=few)
    description = (
        f"Query by example and classification on {arguments.data_folder}, folds {summary['folds']}, seeds "
        f"{arguments.seeds}: means over the folds with 95 % intervals."
    )
    write_tables(summary, arguments.output_folder, description)
    print(f"\n{description}\n\n{markdown(summary)}\n")
    if failed:
        raise ValueError(
            f"{len(failed)} runs failed; what the first said is in {failed[0]}/run.log; run again to retry."
        )


if __name__ == "__main__":
    run(main)
