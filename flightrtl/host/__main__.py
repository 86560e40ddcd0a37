"""``python -m flightrtl.host``: talk to a network on a board.

Exit status: 0 if everything was answered; 1 if the board does not answer, is gone, or answers
wrongly; 2 if the request is wrong; see :mod:`flightrtl.errors`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import boards, datasets, modelfile
from ..errors import UserError, run_cli
from ..formats import IntArray
from ..model import Model
from ..progress import Progress
from ..report import table
from . import images, ports, terminal, watch, weights
from .bench import bench
from .device import TRIES, Answer, Device, NoAnswer
from .spi import SpiPort

__all__ = ["main"]

_PICTURES = 24      # that are shown without being asked for, at most


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flightrtl.host", allow_abbrev=False,
        description="Talk to a network on a board over its serial port, or SPI.")
    line = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    line.add_argument("--port", metavar="PATH|NAME",
                      help="serial port, or part of its name (default: the only one that has the "
                           "chip of a board); or an SPI bus of Linux, spi:/dev/spidev0.0[:MHZ]")
    line.add_argument("--board", metavar="NAME|FILE",
                      help="board to look for, and whose bit rate to take (default: any)")
    line.add_argument("--baud", type=int, metavar="N", help="bit rate, if not the board's")
    line.add_argument("--timeout", type=float, metavar="SECONDS",
                      help="how long to wait for an answer before the request is sent again "
                           "(default: by bit rate and size)")
    line.add_argument("--tries", type=int, default=TRIES, metavar="N",
                      help="how often a request is sent, at most (default: %(default)s)")
    model = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    model.add_argument("--model", metavar="NAME|FILE",
                       help="the model that must be on the board (default: the bundled one that "
                            "the board names)")
    form = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    form.add_argument("--json", action="store_true",
                      help="print JSON, and nothing else, on standard output")
    seen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    seen.add_argument("--invert", choices=images.INVERT, default="auto",
                      help="exchange black and white (default: where a bright border meets a "
                           "data set that is white on black)")
    seen.add_argument("--show", action=argparse.BooleanOptionalAction, default=None,
                      help="show the images as the network sees them (default: in a terminal)")

    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    each = commands.add_parser("ports", parents=[form], help="list the serial ports")
    each.set_defaults(run=_ports)
    each = commands.add_parser("identify", parents=[line, form],
                               help="say which model is on the board")
    each.add_argument("--counters", action="store_true",
                      help="also what the board has counted: frames, damaged ones, ...")
    each.set_defaults(run=_identify)
    each = commands.add_parser("classify", parents=[line, model, form, seen],
                               help="classify image files")
    each.add_argument("images", nargs="+", metavar="IMAGE",
                      help="image file of any size, or a folder of them")
    each.set_defaults(run=_classify)
    each = commands.add_parser("bench", parents=[line, model, form],
                               help="images per second, every logit compared with the model's")
    each.add_argument("--images", type=int, default=100, metavar="N",
                      help="how many (default: %(default)s)")
    each.set_defaults(run=_bench)
    each = commands.add_parser("load-weights", parents=[line, form],
                               help="load another model's weights into the design on the board")
    each.add_argument("model", metavar="MODEL", help="bundled model, or the path of a model file")
    each.add_argument("--design", type=Path, metavar="DIR",
                      help="folder that the design on the board was built in (default: the one "
                           "below build that is of that design)")
    each.set_defaults(run=_load_weights)
    each = commands.add_parser("watch", parents=[line, model, form, seen],
                               help="classify each new file of a folder, or what a camera sees")
    each.add_argument("folder", nargs="?", metavar="FOLDER")
    each.add_argument("--camera", type=int, metavar="N", help="number of a camera (OpenCV)")
    each.add_argument("--old", action="store_true", help="the files too that are there already")
    each.add_argument("--images", type=int, metavar="N", help="end after so many")
    each.set_defaults(run=_watch)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _connect(options: argparse.Namespace, *, any_model: bool = False) -> Device:
    wanted = None if any_model else options.model
    board = None if options.board is None else boards.load(options.board)
    if wanted is not None:
        modelfile.load(wanted)      # a wrong file is told before a board is looked for
    return ports.connect(options.port, board=board, baud=options.baud, model=wanted,
                         tries=options.tries, timeout=options.timeout, any_model=any_model)


def _names(model: Model) -> tuple[str, ...]:
    """What the classes are called."""
    dataset = datasets.DATASETS.get(str(model.provenance.get("dataset")))
    names = dataset.class_names if dataset is not None else ()
    return names if len(names) == model.output.size else tuple(
        str(number) for number in range(model.output.size))


def _ports(options: argparse.Namespace) -> int:
    found = ports.listed()
    if options.json:
        print(json.dumps([port.as_json() for port in found], indent=2))
    elif found:
        print(table(["port", "what it says", "USB", "may be"],
                    [[port.path, port.title, port.usb, ", ".join(port.boards)] for port in found],
                    left=(0, 1, 2, 3)))
    else:
        print("this computer has no serial port")
    return 0


def _identify(options: argparse.Namespace) -> int:
    with _connect(options, any_model=True) as device:
        identity = device.identity
        counted = device.counters() if options.counters else None
        document: dict[str, Any] = {
            "port": getattr(device.port, "path", None), "baud": device.port.baud,
            "model": device.known_model(), "sha256_begins": identity.model.hex(),
            "shape": identity.shape.hex(), "image_bytes": identity.image_bytes,
            "classes": identity.classes, "loadable": identity.loadable,
            "protocol": identity.version}
        if counted is not None:
            document["counters"] = vars(counted)
    if options.json:
        print(json.dumps(document, indent=2))
        return 0
    speed = (f"{device.port.mhz:g} MHz" if isinstance(device.port, SpiPort) else
             f"{document['baud']:,} baud")
    print(f"port      {document['port']}, {speed}, protocol {identity.version}")
    if identity.loadable and not any(identity.model):
        print("model     none: loading one did not come to its end")
    else:
        print(f"model     {document['model'] or 'none that comes with flightrtl'} "
              f"(its file's SHA-256 begins with {identity.model.hex()})")
    print(f"network   {identity.image_bytes:,} bytes an image, {identity.classes} classes, "
          f"weights {'can be loaded' if identity.loadable else 'are fixed'}")
    if counted is not None:
        print(f"counted   {counted.taken:,} frames taken, {counted.damaged:,} damaged, "
              f"{counted.refused:,} refused, {counted.overruns:,} bytes lost")
    return 0


def _shown(options: argparse.Namespace, count: int) -> bool:
    if options.show is not None or options.json:
        return bool(options.show) and not options.json
    return sys.stdout.isatty() and count <= _PICTURES


def _row(name: str, answer: Answer, names: tuple[str, ...]) -> list[str]:
    margin = sorted(answer.logits)[-1] - sorted(answer.logits)[-2] if len(names) > 1 else 0
    return [name, names[answer.winner], f"{max(answer.logits):,}", f"{margin:,}",
            f"{1000 * answer.seconds:,.1f}", str(answer.tries)]


_HEAD = ["image", "class", "logit", "lead", "ms", "tries"]


def _result(name: str, answer: Answer | None, names: tuple[str, ...]) -> dict[str, Any]:
    if answer is None:
        return {"image": name, "class": None}
    return {"image": name, "class": answer.winner, "class_name": names[answer.winner],
            "logits": list(answer.logits), "seconds": answer.seconds, "tries": answer.tries}


def _classify(options: argparse.Namespace) -> int:
    files = images.image_files(options.images)
    # All files are looked at before a board is: a wrong one is told at once.
    pictures = [images.read(file) for file in files]
    progress = Progress()
    with _connect(options) as device:
        model = device.model
        assert model is not None
        names = _names(model)
        values = [images.prepare(picture, model, invert=options.invert) for picture in pictures]
        progress.step(f"model {device.name}, {len(files)} image{'s' if len(files) > 1 else ''}")
        answers: list[Answer | None] = []
        for number, answer in enumerate(device.classify_all(values)):
            progress.update(f"{number + 1} of {len(files)}")
            answers.append(answer if isinstance(answer, Answer) else None)
        progress.done()
        statistics = device.statistics
    failed = answers.count(None)
    if options.json:
        print(json.dumps({
            "model": device.name, "images": [
                _result(file, answer, names)
                for file, answer in zip(files, answers, strict=True)],
            "line": statistics.as_json()}, indent=2))
    else:
        if _shown(options, len(files)):
            print(_gallery(model, values, [
                f"{'?' if answer is None else names[answer.winner]}" for answer in answers]))
            print()
        print(table(_HEAD, [
            _row(file, answer, names) if answer else [file, "no answer", "", "", "",
                                                      str(options.tries)]
            for file, answer in zip(files, answers, strict=True)], left=(0, 1)))
    if failed:
        print(f"error: {failed} of {len(files)} images were not answered in {options.tries} tries "
              f"each ({statistics.damaged} damaged frames came)", file=sys.stderr)
    return 1 if failed else 0


def _gallery(model: Model, values: Sequence[IntArray], captions: Sequence[str]) -> str:
    return terminal.gallery([terminal.pixels(each, model) for each in values], captions,
                            colour=terminal.colours(sys.stdout))


def _bench(options: argparse.Namespace) -> int:
    with _connect(options) as device:
        result = bench(device, options.images, Progress())
        statistics = device.statistics
    if options.json:
        print(json.dumps({"model": device.name, **result.as_json(),
                          "line": statistics.as_json()}, indent=2))
    else:
        least, median, greatest = (1000 * each for each in result.latency)
        print(f"images      {result.images:,} of {device.name}, {result.answered:,} answered, "
              f"{result.failed:,} failed")
        print(f"mismatches  {result.mismatches:,} with the golden model")
        print(f"rate        {result.answered / max(result.seconds, 1e-9):,.1f} images/s; the line "
              f"is busy for {result.line:.0%} of the time")
        print(f"latency     {least:,.1f} to {greatest:,.1f} ms, median {median:,.1f} ms")
        print(f"line        {statistics.retried:,} requests sent again, {statistics.timeouts:,} "
              f"time-outs, {statistics.damaged:,} damaged frames, {statistics.stale:,} stale")
    if result.mismatches or result.failed:
        print(f"error: {result.mismatches} wrong answers, {result.failed} failed requests",
              file=sys.stderr)
        return 1
    return 0


def _load_weights(options: argparse.Namespace) -> int:
    model, sha256 = modelfile.load(options.model), modelfile.sha256(options.model)
    progress = Progress()
    with _connect(options, any_model=True) as device:
        shape = weights.find_shape(device, options.design)
        progress.step(f"loading {model.name}")
        sent = weights.load_weights(device, model, sha256, shape, progress.update)
        progress.done(f"{sent:,} bytes")
    if options.json:
        print(json.dumps({"model": model.name, "sha256": sha256, "bytes": sent,
                          "line": device.statistics.as_json()}, indent=2))
    else:
        print(f"{model.name}: {sent:,} bytes of weights loaded, and the board has that model now")
    return 0


def _watch(options: argparse.Namespace) -> int:
    if (options.folder is None) == (options.camera is None):
        raise UserError("name a folder to watch, or a camera with --camera 0")
    if options.folder is not None and not os.path.isdir(options.folder):
        raise UserError(f"{options.folder}: there is no such folder")
    with _connect(options) as device:
        if options.folder is not None:
            return _watch_all(options, device, _from_folder(options))
        with watch.camera(options.camera) as pictures:
            return _watch_all(options, device, ((time.strftime("%H:%M:%S"), each)
                                                for each in pictures))


def _from_folder(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for file in watch.folder(options.folder, old=options.old):
        try:
            yield str(file), images.read(file)
        except UserError as error:      # one that is no image is no reason to end
            print(f"note: {error}", file=sys.stderr)


def _watch_all(options: argparse.Namespace, device: Device,
               pictures: Iterator[tuple[str, Any]]) -> int:
    model = device.model
    assert model is not None
    names = _names(model)
    camera = options.camera is not None and sys.stdout.isatty() and not options.json
    for number, (name, picture) in enumerate(pictures, 1):
        values = images.prepare(picture, model, invert=options.invert)
        answer: Answer | None = None
        try:
            answer = device.classify(values)
        except NoAnswer as error:
            print(f"note: {name}: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps(_result(name, answer, names)), flush=True)
        else:
            text = "no answer" if answer is None else (
                f"{name}  {names[answer.winner]}  {1000 * answer.seconds:,.1f} ms")
            if _shown(options, 1):
                text = _gallery(model, [values], [text.split("  ")[-2 if answer else 0]]
                                ) + f"\n{text}"
            # A camera's pictures replace each other.
            print(("\x1b[H\x1b[2J" if camera else "") + text, flush=True)
        if number == options.images:
            return 0
    return 0


if __name__ == "__main__":
    run_cli(main)
