"""The command `cochlea` and recipes/embed.py, as their users run them."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from cochlea_sb import SoundLibrary, cli, program

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path):
    """Sounds of two kinds in folders, and a file that is none."""
    rng = np.random.default_rng(0)
    for number in range(4):
        for kind, wav in (
            ("tone", 0.3 * np.sin(np.arange(20000) * 0.1 * 1.3**number)),
            ("noise", rng.normal(size=30000) * 0.1),
        ):
            path = tmp_path / "sounds" / kind / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wav, 16000)
    (tmp_path / "sounds" / "notes.txt").write_text("not a sound")
    return tmp_path / "sounds"


@pytest.fixture
def cochlea(capsys, monkeypatch):
    """``cochlea(arguments...)`` gives the exit status and what was printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["cochlea", *map(str, arguments)])
        status = 0
        try:
            cli.cochlea()
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def library(cochlea, folder, model_folder, tmp_path):
    name = tmp_path / "a.library"
    status, _, err = cochlea("index", folder, "--library", name, "--model", model_folder, "--folder_labels", "--quiet")
    assert status == 0, err
    return name


def test_index_search_info_remove(cochlea, library, folder):
    status, out, _ = cochlea("index", folder, "--library", library, "--quiet")
    assert status == 0 and "Added 0 sounds, 9 files were unchanged" in out and "8 sounds" in out
    assert "1 files could not be read earlier: they are read again only if they change, or with --retry." in out
    status, out, _ = cochlea("search", library, folder / "noise" / "0.wav", "-k", 3)
    lines = [line.split() for line in out.splitlines()]
    assert status == 0 and [line[0] for line in lines] == ["1", "2", "3"] and {line[-1] for line in lines} == {"noise"}
    status, out, _ = cochlea("info", library)
    assert status == 0 and "8 sounds" in out and "2 labels" in out and "notes.txt" in out
    status, out, _ = cochlea("remove", library, folder / "noise")
    assert status == 0 and "Removed 4 sounds" in out
    os.remove(folder / "tone" / "0.wav")
    os.remove(folder / "notes.txt")
    told = cochlea("remove", library, "--missing")[1]
    assert told == f"Removed 1 sounds and 1 files that could not be read: '{library}' holds 3 sounds.\n"
    assert len(SoundLibrary.open(library)) == 3


def test_labels_that_are_added_later(cochlea, folder, model_folder, tmp_path):
    """They are stored, and told: no sound was added, and a file that can't be read is tried again."""
    index = ["index", folder, "--library", tmp_path / "b.library", "--quiet"]
    assert "Added 8 sounds, 0 files" in cochlea(*index, "--model", model_folder)[1]
    out = cochlea(*index, "--folder_labels")[1]
    assert "Added 0 sounds, 8 sounds have a new label, 0 files were unchanged: " in out and "notes.txt: " in out
    assert "Added 0 sounds, 9 files" in cochlea(*index)[1]
    assert set(SoundLibrary.open(tmp_path / "b.library").sounds["label"].to_pylist()) == {"tone", "noise"}


def test_json_is_all_that_is_on_stdout(cochlea, library, folder, tmp_path, model_folder):
    query = folder / "tone" / "1.wav"
    matches = json.loads(cochlea("search", library, query, "--json", "--with_query")[1])
    assert (
        matches[0].keys() == {"path", "start_seconds", "end_seconds", "score", "label", "copies"} and len(matches) == 8
    )
    facts = json.loads(cochlea("info", library, "--json", "--problems")[1])
    assert facts["sounds"] == 8 and list(facts["problems"]) == [str(folder / "notes.txt")]
    other = tmp_path / "b.library"
    added = json.loads(cochlea("index", folder, "--library", other, "--model", model_folder, "--json")[1])
    assert added["added"] == 8 and len(added["problems"]) == 1
    assert json.loads(cochlea("remove", library, query, "--json")[1]) == {"removed": 1, "unreadable": 0, "sounds": 7}
    command = [
        sys.executable,
        "-c",
        "from cochlea_sb.cli import cochlea; cochlea()",
        "search",
        library,
        query,
        "--json",
    ]
    alone = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert alone.returncode == 0 and len(json.loads(alone.stdout)) == 7


