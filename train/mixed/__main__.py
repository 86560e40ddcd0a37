"""``python -m train.mixed``: the formats of each layer, chosen by Bayesian optimisation."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flightrtl import boards, datasets
from flightrtl.errors import BuildError, UserError, run_cli
from flightrtl.files import atomic_write
from flightrtl.progress import Progress

from .. import origin

if TYPE_CHECKING:
    from .search import Found, Goal, Search
    from .space import Space
    from .trial import Judge

__all__ = ["main", "parser"]

_EXAMPLES = """\
examples:
  python -m train.mixed --recipe cifar10-mixed-base --init float.safetensors \\
      --objective size --budget 22x --output cifar10-mixed.toml
  python -m train --recipe cifar10-mixed.toml --init float.safetensors --output net.safetensors
"""
_REST_BITS = 24
"""Of a filter: bias, shift and k, in the search (the result is counted exactly)."""
_STARTS = 10
_UNITS = {"size": "bits", "cycles": "cycles", "luts": "LUT4"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m train.mixed", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Choose weight format, number of terms, activation bits and pruned filters "
                    "of each layer for accuracy and cost, and write them as a recipe for "
                    "python -m train.")
    add = result.add_argument
    add("--recipe", metavar="NAME", help="training options to search with and to write")
    add("--dataset", metavar="NAME")
    add("--network", metavar="NAME")
    add("--init", metavar="FILE", help="the float network to start from (--method float)")
    add("--objective", choices=tuple(_UNITS), default="size",
        help="what a choice costs: bits of the model, or on --board cycles of an inference or "
             "logic cells, as the planner estimates them (default: %(default)s)")
    add("--board", metavar="NAME", help="board, or the path of a board's TOML file")
    add("--rate", type=float, metavar="N",
        help="inferences per second to be reached (luts; default: the board's)")
    add("--budget", metavar="N", help="greatest cost; for size also as a factor against 32-bit "
                                      "weights, 22x. The best within it is looked for")
    add("--loss", type=float, default=0.01, metavar="X",
        help="without a budget: top-1 that may be lost in a trial, as a fraction; the cheapest "
             "within it is looked for (default: %(default)s)")
    add("--trials", type=int, default=40, metavar="N", help="choices to train (%(default)s)")
    add("--steps", type=int, default=200, metavar="N",
        help="of training in a trial; 0: only round the weights (%(default)s)")
    add("--images", type=int, default=2000, metavar="N",
        help="training images held back to judge on (%(default)s)")
    add("--formats", default="", metavar="NAMES", help="weight formats to choose from, separated "
                                                       "by commas (default: all that can be)")
    add("--activation-bits", metavar="LOW-HIGH",
        help="of hidden activations (default: 2-8 on a board; for size, which does not depend on "
             "them, what the recipe says)")
    add("--dense", action="store_true", help="prune no filters")
    add("--seed", type=int, default=0, metavar="N")
    add("--threads", type=int, default=1, metavar="N", help="processor threads (%(default)s)")
    add("--device", default="auto", metavar="NAME",
        help="cpu, cuda, ... (auto: cuda where there is one)")
    add("--data", metavar="DIR", help="folder with the data set's files")
    add("--output", metavar="FILE", help="the recipe (.toml); all trials go into a .json and the "
                                         "study into a .study beside it")
    add("--resume", action="store_true",
        help="go on with the study beside the output, interrupted or not")
    add("--json", action="store_true", help="print the result as JSON on standard output")
    return result


def _check(options: argparse.Namespace) -> None:
    """What argparse does not."""
    for name, least in (("trials", 1), ("steps", 0), ("images", 1), ("seed", 0), ("threads", 1)):
        value = getattr(options, name)
        if value < least:
            raise UserError(f"--{name} {value}: it must be at least {least}")
    if not 0 <= options.loss < 1:
        raise UserError(f"--loss {options.loss:g}: a fraction from 0 to less than 1 (0.01 is one "
                        "point of top-1)")
    if options.rate is not None and options.objective != "luts":
        raise UserError("--rate is for --objective luts: cycles are made as few as can be")
    if (options.board is None) != (options.objective == "size"):
        raise UserError("--objective cycles and luts are estimates for a board: name it with "
                        "--board" if options.board is None else
                        "--board is for --objective cycles or luts; a size needs none")
    if options.init is None:
        raise UserError("the search starts from a float network: train one with --method float, "
                        "and name its file with --init FILE")
    if options.output is None or Path(options.output).suffix != ".toml":
        raise UserError("where should the recipe go? Use --output FILE.toml")
    if not Path(options.output).parent.is_dir():
        raise UserError(f"--output {options.output}: there is no folder "
                        f"{Path(options.output).parent}")


def _range(text: str) -> tuple[int, int]:
    """``LOW-HIGH``, or one number.

    >>> _range("2-8"), _range("4")
    ((2, 8), (4, 4))
    """
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise UserError(f"--activation-bits {text}: two numbers are wanted, such as 2-8") from None


def _budget(options: argparse.Namespace, weights: int) -> float | None:
    """The greatest cost, in the objective's unit."""
    text = options.budget
    if text is None:
        return None
    factor = text.endswith("x") and options.objective == "size"
    try:
        value = float(text.removesuffix("x") if factor else text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--budget {text}: a number above 0 is wanted" +
                        (", or a factor such as 22x" if options.objective == "size" else ""))
    return 32 * weights / value if factor else value


