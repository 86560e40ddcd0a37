import io

from flightrtl.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_one_line_for_each_thing():
    stream = io.StringIO()
    progress = Progress(stream, interval=0)
    progress.step("synthesis")
    progress.update("adders")
    progress.update("adders")
    progress.done("412 cells")
    progress.note("all good")
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["synthesis", "synthesis: adders"]
    assert lines[2].startswith("synthesis: 412 cells (")
    assert lines[3:] == ["all good"]


def test_a_log_is_not_flooded():
    stream = io.StringIO()
    progress = Progress(stream, interval=60)
    progress.step("routing")
    for connections in range(1000):
        progress.update(f"{connections} to go")
    progress.done()
    assert stream.getvalue() == "routing\n"


def test_a_terminal_line_is_rewritten():
    stream = Terminal()
    progress = Progress(stream)
    progress.step("synthesis" + "x" * 200)
    progress.done("done")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert all(len(part) <= 102 for part in text.rstrip().split("\r"))


def test_an_abandoned_step_claims_nothing():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.step("synthesis")
    progress.abandon()
    progress.done("done")
    assert stream.getvalue() == "synthesis\n"
