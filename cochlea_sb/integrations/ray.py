"""Embed sounds on the machines of a Ray cluster: the option ``--ray`` of recipes/embed.py. Needs the extra ``ray``.

All nodes see the folder of the shards. The driver writes the list of sounds there, and a worker reads the part that is
a shard's. A call of a worker makes one shard and returns nothing, so Ray's object store holds neither waveforms nor
embeddings. A worker has one core, or a GPU with its share of the cores, and loads the model once.

The shard of a worker that was lost goes to another worker. Ray could also restart the worker itself, but its shard
would then wait until a node has a free place for it. A shard that is made twice is no harm: a file gets its name when
it is complete, and both files are equal.
"""

import logging
import os
import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cochlea_sb import __version__
from cochlea_sb.data.source_list import SourceList, write_source_list
from cochlea_sb.errors import MissingExtra, UserError, one_line
from cochlea_sb.inference.load import load_encoder
from cochlea_sb.library.shard_plan import Embedding, PlannedShard, make_shards
from cochlea_sb.machine import progress_bar

ATTEMPTS = 4  # the number of workers that a shard may cost, before it counts as the reason
TICK_SECONDS = 2  # between two looks at the nodes of the cluster
PATIENCE_SECONDS = 60  # without any worker, before a sentence tells it
CONNECT_SECONDS = 10
OBJECT_STORE_BYTES = 100 << 20  # of a cluster on this machine; about the least that Ray accepts


class Job(NamedTuple):
    """What a worker has to know, except the number of its shard."""

    listing: str  # file of `write_source_list`, in the folder of the shards
    embedding: Embedding
    options: dict[str, Any]  # of `SourceList`
    device: str
    cpus: int  # of a worker
    threads: int  # that decode
    trust_remote_code: bool  # of `load_encoder`
    version: str = __version__


class Share(NamedTuple):
    """What a worker occupies of a node."""

    gpus: int
    cpus: int

    def fitting(self, node: dict[str, float]) -> int:
        """How many workers fit on a node with such resources."""
        return int(node.get("GPU", 0) if self.gpus else node.get("CPU", 0))


class Worker:
    """A process on a node of the cluster, with an encoder."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def start(self) -> str:
        """Load the model, and return the id of the node. A UserError tells what is wrong on this node."""
        import torch

        ray = import_ray()
        identity, address = self.job.embedding.identity, ray.util.get_node_ip_address()
        if self.job.version != __version__:
            raise UserError(
                f"Node {address} has cochlea_sb {__version__}: expected {self.job.version}, as where this run began."
            )
        try:
            self.sounds = SourceList(self.job.listing, **self.job.options)
            run_opts = {"device": self.job.device, "eval_precision": identity["precision"]}
            trust = {"trust_remote_code": self.job.trust_remote_code}
            self.encoder = load_encoder(identity["source"], run_opts=run_opts, revision=identity["revision"], **trust)
        except UserError as error:
            raise UserError(f"Node {address} can't embed: {error}") from error
        if self.encoder.identity()["fingerprint"] != identity["fingerprint"]:
            raise UserError(
                f"Node {address} has another model under '{identity['source']}': give all nodes the same one."
            )
        torch.set_num_threads(max(1, self.job.cpus))
        return str(ray.get_runtime_context().get_node_id())

    def make(self, number: int, name: str) -> None:
        """Make a shard, if its file does not exist yet."""
        path = Path(self.job.listing).with_name(name)
        if not path.exists():
            shard = PlannedShard(path, self.sounds[number])
            list(make_shards(self.encoder, [shard], self.job.embedding, threads=self.job.threads))


def embed_on_ray(
    address: str,
    shards: Sequence[PlannedShard],
    embedding: Embedding,
    options: dict[str, Any],
    *,
    device: str | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Make shards on a cluster, with a progress bar.

    Arguments
    ---------
    address : str, ``auto`` for the cluster of this machine, ``local`` to start one here, or the address of a cluster
    shards : list of PlannedShard, whose files are missing; all in one folder
    embedding : Embedding
    options : dict, the arguments ``folder_labels``, ``config`` and ``split`` of `list_sources`
    device : str, optional, ``cpu`` or ``cuda``; by default ``cuda`` if the cluster has GPUs
    threads : int, optional, number of threads of a worker that decode; by default the cores of the worker
    trust_remote_code : bool, as in `load_encoder`

    Raises
    ------
    UserError
        If Ray is missing, there is no such cluster, it lacks the device, or a node can't embed.
    """
    ray = import_ray()
    if not shards:
        return
    with connected(ray, address):
        share = share_of(alive(ray), device)
        folder = shards[0].path.parent.resolve()
        listing = folder / f".sounds-{secrets.token_hex(8)}.arrow"
        threads = max(1, share.cpus) if threads is None else threads
        device = "cuda" if share.gpus else "cpu"
        job = Job(str(listing), embedding, options, device, share.cpus, threads, trust_remote_code)
        try:
            write_source_list(listing, [shard.sources for shard in shards])
            Run(ray, job, share, [shard.path.name for shard in shards]).finish()
        finally:
            listing.unlink(missing_ok=True)
        names = {shard.path.name for shard in shards}
        for leftover in folder.glob(".*.partial"):  # `whole_file` of a worker that was lost
            if leftover.name[1:].rsplit(".", 2)[0] in names:
                leftover.unlink(missing_ok=True)


