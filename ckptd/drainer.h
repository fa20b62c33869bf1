/* Which checkpoints go to which tier, and what is to be done next for that (rule H4).
 *
 * A pure machine over fixed tables, like the committer.  It has no ledger: what is to go
 * is found in the stores again (SCAN), and every job finds what is there already.
 *
 *   WANTED ─► OPEN ─► PART ─► PACK, PACK, .. ─► ACCOUNT ─► PART (next rank) .. ─► FINISH ─► held
 *               │        ▲           │                                               │
 *               │        └── trouble, after a pause: what is there is not put again  │
 *               ▼                                                                    ▼
 *      held · not planned · deleted                       WAITING for other nodes' parts
 *
 * Tier 0 is where packs are saved; tiers from 1 are drained to.  In each, one checkpoint is
 * under way at a time, the newest decided first, and one begun is finished unless it was
 * deleted.  A target of tier 0 is a repair: bad bytes were found there, and another tier
 * had them right. */
#pragma once

#include "ckptd/progress.h"
#include "formats/key.h"
#include "storage/repo/drain.h"

#define DRAINER_TIERS_MAX    8
#define DRAINER_TARGETS_MAX  256 /* more are found by the next scan */
#define DRAINER_TEXT_MAX     400
#define DRAINER_ACTIONS_MAX  (DRAINER_TARGETS_MAX + 64 * DRAINER_TIERS_MAX)
#define DRAINER_PAUSE_MIN_NS INT64_C(1000000000)
#define DRAINER_PAUSE_MAX_NS INT64_C(60000000000)
#define DRAINER_GIVE_UP_NS   INT64_C(16000000000)   /* pauses that long: nobody waits for it */
#define DRAINER_WAIT_MAX_NS  INT64_C(10000000000)   /* for parts of other nodes */
#define DRAINER_OURS_MAX_NS  INT64_C(2000000000)    /* and when all others wait for this one */
#define DRAINER_OURS_LOOKS   300                    /* ten minutes of them are to be waited for */
#define DRAINER_DOUBT_NS     INT64_C(10000000000)   /* it looks like that: once more */
#define DRAINER_BAD_NS       INT64_C(3600000000000) /* damaged here, or two homes */
#define DRAINER_SCAN_NS      INT64_C(900000000000)

enum drainer_job {
    DRAINER_IDLE = 0,
    DRAINER_SCAN,
    DRAINER_OPEN,
    DRAINER_PART,
    DRAINER_PACK,
    DRAINER_ACCOUNT,
    DRAINER_FINISH,
    DRAINER_REPAIR,
};
enum drainer_phase {
    TARGET_WANTED = 1,
    TARGET_BEGUN,
    TARGET_WAITING, /* our parts are there, others are not */
};
struct drainer_target {
    bool used;
    uint32_t tier;
    uint32_t phase; /* enum drainer_phase */
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
    uint64_t order;   /* of decision; 0 = found by a scan, older than all others */
    bool fresh;       /* decided here, and not begun: nothing of it lies in the tier */
    int64_t since_ns; /* wanted since */
    int64_t due_ns, pause_ns;
    bool doubted; /* it seemed bad once: bytes may have been changed on their way */
    struct drain_wait wait;
};
struct drainer_tier {
    bool on;
    uint32_t target; /* the begun one; UINT32_MAX = none */
    uint32_t doing;  /* enum drainer_job: for the begun one */
    uint32_t out;    /* its jobs under way */
    bool trouble;    /* one of them failed: when all are back, a pause and PART again */
    bool bad;        /* and it is the checkpoint that is to blame: others come first */
    uint32_t world, rank, packs, next; /* packs of this rank that are to be put; next of them */
    uint32_t rank_total;               /* packs of this rank in all */
    uint64_t rank_raw, rank_stored;
    uint64_t raw_done, raw_total; /* of the begun one; ranks before this one; all */
    uint64_t put_bytes, put_raw;  /* of the begun one, since begun_ns: stored, and raw as well
                                     as can be told */
    int64_t begun_ns, due_ns, pause_ns;
    bool scan_out, scan_again;
    int64_t scan_ns; /* the next one */
    /* what a person wants to know */
    enum ckpt_status status; /* of the last trouble; OK once a job ended well */
    char text[DRAINER_TEXT_MAX];
    uint64_t held; /* brought there by this worker; one that is found there is not counted */
    uint64_t put_total, put_packs, troubles;
    uint64_t held_step; /* of the last that was brought or found there */
    int64_t held_ns;    /* when; 0 = none yet */
};
struct drainer {
    struct drainer_tier tiers[DRAINER_TIERS_MAX];
    struct drainer_target targets[DRAINER_TARGETS_MAX];
    uint32_t tier_count; /* 0: nothing is drained */
    uint32_t streams;    /* packs under way in each tier */
    uint64_t last_order;
    bool stopping;
};

