/* The worker's control: one thread, one epoll set, all session state.  It turns messages
 * and ends of jobs into events for the pure machines (session, committer, node_restore),
 * writes each changed session to its ledger, and then executes the actions.
 *
 *   control.c         the loop: accept, signals, timers, ends of jobs
 *   control_hello.c   HELLO
 *   control_launch.c  launches
 *   control_msg.c     a session's messages → events
 *   control_act.c     actions → messages, jobs
 *   control_decide.c  words to the committer, and its decisions
 *   control_done.c    ends of jobs
 *   control_load.c    restores
 *   control_list.c    what a checkpoint holds
 *   control_drain.c   what goes on to other tiers, and what a launch asks of them
 *   control_reload.c  settings that were read again
 *   control_prune.c   what is not to be kept */
#pragma once

#include "ckptd/committer.h"
#include "ckptd/config.h"
#include "ckptd/conn.h"
#include "ckptd/counters.h"
#include "ckptd/drainer.h"
#include "ckptd/jobs.h"
#include "ckptd/keeper.h"
#include "ckptd/ledger.h"
#include "ckptd/node_restore.h"
#include "ckptd/rundir.h"
#include "ckptd/session.h"

#define CONTROL_CLIENTS_MAX    1024
#define CONTROL_CONNS_MAX      2048
#define CONTROL_HELLO_NS       INT64_C(10000000000) /* a connection must say something by then */
#define CONTROL_LINGER_NS      INT64_C(1000000000)  /* private: after the last session */
#define CONTROL_NO_MEMORY_EXIT 5 /* status of a worker that the keeper shall replace */
#define CONTROL_DRAIN_NS       INT64_C(120000000000) /* a launch waits so long for older saves, at most */
#define CONTROL_ARRIVAL_MS     600000
#define CONTROL_OTHERS_NS      INT64_C(10000000000) /* a stop waits so long for other nodes */
#define CONTROL_JOIN_NS        INT64_C(200000000)   /* ranks of a node come together */
#define CONTROL_TIER_NS        INT64_C(30000000000) /* a launch waits so long for other tiers */

