"""``python -m train``: train a network and write its model file and its log."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import io
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flightrtl import datasets
from flightrtl.errors import UserError, run_cli
from flightrtl.progress import Progress

from . import origin

if TYPE_CHECKING:
    from .recipe import Recipe
    from .trainer import Trainer

__all__ = ["main", "parser", "usable_device"]

_EXAMPLES = """\
examples:
  python -m train --list
  python -m train --recipe digits --output digits.safetensors
  python -m train --dataset mnist --network mnist --epochs 30 --output my.safetensors
  python -m train --recipe mnist --output mnist.safetensors --resume
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m train", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a network whose weights are sums of signed powers of two, and write "
                    "it as a model file, with a log (.json, .csv) beside it.")
    add = result.add_argument
    add("--list", action="store_true", help="show data sets, networks, methods and recipes")
    add("--recipe", metavar="NAME", help="start from a recipe that comes with the trainer, or "
                                         "from a .toml file; other options change it. Default: the "
                                         "recipe with the network's name, if there is one")
    add("--dataset", metavar="NAME")
    add("--network", metavar="NAME")
    add("--method", metavar="NAME", help="default: flightnn")
    add("--epochs", type=int, metavar="N")
    add("--seed", type=int, metavar="N")
    add("--batch-size", type=int, metavar="N")
    add("--exponent-bits", type=int, metavar="N", help="1 to 4: bits of a term without its sign")
    add("--weight-bits", type=int, metavar="N", help="of fixed-point weights")
    add("--activation-bits", type=int, metavar="N", help="of hidden activations")
    add("--max-terms", type=int, metavar="N", help="most terms in a weight (flightnn)")
    add("--lambda", type=float, metavar="X", dest="lambda_",
        help="strength of the group lasso that makes filters need fewer terms, in place of a "
             "recipe's target; 0 turns it off")
    add("--target-k", type=float, metavar="X",
        help="steer lambda so that filters have X terms in the mean (flightnn)")
    add("--init", metavar="FILE", help="start from a float network (--method float) instead of "
                                       "training one first")
    add("--device", default="auto", metavar="NAME",
        help="cpu, cuda, ... (auto: cuda where there is one)")
    add("--threads", type=int, default=1, metavar="N",
        help="processor threads (default 1; results can differ in the last bit with others); "
             "several processes or GPUs: torchrun --nproc-per-node N -m train ...")
    add("--data", metavar="DIR", help="folder with the data set's files; without it they are "
                                      "taken from the user's cache, or downloaded into it")
    add("--output", metavar="FILE", help="the model file (.safetensors)")
    add("--resume", action="store_true", help="go on from the checkpoint of an interrupted run")
    add("--json", action="store_true", help="print the result as JSON on standard output")
    return result


