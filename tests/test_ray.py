"""`recipes/embed.py --ray` on real clusters of this machine: nodes that are killed and stopped, and mistakes.

Ray is large and not in the extra ``dev``: without it, only the sentence about the missing package is tested.
"""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, Dataset

from cochlea_sb import load_encoder
from cochlea_sb.data.sounds import list_sources
from cochlea_sb.data.source_list import SourceList, write_source_list
from cochlea_sb.errors import UserError
from cochlea_sb.integrations import ray as on_ray
from cochlea_sb.library.shard_plan import Embedding, make_shards, missing_from, plan_shards

INSTALLED = importlib.util.find_spec("ray") is not None
if not INSTALLED:
    warnings.warn("Ray is not installed: EMBEDDING ON A CLUSTER IS NOT TESTED.", stacklevel=1)
needs_ray = pytest.mark.skipif(not INSTALLED, reason="ray is not installed: EMBEDDING ON A CLUSTER IS NOT TESTED")
N_SOUNDS, SECONDS = 24, 30  # a shard of two sounds takes some tenths of a second


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder of sounds, and a file that is none."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for number in range(N_SOUNDS - 1):
        soundfile.write(folder / f"{number:02d}.wav", rng.normal(size=16000 * SECONDS) * 0.1, 16000)
    (folder / "notes.txt").write_text("not a sound")
    return folder


@pytest.fixture(scope="module")
def embed(sounds, model_folder, script):
    """``embed(output, arguments...)`` starts recipes/embed.py; see tests/warm.py."""
    words = ["recipes/embed.py", sounds, "--model", model_folder, "--shard_sounds", 2, "--output"]
    return lambda output, *arguments: script.start(*words, output, *arguments)


@pytest.fixture(scope="module")
def local(embed, tmp_path_factory):
    """Shards that were made without Ray."""
    output = tmp_path_factory.mktemp("local") / "embeddings"
    assert embed(output).finish().returncode == 0
    return output


@pytest.fixture(scope="module")
def cluster():
    """A head that embeds nothing itself, and three nodes of one core."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
        cluster.workers = [cluster.add_node(num_cpus=1, wait=False, **small) for _ in range(3)]
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


def processes(node):
    """The ids of a node's raylet, and of the processes that it started by their titles."""
    raylet = node.all_processes["raylet"][0].process.pid
    command = ["ps", "-o", "pid=,args=", "--ppid", str(raylet)]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return raylet, {int(line.split()[0]): line.split(maxsplit=1)[1] for line in lines}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wait_for(shards, output, process):
    while len(list(output.glob("*.parquet"))) < shards:
        if process.process.exitcode is not None:
            pytest.fail(str(process.finish()))
        time.sleep(0.02)