/* What a session has beside its machine. */
struct client_state {
    struct decl decl;
    struct arena arena;
    int decl_fd;
    bool decoded;
    uint32_t borrowed; /* plans that read the declaration */
};
struct client {
    uint32_t number; /* index in control.clients */
    struct session *s;
    struct ledger ledger;
    struct conn *conn; /* NULL: away */
    int pidfd;
    bool open; /* HELLO_OK was sent once: ledger and keeper have it */
    bool over; /* the machine says that nothing is left */
    bool restored_ok, restored_bad;
    bool told;       /* the home knows that this rank is on this node */
    uint64_t launch; /* key; 0 = reader */
    uint32_t jobs_out;
    int64_t hello_deadline_ns;
    uint64_t was; /* HELLO's epoch */
    char resume[128];
    struct lineage_wish wish;
    struct select asked;       /* of the LOAD that came last, until a group has it */
    struct digest asked_bytes; /* of the message's */
    struct restore_part part;  /* the same: only these pieces */
    bool listing;              /* a LIST is being answered */
    struct client_state states[SESSION_STATES_MAX];
    struct ledger_op areas[SESSION_OPS_MAX];
    int64_t begin_ns[SESSION_OPS_MAX]; /* since when BEGIN is out and waited for; 0 = it is not */
};
enum launch_phase {
    LAUNCH_NEW,       /* waits for rank 0, here or elsewhere */
    LAUNCH_ADOPTING,  /* the home learns from other tiers */
    LAUNCH_ASKING,    /* as CLAIMING: is the home there?  Before a tier is left out */
    LAUNCH_CLAIMING,  /* job out, or to be repeated at poll_ns: the home is away */
    LAUNCH_CLAIMED,   /* the claim goes to other tiers */
    LAUNCH_DRAINING,  /* waits for what older launches have staged here */
    LAUNCH_TELLING,   /* several nodes: job out */
    LAUNCH_GATHERING, /* rank 0 here: all nodes must have told; else it must have resolved */
    LAUNCH_RESOLVING, /* as CLAIMING */
    LAUNCH_RESOLVED,  /* that, too, goes to other tiers */
    LAUNCH_READY,
    LAUNCH_FAILED,
};
struct launch {
    struct launch *next;
    uint64_t key;
    enum launch_phase phase;
    char job[CKPT_JOB_NAME_MAX + 1];
    char token[RECORD_TOKEN_MAX + 1];
    uint32_t world;
    bool rank0_here, reader, job_out;
    uint8_t nonce[16];
    uint64_t epoch;
    uint64_t was;    /* the one that rank 0's process is in, if it had to start over */
    uint64_t after;  /* epochs up to here are old: what a rollback leaves, or what is taken */
    uint64_t leaves; /* the one that the last rollback left; 0 = none did */
    struct lineage_wish wish;
    struct job_launch result;
    /* what is asked of other tiers: a round at a time */
    uint64_t tier_round;
    uint32_t tiers_out;  /* bit t: tier t is waited for */
    uint32_t unheard;    /* bit t: what tier t holds of the job is not known to this launch */
    uint32_t tiers_late; /* it did not answer in time, and has not since: no longer waited for */
    int64_t tiers_by_ns;
    int64_t asking_ns;       /* ASKING began then; 0 = the tiers were asked once as yet */
    bool taken;              /* a tier has another claim of that epoch: the next one */
    struct roster held;      /* in other tiers */
    struct roster held_here; /* in those that only this node can reach */
    /* several nodes */
    struct launch_nodes nodes;
    uint64_t floor;    /* claims up to here are others' */
    uint32_t missing;  /* the first rank of which no node has told */
    int64_t tell_ns;   /* not before: ranks of a node come together */
    int64_t rescan_ns; /* GATHERING: this node looks what it has to bring home */
    enum ckpt_status status;
    char text[SESSION_TEXT_MAX]; /* why it failed; before, why its home was asked in vain last */
    int64_t asked_ns;            /* since when the job is out */
    int64_t claimed_ns, poll_ns;
    uint64_t rollback; /* group + 1 that waits for a new epoch; 0 = none */
    int64_t rollback_ns;
    bool restored_put, progress_put;
    uint64_t absent[COMMITTER_RANKS_NAMED]; /* ranks that were here and are gone: launch_mark of
                                               their session; 0 = here, or never came */
};
/* A word for the committer that waits until the actions at hand are done. */
struct later {
    struct later *next;
    struct committer_event ev;
    char job[CKPT_JOB_NAME_MAX + 1];
    char text[COMMITTER_TEXT_MAX];
};
/* Packs of the rank that a tier is being given. */
struct drain_list {
    struct manifest_pack *packs; /* owned */
    uint32_t count;
};
/* Jobs whose checkpoints are to be looked at, one at a time. */
#define CONTROL_PRUNES_MAX 64
struct prune_wish {
    char job[CKPT_JOB_NAME_MAX + 1];
    bool decides; /* this node's rank 0 trains it: the home is pruned, too */
};
struct prune_line {
    struct prune_wish wishes[CONTROL_PRUNES_MAX]; /* oldest first */
    size_t count;
    bool out; /* a job is */
    struct prune_look {
        char job[CKPT_JOB_NAME_MAX + 1];
        bool all; /* stores, not this node's own alone */
        int64_t ns;
    } collected[CONTROL_PRUNES_MAX]; /* when gc looked last; the oldest gives way */
    enum ckpt_status trouble;        /* of the last one; said once */
};
struct worker;
struct control {
    const struct config *config; /* as they are set now */
    struct config *reloaded;     /* the same, if a reload made it here; owned */
    const struct worker *worker;
    const struct keep *keep;
    const struct rundir *rundir;
    char store_text[256], socket[128];
    uint8_t node[16];
    int epoll_fd, listen_fd, signal_fd, done_fd;
    struct crew *digests, *data, *records;
    struct crew *begins;  /* apart: no save waits for records to begin */
    uint32_t begins_late; /* jobs that hang in the home and are waited for no more */
    struct client *clients[CONTROL_CLIENTS_MAX];
    uint32_t client_end; /* places from here on were never used */
    uint32_t client_count;
    struct conn *conns;
    uint32_t conn_count;
    struct launch *launches;
    uint64_t next_key;
    struct committer *committer;
    struct restore_table *restores;
    struct job_plan *plans; /* per group: reader and plan */
    struct tiers_setup tiers;
    struct crew *drains[TIERS_MAX]; /* from 1 */
    struct drainer *drainer;
    struct drain_list drain_lists[TIERS_MAX];
    struct drain_passed drain_passed[TIERS_MAX]; /* lent to the scan that is out */
    struct crew *prunes;                         /* NULL: nothing was ever to be pruned */
    struct jobs_setup setup;                     /* of its thread */
    struct prune_line prune_line;
    atomic_bool cancel;  /* drains end early */
    uint64_t drains_out; /* of jobs_out: what nothing but a drain waits for */
    uint64_t next_round;
    int64_t tier_ns; /* how long a launch waits for other tiers */
    struct later *later, **later_last;
    int64_t now, started_ns, idle_ns, stop_by_ns;
    int64_t stop_others_ns; /* until then a stop waits for other nodes' parts, too */
    bool stopping, orphan, served, shared_store;
    bool accept_waits; /* for descriptors or memory */
    uint64_t jobs_out;
    uint32_t reports_out;      /* of them: words about a launch that the next one must read */
    struct counters *counters; /* borrowed */
};