def listing() -> dict[str, Any]:
    """What there is to choose from."""
    from .methods import METHODS
    from .networks import NETWORKS
    from .recipe import RECIPES, load_recipe
    return {
        "datasets": {name: f"{'x'.join(map(str, item.input.shape))}, {item.classes} classes, "
                           f"{item.counts[0]} + {item.counts[1]} images"
                     for name, item in datasets.DATASETS.items()},
        "networks": {name: entry.text for name, entry in NETWORKS.items()},
        "methods": {name: method.text for name, method in METHODS.items()},
        "recipes": {path.stem: "{dataset}, network {network}, {epochs} epochs".format(
                        **load_recipe(path.stem)) for path in sorted(RECIPES.glob("*.toml"))},
    }


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the command line asks for."""
    from .methods import METHODS
    from .recipe import RECIPES, Recipe, load_recipe
    name = options.recipe
    if name is None and (RECIPES / f"{options.network}.toml").is_file():
        name = options.network
    values = load_recipe(name) if name else {}
    method = METHODS.get(options.method)
    if options.target_k is None and (options.lambda_ is not None
                                     or (method is not None and not method.learns_terms)):
        values.pop("target_k", None)        # the recipe's, which the command line overrules
    for key in ("dataset", "network", "method", "epochs", "seed", "batch_size", "exponent_bits",
                "weight_bits", "activation_bits", "max_terms", "lambda_", "target_k"):
        if (value := getattr(options, key)) is not None:
            values[key.rstrip("_")] = value
    if options.init is not None:
        values["float_share"] = 0.0
    elif values.get("float_share") == 0 and values.get("method") != "float":
        raise UserError("a run without a float stage (float_share = 0) starts from a float "
                        "network: name one with --init FILE")
    return Recipe.from_dict(values, name or "the command line")


def _output(options: argparse.Namespace) -> Path:
    """The model file, in a folder that exists."""
    if options.output is None:
        raise UserError("where should the model go? Use --output FILE")
    path = Path(options.output)
    if path.suffix != ".safetensors":
        raise UserError(f"--output {path}: the file's name must end in .safetensors")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"--output {path}: this is a folder; name a file")
    return path


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(75)
    '1:15'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _epochs(trainer: Trainer, output: Path, checkpoint: Path, progress: Progress,
            save_log: Callable[[], None]) -> None:
    """Train to the end; a checkpoint and the log are written after every epoch."""
    from . import journal
    total, first, started = trainer.recipe.epochs, trainer.epoch, time.monotonic()
    while trainer.epoch < total:
        progress.step(f"epoch {trainer.epoch + 1} of {total}")
        log = trainer.run_epoch(progress.update)
        if trainer.group.first:
            trainer.save(checkpoint)
            save_log()
        each = (time.monotonic() - started) / (trainer.epoch - first)
        progress.done(f"{journal.summary(log)}, {_duration(each * (total - trainer.epoch))} left")


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Carry out a run; returns its result."""
    recipe, output = _recipe(options), _output(options)
    if options.threads < 1:
        raise UserError(f"--threads must be 1 or more, not {options.threads}")
    progress = Progress()
    progress.step("starting")
    import torch

    from . import journal
    from .data import as_tensors
    from .distributed import join
    from .finish import finish_float, finish_quantized
    from .trainer import Trainer
    group, device = join(usable_device(options.device))
    if not group.first:
        progress = Progress(io.StringIO())
    torch.set_num_threads(options.threads)
    # Evaluation has to be exact: no products of 10 bits in place of 24.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    progress.step(f"reading {recipe.dataset}")
    data = as_tensors(datasets.load(recipe.dataset, options.data, "train"),
                      datasets.load(recipe.dataset, options.data, "test"))
    progress.step("preparing")      # PyTorch loads large parts of itself only now
    init = Path(options.init) if options.init else None
    trainer = Trainer(recipe, data, device=device, init=init, group=group)
    progress.done()
    checkpoint = output.with_suffix(".checkpoint")
    if options.resume:
        trainer.restore(checkpoint)
        progress.note(f"resuming after epoch {trainer.epoch}")
    elif checkpoint.exists():
        progress.note(f"replacing the checkpoint of an interrupted run, {checkpoint} (--resume "
                      "would have gone on from it)")
    log: dict[str, Any] = {"command": origin.command("train", parser(), options),
                           "recipe": recipe.as_dict(), "versions": origin.versions(),
                           "machine": _machine(device, options.threads),
                           "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                           "init": trainer.init, "epochs": trainer.epochs, "result": None}
    try:
        _epochs(trainer, output, checkpoint, progress, lambda: journal.write(log, output))
    except BaseException:
        progress.done()
        if trainer.saved:
            progress.note(f"{trainer.saved} of {recipe.epochs} epochs are kept in {checkpoint}; "
                          "the same command with --resume goes on from there")
        raise
    log["seconds"] = round(trainer.seconds)
    trainer.finish()
    if not group.first:
        return {}
    finish = finish_float if recipe.real else finish_quantized
    result = finish(trainer, output, log, progress)
    log["result"] = result
    journal.write(log, output)
    checkpoint.unlink(missing_ok=True)
    return {"model": str(output), "log": str(output.with_suffix(".json")), **result}


def usable_device(name: str) -> str:
    """The device that was asked for, if PyTorch can use it."""
    import torch
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: PyTorch cannot use it ({str(error).splitlines()[0]}); "
                        "use --device cpu") from None
    return name


def _machine(device: str, threads: int) -> str:
    """What computed, in a few words."""
    import torch
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU, {threads} thread" + ("s" if threads > 1 else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    if importlib.util.find_spec("torch") is None:
        raise UserError("training needs PyTorch, which is not installed: "
                        "pip install 'flightrtl[train]'")
    if options.list:
        found = listing()
        if options.json:
            print(json.dumps(found, indent=1))
        else:
            for title, entries in found.items():
                print(f"{title}:")
                for name, text in entries.items():
                    print(f"  {name:{max(map(len, entries))}}  {text}")
        return 0
    result = train(options)
    if not result:              # another process of the run has it
        return 0
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{result['model']}: top-1 {100 * result['top1']:.2f} % of {result['images']} test "
              "images" + (f", mean k {result['mean_k']:.3f}, {result['terms']} terms"
                          if "mean_k" in result else ""))
        for name, histogram in result.get("layers", {}).items():
            print(f"  {name:8} " + ", ".join(f"{count} filters with k = {k}"
                                             for k, count in histogram.items() if count))
    return 0


if __name__ == "__main__":
    run_cli(main)
