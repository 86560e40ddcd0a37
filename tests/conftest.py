"""Settings of all tests."""

from hypothesis import settings

# The same examples in every run: a failure can be repeated, and a run on a busy machine does not
# fail for being slow.
settings.register_profile("flightrtl", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("flightrtl")