/* control.c */
int control_run(struct control *c);
void control_fini(struct control *c); /* no job is out */
/* False: out of memory in the kernel. */
bool control_watch(struct control *c, int fd, uint64_t tag, bool write) CKPT_MUST_CHECK;
struct client *client_new(struct control *c);
void client_free(struct control *c, struct client *cl);
struct client *client_by_session(struct control *c, const uint8_t id[16],
                                 const struct client *except);
/* Hands a job to the crew; counts it with its client. */
void control_submit(struct control *c, struct crew *crew, struct job *j);
/* Steps the client's machine, writes the ledger, executes the actions. CKPT_OK, or what
 * the client did wrong. */
enum ckpt_status control_event(struct control *c, struct client *cl, const struct session_event *ev,
                               struct ckpt_err *err);
/* The same for events that cannot fail. */
void control_tell(struct control *c, struct client *cl, const struct session_event *ev);
void control_commit(struct client *cl); /* ledger */
/* Sends, with the session's ack in the head. */
void client_send(struct client *cl, struct wire_msg *m);
struct wire_msg *control_msg(void); /* the one buffer for messages being built */

/* control_hello.c */
void control_hello(struct control *c, struct conn *conn, struct wire_msg *m);
void control_refuse(struct conn *conn, enum wire_type what, enum ckpt_status st, const char *text);
/* Answers everybody who waits for a launch that is decided; and those whose time is over. */
void control_answer(struct control *c, struct launch *l);
void control_answer_late(struct control *c, struct launch *l);

/* control_launch.c */
struct launch *launch_by_key(struct control *c, uint64_t key);
struct launch *launch_by_token(struct control *c, const char *job, const char *token);
struct launch *launch_new(struct control *c, const struct session *s); /* NULL: no memory */
/* Tells sessions apart; never 0. */
uint64_t launch_mark(const struct session *s);
/* Rank 0 (or a reader) is here. */
void control_launch_begin(struct control *c, struct launch *l);
void control_launch_done(struct control *c, struct job *j);
/* The other tiers have answered, or will not in time. */
void control_launch_go_on(struct control *c, struct launch *l);
void control_launch_tick(struct control *c);
/* Ties sessions found in ledgers to launches again. */
void control_launch_adopt(struct control *c, struct client *cl);
bool control_rollback(struct control *c, struct launch *l, uint32_t group,
                      const struct ckpt_name *point);
void control_launch_reap(struct control *c);

/* control_msg.c */
void control_message(struct control *c, struct conn *conn, struct wire_msg *m);
void control_lost(struct control *c, struct client *cl, const char *how);

