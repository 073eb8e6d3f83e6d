"""The translator: the only process that makes native code, which it writes and never runs.

The problem: a guest's instructions must become the host's, fast, and without one process that may
both write and execute a page. So a machine process sends pure requests (bytes, state, options),
expendable workers turn them into code through LLVM, and the broker puts the code into a segment
that the machine maps for execution only.

Reading guide: `service.py` puts the process together; `served.py` holds what belongs to a machine,
`outcomes.py` makes answers of what workers say; `machine_view.py` reads a machine's memory;
`job.py` is what is asked of a worker, `pool.py` and `worker.py` run LLVM where it may die;
`llvm.py` compiles, `link.py` places, `code_space.py` publishes, `store.py` keeps the engine. What
is asked by whom and in which order is decided in `protocol/session_translator.py`.

Invariants: the broker never imports llvmlite; nothing in this package executes what it produced;
a reply tells of an offset only after the code there is complete; nothing here imports the machine
process or its devices.
"""