class Run:
    """The calls of a run, and the workers that serve them.

    Arguments
    ---------
    ray : the module
    job : Job
    share : Share, of each worker
    names : list of str, the names of the shards
    """

    def __init__(self, ray: Any, job: Job, share: Share, names: Sequence[str]) -> None:
        self.ray, self.job, self.share, self.names = ray, job, share, names
        self.actor = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, scheduling_strategy="SPREAD")(Worker)
        self.todo = deque(range(len(names)))
        self.calls: dict[Any, tuple[Any, int | None]] = {}  # worker, and number of the shard or None while it starts
        self.node_of: dict[Any, str] = {}  # of each worker that has started
        self.idle: list[Any] = []
        self.losses: Counter[int | None] = Counter()
        self.given_up: dict[int, str] = {}

    def finish(self) -> None:
        """Make all shards. Raises a UserError at the end if workers were lost again and again with the same shards."""
        waiting = time.monotonic()
        with progress_bar(total=len(self.names), unit="shard", desc="Embedding") as self.bar:
            try:
                while self.todo or any(number is not None for _, number in self.calls.values()):
                    self.employ()
                    done, _ = self.ray.wait(list(self.calls), timeout=TICK_SECONDS)
                    for call in done:
                        self.settle(call)
                    if self.node_of:
                        waiting = time.monotonic()
                    elif time.monotonic() - waiting > PATIENCE_SECONDS:
                        waiting = time.monotonic()
                        self.tell(f"Waiting for a free {'GPU' if self.share.gpus else 'core'} of the cluster.")
            finally:
                for worker in [*self.idle, *(worker for worker, _ in self.calls.values())]:
                    self.ray.kill(worker)
        if self.given_up:
            number, reason = next(iter(self.given_up.items()))
            raise UserError(
                f"{len(self.given_up)} shards are missing, because each of them ended {ATTEMPTS} workers; the first is "
                f"{self.names[number]} ({reason}). Run the same command again with other nodes or fewer --shard_sounds."
            )

    def employ(self) -> None:
        """Give shards to idle workers, and start workers while there are places on nodes and shards for them."""
        while self.todo and self.idle:
            worker, number = self.idle.pop(), self.todo.popleft()
            self.calls[worker.make.remote(number, self.names[number])] = worker, number
        places = sum(self.share.fitting(node["Resources"]) for node in alive(self.ray).values())
        starting = sum(number is None for _, number in self.calls.values())
        for _ in range(min(places - len(self.calls) - len(self.idle), len(self.todo) - starting)):
            worker = self.actor.remote(self.job)
            self.calls[worker.start.remote()] = worker, None

    def settle(self, call: Any) -> None:
        """Take the result of a call that has ended."""
        worker, number = self.calls.pop(call)
        try:
            result = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            self.ray.kill(worker)
            if isinstance(error.cause, (UserError, OSError)):
                raise error.cause from error
            raise
        except self.ray.exceptions.RayError as error:
            self.lose(worker, number, error)
        else:
            if number is None:
                self.node_of[worker], self.losses[None] = result, 0
            else:
                self.bar.update()
            self.idle.append(worker)

    def lose(self, worker: Any, number: int | None, error: Any) -> None:
        """Tell that a worker was lost, and put its shard at the front of the list."""
        self.ray.kill(worker)  # it may still run, on a node that can't be reached
        reason = one_line(error).rpartition("Error: ")[2] if getattr(error, "actor_init_failed", False) else ""
        self.losses[number] += 1
        if number is None and (reason or self.losses[None] > ATTEMPTS):
            raise UserError(f"The workers can't start: {(reason or one_line(error))[:300]}")
        node = self.node_of.pop(worker, "")
        address = (every_node(self.ray).get(node) or {}).get("NodeManagerAddress", "of the cluster")
        lost = f"A worker on node {address}" if node in alive(self.ray) else f"Node {address}"
        if number is None:
            self.tell(f"{lost} was lost while it started.")
        elif self.losses[number] < ATTEMPTS:
            self.todo.appendleft(number)
            self.tell(f"{lost} was lost; another worker makes {self.names[number]} again.")
        else:
            self.given_up[number] = one_line(error)[:300]
            self.tell(f"{lost} was lost, the {ATTEMPTS}th one with {self.names[number]}, which is left out.")

    def tell(self, sentence: str) -> None:
        if not self.bar.disable:
            self.bar.write(sentence, file=sys.stderr)


