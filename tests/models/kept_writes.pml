/* What virtiod promises of a disk whose device has a volatile cache and may be lost at any step: a model for Spin.
 *
 * Driver: I/Os of several users wait, are put on a ring of SLOTS requests, and complete. A write that was acknowledged
 * is kept in its buffer until a flush that began after its acknowledgement has succeeded. A session with the device is
 * an epoch: live; stopped in order (quiesced); dead; or possibly alive: nobody knows whether it still does what it was
 * asked for. What was kept is written again to the next epoch, then what was in flight, then what waited.
 * Device: does what it has in any order, or never; a write reaches its cache, a flush makes the cache stable. When its
 * process dies, each cached block is lost or not. An epoch that is possibly alive does its requests late.
 *
 * Each step below is atomic. The assertions:
 *   lie       after a flush (or a FUA write) succeeded, all that was acknowledged before it began is stable, for ever
 *   register  a read returns what the last acknowledged write wrote, or one that ran beside it
 *   once      each I/O completes exactly once
 *   memory    no ring and no buffer is used again while an epoch that is possibly alive may touch it
 *   told      after a loss of writes that were not kept, the next flush of each user fails
 *   stuck     nothing waits for ever but for an epoch that is possibly alive, and that is ended by an I/O's own time
 *   balance   at the end, every buffer is free that is neither kept nor in quarantine
 *
 * rules.py lists the rules of the driver. A #define takes one away, and then an assertion must fail.
 */
#ifndef IOS
#define IOS 3           /* at most 7: a set of values is a byte */
#endif
#ifndef BLOCKS
#define BLOCKS 1
#endif
#ifndef USERS
#define USERS 1
#endif
#ifndef SLOTS
#define SLOTS 2         /* requests on the ring at once */
#endif
#ifndef BUFFERS
#define BUFFERS IOS
#endif
#ifndef KEEP
#define KEEP IOS        /* the most writes that are kept */
#endif
#ifndef DEATHS
#define DEATHS 2        /* of the device's process */
#endif
#ifndef SILENCES
#define SILENCES 1      /* times that the driver ends a session by itself */
#endif
#ifndef TIMES
#define TIMES 1         /* I/Os whose time is up although nothing is possibly alive */
#endif

#define BIT(i) (1 << (i))
#define BELOW(i) (BIT(i) - 1)
#define VALUE(i) BIT((i) + 1)   /* I/O i writes the value i + 1; 0 is what was there at first */

mtype = { READ, WRITE, FUA, FLUSH }
mtype = { NOTHING, PENDING, ANSWERED }
mtype = { DOWN, HELD, UP }         /* no session; a session that carries no I/O yet; live */
mtype = { QUIESCED, DEAD, POSSIBLY_ALIVE }

typedef Io {
    mtype op = READ;
    byte block;
    byte user;
    mtype device = NOTHING;      /* its request on the ring of this epoch */
    bit flushing;       /* FUA: it is written, and is to be flushed */
    byte buffer;        /* a set of at most one */
    byte covers;        /* flush: writes that were acknowledged when it was put on the ring */
    byte value;         /* read: what the device returned */
    mtype late_op = READ;            /* its request in an epoch that is possibly alive */
    byte late_block;
    byte late_buffer;
    byte before;        /* check, write: what had completed when it began; read: what had been overwritten */
    byte over[BLOCKS];  /* check, flush: what had been overwritten when it began */
}
Io io[IOS];

/* Sets of I/Os. */
byte waits, runs, lost, done;   /* in the queue; on the ring; to be put on it again; completed */
byte kept, unkept;              /* acknowledged, but not known to be stable: kept in its buffer, or not */
byte on[BLOCKS];                /* the kept ones of each block */
byte again, repeating;          /* kept, to be written again; of these, on the ring */
byte suspect;                   /* were on the ring of an epoch that is possibly alive */
byte begun;                     /* how many the users have submitted */

