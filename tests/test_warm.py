"""A script in a fork of a warm process is as one in a new process."""

import os
import signal
import time
from pathlib import Path

import pytest
from warm import HEAVY


def test_no_thread_lives_where_forks_are_taken_from(script):
    code = f"import os, sys; print(os.getppid(), *(set({HEAVY.split()}) - sys.modules.keys()))"
    parent, *missing = script("-c", code).stdout.split()
    assert not missing and len(os.listdir(f"/proc/{parent}/task")) == 1


def test_folder_environment_arguments_output_and_status(script, tmp_path):
    (tmp_path / "says.py").write_text(
        "import atexit, os, sys\n"
        "from cochlea_sb.program import run\n"
        "from cochlea_sb.errors import UserError\n"
        "atexit.register(print, 'the end')\n"
        "def main(argv):\n"
        "    import datasets, huggingface_hub\n"
        "    print(__name__, argv, os.getcwd(), sys.path[0], sorted(os.environ))\n"
        "    print(datasets.config.HF_CACHE_HOME, huggingface_hub.constants.ENDPOINT)\n"
        "    raise {'mistake': UserError, 'defect': RuntimeError}[argv[0]](argv[0])\n"
        "run(main)\n"
    )
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    said = script("says.py", "mistake", cwd=tmp_path, env=environment, status=2)
    assert said.stderr == "Error: mistake\n"
    first, second, last = said.stdout.splitlines()
    assert first.startswith(f"__main__ ['mistake'] {tmp_path} {tmp_path} ['HF_ENDPOINT', 'HF_HOME', 'HOME'")
    assert second == f"{tmp_path / 'cache'} http://127.0.0.1:9" and last == "the end"
    said = script("says.py", "defect", cwd=tmp_path, env=environment, status=1)
    assert "Traceback" in said.stderr and "RuntimeError: defect" in said.stderr
    assert "NameError" in script("-c", "nothing", status=1).stderr
    assert "cochlea" in script("cochlea", "--help").stdout


@pytest.mark.parametrize("sent, status", [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 7)])
def test_signals_reach_it(script, tmp_path, sent, status):
    code = "import pathlib, time\ntry:\n    pathlib.Path('ready').touch(); time.sleep(60)\n"
    code += "except KeyboardInterrupt: exit(7)"
    running = script.start("-c", code, cwd=tmp_path)
    while not Path(tmp_path, "ready").exists():
        time.sleep(0.01)
    running.send_signal(sent)
    assert running.finish().returncode == status