def share_of(nodes: dict[str, Any], device: str | None) -> Share:
    """Choose what a worker occupies. Raises a UserError if the nodes lack the device."""
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device is '{device}': expected cpu or cuda, because Ray chooses the GPU of each worker.")
    resources = [node["Resources"] for node in nodes.values()]
    with_gpus = [node for node in resources if node.get("GPU", 0) >= 1]
    if device == "cuda" and not with_gpus:
        raise UserError(
            "--device is 'cuda', and no node of the Ray cluster has a GPU: omit --device, or add such nodes."
        )
    if with_gpus and device != "cpu":
        return Share(1, int(min(node.get("CPU", 0) // int(node["GPU"]) for node in with_gpus)))
    if not any(node.get("CPU", 0) >= 1 for node in resources):
        raise UserError("No node of the Ray cluster offers a core: start the nodes without --num-cpus=0.")
    return Share(0, 1)


def every_node(ray: Any) -> dict[str, Any]:
    """Return Ray's descriptions of the nodes, by id; nodes that were lost are among them."""
    return {node["NodeID"]: node for node in ray.nodes()}


def alive(ray: Any) -> dict[str, Any]:
    return {node: facts for node, facts in every_node(ray).items() if facts["Alive"]}


@contextmanager
def connected(ray: Any, address: str) -> Iterator[None]:
    """Connect to a cluster, or start one for ``local``. A connection that exists is used and stays."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        real = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
        if real not in ("auto", "local"):  # Ray would try for minutes
            host, _, port = real.rpartition("://")[2].rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address, **options)
    except (OSError, RuntimeError, ValueError) as error:  # a ConnectionError and a TimeoutError are an OSError
        raise UserError(
            f"--ray is '{address}', and no Ray cluster can be reached there ({one_line(error)[:200]}): start one with "
            "`ray start --head`, or use --ray local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("Embedding on a cluster", "ray", "ray") from error
    return ray
