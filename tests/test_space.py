"""A Space made from a library: what its folder holds, and whether its Dockerfile's commands and its page work."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest
import soundfile

from cochlea_sb import AudioEncoder, SoundLibrary, cli
from cochlea_sb.errors import UserError
from cochlea_sb.publishing.space import export_space, public_names, size_in_words
from cochlea_sb.serve import run
from cochlea_sb.synthetic.library import synthetic_library

TONES = {"animals/dog.wav": 200, "animals/.old/owl.wav": 300, "tools/ saw , 1.wav": 900, "tools/drill.wav": 1500}


@pytest.fixture(scope="module")
def library(model_folder, tmp_path_factory):
    """A library of files in several folders, of a file that is gone, and of rows of a dataset."""
    root = tmp_path_factory.mktemp("author")
    for name, hertz in (TONES | {"tools/gone.wav": 2000}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, 0.3 * np.sin(2 * np.pi * hertz * np.arange(24000) / 16000), 16000)
    encoder = AudioEncoder.from_hparams(model_folder, run_opts={"device": "cpu"})
    library = SoundLibrary.create(root / "a.library", encoder, hop_seconds=0.24)
    library.add([root / name for name in (*TONES, "tools/gone.wav")], folder_labels=True, progress=False)
    library.add(synthetic_library(2).select([0]), progress=False)
    (root / "tools" / "gone.wav").unlink()
    return library


@pytest.fixture(scope="module")
def space(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "folder"
    return folder, export_space(library.store.folder, folder, "ada/page", license="mit")


def test_the_folder_holds_the_sounds_and_nothing_of_the_authors_machine(space, library):
    folder, exported = space
    sounds = {path.relative_to(folder / "sounds").as_posix() for path in (folder / "sounds").rglob("*.wav")}
    assert sounds == {"animals/dog.wav", "animals/_old/owl.wav", "tools/ saw , 1.wav", "tools/drill.wav"}
    assert [note for note in exported.notes if note.startswith("1 sounds of datasets")]
    assert [note for note in exported.notes if note.startswith("1 sounds were left out, because their files")]
    assert [note for note in exported.notes if re.fullmatch(r"The folder has \d+\.\d MB\.", note)]
    author = str(library.store.folder.parent).encode()
    assert not any(author in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert (
        (folder / "README.md").read_text().startswith("---\ntitle: page\nsdk: docker\napp_port: 7860\nlicense: mit\n")
    )


def test_the_commands_of_the_dockerfile_make_the_same_library(space, library, tmp_path, monkeypatch):
    folder, _ = space
    lines = (folder / "Dockerfile").read_text().splitlines()
    copied = [line.split()[-1] for line in lines if line.startswith("COPY")]
    assert copied == ["./", "model", "sounds"]
    for name in copied[1:]:
        shutil.copytree(folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (index,) = (shlex.split(line)[2:] for line in lines if line.startswith("RUN cochlea"))
    cli.main(index)
    served = []
    monkeypatch.setattr(run, "serve", lambda *arguments: served.extend(arguments))
    (serve,) = (json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD "))
    cli.main(serve[1:])
    made, *address = served
    assert address == ["0.0.0.0", 7860, True] and made.hop_seconds == library.hop_seconds
    labels = {os.path.relpath(row["path"], tmp_path / "sounds"): row["label"] for row in made.sounds.to_pylist()}
    assert labels["animals/_old/owl.wav"] == ".old" and labels["tools/ saw , 1.wav"] == "tools" and len(labels) == 4
    query = library.encode(str(library.store.folder.parent / "animals/dog.wav")).vector
    assert made.search(query, k=1)[0].score == pytest.approx(library.search(query, k=1)[0].score, abs=1e-5)


def test_the_wheel_installs_this_version(space, tmp_path):
    (wheel,) = space[0].glob("*.whl")
    assert f"./{wheel.name}[serve]" in (space[0] / "Dockerfile").read_text()
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "__pycache__" in name]  # they hold paths
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", tmp_path, wheel], check=True, timeout=100)
    code = "import cochlea_sb; from cochlea_sb.serve.app import PAGE; print(cochlea_sb.__file__, *PAGE.iterdir())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(str(tmp_path)) and "index.html" in done.stdout, done.stderr
    assert (tmp_path / "bin" / "cochlea").exists()


def test_names_are_different_and_leave_the_home_folder_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert public_names(["/home/ada/a/x.wav", "/disk/y.wav"]) == ["a/x.wav", "disk/y.wav"]
    assert public_names(["/s/a/.x.wav", "/s/a/_x.wav", "/s/metadata.csv"]) == [
        "a/_x.wav",
        "a/_x-2.wav",
        "metadata-2.csv",
    ]
    assert public_names(["/s/a\\xff\n.wav"]) == ["a_xff_.wav"]


def test_a_space_above_1_gb_and_what_can_not_be_one_are_told(library, model_folder, tmp_path):
    assert "has 2.5 GB" in size_in_words(2_500_000_000) and "may refuse" in size_in_words(2_500_000_000)
    SoundLibrary.create(tmp_path / "empty", AudioEncoder.from_hparams(model_folder))
    for source, options, said in [
        (tmp_path / "empty", {}, "holds no sounds that are files"),
        (tmp_path / "none", {}, "holds no library"),
        (library.store.folder, {"license": "My Own"}, "expected its identifier"),
        (library.store.folder, {"data": "Rain."}, "leave it out for a Space"),
    ]:
        with pytest.raises(UserError, match=said):
            export_space(source, tmp_path / "folder", "ada/page", **options)
        assert not (tmp_path / "folder").exists()


@pytest.fixture(scope="module")
def site(library):
    server, address = run.prepare(library, "127.0.0.1", 0, public=True)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield address
    server.should_exit = True
    thread.join(30)


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"Host": "ada-page.hf.space"}, 200),
        ({"Host": "ada-page.hf.space", "Origin": "https://ada-page.hf.space"}, 200),
        ({"Host": "10.0.0.7", "X-Forwarded-Host": "ada-page.hf.space", "Origin": "https://ada-page.hf.space"}, 200),
        ({"Host": "10.0.0.7", "X-Forwarded-Host": "ada-page.hf.space", "Origin": "https://evil.example"}, 403),
        ({"Host": "ada-page.hf.space", "Origin": "https://evil.example"}, 403),
        ({"Host": "ada-page.hf.space", "Origin": "null"}, 403),
    ],
)
def test_a_public_page_answers_under_any_name_but_no_other_site(site, headers, status):
    request = urllib.request.Request(f"{site}api/library", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = answer.status
            assert "frame-ancestors https://huggingface.co" in answer.headers["content-security-policy"]
    except urllib.error.HTTPError as error:
        found = error.code
    assert found == status


def test_without_public_the_header_of_a_proxy_is_not_believed(library):
    server, address = run.prepare(library, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    headers = {"X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"}
    try:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(f"{address}api/library", headers=headers), timeout=30)
    finally:
        server.should_exit = True
        thread.join(30)
