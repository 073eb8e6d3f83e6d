/* The session between machine and translator, and what it does to two harts: see README.md here.
 *
 * Problem: code is made by another process, later, which may crash at any moment; nothing made from
 * a guest state that is gone may run. The processes below are those of the real services: `Link`
 * (cpu_proc/translator.py with protocol/session_machine.py), `Gate` (safe points: publish rule and
 * retirement of everything), `Hart`, `Translator` (jit_proc/service.py with session_translator.py).
 *
 * Each `#ifdef M..` is one mistake of docs' classes, put where it would be made. `BYTES 0` takes
 * the comparison of the bytes away, which stands behind most other checks.
 */

#ifndef CRASHES
#define CRASHES 0       /* the translator dies, and is started again */
#endif
#ifndef DROPS
#define DROPS 0         /* the connection is lost, both ends live on */
#endif
#ifndef DUPS
#define DUPS 0          /* a message comes twice */
#endif
#ifndef HANGS
#define HANGS 0         /* a deadline passes though the translator lives */
#endif
#ifndef STORES
#define STORES 0        /* stores of a hart to either page */
#endif
#ifndef RESETS
#define RESETS 0        /* system resets: images are copied again */
#endif
#ifndef REMAPS
#define REMAPS 0        /* the other page is mapped at the address that is executed */
#endif
#ifndef SWAPS
#define SWAPS 0         /* backend swaps */
#endif
#ifndef REQS
#define REQS 2          /* requests made */
#endif
#ifndef RUNS
#define RUNS 2          /* entries into native code, for each hart */
#endif
#ifndef SESSIONS
#define SESSIONS (1 + CRASHES + DROPS)
#endif
#ifndef BYTES
#define BYTES 1
#endif
#ifndef CAP
#define CAP 2           /* regions that the code space holds */
#endif
#ifndef EMOD
#define EMOD 4          /* epochs count modulo this, */
#endif
#ifndef GMOD
#define GMOD 2          /* map and page generations modulo this: they wrap at once */
#endif
#ifndef PAGES
#define PAGES 2
#endif
#ifndef WINDOW
#define WINDOW 2        /* requests outstanding at most */
#endif
#ifndef QUEUE
#define QUEUE 3         /* messages on their way */
#endif
#ifndef EPOCH0
#define EPOCH0 (EMOD - 2)
#endif
#ifndef MAP0
#define MAP0 0
#endif
#ifdef TRACE
#define NUM int
#else
#define NUM byte
#endif
#ifndef WORK
#define WORK 6          /* pieces of work that wait for a safe point */
#endif
#define HARTS 2
#define NONE 255

mtype = { HELLO, WELCOME, ATTACH, ATTACHED, TRANSLATE, TRANSLATED, REJECTED, FULL, CANCEL, RETIRE,
          RETIRED, UNKNOWN };                                       /* messages */
mtype = { IDLE, GREETING, ATTACHING, LIVE, RETIRING, DEAD };          /* the machine's session */
mtype = { PUBLISH, RESTART, SPACE, RESET, REMAP, SWAP, WRAP };       /* work for a safe point */
mtype = { FREE, QUEUED, CHECKED, COPIED, MADE };                     /* a job at the translator */

/* What a trace of the real services tells, a channel a thread; see replay.py. */
mtype = { opened, attached, lost, requested, cancelled, bumped, settled_at, published, dropped,
          committed, started, mapped_for, translated, rejected, retired, killed };
#ifdef TRACE
chan link_event = [0] of { mtype, NUM, NUM, NUM, NUM, NUM };
chan link_want = [0] of { byte };
chan link_cancel = [0] of { NUM };
chan gate_event = [0] of { mtype, NUM, NUM };
chan translator_event = [0] of { mtype, NUM };
#define LOG_LINK(kind, a, b, c, d, e) link_event!kind, a, b, c, d, e
#define LOG_GATE(kind, a, b) gate_event!kind, a, b
/* It may be killed between the event and the deed. */
#define LOG_TRANSLATOR(kind, a) translator_event!kind, a; if :: alive :: else -> goto end_dead fi
#else
#define LOG_LINK(kind, a, b, c, d, e) skip
#define LOG_GATE(kind, a, b) skip
#define LOG_TRANSLATOR(kind, a) skip
#endif

