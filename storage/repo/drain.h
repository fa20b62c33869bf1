/* Bringing a checkpoint from the tier where it was saved to another one (rules H4, D6).
 *
 *   drain_open     committed, alive, wanted, not there yet?   l/ goes first
 *   drain_part     a rank whose packs lie here, and which of them are not there yet
 *   drain_pack     one pack: read, checked, coded if the tier's policy says so, put
 *   drain_account  the rank's packs are named for good there: `.h`, manifest
 *   drain_finish   one node of all: index; when the parts of all ranks are there: the log, c/,
 *                  the log, h/
 *
 * Each is one blocking job that may be repeated at any time: what is there whole is found
 * and not put again, so a drain that dies anywhere is gone on with by whoever begins it
 * next.  Nothing but records decides: a checkpoint is held there when h/ is.
 * A checkpoint refers to nothing outside itself (there is no deduplication), so it is its
 * own closure.
 *
 * Memory of a thread: two slots (what is read, what is coded), a head and its tables;
 * touched when used.  Nothing grows with the checkpoint but one rank's list of packs. */
#pragma once

#include "formats/manifest.h"
#include "formats/pack.h"
#include "storage/repo/policy.h"
#include "storage/repo/repo.h"

/* How a tier codes what it is given. */
struct drain_codec {
    enum codec_id codec; /* CODEC_STORED: bytes as they are */
    int level;
};
struct drain_work; /* working memory of a thread */
struct drain_work *drain_work_new(uint64_t slot_bytes);
void drain_work_free(struct drain_work *w);

/* Commits that scans of a tier have read and the policy's every= does not take, and copies that the
 * tier has dropped.  What a commit says never changes, nor does GONE, so none is read again while
 * it is listed; what may change (tags, which is the newest) is no part of this.  Zeros at first. */
#define DRAIN_PASSED_MAX (UINT32_C(1) << 18) /* 17 bytes each */
struct drain_passed {
    uint64_t every_steps; /* with another number all are forgotten */
    struct drain_pass {
        struct digest id; /* of the key of its c/, or of that GONE */
        bool seen;        /* by the scan under way */
    } * list;             /* owned */
    size_t count, cap;
    size_t sorted; /* so many, from before this scan; the others are behind them */
    size_t most;   /* what finds no room is read by each scan */
};
/* Around one scan of all jobs; whole: it went through all of them, so that what it has not seen is
 * gone and forgotten. */
void drain_passed_begin(struct drain_passed *p, const struct policy *policy, size_t most);
void drain_passed_end(struct drain_passed *p, bool whole);
void drain_passed_fini(struct drain_passed *p);

/* Handles of one thread; all borrowed. */
struct drain {
    const char *job;
    struct ckpt_name name;
    struct store *home;           /* decides */
    struct store *const *sources; /* where bytes are read, nearest first; [0] has our packs */
    size_t source_count;
    struct store *to;            /* may be the home (packs only are missing there then) */
    const uint8_t *node;         /* 16 bytes: only what this node saved; NULL = all that is here */
    const struct policy *policy; /* drain_open: what goes; NULL = everything */
    bool last;                   /* for the policy: the job's newest, nobody trains it */
    bool fresh; /* drain_open: just committed, so that nobody can have begun to bring it there */
    struct drain_codec codec;
    struct drain_passed *passed; /* drain_scan; NULL: nothing is remembered */
};
/* CKPT_OK: to be drained, *ret is its commit.
 * CKPT_EXISTS      held there already
 * CKPT_NOT_PLANNED the policy does not send it, and nothing of it is there (H4: what is begun is
 *                  finished; of the home that is not asked, where manifests lie anyway)
 * CKPT_ABORTED     not to be drained: no commit, DELETED or GONE (the text says)
 * CKPT_CONFLICT    two homes (H1) */
enum ckpt_status drain_open(const struct drain *d, struct record_commit *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;

struct drain_part {
    uint32_t rank;               /* == world: no further rank has anything to be drained here */
    struct manifest_pack *packs; /* not there yet; malloc'ed, the caller frees */
    uint32_t count;
    uint64_t there_bytes; /* of the rank's packs that are there */
    uint32_t total;       /* packs of the rank */
    uint64_t raw_bytes;   /* of the rank */
};
/* The first rank >= from with something to do. */
enum ckpt_status drain_part(const struct drain *d, uint32_t world, uint32_t from,
                            struct drain_part *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* *ret_bytes: of the object.  CKPT_CORRUPT: no source has it right (each was read twice);
 * CKPT_IO: none has it. */
enum ckpt_status drain_pack(const struct drain *d, struct drain_work *w, uint32_t rank,
                            const struct manifest_pack *pack, uint64_t *ret_bytes,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
/* stored_bytes: of all packs of the rank, as they are there. */
enum ckpt_status drain_account(const struct drain *d, uint32_t rank, uint64_t stored_bytes,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* What a node remembers while it waits for the parts of others; zeros at first. */
struct drain_wait {
    uint32_t looks; /* so many there were */
    uint32_t from;  /* parts of ranks below this were there */
    bool ours;      /* rank 0's part is this node's, which has the last word */
};
/* CKPT_BUSY: parts of other nodes are missing (the text names the first rank), or nobody has
 * said yet that all are there: again later.  CKPT_ABORTED as above.
 * The node of rank 0 looks for the parts, each once; the others ask for h/, and look themselves
 * only when it is their turn, in case that node is lost. */
enum ckpt_status drain_finish(const struct drain *d, struct drain_wait *wait, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Which checkpoints of a job are to go, newest first, at most `cap`: live in the home, with
 * a part here, wanted or begun, not held there.  Tags that the tier lacks are put on the way.
 * d->name is not used; d->last: nobody trains the job.  *ret_more: cap was too small. */
enum ckpt_status drain_scan(const struct drain *d, struct ckpt_name *ret, size_t cap,
                            size_t *ret_count, bool *ret_more, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Mends `to`, where packs were saved: what of them is missing there or damaged is brought
 * from the sources as it is.  Ranks without `.h` there never lay there: they are left.
 * CKPT_IO, CKPT_CORRUPT: some could not be mended (the first is named); the rest is. */
enum ckpt_status drain_mend(const struct drain *d, struct drain_work *w, uint64_t *ret_mended,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
/* One pack of it. */
enum ckpt_status drain_mend_pack(const struct drain *d, struct drain_work *w, uint32_t rank,
                                 const struct manifest_pack *pack, bool *ret_mended,
                                 struct ckpt_err *err) CKPT_MUST_CHECK;
