/* Cordee's protocol: the elastic step, the rendezvous, fencing, and a coordinator that may die at any moment.
 *
 * Every transition is one guarded, indivisible step, as in the code: a process acts between two messages, the
 * coordinator takes one event and does all that follows from it (core/handlers.py, then core/turn.py), and what it
 * stores is stored before anything is sent. What may happen in between happens by interleaving: a death, a broken
 * stream, a freeze (SIGSTOP), a crash of the coordinator after any number of a turn's messages.
 *
 * A process is one incarnation; a slot is a worker id, whose agent runs one process at a time. Times are left out: a
 * timeout may strike whenever its reason is there (its process is dead or frozen), and never without one.
 *
 * All faults come from budgets, steps are finite and generations grow, so a history ends. Where it ends is checked: a
 * state in which nothing can happen is an error unless the job has succeeded and every process is gone (DONE
 * below), or too many workers were given up. Compiled with -DNP the checker shows that there is no cycle at all.
 * Together: whatever the order of things, the job gets done.
 *
 * README.md beside this file says what is checked, within which bounds, and what the mutants show.
 */

/* ------------------------------------------------------------------------------------------------------------ bounds */

#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef SPARES
#define SPARES 1            /* processes that may be started beyond the first of each slot */
#endif
#ifndef LAST
#define LAST 2              /* steps of the job */
#endif
#ifndef SHARDS
#define SHARDS 3
#endif
#ifndef MINIMUM
#define MINIMUM 1
#endif