def test_mixtures_stretches_pages_and_filters(cochlea, library, folder):
    tone, noise = folder / "tone" / "0.wav", folder / "noise" / "0.wav"
    found = {}
    for name, options in {
        "plain": [],
        "mixed": ["--mix", noise],
        "without": ["--mix", f"{noise}=-0.5"],
        "stretch": ["--start", 0.2, "--end", 0.7],
        "page": ["--skip", 2, "-k", 2],
        "windows": ["--every_window", "-k", 100],
        "label": ["--label", "noise"],
        "path": ["--path", "noise"],
        "words": ["--words=-TONE"],
        "lasting": ["--min_seconds", 0.1, "--max_seconds", 100, "--label", "noise"],
        "capped": ["--per_folder", 1],
    }.items():
        status, out, err = cochlea("search", library, tone, "--json", *options)
        assert status == 0, err
        found[name] = json.loads(out)
    assert found["page"] == found["plain"][2:4] and len(found["windows"]) > len(found["plain"])
    assert found["label"] == found["path"] == found["words"] == found["lasting"] and len(found["label"]) == 4
    assert {Path(match["path"]).parent for match in found["capped"]} == {folder / "tone", folder / "noise"}
    assert len(found["capped"]) == 2
    library = SoundLibrary.open(library)
    for name, query in (
        ("mixed", {tone: 1, noise: 1}),
        ("without", {tone: 1, noise: -0.5}),
        ("stretch", (tone, 0.2, 0.7)),
    ):
        expected = [match._asdict() for match in library.search(query)]
        assert [one["path"] for one in found[name]] == [one["path"] for one in expected]
        np.testing.assert_allclose([x["score"] for x in found[name]], [x["score"] for x in expected], atol=1e-6)


def test_a_silent_query_is_told(cochlea, library, tmp_path, caplog):
    for name, peak in (("silent", 0.00005), ("quiet", 0.001)):
        soundfile.write(tmp_path / f"{name}.wav", peak * np.sin(np.arange(16000)), 16000, subtype="FLOAT")
        status, out, _ = cochlea("search", library, tmp_path / f"{name}.wav", "-k", 1)
        assert status == 0 and len(out.splitlines()) == 1
    assert caplog.messages == [f"The query holds only silence, so its matches mean little: '{tmp_path}/silent.wav'."]


def test_duplicates_and_exports(cochlea, library, folder, tmp_path):
    shutil.copy(folder / "noise" / "0.wav", folder / "again.wav")
    assert cochlea("index", folder, "--library", library, "--quiet")[0] == 0
    groups = json.loads(cochlea("duplicates", library, "--json", "--quiet")[1])
    assert [sorted(sound["path"] for sound in group) for group in groups] == [
        [str(folder / "again.wav"), str(folder / "noise" / "0.wav")]
    ]
    status, out, _ = cochlea("duplicates", library, "--quiet")
    assert status == 0 and "PCM_16" in out and out.endswith("2 files in 1 groups of the same sound.\n")
    windows = SoundLibrary.open(library).n_windows
    assert json.loads(cochlea("export", library, tmp_path / "a.npy", "--json", "--quiet")[1]) == {"windows": windows}
    assert f"holds {windows} windows" in cochlea("export", library, tmp_path / "a.parquet", "--quiet")[1]
    copied = json.loads(cochlea("search", library, folder / "tone" / "0.wav", "--fold_copies", "--json")[1])
    assert any(match["copies"] for match in copied)


def test_lists_of_paths_rank_a_library_and_matches_are_copied(cochlea, library, folder, tmp_path):
    wanted = folder / "tone" / "0.wav"
    (tmp_path / "yes.txt").write_text(f"{wanted}\n\n")
    (tmp_path / "no.txt").write_text(f"{folder / 'noise' / '0.wav'}\n")
    lists = tmp_path / "yes.txt", tmp_path / "no.txt"
    ranked = json.loads(cochlea("rank", library, *lists, "--json")[1])
    assert str(wanted) not in [match["path"] for match in ranked] and "tone" in ranked[0]["path"]
    status, out, _ = cochlea("rank", library, *lists, "-k", "1", "--copy_to", tmp_path / "taken")
    assert status == 0 and ranked[0]["path"] in out
    assert os.listdir(tmp_path / "taken") == [os.path.basename(ranked[0]["path"])]
    assert cochlea("search", library, wanted, "-k", "1", "--copy_to", tmp_path / "taken")[0] == 0
    assert len(os.listdir(tmp_path / "taken")) == 2