def _space(options: argparse.Namespace, judge: Judge) -> Space:
    from .space import Space, select, shapes
    on_board = options.board is not None
    own = judge.recipe.activation_bits
    bits = (_range(options.activation_bits) if options.activation_bits else
            (2, 8) if on_board else (own, own))
    space = Space(shapes(judge.network),
                  select([name for name in options.formats.split(",") if name],
                         hardware=on_board), bits)
    return replace(space, sparsity=(0.0,)) if options.dense else space


def _cost(options: argparse.Namespace, judge: Judge,
          space: Space) -> Callable[[dict[str, int]], float]:
    """From values of the parameters to the cost."""
    if options.board is None:
        rest = _REST_BITS * sum(layer.filters for layer in space.layers)
        return lambda chosen: float(sum(space.bits(chosen).values()) + rest)
    from .cost import BoardCost
    estimate = BoardCost(boards.load(options.board), options.objective, options.rate)
    estimate.check(judge.folded(space.tables({})))
    return lambda chosen: estimate(judge.folded(space.tables(chosen)))


def _told(found: Found, options: argparse.Namespace, weights: int) -> str:
    """A trial in a few words."""
    ratio = f" ({32 * weights / found.cost:.1f}x)" if options.objective == "size" else ""
    return (f"{found.cost:,.0f} {_UNITS[options.objective]}{ratio}, {100 * found.verdict.lost:.2f} "
            f"% lost, divergence {found.verdict.divergence:.4f}")


def _trials(search: Search, options: argparse.Namespace, progress: Progress, weights: int) -> None:
    """All trials that are missing."""
    try:
        while len(search.found) < options.trials:
            progress.step(f"trial {len(search.found) + 1} of {options.trials}")
            found, best = search.step(progress.update), search.best
            progress.done(_told(found, options, weights)
                          + (f"; best: trial {best.number}" if best else ""))
    except BaseException:
        progress.abandon()
        progress.note(f"{len(search.found)} trials are kept; the same command with --resume goes "
                      "on from there")
        raise