/* What one compiled checker is told by its environment: see checker.py. */
c_decl { \#include <stdlib.h> }
c_code {
    static int told_to(const char *name, int otherwise) { const char *value = getenv(name); return value ? atoi(value) : otherwise; }
}
#define KILL 1              /* kill -9 of a process */
#define AGENT 2             /* kill -9 of an agent, with its process */
#define FREEZE 4            /* SIGSTOP, perhaps for ever */
#define POWER 8             /* a machine is gone, and no connection to it breaks */
#define BREAK 16            /* a broken stream between a worker and the coordinator */
#define LINK 32             /* a broken connection between two workers */
#define CRASH 64            /* kill -9 of the coordinator, between two turns or among a turn's messages */
#define SCALE 128           /* a user's wish for another number of workers */
#define LEAVE 256           /* SIGTERM to a worker */
#define SAVE 512            /* no fault: rank 0 may save a checkpoint */
#define MAY(kind) (faults > 0 && (kinds & kind))

/* The mutants: each leaves out something that the protocol needs, and the checker has to find what it breaks. */
#define WAIT_FOR_NOBODY 1           /* form a world before all live members have arrived */
#define FORGET_TO_FENCE 2           /* let a process that was counted as lost come back */
#define HEAL_FROM_ANYBODY 3         /* take the state of a member that is not the furthest */
#define COMMIT_IN_PART 4            /* apply the update before everybody's contribution is there */
#define STORE_LATE 5                /* store a world, a result, after it was sent */
#define FORM_AFTER_RESTART 6        /* do not wait for the members that a restarted coordinator knows from its store */
#define NO_ABORT 7                  /* tell nobody that the world is broken */
#define ASK_NO_LAUNCHER 8           /* start agents after a restart without asking which ones run */
#define FORGET_STREAMS 9            /* new workers begin anew while the old ones' streams are broken for a moment */
#define TRUST_HELLOS 10             /* take an old process's late Hello for a newer one's */

#define PROCS (SLOTS + SPARES)
#define NOBODY 15           /* no process; no state; an empty place in a packed list */
#define NONE 15
#define EMPTY 65535         /* four empty places */
#define WHOLE 255           /* the coordinator says all of this turn's messages */
#define ALL ((1 << SHARDS) - 1)

#define BIT(x) (1 << (x))
#define HAS(mask, x) (((mask) >> (x)) & 1)
#define AT(list, rank) (((list) >> (4 * (rank))) & 15)
#define MB(list, rank) (AT(list, rank) == NOBODY -> 0 : BIT(AT(list, rank)))
#define MASK(list) (MB(list, 0) | MB(list, 1) | MB(list, 2) | MB(list, 3))
#define OTHERS(p) (MASK(order[p]) & ~BIT(p))
#define SIZE(list) ((AT(list, 0) != NOBODY) + (AT(list, 1) != NOBODY) + (AT(list, 2) != NOBODY) + (AT(list, 3) != NOBODY))
#define RANK(list, p) (AT(list, 0) == (p) -> 0 : (AT(list, 1) == (p) -> 1 : (AT(list, 2) == (p) -> 2 : (AT(list, 3) == (p) -> 3 : NOBODY))))
/* elastic/tree.py, deal(): the shards of a rank, as a mask */
#define UPTO(n) ((1 << (n)) - 1)
#define DEAL(rank, size) (UPTO(((rank) + 1) * SHARDS / (size)) & ~UPTO((rank) * SHARDS / (size)))

/* --------------------------------------------------------------------------------------------------- worker processes */

#define UNBORN 0
#define IMPORTING 1
#define WAITING 2           /* at the rendezvous */
#define TRAINING 3
#define OUTSIDE 4           /* its run is over, the script goes on */
#define FINISHED 5          /* has its last word to say */
#define DEAD 6

byte mode[PROCS], slot[PROCS], gen[PROCS], step[PROCS];
int order[PROCS];                           /* its world: who, by rank */
byte giver[PROCS];                          /* who hands it the state; NOBODY: it holds it, or begins */
bit healed[PROCS], lost[PROCS], pending[PROCS], header[PROCS], leaving[PROCS];
byte sent[PROCS];                           /* to whom its contribution to the step at hand has gone */
byte got[PROCS * 2], shards[PROCS * 2];     /* whose contributions have come, by the step's parity */
bit flagged[PROCS * 2];                     /* one of them says that a change is pending */
bit frozen[PROCS], suspect[PROCS], vanished[PROCS];
byte next = 0;                              /* the next process to be born */
byte saved = 0;                             /* the newest checkpoint's step */

/* the streams: what a process has said and the coordinator has not read, and the other way round */
mtype = { attached, arrived, leaves, finished, detached };
mtype = { world, pend, abort, fence, drain, over, done };
chan up[PROCS] = [8] of { mtype };
chan down[PROCS] = [5] of { mtype, byte };
bit conn[PROCS];                            /* its stream is up, as it sees it */
bit known[PROCS];                           /* the coordinator has read its Hello on that stream */
byte wgen[PROCS];                           /* the World on its way to it */
int worder[PROCS], wsteps[PROCS];

/* ------------------------------------------------------------------------------------------------ agents, the launcher */

byte agents[SLOTS];                         /* how many run: to be 0 or 1 */
byte process[SLOTS];                        /* the agent's process */
bit starting[SLOTS], stopping[SLOTS];       /* what the launcher was told and has yet to do */
bit gone[SLOTS], exhausted[SLOTS];          /* an agent's exit that the coordinator has yet to hear of */
bit watched[SLOTS];                         /* the launcher knows of it */

/* ---------------------------------------------------------------------------------------------------- the coordinator */

#define JOINING 1
#define MEETING 2
#define AWAY 3              /* trains */
#define ENDED 4             /* has said its last word */
#define STOPPED 5
#define ABSENT 0
#define RUNNING 1
#define GOING 2
#define BROKE 1             /* missing: its stream broke */
#define AWAITED 2           /* missing: known from the store, worlds are held back for it */

/* stored */
byte dgen = 0, dwanted = SLOTS, dfenced = 0, ddone = 0, dstate = 0;
int dorder = EMPTY;
bit drecovering = 0;
byte inc[SLOTS];
bit retiring[SLOTS], givenup[SLOTS];
#define SUCCEEDED 1
#define FAILED 2

/* not stored */
bit alive = 0;
byte session[SLOTS], phase[SLOTS], sstep[SLOTS], missing[SLOTS], agent[SLOTS];
bit broken = 0, sleaving[SLOTS];
byte asked = 0, aborted = 0;
bit settling = 0, closing = 0;  /* it would form a world, or end the job, as soon as a time is over */
byte words = WHOLE;         /* how many messages are still said before it dies; WHOLE: it does not */

/* what the laws are about */
byte told = 0;              /* the newest generation that any process was ever told of */
byte counted_out = 0;       /* who was counted as lost */
byte cut_off = 0;           /* whose stream went down with the coordinator, and is not back yet */
byte acknowledged = 0;      /* whose Finished was acknowledged */

byte faults = 0;            /* how many are yet to come, of the allowed kinds */
hidden int kinds;
hidden byte mutant;
hidden int arg1, arg2, arg3;
hidden byte i1, i2, i3, i4, i5, r1, n1, n2, n3, n4, n5, n6, far, keeper, size, par, b1, b2, stay;
hidden int o1, s1;
hidden byte ok, few;

#define LIVES(p) (mode[p] != UNBORN && mode[p] != DEAD)
#define ACTS(p) (LIVES(p) && !frozen[p])
#define INSIDE(p, list) HAS(MASK(list), p)
#define OVER (dstate != 0)
#define FINISHING (ddone != 0)
#define FORMED (dgen != 0)
#define MEMBER(p) (INSIDE(p, dorder) && !HAS(dfenced, p))
#define LIVE(s) ((session[s] != NOBODY || missing[s] != 0) && inc[s] != NOBODY && MEMBER(inc[s]))
#if SLOTS == 2
#define GIVENUP (givenup[0] + givenup[1])
#else
#define GIVENUP (givenup[0] + givenup[1] + givenup[2])
#endif
#define USABLE(s) (!retiring[s] && !givenup[s])
#define DRAINING(s) (retiring[s] || givenup[s] || (session[s] != NOBODY && sleaving[s]))
/* all is at its end */
#define DONE (OVER && agents[0] == 0 && agents[1] == 0 && NOMORE && NOBODYLEFT)
#if SLOTS == 2
#define NOMORE (!(starting[0] && alive) && !(starting[1] && alive))
#else
#define NOMORE (agents[2] == 0 && !(starting[0] && alive) && !(starting[1] && alive) && !(starting[2] && alive))
#endif
#define P_GONE(p) (mode[p] == DEAD || mode[p] == UNBORN)
#if PROCS == 2
#define NOBODYLEFT (P_GONE(0) && P_GONE(1))
#elif PROCS == 3
#define NOBODYLEFT (P_GONE(0) && P_GONE(1) && P_GONE(2))
#elif PROCS == 4
#define NOBODYLEFT (P_GONE(0) && P_GONE(1) && P_GONE(2) && P_GONE(3))
#else
#define NOBODYLEFT (P_GONE(0) && P_GONE(1) && P_GONE(2) && P_GONE(3) && P_GONE(4))
#endif

/* ------------------------------------------------------------------------------------------ what processes are made of */

inline clear_up(p) {
    do :: nempty(up[p]) -> up[p]?_ :: empty(up[p]) -> break od
}
inline clear_down(p) {
    do :: nempty(down[p]) -> down[p]?_,_ :: empty(down[p]) -> break od;
    wgen[p] = 0; worder[p] = EMPTY; wsteps[p] = EMPTY
}
inline say(p, what) {
    if :: conn[p] -> assert(nfull(up[p])); up[p]!what :: else fi
}
inline leave_world(p) {
    healed[p] = 0; sent[p] = 0; header[p] = 0; pending[p] = 0;
    got[2*p] = 0; got[2*p+1] = 0; shards[2*p] = 0; shards[2*p+1] = 0; flagged[2*p] = 0; flagged[2*p+1] = 0
}
inline spawn(s) {
    assert(next < PROCS);
    mode[next] = IMPORTING; slot[next] = s; step[next] = NONE; order[next] = EMPTY; giver[next] = NOBODY;
    worder[next] = EMPTY; wsteps[next] = EMPTY;
    process[s] = next; next++
}
/* Everything that is not needed to tell histories apart is forgotten, once the coordinator has read its last words. */
inline forget(p) {
    if
    :: mode[p] == DEAD && !vanished[p] && len(up[p]) == 0 -> gen[p] = 0; step[p] = 0; order[p] = 0; giver[p] = 0; lost[p] = 0
    :: else
    fi
}
inline bury(p) {
    leave_world(p);
    mode[p] = DEAD; conn[p] = 0; known[p] = 0; leaving[p] = 0; frozen[p] = 0;
    clear_down(p); forget(p); cut_off = cut_off & ~BIT(p)
}
/* The process ends; its stream breaks behind its last words, if it is up. */
inline die(p) {
    if
    :: conn[p] && alive -> assert(nfull(up[p])); up[p]!detached
    :: else
    fi;
    bury(p)
}
inline agent_exits(s) {
    agents[s]--; process[s] = NOBODY; watched[s] = 0;
    if :: alive -> gone[s] = 1 :: else fi
}
/* What an agent does when its process has died: another one, or none because it gives up or was told to. */
inline after_death(p, again) {
    b1 = slot[p];
    if
    :: agents[b1] && process[b1] == p ->
        if
        :: again && next < PROCS -> spawn(b1)
        :: else -> if :: again && alive -> exhausted[b1] = 1 :: else fi; agent_exits(b1)
        fi
    :: else
    fi
}
#define PEER_GONE(p, q) (INSIDE(q, order[p]) && q != p && ((mode[q] == DEAD && !vanished[q]) || (mode[q] != DEAD && (gen[q] > gen[p] || (gen[q] == gen[p] && mode[q] != TRAINING)))))
#if PROCS == 2
#define SOMEBODY_GONE(p) (PEER_GONE(p, 0) || PEER_GONE(p, 1))
#elif PROCS == 3
#define SOMEBODY_GONE(p) (PEER_GONE(p, 0) || PEER_GONE(p, 1) || PEER_GONE(p, 2))
#elif PROCS == 4
#define SOMEBODY_GONE(p) (PEER_GONE(p, 0) || PEER_GONE(p, 1) || PEER_GONE(p, 2) || PEER_GONE(p, 3))
#else
#define SOMEBODY_GONE(p) (PEER_GONE(p, 0) || PEER_GONE(p, 1) || PEER_GONE(p, 2) || PEER_GONE(p, 3) || PEER_GONE(p, 4))
#endif

inline go_to_meet(p, because_lost) {
    leave_world(p);
    order[p] = EMPTY; giver[p] = NOBODY;
    mode[p] = WAITING; lost[p] = because_lost;
    say(p, arrived)
}
inline furthest_of(list, result) {
    result = NONE;
    for (i4 : 0 .. 3) {
        if :: AT(list, i4) != NONE && (result == NONE || AT(list, i4) > result) -> result = AT(list, i4) :: else fi
    }
}
/* elastic/heal.py: who gives this member the state; NOBODY: it holds it, or it is the one who begins. */
inline find_giver(p, list, arrived_with) {
    furthest_of(arrived_with, far);
    for (i4 : 0 .. 3) { if :: mutant == HEAL_FROM_ANYBODY && AT(arrived_with, 3 - i4) != NONE -> far = AT(arrived_with, 3 - i4) :: else fi };
    n1 = 0; n2 = 0; n3 = NOBODY;            /* n1: holders; n2: takers so far; n3: this one's place among them */
    for (i4 : 0 .. 3) {
        if
        :: AT(list, i4) != NOBODY && (far == NONE -> i4 == 0 : AT(arrived_with, i4) == far) -> n1++
        :: AT(list, i4) != NOBODY && !(far == NONE -> i4 == 0 : AT(arrived_with, i4) == far) ->
            if :: AT(list, i4) == p -> n3 = n2 :: else fi;
            n2++
        :: else
        fi
    };
    giver[p] = NOBODY;
    if
    :: n3 != NOBODY ->
        n2 = n3 % n1; n1 = 0;
        for (i4 : 0 .. 3) {
            if
            :: AT(list, i4) != NOBODY && (far == NONE -> i4 == 0 : AT(arrived_with, i4) == far) ->
                if :: n1 == n2 -> giver[p] = AT(list, i4) :: else fi;
                n1++
            :: else
            fi
        }
    :: else
    fi
}
inline end_if_done(p) {
    if
    :: step[p] >= LAST -> mode[p] = OUTSIDE; leave_world(p)
    :: else
    fi
}

#define PARITY(p) (2*p + ((step[p] + 1) & 1))
#define HAS_ENOUGH(p) (got[PARITY(p)] == OTHERS(p) || (mutant == COMMIT_IN_PART && got[PARITY(p)] != 0))
#define HAS_SOMETHING_FOR(p, q) (ACTS(p) && mode[p] == TRAINING && healed[p] && q != p && INSIDE(q, order[p]) && !HAS(sent[p], q))
#define SEND_TO(q) d_step { HAS_SOMETHING_FOR(p, q) && gen[q] == gen[p] && (mode[q] == TRAINING || (mode[q] == DEAD && vanished[q])) -> \
            if :: sent[p] == 0 -> header[p] = pending[p] :: else fi; \
            sent[p] = sent[p] | BIT(q); \
            if \
            :: mode[q] == TRAINING -> \
                assert(order[q] == order[p]);                               /* one world at one generation */ \
                assert(!healed[q] || step[q] == step[p] || step[q] + 1 == step[p]); \
                par = 2*q + ((step[p] + 1) & 1); \
                n4 = DEAL(RANK(order[p], p), SIZE(order[p])); \
                assert(!HAS(got[par], p) && (shards[par] & n4) == 0);        /* no shard twice */ \
                got[par] = got[par] | BIT(p); shards[par] = shards[par] | n4; \
                flagged[par] = flagged[par] || header[p] \
            :: else                                                          /* the kernel took it, and nobody reads it */ \
            fi }

