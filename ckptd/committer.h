/* Deciding attempts: when all parts of a save are there it is published, when one
 * failed or a rank did not come it is aborted.
 *
 * A pure machine over a fixed table; it has no ledger, because the sessions' ledgers
 * tell it everything again (JOIN, PUT, FAILED) and publish and abort are idempotent.
 *
 *   GATHER ──all parts put──► job PUBLISH ──► decided
 *      │ ▲ some ranks are on other nodes: job MISSING (rank 0 here) or LOOK, 1/8 → 10 s
 *      └──a part failed, deadline──► job ABORT ──► decided
 */
#pragma once

#include "formats/key.h"

#define COMMITTER_ATTEMPTS_MAX  1024
#define COMMITTER_RANKS_NAMED   1024 /* ranks below this are named one by one */
#define COMMITTER_ARRIVAL_NS    INT64_C(600000000000)
#define COMMITTER_POLL_FIRST_NS INT64_C(125000000) /* what nodes put, they put at one time */
#define COMMITTER_POLL_MIN_NS   INT64_C(1000000000)
#define COMMITTER_POLL_MAX_NS   INT64_C(10000000000)
#define COMMITTER_TEXT_MAX      400
#define COMMITTER_ACTIONS_MAX   (COMMITTER_ATTEMPTS_MAX + 8)

enum committer_job {
    COMMITTER_IDLE = 0,
    COMMITTER_PUBLISH,
    COMMITTER_ABORT,
    COMMITTER_MISSING, /* publish_missing: are the other nodes' parts there? */
    COMMITTER_LOOK,    /* publish_look: what did rank 0's node decide? */
};
struct committer_attempt {
    bool used;
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
    uint32_t world;
    uint32_t joined, put; /* ranks of this node */
    bool rank0_here;
    bool several;     /* ranks of other nodes take part: when they began is not known here */
    uint32_t missing; /* several: the first rank whose manifest was not in the home */
    bool told;        /* DECIDED went out; only the store does not know yet */
    uint32_t job_out; /* enum committer_job */
    int64_t begun_ns, deadline_ns, poll_ns, poll_every_ns;
    uint64_t by_epoch;
    enum ckpt_status status; /* not OK: to be aborted, for this reason */
    uint32_t bad_rank;       /* UINT32_MAX = nobody in particular */
    char text[COMMITTER_TEXT_MAX];
    uint8_t joined_map[COMMITTER_RANKS_NAMED / 8], put_map[COMMITTER_RANKS_NAMED / 8];
};
struct committer {
    struct committer_attempt attempts[COMMITTER_ATTEMPTS_MAX];
    size_t end; /* places from here on were never used */
    int64_t arrival_ns;
    uint64_t committed, aborted;
};

enum committer_event_kind {
    COMMITTER_JOINED = 1, /* rank began its part; deadline_ns */
    COMMITTER_PUT_DONE,   /* rank's manifest is in the home */
    COMMITTER_FAILED,     /* rank's part failed (or rank is gone): status, text */
    COMMITTER_DONE,       /* a job came back: done, status, text; rank = first missing */
    COMMITTER_TICK,
};
struct committer_event {
    enum committer_event_kind kind;
    const char *job;
    struct ckpt_name name;
    uint32_t world, rank;
    int64_t deadline_ns;
    bool several; /* JOINED: not all ranks of the launch are on this node */
    enum committer_job done;
    enum ckpt_status status; /* LOOK: OK = committed, BUSY = undecided, else as aborted */
    const char *text;
};
enum committer_action_kind { COMMITTER_RUN = 1, COMMITTER_DECIDED };
struct committer_action {
    enum committer_action_kind kind;
    uint32_t attempt; /* index; RUN: its job_out says what */
    /* DECIDED: the attempt may be free already. */
    struct ckpt_name name;
    enum ckpt_status status;
};
struct committer_actions {
    uint32_t count;
    struct committer_action list[COMMITTER_ACTIONS_MAX];
    char text[COMMITTER_TEXT_MAX]; /* of the (at most one) DECIDED that failed */
};

/* CKPT_BUSY: the table is full (JOINED and FAILED only). */
enum ckpt_status committer_step(struct committer *c, const struct committer_event *ev, int64_t now,
                                struct committer_actions *out) CKPT_MUST_CHECK;
/* The attempt of that name, or NULL. */
struct committer_attempt *committer_find(struct committer *c, const char *job,
                                         const struct ckpt_name *name);
/* True if `rank` has joined (false for ranks that are not kept one by one). */
bool committer_has_joined(const struct committer_attempt *a, uint32_t rank);
