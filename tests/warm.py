"""Scripts as their users start them, without the seconds that a new Python spends on imports.

`multiprocessing`'s fork server imports the heavy modules once. Each script then runs in a fork of it, with its own
arguments, folder, environment, stdout, stderr and signals. `datasets` and `huggingface_hub` read the environment when
they are imported, so each fork imports those itself.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = "filelock fsspec librosa matplotlib.backends.backend_agg matplotlib.figure multiprocess numba pandas "
HEAVY += "pyarrow.dataset scipy.signal scipy.stats sklearn.linear_model sklearn.metrics sklearn.neural_network "
HEAVY += "soundfile soxr speechbrain.inference.classifiers speechbrain.utils.train_logger torch._dynamo "
HEAVY += "torch.distributed.checkpoint torchaudio torchvision yaml "
HEAVY += "warm warm_preload"  # a fork unpickles a function of this file
READ_THE_ENVIRONMENT = ("datasets", "huggingface_hub.constants")


def in_fork(argv, cwd, environment, stdout, stderr):
    """Become ``python argv...``: a script's path, or ``-c`` and code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate((os.devnull, stdout, stderr)):
        os.dup2(os.open(path, os.O_RDWR), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    assert not any(name in sys.modules for name in READ_THE_ENVIRONMENT)
    sys.argv = argv if argv[0] != "-c" else ["-c", *argv[2:]]
    sys.path[:0] = [str(Path(cwd, argv[0]).resolve().parent) if argv[0] != "-c" else cwd]
    try:
        if argv[0] == "-c":
            exec(compile(argv[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
        else:
            runpy.run_path(argv[0], run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        threading._shutdown()  # as Python does before it ends
        atexit._run_exitfuncs()


class Script:
    """A running script, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, argv, cwd, environment):
        self.argv, self.said = argv, tempfile.TemporaryDirectory()
        self.paths = [Path(self.said.name, name) for name in ("stdout", "stderr")]
        for path in self.paths:
            path.touch()
        fork = multiprocessing.get_context("forkserver").Process
        self.process = fork(target=in_fork, args=(argv, str(cwd), environment, *map(str, self.paths)))
        self.process.start()

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def finish(self, timeout=180):
        """Wait for the end, as a `subprocess.CompletedProcess`."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            pytest.fail(f"{self.argv} took more than {timeout} s: {[path.read_text() for path in self.paths]}")
        said = [path.read_text() for path in self.paths]
        self.said.cleanup()
        return subprocess.CompletedProcess(self.argv, self.process.exitcode, *said)


class Warm:
    """The fork server, started with an environment of its own."""

    def __init__(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # Python 3.11 passes no sys.path
            patch.setenv("OMP_NUM_THREADS", "1")  # no thread may live where a fork is taken from
            patch.setenv("JE_ARROW_MALLOC_CONF", "background_thread:false")
            multiprocessing.set_forkserver_preload(HEAVY.split())
            forkserver.ensure_running()

    def start(self, *argv, cwd=ROOT, env=None):
        """Start ``python argv...`` and return its `Script`; the name of a console script stands for its file."""
        argv = [str(word) for word in argv]
        if argv[0] in ("cochlea", "hf"):
            argv[0] = str(Path(sys.executable).with_name(argv[0]))
        return Script(argv, cwd, os.environ | {"OMP_NUM_THREADS": "1"} if env is None else env)

    def __call__(self, *argv, status=0, timeout=180, **options):
        """Run ``python argv...`` to its end, which must have this status."""
        done = self.start(*argv, **options).finish(timeout)
        assert done.returncode == status, f"{done.args}\n{done.stdout}\n{done.stderr}"
        return done
