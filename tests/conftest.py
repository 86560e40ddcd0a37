"""Settings of all tests."""

import sys

from hypothesis import HealthCheck, Phase, settings

# The same examples in every run: a failure can be repeated, and a run on a busy machine does not
# fail for being slow.
settings.register_profile("flightrtl", derandomize=True, deadline=None, database=None,
                          max_examples=30)
# Many examples, others for each --hypothesis-seed: `python -m benchmarks verification` runs it.
settings.register_profile("full", deadline=None, database=None, max_examples=1000,
                          suppress_health_check=[HealthCheck.too_slow])
# Only whether a test fails, not the simplest example: `python -m benchmarks mutations` runs it.
settings.register_profile("first-failure", settings.get_profile("flightrtl"),
                          phases=(Phase.explicit, Phase.generate))
settings.load_profile("flightrtl")


def _ignore(unraisable: object) -> None:
    """What a finaliser raises.

    A simulation that ends by an exception leaves a coroutine behind, whose complaint at garbage
    collection would hide the test's own message. Nor may anybody format its traceback, as pytest's
    own hook does even where it is ignored: that parses source, and if garbage is collected while
    something else parses source, CPython 3.11 ends with "AST constructor recursion depth mismatch".
    """


sys.unraisablehook = _ignore
