# amaranth: UnusedElaboratable=no
# (Networks are made for their contents, not to become hardware.)
"""Another model into a finished design: new contents of its block RAMs, in seconds.

The design must have been built with ``--weights replaceable`` or ``loadable``, and the model must
be of its shape, see :mod:`flightrtl.contents`. The bitstream is the one that a build of that model
with the same plan would end with.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from . import modelfile
from .blank import BlankDesign
from .cache import Cache
from .errors import UserError
from .files import work_folder
from .gateware import require_supported
from .gateware.link import Layout
from .gateware.loadablestream import LoadableStream, MemoryContents
from .implement import Implementation
from .planner.cycles import measure
from .progress import Progress
from .protocol import Frame, Identity
from .publish import publish
from .report import Report
from .request import Request
from .summary import accuracy
from .toolchain import find

__all__ = ["reuse"]


def reuse(folder: Path, model: str, output: Path | None,
          progress: Progress) -> tuple[Request, tuple[str, str]]:
    """Make the bitstream of a model in a finished design.

    Parameters
    ----------
    folder : Path
        Of the finished design.
    model : str
        Name or file.
    output : Path, optional
        Where the products go, which may be ``folder``; ``build/<board>/<model>`` if None. They can
        be reused too.
    progress : Progress
        Where to tell what is being done.

    Returns
    -------
    (Request, (str, str))
        As what :func:`flightrtl.flow.program` finds the result; the report as JSON and as text.

    Raises
    ------
    UserError
        If the folder holds no such design, or the model does not fit into it.
    BuildError
        If a tool is missing or fails.
    """
    design = BlankDesign.load(folder)
    cache = Cache.read(folder)
    if not cache.holds() or not set(design.files) <= set(cache.data["files"]):
        raise UserError(f"files in {folder} are missing or were changed since they were built: "
                        "build the design again")
    report = Report.from_json(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    loaded, sha256 = modelfile.load(model), modelfile.sha256(model)
    require_supported(loaded, link=True)
    fitted = design.shape.fit(loaded)
    output = output or Path("build", report.board, loaded.name)

    progress.step(f"planning {loaded.name} for the design in {folder}")
    network = design.shape.network(fitted)
    timing = measure(fitted, design.shape.foldings(fitted), queues=network.queues,
                     memory_register=design.shape.memory_register)
    progress.done()
    packer = find(design.tools.tools[-1])
    with work_folder(output) as work:
        writable = report.weights["kind"] == "loadable"
        identity = Identity.of(loaded, sha256,
                               design=design.shape.hash if writable else "")
        memories: list[LoadableStream | MemoryContents] = [
            *network.memories, Layout(Frame.of(loaded)).memory(identity)]
        bitstream = design.bitstream(folder, memories, tool=packer, folder=work,
                                     progress=progress)
        for name in design.files:
            shutil.copyfile(folder / name, work / name)
        report = dataclasses.replace(
            report, model=loaded.name, sha256=sha256,
            accuracy=accuracy(loaded.provenance),
            layers=[dataclasses.replace(row, name=layer.name).of(loaded)
                    for row, layer in zip(report.layers, loaded.layers, strict=True)],
            tools={**report.tools, packer.name: packer.version},
            cycles_per_inference=timing.interval, latency_cycles=timing.latency,
            bitstream=str((output / bitstream.name).resolve()),
            weights={**report.weights, "reused": str(folder)})
        result = dataclasses.replace(Implementation.from_json(cache.result, folder),
                                     bitstream=bitstream)
        # With the design's key, a build of this model finds that all but the contents is there.
        texts = publish(report, result, output, work, design.files,
                        design=str(cache.data.get("design")))
    return Request(model=model, board=report.board, output=output), texts
