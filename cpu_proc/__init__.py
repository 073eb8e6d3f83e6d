"""The machine process: harts, memory map, board, command line. It executes code it cannot write.

Invariants: nothing here imports the translator or LLVM; native code arrives in segments this
process maps read-only. Read next: `cli` for the commands, `machine` for how the parts are put
together.
"""
