/* Saving a rank's part: slots become packs, then the manifest says what they hold.
 *
 * Order that keeps rule S1: packs (durable) → store_sync of the attempt's directories
 * → `.h` → manifest (put-if-absent).  A crash in between leaves packs nobody refers to. */
#pragma once

#include "formats/manifest.h"
#include "formats/pack.h"
#include "storage/repo/repo.h"

/* How a tier codes what it stores. */
struct save_codec {
    enum codec_id codec;
    int level;
};

/* Working memory of one crew thread: head buffer and, for coded packs, one slot of
 * pool buffer; both 4 KiB-aligned. */
struct save_work;
struct save_work *save_work_new(uint64_t slot_bytes);
void save_work_free(struct save_work *w);

struct save_slot {
    const char *job;
    struct ckpt_name name;
    uint32_t rank;
    const struct decl *d;
    uint32_t slot;   /* number in the rank's image */
    uint8_t *memory; /* the slot, 4 KiB-aligned; gaps and the rest of the last block are zeroed */
    struct save_codec codec;
};
struct save_packed {
    struct digest id;
    uint64_t stored_bytes;
};
/* First half of a pack, and all of the CPU's work on a stored one: the raw digest and the
 * CRC32C of each chunk in order (arrays of d->slots[slot].chunks entries), and zeros in the
 * gaps.  Apart from the second half so that it can run ahead of the disk. */
void save_digest(const struct save_slot *in, struct digest *digests, uint32_t *crcs);
/* Second half: codes and puts.  The pack is durable on return, named for good after the
 * sync of save_finish. */
enum ckpt_status save_pack(struct store *s, struct save_work *w, const struct save_slot *in,
                           const struct digest *digests, const uint32_t *crcs,
                           struct save_packed *ret, struct ckpt_err *err) CKPT_MUST_CHECK;

/* Ends a rank's part: syncs the attempt's directories, puts `.h`, then the manifest (one
 * that exists with equal bytes is adopted, else CKPT_CONFLICT).
 * h: identity, metrics, packs (pack_count = from->d->slot_count); from: the digests of all
 * chunks, and what this rank saw of its replicas' shares. */
enum ckpt_status save_finish(struct store *s, const struct manifest_header *h,
                             const struct manifest_source *from, uint64_t stored_bytes,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* Its two halves, in this order, for when packs and `.h` lie in a tier of the node, and manifests
 * in the home (H2).  An error of the first is final: what a sync that failed has lost, a second
 * one does not find missing.  The second may be tried again. */
enum ckpt_status save_settle(struct store *tier, const struct manifest_header *h,
                             const struct manifest_source *from, uint64_t stored_bytes,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status save_tell(struct store *home, const struct manifest_header *h,
                           const struct manifest_source *from, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Says that this rank's part failed; the committer will abort. */
enum ckpt_status save_failed(struct store *s, const struct manifest_header *h, struct ckpt_err *err)
    CKPT_MUST_CHECK;
