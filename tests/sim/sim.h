/* A cluster in one thread, driven by a seed.
 *
 * The whole worker runs for real (worker_main: control, session, committer, node_restore),
 * one coroutine a node that gives the turn back in epoll_wait; everything it calls out to
 * is simulated, by the linker's --wrap:
 *
 *   sim_world.c    clock, events, seed, trace, what was seen
 *   sim_run.c      seeds, one after the other and in processes beside each other
 *   sim_node.c     a node: worker as a coroutine, epoll, its death at any call
 *   sim_kept.c     what outlives a worker: keeper's table, ledgers, arenas
 *   sim_memory.c   what does not
 *   sim_conn.c     connections and messages
 *   sim_task.c     coroutines beside the workers
 *   sim_crew.c     crews: jobs wait for a thread, and die with their worker
 *   sim_rank.c     a rank: libckpt's side of the protocol
 *   sim_program.c  what ranks do, and which faults happen when
 *   sim_check.c    the laws of sessions and slots
 *   model*.c       test_sim: a model of the store and of what jobs do in it (model.h)
 *   cluster*.c     test_cluster: the jobs themselves, over simulated places (cluster.h)
 *
 * Bytes are words, and what a rank copies into a slot says of which save and which part
 * of the state they are.  A commit whose packs hold anything else is a lost
 * checkpoint. */
#pragma once

#include "ckptd/control.h"

#include "check.h"

#define SIM_NODES      8
#define SIM_LAUNCHES   10
#define SIM_WORLD      8
#define SIM_RANKS      (SIM_LAUNCHES * SIM_WORLD + 2)
#define SIM_CONNS      512
#define SIM_LEDGERS    128
#define SIM_ARENAS     128
#define SIM_JOBS       512
#define SIM_PARTS      4 /* slots of one save */
#define SIM_CHUNKS     16
#define SIM_ARENA_MAX  6 /* slots of an arena */
#define SIM_ATTEMPTS   256
#define SIM_PACKS      4096
#define SIM_ITEMS      16
#define SIM_OPS        64
#define SIM_MS         INT64_C(1000000)
#define SIM_S          INT64_C(1000000000)
#define SIM_SLOT_WORDS 512 /* of an arena's slot, at most */

/* ---- counted: each must have been seen in some seed ---- */
#define SIM_SEEN(X)                  \
    X(worker_death, BOTH)            \
    X(worker_death_at_message, BOTH) \
    X(worker_death_at_ledger, BOTH)  \
    X(worker_death_at_submit, BOTH)  \
    X(worker_death_at_keep, BOTH)    \
    X(worker_death_twice, BOTH)      \
    X(keeper_death, BOTH)            \
    X(both_dead, BOTH)               \
    X(stop, BOTH)                    \
    X(rank_death, BOTH)              \
    X(rank_death_copying, BOTH)      \
    X(rank_death_staged, BOTH)       \
    X(rank_absent, BOTH)             \
    X(rank_stalled, BOTH)            \
    X(link_broken, BOTH)             \
    X(reattach, BOTH)                \
    X(start_over, BOTH)              \
    X(repeat, BOTH)                  \
    X(messages_lost, BOTH)           \
    X(store_slow, MODEL)             \
    X(store_error, BOTH)             \
    X(store_error_after, BOTH)       \
    X(store_full, BOTH)              \
    X(store_hang, BOTH)              \
    X(replicas_differ, BOTH)         \
    X(second_launch, BOTH)           \
    X(zombie_launch, BOTH)           \
    X(superseded, BOTH)              \
    X(rollback, BOTH)                \
    X(rollback_superseded, BOTH)     \
    X(cancel, BOTH)                  \
    X(copy_failed, BOTH)             \
    X(deadline, BOTH)                \
    X(same_step_twice, BOTH)         \
    X(exists, BOTH)                  \
    X(unasked, BOTH)                 \
    X(committed, BOTH)               \
    X(aborted, BOTH)                 \
    X(committed_by_resolver, BOTH)   \
    X(empty_rank, BOTH)              \
    X(two_nodes, BOTH)               \
    X(load, BOTH)                    \
    X(load_failed, BOTH)             \
    X(load_shared, BOTH)             \
    X(load_again, BOTH)              \
    X(reader, BOTH)                  \
    X(told_failed_committed, BOTH)   \
    X(phase_hold, BOTH)              \
    X(phase_begin, BOTH)             \
    X(phase_copying, BOTH)           \
    X(phase_finish, BOTH)            \
    X(phase_commit, BOTH)            \
    X(phase_failput, BOTH)           \
    X(phase_abort, BOTH)             \
    X(phase_over, BOTH)              \
    X(phase_load, BOTH)              \
    X(slot_quarantined, BOTH)        \
    X(job_publish, BOTH)             \
    X(job_abort, BOTH)               \
    X(job_missing, BOTH)             \
    X(job_look, BOTH)                \
    X(held, BOTH)                    \
    X(not_planned, BOTH)             \
    X(drain_goes_on, MODEL)          \
    X(drain_waits, MODEL)            \
    X(epoch_taken, MODEL)            \
    X(link_cut, CLUSTER)             \
    X(cut_answer_lost, CLUSTER)      \
    X(node_lost, CLUSTER)            \
    X(node_replaced, CLUSTER)        \
    X(power_cut, CLUSTER)            \
    X(write_unsynced_lost, CLUSTER)  \
    X(store_throttled, CLUSTER)      \
    X(other_job, CLUSTER)            \
    X(other_world, CLUSTER)          \
    X(start_refused, CLUSTER)        \
    X(told_superseded, CLUSTER)      \
    X(point_agreed, CLUSTER)         \
    X(resolved_point, CLUSTER)       \
    X(resolved_nothing, CLUSTER)     \
    X(deleted, CLUSTER)              \
    X(undeleted, CLUSTER)            \
    X(delete_spared, CLUSTER)        \
    X(pruned, CLUSTER)               \
    X(collected, CLUSTER)            \
    X(collected_near, CLUSTER)       \
    X(dropped_home, CLUSTER)         \
    X(dropped_far, CLUSTER)          \
    X(tagged, CLUSTER)               \
    X(operator_killed, CLUSTER)      \
    X(operator_failed, CLUSTER)      \
    X(commit_behind, CLUSTER)

