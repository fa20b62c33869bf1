/* What the crews run.  A job is a struct with what it needs and what comes of it: control
 * fills it, a crew thread runs it with the thread's own store handle, control takes it
 * back.  All are idempotent: a worker that starts after another died submits them again. */
#pragma once

#include "ckptd/arena.h"
#include "ckptd/committer.h"
#include "ckptd/drainer.h"
#include "ckptd/ledger.h"
#include "ckptd/node_restore.h"
#include "ckptd/tiers.h"
#include "storage/crew.h"
#include "storage/repo/drain.h"
#include "storage/repo/launch.h"
#include "storage/repo/launch_nodes.h"
#include "storage/repo/life_copy.h"
#include "storage/repo/load.h"
#include "storage/repo/prune.h"
#include "storage/repo/publish.h"
#include "storage/repo/save.h"

/* A crew thread's working memory. */
struct jobs_work {
    struct tiers tiers;
    struct store *home;  /* of the tiers: where records are decided */
    struct store *local; /* where packs are saved; often the same */
    struct save_work *save;
    struct load_work *load;
    struct drain_work *drain;
    const atomic_bool *cancel; /* drains end early when it is set */
    int64_t ask_ns;            /* BEGIN: the home was out of reach: not asked until then */
    uint64_t slot_bytes;
    struct save_codec codec;
    uint8_t node[16];
};
struct jobs_setup {
    struct tiers_setup *tiers; /* each thread has handles of its own */
    uint64_t slot_bytes;
    struct save_codec codec;
    uint8_t node[16];
    bool data;  /* packs and batches: with their buffers */
    bool drain; /* with those of a drain; held back by the tier's rate */
    const atomic_bool *cancel;
};
void *jobs_work_new(void *arg, struct ckpt_err *err);
void jobs_work_free(void *work);

