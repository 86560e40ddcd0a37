"""What the settings of all tests are for."""

import ast
import gc
from pathlib import Path


class Complains:
    """Garbage whose finaliser raises, as does what a simulation leaves behind that was ended."""

    def __init__(self):
        self.cycle = self

    def __del__(self):
        raise RuntimeError("gone" + str(self.cycle is self))


def test_garbage_does_not_disturb_a_parser():
    source = Path(__file__).with_name("formal.py").read_text(encoding="utf-8")
    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(20):
            Complains()
            ast.parse(source)
    finally:
        gc.set_threshold(*threshold)