/* The driver's view of sessions and memory. */
mtype link = HELD;
bit past_possibly_alive;        /* an earlier epoch is */
bit gone;                       /* its process has exited, which the driver can find out */
bit cut;                        /* the session's process has exited, which the driver can find out */
bit repeat_all;                 /* what is kept may have been lost */
bit same_process;               /* the last epoch was stopped in order, and its process is still there */
byte ring, quarantined_rings;   /* a number; a set */
byte busy;                      /* requests on the ring */
byte free_buffers = BELOW(BUFFERS), quarantined_buffers;    /* sets */
mtype own_flush = NOTHING;       /* virtiod's own: kept writes have reached their bound, or hold all buffers */
byte own_covers;
byte owes;                      /* users whose next flush fails */

/* The device. */
bit alive = 1;
byte view[BLOCKS], stable[BLOCKS];      /* the value of each block: through the cache, and on the medium */
byte late, late_rings;          /* requests of an epoch that is possibly alive, and the rings that they may write */
byte deaths, silences, times;

/* The checks' own: sets of values, and a set of users. */
byte completed[BLOCKS] = 1;     /* written by I/Os that have completed */
byte over[BLOCKS];              /* overwritten for certain: by an acknowledged write that began later */
byte under[BLOCKS];             /* what the medium may not hold any more */
byte untold;                    /* users that do not know of a loss */

#define ME BIT(_pid)
#define MINE io[_pid]
#define is_write(i) (io[i].op == WRITE || io[i].op == FUA)
#define needs_buffer (MINE.op != FLUSH && !MINE.buffer)
#define room (busy < SLOTS)
#define ONE(n) ((kept >> n) & 1)
#define n_kept (ONE(0) + ONE(1) + ONE(2) + ONE(3) + ONE(4) + ONE(5) + ONE(6))

inline forget(i) {      /* so that states which differ only in what is past are the same */
    io[i].op = READ; io[i].user = 0; io[i].flushing = 0; io[i].covers = 0; io[i].value = 0; io[i].before = 0;
    for (k : 0 .. BLOCKS - 1) { io[i].over[k] = 0 }
    k = 0
}

inline free_buffer(i) {  /* whoever shares the pool may take it at once */
#ifndef NO_WAIT         /* what that does to blocks is worse */
    for (n : 0 .. IOS - 1) { assert(!(io[n].late_buffer & io[i].buffer)) }      /* memory */
    n = 0;
#endif
    free_buffers = free_buffers | io[i].buffer; io[i].buffer = 0
}

inline finish(i) {
    assert(!(done & BIT(i)));                           /* once */
    done = done | BIT(i);
    runs = runs & ~BIT(i);
    if :: !(kept & BIT(i)) -> free_buffer(i); io[i].block = 0 :: else fi;
    forget(i)
}

inline check_medium() {
    for (k : 0 .. BLOCKS - 1) { assert(!(under[k] & BIT(stable[k]))) }      /* lie */
    k = 0
}

inline release(which) {        /* a flush has succeeded */
    for (k : 0 .. IOS - 1) {
        if :: kept & (which) & BIT(k) -> free_buffer(k); io[k].block = 0 :: else fi
    }
    for (k : 0 .. BLOCKS - 1) { on[k] = on[k] & ~(which) }
    k = 0;
    kept = kept & ~(which);
    unkept = unkept & ~(which)
}

inline keep(i) {
    if
    :: n_kept < KEEP -> kept = kept | BIT(i); on[io[i].block] = on[io[i].block] | BIT(i)
    :: else -> unkept = unkept | BIT(i)
    fi
}

inline complete(i) {
    if
    :: is_write(i) ->
        over[io[i].block] = over[io[i].block] | io[i].before;
        completed[io[i].block] = completed[io[i].block] | VALUE(i);
        if
        :: io[i].op == FUA ->
            under[io[i].block] = under[io[i].block] | io[i].before;
            check_medium()
        :: else ->
#ifndef KEEP_NOTHING
            keep(i)
#endif
        fi
    :: io[i].op == READ -> assert(!(io[i].before & BIT(io[i].value)))       /* register */
    :: io[i].op == FLUSH && (owes & BIT(io[i].user)) ->
        owes = owes & ~BIT(io[i].user); untold = untold & ~BIT(io[i].user)
    :: else ->
        assert(!(untold & BIT(io[i].user)));            /* told */
        for (k : 0 .. BLOCKS - 1) { under[k] = under[k] | io[i].over[k] }
        k = 0;
        check_medium()
    fi;
    finish(i)
}