proctype Worker(byte p) {
end:do

    /* -- the stream (worker/session_state.py): what the coordinator must know is said again on every new one */
    :: d_step { ACTS(p) && !conn[p] && alive && mode[p] != UNBORN ->
            conn[p] = 1; known[p] = 0; clear_down(p);
            up[p]!attached;
            if :: leaving[p] -> up[p]!leaves :: else fi;
            if :: mode[p] == WAITING -> up[p]!arrived :: mode[p] == FINISHED -> up[p]!finished :: else fi }
    /* the shell drops an earlier stream of the same process without a word */
    :: d_step { ACTS(p) && !conn[p] && alive && nempty(up[p]) ->
            clear_up(p); conn[p] = 1; known[p] = 0; clear_down(p);
            up[p]!attached;
            if :: leaving[p] -> up[p]!leaves :: else fi;
            if :: mode[p] == WAITING -> up[p]!arrived :: mode[p] == FINISHED -> up[p]!finished :: else fi }

    :: d_step { ACTS(p) && nempty(down[p]) && down[p]?[world,_] ->
            down[p]?world,b2;
            if
            :: mode[p] == WAITING && wgen[p] > gen[p] ->
                gen[p] = wgen[p]; order[p] = worder[p]; mode[p] = TRAINING; lost[p] = 0;
                find_giver(p, worder[p], wsteps[p])
            :: else
            fi;
            wgen[p] = 0; worder[p] = EMPTY; wsteps[p] = EMPTY }
    :: d_step { ACTS(p) && nempty(down[p]) && down[p]?[pend,_] ->
            down[p]?pend,b2;
            if :: b2 == gen[p] && mode[p] == TRAINING -> pending[p] = 1 :: else fi }
    :: d_step { ACTS(p) && nempty(down[p]) && down[p]?[abort,_] ->
            down[p]?abort,b2;
            if :: b2 == gen[p] && mode[p] == TRAINING -> go_to_meet(p, step[p] != NONE) :: else fi }
    :: d_step { ACTS(p) && nempty(down[p]) && down[p]?[fence,_] -> die(p); after_death(p, 1) }
    :: d_step { ACTS(p) && nempty(down[p]) && (down[p]?[drain,_] || down[p]?[over,_] || down[p]?[done,_]) ->
            die(p); after_death(p, 0) }

    /* -- the script */
    :: d_step { ACTS(p) && mode[p] == IMPORTING -> go_to_meet(p, 0) }
    :: d_step { ACTS(p) && mode[p] == OUTSIDE -> assert(step[p] == LAST); mode[p] = FINISHED; say(p, finished) }

    /* -- the elastic step (trainer/elastic) */
    :: d_step { ACTS(p) && mode[p] == TRAINING && !healed[p] && giver[p] == NOBODY ->
            if :: step[p] == NONE -> step[p] = saved :: else fi;             /* all are new: rank 0 begins */
            healed[p] = 1; end_if_done(p) }
    :: d_step { ACTS(p) && mode[p] == TRAINING && !healed[p] && giver[p] != NOBODY && gen[giver[p]] == gen[p] &&
                ((mode[giver[p]] == TRAINING && healed[giver[p]]) || mode[giver[p]] == OUTSIDE) ->
            assert(order[giver[p]] == order[p] || mode[giver[p]] == OUTSIDE);
            assert(step[p] == NONE || step[p] <= step[giver[p]]);            /* nobody goes back */
            step[p] = step[giver[p]]; healed[p] = 1; end_if_done(p) }
    :: d_step { ACTS(p) && mode[p] == TRAINING && SOMEBODY_GONE(p) -> go_to_meet(p, step[p] != NONE) }

    /* a contribution goes to one peer after the other: who dies in between leaves some with it and some without */
    :: SEND_TO(0)
    :: SEND_TO(1)
#if PROCS > 2
    :: SEND_TO(2)
#endif
#if PROCS > 3
    :: SEND_TO(3)
#endif
#if PROCS > 4
    :: SEND_TO(4)
#endif
    /* commit without a vote: whoever holds the whole sum applies it */
    :: d_step { ACTS(p) && mode[p] == TRAINING && healed[p] && sent[p] == OTHERS(p) && HAS_ENOUGH(p) ->
            par = PARITY(p);
            assert((shards[par] | DEAL(RANK(order[p], p), SIZE(order[p]))) == ALL);      /* every shard, */
            assert((shards[par] & DEAL(RANK(order[p], p), SIZE(order[p]))) == 0);        /* exactly once */
            ok = flagged[par] || (sent[p] == 0 -> pending[p] : header[p]);
            got[par] = 0; shards[par] = 0; flagged[par] = 0; sent[p] = 0; header[p] = 0;
            step[p]++;
            end_if_done(p);
            if :: mode[p] == TRAINING && ok -> go_to_meet(p, 0) :: else fi }
    od
}

