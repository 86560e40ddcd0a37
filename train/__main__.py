"""``python -m train``: train a network and write its model file and its log."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import flightrtl
from flightrtl import datasets, modelfile
from flightrtl.errors import BuildError, UserError, run_cli
from flightrtl.progress import Progress

if TYPE_CHECKING:
    from .recipe import Recipe
    from .trainer import Trainer

__all__ = ["main", "parser"]

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
    add("--activation-bits", type=int, metavar="N", help="of hidden activations")
    add("--max-terms", type=int, metavar="N", help="most terms in a weight (flightnn)")
    add("--lambda", type=float, metavar="X", dest="lambda_",
        help="strength of the group lasso that makes filters need fewer terms; 0 turns it off")
    add("--data", metavar="DIR", help="folder with the data set's files; without it they are "
                                      "taken from the user's cache, or downloaded into it")
    add("--output", metavar="FILE", help="the model file (.safetensors)")
    add("--resume", action="store_true", help="go on from the checkpoint of an interrupted run")
    add("--json", action="store_true", help="print the result as JSON on standard output")
    return result


def listing() -> dict[str, Any]:
    """What there is to choose from."""
    from .networks import NETWORKS
    from .recipe import METHODS, RECIPES, load_recipe
    return {
        "datasets": {name: f"{'x'.join(map(str, item.input.shape))}, {item.classes} classes, "
                           f"{item.counts[0]} + {item.counts[1]} images"
                     for name, item in datasets.DATASETS.items()},
        "networks": {name: ", ".join(map(str, layers)) for name, layers in NETWORKS.items()},
        "methods": METHODS,
        "recipes": {path.stem: "{dataset}, network {network}, {epochs} epochs".format(
                        **load_recipe(path.stem)) for path in sorted(RECIPES.glob("*.toml"))},
    }


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the command line asks for."""
    from .recipe import RECIPES, Recipe, load_recipe
    name = options.recipe
    if name is None and (RECIPES / f"{options.network}.toml").is_file():
        name = options.network
    values = load_recipe(name) if name else {}
    for key in ("dataset", "network", "method", "epochs", "seed", "batch_size", "exponent_bits",
                "activation_bits", "max_terms", "lambda_"):
        if (value := getattr(options, key)) is not None:
            values[key.rstrip("_")] = value
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


def _command(options: argparse.Namespace) -> str:
    """The command that gives the same model again, without the paths of this machine."""
    words = ["python", "-m", "train"]
    for name, value in vars(options).items():
        if value is not None and name not in ("list", "data", "resume", "json"):
            words += ["--" + name.rstrip("_").replace("_", "-"),
                      Path(value).name if name == "output" else str(value)]
    return shlex.join(words)


def _versions() -> dict[str, str]:
    import torch
    return {"flightrtl": flightrtl.__version__, "python": platform.python_version(),
            "torch": torch.__version__, "numpy": np.__version__}


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
        trainer.save(checkpoint)
        save_log()
        each = (time.monotonic() - started) / (trainer.epoch - first)
        progress.done(f"{journal.summary(log)}, {_duration(each * (total - trainer.epoch))} left")


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Carry out a run; returns its result."""
    recipe, output = _recipe(options), _output(options)
    progress = Progress()
    progress.step("starting")
    import torch

    from . import journal
    from .export import compare, export
    from .trainer import Trainer, as_tensors
    torch.set_num_threads(1)        # these networks are too small for more; and it is repeatable
    progress.step(f"reading {recipe.dataset}")
    data = as_tensors(datasets.load(recipe.dataset, options.data, "train"),
                      datasets.load(recipe.dataset, options.data, "test"))
    progress.step("preparing")      # PyTorch loads large parts of itself only now
    trainer = Trainer(recipe, data)
    progress.done()
    checkpoint = output.with_suffix(".checkpoint")
    if options.resume:
        trainer.restore(checkpoint)
        progress.note(f"resuming after epoch {trainer.epoch}")
    elif checkpoint.exists():
        progress.note(f"replacing the checkpoint of an interrupted run, {checkpoint} (--resume "
                      "would have gone on from it)")
    log: dict[str, Any] = {"command": _command(options), "recipe": recipe.as_dict(),
                           "versions": _versions(),
                           "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                           "epochs": trainer.epochs, "result": None}
    try:
        _epochs(trainer, output, checkpoint, progress, lambda: journal.write(log, output))
    except BaseException:
        progress.done()
        if trainer.saved:
            progress.note(f"{trainer.saved} of {recipe.epochs} epochs are kept in {checkpoint}; "
                          "the same command with --resume goes on from there")
        raise
    progress.step(f"comparing with the integer model on {len(data.test_images)} test images")
    model = export(trainer.network, output.stem, {})
    mismatches, logits = compare(trainer.network, model, data.test_images)
    if mismatches:
        raise BuildError(f"{mismatches} logits of the integer model differ from the trained "
                         "network's: this is a defect of the trainer, please report it")
    top1 = float(np.mean(logits.argmax(axis=1) == data.test_labels.numpy()))
    weighted = trainer.network.weighted
    terms = sum(layer.decompose().k.sum().item() * layer.weight[0].numel() for layer in weighted)
    filters = sum(len(layer.weight) for layer in weighted)
    mean_k = sum(layer.decompose().k.sum().item() for layer in weighted) / filters
    provenance = {"dataset": recipe.dataset, "split": "test", "images": len(logits), "top1": top1,
                  "method": recipe.method, "network": recipe.network, "epochs": recipe.epochs,
                  "seed": recipe.seed, "mean_k": round(mean_k, 4), "command": log["command"],
                  "date": log["date"], "versions": log["versions"]}
    model = export(trainer.network, output.stem, provenance)
    modelfile.save(model, output)
    result = {"model": str(output), "log": str(output.with_suffix(".json")), "top1": top1,
              "images": len(logits), "mismatches": mismatches, "mean_k": mean_k, "terms": terms,
              "layers": {layer.name: log["epochs"][-1]["layers"][layer.name]["k_histogram"]
                         for layer in weighted}}
    log["result"] = {key: value for key, value in result.items() if key not in ("model", "log")}
    journal.write(log, output)
    checkpoint.unlink(missing_ok=True)
    progress.done(f"top-1 {100 * top1:.2f} %, every logit equal")
    return result


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
                    print(f"  {name:14} {text}")
        return 0
    result = train(options)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{result['model']}: top-1 {100 * result['top1']:.2f} % of {result['images']} test "
              f"images, mean k {result['mean_k']:.3f}, {result['terms']} terms")
        for name, histogram in result["layers"].items():
            print(f"  {name:8} " + ", ".join(f"{count} filters with k = {k}"
                                             for k, count in histogram.items() if count))
    return 0


if __name__ == "__main__":
    run_cli(main)