def _result(search: Search, goal: Goal, options: argparse.Namespace) -> Found:
    """The best trial, or what helps."""
    best = search.best
    if best is not None:
        return best
    closest = min(search.found, key=lambda each: each.verdict.lost)
    raise BuildError(f"none of {len(search.found)} trials loses {100 * goal.loss:g} % or less; the "
                     f"best loses {100 * closest.verdict.lost:.2f} %",
                     knob="more --trials, more --steps (training for longer loses less), or a "
                          "greater --loss")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Carry out a search; returns its result."""
    _check(options)
    progress = Progress()
    progress.step("starting")
    import torch

    from ..__main__ import usable_device
    from ..data import as_tensors
    from ..recipe import Recipe, load_recipe
    from .cost import stored_bits
    from .recipefile import write
    from .search import Goal, Search
    from .trial import Judge, merged
    device = usable_device(options.device)
    torch.set_num_threads(options.threads)
    values = load_recipe(options.recipe) if options.recipe else {"distillation": 0.7}
    values |= {key: getattr(options, key) for key in ("dataset", "network")
               if getattr(options, key) is not None}
    recipe = Recipe.from_dict(values | {"method": "mixed", "seed": options.seed},
                              options.recipe or "the command line")
    progress.step(f"reading {recipe.dataset}")
    data = as_tensors(datasets.load(recipe.dataset, options.data, "train"),
                      datasets.load(recipe.dataset, options.data, "test"))
    progress.step("judging the float network")
    judge = Judge(recipe, data, Path(options.init), steps=options.steps, images=options.images,
                  device=device)
    progress.done(f"top-1 {100 * judge.float_top1:.2f} % of {options.images} training images")
    space = _space(options, judge)
    weights = sum(layer.weight.numel() for layer in judge.network.weighted)
    goal = Goal(_budget(options, weights), options.loss)
    output = Path(options.output)
    study = output.with_suffix(".study")
    if not options.resume and study.exists():
        progress.note(f"replacing the study of another search, {study} (--resume would have gone "
                      "on with it)")
        study.unlink()
    if options.resume and not study.exists():
        raise UserError(f"{study}: there is no study to resume; leave out --resume")
    limit = goal.budget if options.objective == "size" else None
    if limit is not None:
        limit -= _REST_BITS * sum(layer.filters for layer in space.layers)
    search = Search(space, goal, cost=_cost(options, judge, space), judge=judge, file=study,
                    seed=options.seed, starts=space.starts(_STARTS, options.seed, limit), request={
                        "recipe": recipe.as_dict(), "objective": options.objective,
                        "board": options.board, "rate": options.rate, "budget": goal.budget,
                        "loss": options.loss, "steps": options.steps, "images": options.images,
                        "formats": [choice.name for choice in space.formats],
                        "activation_bits": list(space.activation_bits),
                        "sparsity": list(space.sparsity), "init": judge.about.get("command")})
    _trials(search, options, progress, weights)
    best = _result(search, goal, options)
    tables = space.tables(best.chosen)
    from ..export import export
    command = origin.command("train.mixed", parser(), options)
    bits = stored_bits(export(judge.folded(tables), "trial", {}))
    result = {"recipe": str(output), "objective": options.objective, "cost": best.cost,
              "trial": best.number, "trials": len(search.found), **_as_dict(best),
              "float_top1": judge.float_top1, "weights": weights, "weight_bits": bits["weights"],
              "rest_bits": bits["rest"], "compression": 32 * weights / bits["weights"],
              "compression_of_all": 32 * weights / sum(bits.values()), "layers": tables}
    write(merged(recipe, tables), output, [
        "Formats of each layer, found by", f"  {command}",
        f"Trial {best.number} of {len(search.found)}: {_told(best, options, weights)}.",
        "Train it with --init and the same float network."])
    with atomic_write(output.with_suffix(".json")) as file:
        file.write(json.dumps({"command": command, "result": result, "trials": [
            _as_dict(found) | {"cost": found.cost, "layers": space.tables(found.chosen)}
            for found in search.found]}, indent=1) + "\n")
    return result


def _as_dict(found: Found) -> dict[str, Any]:
    return {"divergence": found.verdict.divergence, "top1": found.verdict.top1,
            "lost": found.verdict.lost}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    for package in ("torch", "optuna"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the search needs {package}, which is not installed: "
                            "pip install 'flightrtl[train]'")
    result = run(options)
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{result['recipe']}: trial {result['trial']} of {result['trials']}, "
          f"{result['cost']:,.0f} {_UNITS[options.objective]}; weights compressed "
          f"{result['compression']:.2f} times against 32 bits, with all else "
          f"{result['compression_of_all']:.2f}; {100 * result['lost']:.2f} % lost so far")
    for name, table in result["layers"].items():
        print(f"  {name:16} " + ", ".join(f"{key} {value}" for key, value in table.items()))
    return 0


if __name__ == "__main__":
    run_cli(main)