enum job_kind {
    JOB_SEAL = 1,
    JOB_BEGIN,
    JOB_DIGEST, /* then the same job is submitted again as JOB_PACK */
    JOB_PACK,
    JOB_FINISH,
    JOB_FAIL_PART,
    JOB_ATTEMPT,
    JOB_LAUNCH,
    JOB_PLAN,
    JOB_BATCH,
    JOB_REPORT,
    JOB_LIST,
    JOB_DRAIN,
    JOB_ADOPT,
    JOB_SPREAD,
    JOB_PRUNE,
};
struct job_seal {
    int decl_fd; /* borrowed */
    uint64_t decl_bytes, want_bytes;
    uint32_t numa; /* of wire_state */
    uint32_t slots_max;
    char who[192];
    /* results */
    struct decl decl;
    struct arena arena;
    uint32_t slots;
    uint64_t ram_left;
};
struct job_part {    /* BEGIN, DIGEST, PACK, FINISH, FAIL_PART: of one rank's save */
    const char *job; /* borrowed, as all pointers here, until the job is back */
    struct ckpt_name name;
    uint32_t rank, world, try_, flags;
    uint64_t epoch, step;
    int64_t time_ns;
    bool has_parent;
    struct ckpt_name parent;
    enum ckpt_status fail_status;
    char fail_text[SESSION_TEXT_MAX];
    const struct decl *decl;
    struct ledger_op area; /* a view; not closed by the job */
    uint64_t stored_bytes;
    int64_t deadline_ns; /* FINISH, FAIL_PART: of the save; the home is asked no longer */
    bool settled;        /* FINISH, a result: packs are named for good and accounted for */
    bool away;        /* a result.  FINISH, PACK: only the home fails, and may come back; BEGIN: it
                         was not asked (H5) */
    bool has_witness; /* FINISH */
    uint64_t witness; /* decl_witness_at */
    struct digest witness_digest;
    /* DIGEST, PACK */
    uint32_t slot, image_slot;
    uint8_t *memory;
    struct save_packed packed;
    uint64_t raw_bytes;
};
struct job_attempt {
    enum committer_job what;
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
    uint32_t world, from, rank; /* rank: result, the first missing */
    struct record_abort abort;
};
enum launch_step {
    LAUNCH_ASK,     /* is the home there?  Nothing else fails it */
    LAUNCH_CLAIM,   /* rank 0: an epoch for the token */
    LAUNCH_RESOLVE, /* rank 0: from where */
    LAUNCH_TELL,    /* several nodes: which ranks are here, and what this node holds */
    LAUNCH_GATHER,  /* rank 0: have all nodes told? */
    LAUNCH_FIND,    /* others: has rank 0's node claimed? */
    LAUNCH_LOOK,    /* others: has it resolved? */
    LAUNCH_READ,    /* reader: what a restore would take */
};
struct job_launch {
    enum launch_step what;
    uint64_t launch; /* control's number */
    char job[CKPT_JOB_NAME_MAX + 1];
    char token[RECORD_TOKEN_MAX + 1];
    uint32_t world;
    uint8_t nonce[16];
    uint64_t was;        /* CLAIM: the process is in this one; 0 = in none yet */
    uint64_t after;      /* epochs up to here are old */
    uint64_t leaves;     /* a rollback: the launch's epoch; else 0 */
    const char *unheard; /* URL of a tier that could not be asked; NULL: none.  Borrowed */
    struct lineage_wish wish;
    bool alone;                     /* all ranks of the launch are on this node */
    const struct roster *also;      /* what other tiers hold; borrowed from the launch */
    const struct roster *also_here; /* what only this node can reach; the same */
    struct launch_nodes *nodes; /* GATHER, RESOLVE: the launch's, which leaves it alone meanwhile */
    uint32_t *ranks;            /* TELL: rising; owned */
    uint32_t rank_count;
    uint64_t floor;   /* FIND: claims up to here are others'; also a result */
    bool waits;       /* RESOLVE: for what is on its way from nodes to the home */
    int64_t until_ns; /* the home is asked no longer; 0 = no limit */
    /* results */
    uint32_t missing; /* GATHER: the first rank of which no node has told; world: none */
    bool pending;     /* RESOLVE: the newest checkpoint is on that way: nothing is resolved */
    bool away;        /* any: the home is out of reach, and may come back; nothing else failed */
    uint64_t epoch;
    bool has_point, stop;
    struct ckpt_name point;
    char why[SESSION_TEXT_MAX];
};
/* Closes its descriptor: it is none then. */
void jobs_part_drop(struct restore_part *part);
/* Stands for the state's declaration, if it is given. */
struct job_part_decl {
    struct restore_part given;
    struct decl decl;
    struct ckpt_err err; /* why it could not be taken: the rank gets nothing */
};
struct job_plan {
    uint32_t group;
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
    unsigned flags;
    const struct decl **decls;   /* owned by the job */
    uint32_t *clients;           /* owned; control's numbers, UINT32_MAX = gone */
    uint32_t *ranks;             /* owned; for messages */
    struct job_part_decl *parts; /* owned */
    size_t count;
    const struct select *select; /* the group's */
    /* results */
    struct reader *reader;
    struct plan *plan;
    bool damaged;        /* the nearest tier lacked something that another had */
    struct buf *reports; /* owned; one per consumer, empty where all is plain */
};
#define JOBS_LIST_MAX       (UINT32_C(1) << 20)
#define JOBS_LIST_BYTES_MAX (UINT64_C(256) << 20)
struct job_list {
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
    uint64_t token;
    bool objects;
    struct select select; /* owned */
    /* results */
    int fd; /* owned; memfd of `bytes` for the client, or -1 */
    uint64_t bytes;
};
struct job_batch {
    uint32_t group, batch;
    const char *job;
    struct ckpt_name name;
    const struct plan_batch *plan;
    uint32_t use_count; /* the plan's: it may be gone before this job is freed */
    uint32_t *slots;    /* owned; per use */
    uint32_t *clients;  /* owned; per use: control's number of the session */
    void **memory;      /* owned; per use; for consumers that are gone: scratch */
    uint64_t slot_bytes;
    struct load_stats stats;
};
struct job_report {
    enum record_kind kind; /* RESTORED, PROGRESS, BAD */
    char job[CKPT_JOB_NAME_MAX + 1];
    struct record_step step;
    struct record_bad bad;
};
#define JOB_DRAIN_FOUND 64 /* checkpoints that one scan brings */
struct job_found {
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
};
struct job_drain { /* one step of the drainer */
    enum drainer_job what;
    uint32_t tier;
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
    uint32_t world, from, rank;
    struct manifest_pack pack;           /* PACK */
    uint64_t stored_bytes;               /* ACCOUNT */
    struct drain_wait wait;              /* FINISH: also a result */
    char (*busy)[CKPT_JOB_NAME_MAX + 1]; /* SCAN: jobs that train here; owned */
    size_t busy_count;
    struct drain_passed *passed; /* SCAN: the tier's, which control leaves alone meanwhile */
    bool last;                   /* OPEN: nobody trains the job */
    bool fresh;                  /* OPEN: it was committed here, no scan has found it */
    struct policy policy;        /* as they are set when the job begins */
    struct drain_codec codec;
    /* results */
    uint64_t bytes;
    struct drain_part part;  /* PART: packs are taken out by whoever wants them */
    struct job_found *found; /* SCAN: owned */
    size_t found_count;
    bool more;
};
struct job_tier { /* ADOPT: the home learns from a tier; SPREAD: a tier gets a launch's record */
    uint32_t tier;
    uint64_t launch, round;
    char job[CKPT_JOB_NAME_MAX + 1];
    struct key key;     /* SPREAD */
    int64_t until_ns;   /* ADOPT: asked again until then if the home holds no checkpoint */
    struct roster held; /* ADOPT: result, owned */
};
struct job_prune {
    char job[CKPT_JOB_NAME_MAX + 1];
    struct keep_policy *policy; /* owned; of the home, NULL: all stay, or another node decides */
    bool collect;               /* it is time for gc */
    int64_t grace_ns;
    /* results, also on failure */
    bool looked;            /* gc has begun */
    struct prune_plan plan; /* owned */
    struct prune_report pruned;
    struct life_gc_report collected;
    struct prune_copies {           /* of each tier but the home */
        struct keep_policy *policy; /* owned; NULL: all stay, or another node decides */
        struct prune_plan plan;     /* result, owned */
        struct copy_report report;  /* result */
    } copies[TIERS_MAX];
};
struct job {
    struct crew_job base; /* first */
    enum job_kind kind;
    uint32_t client; /* control's number of the session; UINT32_MAX = none */
    uint64_t op;
    enum ckpt_status status;
    struct ckpt_err err;
    int64_t took_ns;
    union {
        struct job_seal seal;
        struct job_part part;
        struct job_attempt attempt;
        struct job_launch launch;
        struct job_plan plan;
        struct job_batch batch;
        struct job_report report;
        struct job_list list;
        struct job_drain drain;
        struct job_tier tier;
        struct job_prune prune;
    };
};
/* Frees a job and what it owns; decl, arena, reader and plan are results: whoever wants
 * them has taken them out. */
struct job *job_new(enum job_kind kind);
void job_free(struct job *j);
/* True if a store may do later what it could not do now. */
bool jobs_out_of_reach(enum ckpt_status st);
/* True if the home is this node's own disk: when that fails, it is not waited for. */
bool jobs_home_is_own(const struct jobs_work *w);
int64_t jobs_now_ns(void);  /* CLOCK_MONOTONIC */
int64_t jobs_wall_ns(void); /* CLOCK_REALTIME */

/* "STEP", "STEP~EPOCH", "none"; "" = no wish. */
enum ckpt_status jobs_parse_resume(const char *text, struct lineage_wish *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