enum sim_seen {
#define X(name, where) SEEN_##name,
    SIM_SEEN(X)
#undef X
        SEEN_COUNT
};

/* ---- sim_world.c ---- */
enum sim_event_kind {
    EV_NODE_RUN = 1, /* a: node, b: its turn */
    EV_NODE_START,   /* a: node, b: with an empty table */
    EV_JOB_EFFECT,   /* a: job, b: its number */
    EV_JOB_DONE,
    EV_TASK,      /* a: task, b: its number: it goes on */
    EV_TO_DAEMON, /* a: connection */
    EV_TO_CLIENT,
    EV_START,    /* a: rank */
    EV_DIES,     /* a: rank */
    EV_RANK,     /* a: rank: its timer */
    EV_FILLED,   /* a: rank, b: its copy */
    EV_PIDFD,    /* a: rank: daemons see its death from now on */
    EV_LAUNCH,   /* a: launch */
    EV_FAULT,    /* a: which */
    EV_OPERATOR, /* a: his act, b: its number: he is killed */
    EV_CALM,     /* no more faults */
};
struct sim_event {
    int64_t at;
    uint64_t order;
    enum sim_event_kind kind;
    uint32_t a;
    uint64_t b;
};
struct sim_world {
    unsigned long long seed, rng;
    int64_t now;
    bool trace;
    bool calm; /* nothing goes wrong any more */
    int64_t calm_at;
    uint64_t events;
    bool seen[SEEN_COUNT];
    uint64_t counts[SEEN_COUNT]; /* seeds in which it was seen */
};
extern struct sim_world sim;

/* Two simulators share everything but the store: test_sim has a model of it and of what
 * jobs do, test_cluster runs the jobs themselves over simulated places (cluster.h). */
struct sim_suite {
    const char *name;
    bool cluster;
    uint32_t nodes, world; /* at most */
    uint64_t slot_bytes;
    unsigned long long seeds, seeds_deep;
    unsigned processes; /* that share them */
};
extern const struct sim_suite sim_suite;
int sim_main(int argc, char **argv); /* sim_run.c */

