"""Cold functions: semantics compiled to plain functions that follow every rule.

The problem: traps, CSRs, the page walk, device accesses and every slow path of a fast handler must
be exact, and need not be fast to the last cycle. Here a function reads its operands from the packed
word of a record, keeps all state in the `Hart` structure, and reports how it ended.

- A routine `f` becomes `@r_f(ptr %hart, i64...)`. If it may trap its result is `{T, i1}` (or `i1`
  when it has none), the last member saying that a trap was taken.
- An instruction becomes `i64 @c_f(ptr %hart, i64 %operands)`, returning one of the `STATUS_*`.
  Before the call `hart.pc`, `next_pc`, `length`, `raw` and `count` are those of the instruction
  (`raw`: its record's address; the bits are rarely asked for).

Invariants: a routine that reports a trap has changed nothing but what `take_trap` changed; memory
helpers end with `note_store`, so no store escapes tracking.

Read next: `runtime.py` (the routines called here by name), `handlers.py` (the callers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jit_proc.emit import TYPES, Emitter
from protocol import mutants
from protocol.layout import HART
from protocol.mutants import armed
from protocol.riscv.isa import SLOT, Instruction
from protocol.riscv.language import FP_BUILTINS, Function

STATUS_NEXT = 0  # go on with the next record
STATUS_JUMP = 1  # go on at hart.next_pc, after a look at interrupts
STATUS_TRAP = 2  # a trap was taken: go on at hart.pc
STATUS_WAIT = 3  # wfi

# Byte of the operand word in which a record keeps a field; `operand_bytes` makes the exception.
_BYTES = {"rd": 4, "rs1": 5, "rs2": 6, "rs3": 7}


def transfers_control(function: Function) -> bool:
    """Whether a semantics function may go on elsewhere than at the next instruction's record."""
    return bool(function.builtins & {"branch", "jump", "resync"})


def operand_bytes(instruction: Instruction) -> dict[str, int]:
    """Parameter -> byte of the operand word (0: the 32-bit immediate).

    Instructions that transfer control keep a 16-bit hotness counter in bytes 6 and 7; a branch's
    rs2 therefore stands where others have rd.
    """
    counted = bool(instruction.semantics.builtins & {"branch", "jump"})
    places = {}
    for param in instruction.params:
        if param == "rm":
            places[param] = 7
        elif param in SLOT:
            places[param] = 4 if counted and param == "rs2" else _BYTES[SLOT[param]]
        else:
            places[param] = 0
    return places


