/* What a workload was told, and so what a power cut must leave: the marks of a log, and
 * the recovery that is tried on every state a cut may leave. */
#pragma once

#include "crash/disk.h"
#include "props/engine_kit.h"

#define ORACLE_COMMITS 24

enum oracle_life {
    ORACLE_MAY,      /* there or not: being made, deleted or brought back */
    ORACLE_LIVE,     /* acknowledged: must be there, whole */
    ORACLE_DELETED,  /* acknowledged: back, whole, only if asked for or resumed from */
    ORACLE_GOING,    /* the same, and gc is at it: back whole, or not at all */
    ORACLE_NEVER,    /* collected, or it cannot be whole: never again */
    ORACLE_PARTS,    /* all parts are acknowledged: the next launch must commit it */
    ORACLE_FAILED,   /* that rank 1 failed is acknowledged: never, and it says so */
    ORACLE_ABORTED,  /* the decision is acknowledged: never, and it says so */
    ORACLE_DROPPING, /* acknowledged, and the good store has it: here it is whole, or it is told */
    ORACLE_DROPPED,  /* and is not here any more, which is acknowledged */
};
enum oracle_mark_kind {
    MARK_LIFE,    /* a: commit, b: enum oracle_life */
    MARK_REPO,    /* the repository was opened */
    MARK_CLAIM,   /* a: epoch, b: number of the token */
    MARK_DAMAGED, /* a: commit; until MENDED it must be mended from the good store first */
    MARK_MENDED,
    MARK_PROGRESS, /* a: step that epoch 1 reported */
};
struct oracle {
    enum oracle_life life[ORACLE_COMMITS];
    bool repo;
    uint64_t epoch;
    int token;   /* that claimed it */
    int damaged; /* commit; -1 = none */
    int progress;
};
/* The commits of every workload have fixed names. */
struct ckpt_name oracle_name(int commit);
extern const char *const oracle_tokens[3];
void oracle_mark(enum oracle_mark_kind kind, int a, int b);
void oracle_apply(struct oracle *o, int mark);

/* Said in front of every complaint: where the cut was. */
extern char oracle_where[512];
/* Opens the store in `dir`, as the next launch does: claims, resolves, verifies and
 * restores every live checkpoint, saves and publishes the next, collects what was left.
 * Whatever is not as the oracle says ends the process with words.  `good` mends a
 * damaged commit. */
void oracle_recover(const char *dir, const struct oracle *o, struct store *good);
/* Drops what of the home's copies the other store holds, but for the newest; returns how many. */
uint64_t oracle_drop(struct store *home, struct store *good);
/* The model that all workloads save. */
void oracle_layout(struct kit_layout *l, uint32_t world);
/* All parts and the commit; what it cannot do ends the process. */
void oracle_save(struct store *s, const struct kit_layout *l, const struct ckpt_name *name);