/* kind, session, id, epoch, map_generation, page, page generation (RETIRE: whether to swap) */
chan m2t = [QUEUE] of { mtype, NUM, NUM, NUM, NUM, byte, NUM };
/* the same, segment, place in it, version of the bytes (their identity) */
chan t2m = [QUEUE] of { mtype, NUM, NUM, NUM, NUM, byte, NUM, byte, byte, byte };
/* kind, id, epoch, map_generation, page, page generation, place, version */
chan work = [WORK] of { mtype, NUM, NUM, NUM, byte, NUM, byte, byte };
chan wish = [1] of { NUM, bit };         /* a retirement for the link: epoch, whether to swap */

/* --- shared memory, written by the machine ----------------------------------------------------- */
NUM epoch = EPOCH0;
NUM map_generation = MAP0;
NUM generation[PAGES];
byte version[PAGES];     /* the bytes of a page: how often they changed */
bool tracked[PAGES];     /* stores to the page are noticed */
byte at_address = 0;     /* the page that is mapped where the harts execute */

/* --- the machine -------------------------------------------------------------------------------- */
byte record_seg[PAGES] = NONE;  /* the code that a page's record points to, or NONE */
byte record_slot[PAGES];
byte segment = NONE;     /* the code segment mapped here */
NUM segment_epoch;
bit backend = 0;
bool busy = false;       /* work is being done at a safe point: no hart enters */
bool wrapping = false;   /* a counter wrapped: nothing is published before all is retired */
bool settled = true;     /* no retirement of everything waits for its answer */
bool swapping = false;   /* the backend that answers the last one is another */
bool native[HARTS];
byte in_seg[HARTS] = NONE;      /* the region a hart is in, or NONE */
byte in_slot[HARTS];
byte tlb[HARTS] = NONE;         /* the page looked up, or NONE */
byte need[HARTS * PAGES];  /* ghost: the oldest version that a hart may execute */
mtype state = IDLE;
NUM session = 0;
NUM last_id = 0;
NUM spent = NONE;        /* the epoch under which ATTACH or RETIRE was sent last */
byte hung = HANGS;
bool is_lost = false;       /* the connection is gone, and the link has not noticed */
bool asked[WINDOW];
NUM asked_id[WINDOW];
NUM asked_epoch[WINDOW];
NUM asked_map[WINDOW];
byte asked_page[WINDOW];
NUM asked_gen[WINDOW];

/* --- the translator, and the code segments it makes ------------------------------------------------ */
bool alive = false;
byte started_times = 1;  /* that it may be started yet */
NUM t_session = 0;
bool t_attached = false;
NUM t_epoch = 0;
NUM t_last = 0;
bit t_backend = 0;
byte t_seg = NONE;
byte next_seg = 0;
byte used = 0;
mtype job[WINDOW] = FREE;
NUM job_id[WINDOW];
NUM job_map[WINDOW];
byte job_page[WINDOW];
NUM job_gen[WINDOW];
byte job_version[WINDOW];
bool worker = false;     /* a job has the worker */
byte code_page[2 * CAP];
byte code_version[2 * CAP];
NUM code_epoch[2 * CAP];
bit code_backend[2 * CAP];
bool code_done[2 * CAP];

/* --- what is left of each kind of event ------------------------------------------------------------ */
byte crashes = CRASHES, drops = DROPS, dups = DUPS, stores = STORES, resets = RESETS;
byte remaps = REMAPS, swaps = SWAPS;
byte running = HARTS;

#ifdef M15
byte cache_seg[HARTS * PAGES] = NONE, cache_slot[HARTS * PAGES];
#endif
#ifdef M16
byte chain_seg = NONE, chain_slot;      /* page 0's code jumps to page 1's */
#endif
#ifdef M20
bool refused[PAGES];
#endif
byte at = 0;             /* that job */
#ifdef M21
byte kept[PAGES] = NONE;
#endif
#ifdef M26
bool known[CAP];
#endif
#ifdef M43
byte store_seg = NONE;
byte store_version[PAGES] = NONE;
#endif

#define NEXT(counter, modulus) ((counter + 1) % modulus)
#define IS_OLDER(a, b) (((b + EMOD - a) % EMOD) > 0 && ((b + EMOD - a) % EMOD) <= EMOD / 2)
#define POST(kind) assert(len(work) < WORK); work!kind, 0, epoch, 0, 0, 0, 0, 0

/* --- harts --------------------------------------------------------------------------------------- */