class ColdEmitter(Emitter):
    """Emits one cold function; see the module's text."""

    def __init__(self, function: Function, instruction: Instruction | None = None) -> None:
        super().__init__()
        self.function = function
        self.instruction = instruction

    @property
    def return_type(self) -> str:
        if self.instruction is not None:
            return "i64"
        result = TYPES[self.function.result]
        if not self.function.may_trap:
            return result
        return "i1" if result == "void" else f"{{ {result}, i1 }}"

    def define(self) -> str:
        """The text of the whole function."""
        if self.instruction is not None:
            operands = self._operands(self.instruction)
            head = f"define internal i64 @c_{self.function.name}(ptr %hart, i64 %operands)"
        else:
            operands = {p: f"%p.{p}" for p in self.function.params}
            params = "".join(f", i64 {o}" for o in operands.values())
            head = f"define internal {self.return_type} @r_{self.function.name}(ptr %hart{params})"
        self.body(self.function, operands)
        if not self.done:
            self.finish(None)
        return "\n".join([f"{head} nounwind {{", *self.allocas, *self.lines, "}"])

    def _operands(self, instruction: Instruction) -> dict[str, str]:
        operands = {}
        for param, byte in operand_bytes(instruction).items():
            if byte == 0:
                narrow = self.value("trunc i64 %operands to i32")
                operands[param] = self.value(f"sext i32 {narrow} to i64")
                continue
            part = self.value(f"lshr i64 %operands, {8 * byte}")
            if param == "rm":
                operands[param] = self.value(f"lshr i64 {part}, 5")
            else:
                mask = 31 if param == "rs3" else 63
                operands[param] = self.value(f"and i64 {part}, {mask}")
        return operands

    def finish(self, value: str | None) -> None:
        """Return in good order."""
        if self.instruction is not None:
            jumps = self.function.builtins & {"branch", "jump"}
            self.terminate(f"ret i64 {STATUS_JUMP if jumps else STATUS_NEXT}")
        elif not self.function.may_trap:
            self.terminate(f"ret {self.return_type} {value or ''}".rstrip())
        elif self.function.result:
            result = TYPES[self.function.result]
            pair = self.value(
                f"insertvalue {self.return_type} zeroinitializer, {result} {value or 0}, 0"
            )
            self.terminate(f"ret {self.return_type} {pair}")
        else:
            self.terminate("ret i1 false")

    def trapped(self) -> None:
        """Return after a trap was taken."""
        if self.instruction is not None:
            self.terminate(f"ret i64 {STATUS_TRAP}")
        elif self.function.result:
            result = TYPES[self.function.result]
            nothing = "0" if result == "i64" else "false"
            self.terminate(f"ret {self.return_type} {{ {result} {nothing}, i1 true }}")
        else:
            self.terminate("ret i1 true")

    def emit_return(self, value: str | None, type_: str) -> None:
        self.finish(value)

    def read_register(self, file: str, index: str) -> str:
        return self.load_word(self._register(file, index))

    def write_register(self, file: str, index: str, value: str) -> None:
        self.store_word(value, self._register(file, index))

    def _register(self, file: str, index: str) -> str:
        return self.address(self.field(file.lower()), self.binary("shl", index, "3"))

    def special(self, name: str) -> str:
        if name == "raw":
            return self.by_name("raw_bits_at", self.read_field("raw"))
        return self.read_field(name)

    def write_state(self, name: str, index: str | None, value: str) -> None:
        super().write_state(name, index, value)
        if name == "frm":
            self.emit("call void @fp_sync_rounding(ptr %hart)")

    def call_routine(self, function: Function, args: Sequence[str]) -> str:
        if function.name == "update_context" and self.function.name == "mret" and armed("M24"):
            return ""  # the mistake: lookups go on in the sets of the mode that was left
        texts = "".join(f", i64 {a}" for a in args)
        result = TYPES[function.result]
        callee = f"@r_{function.name}(ptr %hart{texts})"
        if not function.may_trap:
            if result == "void":
                self.emit(f"call void {callee}")
                return ""
            return self.value(f"call {result} {callee}")
        if result == "void":
            flag = self.value(f"call i1 {callee}")
            pair = ""
        else:
            pair = self.value(f"call {{ {result}, i1 }} {callee}")
            flag = self.value(f"extractvalue {{ {result}, i1 }} {pair}, 1")
        self.leave_if_trapped(flag)
        return pair and self.value(f"extractvalue {{ {result}, i1 }} {pair}, 0")

    def leave_if_trapped(self, flag: str) -> None:
        bad, good = self.new_label(), self.new_label()
        self.branch_if(flag, bad, good)
        self.label(bad)
        self.trapped()
        self.label(good)

    def by_name(self, name: str, *args: str) -> str:
        """Call a routine of `runtime.py`."""
        from jit_proc.runtime import ROUTINES

        return self.call_routine(ROUTINES[name], args)

    def builtin(self, name: str, args: Sequence[Any]) -> str:
        if name in FP_BUILTINS:
            result = "i1" if name.endswith(("_lt", "_le", "_eq")) else "i64"
            texts = "".join(f", i64 {a}" for a in args)
            return self.value(f"call {result} @fp_{name}(ptr %hart{texts})")
        return str(getattr(self, f"b_{name}")(*args) or "")

    # --- memory ----------------------------------------------------------------------------

    def b_load(self, address: str, size: str) -> str:
        return self.by_name("memory_load", address, size)

    def b_store(self, address: str, value: str, size: str) -> None:
        self.by_name("memory_store", address, value, size)

    def b_load_reserved(self, address: str, size: str) -> str:
        place = self.by_name("atomic_place", address, size, "1")
        width = 8 * int(size)
        pointer = self.pointer(place)
        narrow = self.value(f"load atomic i{width}, ptr {pointer} seq_cst, align {size}")
        value = narrow if width == 64 else self.value(f"zext i{width} {narrow} to i64")
        self.write_field("reserved", place)
        self.write_field("reserved_value", value)
        return value

    def b_store_conditional(self, address: str, value: str, size: str) -> str:
        place = self.by_name("atomic_place", address, size, "2")
        width = 8 * int(size)
        held = self.compare("eq", place, self.read_field("reserved"))
        expected = self.read_field("reserved_value")
        self.write_field("reserved", "-1")
        attempt, missed, after = self.new_label(), self.new_label(), self.new_label()
        self.branch_if(held, attempt, missed)
        self.label(attempt)
        if width < 64:
            expected = self.value(f"trunc i64 {expected} to i{width}")
            value = self.value(f"trunc i64 {value} to i{width}")
        pointer = self.pointer(place)
        self.by_name("begin_store")
        pair = self.value(
            f"cmpxchg ptr {pointer}, i{width} {expected}, i{width} {value} "
            f"seq_cst seq_cst, align {size}"
        )
        ok = self.value(f"extractvalue {{ i{width}, i1 }} {pair}, 1")
        self.by_name(
            "note_store", self.read_field("fault_page"), self.binary("and", address, "4095"), size
        )
        failed = self.value(f"xor i1 {ok}, true")
        answer = self.value(f"zext i1 {failed} to i64")
        ended = self.label_name
        self.jump_to(after)
        self.label(missed)
        self.jump_to(after)
        self.label(after)
        return self.value(f"phi i64 [ {answer}, %{ended} ], [ 1, %{missed} ]")

    def b_amo(self, op: str, address: str, value: str, size: str) -> str:
        place = self.by_name("atomic_place", address, size, "2")
        if not mutants.armed("M6"):
            self.by_name("begin_store")
        old = self.atomic(op, self.pointer(place), value, size)
        if mutants.armed("M6"):
            return old  # M6: nobody writes code with an AMO
        self.by_name(
            "note_store", self.read_field("fault_page"), self.binary("and", address, "4095"), size
        )
        return old

    def b_fence(self) -> None:
        self.emit("fence seq_cst")

    def b_phys_ok(self, address: str) -> str:
        return self.by_name("physical_ok", address)

    def b_phys_read64(self, address: str) -> str:
        return self.by_name("physical_read", address)

    def b_phys_cas64(self, address: str, old: str, new: str) -> str:
        return self.by_name("physical_compare_swap", address, old, new)

    # --- control ---------------------------------------------------------------------------

    def b_branch(self, offset: str) -> None:
        self.write_field("next_pc", self.binary("add", self.read_field("pc"), offset))

    def b_jump(self, target: str) -> None:
        self.write_field("next_pc", target)

    def b_trap(self, cause: str, value: str) -> None:
        self.by_name("enter_trap", cause, value)
        self.trapped()

    def b_resync(self) -> None:
        """The last statement of what it stands in: the next instruction is looked up afresh."""
        assert self.instruction is not None
        self.terminate(f"ret i64 {STATUS_JUMP}")

    def b_wait(self) -> None:
        self.terminate(f"ret i64 {STATUS_WAIT}")

    # --- state -----------------------------------------------------------------------------

    def b_time(self) -> str:
        return self.by_name("now")

    def b_retired(self) -> str:
        return self.read_field("count")

    def b_set_context(self, data: str, fetch: str) -> None:
        self.by_name("choose_sets", data, fetch)

    def b_flush_tlb(self) -> None:
        self.by_name("flush_all")

    def b_flush_tlb_space(self, asid: str) -> None:
        self.by_name("flush_space", asid)

    def b_flush_tlb_page(self, address: str, shift: str, asid: str) -> None:
        self.by_name("flush_page", address, shift, asid)

    def b_raise_flags(self, bits: str) -> None:
        old = self.read_field("fflags")
        self.write_field("fflags", self.value(f"or i64 {old}, {bits}"))

    def b_fflags(self) -> str:
        return self.value("call i64 @fp_flags(ptr %hart)")

    def b_set_fflags(self, value: str) -> None:
        self.emit(f"call void @fp_set_flags(ptr %hart, i64 {value})")

    # --- the engine's own ------------------------------------------------------------------

    def b_peek(self, address: str, size: str) -> str:
        if not size.isdigit():
            return self.value(f"call i64 @peek(i64 {address}, i64 {size})")
        return self.load_bytes(self.pointer(address), int(size))

    def b_poke(self, address: str, value: str, size: str) -> None:
        if not size.isdigit():
            self.emit(f"call void @poke(i64 {address}, i64 {value}, i64 {size})")
        else:
            self.store_bytes(value, self.pointer(address), int(size))

    def b_poke_release(self, address: str, value: str) -> None:
        self.emit(f"store atomic i64 {value}, ptr {self.pointer(address)} release, align 8")

    def b_hart_address(self) -> str:
        return self.value("ptrtoint ptr %hart to i64")

    def b_handler(self, name: str) -> str:
        return self.value(f"ptrtoint ptr @h_{name} to i64")

    def b_host_clock(self) -> str:
        function = self.pointer(self.read_field("clock_gettime"))
        place = self.field("clock")
        self.emit(f"call i32 {function}(i32 1, ptr {place})")
        seconds = self.binary("mul", self.load_word(place), "1000000000")
        return self.binary("add", seconds, self.load_word(self.field("clock", 1)))

    def b_host_read(self, address: str, size: str) -> str:
        return self._host("host_read", address, size)

    def b_host_write(self, address: str, size: str, value: str) -> None:
        self._host("host_write", address, size, value)

    def _host(self, field: str, *args: str) -> str:
        """Call Python with up to five words."""
        callee = self.value(f"load ptr, ptr {self.field(field)}")
        words = "".join(f", i64 {a}" for a in (*args, "0", "0", "0")[:5])
        return self.value(f"call i64 @call_python(ptr %hart, ptr {callee}{words})")

    def b_host_compare_swap(self, address: str, old: str, new: str) -> str:
        pair = self.value(
            f"cmpxchg ptr {self.pointer(address)}, i64 {old}, i64 {new} seq_cst seq_cst, align 8"
        )
        return self.value(f"extractvalue {{ i64, i1 }} {pair}, 1")

    def b_decode_word(self, raw: str, record: str, offset: str) -> str:
        place = self.pointer(record)
        call = f"call i64 @decode_word(ptr %hart, i64 {raw}, ptr {place}, i64 {offset})"
        return self.value(call)

    def b_fuse(self, record: str, kinds: str) -> None:
        self.emit(f"call void @fuse(ptr {self.pointer(record)}, i64 {kinds})")