enum drainer_event_kind {
    DRAINER_WANT = 1, /* job, name; tier; fresh: decided just now */
    DRAINER_SCANNED,  /* tier; status; more: some found no place */
    DRAINER_RESCAN,   /* something changed that a scan may find */
    DRAINER_DONE,     /* tier, what, status, text, and what the job found */
    DRAINER_TICK,
    DRAINER_STOP, /* nothing new is begun */
};
struct drainer_event {
    enum drainer_event_kind kind;
    uint32_t tier;
    const char *job;
    struct ckpt_name name;
    bool fresh, more;
    enum drainer_job what;
    enum ckpt_status status;
    const char *text;
    uint32_t world, rank, packs, total; /* OPEN: world; PART: rank, packs missing, of total */
    uint64_t bytes;         /* OPEN: raw; PART: there already; PACK: put; REPAIR: 0 = nothing was */
    uint64_t raw_bytes;     /* PART: of the rank */
    struct drain_wait wait; /* FINISH */
};
enum drainer_action_kind {
    DRAINER_RUN = 1,     /* target, what; PACK: pack */
    DRAINER_HELD,        /* the tier holds it now */
    DRAINER_NOT_PLANNED, /* the policy does not send it, or it was deleted */
    DRAINER_REPAIRED,
    DRAINER_NEEDLESS, /* nothing was to be repaired: it is not to lie there any more */
};
struct drainer_action {
    enum drainer_action_kind kind;
    enum drainer_job what;
    uint32_t tier, target, pack, rank;
    /* HELD, NOT_PLANNED: the target is free already */
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
    bool last; /* NOT_PLANNED: no other tier is to get it either */
};
struct drainer_actions {
    uint32_t count;
    struct drainer_action list[DRAINER_ACTIONS_MAX];
};

/* tier_count: tier 0 included; 0 or 1 = nothing is drained. */
void drainer_init(struct drainer *d, uint32_t tier_count, uint32_t streams, int64_t now);
/* False: no place for a WANT; a scan will find it. */
bool drainer_step(struct drainer *d, const struct drainer_event *ev, int64_t now,
                  struct drainer_actions *out);
/* Something is under way or to be done, and not only in tiers that fail again and again. */
bool drainer_busy(const struct drainer *d);
/* Targets of the tier that are not there yet. */
uint32_t drainer_lag(const struct drainer *d, uint32_t tier);
/* Since when the oldest of them waits. */
int64_t drainer_lag_ns(const struct drainer *d, uint32_t tier, int64_t now);
/* Raw bytes of the begun one that are there, as well as can be told. */
uint64_t drainer_raw_done(const struct drainer_tier *t);
/* Bytes a second that go there; seconds until the rest is there at what was put so far (what was
 * there before took no time), or PROGRESS_UNKNOWN. */
double drainer_rate(const struct drainer_tier *t, int64_t now);
double drainer_left(const struct drainer_tier *t, int64_t now);
const char *drainer_job_name(unsigned what);