/* ------------------------------------------------------------------------------------------- the coordinator's rules */

/* A message: dropped when the stream is gone, or when the coordinator dies before it is said. */
inline tell(p, what, number) {
    if
    :: words == 0
    :: words != 0 ->
        if :: words != WHOLE -> words-- :: else fi;
        if
        :: conn[p] && known[p] && LIVES(p) -> assert(nfull(down[p])); down[p]!what(number)
        :: else
        fi
    fi
}
inline bar(p) {
    if :: mutant != FORGET_TO_FENCE -> dfenced = dfenced | BIT(p) :: else fi
}
/* A member is lost for certain. */
inline lose(s) {
    assert(P_GONE(inc[s]) || suspect[inc[s]]);      /* nobody is given up who is well */
    bar(inc[s]);
    counted_out = counted_out | BIT(inc[s]);
    missing[s] = 0;
    if :: !FINISHING -> broken = 1 :: else fi
}
inline stop_with(s, what) {
    tell(session[s], what, 0); phase[s] = STOPPED
}
inline dismiss(s, what) {
    dfenced = dfenced | BIT(session[s]); stop_with(s, what)
}
inline stop_agent(s) {
    agent[s] = GOING; stopping[s] = 1; starting[s] = 0
}
inline end_job(state) {
    if
    :: !OVER ->
        dstate = state;
        for (i3 : 0 .. SLOTS - 1) {
            missing[i3] = 0;
            if :: session[i3] != NOBODY && phase[i3] != STOPPED && phase[i3] != ENDED -> stop_with(i3, over) :: else fi
        }
    :: else
    fi
}

