/* The restores of a node: ranks of one launch that want the same checkpoint are planned
 * together, each chunk is read once, and slots of all consumers are reserved before a
 * batch is submitted.
 *
 * A pure machine over a fixed table.  Control asks restore_want() which consumer needs a
 * slot next, reserves one (session.c) and says so; a batch whose consumers all have
 * their slot becomes a job.  Only one batch reserves at a time, so there is no deadlock:
 * slots that clients hold come back, or their clients die.
 *
 *   GATHER ──all here, or 500 ms──► PLAN (job) ──► RUN ──all read, all back──► (free)
 */
#pragma once

#include "storage/repo/plan.h"

#define RESTORE_GROUPS_MAX    64
#define RESTORE_CONSUMERS_MAX 1024
#define RESTORE_FLIGHT_MAX    8 /* batches at the crew, per group */
#define RESTORE_GATHER_NS     INT64_C(500000000)

/* A declaration that stands for the state's: only its pieces are wanted. */
struct restore_part {
    uint64_t bytes; /* 0 = none */
    int fd;         /* with bytes: control's to close; the machine only keeps it */
};

enum restore_phase { RESTORE_FREE = 0, RESTORE_GATHER, RESTORE_PLAN, RESTORE_RUN };
struct restore_consumer {
    uint32_t client; /* the caller's number for the session */
    uint64_t op;
    uint32_t state; /* index */
    uint32_t lent;  /* slots loading or at the client */
    uint64_t done_bytes, total_bytes;
    struct digest select;     /* of the patterns: those who ask for the same are planned together */
    struct restore_part part; /* until it is planned; then the job's */
    bool gone;                /* cancelled, dead or told the end */
};
struct restore_batch {
    uint32_t batch; /* index in the plan */
    bool out;
    uint32_t uses;   /* slots reserved so far */
    uint32_t *slots; /* one per use; SESSION_NO_SLOT for consumers that are gone */
};
struct restore_group {
    uint32_t phase; /* enum restore_phase */
    uint64_t key;   /* the launch; 0 = for one reader alone */
    struct ckpt_name name;
    uint32_t flags; /* enum wire_load_flags */
    int64_t begun_ns;
    struct select *select;   /* what of it; owned, NULL = all */
    const struct plan *plan; /* RUN */
    size_t next_batch;
    struct restore_batch filling; /* reserves its slots */
    bool has_filling;
    uint32_t in_flight;
    enum ckpt_status status;
    char text[400];
    uint32_t count;
    struct restore_consumer *consumers; /* RESTORE_CONSUMERS_MAX of them */
};
struct restore_table {
    struct restore_group groups[RESTORE_GROUPS_MAX];
};

/* Adds a consumer to the group of (key, name, flags, patterns), a new one if needed.  NULL: the
 * table is full, or the group has left GATHER and there is no room for another. */
struct restore_group *restore_join(struct restore_table *t, uint64_t key,
                                   const struct ckpt_name *name, uint32_t flags,
                                   const struct restore_consumer *who, int64_t now);
/* Its consumers that have not left. */
uint32_t restore_waiting(const struct restore_group *g);
/* True (once) when the group shall be planned: `expected` consumers are there, or time
 * is up. */
bool restore_due(struct restore_group *g, uint32_t expected, int64_t now);
/* The plan is there; `g` borrows it until restore_ended. */
void restore_planned(struct restore_group *g, const struct plan *plan);
/* The group fails: no further batch is started. */
void restore_fail(struct restore_group *g, enum ckpt_status st, const char *text);
/* The consumer that needs a slot next; NULL: none now.  After a non-NULL answer the
 * caller says restore_reserved (with the slot) or leaves it for later. */
struct restore_consumer *restore_want(struct restore_group *g);
void restore_reserved(struct restore_group *g, uint32_t slot);
/* The batch whose slots are all there, to be submitted (its slots array becomes the
 * caller's); false: none. */
bool restore_ready(struct restore_group *g, struct restore_batch *ret);
/* The batch that waits for slots although nobody needs it any more: its reserved slots
 * are the caller's to unload (and the array to free); false: none. */
bool restore_abandoned(struct restore_group *g, struct restore_batch *ret);
/* A batch came back from the crew. */
void restore_loaded(struct restore_group *g);
/* Slots of a consumer: given to the client or taken back. */
void restore_back(struct restore_consumer *c);
/* The consumer leaves (cancelled, died). */
void restore_gone(struct restore_group *g, uint32_t client, uint64_t op);
/* The next consumer that has everything, or that must hear of the failure; it is marked
 * as gone.  NULL: none now. */
struct restore_consumer *restore_ended(struct restore_group *g);
/* True when nothing of the group is out any more: the caller frees its plan and calls
 * restore_free. */
bool restore_over(const struct restore_group *g);
void restore_free(struct restore_group *g);
/* One that has not left: the number of a session that is gone is given to another, whose
 * ops count from 1 again. */
struct restore_consumer *restore_find(struct restore_table *t, uint32_t client, uint64_t op,
                                      struct restore_group **ret);
