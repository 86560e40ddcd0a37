// Cells of iCE40 for simulation of which Yosys has only the outline (ice40/cells_sim.v), and a RAM
// that starts as the real one does.
//
// What they do is in Lattice's "iCE40 Technology Library" (FPGA-TN-02026) and
// "iCE40 sysCLOCK PLL Design and User Guide" (FPGA-TN-02052).

`timescale 1ps / 1ps

`ifndef RAM_START_CYCLES
`define RAM_START_CYCLES 0
`endif

// A PLL multiplies a frequency, and the frequency of a simulated clock is ours to say: the cycles
// of the input are counted as cycles of the output. sim/bitstream.py works out from the settings in
// the bitstream how many MHz they are. The lock comes late, for the sake of what waits for it.
module PLL_stand_in(input source, input running, output clock, output lock);
    reg [7:0] count = 8'd0;
    assign clock = source && running;
    assign lock = count[7];
    always @(posedge source)
        if (!running) count <= 8'd0;
        else if (!lock) count <= count + 8'd1;
endmodule

module SB_PLL40_CORE(
    input REFERENCECLK, EXTFEEDBACK, LATCHINPUTVALUE, BYPASS, RESETB, SDI, SCLK,
    input [7:0] DYNAMICDELAY,
    output PLLOUTCORE, PLLOUTGLOBAL, LOCK, SDO
);
    parameter FEEDBACK_PATH = "SIMPLE";
    parameter DELAY_ADJUSTMENT_MODE_FEEDBACK = "FIXED";
    parameter DELAY_ADJUSTMENT_MODE_RELATIVE = "FIXED";
    parameter SHIFTREG_DIV_MODE = 1'b0;
    parameter FDA_FEEDBACK = 4'd0;
    parameter FDA_RELATIVE = 4'd0;
    parameter PLLOUT_SELECT = "GENCLK";
    parameter DIVR = 4'd0;
    parameter DIVF = 7'd0;
    parameter DIVQ = 3'd0;
    parameter FILTER_RANGE = 3'd0;
    parameter ENABLE_ICEGATE = 1'b0;
    parameter TEST_MODE = 1'b0;
    parameter EXTERNAL_DIVIDE_FACTOR = 1;

    PLL_stand_in pll(.source(REFERENCECLK), .running(RESETB || BYPASS), .clock(PLLOUTGLOBAL),
                     .lock(LOCK));
    assign PLLOUTCORE = PLLOUTGLOBAL;
    assign SDO = 1'b0;
endmodule

module SB_PLL40_PAD(
    input PACKAGEPIN, EXTFEEDBACK, LATCHINPUTVALUE, BYPASS, RESETB, SDI, SCLK,
    input [7:0] DYNAMICDELAY,
    output PLLOUTCORE, PLLOUTGLOBAL, LOCK, SDO
);
    parameter FEEDBACK_PATH = "SIMPLE";
    parameter DELAY_ADJUSTMENT_MODE_FEEDBACK = "FIXED";
    parameter DELAY_ADJUSTMENT_MODE_RELATIVE = "FIXED";
    parameter SHIFTREG_DIV_MODE = 1'b0;
    parameter FDA_FEEDBACK = 4'd0;
    parameter FDA_RELATIVE = 4'd0;
    parameter PLLOUT_SELECT = "GENCLK";
    parameter DIVR = 4'd0;
    parameter DIVF = 7'd0;
    parameter DIVQ = 3'd0;
    parameter FILTER_RANGE = 3'd0;
    parameter ENABLE_ICEGATE = 1'b0;
    parameter TEST_MODE = 1'b0;
    parameter EXTERNAL_DIVIDE_FACTOR = 1;

    PLL_stand_in pll(.source(PACKAGEPIN), .running(RESETB || BYPASS), .clock(PLLOUTGLOBAL),
                     .lock(LOCK));
    assign PLLOUTCORE = PLLOUTGLOBAL;
    assign SDO = 1'b0;
endmodule

// Block RAM, which reads as zeros for about 3 us after configuration
// (https://github.com/YosysHQ/icestorm/issues/76): for RAM_START_CYCLES cycles of its read clock.
module STARTING_RAM40_4K(
    input RCLK, RCLKE, RE, WCLK, WCLKE, WE,
    input [10:0] RADDR, WADDR,
    input [15:0] MASK, WDATA,
    output [15:0] RDATA
);
    parameter READ_MODE = 0;
    parameter WRITE_MODE = 0;
    parameter [255:0] INIT_0 = 256'd0;
    parameter [255:0] INIT_1 = 256'd0;
    parameter [255:0] INIT_2 = 256'd0;
    parameter [255:0] INIT_3 = 256'd0;
    parameter [255:0] INIT_4 = 256'd0;
    parameter [255:0] INIT_5 = 256'd0;
    parameter [255:0] INIT_6 = 256'd0;
    parameter [255:0] INIT_7 = 256'd0;
    parameter [255:0] INIT_8 = 256'd0;
    parameter [255:0] INIT_9 = 256'd0;
    parameter [255:0] INIT_A = 256'd0;
    parameter [255:0] INIT_B = 256'd0;
    parameter [255:0] INIT_C = 256'd0;
    parameter [255:0] INIT_D = 256'd0;
    parameter [255:0] INIT_E = 256'd0;
    parameter [255:0] INIT_F = 256'd0;

    integer left = `RAM_START_CYCLES;
    wire [15:0] data;
    assign RDATA = (left == 0) ? data : 16'd0;
    always @(posedge RCLK)
        if (left != 0) left <= left - 1;

    SB_RAM40_4K #(
        .READ_MODE(READ_MODE), .WRITE_MODE(WRITE_MODE),
        .INIT_0(INIT_0), .INIT_1(INIT_1), .INIT_2(INIT_2), .INIT_3(INIT_3),
        .INIT_4(INIT_4), .INIT_5(INIT_5), .INIT_6(INIT_6), .INIT_7(INIT_7),
        .INIT_8(INIT_8), .INIT_9(INIT_9), .INIT_A(INIT_A), .INIT_B(INIT_B),
        .INIT_C(INIT_C), .INIT_D(INIT_D), .INIT_E(INIT_E), .INIT_F(INIT_F)
    ) ram(
        .RCLK(RCLK), .RCLKE(RCLKE), .RE(RE), .RADDR(RADDR), .RDATA(data), .WCLK(WCLK),
        .WCLKE(WCLKE), .WE(WE), .WADDR(WADDR), .MASK(MASK), .WDATA(WDATA));
endmodule
