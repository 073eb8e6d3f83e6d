/* Two harts that share records: stores, decoding, regions, safe points. See README.md here.
 *
 * Problem: what `session.pml` takes for one step is many in native code, and another hart sees what
 * is between. Here each load and store of shared memory is a step of its own: tracking, decoding
 * and the wait for the other hart (jit_proc/runtime_tracking.py, runtime_fetch.py), regions taken
 * back by Python beside running harts (cpu_proc/records.py), publication and retirement of
 * everything at a safe point (cpu_proc/safe_point.py).
 *
 * A page has one record that stands for the bytes that are stored to (`handler`, `operands`), and
 * one elsewhere in the page at which regions are entered (`entry`).
 */

#ifndef ACTS
#define ACTS 3          /* what each hart does: executions, stores, fences */
#endif
#ifndef STORES
#define STORES 2
#endif
#ifndef STRADDLES
#define STRADDLES 0     /* stores over the edge between the pages */
#endif
#ifndef REGIONS
#define REGIONS 1       /* publications */
#endif
#ifndef RETIREMENTS
#define RETIREMENTS 0   /* of everything */
#endif
#ifndef SLOTS
#define SLOTS 2         /* regions that the code space holds */
#endif
#ifndef NO_RECORDS
#define NO_RECORDS 0    /* regions alone */
#endif
#ifndef ONE_PAGE
#define ONE_PAGE 0
#endif
#define HARTS 2
#define PAGES 2
#define NONE 255
#define DECODE 0        /* a handler; that of an instruction is 1 + the version of its bytes */
#define AT(h, p) ((h) * PAGES + (p))

/* --- per page ------------------------------------------------------------------------------------ */
byte version[PAGES];    /* the bytes */
bool lines[PAGES] = NO_RECORDS;      /* tracked */
bool region_lines[PAGES];
byte generation[PAGES];
bool page_lock[PAGES];
byte page_tick[PAGES];
byte handler[PAGES] = DECODE;
byte operands[PAGES];
byte entry[PAGES] = NONE;    /* the record at which a region is entered: its place, or NONE */
byte listed[PAGES] = NONE;   /* the machine's list of regions */
/* --- code ------------------------------------------------------------------------------------------ */
byte code_version[SLOTS];
byte code_page[SLOTS];
byte used = 0;
/* --- harts ----------------------------------------------------------------------------------------- */
byte tick = 0;
byte hart_tick[HARTS];
bool idle[HARTS] = true;     /* out of native code */
bool called[HARTS];          /* `limit` is 0 */
bool storing[HARTS];         /* bytes may be new whose code is not taken back */
bool fast[HARTS * PAGES];    /* TLB: stores need not look at `lines` */
byte inside[HARTS] = NONE;   /* the region a hart is in */
byte need[HARTS * PAGES];    /* ghost: the oldest version it may execute */
byte done[PAGES];            /* ghost: the youngest version whose store is complete */
bool machine_lock = false;
byte work = 0;               /* pieces of work posted for a safe point */
bool at_work = false;
byte stores = STORES, straddles = STRADDLES;
#if defined(M17) || defined(M40)
byte link = NONE;            /* of page 0's region to page 1's */
byte link_page = 0;
#endif
#ifdef M28
byte cache[HARTS * PAGES] = NONE;
#endif

inline check(h, p, v) { assert(v >= need[AT(h, p)]) }       /* no stale execution */

inline lock_page(p) { atomic { !page_lock[p] -> page_lock[p] = true } }
inline unlock_page(p) { page_lock[p] = false }

/* Records of the page were taken back: let the other hart be seen. */
inline note_time(h, p) {
    d_step {
        tick++;
        page_tick[p] = tick;
        called[1 - h] = true
    }
}

#ifdef TORN
#define ALL_SEEN(h, p) true
#else
#define ALL_SEEN(h, p) (idle[1 - (h)] || hart_tick[1 - (h)] >= page_tick[p])
#endif

inline track(h, p) {
    if
    :: !lines[p] ->
        lines[p] = true;
        fast[AT(h, p)] = false;
        fast[AT(1 - h, p)] = false;
        note_time(h, p)
    :: else
    fi
}

/* Execute the instruction that the record stands for. */
inline execute_record(h, p) {          /* c: the handler loaded */
    if
    :: c == DECODE ->
        lock_page(p);
#ifdef M27
        v = version[p];                                /* before their line is tracked */
#endif
        track(h, p);
        if
        :: ALL_SEEN(h, p) ->
#ifndef M27
            v = version[p];
#endif
            operands[p] = v;
            handler[p] = 1 + v;
            unlock_page(p)
        :: else -> unlock_page(p); v = version[p]      /* from the scratch array */
        fi
    :: else ->
        v = operands[p];
        assert(c == 1 + v)                             /* no torn record */
    fi;
    check(h, p, v);
    c = 0; v = 0
}

inline enter_region(h, p, place) {
    d_step {
        assert(code_page[place] == p);
        check(h, p, code_version[place]);
        inside[h] = place
    }
}

