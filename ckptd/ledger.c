/* The ledger memfd. */
#include "ckptd/ledger.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define LEDGER_MAGIC UINT64_C(0x31524744454c4b43) /* "CKLEDGR1" */
#define HALF_BYTES   ((sizeof(struct session) + CKPT_BLOCK - 1) / CKPT_BLOCK * CKPT_BLOCK)
#define BASE_BYTES   (CKPT_BLOCK + 2 * HALF_BYTES)
/* Sparse: only what is touched takes memory. */
#define OP_STRIDE   (UINT64_C(1) << 30)
#define OP_START    (UINT64_C(1) << 24)
#define FILE_BYTES  (OP_START + SESSION_OPS_MAX * OP_STRIDE)
#define OP_PACKS_AT UINT64_C(8192)

_Static_assert(BASE_BYTES <= OP_START, "the halves end before the first op");
_Static_assert(sizeof(struct session_pack) == 32, "ledger layout");
_Static_assert(8 + RECORD_METRICS_MAX * sizeof(struct record_metric) <= OP_PACKS_AT,
               "metrics fit before the packs");

struct ledger_head {
    uint64_t magic;
    uint64_t session_bytes; /* a worker of another build does not take it over */
    _Atomic uint32_t active;
    uint32_t committed; /* 0 until the first commit */
};

static uint8_t *half(const struct ledger *l, uint32_t which)
{
    return l->base + CKPT_BLOCK + which * HALF_BYTES;
}

static enum ckpt_status map_base(int fd, struct ledger *ret, struct ckpt_err *err)
{
    void *p = mmap(NULL, BASE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return err_errno(err, errno, "map a ledger");
    *ret = (struct ledger){ .fd = fd, .base = p };
    return CKPT_OK;
}

enum ckpt_status ledger_new(const char *name, struct ledger *ret, struct ckpt_err *err)
{
    CLEANUP_FD int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "memfd of a ledger");
    if (ftruncate(fd, (off_t)FILE_BYTES) < 0)
        return err_errno(err, errno, "size of a ledger");
    /* Memory that is there now cannot be missing in the middle of a commit. */
    if (fallocate(fd, 0, 0, (off_t)BASE_BYTES) < 0)
        return err_errno(err, errno, "memory for a ledger");
    enum ckpt_status st = map_base(fd, ret, err);
    if (st != CKPT_OK)
        return st;
    *(struct ledger_head *)(void *)ret->base = (struct ledger_head){
        .magic = LEDGER_MAGIC,
        .session_bytes = sizeof(struct session),
    };
    TAKE_FD(fd);
    return CKPT_OK;
}

enum ckpt_status ledger_open(int fd, struct ledger *ret, struct session *ret_session,
                             struct ckpt_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "stat of a ledger");
    if ((uint64_t)st.st_size != FILE_BYTES)
        return err_set(err, CKPT_CORRUPT, "a ledger of %lld bytes", (long long)st.st_size);
    struct ledger l;
    enum ckpt_status rc = map_base(fd, &l, err);
    if (rc != CKPT_OK)
        return rc;
    const struct ledger_head *h = (const void *)l.base;
    if (h->magic != LEDGER_MAGIC || h->session_bytes != sizeof(struct session) || !h->committed) {
        munmap(l.base, BASE_BYTES);
        return err_set(err, CKPT_CORRUPT, "a ledger that was never written, or by another build");
    }
    memcpy(ret_session, half(&l, atomic_load_explicit(&h->active, memory_order_acquire) & 1),
           sizeof(*ret_session));
    *ret = l;
    return CKPT_OK;
}

void ledger_close(struct ledger *l)
{
    if (!l->base)
        return;
    munmap(l->base, BASE_BYTES);
    close(l->fd);
    *l = (struct ledger){ .fd = -1 };
}

void ledger_commit(struct ledger *l, const struct session *s)
{
    struct ledger_head *h = (void *)l->base;
    uint32_t to = 1 - (atomic_load_explicit(&h->active, memory_order_relaxed) & 1);
    size_t used = offsetof(struct session, slots) + s->slot_count * sizeof(s->slots[0]);
    memcpy(half(l, to), s, used);
    /* A kill before this line: the old half is still the valid one, and whole. */
    atomic_store_explicit(&h->active, to, memory_order_release);
    h->committed = 1;
}

enum ckpt_status ledger_op_open(const struct ledger *l, uint32_t index, uint32_t image_slots,
                                uint64_t chunks, struct ledger_op *ret, struct ckpt_err *err)
{
    uint64_t digests_at = OP_PACKS_AT + (uint64_t)image_slots * sizeof(struct session_pack);
    uint64_t crcs_at = digests_at + chunks * sizeof(struct digest);
    uint64_t bytes = align_up(crcs_at + chunks * sizeof(uint32_t), CKPT_BLOCK);
    if (bytes > OP_STRIDE)
        return err_set(err, CKPT_LIMIT, "a save of %llu chunks does not fit the ledger",
                       (unsigned long long)chunks);
    off_t at = (off_t)(OP_START + index * OP_STRIDE);
    /* Also here: no memory must be a refusal now, not a signal later. */
    if (fallocate(l->fd, 0, at, (off_t)bytes) < 0)
        return err_errno(err, errno, "memory for a save's ledger");
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, at);
    if (p == MAP_FAILED)
        return err_errno(err, errno, "map a save's ledger");
    uint8_t *base = p;
    *ret = (struct ledger_op){
        .base = base,
        .bytes = bytes,
        .metric_count = (void *)base,
        .metrics = (void *)(base + 8),
        .packs = (void *)(base + OP_PACKS_AT),
        .digests = (void *)(base + digests_at),
        .crcs = (void *)(base + crcs_at),
    };
    return CKPT_OK;
}

enum ckpt_status ledger_op_new(const struct ledger *l, uint32_t index, uint32_t image_slots,
                               uint64_t chunks, struct ledger_op *ret, struct ckpt_err *err)
{
    if (fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(OP_START + index * OP_STRIDE), (off_t)OP_STRIDE) < 0)
        return err_errno(err, errno, "empty a save's ledger");
    return ledger_op_open(l, index, image_slots, chunks, ret, err);
}

void ledger_op_close(const struct ledger *l, uint32_t index, struct ledger_op *op, bool void_it)
{
    if (!op->base)
        return;
    size_t bytes = op->bytes;
    munmap(op->base, bytes);
    *op = (struct ledger_op){ 0 };
    if (void_it)
        (void)fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        (off_t)(OP_START + index * OP_STRIDE), (off_t)bytes);
}
