// Block RAM and multipliers of ECP5 for simulation; Yosys has only the outline of the former
// (ecp5/cells_sim.v), and nothing of the latter.
//
// Written from what Lattice documents in FPGA-TN-02204, "ECP5 and ECP5-5G Memory User Guide", and
// from how Yosys uses the cell (share/lattice/brams_16kd.txt and brams_map_16kd.v):
//
// * 2048 bytes of 9 bits. Port widths 1, 2, 4 (which leave the ninth bit alone), 9, 18, and 36:
//   data is at the low end of DI and DO, and the address starts at bit 0, 1, 2, 3, 4, 5 of AD.
// * The low bits of the address enable single bytes of a write of 18 (AD1:0) or 36 (AD3:0).
// * INITVAL_xx holds sixteen 18-bit words, each in the low part of 20 bits, lowest address lowest.
// * Width 36 writes through port A (DIB is the upper half) and reads through port B (DOA is the
//   lower half): the cell is then what Lattice calls PDPW16KD.
// * CE enables reads and writes, CS selects the port where it equals CSDECODE. A write (WE) leaves
//   the output as it is (NORMAL), shows the new data (WRITETHROUGH) or the old (READBEFOREWRITE).
// * RST clears the output, at the clock edge (SYNC; that also holds off writes) or at once (ASYNC).
//   It takes no part in the content. OUTREG puts one more register behind the output,
//   enabled by OCE.
//
// Where one port writes what the other reads in the same cycle the hardware's result is undefined;
// here it is the old content. Inversions other than those of the clocks are not modelled: Yosys
// leaves them to the place and route tool. An unknown parameter stops the compilation.