inline do_flush() {
    for (k : 0 .. BLOCKS - 1) { stable[k] = view[k] }
    k = 0;
    check_medium()
}

/* ---- one of these for each I/O: what user, driver and device do with it */

/* Whose turn it is to be put on the ring: kept writes come first, then what was in flight, then what waits, in order. */
#define first_of(set) (((set) & ME) && !((set) & BELOW(_pid)))
#if defined(WAITING_FIRST)
#define my_turn ((first_of(lost) && !again) || first_of(waits))
#elif defined(IN_FLIGHT_FIRST)
#define my_turn (first_of(lost) || (!lost && first_of(waits) && !again))
#else
#define my_turn ((first_of(lost) || (!lost && first_of(waits))) && !again)
#endif

/* A kept write is written again after all of its block that are older. */
#define older (on[MINE.block] & BELOW(_pid))
#if defined(REPEAT_OUT_OF_ORDER)
#define my_repeat ((again & ME) && !(repeating & on[MINE.block]))
#elif defined(REPEAT_TOGETHER)
#define my_repeat ((again & ~repeating & ME) && !(again & ~repeating & older))
#elif defined(IN_FLIGHT_FIRST)
#define my_repeat ((again & ~repeating & ME) && !(again & older) && !lost && !runs)
#else
#define my_repeat ((again & ~repeating & ME) && !(again & older))
#endif