void sim_at(int64_t at, enum sim_event_kind kind, uint32_t a, uint64_t b);
void sim_after(int64_t delay, enum sim_event_kind kind, uint32_t a, uint64_t b);
bool sim_next(struct sim_event *ret); /* advances the clock; false: nothing will happen */
void sim_events_clear(void);
uint64_t sim_rand(uint64_t below);
bool sim_chance(uint32_t of_1000);                   /* false when all is calm */
int64_t sim_between(int64_t from_ns, int64_t to_ns); /* logarithmic: most are short */
void sim_saw(enum sim_seen what);
void sim_note(const char *fmt, ...) CKPT_PRINTF(1, 2);
/* A law is broken: says how to replay it and ends the process. */
void sim_fail(const char *fmt, ...) CKPT_PRINTF(1, 2) __attribute__((noreturn));
#define SIM_CHECK(cond, ...)       \
    do {                           \
        if (!(cond))               \
            sim_fail(__VA_ARGS__); \
    } while (0)

/* ---- descriptors that are none ---- */
enum sim_fd_kind {
    FD_LISTEN = 1,
    FD_DONE,
    FD_SIGNAL,
    FD_KEEP,
    FD_EPOLL,
    FD_CONN,
    FD_PIDFD,
    FD_LEDGER,
    FD_ARENA,
    FD_DECL,
};
#define SIM_FD_BASE (1 << 24)
static inline int sim_fd(enum sim_fd_kind kind, uint32_t index)
{
    return SIM_FD_BASE + (int)kind * 65536 + (int)index;
}
static inline bool sim_is_fd(int fd)
{
    return fd >= SIM_FD_BASE;
}
static inline enum sim_fd_kind sim_fd_kind(int fd)
{
    return (enum sim_fd_kind)((fd - SIM_FD_BASE) / 65536);
}
static inline uint32_t sim_fd_index(int fd)
{
    return (uint32_t)(fd - SIM_FD_BASE) % 65536;
}

/* ---- sim_node.c ---- */
struct sim_watch {
    int fd;
    uint32_t events;
    uint64_t data;
};
struct sim_node {
    bool up;      /* a keeper lives: connections are taken */
    bool running; /* there is a worker */
    bool keeper_dead, told_stop;
    bool lost;       /* in this seed: keeper and worker at once, or a stop that left something */
    uint64_t worker; /* number of the worker */
    uint64_t turn;
    uint32_t quiet;           /* timeouts in a row */
    uint32_t dies_in;         /* calls; 0 = does not */
    enum sim_seen dies_where; /* of the last call */
    struct control *c;        /* while it runs */
    struct sim_watch watches[64];
    uint32_t watch_count;
    uint32_t backlog[SIM_CONNS], backlog_count;
    struct keep_entry kept[256];
    uint32_t kept_count;
    uint32_t deaths;
    uint32_t disk; /* a new one has another number */
};
extern struct sim_node sim_nodes[SIM_NODES + 1]; /* the last: the operator, who has no worker */
extern uint32_t sim_node_count;
extern struct sim_node *sim_current; /* whose turn it is; NULL: the scheduler's */

void sim_nodes_reset(uint32_t count);
void sim_node_start(uint32_t node);
void sim_node_turn(uint32_t node, uint64_t turn);
void sim_node_poke(uint32_t node); /* something is ready for it */
/* A call of the worker to the outside: it may be its last. */
void sim_point(enum sim_seen where);
void sim_node_kill(uint32_t node);   /* the worker, now */
void sim_node_orphan(uint32_t node); /* the keeper */
void sim_node_lose(uint32_t node);   /* both */
void sim_node_stop(uint32_t node);   /* SIGTERM */
/* Memory of the worker whose turn it is: freed when it dies. */
void sim_memory_drop(uint32_t node);

/* ---- sim_kept.c ---- */
struct sim_ledger {
    bool committed;
    struct session s;
    struct {
        bool used;
        uint32_t metric_count;
        struct record_metric metrics[RECORD_METRICS_MAX];
        struct session_pack packs[SIM_PARTS];
        struct digest digests[SIM_CHUNKS];
        uint32_t crcs[SIM_CHUNKS];
    } ops[SESSION_OPS_MAX];
};
struct sim_arena {
    uint32_t slots;
    int32_t rank;
    _Alignas(CKPT_BLOCK) uint64_t word[SIM_ARENA_MAX * SIM_SLOT_WORDS];
};
static inline uint64_t *sim_slot(struct sim_arena *a, uint32_t slot)
{
    return a->word + slot * (sim_suite.slot_bytes / sizeof(uint64_t));
}
extern struct sim_ledger *sim_ledgers;
extern struct sim_arena sim_arenas[SIM_ARENAS];
void sim_kept_reset(void);
uint32_t sim_arena_new(uint32_t slots);
/* The ledger says what the session is. */
bool sim_ledger_holds(const struct client *cl);