inline look_at_code(h, seg, slot, page) {
    assert(seg == segment);                            /* it is mapped */
    assert(code_done[seg * CAP + slot]);               /* visible means complete */
    assert(code_page[seg * CAP + slot] == page);
    assert(code_version[seg * CAP + slot] >= need[h * PAGES + page]);   /* no stale execution */
    assert(code_epoch[seg * CAP + slot] == epoch);
    assert(code_backend[seg * CAP + slot] == backend);
    in_seg[h] = seg;
    in_slot[h] = slot
}

/* One turn of dispatch: look the page up, go by its record. */
inline dispatch(h, page) {
    in_seg[h] = NONE;
    if :: tlb[h] == NONE -> tlb[h] = at_address :: else fi;
    page = tlb[h];
    assert(page == at_address);
    assert(segment == NONE || segment_epoch == epoch);       /* nothing older is mapped */
    if :: page == 0 || !BYTES -> tracked[page] = true :: else fi;
#ifdef M15
    if
    :: cache_seg[h * PAGES + page] != NONE ->
        look_at_code(h, cache_seg[h * PAGES + page], cache_slot[h * PAGES + page], page)
    :: cache_seg[h * PAGES + page] == NONE && record_seg[page] != NONE ->
        cache_seg[h * PAGES + page] = record_seg[page];
        cache_slot[h * PAGES + page] = record_slot[page]
    :: else
    fi;
#endif
    if
    :: record_seg[page] != NONE -> look_at_code(h, record_seg[page], record_slot[page], page)
    :: else          /* tier 0: its records are the matter of harts.pml */
    fi;
#ifdef M16
    if
    :: page == 0 && record_seg[0] != NONE && chain_seg == NONE && record_seg[1] != NONE ->
        chain_seg = record_seg[1];
        chain_slot = record_slot[1]
    :: page == 0 && record_seg[0] != NONE && chain_seg != NONE ->
        look_at_code(h, chain_seg, chain_slot, 1)
    :: else
    fi;
#endif
    skip
}

inline retire_page(page) {
    if
    :: tracked[page] ->
        generation[page] = NEXT(generation[page], GMOD);
        record_seg[page] = NONE;
        record_slot[page] = 0;
        if
#ifndef M35
        :: generation[page] == 0 -> wrapping = true; POST(WRAP)
#endif
        :: else
        fi
    :: else
    fi
}

inline store_to(h, page) {               /* by whatever tier */
    version[page]++;
    need[h * PAGES + page] = version[page];
    retire_page(page)
}

#ifndef TRACE
proctype Hart(byte h) {
    byte runs = 0, page = 0;
    do
    :: runs < RUNS ->
        d_step {
            !busy && len(work) == 0 ->
            native[h] = true;
            runs++;
            dispatch(h, page)
        }
        do
        :: d_step { native[h] = false; in_seg[h] = NONE; in_slot[h] = 0 } break
        :: d_step { stores > 0 -> stores--; page = 0; store_to(h, page); dispatch(h, page) }
        :: d_step { stores > 0 -> stores--; page = 1; store_to(h, page); dispatch(h, page) }
        :: d_step {                                        /* fence.i */
            need[h * PAGES] != version[0] || need[h * PAGES + 1] != version[1] ->
            need[h * PAGES] = version[0];
            need[h * PAGES + 1] = version[1];
            dispatch(h, page)
        }
        /* A device access: it only asks, and the frame of native code stays below it. */
        :: d_step { resets > 0 -> resets--; POST(RESET) }
        :: d_step { remaps > 0 -> remaps--; POST(REMAP) }
        :: d_step { swaps > 0 && state == LIVE -> swaps--; POST(SWAP) }
        od
    :: else -> break
    od;
    running--
}
#endif

/* --- safe points -------------------------------------------------------------------------------- */

#ifdef M33
#define QUIET true
#else
#define QUIET (!native[0] && !native[1])
#endif

inline drop_lookups() {
    tlb[0] = NONE;
    tlb[1] = NONE
}

inline drop_code() {
    assert(segment == NONE || (in_seg[0] != segment && in_seg[1] != segment));
    segment = NONE;
    segment_epoch = 0
}

/* Retirement of everything, the harts' part; the link's is awaited by the next one alone. */
inline bump_epoch() {
    epoch = NEXT(epoch, EMOD);
#ifndef M22
    for (i : 0 .. PAGES - 1) { record_seg[i] = NONE; record_slot[i] = 0 }
#endif
    for (i : 0 .. PAGES - 1) { tracked[i] = false }
    drop_code();
    drop_lookups();
    for (i : 0 .. HARTS - 1) {
        for (page : 0 .. PAGES - 1) { need[i * PAGES + page] = version[page] }
    }
    page = 0;
    wrapping = false;
    settled = false
}

