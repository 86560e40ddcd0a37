"""``python -m benchmarks NAME``: run a benchmark."""

from __future__ import annotations

import sys

from flightrtl.errors import UserError, run_cli

from . import (
    accuracy_table,
    builds,
    components,
    dataflows,
    estimates,
    link,
    mutations,
    pe,
    posttrain,
    simulation,
    verification,
)

BENCHMARKS = {"accuracy": accuracy_table.main, "builds": builds.main,
              "components": components.main,
              "dataflows": dataflows.main, "estimates": estimates.main,
              "link": link.main, "mutations": mutations.main,
              "pe": pe.main, "posttrain": posttrain.main,
              "simulation": simulation.main, "verification": verification.main}


def main() -> int | None:
    """The command line."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m benchmarks NAME [options]\n\nbenchmarks:")
        for name, benchmark in BENCHMARKS.items():
            print(f"  {name:14}{(benchmark.__doc__ or '').splitlines()[0]}")
        return 0
    if arguments[0] not in BENCHMARKS:
        raise UserError(f"there is no benchmark {arguments[0]!r}; there is "
                        f"{', '.join(sorted(BENCHMARKS))}")
    return BENCHMARKS[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(run_cli(main))