def test_where_no_model_is_named_it_is_the_one_that_comes_with_the_package(cochlea, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = cochlea("index", folder, "--library", "a.library", "--quiet")
    assert status == 0 and "8 sounds" in out
    library = SoundLibrary.open("a.library")
    assert library.identity["source"] == "cochlea_sb:pretrained"
    status, out, err = cochlea("search", "a.library", folder / "tone" / "0.wav", "--json", "-k", 3)
    assert status == 0, err
    assert "tone" in json.loads(out)[0]["path"]


def test_of_a_mistake_nothing_stays(cochlea, folder, model_folder, tmp_path):
    name = tmp_path / "b.library"
    for sources, words in (("/no/such", "is not there"), (folder / "notes.txt", "None of 1 files could be added")):
        status, _, err = cochlea("index", sources, "--library", name, "--model", model_folder, "--quiet")
        assert status == 2 and words in err and not name.exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["search", "{library}", "missing.wav"], "missing.wav: cannot be opened"),
        (["search", "nothing", "a.wav"], "'nothing' holds no library"),
        (["search", "{library}", "{sound}", "-k", "0"], "k is 0"),
        (["search", "{library}", "{sound}", "--mix", "x.wav=loud"], "--mix is 'x.wav=loud'"),
        (["search", "{library}", "{sound}", "--start", "99"], "0.wav"),
        (["search", "{library}", "{sound}", "--effort", "7"], "effort is 7.0"),
        (["search", "{library}", "{sound}", "--model", "nothing"], "holds no model"),
        (["index", "/no/such", "--library", "{library}"], "'/no/such' is not there"),
        (["index", "{sound}", "--library", "{library}", "--hop_seconds", "0.1"], "window every 0.48 s"),
        (["index", "{sound}", "--library", "{sound}", "--model", "{model}"], "and no library"),
        (["index", "{sound}", "--library", "{library}", "--device", "cuda:77"], "device is 'cuda:77'"),
        (["remove", "{library}"], "nothing to remove"),
        (["remove", "{library}", "/no/such"], "neither a sound"),
        (["info", "{sound}"], "holds no library"),
        (["dance"], "invalid choice"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(cochlea, library, folder, model_folder, arguments, words):
    names = {"library": library, "sound": folder / "tone" / "0.wav", "model": model_folder}
    status, _, err = cochlea(*(argument.format(**names) for argument in arguments))
    assert status == 2 and words in err and "Traceback" not in err


@pytest.fixture
def embed(capsys, monkeypatch):
    """``embed(arguments..., status=0)`` runs recipes/embed.py; gives what was printed, and checks the exit status."""
    monkeypatch.syspath_prepend(ROOT / "recipes")
    recipe = importlib.import_module("embed")

    def call(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["embed.py", *map(str, arguments)])
        ended = 0
        try:
            program.run(recipe.main)
        except SystemExit as end:
            ended = end.code
        said = capsys.readouterr()
        assert ended == status, said.err
        return said

    return call


def test_the_recipe_as_a_script():
    command = [sys.executable, "recipes/embed.py", "/no/such", "--output", "x", "--workers", "2", "--worker", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--worker is 2 and --workers is 2: expected" in done.stderr


def test_embedding_into_shards_that_a_library_takes_in(cochlea, embed, library, folder, model_folder, tmp_path):
    output = tmp_path / "embedded"
    options = ["--model", model_folder, "--output", output, "--shard_sounds", 4, "--folder_labels"]
    embed(folder, *options)
    shards = sorted(output.glob("*.parquet"))
    assert [shard.name for shard in shards] == [f"embeddings-0000{number}-of-00003.parquet" for number in range(3)]
    assert "notes.txt" in (tmp_path / "embedded-skipped.csv").read_text()
    rows = datasets.load_dataset("parquet", data_dir=str(output), split="train")
    here = SoundLibrary.open(library)
    assert len(rows) == here.n_windows and set(rows["label"]) == {"tone", "noise"}
    assert np.allclose(np.linalg.norm(np.array(rows["embedding"]), axis=1), 1, atol=1e-5)

    # What is there stays as it is; what is missing comes again.
    times = {shard: shard.stat().st_mtime_ns for shard in shards}
    shards[1].unlink()
    embed(folder, *options)
    now = {shard: shard.stat().st_mtime_ns for shard in shards}
    assert [now[shard] == times[shard] for shard in shards] == [True, False, True]
    assert "another model or with another hop" in embed(folder, *options, "--hop_seconds", 0.1, status=2).err
    assert "shards of another run" in embed(folder / "tone", *options, status=2).err

    other = tmp_path / "b.library"
    status, out, err = cochlea("index", output, "--library", other, "--model", model_folder, "--quiet")
    assert status == 0 and "Added 8 sounds" in out, err
    imported = SoundLibrary.open(other)
    assert imported.problems == here.problems
    query = folder / "noise" / "3.wav"
    for one, two in zip(imported.search(query, 100), here.search(query, 100), strict=True):
        assert one[:3] == two[:3] and one.score == pytest.approx(two.score, abs=1e-5)
    assert imported.add(folder, progress=False) == (0, 9, {}, 0)


def test_workers_share_the_shards(embed, folder, model_folder, tmp_path):
    output = tmp_path / "embedded"
    options = [folder, "--model", model_folder, "--output", output, "--shard_sounds", 2, "--workers", 2]
    assert "3 of 5 shards" in embed(*options, "--worker", 0).out
    assert "5 of 5 shards" in embed(*options, "--worker", 1, "--precision", "bf16").out
    assert "--worker is 2 and --workers is 2: expected" in embed(*options, "--worker", 2, status=2).err


def test_a_defect_shows_its_traceback_asks_for_a_report_and_ends_with_status_1(cochlea, library, folder, monkeypatch):
    def broken(*_, **__):
        raise ValueError("operands could not be broadcast together")  # as numpy says of a wrong shape

    monkeypatch.setattr("cochlea_sb.library.state.State.nearest", broken)
    status, _, err = cochlea("search", library, folder / "tone" / "0.wav")
    assert status == 1 and "Traceback" in err and "broadcast together" in err
    assert err.rstrip().splitlines()[-1] == "This is a defect of cochlea_sb. Please report it, with the lines above."


@pytest.mark.parametrize(
    "command, unwanted",
    [
        ("--help", "numpy pyarrow torch"),
        ("info", "datasets filelock numba pandas torch"),
        ("export", "datasets torch"),
        ("duplicates", "datasets torch"),
        ("search", "datasets filelock numba pandas speechbrain torchaudio transformers"),
    ],
)
def test_a_command_imports_only_what_it_needs(command, unwanted, library, folder, tmp_path):
    others = {"export": [tmp_path / "out.parquet"], "search": [folder / "tone" / "0.wav"]}
    argv = [command] if command == "--help" else [command, library, *others.get(command, [])]
    code = "import atexit, sys\nfrom cochlea_sb.cli import main\n"
    code += "atexit.register(lambda: print('imported', *{name.partition('.')[0] for name in sys.modules}))\n"
    done = subprocess.run([sys.executable, "-c", code + "main()", *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.splitlines()[-1].split()
    assert "argparse" in imported and not set(unwanted.split()) & set(imported)


def test_commands_work_without_docstrings(script, folder, tmp_path):
    """``python -OO`` removes them, and the texts of --help come from them. It removes assertions too.

    Here only the files of this project are compiled like that: for all that they import, it takes a minute.
    """
    recipes = [f"recipes/{name}.py" for name in ("embed", "fma_prepare", "listen", "push_to_hub", "reproduce", "train")]
    code = f"""
import datasets, importlib.machinery, sys
def compiled(loader, source, path, **_):
    return compile(source, path, "exec", dont_inherit=True, optimize=2)
importlib.machinery.SourceFileLoader.source_to_code = compiled
sys.pycache_prefix = {str(tmp_path / "compiled")!r}  # where no file is compiled in another way
sys.path.insert(0, "recipes")
from cochlea_sb.cli import main
if main.__doc__ is not None:
    sys.exit("docstrings are there")
for script in {recipes}:
    sys.argv = [script, "--help"]
    try:
        exec(compiled(None, open(script).read(), script), dict(__name__="__main__", __file__=script))
    except SystemExit as end:
        if end.code:
            sys.exit(f"{{script}} ended with {{end.code}}")
main(["index", {str(folder)!r}, "--library", {str(tmp_path / "library")!r}, "--quiet"])
main(["info", {str(tmp_path / "library")!r}])
"""
    assert "Added " in script("-c", code).stdout


def test_an_error_that_an_interruption_caused_is_an_interruption(capsys):
    """As of the process pools of `datasets`, which end by a timeout when Ctrl-C stops their processes."""

    def main(argv):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("the pool did not answer")

    with pytest.raises(SystemExit) as end:
        program.run(main)
    assert end.value.code == 130 and "Run the same command again to continue" in capsys.readouterr().err