#define STALE(e, m, p, g) (e != epoch || m != map_generation || g != generation[p])

/* The publish rule. */
inline publish() {
    late = wrapping || STALE(m_epoch, m_map, page, m_gen) || segment == NONE || segment_epoch != m_epoch;
#ifdef M42
    late = STALE(m_epoch, m_map, page, m_gen) || segment == NONE;
#endif
#ifdef M31
    late = (segment == NONE);
#endif
#ifdef M41
    late = (segment == NONE);
#endif
#ifdef M47
    late = m_epoch != epoch;            /* the stamp is of when it was answered */
#endif
    tracked[page] = true;
#if BYTES && !defined(M27) && !defined(M41) && !defined(M42)
    late = late || m_version != version[page];
#endif
#ifdef M26
    late = late && !known[slot];
    known[slot] = true;
#endif
    if
    :: !late -> record_seg[page] = segment; record_slot[page] = slot
    :: else
    fi
}

proctype Gate() {
    mtype kind;
    NUM m_epoch, m_map, m_gen, id;
    byte page, slot, m_version, i;
    bool late;
end_quiet:
    do
    :: atomic {
        len(work) > 0 && QUIET && !busy ->
        busy = true;
        work?kind, id, m_epoch, m_map, page, m_gen, slot, m_version;
        if
        :: kind == PUBLISH ->
            d_step { publish() }
#ifdef TRACE
            if
            :: LOG_GATE(dropped, id, late)      /* bytes and lines are not in the trace */
            :: !late -> LOG_GATE(published, id, m_gen)
            fi;
#endif
            goto done
        :: kind == REMAP ->
            d_step {
                at_address = 1 - at_address;
                map_generation = NEXT(map_generation, GMOD);
#ifndef M9
                drop_lookups();
#endif
                skip
            };
            LOG_GATE(committed, map_generation, 0);
            if
#ifndef M35
            :: map_generation == 0 && GMOD < 256 -> kind = WRAP
#endif
            :: else -> goto done
            fi
        :: kind == SWAP ->
#ifdef M46
            backend = 1 - backend;
            goto done
#else
            skip
#endif
        :: (kind == RESTART || kind == SPACE) && m_epoch != epoch -> goto done
#ifdef M37
        :: kind == RESET ->
            d_step { version[0]++; need[0] = version[0]; need[PAGES] = version[0] };
            goto done
#endif
        :: else
        fi
      };
      settled;                     /* the one before is answered, or given up */
      d_step { bump_epoch(); if :: kind == SWAP -> swapping = true :: else fi };
      LOG_GATE(bumped, epoch, kind);
      wish!epoch, (kind == SWAP);
      d_step {
        if
        :: kind == RESET ->       /* images are copied again: to pages that nothing tracks now */
            version[0]++;
            need[0] = version[0];
            need[PAGES] = version[0]
        :: else
        fi
      };
done:
      busy = false
    od
}

/* --- the machine's link ---------------------------------------------------------------------------- */

inline forget_asked() {
    for (i : 0 .. WINDOW - 1) {
        asked[i] = false; asked_id[i] = 0; asked_epoch[i] = 0; asked_map[i] = 0; asked_page[i] = 0;
        asked_gen[i] = 0
    }
}

/* `_die`: the translator is given up. */
inline die() {
    state = DEAD;
    forget_asked();
    is_lost = false;
    if
#ifdef M41
    :: false
#endif
    :: spent == epoch_known -> assert(len(work) < WORK); work!RESTART, 0, epoch_known, 0, 0, 0, 0, 0
    :: else
    fi
}

#ifdef M42
#define RETIRED_AWAITED (state == RETIRING || state == LIVE && segment == NONE)
#else
#define RETIRED_AWAITED (state == RETIRING)
#endif
#define TELL_WAITERS \
    if \
    :: waiting && state != RETIRING -> \
        LOG_LINK(settled_at, epoch_known, 0, 0, 0, 0); waiting = false; settled = true \
    :: else \
    fi

#ifdef TRACE
#define ASKED(i, p, e, m, g) false     /* other slots of the page */
#else
#define ASKED(i, p, e, m, g) (asked[i] && asked_page[i] == p && asked_epoch[i] == e && \
                              asked_map[i] == m && asked_gen[i] == g)