/* Members by rank: who stays in their old order, then who joins, by slot. */
inline form() {
    o1 = EMPTY; s1 = EMPTY; size = 0;
    for (i2 : 0 .. 3) {
        if
        :: AT(dorder, i2) != NOBODY && HAS(stay, slot[AT(dorder, i2)]) && session[slot[AT(dorder, i2)]] == AT(dorder, i2) && MEMBER(AT(dorder, i2)) ->
            r1 = AT(dorder, i2);
            o1 = (o1 & ~(15 << (4 * size))) | (r1 << (4 * size));
            s1 = (s1 & ~(15 << (4 * size))) | (sstep[slot[r1]] << (4 * size));
            size++
        :: else
        fi
    };
    for (i2 : 0 .. SLOTS - 1) {
        if
        :: HAS(stay, i2) && !MEMBER(session[i2]) ->
            o1 = (o1 & ~(15 << (4 * size))) | (session[i2] << (4 * size));
            s1 = (s1 & ~(15 << (4 * size))) | (sstep[i2] << (4 * size));
            size++
        :: else
        fi
    };
    dgen++;
    assert(dgen < 12);                                      /* worlds are formed for a reason */
    assert(dgen > told);                                    /* no two worlds at one generation */
    /* The furthest committed step is not lost while a holder lives. */
    for (i2 : 0 .. PROCS - 1) {
        if
        :: LIVES(i2) && !suspect[i2] && INSIDE(i2, dorder) && !HAS(dfenced, i2) && step[i2] != NONE ->
            assert(far != NONE && step[i2] <= far + !known[i2])
        :: INSIDE(i2, o1) -> assert(!HAS(dfenced, i2) && !HAS(counted_out, i2))     /* who was lost stays out */
        :: else
        fi
    };
    for (i2 : 0 .. 3) {
        if
        :: AT(dorder, i2) != NOBODY && !INSIDE(AT(dorder, i2), o1) ->
            /* who trains on while the coordinator is away is not left behind by the next one */
            assert(!HAS(cut_off, AT(dorder, i2)) || HAS(dfenced, AT(dorder, i2)) || suspect[AT(dorder, i2)]);
            dfenced = dfenced | BIT(AT(dorder, i2));
            if :: inc[slot[AT(dorder, i2)]] == AT(dorder, i2) -> missing[slot[AT(dorder, i2)]] = 0 :: else fi
        :: else
        fi
    };
    dorder = o1; broken = 0; asked = 0; aborted = 0;
    for (i2 : 0 .. 3) {
        if
        :: AT(o1, i2) != NOBODY ->
            r1 = AT(o1, i2);
            phase[slot[r1]] = AWAY;
            if :: words != 0 -> told = dgen :: else fi;
            if :: words != 0 && conn[r1] && known[r1] && LIVES(r1) -> wgen[r1] = dgen; worder[r1] = o1; wsteps[r1] = s1 :: else fi;
            tell(r1, world, dgen)
        :: else
        fi
    };
    few = 0
}

/* core/rendezvous.py, decide(): `settled` is whether the settle time is over. */
inline meet(settled) {
    n1 = 0; n2 = 0; n3 = 0; far = NONE; keeper = NOBODY; stay = 0; b2 = 0;
    /* n1: awaited; n2: expected; n3: usable; stay: who waits and stays; b2: who waits and may go */
    for (i2 : 0 .. SLOTS - 1) {
        if :: USABLE(i2) -> n3++; if :: !DRAINING(i2) -> n2++ :: else fi :: else fi;
        if
        :: session[i2] != NOBODY && phase[i2] == MEETING ->
            if :: DRAINING(i2) -> b2 = b2 | BIT(i2) :: else -> stay = stay | BIT(i2) fi;
            if :: sstep[i2] != NONE && (far == NONE || sstep[i2] > far) -> far = sstep[i2] :: else fi
        :: else ->
            if :: LIVE(i2) && (missing[i2] != BROKE) -> n1++ :: else fi
        fi
    };
    /* A stream that broke: survivors go on without it, for it is a step ahead at most. New ones wait what becomes of it. */
    for (i2 : 0 .. SLOTS - 1) {
        if :: far == NONE && LIVE(i2) && missing[i2] == BROKE && mutant != FORGET_STREAMS -> n1++ :: else fi
    };
    if :: mutant == WAIT_FOR_NOBODY -> n1 = 0 :: else fi;
    if
    :: n1 == 0 && (stay | b2) != 0 ->
        /* A draining worker that alone holds the furthest step is kept for one more world. */
        ok = 0;
        for (i2 : 0 .. SLOTS - 1) {
            if :: HAS(stay, i2) && far != NONE && sstep[i2] == far -> ok = 1 :: else fi
        };
        if
        :: far != NONE && !ok ->
            r1 = NOBODY;
            for (i2 : 0 .. SLOTS - 1) {
                if
                :: HAS(b2, i2) && sstep[i2] == far && RANK(dorder, session[i2]) < r1 -> r1 = RANK(dorder, session[i2]); keeper = i2
                :: else
                fi
            };
            if :: keeper != NOBODY && n3 > USABLE(keeper) -> stay = stay | BIT(keeper); b2 = b2 & ~BIT(keeper) :: else fi
        :: else
        fi;
        for (i2 : 0 .. SLOTS - 1) {
            if :: HAS(b2, i2) -> dismiss(i2, drain) :: else fi
        };
        size = 0;
        for (i2 : 0 .. SLOTS - 1) { size = size + HAS(stay, i2) };
        few = (size < MINIMUM || size == 0);
        settling = (!few && far == NONE && size < n2 && !settled);
        if :: !few && !settling -> form() :: else fi
    :: else
    fi
}