/* ---- sim_conn.c ---- */
struct sim_msg {
    struct sim_msg *next;
    uint32_t len; /* 0: the end of the connection */
    uint32_t fd_count;
    int fds[WIRE_FDS_MAX];
    uint8_t bytes[];
};
struct sim_pipe {
    struct sim_msg *first, **last;
    int64_t last_at;
    uint32_t count, arrived; /* the first so many can be read */
};
struct sim_conn {
    bool used, accepted;
    uint32_t node, rank;
    bool daemon_open, client_open;
    uint64_t worker; /* that accepted it */
    struct sim_pipe to_daemon, to_client;
};
extern struct sim_conn sim_conns[SIM_CONNS];
extern uint32_t sim_conn_count;
void sim_conns_reset(void);
int32_t sim_connect(uint32_t rank, uint32_t node); /* -1: refused */
void sim_client_send(uint32_t conn, const struct wire_msg *m);
void sim_client_close(uint32_t conn);
void sim_conn_to_daemon(uint32_t conn); /* the next message arrives */
void sim_conn_to_client(uint32_t conn);
bool sim_conn_readable(uint32_t conn);
void sim_conn_closed(uint32_t conn); /* by the daemon */
void sim_conns_drop(uint32_t node);  /* the worker is gone: its ends close */
void sim_backlog_drop(uint32_t node);

/* ---- sim_store.c ---- */
struct sim_manifest {
    bool there, failed;
    uint32_t parts;
    bool has_parent;
    struct ckpt_name parent;
    struct digest ids[SIM_PARTS];
};
struct sim_rank;
struct sim_attempt {
    struct ckpt_name name;
    uint32_t job;
    uint32_t world, try_;
    enum publish_state state;
    bool bad;               /* its manifests do not fit together */
    bool staged[SIM_WORLD]; /* its rank was told so */
    bool told_failed[SIM_WORLD], told_committed[SIM_WORLD];
    bool unsure[SIM_WORLD];        /* a job said that it failed, and had done its work */
    bool begun[SIM_WORLD];         /* while its epoch was current, or unasked (H5) */
    uint64_t branch[SIM_WORLD];    /* from which epoch on the rank's steps are its own */
    uint32_t part_node[SIM_WORLD]; /* where its packs were put */
    struct {
        bool packs[SIM_PARTS], account;
    } far[SIM_WORLD]; /* in the tier */
    bool held;
    int64_t complete_at; /* all parts, or words that one failed, are there; 0 = not yet */
    struct sim_manifest manifests[SIM_WORLD];
};
extern struct sim_attempt sim_attempts[SIM_ATTEMPTS];
extern uint32_t sim_attempt_count;
void sim_store_reset(void);
struct sim_attempt *sim_attempt_find(const struct ckpt_name *name);
struct sim_attempt *sim_attempt_get(const struct ckpt_name *name, uint32_t world);
void sim_store_check(const struct sim_attempt *a);
/* The rank's save has begun while its question hangs in the home. */
void sim_store_unasked(const struct session *s, const struct session_op *op);
bool sim_store_newest(uint32_t job, struct ckpt_name *ret);
/* False: what its job has saved was lost with disks, or deleted, or lies on other nodes alone; the
 * launch must be told to start over. */
struct sim_launch;
bool sim_store_resumable(const struct sim_launch *l);
/* False: only the disks of the nodes that saved it hold it, so that only ranks that want what
 * they saved there can restore it. */
bool sim_store_in_reach(const struct ckpt_name *name);
/* A rank was told where its launch resumes. */
void sim_store_opened(const struct sim_rank *r);
/* Once at the end of a seed. */
void sim_store_check_end(void);
/* What a suite adds: the seed's places and operator; a fault of its own, on a node. */
void sim_store_plan(int64_t until_ns);
void sim_store_fault(uint32_t kind, uint32_t node);
void sim_store_operate(uint32_t act, uint64_t number);
bool sim_store_busy(void); /* an operator is at work */