#endif
#define OUTSTANDING (asked[id % WINDOW] && asked_id[id % WINDOW] == id)
#if defined(M31)
#define ACCEPTED true
#elif defined(M41) || defined(M42) || defined(M47)
#define ACCEPTED OUTSTANDING
#else
#define ACCEPTED (e == epoch_known && OUTSTANDING && asked_page[id % WINDOW] == page && \
                  asked_epoch[id % WINDOW] == e && asked_map[id % WINDOW] == m && \
                  asked_gen[id % WINDOW] == g)
#endif

proctype Link() {
    mtype tag;
    NUM epoch_known = EPOCH0;    /* the session's: it hears of a new one by a wish */
    NUM s, id, e, m, g;
    byte page, seg, slot, v, i;
    bit swap;
    bool again, waiting = false;       /* waiting: a retirement of everything is not answered */
end_idle:
    do
    /* a new attempt, under an epoch that no ATTACH was sent under */
    :: atomic {
#ifdef M41
        (state == IDLE || state == DEAD) && session < SESSIONS && len(m2t) < QUEUE ->
#else
        (state == IDLE || state == DEAD) && session < SESSIONS && len(m2t) < QUEUE && spent != epoch_known ->
#endif
        LOG_LINK(opened, session + 1, 0, 0, 0, 0);
        d_step {
            session++;
#ifdef M41
            last_id = 0;
#endif
            is_lost = false;
            state = GREETING;
            m2t!HELLO, session, 0, 0, 0, 0, 0
        }
      }
    /* retirement of everything: harts run on in tier 0 */
    :: atomic {
        wish?e, swap ->
        d_step {
            epoch_known = e;
#ifdef M42
            if
            :: state == LIVE -> spent = e; again = true     /* the mistake: goes on as if answered */
            :: else -> forget_asked()
            fi;
#else
            forget_asked();
#endif
            if
#ifdef M42
            :: state == ATTACHING || state == RETIRING ->
#else
            :: state == ATTACHING || state == LIVE || state == RETIRING ->
#endif
                state = RETIRING;
                spent = e;
                again = true
            :: else
            fi
        };
        if
        :: again -> m2t!RETIRE, session, 0, e, 0, 0, swap
        :: else
        fi;
        waiting = true;
        TELL_WAITERS;
        page = 0; swap = 0; again = false; e = 0
      }
    /* hot records are asked for: the stamp is read while harts run */
    :: atomic {
#ifdef TRACE
        link_want?page;
        state == LIVE && !asked[(last_id + 1) % WINDOW] ->
#else
        state == LIVE && last_id < REQS && !asked[(last_id + 1) % WINDOW] ->
        if
        :: page = 0
        :: page = 1
        fi;
#endif
        e = epoch; m = map_generation; g = generation[page]
      };
#ifdef M20
      assert(!refused[page] || version[page] == 0);    /* a refusal is of the bytes it was about */
#endif
      atomic {
        if
        :: state == LIVE && e == epoch_known &&
#ifdef M20
           !refused[page] &&
#endif
           !(ASKED(0, page, e, m, g) || ASKED(1, page, e, m, g)) ->
            LOG_LINK(requested, last_id + 1, page, e, m, g);
            last_id++;
            i = last_id % WINDOW;
            asked[i] = true; asked_id[i] = last_id; asked_epoch[i] = e; asked_map[i] = m;
            asked_page[i] = page; asked_gen[i] = g;
            m2t!TRANSLATE, session, last_id, e, m, page, g
        :: else
        fi;
        page = 0; e = 0; m = 0; g = 0; i = 0
      }
    /* a request is given up: superseded, or not answered in time */
#ifdef TRACE
    :: atomic {
        link_cancel?i;
        asked[i % WINDOW] && asked_id[i % WINDOW] == i ->
        asked[i % WINDOW] = false;
        m2t!CANCEL, session, i, 0, 0, 0, 0;
        i = 0
      }
#else
    :: atomic {
        state == LIVE && asked[0] && STALE(asked_epoch[0], asked_map[0], asked_page[0], asked_gen[0]) ->
        asked[0] = false;
        m2t!CANCEL, session, asked_id[0], 0, 0, 0, 0;
        asked_id[0] = 0; asked_epoch[0] = 0; asked_map[0] = 0; asked_page[0] = 0; asked_gen[0] = 0
      }
#endif
    /* a message */
    :: atomic {
#ifdef M41
        state != DEAD && state != IDLE && len(t2m) > 0 ->
#endif
        t2m?tag, s, id, e, m, page, g, seg, slot, v;
        if                                               /* the transport may bring it twice */
        :: dups > 0 && len(t2m) < QUEUE -> dups--; again = true
        :: true
        fi;
    again_now:
        if
#ifndef M41
        :: s != session || state == DEAD || state == IDLE            /* not of this session */
#endif
        :: else ->
            if
            :: tag == WELCOME && state == GREETING ->
                state = ATTACHING;
                spent = epoch_known;
                m2t!ATTACH, session, 0, epoch_known, 0, 0, 0
            :: (tag == ATTACHED && state == ATTACHING || tag == RETIRED && RETIRED_AWAITED) &&
                    e == epoch_known ->
                if
                :: e == epoch -> LOG_LINK(attached, e, 0, 0, 0, 0)
                :: else
                fi;
                d_step {
                    state = LIVE;
                    if
                    :: e == epoch ->                /* else it is late: a wish is on its way */
                        segment = seg;
                        segment_epoch = e;
                        if :: swapping -> backend = t_backend; swapping = false :: else fi
                    :: else
                    fi
                }
            :: (tag == TRANSLATED || tag == REJECTED || tag == FULL) && state == LIVE &&
                    ACCEPTED ->
                d_step {
                    i = id % WINDOW;
                    asked[i] = false; asked_id[i] = 0; asked_epoch[i] = 0; asked_map[i] = 0;
                    asked_page[i] = 0; asked_gen[i] = 0;
                    if
                    :: tag == TRANSLATED ->
                        assert(len(work) < WORK);
#ifdef M42
                        e = epoch_known;
#endif
                        work!PUBLISH, id, e, m, page, g, slot, v
                    :: tag == FULL -> assert(len(work) < WORK); work!SPACE, 0, e, 0, 0, 0, 0, 0
#ifdef M20
                    :: tag == REJECTED -> refused[page] = true
#endif
                    :: else
                    fi;
                    i = 0
                }
            :: tag == UNKNOWN -> LOG_LINK(lost, 0, 0, 0, 0, 0); d_step { die() }
            :: else
            fi
        fi;
        TELL_WAITERS;
        if
        :: again -> again = false; goto again_now
        :: else
        fi;
        s = 0; id = 0; e = 0; m = 0; page = 0; g = 0; seg = 0; slot = 0; v = 0
      }
    /* a deadline passes, or the loss of the connection is noticed: whatever came before is read, or not */
    :: atomic {
        (state == RETIRING || state == ATTACHING || state == GREETING) && (is_lost || hung > 0) ||
#ifdef TRACE
            state == LIVE && hung > 0 ||
#endif
            state == LIVE && is_lost ->
        LOG_LINK(lost, 0, 0, 0, 0, 0);
        d_step {
            if :: !is_lost -> hung-- :: else fi;
            die();
            page = 0
        };
        TELL_WAITERS
      }
    od
}