def stop_one(nodes):
    """Stop a worker in the middle of a shard. Returns its node and its id."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        for node in nodes:
            for pid, title in processes(node)[1].items():
                if title.startswith("ray::Worker.make"):
                    os.kill(pid, signal.SIGSTOP)
                    if processes(node)[1].get(pid) == title:  # not at the end of the shard
                        return node, pid
                    os.kill(pid, signal.SIGCONT)
    pytest.fail("no worker makes a shard")


def test_a_list_of_files_and_of_rows_comes_back(sounds, tmp_path):
    rows = [{"bytes": (sounds / f"0{number}.wav").read_bytes(), "path": None} for number in range(3)]
    saved = Dataset.from_dict({"audio": rows, "label": list("abc")}).cast_column("audio", Audio(decode=False))
    saved.save_to_disk(tmp_path / "saved")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")  # a name in Latin-1
    os.link(sounds / "00.wav", odd)
    sources = list_sources([sounds, tmp_path / "saved", odd])
    write_source_list(tmp_path / "list", [sources[:10], sources[10:]])
    found = SourceList(tmp_path / "list", split="train")
    back = found[0] + found[1]
    assert len(found) == 2 and [one[:1] + one[2:] for one in back] == [one[:1] + one[2:] for one in sources]
    for one, two in zip(back, sources, strict=True):
        assert one.audio.fetch() == two.audio.fetch() if one.path.startswith("dataset:") else one.audio == two.audio
    saved.select([1, 0, 2]).save_to_disk(tmp_path / "other")
    for file in (tmp_path / "other").iterdir():
        (tmp_path / "saved" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="has other rows here"):
        SourceList(tmp_path / "list", split="train")[1]


def test_without_ray_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        UserError,
        match=r"needs ray, which is not installed: install the extra 'ray' with pip install 'cochlea_sb\[ray\]'",
    ):
        on_ray.embed_on_ray("auto", [], Embedding({}, 0.48), {})


@pytest.mark.parametrize(
    "device, nodes, expected",
    [
        (None, [{"CPU": 4}, {"CPU": 8, "GPU": 2}, {"CPU": 4, "GPU": 2}], (1, 2, 4)),
        ("cuda", [{"CPU": 4}, {"CPU": 1, "GPU": 2}], (1, 0, 2)),
        ("cpu", [{"CPU": 4}, {"CPU": 8, "GPU": 2}, {}], (0, 1, 12)),
        (None, [{"CPU": 4}], (0, 1, 4)),
        ("cuda", [{"CPU": 4}], "no node of the Ray cluster has a GPU"),
        ("cuda:1", [{"GPU": 2}], "--device is 'cuda:1'"),
        (None, [{}], "offers a core"),
    ],
)
def test_workers_fit_the_nodes_and_no_weaker_device_serves(device, nodes, expected):
    described = {str(number): {"Resources": node} for number, node in enumerate(nodes)}
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            on_ray.share_of(described, device)
    else:
        share = on_ray.share_of(described, device)
        assert (*share, sum(map(share.fitting, nodes))) == expected


@needs_ray
@pytest.mark.parametrize(
    "address, device, words",
    [
        ("{cluster}", "cuda", "no node of the Ray cluster has a GPU"),
        ("127.0.0.1:{closed}", "cpu", "no Ray cluster can be reached there"),
        ("nonsense", "cpu", "no Ray cluster can be reached there"),
    ],
)
def test_a_mistake_is_one_sentence(cluster, embed, tmp_path, address, device, words):
    with socket.socket() as taken:  # bound and not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        address = address.format(cluster=cluster.address, closed=taken.getsockname()[1])
        done = embed(tmp_path / "embeddings", "--ray", address, "--device", device).finish(60)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert not contents(tmp_path / "embeddings")


@needs_ray
def test_an_interrupted_run_continues_and_a_shard_that_ends_workers_is_left_out(
    cluster, embed, local, sounds, model_folder, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "embeddings"
    run = embed(output, "--ray", cluster.address)
    wait_for(2, output, run)
    run.send_signal(signal.SIGINT)
    done = run.finish(120)
    assert done.returncode == 130 and "Run the same command again" in done.stderr and "Traceback" not in done.stderr
    made = {name: text for name, text in contents(output).items() if not name.startswith(".")}
    assert 2 <= len(made) < 12 and made.items() <= contents(local).items()

    encoder = load_encoder(model_folder)
    embedding = Embedding(encoder.identity() | {"precision": "fp32"}, 0.48)
    shards = plan_shards(output, list_sources(sounds), 2, embedding)
    monkeypatch.setattr(on_ray, "ATTEMPTS", 1)
    killer = threading.Thread(target=lambda: os.kill(stop_one(cluster.workers)[1], signal.SIGKILL))
    killer.start()
    with pytest.raises(UserError, match="1 shards are missing, because each of them ended 1 workers; .* embeddings-0"):
        on_ray.embed_on_ray(cluster.address, missing_from(shards), embedding, {"split": "train"})
    killer.join()
    assert "A worker on node" in capsys.readouterr().err
    assert len(list(make_shards(encoder, missing_from(shards), embedding))) == 1  # as without --ray
    assert contents(output) == contents(local)


@needs_ray
def test_a_killed_node_a_slow_node_and_every_sound_once(cluster, embed, local, tmp_path):
    output = tmp_path / "embeddings"
    run = embed(output, "--ray", cluster.address)
    wait_for(1, output, run)
    node, pid = stop_one(cluster.workers)
    _, slow = stop_one([other for other in cluster.workers if other is not node])
    raylet, started = processes(node)
    for process in {pid, raylet, *started}:
        os.kill(process, signal.SIGKILL)
    time.sleep(3)
    os.kill(slow, signal.SIGCONT)
    done = run.finish(120)
    assert done.returncode == 0, done.stderr
    assert "12 of 12 shards" in done.stdout and "1 sounds could not be read" in done.stdout
    assert "was lost; another worker makes embeddings-000" in done.stderr and "Traceback" not in done.stderr
    assert contents(output) == contents(local)
    windows = Counter(path for file in output.iterdir() for path in pq.read_table(file)["path"].to_pylist())
    assert len(windows) == N_SOUNDS - 1 and set(windows.values()) == {62}
    assert "notes.txt" in (tmp_path / "embeddings-skipped.csv").read_text()