hidden byte o_gen, o_fenced, o_done;
hidden int o_order;
inline crash() {
    alive = 0; broken = 0; settling = 0; closing = 0; asked = 0; aborted = 0;
    for (i5 : 0 .. SLOTS - 1) {
        session[i5] = NOBODY; phase[i5] = 0; sstep[i5] = 0; missing[i5] = 0; agent[i5] = ABSENT; sleaving[i5] = 0;
        starting[i5] = 0; stopping[i5] = 0; gone[i5] = 0; exhausted[i5] = 0; watched[i5] = 0
    };
    for (i5 : 0 .. PROCS - 1) {
        if :: known[i5] && LIVES(i5) -> cut_off = cut_off | BIT(i5) :: else fi;
        conn[i5] = 0; known[i5] = 0; clear_up(i5); forget(i5)
    };
    words = WHOLE
}
/* Dead, when its words are used up: what it knew and did not store is gone, and so are the streams. */
inline end_turn() {
    if
    :: words != WHOLE ->
        if :: mutant == STORE_LATE -> dgen = o_gen; dorder = o_order; dfenced = o_fenced; ddone = o_done :: else fi;
        crash()
    :: else
    fi
}
/* core/turn.py, core/meeting.py: after every event, what must be done, whatever the event was. */
inline resize() {
    n1 = 0;
    for (i1 : 0 .. SLOTS - 1) { n1 = n1 + USABLE(i1) };
    do                                      /* scaled away first: who goes anyway, who trains not, then high ranks */
    :: n1 > dwanted ->
        n2 = 0; r1 = 0;
        for (i1 : 0 .. SLOTS - 1) {
            if
            :: USABLE(i1) ->
                n3 = 1 + 64 * DRAINING(i1) + 8 * (LIVE(i1) -> RANK(dorder, inc[i1]) : 7) + i1;
                if :: n3 > n2 -> n2 = n3; r1 = i1 :: else fi
            :: else
            fi
        };
        retiring[r1] = 1; n1--
    :: else -> break
    od;
    for (i1 : 0 .. SLOTS - 1) {
        if
        :: n1 < dwanted && retiring[i1] ->
            /* a slot that is gone already is made anew: its last process left this very world */
            if :: agent[i1] == ABSENT && inc[i1] != NOBODY -> dfenced = dfenced | BIT(inc[i1]) :: else fi;
            retiring[i1] = 0; n1++
        :: else
        fi
    }
}
inline part_with_retired() {
    for (i1 : 0 .. SLOTS - 1) {
        if
        :: retiring[i1] && !LIVE(i1) ->
            if
            :: session[i1] != NOBODY -> if :: phase[i1] != STOPPED -> dismiss(i1, drain) :: else fi
            :: session[i1] == NOBODY && agent[i1] == RUNNING -> stop_agent(i1)
            :: else
            fi
        :: else
        fi
    }
}
inline call_members() {
    n1 = 0; n2 = 0; n3 = 0; n4 = 0; n5 = 0; n6 = 0;
    /* n1: live; n2: of them draining; n3: joiners; n4: usable; n5: live, usable and draining; n6: computing */
    for (i1 : 0 .. SLOTS - 1) {
        if :: USABLE(i1) -> n4++ :: else fi;
        if
        :: LIVE(i1) ->
            n1++;
            if :: DRAINING(i1) -> n2++; if :: USABLE(i1) -> n5++ :: else fi :: else fi;
            if :: session[i1] != NOBODY && phase[i1] == AWAY -> n6 = n6 | BIT(i1) :: else fi
        :: else
        fi;
        if :: session[i1] != NOBODY && phase[i1] == MEETING && !DRAINING(i1) && !MEMBER(session[i1]) -> n3++ :: else fi
    };
    if
    :: FORMED && n1 > 0 && broken ->
        for (i1 : 0 .. SLOTS - 1) {
            if :: HAS(n6, i1) && !HAS(aborted, i1) && mutant != NO_ABORT -> aborted = aborted | BIT(i1); tell(session[i1], abort, dgen) :: else fi
        }
    :: FORMED && n1 > 0 && !broken ->
        r1 = (n2 > 0 && n1 == n2);          /* somebody would have to be kept for its state */
        if
        :: asked != 0 || (n3 > 0 && n1 - n2 + n3 + r1 >= MINIMUM) || (n2 > 0 && (n1 > n2 || n2 > 1 || n4 - n5 == 0)) ->
            for (i1 : 0 .. SLOTS - 1) {
                if :: HAS(n6, i1) && !HAS(asked, i1) -> asked = asked | BIT(i1); tell(session[i1], pend, dgen) :: else fi
            }
        :: else
        fi
    :: else
    fi
}
inline start_agents() {
    for (i1 : 0 .. SLOTS - 1) {
        if :: USABLE(i1) && agent[i1] == ABSENT -> agent[i1] = RUNNING; starting[i1] = 1 :: else fi
    }
}
inline finish(due) {
    n1 = 0; n2 = NOBODY; n3 = NOBODY;       /* n1: awaited; n2: the lowest rank that has finished; n3: that is awaited */
    for (i1 : 0 .. SLOTS - 1) {
        if
        :: session[i1] != NOBODY && (phase[i1] == MEETING || (FORMED && phase[i1] == JOINING)) -> dismiss(i1, over)
        :: else
        fi;
        if
        :: missing[i1] != 0 || (session[i1] != NOBODY && phase[i1] == AWAY && !HAS(ddone, session[i1])) ->
            n1++;
            if :: RANK(dorder, inc[i1]) < n3 -> n3 = RANK(dorder, inc[i1]) :: else fi
        :: else
        fi
    };
    for (i1 : 0 .. 3) {
        if :: AT(dorder, i1) != NOBODY && HAS(ddone, AT(dorder, i1)) && n2 == NOBODY -> n2 = i1 :: else fi
    };
    closing = (n1 != 0 && n2 < n3);
    if :: n1 == 0 || (due && closing) -> closing = 0; end_job(SUCCEEDED) :: else fi
}
inline reconcile(settled, due) {
    few = 0; settling = 0; closing = 0;
    if
    :: !OVER && FINISHING -> finish(due)
    :: !OVER && !FINISHING ->
        resize();
        part_with_retired();
        meet(settled);
        call_members();
        start_agents();
        /* the state that is stored: recovering, or not (lifecycle.py, state_of) */
        n1 = 0; n2 = 0;
        for (i1 : 0 .. SLOTS - 1) {
            n1 = n1 + LIVE(i1); n2 = n2 + (session[i1] != NOBODY && phase[i1] == MEETING)
        };
        drecovering = FORMED && (broken || few || (n1 == 0 && n2 < MINIMUM))
    :: else
    fi;
    end_turn()
}
inline begin_turn() {
    o_gen = dgen; o_order = dorder; o_fenced = dfenced; o_done = ddone
}