/* --- the translator --------------------------------------------------------------------------------- */

/* A new code segment; the machine has none mapped of the two but the other one. */
inline new_segment() {
    assert(next_seg != segment);
    t_seg = next_seg;
    next_seg = 1 - next_seg;
    used = 0;
    for (i : 0 .. CAP - 1) {
        code_done[t_seg * CAP + i] = false; code_page[t_seg * CAP + i] = 0;
        code_version[t_seg * CAP + i] = 0; code_epoch[t_seg * CAP + i] = 0;
        code_backend[t_seg * CAP + i] = 0
    }
}

inline free_job(i) {
    if :: job[i] != FREE && job[i] != QUEUED -> worker = false :: else fi;
    job[i] = FREE; job_id[i] = 0; job_map[i] = 0; job_page[i] = 0; job_gen[i] = 0;
    job_version[i] = 0;
    if :: !worker -> at = 0 :: else fi
}

inline drop_jobs() {
    for (i : 0 .. WINDOW - 1) { free_job(i) }
}

#define MOVED(i) STALE(t_epoch, job_map[i], job_page[i], job_gen[i])

inline answer(what, i, seg, slot) {
    t2m!what, t_session, job_id[i], t_epoch, job_map[i], job_page[i], job_gen[i], seg, slot,
        job_version[i]
}