#ifdef M28
#define ENTRY(h, p) cache[AT(h, p)] = (cache[AT(h, p)] != NONE -> cache[AT(h, p)] : entry[p]); \
    c = cache[AT(h, p)]
#else
#define ENTRY(h, p) c = entry[p]
#endif

/* A region is a loop, which ends by itself or, with SPIN, when the hart is called. */
inline execute_region(h, p) {          /* c: the record loaded */
    if
    :: c != NONE ->
        enter_region(h, p, c);
#if defined(M17) || defined(M40)
        if
        :: p == 0 && link == NONE && entry[1] != NONE ->
            c = entry[1];
#ifdef M40
            link_page = 1;
#endif
            link = c
        :: p == 0 && link != NONE ->
#ifdef M40
            c = link;
            assert(link_page == 1);
            if :: c != NONE -> enter_region(h, 1, c) :: else fi
#else
            c = link;
            if :: c != NONE -> enter_region(h, 1, c) :: else fi
#endif
        :: else
        fi;
#endif
#ifdef SPIN
end_loop:
        called[h];
#endif
        inside[h] = NONE
    :: else
    fi;
    c = 0
}

/* What a store does once its bytes are visible; `exit_page`: whose regions are the machine's to
 * retire, PAGES for all of them. */
inline note_store(h, p) {
    if
    :: lines[p] ->
#ifndef M32
        lock_page(p);
#endif
        generation[p]++;
        if
        :: handler[p] != DECODE -> handler[p] = DECODE; note_time(h, p)
        :: else
        fi;
        if
#ifdef M30
        :: lines[p] = false
#else
        :: !region_lines[p] && !NO_RECORDS -> lines[p] = false        /* nothing is left in the line */
#endif
        :: true
        fi;
        if
        :: region_lines[p] ->
#ifdef M48
            if :: exit_page == NONE -> exit_page = p :: else fi
#else
            if
            :: exit_page == NONE -> exit_page = p
            :: exit_page != NONE && exit_page != p -> exit_page = PAGES
            :: else
            fi
#endif
        :: else
        fi;
#ifndef M32
        unlock_page(p)
#endif
    :: else
    fi
}

/* The bytes change. By an entry of the TLB that does not know of tracking nothing more happens. */
inline store(h, p) {
    if :: !f -> storing[h] = true :: else fi;
    d_step { version[p]++; v = version[p] };
    if
    :: f
    :: else -> note_store(h, p)
    fi;
    f = false
}

inline complete(h, p, v) {
    d_step {
        if :: need[AT(h, p)] < v -> need[AT(h, p)] = v :: else fi;
        if :: done[p] < v -> done[p] = v :: else fi
    }
}

/* In Python, this hart out of native code, the other perhaps in it. */
inline retire_regions(p) {
#ifndef M32
    atomic { !machine_lock -> machine_lock = true };
#endif
    if
    :: listed[p] != NONE ->
#if defined(M17)
        if :: p == 1 -> link = NONE :: else fi;
#endif
#ifdef M40
        if :: p == 1 && link != NONE -> link_page = 0; link = NONE :: else fi;
#endif
        entry[p] = NONE
    :: else
    fi;
    listed[p] = NONE;
    region_lines[p] = false;
#ifndef M32
    machine_lock = false
#endif
}

#ifdef M29
#define CALL_ALL skip
#else
#define CALL_ALL called[0] = true; called[1] = true
#endif

#ifdef NOWAIT
#define MAY_FENCE true
#else
#define MAY_FENCE !storing[1 - h]
#endif
#define MAY_GO acts < ACTS && !called[h]
#ifdef POLL
#define FENCE_TELLS (need[AT(h, 0)] < version[0] || need[AT(h, 1)] < version[1])
#else
#define FENCE_TELLS (need[AT(h, 0)] < done[0] || need[AT(h, 1)] < done[1])
#endif