active [IOS] proctype Request() {
    byte k, n;
end:
    do
    :: atomic { begun == _pid ->                        /* a user submits it */
        if :: MINE.op = READ :: MINE.op = WRITE :: MINE.op = FUA :: MINE.op = FLUSH fi;
        if
        :: MINE.op == FLUSH -> select(n : 0 .. USERS - 1); MINE.user = n
        :: else -> select(n : 0 .. BLOCKS - 1); MINE.block = n
        fi;
        n = 0;
        if
        :: MINE.op == READ -> MINE.before = over[MINE.block]
        :: MINE.op == FLUSH -> for (k : 0 .. BLOCKS - 1) { MINE.over[k] = over[k] }; k = 0
        :: else -> MINE.before = completed[MINE.block]
        fi;
        printf("user: I/O %d is %e of block %d\n", _pid, MINE.op, MINE.block);
        begun++; waits = waits | ME }

    :: d_step { link == UP && room && my_turn && (!needs_buffer || free_buffers) ->     /* it is put on the ring */
        if
        :: needs_buffer ->
            MINE.buffer = free_buffers & ~(free_buffers & (free_buffers - 1));
            free_buffers = free_buffers & ~MINE.buffer
        :: else
        fi;
        if :: MINE.op == FLUSH || MINE.flushing -> MINE.covers = kept | unkept :: else fi;
        printf("driver: puts I/O %d on the ring\n", _pid);
        waits = waits & ~ME; lost = lost & ~ME; runs = runs | ME;
        busy++; MINE.device = PENDING }

    :: d_step { link == UP && room && my_repeat ->      /* it was kept, and is written again */
        printf("driver: writes I/O %d again\n", _pid);
        repeating = repeating | ME; busy++; MINE.device = PENDING }

    :: d_step { MINE.device == PENDING && alive && !cut ->      /* the device does it */
        if
        :: MINE.op == FLUSH || MINE.flushing -> do_flush()
        :: (runs & ME) && MINE.op == READ -> MINE.value = view[MINE.block]
        :: else -> view[MINE.block] = _pid + 1
        fi;
        printf("device: has done I/O %d\n", _pid);
        MINE.device = ANSWERED }

#ifdef ANSWER_TWICE
    :: d_step { MINE.device == ANSWERED ->
        if :: busy -> busy-- :: else fi;
#else
    :: d_step { MINE.device == ANSWERED && link == UP ->        /* the driver takes the answer */
        busy--;
#endif
        printf("driver: takes the answer of I/O %d\n", _pid);
        MINE.device = NOTHING;
        if
        :: repeating & ME -> repeating = repeating & ~ME; again = again & ~ME
        :: else ->
            if
            :: MINE.op == FLUSH || MINE.flushing ->
#ifdef FLUSH_RELEASES_BY_END
                release(kept | unkept);
#else
                release(MINE.covers);
#endif
                complete(_pid)
            :: MINE.op == FUA && !MINE.flushing -> MINE.flushing = 1; runs = runs & ~ME; waits = waits | ME
            :: else -> complete(_pid)
            fi
        fi }

    :: d_step { (late & ME) && alive ->                 /* what was asked for in an earlier epoch is done late */
        if
        :: MINE.late_op == FLUSH -> do_flush()
        :: MINE.late_op == WRITE -> view[MINE.late_block] = _pid + 1
        :: else
        fi;
        printf("device: does I/O %d late, for an earlier epoch\n", _pid);
        late = late & ~ME; MINE.late_op = READ; MINE.late_block = 0; MINE.late_buffer = 0;
        if :: !late -> late_rings = 0 :: else fi }

    :: d_step { ((waits | lost) & ME) && link != UP && ((past_possibly_alive && !gone) || times < TIMES) ->
        if :: past_possibly_alive && !gone :: else -> times++ fi;       /* its time is up: it fails */
        printf("driver: the time of I/O %d is up\n", _pid);
        waits = waits & ~ME; lost = lost & ~ME;
        if :: is_write(_pid) -> completed[MINE.block] = completed[MINE.block] | VALUE(_pid) :: else fi;
#ifndef FREE_AT_TIMEOUT
        if :: suspect & ME -> quarantined_buffers = quarantined_buffers | MINE.buffer; MINE.buffer = 0 :: else fi;
#endif
        finish(_pid) }
    od
}

/* ---- sessions with the device, and what becomes of it */

inline report() {       /* writes that were not kept may be lost: each user is to hear of it */
    if
    :: unkept ->
        unkept = 0;
        untold = BELOW(USERS);
#ifndef NO_REPORT
        owes = BELOW(USERS);
#endif
        for (k : 0 .. BLOCKS - 1) {
            over[k] = 0;
            for (m : 0 .. IOS - 1) {
                io[m].over[k] = 0;
                if :: io[m].op == READ -> io[m].before = 0 :: else fi
            }
        }
        k = 0; m = 0
    :: else
    fi
}

inline remember_late(i) {
    late = late | BIT(i); late_rings = late_rings | BIT(ring); io[i].late_buffer = io[i].buffer;
    if
    :: io[i].op == FLUSH || io[i].flushing -> io[i].late_op = FLUSH
    :: (runs & BIT(i)) && io[i].op == READ -> io[i].late_op = READ
    :: else -> io[i].late_op = WRITE; io[i].late_block = io[i].block
    fi
}

inline lose(how) {
    for (k : 0 .. IOS - 1) {
        if :: how == POSSIBLY_ALIVE && io[k].device == PENDING -> remember_late(k) :: else fi;
#ifdef ANSWER_TWICE
        if :: io[k].device == ANSWERED && (runs & BIT(k)) :: else -> io[k].device = NOTHING fi;
#else
        io[k].device = NOTHING; io[k].value = 0; io[k].covers = 0;
#endif
        if
        :: io[k].flushing ->            /* a FUA write begins again with its write */
            waits = waits & ~BIT(k); lost = lost | BIT(k);
#ifndef FUA_REPEATS_FLUSH
            io[k].flushing = 0
#endif
        :: else
        fi
    }
    k = 0;
    if
    :: how == POSSIBLY_ALIVE ->
        past_possibly_alive = 1; quarantined_rings = quarantined_rings | BIT(ring);
        suspect = suspect | runs | repeating
    :: else
    fi;
    if
    :: how == QUIESCED -> same_process = 1
    :: else -> same_process = 0; repeat_all = 1
    fi;
    lost = lost | runs; runs = 0; repeating = 0; busy = 0; own_flush = NOTHING; own_covers = 0; ring = 0;
    link = DOWN
}

inline check_process() {        /* another process has none of what was not stable */
#ifndef ORDER_IS_ENOUGH
    if :: !same_process -> repeat_all = 1 :: else fi;
#endif
    same_process = 0
}

#define finished (done == BELOW(IOS))

active proctype Session() {
    byte k, m, n;
    do
    :: atomic { alive && deaths < DEATHS ->             /* the process dies: each cached block reaches the medium, or not */
        deaths++; alive = 0;
        for (k : 0 .. BLOCKS - 1) {
            if :: view[k] != stable[k] -> stable[k] = view[k] :: view[k] = stable[k] fi
        }
        k = 0;
        printf("device: its process dies; stable: block 0 has %d\n", stable[0]);
        check_medium();
        late = 0; late_rings = 0;
        for (k : 0 .. IOS - 1) { io[k].late_op = READ; io[k].late_block = 0; io[k].late_buffer = 0 }
        k = 0;
        if :: link != DOWN -> cut = 1 :: else fi;
        if :: past_possibly_alive -> gone = 1 :: else fi;
        same_process = 0 }
    :: d_step { !alive -> alive = 1; printf("device: another process is started\n") }

    :: d_step { cut ->
        printf("driver: sees that the session's process has exited\n");
        cut = 0; lose(DEAD) }
    :: d_step { gone ->
        printf("driver: sees that an earlier session's process has exited\n");
        gone = 0; past_possibly_alive = 0; suspect = 0; quarantined_rings = 0;
#ifndef QUARANTINE_FOR_EVER
        free_buffers = free_buffers | quarantined_buffers; quarantined_buffers = 0;
#endif
        skip }
    :: atomic { link != DOWN && !cut && !gone && silences < SILENCES ->
        silences++;
        if
        :: d_step { printf("driver: stops the session in order\n"); lose(QUIESCED) }
        :: d_step { printf("driver: gives a silent device up\n"); lose(POSSIBLY_ALIVE) }
        fi }

#ifdef REUSE_RING
    :: d_step { link == DOWN && alive ->
        ring = 0;
#else
    :: d_step { link == DOWN && alive && quarantined_rings != 3 ->
        ring = quarantined_rings & 1;
#endif
        printf("driver: connects, with ring %d\n", ring);
        assert(!(late_rings & BIT(ring)));              /* memory */
#ifndef COMPARE_LAST_SESSION
        check_process();
#endif
        link = HELD }
#ifdef NO_WAIT
    :: d_step { link == HELD && !cut ->
#else
    :: d_step { link == HELD && !cut && !past_possibly_alive ->
#endif
#ifdef COMPARE_LAST_SESSION
        check_process();
#endif
        if
        :: repeat_all -> again = kept; report()
        :: else
        fi;
        repeat_all = 0;
        printf("driver: lets I/O go, to repeat: %d\n", again);
        link = UP }

#ifndef NO_OWN_FLUSH
    :: d_step { link == UP && room && !again && own_flush == NOTHING && kept && (n_kept >= KEEP || !free_buffers) ->
        printf("driver: flushes by itself\n");
        own_flush = PENDING; own_covers = kept | unkept; busy++ }
    :: d_step { own_flush == PENDING && alive && !cut ->
        printf("device: has done the driver's flush\n");
        do_flush(); own_flush = ANSWERED }
    :: d_step { own_flush == ANSWERED && link == UP ->
        printf("driver: takes the answer of its flush\n");
        busy--; own_flush = NOTHING; release(own_covers); own_covers = 0 }
#endif

    :: timeout ->
        assert(finished);                               /* stuck */
        m = free_buffers | quarantined_buffers;
        for (k : 0 .. IOS - 1) {
            if :: kept & BIT(k) -> m = m | io[k].buffer :: else fi
        }
        assert(m == BELOW(BUFFERS) && (past_possibly_alive || !quarantined_buffers));       /* balance */
        break
    od
}