`timescale 1ps / 1ps

module DP16KD(
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11,
        DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4,
        DIA3, DIA2, DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7,
        ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input CEA, OCEA, CLKA, WEA, RSTA,
    input CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11,
        DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4,
        DOA3, DOA2, DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11,
        DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4,
        DIB3, DIB2, DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7,
        ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input CEB, OCEB, CLKB, WEB, RSTB,
    input CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11,
        DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4,
        DOB3, DOB2, DOB1, DOB0
);
    parameter DATA_WIDTH_A = 18;
    parameter DATA_WIDTH_B = 18;
    parameter REGMODE_A = "NOREG";
    parameter REGMODE_B = "NOREG";
    parameter RESETMODE = "SYNC";
    parameter ASYNC_RESET_RELEASE = "SYNC";
    parameter CSDECODE_A = "0b000";
    parameter CSDECODE_B = "0b000";
    parameter WRITEMODE_A = "NORMAL";
    parameter WRITEMODE_B = "NORMAL";
    parameter CLKAMUX = "CLKA";
    parameter CLKBMUX = "CLKB";
    parameter GSR = "ENABLED";
    parameter [319:0] INITVAL_00 = 320'd0;
    parameter [319:0] INITVAL_01 = 320'd0;
    parameter [319:0] INITVAL_02 = 320'd0;
    parameter [319:0] INITVAL_03 = 320'd0;
    parameter [319:0] INITVAL_04 = 320'd0;
    parameter [319:0] INITVAL_05 = 320'd0;
    parameter [319:0] INITVAL_06 = 320'd0;
    parameter [319:0] INITVAL_07 = 320'd0;
    parameter [319:0] INITVAL_08 = 320'd0;
    parameter [319:0] INITVAL_09 = 320'd0;
    parameter [319:0] INITVAL_0A = 320'd0;
    parameter [319:0] INITVAL_0B = 320'd0;
    parameter [319:0] INITVAL_0C = 320'd0;
    parameter [319:0] INITVAL_0D = 320'd0;
    parameter [319:0] INITVAL_0E = 320'd0;
    parameter [319:0] INITVAL_0F = 320'd0;
    parameter [319:0] INITVAL_10 = 320'd0;
    parameter [319:0] INITVAL_11 = 320'd0;
    parameter [319:0] INITVAL_12 = 320'd0;
    parameter [319:0] INITVAL_13 = 320'd0;
    parameter [319:0] INITVAL_14 = 320'd0;
    parameter [319:0] INITVAL_15 = 320'd0;
    parameter [319:0] INITVAL_16 = 320'd0;
    parameter [319:0] INITVAL_17 = 320'd0;
    parameter [319:0] INITVAL_18 = 320'd0;
    parameter [319:0] INITVAL_19 = 320'd0;
    parameter [319:0] INITVAL_1A = 320'd0;
    parameter [319:0] INITVAL_1B = 320'd0;
    parameter [319:0] INITVAL_1C = 320'd0;
    parameter [319:0] INITVAL_1D = 320'd0;
    parameter [319:0] INITVAL_1E = 320'd0;
    parameter [319:0] INITVAL_1F = 320'd0;
    parameter [319:0] INITVAL_20 = 320'd0;
    parameter [319:0] INITVAL_21 = 320'd0;
    parameter [319:0] INITVAL_22 = 320'd0;
    parameter [319:0] INITVAL_23 = 320'd0;
    parameter [319:0] INITVAL_24 = 320'd0;
    parameter [319:0] INITVAL_25 = 320'd0;
    parameter [319:0] INITVAL_26 = 320'd0;
    parameter [319:0] INITVAL_27 = 320'd0;
    parameter [319:0] INITVAL_28 = 320'd0;
    parameter [319:0] INITVAL_29 = 320'd0;
    parameter [319:0] INITVAL_2A = 320'd0;
    parameter [319:0] INITVAL_2B = 320'd0;
    parameter [319:0] INITVAL_2C = 320'd0;
    parameter [319:0] INITVAL_2D = 320'd0;
    parameter [319:0] INITVAL_2E = 320'd0;
    parameter [319:0] INITVAL_2F = 320'd0;
    parameter [319:0] INITVAL_30 = 320'd0;
    parameter [319:0] INITVAL_31 = 320'd0;
    parameter [319:0] INITVAL_32 = 320'd0;
    parameter [319:0] INITVAL_33 = 320'd0;
    parameter [319:0] INITVAL_34 = 320'd0;
    parameter [319:0] INITVAL_35 = 320'd0;
    parameter [319:0] INITVAL_36 = 320'd0;
    parameter [319:0] INITVAL_37 = 320'd0;
    parameter [319:0] INITVAL_38 = 320'd0;
    parameter [319:0] INITVAL_39 = 320'd0;
    parameter [319:0] INITVAL_3A = 320'd0;
    parameter [319:0] INITVAL_3B = 320'd0;
    parameter [319:0] INITVAL_3C = 320'd0;
    parameter [319:0] INITVAL_3D = 320'd0;
    parameter [319:0] INITVAL_3E = 320'd0;
    parameter [319:0] INITVAL_3F = 320'd0;

    localparam [64*320-1:0] INIT = {
        INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39,
        INITVAL_38, INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32,
        INITVAL_31, INITVAL_30, INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B,
        INITVAL_2A, INITVAL_29, INITVAL_28, INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24,
        INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E, INITVAL_1D,
        INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16,
        INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10, INITVAL_0F,
        INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
        INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01,
        INITVAL_00};

    reg [8:0] bytes [0:2047];
    integer n;
    initial
        for (n = 0; n < 1024; n = n + 1) begin
            bytes[2*n] = INIT[20*n +: 9];
            bytes[2*n + 1] = INIT[20*n + 9 +: 9];
        end

    wire [35:0] dia = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11,
        DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4,
        DIB3, DIB2, DIB1, DIB0,
        DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11,
        DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4,
        DIA3, DIA2, DIA1, DIA0};
    wire [35:0] dib = dia[35:18];
    wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7,
        ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7,
        ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
    wire [35:0] doa, dob;
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11,
        DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4,
        DOA3, DOA2, DOA1, DOA0} =
        (DATA_WIDTH_B == 36) ? dob[17:0] : doa[17:0];
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11,
        DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4,
        DOB3, DOB2, DOB1, DOB0} =
        (DATA_WIDTH_B == 36) ? dob[35:18] : dob[17:0];

    // The word of `width` bits at an address.
    function [35:0] word(input [13:0] ad, input integer width);
        case (width)
            1: word = {35'd0, bytes[ad[13:3]][ad[2:0] +: 1]};
            2: word = {34'd0, bytes[ad[13:3]][{ad[2:1], 1'b0} +: 2]};
            4: word = {32'd0, bytes[ad[13:3]][{ad[2], 2'b00} +: 4]};
            9: word = {27'd0, bytes[ad[13:3]]};
            18: word = {18'd0, bytes[{ad[13:4], 1'b1}], bytes[{ad[13:4], 1'b0}]};
            default: word = {bytes[{ad[13:5], 2'd3}], bytes[{ad[13:5], 2'd2}],
                             bytes[{ad[13:5], 2'd1}], bytes[{ad[13:5], 2'd0}]};
        endcase
    endfunction

    // What a write makes of it.
    function [35:0] merged(input [35:0] kept, input [35:0] data, input [13:0] ad,
                           input integer width);
        integer k;
        begin
            merged = data & (36'hFFFFFFFFF >> (36 - width));
            if (width >= 18)
                for (k = 0; k < 4; k = k + 1)
                    if (!ad[k])
                        merged[9*k +: 9] = kept[9*k +: 9];
        end
    endfunction

    // Port A.
    wire clock_a = (CLKAMUX == "INV") ? ~CLKA : CLKA;
    wire selected_a = CEA && CSDECODE_A == select_code(CSA2, CSA1, CSA0);
    wire reset_a = RESETMODE == "SYNC" && RSTA;
    wire write_a = selected_a && WEA && !reset_a;
    wire [35:0] old_a = word(ada, DATA_WIDTH_A);
    wire [35:0] new_a = merged(old_a, dia, ada, DATA_WIDTH_A);

    always @(posedge clock_a)
        if (write_a)
            case (DATA_WIDTH_A)
                1: bytes[ada[13:3]][ada[2:0] +: 1] <= new_a[0];
                2: bytes[ada[13:3]][{ada[2:1], 1'b0} +: 2] <= new_a[1:0];
                4: bytes[ada[13:3]][{ada[2], 2'b00} +: 4] <= new_a[3:0];
                9: bytes[ada[13:3]] <= new_a[8:0];
                18: begin
                    bytes[{ada[13:4], 1'b0}] <= new_a[8:0];
                    bytes[{ada[13:4], 1'b1}] <= new_a[17:9];
                end
                default: begin
                    bytes[{ada[13:5], 2'd0}] <= new_a[8:0];
                    bytes[{ada[13:5], 2'd1}] <= new_a[17:9];
                    bytes[{ada[13:5], 2'd2}] <= new_a[26:18];
                    bytes[{ada[13:5], 2'd3}] <= new_a[35:27];
                end
            endcase

    // Port B.
    wire clock_b = (CLKBMUX == "INV") ? ~CLKB : CLKB;
    wire selected_b = CEB && CSDECODE_B == select_code(CSB2, CSB1, CSB0);
    wire reset_b = RESETMODE == "SYNC" && RSTB;
    wire write_b = selected_b && WEB && !reset_b;
    wire [35:0] old_b = word(adb, DATA_WIDTH_B);
    wire [35:0] new_b = merged(old_b, dib, adb, DATA_WIDTH_B);

    always @(posedge clock_b)
        if (write_b)
            case (DATA_WIDTH_B)
                1: bytes[adb[13:3]][adb[2:0] +: 1] <= new_b[0];
                2: bytes[adb[13:3]][{adb[2:1], 1'b0} +: 2] <= new_b[1:0];
                4: bytes[adb[13:3]][{adb[2], 2'b00} +: 4] <= new_b[3:0];
                9: bytes[adb[13:3]] <= new_b[8:0];
                18: begin
                    bytes[{adb[13:4], 1'b0}] <= new_b[8:0];
                    bytes[{adb[13:4], 1'b1}] <= new_b[17:9];
                end
                default: begin
                    bytes[{adb[13:5], 2'd0}] <= new_b[8:0];
                    bytes[{adb[13:5], 2'd1}] <= new_b[17:9];
                    bytes[{adb[13:5], 2'd2}] <= new_b[26:18];
                    bytes[{adb[13:5], 2'd3}] <= new_b[35:27];
                end
            endcase

    // The text that CSDECODE has for a level of the three select inputs.
    function [39:0] select_code(input c2, input c1, input c0);
        select_code = {"0b", 7'h18, c2, 7'h18, c1, 7'h18, c0};
    endfunction

    DP16KD_output #(.RESETMODE(RESETMODE), .REGMODE(REGMODE_A), .WRITEMODE(WRITEMODE_A))
        output_a(.clock(clock_a), .reset(RSTA), .enable(selected_a), .write(write_a),
                 .oce(OCEA), .old(old_a), .fresh(new_a), .q(doa));

    DP16KD_output #(.RESETMODE(RESETMODE), .REGMODE(REGMODE_B), .WRITEMODE(WRITEMODE_B))
        output_b(.clock(clock_b), .reset(RSTB), .enable(selected_b), .write(write_b),
                 .oce(OCEB), .old(old_b), .fresh(new_b), .q(dob));

endmodule

// The output of a port.
module DP16KD_output(
    input clock, reset, enable, write, oce,
    input [35:0] old, fresh,
    output [35:0] q
);
    parameter RESETMODE = "SYNC";
    parameter REGMODE = "NOREG";
    parameter WRITEMODE = "NORMAL";

    reg [35:0] latch = 0, register = 0;
    assign q = (REGMODE == "OUTREG") ? register : latch;

    wire take = enable && !(write && WRITEMODE == "NORMAL");
    wire [35:0] value = (write && WRITEMODE == "WRITETHROUGH") ? fresh : old;

    generate
        if (RESETMODE == "ASYNC") begin : asynchronous
            always @(posedge clock, posedge reset)
                if (reset) latch <= 0;
                else if (take) latch <= value;
            always @(posedge clock, posedge reset)
                if (reset) register <= 0;
                else if (oce) register <= latch;
        end else begin : synchronous
            always @(posedge clock)
                if (reset) latch <= 0;
                else if (take) latch <= value;
            always @(posedge clock)
                if (reset) register <= 0;
                else if (oce) register <= latch;
        end
    endgenerate
endmodule

// A multiplier block without any of its registers, as Yosys uses it
// (share/lattice/dsp_map_18x18.v): P = A * B, each of them signed or not (FPGA-TN-02205, "ECP5 and
// ECP5-5G sysDSP User Guide"). A register's parameter is unknown here and stops the compilation.
module MULT18X18D(
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20,
        P19, P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1,
        P0
);
    wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9,
        A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9,
        B8, B7, B6, B5, B4, B3, B2, B1, B0};
    wire signed [18:0] left = $signed({SIGNEDA & a[17], a});
    wire signed [18:0] right = $signed({SIGNEDB & b[17], b});
    wire signed [37:0] product = left * right;
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24,
        P23, P22, P21, P20, P19, P18, P17, P16, P15, P14, P13, P12,
        P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = product[35:0];
endmodule