/* ---- what ranks declare, copy into slots, and find in them ---- */
void sim_image_plan(uint32_t first_rank, uint32_t world); /* from the seed: who has what */
uint64_t sim_image_decl_bytes(const struct sim_rank *r);
void sim_image_decl(const struct sim_rank *r, void *to, size_t len);
void sim_image_fill(const struct sim_rank *r, uint64_t *slot, const struct ckpt_name *name,
                    uint32_t part);
/* What a rank says of a tile that another writes, too. */
void sim_image_witness(const struct sim_rank *r, const struct ckpt_name *name,
                       struct wire_full *full);
/* The fragments of a message; returns how many bytes they are, or UINT32_MAX if they are not
 * what was saved under that name. */
uint32_t sim_image_check(const struct sim_rank *r, const uint64_t *slot,
                         const struct ckpt_name *name, const struct wire_frags *w,
                         const uint8_t *tail, size_t len);

/* ---- tiers ---- */
extern bool sim_home_waits; /* of this seed: nodes have but the home, which is no disk of theirs */
extern bool sim_remote;
bool sim_planned(const struct ckpt_name *name);
/* Committed, to be in the tier, and not there. */
uint32_t sim_not_held(void);
/* How a worker of a node is configured. */
void sim_store_config(uint32_t node, struct config *ret);

/* ---- sim_task.c ---- */
void sim_tasks_reset(void);
/* It runs as soon as the scheduler has the turn; memory that it takes is the node's. */
uint32_t sim_task_start(uint32_t node, void (*run)(void *arg), void *arg);
void sim_task_resume(uint32_t task, uint64_t number);
void sim_task_kill(uint32_t task); /* it is never heard of again */
void *sim_task_arg(void);          /* of the task whose turn it is, or NULL */
bool sim_in_task(void);
void sim_nap(int64_t ns); /* of the task whose turn it is */

/* ---- sim_crew.c ---- */
#define SIM_THREADS 8
struct crew {
    uint32_t node, threads, running;
    void *works[SIM_THREADS]; /* the cluster's */
    bool busy[SIM_THREADS];
};
struct sim_job {
    bool used, running, done;
    struct job *j;
    struct crew *crew;
    uint64_t number;
    uint32_t task; /* 1 + that in which it runs; 0: in none */
    uint32_t thread;
};
extern struct sim_job sim_jobs[SIM_JOBS];
extern uint32_t sim_job_count;
void sim_jobs_reset(void);
void sim_jobs_drop(uint32_t node);
void sim_job_effect(uint32_t job, uint64_t number);
/* What differs: a job begins, and says sim_job_ran when it has had its effect; a crew's
 * threads have their work; a job's worker is dead. */
void sim_job_run(struct sim_job *s);
void sim_job_ran(struct sim_job *s);
void sim_crew_equip(struct crew *c, const struct crew_options *options);
void sim_job_kill(struct sim_job *s);
void sim_job_done(uint32_t job, uint64_t number);
bool sim_jobs_ready(uint32_t node);