proctype Hart(byte h) {
    byte acts = 0, c = 0, v = 0, w = 0, exit_page = NONE, kept = NONE;
    bool f = false;
    do
    :: acts < ACTS ->
        atomic { work == 0 && !at_work -> idle[h] = false; called[h] = false };
        hart_tick[h] = tick;                       /* between two instructions */
#ifdef STOP
        d_step {                                   /* a hart that is started sees all that is done */
            if :: need[AT(h, 0)] < done[0] -> need[AT(h, 0)] = done[0] :: else fi;
            if :: need[AT(h, 1)] < done[1] -> need[AT(h, 1)] = done[1] :: else fi
        };
#endif
#ifdef M34
        if
        :: kept != NONE -> enter_region(h, code_page[kept], kept); kept = NONE; inside[h] = NONE
        :: else
        fi;
#endif
        do                                         /* the choice is one step with its first load */
#if !NO_RECORDS
        :: atomic { MAY_GO -> acts++; c = handler[0] };
           execute_record(h, 0);
           hart_tick[h] = tick
#endif
#if REGIONS
        :: atomic { MAY_GO -> acts++; ENTRY(h, 0) };
           execute_region(h, 0);
           hart_tick[h] = tick
#endif
#if REGIONS && !ONE_PAGE
        :: atomic { MAY_GO -> acts++; ENTRY(h, 1) };
           execute_region(h, 1);
           hart_tick[h] = tick
#endif
        :: atomic { MAY_GO && stores > 0 -> acts++; stores--; w = 0; f = fast[AT(h, 0)] };
           store(h, 0);
           goto stored
#if !ONE_PAGE
        :: atomic { MAY_GO && stores > 0 -> acts++; stores--; w = 1; f = fast[AT(h, 1)] };
           store(h, 1);
           goto stored
#endif
#if STRADDLES
        :: atomic { MAY_GO && straddles > 0 -> acts++; straddles--; f = fast[AT(h, 0)] };
           store(h, 0);
           w = v;
           f = fast[AT(h, 1)];
           store(h, 1);
           kept = v;
           goto straddled
#endif
#if !NO_RECORDS
        :: atomic { MAY_GO && !fast[AT(h, 0)] && !lines[0] ->      /* a TLB entry is filled */
             fast[AT(h, 0)] = true }
#endif
        :: d_step { MAY_GO && FENCE_TELLS && MAY_FENCE ->          /* fence.i */
             acts++;
#ifdef POLL
             need[AT(h, 0)] = version[0];
             need[AT(h, 1)] = version[1]
#else
             if :: need[AT(h, 0)] < done[0] -> need[AT(h, 0)] = done[0] :: else fi;
             if :: need[AT(h, 1)] < done[1] -> need[AT(h, 1)] = done[1] :: else fi
#endif
           }
        :: break
        od;
        if
        :: false ->
stored:     idle[h] = (exit_page != NONE);
            if
            :: exit_page == PAGES -> retire_regions(0); retire_regions(1)
            :: exit_page != NONE && exit_page != PAGES -> retire_regions(exit_page)
            :: else
            fi;
#ifdef M28
            cache[AT(h, w)] = NONE;
#endif
            storing[h] = false;
            complete(h, w, v)
        :: false ->
straddled:  idle[h] = true;
            if
            :: exit_page == PAGES -> retire_regions(0); retire_regions(1)
            :: exit_page != NONE && exit_page != PAGES -> retire_regions(exit_page)
            :: else
            fi;
            storing[h] = false;
            complete(h, 0, w);
            complete(h, 1, kept);
            kept = NONE
        :: else
        fi;
        w = 0; v = 0;
        exit_page = NONE;
#ifdef M34
        if :: entry[0] != NONE && kept == NONE -> kept = entry[0] :: true fi;
#endif
        atomic { hart_tick[h] = tick; idle[h] = true }
    :: acts == ACTS -> break
    od
}

#ifdef M33
#define ALL_OUT true
#else
#define ALL_OUT (idle[0] && idle[1])
#endif

/* The translator: reads, makes, and posts for publication. */
proctype Translator() {
#if REGIONS
    byte made = 0, p = 0, g = 0, v = 0;
    do
    :: made < REGIONS ->
        made++;
        if :: p = 0 :: !ONE_PAGE -> p = 1 fi;
        g = generation[p];
        v = version[p];
        atomic { work++; CALL_ALL };
        atomic { ALL_OUT && !at_work && !machine_lock -> at_work = true; machine_lock = true };
        d_step {
            if
            :: g == generation[p] && v == version[p] && used < SLOTS && listed[p] == NONE &&
               lines[p] ->
                code_version[used] = v;
                code_page[used] = p;
                region_lines[p] = true;
                entry[p] = used;
                listed[p] = used;
                used++
            :: else
            fi;
            work--;
            at_work = false;
            machine_lock = false
        };
        p = 0; g = 0; v = 0
    :: made == REGIONS -> break
    od
#else
    skip
#endif
}

/* Retirement of everything: the code space is used again. */
proctype Everything() {
    byte count = 0, p;
    do
    :: count < RETIREMENTS ->
        count++;
        atomic { work++; CALL_ALL };
        atomic { ALL_OUT && !at_work && !machine_lock -> at_work = true; machine_lock = true };
        d_step {
            assert(inside[0] == NONE && inside[1] == NONE);
            for (p : 0 .. PAGES - 1) {
                handler[p] = DECODE;
                entry[p] = NONE;
                listed[p] = NONE;
                lines[p] = NO_RECORDS;
                region_lines[p] = false;
                fast[AT(0, p)] = false;
                fast[AT(1, p)] = false;
                need[AT(0, p)] = version[p];
                need[AT(1, p)] = version[p]
            }
            for (p : 0 .. SLOTS - 1) { code_page[p] = NONE; code_version[p] = 0 }
            used = 0;
            p = 0;
            work--;
            at_work = false;
            machine_lock = false
        }
    :: count == RETIREMENTS -> break
    od
}

init {
    atomic { run Hart(0); run Hart(1); run Translator(); run Everything() }
}
