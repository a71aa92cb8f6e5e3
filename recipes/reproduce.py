#!/usr/bin/env python3
"""Train and evaluate all recipes of the paper's table, for each fold and seed. To resume, run the same command again.

    python recipes/reproduce.py esc10 --output_folder results/paper
    python recipes/reproduce.py esc10 --recipes joint cnn --folds 4 5 --seeds 1 --jobs 2 --number_of_epochs 10

The first argument is a labelled folder with a column `fold` (docs/train.md). Further options are passed to
recipes/train.py and recipes/evaluate.py, if the yaml of the recipe has the key. A run writes its model, its figures and
run.log to results/paper/RECIPE/foldF-seedS. The results are table.md, table.json and three pictures. The columns
"recovered" and the curve of few labels need the recipe `supervised`.
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

from paper_table import markdown, summarise, write_tables
from ruamel.yaml import YAML
from speechbrain.utils.run_opts import RunOptions
from tqdm import tqdm

from cochlea_sb.data.corpus import column
from cochlea_sb.data.sounds import load_sounds
from cochlea_sb.errors import UserError
from cochlea_sb.evaluation.report import KINDS
from cochlea_sb.files import write_text
from cochlea_sb.machine import n_cores
from cochlea_sb.program import first_line, run
from cochlea_sb.training.recipe import load_experiment, parse_value, read_recipe

ROOT = Path(__file__).resolve().parent.parent
HPARAMS = ROOT / "hparams"
RUNNING = []  # processes, to stop them when this script is stopped
RECIPES = ["noise", "translation", "mixture", "proximity", "joint", "zounds", "cochlea", "cnn"]
SUPERVISED = ["supervised", "supervised_triplets"]
ROBUST = ["joint", "cnn"]  # also measured on deformed sounds, which takes most of the time of an evaluation


def split_options(tokens):
    """Split ``--key value``, ``--key=value`` and ``--flag`` into a list of lists: an option and its values."""
    options = []
    for token in tokens:
        if token.startswith("--"):
            name, equals, value = token.partition("=")
            options.append([name, value] if equals else [token])
        elif options:
            options[-1].append(token)
        else:
            raise UserError(f"'{token}' does not follow an option: expected something like --device cuda.")
    return options


def options_by_recipe(recipes, options):
    """For each recipe, the tokens of the ``options`` (from `split_options`) that are keys of the recipe.

    Raises `UserError` for an option that is a key of no recipe.
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
    """The folder of a run, and the commands of the run: a list of lists of str."""
    name = recipe if count is None else f"{recipe}-{count}-labels"
    folder = Path(arguments.output_folder, name, f"fold{fold}-seed{seed}").resolve()
    common = [f"hparams/{recipe}.yaml", "--data_folder", str(Path(arguments.data_folder).expanduser().resolve())]
    common += ["--output_folder", str(folder), "--seed", str(seed)]
    common += ["--valid_folds", f"[{fold}]", "--valid_share", "0"]  # hold out the fold, and no random share
    if arguments.whole:
        common += ["--evaluate_all", "True"]
    if count is not None:
        return folder, [["recipes/train.py", *common, *options, "--labels_per_class", str(count)]]
    measured = ["--few_labels", str(arguments.few)]
    if recipe not in arguments.robust or seed != arguments.seeds[0]:
        measured += ["--robustness", "[]"]
    return folder, [["recipes/train.py", *common, *options], ["recipes/evaluate.py", *common, *options, *measured]]


def carry_out(folder, scripts, threads):
    """Run the commands of a run, unless they are done already. Returns whether all commands succeeded."""
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
    """The last error in the log of a failed run."""
    lines = Path(folder, "run.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return next((line for line in reversed(lines) if line.startswith("Error: ")), lines[-1] if lines else "nothing")


def check_corpus(arguments, options):
    """Raise `UserError` for a mistake that would make all runs fail."""
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
            "deformed sounds find their originals (--whole --robust RECIPE ...)."
        )
    absent = [fold for fold in arguments.folds if str(fold) not in folds]
    if not arguments.whole and absent:
        known = f"it has {', '.join(sorted(folds))}" if folds else "it has no column 'fold': see --whole"
        raise UserError(f"'{arguments.data_folder}' has no fold {absent[0]}: {known}.")
    if not labelled and not set(arguments.robust) & set(arguments.recipes):
        raise UserError(
            f"The sounds of '{arguments.data_folder}' have no labels, so only robustness to deformations can be "
            "measured: add --robust RECIPE ...."
        )


def main(argv):
    parser = argparse.ArgumentParser(
        description=first_line(__doc__),
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data_folder", help="folder of labelled sounds with a column 'fold'")
    parser.add_argument("--output_folder", default="results/paper")
    parser.add_argument("--recipes", nargs="+", default=RECIPES + SUPERVISED, help="files of hparams/, without .yaml")
    parser.add_argument("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--whole", action="store_true", help="train and measure on all sounds, without folds")
    parser.add_argument("--robust", nargs="*", default=ROBUST, help="recipes to measure on deformed sounds too")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--few", nargs="*", type=int, default=[1, 2, 5, 10, 20], help="numbers of labels of each class")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs")
    arguments, options = parser.parse_known_args(argv)
    if arguments.jobs < 1:
        raise UserError(f"--jobs is {arguments.jobs}: expected at least 1.")
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
    # All recipes run on the first fold before any recipe runs on the second: the table is complete after one fold.
    runs = [
        commands(recipe, count, fold, seed, arguments, options[recipe])
        for seed in arguments.seeds
        for fold in arguments.folds
        for recipe, count in kinds
    ]
    threads = max(1, n_cores() // arguments.jobs)
    failed = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also ends the running processes
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
        f"{len(failed)} of {len(runs)} runs failed; the first, '{failed[0]}', stopped with: {why(failed[0])} Correct "
        "the cause and run the same command again: it repeats only the failed runs."
    )
    few = arguments.few if "supervised" in arguments.recipes else []
    try:
        summary = summarise(arguments.output_folder, arguments.recipes, arguments.folds, arguments.seeds, few=few)
    except UserError as error:
        raise UserError(sentence or str(error)) from error
    where = f"{arguments.data_folder}, seeds {arguments.seeds}"
    description = (
        f"{where}: trained and measured on all sounds."
        if arguments.whole
        else f"{where}, each of the folds {summary['folds']} held out in turn: means over the folds"
        + (" with 95 % intervals." if len(summary["folds"]) > 1 else ".")
    )
    write_tables(summary, arguments.output_folder, description)
    print(f"\n{description}\n\n{markdown(summary)}\n")
    if failed:
        raise UserError(sentence)


if __name__ == "__main__":
    run(main)