_API = [HART.offset("python", i) for i in range(6)]

SUPPORT = f"""
@five_words = internal constant [8 x i8] c"(KKKKK)\\00"
; Call a Python callable with five words; its value is a word. The thread has given up the GIL (it
; came through ctypes) and takes it back meanwhile; the host's floating-point state is put aside.
define internal i64 @call_python(ptr %hart, ptr %callee, i64 %a, i64 %b, i64 %c, i64 %d, i64 %e)
    nounwind noinline {{
  call void @fp_leave(ptr %hart)
  %p.ensure = getelementptr i8, ptr %hart, i64 {_API[0]}
  %ensure = load ptr, ptr %p.ensure
  %gil = call i32 %ensure()
  %p.call = getelementptr i8, ptr %hart, i64 {_API[2]}
  %call = load ptr, ptr %p.call
  %object = call ptr (ptr, ptr, ...) %call(ptr %callee, ptr @five_words,
    i64 %a, i64 %b, i64 %c, i64 %d, i64 %e)
  %failed = icmp eq ptr %object, null
  br i1 %failed, label %clear, label %take
take:
  %p.value = getelementptr i8, ptr %hart, i64 {_API[3]}
  %as.word = load ptr, ptr %p.value
  %word = call i64 %as.word(ptr %object)
  %p.decref = getelementptr i8, ptr %hart, i64 {_API[4]}
  %decref = load ptr, ptr %p.decref
  call void %decref(ptr %object)
  br label %done
clear:
  ; The callables catch everything; what reaches this is a KeyboardInterrupt in between.
  %p.clear = getelementptr i8, ptr %hart, i64 {_API[5]}
  %clear.error = load ptr, ptr %p.clear
  call void %clear.error()
  br label %done
done:
  %result = phi i64 [ %word, %take ], [ 0, %clear ]
  %p.release = getelementptr i8, ptr %hart, i64 {_API[1]}
  %release = load ptr, ptr %p.release
  call void %release(i32 %gil)
  call void @fp_enter(ptr %hart)
  ret i64 %result
}}
define internal i64 @peek(i64 %address, i64 %size) nounwind {{
  %p = inttoptr i64 %address to ptr
  switch i64 %size, label %eight [ i64 1, label %one i64 2, label %two i64 4, label %four ]
one:
  %a = load i8, ptr %p
  %a1 = zext i8 %a to i64
  ret i64 %a1
two:
  %b = load i16, ptr %p, align 1
  %b1 = zext i16 %b to i64
  ret i64 %b1
four:
  %c = load i32, ptr %p, align 1
  %c1 = zext i32 %c to i64
  ret i64 %c1
eight:
  %d = load i64, ptr %p, align 1
  ret i64 %d
}}
define internal void @poke(i64 %address, i64 %value, i64 %size) nounwind {{
  %p = inttoptr i64 %address to ptr
  switch i64 %size, label %eight [ i64 1, label %one i64 2, label %two i64 4, label %four ]
one:
  %a = trunc i64 %value to i8
  store i8 %a, ptr %p
  ret void
two:
  %b = trunc i64 %value to i16
  store i16 %b, ptr %p, align 1
  ret void
four:
  %c = trunc i64 %value to i32
  store i32 %c, ptr %p, align 1
  ret void
eight:
  store i64 %value, ptr %p, align 1
  ret void
}}
define internal void @fp_enter(ptr %hart) nounwind {{
  %p = getelementptr i8, ptr %hart, i64 {HART.offset("mxcsr")}
  call void @llvm.x86.sse.ldmxcsr(ptr %p)
  ret void
}}
define internal void @fp_leave(ptr %hart) nounwind {{
  %p = getelementptr i8, ptr %hart, i64 {HART.offset("mxcsr")}
  call void @llvm.x86.sse.stmxcsr(ptr %p)
  call void @llvm.x86.sse.ldmxcsr(ptr @default_mxcsr)
  ret void
}}
@default_mxcsr = internal constant i32 8064
"""