#ifdef M47
#define TRANSLATABLE (used < CAP)
#elif defined(M20)
#define TRANSLATABLE (!MOVED(at) && used < CAP && !(job_page[at] == 0 && version[0] == 0))
#else
#define TRANSLATABLE (!MOVED(at) && used < CAP)
#endif

#define REJECT(i) LOG_TRANSLATOR(rejected, job_id[i]); answer(REJECTED, i, 0, 0); \
    d_step { free_job(i) }

/* The job that has the worker, in a given state: `at`. */
#define WITH_WORKER(what) alive && worker && job[at] == what
#if WINDOW > 2
#define ANY_QUEUED (job[0] == QUEUED || job[1] == QUEUED || job[2] == QUEUED || job[3] == QUEUED || \
                    job[4] == QUEUED || job[5] == QUEUED || job[6] == QUEUED || job[7] == QUEUED)
#else
#define ANY_QUEUED (job[0] == QUEUED || job[1] == QUEUED)
#endif

proctype Translator() {
    mtype tag;
    NUM s, id, e, m, g;
    byte page, i, again;
end_dead:
    atomic {
        !alive && started_times > 0 ->
        started_times--;
        alive = true;
        LOG_TRANSLATOR(started, 0)
    };
end_idle:
    do
    :: atomic { !alive -> goto end_dead }
    :: atomic {
        alive && len(m2t) > 0 && len(t2m) < QUEUE ->
        m2t?tag, s, id, e, m, page, g;
        again = 0;
        if
        :: dups > 0 -> dups--; again = 1
        :: true
        fi;
    again_now:
        if
        :: tag == HELLO ->
            d_step {
                if
                :: t_session != s -> t_session = s; t_attached = false; t_epoch = 0; drop_jobs()
                :: else
                fi;
                i = 0
            };
            t2m!WELCOME, s, 0, 0, 0, 0, 0, 0, 0, 0
        :: tag != HELLO && s != t_session ->
            if
            :: tag != CANCEL -> t2m!UNKNOWN, s, 0, 0, 0, 0, 0, 0, 0, 0
            :: else
            fi
        :: tag == ATTACH && s == t_session ->
            if
            :: !t_attached ->
                LOG_TRANSLATOR(mapped_for, s);
                d_step {
                    t_attached = true;
                    t_epoch = e;
                    t_last = 0;
                    new_segment();
                    i = 0
                };
                t2m!ATTACHED, s, 0, e, 0, 0, 0, t_seg, 0, 0
            :: t_attached && t_epoch == e -> t2m!ATTACHED, s, 0, e, 0, 0, 0, t_seg, 0, 0
            :: else
            fi
        :: tag == RETIRE && s == t_session ->
            if
#ifdef M35E
            :: e > t_epoch ->         /* counts compared without regard to their wrap */
#else
            :: IS_OLDER(t_epoch, e) ->
#endif
                LOG_TRANSLATOR(retired, e);
                d_step {
                    t_epoch = e;
#ifndef M42
                    drop_jobs();
#endif
                    if :: g -> t_backend = 1 - t_backend :: else fi;
                    new_segment();
                    i = 0
                };
                t2m!RETIRED, s, 0, e, 0, 0, 0, t_seg, 0, 0
            :: !IS_OLDER(t_epoch, e) && t_epoch == e -> t2m!RETIRED, s, 0, e, 0, 0, 0, t_seg, 0, 0
            :: else
            fi
        :: tag == TRANSLATE && s == t_session ->
            if
            :: id <= t_last
            :: id > t_last && e != t_epoch ->
                LOG_TRANSLATOR(rejected, id);
                t_last = id;
                t2m!REJECTED, s, id, e, m, page, g, 0, 0, 0
            :: id > t_last && e == t_epoch ->
                d_step {
                    t_last = id;
                    i = id % WINDOW;
                    job[i] = QUEUED;
                    job_id[i] = id; job_map[i] = m; job_page[i] = page; job_gen[i] = g;
                    i = 0
                }
            fi
        :: tag == CANCEL && s == t_session ->
            i = id % WINDOW;
            if
            :: job[i] != FREE && job_id[i] == id -> d_step { free_job(i) }
            :: else
            fi;
            i = 0
        fi;
        if
        :: again && len(t2m) < QUEUE -> again = 0; goto again_now
        :: else
        fi;
        s = 0; id = 0; e = 0; m = 0; page = 0; g = 0; again = 0
      }
    /* a worker is free: the counters, the bytes, the counters again; then the code is made */
    :: atomic {
        alive && !worker && ANY_QUEUED && len(t2m) < QUEUE ->
        if
        :: job[0] == QUEUED -> i = 0
        :: job[1] == QUEUED -> i = 1
#if WINDOW > 2
        :: job[2] == QUEUED -> i = 2
        :: job[3] == QUEUED -> i = 3
        :: job[4] == QUEUED -> i = 4
        :: job[5] == QUEUED -> i = 5
        :: job[6] == QUEUED -> i = 6
        :: job[7] == QUEUED -> i = 7
#endif
        fi;
        if
        :: MOVED(i) -> REJECT(i)
                :: else -> job[i] = CHECKED; worker = true; at = i
        fi;
        i = 0
      }
    :: atomic { WITH_WORKER(CHECKED) ->
        d_step {
            job[at] = COPIED;
            job_version[at] = version[job_page[at]];
#ifdef M21
            if
            :: kept[job_page[at]] == NONE -> kept[job_page[at]] = version[job_page[at]]
            :: else -> job_version[at] = kept[job_page[at]]
            fi;
#endif
#ifdef M43
            if
            :: store_version[job_page[at]] == NONE ->
                store_version[job_page[at]] = version[job_page[at]]
            :: else
            fi;
#endif
            skip
        }
      }
    :: atomic { WITH_WORKER(COPIED) && len(t2m) < QUEUE ->
        if
        :: MOVED(at) -> REJECT(at)
        :: else -> job[at] = MADE
        fi
      }
    :: atomic { WITH_WORKER(MADE) && len(t2m) < QUEUE ->
        if
#ifndef M47
        :: MOVED(at) -> REJECT(at)
        :: !MOVED(at) && used == CAP ->
#else
        :: used == CAP ->
#endif
            LOG_TRANSLATOR(rejected, job_id[at]);
            answer(FULL, at, 0, 0);
            d_step { free_job(at) }
#ifdef TRACE
        :: REJECT(at)                /* for what it is: not code, too large, ... */
#endif
#ifdef M20
        :: job_page[at] == 0 && version[0] == 0 -> REJECT(at)    /* no code stands there yet */
#endif
        :: TRANSLATABLE ->
            LOG_TRANSLATOR(translated, job_id[at]);
#ifdef M47
            d_step { job_map[at] = map_generation; job_gen[at] = generation[job_page[at]] };
#endif
            d_step {
                i = t_seg * CAP + used;
                code_page[i] = job_page[at]; code_version[i] = job_version[at];
#ifdef M43
                code_version[i] = store_version[job_page[at]];
#endif
                code_epoch[i] = t_epoch; code_backend[i] = t_backend;
#ifndef M44
                code_done[i] = true;
#endif
                i = 0
            };
            answer(TRANSLATED, at, t_seg, used);
            d_step { used++; free_job(at) }
        fi
      }
#ifdef M44
    :: d_step {
        alive && used > 0 && !code_done[t_seg * CAP + used - 1] ->
        code_done[t_seg * CAP + used - 1] = true
      }
#endif
    od
}

/* --- what happens by itself ---------------------------------------------------------------------------- */

inline lose_connection() {
    do
    :: len(m2t) > 0 -> m2t?tag, a, a, a, a, b, a
    :: else -> break
    od;
    tag = 0; a = 0; b = 0;
    is_lost = (state == GREETING || state == ATTACHING || state == LIVE || state == RETIRING)
}

inline crash() {
    started_times++;
    alive = false;
    t_session = 0; t_attached = false; t_epoch = 0; t_last = 0; t_backend = 0; used = 0;
    t_seg = NONE;
    drop_jobs();
    i = 0;
    lose_connection()
}

#ifndef TRACE
proctype World() {
    mtype tag;
    NUM a;
    byte b, i;
end_quiet:
    do
    :: d_step { crashes > 0 && alive -> crashes--; crash() }
    :: d_step { drops > 0 && state != IDLE && state != DEAD -> drops--; lose_connection() }
    /* What the lost connection still held comes, or does not. */
    :: d_step { is_lost && len(t2m) > 0 -> t2m?tag, a, a, a, a, b, a, b, b, b; tag = 0; a = 0; b = 0 }
    od
}

init {
    atomic { run Translator(); run Link(); run Gate(); run World(); run Hart(0); run Hart(1) }
}
#endif