/* core/handlers.py: one event each. */
inline earlier(s, q) {
    if :: session[s] != q && inc[s] != q && mutant != TRUST_HELLOS -> dfenced = dfenced | BIT(q) :: else fi
}
inline supersede(s, p) {
    if :: session[s] != NOBODY -> tell(session[s], fence, 0) :: else fi;
    if :: inc[s] != NOBODY && LIVE(s) -> lose(s) :: else fi;
    if :: inc[s] != NOBODY -> bar(inc[s]) :: else fi;
    session[s] = NOBODY; inc[s] = p
}
/* While it finishes a job does not wait for a stream to come back. */
inline lose_finishing(s) {
    bar(inc[s]); missing[s] = 0
}
inline on_attached(p) {
    b1 = slot[p]; known[p] = !(up[p]??[detached]);    /* it may be broken already */
    cut_off = cut_off & ~BIT(p);
    /* Hello.previous: a word of the process before it that comes late is not taken for a newer one's */
    for (i5 : 0 .. PROCS - 1) { if :: i5 < p && mode[i5] != UNBORN && slot[i5] == b1 -> earlier(b1, i5) :: else fi };
    if
    :: OVER -> tell(p, over, 0)
    :: else ->
        if
        :: givenup[b1] || (retiring[b1] && agent[b1] == ABSENT) -> tell(p, drain, 0)
        :: else ->
            ok = inc[b1] == p && MEMBER(p);
            if
            :: retiring[b1] && !ok -> dfenced = dfenced | BIT(p); tell(p, drain, 0)
            :: !(retiring[b1] && !ok) && HAS(dfenced, p) -> tell(p, fence, 0)
            :: !(retiring[b1] && !ok) && !HAS(dfenced, p) && mutant != FORGET_TO_FENCE && gen[p] > (ok -> dgen : 0) ->
                dfenced = dfenced | BIT(p); tell(p, fence, 0)
            :: else ->
                if
                :: FINISHING && inc[b1] != p -> tell(p, over, 0)
                :: else ->
                    if :: inc[b1] != p -> supersede(b1, p) :: else fi;
                    asked = asked & ~BIT(b1); aborted = aborted & ~BIT(b1);
                    missing[b1] = 0; session[b1] = p; sleaving[b1] = 0;
                    phase[b1] = (ok -> AWAY : JOINING);
                    sstep[b1] = NONE
                fi
            fi
        fi
    fi
}
inline on_detached(p) {
    b1 = slot[p];
    if
    :: session[b1] == p ->
        session[b1] = NOBODY; sleaving[b1] = 0; sstep[b1] = 0; n1 = phase[b1]; phase[b1] = 0;
        if
        :: n1 == STOPPED || !MEMBER(p) || OVER
        :: else ->
            if
            :: FINISHING -> if :: n1 != ENDED -> lose_finishing(b1) :: else fi
            :: else -> missing[b1] = BROKE
            fi
        fi
    :: else
    fi
}
inline on_arrived(p) {
    b1 = slot[p];
    if
    :: session[b1] == p && phase[b1] != STOPPED && phase[b1] != ENDED ->
        ok = MEMBER(p);
        if
        :: gen[p] > (ok -> dgen : 0) -> dfenced = dfenced | BIT(p); stop_with(b1, fence)
        :: gen[p] <= (ok -> dgen : 0) && FINISHING -> dismiss(b1, over)
        :: gen[p] <= (ok -> dgen : 0) && !FINISHING && !ok && DRAINING(b1) -> dismiss(b1, drain)
        :: else ->
            phase[b1] = MEETING;
            sstep[b1] = (ok -> step[p] : NONE);
            if :: ok && (lost[p] || gen[p] < dgen) -> broken = 1 :: else fi
        fi
    :: else
    fi
}
inline on_leaving(p) {
    b1 = slot[p];
    if
    :: session[b1] == p && phase[b1] != STOPPED && phase[b1] != ENDED ->
        sleaving[b1] = 1;
        if :: !MEMBER(p) -> dismiss(b1, drain) :: else fi
    :: else
    fi
}
inline on_finished(p) {
    b1 = slot[p];
    if
    :: session[b1] == p && phase[b1] != STOPPED ->
        if
        :: !HAS(ddone, p) && !MEMBER(p) -> bar(p); stop_with(b1, fence)
        :: else ->
            ddone = ddone | BIT(p);
            if :: words != 0 -> acknowledged = acknowledged | BIT(p) :: else fi;
            tell(p, done, 0); phase[b1] = ENDED
        fi
    :: else
    fi
}
inline on_agent_exited(s, worn_out) {
    agent[s] = ABSENT;
    if
    :: OVER || givenup[s]
    :: else ->
        if :: missing[s] != 0 -> lose(s) :: else fi;
        if
        :: !retiring[s] && !FINISHING && worn_out ->
            givenup[s] = 1; dwanted--;
            if :: dwanted < MINIMUM -> end_job(FAILED) :: else fi
        :: else
        fi
    fi
}
/* A new coordinator, on what is stored, with what the launcher finds. */
inline recover() {
    assert((acknowledged & ~ddone) == 0);           /* who was told that it may go is not forgotten */
    alive = 1;
    for (i5 : 0 .. SLOTS - 1) {
        agent[i5] = (agents[i5] > 0 && mutant != ASK_NO_LAUNCHER -> RUNNING : ABSENT);
        watched[i5] = agent[i5] == RUNNING;
        if
        :: !OVER && inc[i5] != NOBODY && MEMBER(inc[i5]) && !HAS(ddone, inc[i5]) ->
            missing[i5] = (mutant == FORM_AFTER_RESTART -> BROKE : AWAITED)
        :: else
        fi
    };
    if :: drecovering && !OVER -> broken = 1 :: else fi
}

hidden mtype word;

/* What a process has said, one stream each. */
proctype Ear(byte p) {
end:do
    :: d_step { alive && nempty(up[p]) ->
            up[p]?word; begin_turn();
            if
            :: word == attached -> on_attached(p)
            :: word == arrived -> on_arrived(p)
            :: word == leaves -> on_leaving(p)
            :: word == finished -> on_finished(p)
            :: word == detached -> on_detached(p)
            fi;
            reconcile(0, 0); forget(p) }
    od
}