/* control_act.c */
/* A worker that cannot allocate 4 KiB ends at once, as if it had been killed: the keeper
 * starts another, which takes over what is staged.  (To stop in order would lose that.) */
_Noreturn void control_out_of_memory(const char *job);
void control_act(struct control *c, struct client *cl, const struct session_actions *acts);
void client_drop_arena(struct control *c, struct client *cl, uint32_t at);
/* Frees what a state that is to be forgotten holds, unless a plan still reads it. */
void client_forget(struct control *c, struct client *cl, uint32_t at);

/* control_decide.c */
void control_settle(struct control *c); /* words for the committer */
void control_committer(struct control *c, const struct committer_event *ev);
void control_later(struct control *c, const struct committer_event *ev);
/* What a session's action means for the committer. */
void control_say(struct control *c, struct client *cl, const struct session_action *a);
/* The session that takes part in the attempt is gone before it began it. */
void control_absent(struct control *c, const struct client *cl);
/* After a rank joined: are others gone that would have to? */
void control_check_absent(struct control *c, const struct client *cl, const struct ckpt_name *name);
void control_attempt_done(struct control *c, struct job *j);
/* True if the op is for other nodes to end: this node's parts of it are in the home, theirs
 * are missing.  (The next launch's resolver finds what is complete.) */
bool control_waits_for_others(const struct control *c, const struct client *cl,
                              const struct session_op *op);

/* control_done.c */
void control_job_done(struct control *c, struct job *j);
/* Saves whose home hangs begin. */
void control_begin_tick(struct control *c, struct client *cl);
bool control_adopt_states(struct control *c, struct client *cl, struct ckpt_err *err);

/* control_list.c */
/* Answers a LIST of the client's. */
void control_list(struct control *c, struct client *cl, const struct wire_msg *m);
void control_list_done(struct control *c, struct job *j);

/* control_load.c */
void control_load(struct control *c, struct client *cl, uint32_t at);
void control_load_back(struct control *c, struct client *cl, uint64_t op);
void control_load_free(struct restore_group *g);
void control_load_gone(struct control *c, struct client *cl, uint64_t op);
void control_load_tick(struct control *c);
void control_plan_done(struct control *c, struct job *j);
void control_batch_done(struct control *c, struct job *j);
void control_rolled_back(struct control *c, struct launch *l);

/* control_drain.c */
/* After a start: what sessions wait for. */
void control_drain_adopt(struct control *c);
/* A save was committed here, or found committed. */
void control_drain_want(struct control *c, const char *job, const struct ckpt_name *name);
/* Bytes of the tier where packs are saved were missing or wrong. */
void control_drain_repair(struct control *c, const char *job, const struct ckpt_name *name);
void control_drain_step(struct control *c, const struct drainer_event *ev);
void control_drain_done(struct control *c, struct job *j);
/* The last session of a job is over. */
void control_drain_idle(struct control *c, const char *job);
void control_drain_stop(struct control *c);
void control_drain_fini(struct control *c); /* no job is out */
/* Asks all other tiers for what they know of the launch's job; false: none is waited for. */
bool control_tiers_adopt(struct control *c, struct launch *l, int64_t wait_ns);
/* Gives all other tiers a record of the launch; false: none is waited for. */
bool control_tiers_spread(struct control *c, struct launch *l, const struct key *key);
/* ADOPT or SPREAD came back: counted with its launch. */
void control_tiers_done(struct control *c, struct job *j);

/* control_reload.c */
/* fd: settings as a file, or -1; closed. */
void control_reload(struct control *c, int given);

/* control_prune.c */
/* Makes the crew if there is anything to keep and none yet; a crew that cannot be made is said
 * and done without. */
void control_prune_begin(struct control *c);
/* A save of the job was committed here. */
void control_prune_want(struct control *c, const char *job);
void control_prune_done(struct control *c, struct job *j);
bool control_prune_busy(const struct control *c);

/* status_page.c: the page as a memfd; -1 with err. */
int status_page(const struct control *c, struct ckpt_err *err);
