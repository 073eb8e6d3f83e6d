"""C: the compressed integer instructions of RV64. Each one *is* a longer instruction.

Source: unprivileged ISA, chapter "C" Extension for Compressed Instructions, tables of the three
quadrants. A row gives the pattern, the text, and the instruction it expands to with its operands;
there are no semantics here, so a compressed form cannot differ from the long one but in `length`.
`where` excludes reserved encodings only. HINTs (a destination of x0, a shift by 0, an addition of
0) are ordinary rows: they expand to an instruction that changes nothing.

The floating-point forms stand with their long forms in `rv_d.py`; RV64 has none for single
precision.
Read next: `isa.py` for `compressed`.
"""

from protocol.riscv.isa import compressed

# One aligned line per row, as in the manual's tables.
# fmt: off

# --- Quadrant 0: stack addresses, loads and stores ------------------------------------------------
compressed("000 uimm[5:4|9:6|2|3] rd' 00",          "c.addi4spn rd', sp, uimm", "addi",   where="uimm != 0", rd="rd'", rs1=2, imm="uimm")
compressed("010 uimm[5:3] rs1' uimm[2|6] rd' 00",   "c.lw rd', uimm(rs1')",     "lw",     rd="rd'", rs1="rs1'", imm="uimm")
compressed("011 uimm[5:3] rs1' uimm[7:6] rd' 00",   "c.ld rd', uimm(rs1')",     "ld",     rd="rd'", rs1="rs1'", imm="uimm")
compressed("110 uimm[5:3] rs1' uimm[2|6] rs2' 00",  "c.sw rs2', uimm(rs1')",    "sw",     rs1="rs1'", rs2="rs2'", imm="uimm")
compressed("111 uimm[5:3] rs1' uimm[7:6] rs2' 00",  "c.sd rs2', uimm(rs1')",    "sd",     rs1="rs1'", rs2="rs2'", imm="uimm")

# --- Quadrant 1: constants, arithmetic, jumps and branches ----------------------------------------
compressed("000 imm[5] 00000 imm[4:0] 01",          "c.nop imm",                "addi",   rd=0, rs1=0, imm="imm")
compressed("000 imm[5] rd imm[4:0] 01",             "c.addi rd, imm",           "addi",   where="rd != 0", rd="rd", rs1="rd", imm="imm")
compressed("001 imm[5] rd imm[4:0] 01",             "c.addiw rd, imm",          "addiw",  where="rd != 0", rd="rd", rs1="rd", imm="imm")
compressed("010 imm[5] rd imm[4:0] 01",             "c.li rd, imm",             "addi",   rd="rd", rs1=0, imm="imm")
compressed("011 imm[9] 00010 imm[4|6|8:7|5] 01",    "c.addi16sp sp, imm",       "addi",   where="imm != 0", rd=2, rs1=2, imm="imm")
compressed("011 imm[17] rd imm[16:12] 01",          "c.lui rd, imm",            "lui",    where="imm != 0 and rd != 2", rd="rd", imm="imm")
compressed("100 shamt[5] 00 rd' shamt[4:0] 01",     "c.srli rd', shamt",        "srli",   rd="rd'", rs1="rd'", shamt="shamt")
compressed("100 shamt[5] 01 rd' shamt[4:0] 01",     "c.srai rd', shamt",        "srai",   rd="rd'", rs1="rd'", shamt="shamt")
compressed("100 imm[5] 10 rd' imm[4:0] 01",         "c.andi rd', imm",          "andi",   rd="rd'", rs1="rd'", imm="imm")
compressed("100 0 11 rd' 00 rs2' 01",               "c.sub rd', rs2'",          "sub",    rd="rd'", rs1="rd'", rs2="rs2'")
compressed("100 0 11 rd' 01 rs2' 01",               "c.xor rd', rs2'",          "xor",    rd="rd'", rs1="rd'", rs2="rs2'")
compressed("100 0 11 rd' 10 rs2' 01",               "c.or rd', rs2'",           "or",     rd="rd'", rs1="rd'", rs2="rs2'")
compressed("100 0 11 rd' 11 rs2' 01",               "c.and rd', rs2'",          "and",    rd="rd'", rs1="rd'", rs2="rs2'")
compressed("100 1 11 rd' 00 rs2' 01",               "c.subw rd', rs2'",         "subw",   rd="rd'", rs1="rd'", rs2="rs2'")
compressed("100 1 11 rd' 01 rs2' 01",               "c.addw rd', rs2'",         "addw",   rd="rd'", rs1="rd'", rs2="rs2'")
compressed("101 imm[11|4|9:8|10|6|7|3:1|5] 01",     "c.j target",               "jal",    rd=0, imm="imm")
compressed("110 imm[8|4:3] rs1' imm[7:6|2:1|5] 01", "c.beqz rs1', target",      "beq",    rs1="rs1'", rs2=0, imm="imm")
compressed("111 imm[8|4:3] rs1' imm[7:6|2:1|5] 01", "c.bnez rs1', target",      "bne",    rs1="rs1'", rs2=0, imm="imm")

# --- Quadrant 2: shifts, the stack, moves and indirect jumps --------------------------------------
compressed("000 shamt[5] rd shamt[4:0] 10",         "c.slli rd, shamt",         "slli",   rd="rd", rs1="rd", shamt="shamt")
compressed("010 uimm[5] rd uimm[4:2|7:6] 10",       "c.lwsp rd, uimm(sp)",      "lw",     where="rd != 0", rd="rd", rs1=2, imm="uimm")
compressed("011 uimm[5] rd uimm[4:3|8:6] 10",       "c.ldsp rd, uimm(sp)",      "ld",     where="rd != 0", rd="rd", rs1=2, imm="uimm")
compressed("100 0 rs1 00000 10",                    "c.jr rs1",                 "jalr",   where="rs1 != 0", rd=0, rs1="rs1", imm=0)
compressed("100 0 rd rs2 10",                       "c.mv rd, rs2",             "add",    where="rs2 != 0", rd="rd", rs1=0, rs2="rs2")
compressed("100 1 00000 00000 10",                  "c.ebreak",                 "ebreak")
compressed("100 1 rs1 00000 10",                    "c.jalr rs1",               "jalr",   where="rs1 != 0", rd=1, rs1="rs1", imm=0)
compressed("100 1 rd rs2 10",                       "c.add rd, rs2",            "add",    where="rs2 != 0", rd="rd", rs1="rd", rs2="rs2")
compressed("110 uimm[5:2|7:6] rs2 10",              "c.swsp rs2, uimm(sp)",     "sw",     rs1=2, rs2="rs2", imm="uimm")
compressed("111 uimm[5:3|8:6] rs2 10",              "c.sdsp rs2, uimm(sp)",     "sd",     rs1=2, rs2="rs2", imm="uimm")