#define HANGS(p) (frozen[p] || (mode[p] == DEAD && vanished[p]))
/* Timeouts, and the launcher, by slot. */
proctype Watch(byte s) {
end:do
    /* missing for too long (the stream of a process that is well comes back in time); or its stream is up, and nothing is
     * heard of it */
    :: d_step { alive && !OVER && ((missing[s] != 0 && (P_GONE(inc[s]) || frozen[inc[s]])) ||
                (session[s] != NOBODY && HANGS(session[s]) && (phase[s] == JOINING || phase[s] == MEETING || phase[s] == AWAY))) ->
            begin_turn();
            if
            :: missing[s] != 0 -> lose(s)
            :: else ->
                if :: MEMBER(session[s]) -> lose(s) :: else fi;
                bar(session[s]); stop_with(s, fence);
                if :: agent[s] == RUNNING -> stop_agent(s) :: else fi
            fi;
            reconcile(0, 0) }
    /* an agent without a worker that attaches; a worker that was told to stop and does not; at the end, all */
    :: d_step { alive && agent[s] == RUNNING && ((!starting[s] && !gone[s] &&
                (agents[s] == 0 || process[s] == NOBODY || frozen[process[s]]) &&
                (session[s] == NOBODY || phase[s] == STOPPED || phase[s] == ENDED)) || (OVER && session[s] == NOBODY)) ->
            begin_turn(); stop_agent(s); end_turn() }

    :: d_step { alive && starting[s] && !stopping[s] ->
            starting[s] = 0;
            if
            :: watched[s]                                       /* idempotent by worker id */
            :: !watched[s] && next < PROCS -> agents[s]++; watched[s] = 1; spawn(s)
            :: !watched[s] && next == PROCS -> gone[s] = 1; exhausted[s] = 1
            fi;
            assert(agents[s] <= 1) }                            /* no worker starts twice */
    :: d_step { alive && stopping[s] ->
            stopping[s] = 0;
            if
            :: agents[s] > 0 ->
                b2 = process[s];
                if :: b2 != NOBODY && LIVES(b2) -> die(b2) :: else fi;
                agent_exits(s)
            :: else -> if :: agent[s] == GOING -> gone[s] = 1 :: else fi
            fi }
    :: d_step { alive && gone[s] ->
            b2 = exhausted[s]; gone[s] = 0; exhausted[s] = 0;
            begin_turn(); on_agent_exited(s, b2); reconcile(0, 0) }
    od
}

proctype World() {
end:do
    /* a new coordinator; or: nobody holds state, and the settle time is over; somebody has finished, and the others had
     * their time */
    :: d_step { (!alive && !DONE) || (alive && !OVER && (settling || closing)) ->
            begin_turn();
            if
            :: !alive -> n5 = 0; n6 = 0; recover()
            :: else -> n5 = settling; n6 = closing
            fi;
            reconcile(n5, n6) }
    :: d_step { MAY(CRASH) && alive -> faults--; crash() }
    :: d_step { MAY(CRASH) && alive && words == WHOLE -> faults--; words = 0 }
    :: d_step { MAY(CRASH) && alive && words == WHOLE -> faults--; words = 1 }
    :: d_step { MAY(SCALE) && alive && !OVER && SLOTS - GIVENUP > MINIMUM ->
            faults--; begin_turn();
            dwanted = (dwanted > MINIMUM -> MINIMUM : SLOTS - GIVENUP);
            reconcile(0, 0) }
    od
}

/* What befalls a process. */
proctype Fate(byte p) {
end:do
    :: d_step { LIVES(p) && MAY(KILL) -> faults--; die(p); after_death(p, 1) }
    :: d_step { LIVES(p) && MAY(KILL) && conn[p] && nempty(up[p]) -> faults--; clear_up(p); die(p); after_death(p, 1) }
    :: d_step { LIVES(p) && MAY(AGENT) -> faults--; b1 = slot[p]; die(p); agent_exits(b1) }
    :: d_step { LIVES(p) && !frozen[p] && MAY(FREEZE) -> faults--; frozen[p] = 1; suspect[p] = 1 }
    :: d_step { LIVES(p) && frozen[p] -> frozen[p] = 0 }
    :: d_step { LIVES(p) && MAY(POWER) ->
            faults--; vanished[p] = 1; b1 = slot[p]; agents[b1] = 0; process[b1] = NOBODY; watched[b1] = 0;
            clear_up(p); bury(p) }
    :: d_step { LIVES(p) && conn[p] && alive && MAY(BREAK) -> faults--; up[p]!detached; conn[p] = 0; known[p] = 0 }
    :: d_step { LIVES(p) && conn[p] && alive && MAY(BREAK) && nempty(up[p]) ->
            faults--; clear_up(p); up[p]!detached; conn[p] = 0; known[p] = 0 }
    :: d_step { ACTS(p) && mode[p] == TRAINING && MAY(LINK) && OTHERS(p) != 0 -> faults--; go_to_meet(p, step[p] != NONE) }
    :: d_step { ACTS(p) && MAY(LEAVE) && !leaving[p] && mode[p] != FINISHED && mode[p] != OUTSIDE ->
            faults--; leaving[p] = 1; say(p, leaves) }
    :: d_step { ACTS(p) && (kinds & SAVE) && mode[p] == TRAINING && healed[p] && RANK(order[p], p) == 0 && saved < step[p] ->
            saved = step[p] }
    od
}

init {
    d_step {
        c_code { arg1 = told_to("FAULTS", 0); arg2 = told_to("KINDS", 0); arg3 = told_to("MUTANT", 0); };
        faults = arg1; kinds = arg2; mutant = arg3;
        for (i1 : 0 .. SLOTS - 1) { session[i1] = NOBODY; inc[i1] = NOBODY; process[i1] = NOBODY };
        for (i1 : 0 .. PROCS - 1) { worder[i1] = EMPTY; wsteps[i1] = EMPTY; order[i1] = EMPTY; giver[i1] = NOBODY };
        c_code { arg1 = told_to("HALFWAY", 0); };
        if
        :: arg1 ->                      /* the first world trains, and everybody has been told of it */
            alive = 1; dgen = 1; told = 1;
            for (i1 : 0 .. SLOTS - 1) {
                agents[i1] = 1; watched[i1] = 1; agent[i1] = RUNNING; spawn(i1);
                inc[i1] = i1; session[i1] = i1; phase[i1] = AWAY; sstep[i1] = NONE;
                dorder = (dorder & ~(15 << (4 * i1))) | (i1 << (4 * i1));
                mode[i1] = TRAINING; gen[i1] = 1; step[i1] = 0; healed[i1] = 1; conn[i1] = 1; known[i1] = 1
            };
            for (i1 : 0 .. SLOTS - 1) { order[i1] = dorder }
        :: else
        fi;
        i1 = 0
    };
    atomic {
        for (i1 : 0 .. PROCS - 1) { run Worker(i1); run Ear(i1); run Fate(i1) };
        for (i1 : 0 .. SLOTS - 1) { run Watch(i1) };
        run World()
    };
    (DONE);
    assert(dstate == SUCCEEDED || SLOTS - GIVENUP < MINIMUM)      /* progress while the minimum lives */
}
