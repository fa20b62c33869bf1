/* Random jobs for the tests of prune: launches that resume, roll back, save, abort and
 * fail, tags, metrics, deletions, reports of damage; and what stands in them, kept beside
 * the store, so that an oracle needs no code of the product. */
#pragma once

#include "storage/repo/keep_policy.h"
#include "storage/repo/prune.h"
#include "unit/history_fixture.h"

#define PW_CKPTS    64
#define PW_LAUNCHES 8
#define PW_RULES    4
#define PW_HOUR     (INT64_C(3600) * 1000000000)

enum pw_what { PW_COMMITTED, PW_ABORTED, PW_UNDECIDED };
struct pw_ckpt {
    struct ckpt_name name;
    enum pw_what what;
    int64_t listed_ns; /* of its c/ in the home */
    int64_t far_ns;    /* of its h/ in the tier */
    int64_t time_ns;   /* of the two, as documented */
    bool held;         /* complete here */
    bool far;          /* complete in the tier */
    bool absent;       /* the home was lost and has no data of it */
    enum life life;    /* of the commit */
    unsigned tags;     /* a bit for each of pw_tags */
    bool bad;          /* somebody found wrong digests */
    bool draining;     /* begun and not ended in the other tier */
    bool has_loss;
    double loss; /* may be no number */
};
struct pw_launch {
    uint64_t epoch;
    bool resolved, forced, has_point;
    struct ckpt_name point;
};
/* A rule in the oracle's own terms. */
struct pw_rule {
    enum keep_kind kind;
    uint64_t n;
    int64_t within_ns;
    bool highest;
    const char *pattern; /* a tag, or the start of one and '*' */
};
struct pw_world {
    unsigned long long rng;
    struct store *raw;  /* in memory */
    struct store *tier; /* where the job drains to; of the world's time */
    int64_t now_ns;
    struct pw_ckpt ckpts[PW_CKPTS];
    size_t count;
    struct pw_launch launches[PW_LAUNCHES];
    size_t launch_count;
    bool has_next; /* what the next launch would resume from, as the engine says (I3) */
    struct ckpt_name next;
    struct pw_rule rules[PW_RULES];
    size_t rule_count;
    struct keep_policy policy; /* the same, parsed by the product */
};
extern const char *const pw_tags[3];

/* Makes one; stores are new. */
void pw_make(struct pw_world *w, unsigned long long seed);
void pw_fini(struct pw_world *w);
/* A handle on a copy of the world's store, whose clock is the world's and whose commits
 * have the world's times.  Closed by the caller; `w` must outlive it. */
struct store *pw_copy(const struct pw_world *w);
/* Another such handle on the same place. */
struct store *pw_again(const struct pw_world *w, struct store *s);
/* True if all objects of its parts are there. */
bool pw_whole(struct store *s, const struct ckpt_name *name);
/* How many objects of the attempt are there, under any prefix but its logs. */
size_t pw_left(struct store *s, const struct ckpt_name *name);

/* The oracle: must this one stay?  ckpts[i] is a live commit. */
bool pw_must_stay(const struct pw_world *w, size_t i);
bool pw_on_branch(const struct pw_world *w, size_t i);