/* ---- sim_rank.c ---- */
enum sim_item_kind {
    ITEM_SAVE = 1,
    ITEM_WAIT,
    ITEM_RESTORE,
    ITEM_ROLLBACK,
    ITEM_CANCEL,
    ITEM_PROGRESS
};
struct sim_item {
    enum sim_item_kind kind;
    uint64_t step;
    uint32_t deadline_ms;
};
struct sim_launch {
    bool started;
    uint32_t job;
    uint32_t number, world;
    uint32_t first_rank;
    bool reader;
    struct sim_item items[SIM_ITEMS];
    uint32_t item_count;
    char token[16];
    const char *resume; /* CKPT_RESUME, or NULL */
    bool chose_rollback, has_rollback;
    struct wire_name rollback; /* where all its ranks go back to */
    bool last;                 /* the one at the end: must work */
};
enum sim_rank_phase {
    RANK_NONE = 0,
    RANK_CONNECTING, /* no connection, or no HELLO_OK */
    RANK_SEALING,
    RANK_RUNNING,
    RANK_CLOSED,
    RANK_BROKEN, /* the context is: it lives on without checkpoints */
    RANK_DEAD,
};
struct sim_op {
    uint64_t id, step;
    uint32_t try_;
    bool load, rollback, begun, copied, final, given_up, bad;
    uint32_t level, status, next_slot;
    uint64_t brought; /* bytes of a restore */
    struct wire_name name;
};
struct sim_kept_msg {
    uint32_t len, fd_count;
    int fds[WIRE_FDS_MAX];
    uint8_t bytes[];
};
struct sim_out {
    uint64_t seq;
    bool sent;
    struct sim_kept_msg *k;
};
struct sim_rank {
    enum sim_rank_phase phase;
    uint32_t launch, rank, node;
    uint8_t session[16];
    int32_t conn; /* -1 = none */
    bool linked, ever_linked, resuming;
    bool fresh;         /* it started over, and the answer has not come */
    uint32_t opens;     /* HELLOs that were lost before the first answer */
    bool pid_gone;      /* daemons can see the death */
    int64_t deaf_until; /* stalled */
    int64_t refused_at; /* its HELLO is answered until then, good or bad */
    uint64_t next_seq, next_op;
    struct sim_out outs[256];
    uint32_t out_count;
    struct sim_op ops[SIM_OPS];
    bool sealed, seal_refused;
    int32_t arena;
    uint32_t slots, image_slots;
    uint32_t grants[SIM_ARENA_MAX];
    uint64_t grant_ops[SIM_ARENA_MAX];
    uint32_t grant_count;
    bool busy; /* copying into fill_slot for fill_op */
    uint64_t copies;
    uint32_t fill_slot, fill_part;
    uint64_t fill_op;
    uint64_t copying;
    uint64_t tries[64]; /* of a step */
    bool has_point, has_head;
    bool saved; /* since its head */
    struct wire_name point, head;
    bool behind; /* its launch has gone back without it */
    uint64_t hello_epoch;
    uint64_t branch;  /* the epoch in which its steps began: of its launch, or of a rollback */
    uint32_t at;      /* item */
    uint64_t item_op; /* of it, or 0 */
    int64_t item_until, ready_at, looks_at;
    bool item_begun;
    uint32_t item_try;
    uint64_t last_save;
    uint32_t absent_from; /* takes part no longer from that item on, but lives */
};
extern struct sim_launch sim_launches[SIM_LAUNCHES];
extern uint32_t sim_launch_count;
extern struct sim_rank sim_ranks[SIM_RANKS];
extern uint32_t sim_rank_count;
void sim_ranks_reset(void);
void sim_rank_start(uint32_t rank);
void sim_rank_message(uint32_t rank, const struct wire_msg *m);
void sim_rank_unlinked(uint32_t rank); /* the connection ended */
void sim_rank_timer(uint32_t rank);
void sim_rank_pidfd(uint32_t rank);
void sim_rank_filled(uint32_t rank, uint64_t copy);
void sim_rank_die(uint32_t rank);
void sim_rank_break_link(uint32_t rank);
void sim_rank_wake(uint32_t rank, int64_t delay);
/* For the program. */
uint64_t sim_rank_save(struct sim_rank *r, uint64_t step, uint32_t try_, uint32_t deadline_ms);
uint64_t sim_rank_load(struct sim_rank *r, bool rollback, const struct wire_name *point);
void sim_rank_give_up(struct sim_rank *r, struct sim_op *op, enum ckpt_status st);
void sim_rank_send(struct sim_rank *r, enum wire_type type, const void *body);
void sim_rank_close(struct sim_rank *r);
const char *sim_job_name(uint32_t job);
struct sim_op *sim_rank_op(struct sim_rank *r, uint64_t id);

/* ---- sim_program.c ---- */
void sim_program_plan(void); /* from the seed */
void sim_program_launch(uint32_t launch);
void sim_program_fault(uint32_t which);
void sim_program_step(uint32_t rank); /* something changed for it */
void sim_program_broken(uint32_t rank);
void sim_program_calm(void);
bool sim_program_last(void); /* one more launch, when all is over; false: it was started */
void sim_program_check_last(void);
bool sim_program_over(void);
struct sim_faults {
    uint32_t store_error, store_slow, store_full, store_hang; /* of 1000 jobs */
    uint32_t copy_failed, differs, rank_dies;
    uint32_t busy_socket;
};
extern struct sim_faults sim_faults;

/* ---- sim_check.c ---- */
void sim_check_node(const struct sim_node *n);
/* Before the worker says or does anything: the ledger has it. */
void sim_check_told(const struct sim_node *n);
/* Keeper and worker of a node were gone at once: what was staged there is lost. */
bool sim_anything_lost(void);
bool sim_at_rest(void);
void sim_check_stuck(void); /* says what */
void sim_check_end(void);   /* at rest: every wait has ended */
