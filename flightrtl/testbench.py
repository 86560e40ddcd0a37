"""A Verilog testbench for an exported network: real images, every logit of the integer model.

Verilog-2005, but for ``$fatal``, which ends a simulator with a status; Icarus Verilog and Verilator
run it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import golden, samples
from .formats import IntArray
from .gateware.axistream import AxiStreamNetwork, byte_bits
from .model import Model

__all__ = ["IMAGES", "files", "images"]

IMAGES = 20
"""How many images a testbench has."""

_TEXT = """\
// Testbench of @MODULE@: @COUNT@ images (@SOURCE@).
// Every logit and class is compared with what flightrtl's integer model computes.
// Both streams pause at random; -DNO_PAUSES lets them run. It ends with PASS, or FAIL and a status
// that is not 0. In the folder of these files:
//
//   $ iverilog -g2005 -o @STEM@_tb @STEM@_tb.v @STEM@.v && vvp -N @STEM@_tb
//   $ verilator --binary --timing --top-module @MODULE@_tb @STEM@_tb.v @STEM@.v \\
//       && obj_dir/V@MODULE@_tb
//
// Fewer images: -P@MODULE@_tb.COUNT=3 (Icarus), -GCOUNT=3 (Verilator).

`timescale 1ns / 1ps

module @MODULE@_tb;
    parameter COUNT = @COUNT@;              // images to run, at most @COUNT@
    localparam SIZE = @SIZE@;               // values of an image
    localparam CLASSES = @CLASSES@;
    localparam PATIENCE = @PATIENCE@;       // cycles without any transfer that are too many

    reg aclk = 1'b0;
    reg aresetn = 1'b0;
    reg [@IN@-1:0] s_axis_tdata = 0;
    reg s_axis_tlast = 1'b0;
    reg s_axis_tvalid = 1'b0;
    wire s_axis_tready;
    wire [@OUT@-1:0] m_axis_tdata;
    wire [@USER@-1:0] m_axis_tuser;
    wire m_axis_tlast;
    wire m_axis_tvalid;
    reg m_axis_tready = 1'b0;
    wire short_image;

    @MODULE@ dut (
        .aclk(aclk), .aresetn(aresetn),
        .s_axis_tdata(s_axis_tdata), .s_axis_tlast(s_axis_tlast),
        .s_axis_tvalid(s_axis_tvalid), .s_axis_tready(s_axis_tready),
        .m_axis_tdata(m_axis_tdata), .m_axis_tuser(m_axis_tuser), .m_axis_tlast(m_axis_tlast),
        .m_axis_tvalid(m_axis_tvalid), .m_axis_tready(m_axis_tready),
        .short_image(short_image)
    );

    reg [@IN@-1:0] images [0:@COUNT@*SIZE-1];
    // The logit, and above it the class.
    reg [@OUT@+@USER@-1:0] results [0:@COUNT@*CLASSES-1];
    initial begin
        $readmemh("@STEM@_tb_images.hex", images);
        $readmemh("@STEM@_tb_results.hex", results);
    end

    always #5 aclk = ~aclk;

    // Pauses: a stream begins and ends one with a chance of 1 in 4.
    reg [31:0] noise = 32'h1;
    reg source_pauses = 1'b0;
    reg sink_pauses = 1'b0;
    always @(posedge aclk) begin
        noise <= {noise[30:0], noise[31] ^ noise[21] ^ noise[1] ^ noise[0]};
`ifndef NO_PAUSES
        if (noise[4:3] == 2'b00) source_pauses <= ~source_pauses;
        if (noise[18:17] == 2'b00) sink_pauses <= ~sink_pauses;
`endif
    end

    integer sent = 0;
    integer place = 0;          // in the image
    always @(posedge aclk) begin
        if (aresetn && (!s_axis_tvalid || s_axis_tready)) begin
            if (sent < COUNT * SIZE && !source_pauses) begin
                s_axis_tdata <= images[sent];
                s_axis_tlast <= place == SIZE - 1;
                s_axis_tvalid <= 1'b1;
                sent <= sent + 1;
                place <= place == SIZE - 1 ? 0 : place + 1;
            end else begin
                // Nobody may look at these.
                s_axis_tdata <= {@IN@{1'bx}};
                s_axis_tlast <= 1'bx;
                s_axis_tvalid <= 1'b0;
            end
        end
        m_axis_tready <= aresetn && !sink_pauses;
    end

    integer cycles = 0;
    integer silence = 0;
    integer taken = 0;
    integer logit = 0;          // of the image
    integer wrong_logits = 0;
    integer wrong_classes = 0;
    integer broken_rules = 0;
    reg stalled = 1'b0;
    reg [@OUT@+@USER@:0] held = 0;
    wire last = logit == CLASSES - 1;
    wire [@OUT@+@USER@-1:0] expected = results[taken < COUNT * CLASSES ? taken : 0];
    always @(posedge aclk) begin
        cycles <= cycles + 1;
        if (cycles == 15) aresetn <= 1'b1;
        silence <= silence + 1;
        if (aresetn) begin
            if (s_axis_tvalid && s_axis_tready) silence <= 0;
            stalled <= m_axis_tvalid && !m_axis_tready;
            held <= {m_axis_tuser, m_axis_tlast, m_axis_tdata};
            if (m_axis_tvalid !== 1'b0 && m_axis_tvalid !== 1'b1
                || stalled && (!m_axis_tvalid
                               || held !== {m_axis_tuser, m_axis_tlast, m_axis_tdata})) begin
                $display("cycle %0d: m_axis changed before it was taken", cycles);
                broken_rules <= broken_rules + 1;
            end
            if (m_axis_tvalid && m_axis_tready) begin
                silence <= 0;
                taken <= taken + 1;
                logit <= last ? 0 : logit + 1;
                if (taken >= COUNT * CLASSES || m_axis_tlast !== last) begin
                    $display("cycle %0d: a logit too many, or tlast at the wrong place", cycles);
                    broken_rules <= broken_rules + 1;
                end
                if (m_axis_tdata !== expected[@OUT@-1:0]) begin
                    $display("image %0d, logit %0d: %h, must be %h", taken / CLASSES, logit,
                             m_axis_tdata, expected[@OUT@-1:0]);
                    wrong_logits <= wrong_logits + 1;
                end
                if (last && m_axis_tuser !== expected[@OUT@+@USER@-1:@OUT@]) begin
                    $display("image %0d: class %0d, must be %0d", taken / CLASSES, m_axis_tuser,
                             expected[@OUT@+@USER@-1:@OUT@]);
                    wrong_classes <= wrong_classes + 1;
                end
            end
        end
        // After the last result, see for a while that nothing follows.
        if (silence >= (taken >= COUNT * CLASSES ? 100 : PATIENCE)) begin
            if (taken == COUNT * CLASSES && wrong_logits == 0 && wrong_classes == 0
                && broken_rules == 0 && short_image === 1'b0) begin
                $display("PASS: %0d images, %0d logits and %0d classes as they must be, %0d cycles",
                         COUNT, taken, COUNT, cycles);
                $finish;
            end else begin
                $display("FAIL: %0d of %0d logits came; wrong: %0d logits, %0d classes, %0d %s",
                         taken, COUNT * CLASSES, wrong_logits, wrong_classes, broken_rules,
                         "rules of the stream");
                $fatal;
            end
        end
    end
endmodule
"""


def images(model: Model, count: int) -> tuple[IntArray, str]:
    """Images for a model, and what they are in words.

    The bundled samples of the data set that it was trained on, spread over them; where there are
    none that fit, images of random values.
    """
    name = model.provenance.get("dataset")
    form = model.input.format
    if isinstance(name, str) and name in samples.names():
        found = samples.load(name)[0].astype(np.int64)
        if (found.shape[1:] == model.input.shape and form.min <= found.min()
                and found.max() <= form.max):
            return found[np.linspace(0, len(found) - 1, count).astype(int)], f"of {name}"
    rng = np.random.default_rng(0)
    return (rng.integers(form.min, form.max, (count, *model.input.shape), endpoint=True),
            "random values: no sample images of its data set come with flightrtl")


def files(network: AxiStreamNetwork, module: str, path: Path, *,
          patience: int, count: int = IMAGES) -> dict[Path, str]:
    """The files of a testbench, by where they belong.

    Parameters
    ----------
    network : AxiStreamNetwork
        What is exported.
    module : str
        Name of its module.
    path : Path
        Its file; the testbench's are named after it.
    patience : int
        Cycles without any transfer after which the testbench gives up.
    count : int
        Images.
    """
    model = network.network.model
    values, source = images(model, count)
    logits = golden.run(model, values)
    given, taken = byte_bits(model.input.format.bits), byte_bits(model.output.format.bits)
    user = len(network.m_axis.tuser)
    words = logits & (1 << taken) - 1
    words[:, -1] |= logits.argmax(axis=1) << taken
    text = _TEXT
    for name, value in {
            "MODULE": module, "STEM": path.stem, "SOURCE": source, "COUNT": count,
            "SIZE": model.input.size, "CLASSES": model.output.size, "IN": given, "OUT": taken,
            "USER": user, "PATIENCE": patience}.items():
        text = text.replace(f"@{name}@", str(value))
    return {
        path.with_name(f"{path.stem}_tb.v"): text,
        path.with_name(f"{path.stem}_tb_images.hex"): _hex(values & (1 << given) - 1, given),
        path.with_name(f"{path.stem}_tb_results.hex"): _hex(words, taken + user),
    }


def _hex(values: IntArray, bits: int) -> str:
    return "".join(f"{value:0{-(-bits // 4)}x}\n" for value in values.ravel().tolist())
