import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flightrtl.errors import BuildError, UserError, run_cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def keep_handler():
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def failing(error):
    def main():
        raise error
    return main


@pytest.mark.parametrize(("error", "status", "message"), [
    (UserError("no such board"), 2, "error: no such board\n"),
    (BuildError("too big"), 1, "error: too big\n"),
    (BuildError("too big", layer="conv1", knob="fewer lanes"), 1,
     "error: layer 'conv1': too big\n  what helps: fewer lanes\n"),
    (KeyboardInterrupt(), 130, "error: interrupted\n"),
    (FileNotFoundError(2, "No such file or directory", "a.bin"), 2,
     "error: a.bin: No such file or directory\n"),
    (PermissionError(13, "Permission denied", "out"), 2, "error: out: Permission denied\n"),
    (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
])
def test_status_and_message(capsys, error, status, message):
    with pytest.raises(SystemExit) as end:
        run_cli(failing(error))
    assert end.value.code == status
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize(("result", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_result_is_the_status(result, status):
    with pytest.raises(SystemExit) as end:
        run_cli(lambda: result)
    assert end.value.code == status


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_cli(lambda: 1 // 0)


def test_a_layer_that_the_message_names_is_not_named_twice():
    assert str(BuildError("layer 'conv1' is too big", layer="conv1")) == "layer 'conv1' is too big"


def test_a_reader_that_went_away():
    program = ("from flightrtl.errors import run_cli\n"
               "def main():\n    for _ in range(100_000): print('x' * 99)\n"
               "run_cli(main)\n")
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait(timeout=60) == 141
