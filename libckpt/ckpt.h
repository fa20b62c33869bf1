/* ckpt: checkpoints of sharded training state, in the background.
 *
 * A training process (a rank) declares its state once, then saves it many times and
 * restores into it:
 *
 *     struct ckpt *c;
 *     ckpt_open(&(struct ckpt_open_opts){ .size = sizeof(struct ckpt_open_opts),
 *               .mode = CKPT_TRAIN, .job = "gpt", .rank = rank, .world = world }, &c);
 *     struct ckpt_state *s;
 *     ckpt_state_new(c, &s);
 *     ckpt_tensor(s, &(struct ckpt_tensor_desc){ .size = ..., .name = "w", ... }, pieces, n);
 *     ckpt_seal(s, 60000);
 *     if (ckpt_resume(c, &point) == CKPT_OK)
 *         ckpt_restore(s, NULL, buffers, count, NULL, NULL);
 *     for (step = ...; ; step++) {
 *         forward(); backward();
 *         ckpt_fence(s, 60000);              // before anything changes the state
 *         optimizer_step();
 *         ckpt_progress(c, step);
 *         if (step % 100 == 0)
 *             ckpt_save(s, &(struct ckpt_save_opts){ .size = ..., .step = step },
 *                       buffers, count, NULL, &op);
 *     }
 *     ckpt_wait(c, op, CKPT_LEVEL_LOCAL, 600000);
 *     ckpt_progress(c, CKPT_FINISHED);       // all steps are done
 *     ckpt_close(c);
 *
 * All input and output is done by ckptd, a daemon on the node; when none is running,
 * ckpt_open starts a private one.  What happens to this process after a save is
 * *staged* cannot lose it.  A failed save never fails training: look at the class of
 * the status (ckpt_status_class) and go on unless it is CKPT_CLASS_CALLER or _BUG.
 *
 * Common to all calls.  Structs start with their size (sizeof in the caller's build),
 * so that older programs work with newer libraries, and a field that this library does
 * not know is refused (CKPT_UNSUPPORTED) unless it is 0; 0 means the default.  Waits take milliseconds; 0 looks once, negative is refused: nothing here
 * waits for ever.  Names are UTF-8.  Sizes are bytes, offsets into tensors elements.
 * Threads: calls on one context may come from any thread; those on one state must not
 * overlap in time, except ckpt_fence; none may come from a signal handler.  A context does not survive fork(): in the child
 * every call returns CKPT_WRONG_STATE and ckpt_close frees only what is the child's own.
 * The library prints nothing, never exits and never aborts the process: a rule of its own that
 * does not hold breaks the context (CKPT_BUG), and training goes on without checkpoints. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "formats/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CKPT_API      __attribute__((visibility("default")))
#define CKPT_MAX_DIMS 16

struct ckpt;       /* one rank's connection to its daemon, for one launch of one job */
struct ckpt_state; /* a declared set of tensors and objects */

/* -- opening ------------------------------------------------------------- */

enum ckpt_mode {
    CKPT_TRAIN = 1, /* takes part in the job's history; one launch at a time */
    CKPT_READ = 2,  /* reads only: no epoch, writes nothing, blocks nothing */
};

struct ckpt_open_opts {
    size_t size;
    enum ckpt_mode mode;
    const char *job; /* [A-Za-z0-9][A-Za-z0-9._-]{0,127} */
    /* The job's home: a directory or URL; NULL = CKPT_STORE. */
    const char *store;
    /* ckptd's socket; NULL = CKPT_SOCKET, else the runtime directory's socket of this
     * user and store; when nobody listens there a private ckptd is started. */
    const char *socket;
    uint32_t rank, world; /* world 0 = 1 */
    /* The launch token: the same on all ranks, new at each restart.  NULL = by
     * `broadcast`, else CKPT_LAUNCH, else Slurm's job.step.restart; with world 1 a
     * random one.  world > 1 without any: CKPT_NO_LAUNCH, with what to set. */
    const char *launch;
    /* Copies buf (len bytes) from rank 0 to all ranks; 0 = fine.  Called once, inside
     * ckpt_open, on all ranks. */
    int (*broadcast)(void *ctx, void *buf, size_t len);
    void *broadcast_ctx;
    /* Resume from here instead of the newest: "STEP", "STEP~EPOCH" or "none"; moves the
     * head of the job's history.  NULL = CKPT_RESUME, else the newest. */
    const char *resume;
    /* Bytes of shared memory for staging, per state; 0 = 1 x the state. */
    uint64_t arena_bytes;
    int timeout_ms; /* for the daemon and the other ranks; 0 = 600,000 */
    /* CKPT_OPEN_SOLO: refused (CKPT_REFUSED) while a trainer of this job is attached. */
    uint32_t flags;
    /* Saves copy at most so many bytes a second out of the caller's memory, in steps of a slot:
     * for nodes where a snapshot and the trainer's own traffic share a link.  Fences wait
     * accordingly longer.  0 = CKPT_COPY_RATE (digits, then nothing, K, M or G), else no limit. */
    uint64_t copy_bytes_per_s;
};
enum ckpt_open_flags { CKPT_OPEN_SOLO = 1 };

/* Connects, takes part in the launch and agrees with all ranks on where to resume.
 * Blocks until rank 0's daemon has resolved the launch.  *ret: free with ckpt_close.
 * Errors: CKPT_BAD_NAME, CKPT_NO_LAUNCH, CKPT_LAUNCH_REUSED, CKPT_SUPERSEDED,
 * CKPT_TIMEOUT (names the ranks that did not arrive), CKPT_UNREACHABLE (daemon),
 * STORE errors of the home, CKPT_REFUSED (the history allows no automatic choice; the
 * text says what to set).
 * Crash: an open that dies harms nobody; the launch before it keeps its place until
 * this one has resolved. */
CKPT_API enum ckpt_status ckpt_open(const struct ckpt_open_opts *opts, struct ckpt **ret);

/* Ends the session, and says nothing of success (ckpt_progress does).  Saves that are staged go on
 * in the daemon; one that is still being copied is given up.  Waits at most 10 s for the transfer
 * thread; one that hangs in the driver or in the kernel is left there, with the memory that it uses.
 * NULL is fine.  States of the context are freed too. */
CKPT_API void ckpt_close(struct ckpt *c);

/* A checkpoint of the job: enough to restore it. */
struct ckpt_point {
    size_t size;
    uint64_t step, epoch, attempt;
};

/* The agreed resume point of this launch, the same on all ranks.  CKPT_OK with *ret,
 * or CKPT_NOT_FOUND: the job has none, start at the beginning.  ckpt_info says why. */
CKPT_API enum ckpt_status ckpt_resume(struct ckpt *c, struct ckpt_point *ret);

/* Says that training has got to the end of `step`: beyond the resume point this proves
 * that the checkpoint is sound, and the crash-loop rule stops counting; so does a save of a
 * later step, but not one of the step that was resumed from.  Cheap (a
 * message when it matters, and about one a second for `ckpt status`); any rank, rank 0
 * suffices.
 * CKPT_FINISHED instead of a step: nothing is left to do.  A finished job that is started
 * again makes no step; without this word such starts look like deaths, and after three
 * of them the next resumes one checkpoint further back.  ckpt_close does not say it,
 * because a program that failed closes, too. */
#define CKPT_FINISHED UINT64_MAX
CKPT_API enum ckpt_status ckpt_progress(struct ckpt *c, uint64_t step);

/* -- declaring ----------------------------------------------------------- */

/* Element types: the codes of the format (formats/dtype.h).  F32 = 12, BF16 = 11 ... */
enum ckpt_dtype_code {
    CKPT_BOOL = 1,
    CKPT_U8 = 2,
    CKPT_I8 = 3,
    CKPT_U16 = 4,
    CKPT_I16 = 5,
    CKPT_U32 = 6,
    CKPT_I32 = 7,
    CKPT_U64 = 8,
    CKPT_I64 = 9,
    CKPT_F16 = 10,
    CKPT_BF16 = 11,
    CKPT_F32 = 12,
    CKPT_F64 = 13,
    CKPT_C64 = 14,
    CKPT_C128 = 15,
    CKPT_F8_E4M3 = 16,
    CKPT_F8_E5M2 = 17,
    CKPT_F8_E8M0 = 18,
    CKPT_F8_E4M3FNUZ = 19,
    CKPT_F8_E5M2FNUZ = 20,
    CKPT_F4 = 21,
    CKPT_F6_E2M3 = 22,
    CKPT_F6_E3M2 = 23,
    CKPT_U4 = 24,
    CKPT_I4 = 25,
};

enum ckpt_tensor_kind {
    CKPT_ELEMENTWISE = 0,
    CKPT_BLOCKED = 1, /* cut only on multiples of block[] (scales) */
    CKPT_LOCKED = 2,  /* restored only as exactly the saved boxes */
};
enum ckpt_tensor_flags {
    CKPT_VOLATILE = 2, /* copied before ckpt_save returns: may change before the fence */
    CKPT_OPTIONAL = 8, /* on restore: absent in the checkpoint is no error */
};
struct ckpt_tensor_desc {
    size_t size;
    const char *name;      /* 1..1024 bytes of UTF-8 */
    uint32_t dtype;        /* enum ckpt_dtype_code */
    uint32_t kind;         /* enum ckpt_tensor_kind */
    uint32_t flags;        /* enum ckpt_tensor_flags */
    uint32_t ndim;         /* 0..16; 0 = a scalar */
    const uint64_t *shape; /* global */
    const uint32_t *block; /* CKPT_BLOCKED: ndim entries */
    const char *alias;     /* tied weights: the tensor that has the bytes; no pieces */
};

/* A box of the global tensor and where it lies in this rank's buffer for the tensor.
 * replica r of R: R ranks hold this same box; each writes its share of it, and digests one
 * tile of the others' shares at each save, in turn.  Replicas that differ are memory or
 * arithmetic gone wrong: the save fails with CKPT_CORRUPT and names tensor, ranks and box. */
struct ckpt_piece {
    uint64_t off[CKPT_MAX_DIMS], len[CKPT_MAX_DIMS]; /* global, elements */
    uint64_t offset_bytes;                           /* of its first element in the buffer */
    int64_t stride[CKPT_MAX_DIMS];                   /* elements, per dimension */
    uint32_t replica, replica_count;                 /* 0, 0 = the only holder */
};

/* A new, empty declaration.  Belongs to the context, which has at most 8 at a time; freed
 * with ckpt_state_free or ckpt_close. */
CKPT_API enum ckpt_status ckpt_state_new(struct ckpt *c, struct ckpt_state **ret);
/* Gives it back with its staging memory.  Saves of it that are staged go on, and ckpt_wait
 * knows them; one that is still being copied is given up.  Waits at most 5 s for a slot's copy and
 * for the driver; memory that they still use then goes when that ends.  NULL is fine. */
CKPT_API void ckpt_state_free(struct ckpt_state *s);

/* Declares the next tensor and what this rank holds of it: `count` pieces, 0 if
 * nothing.  Tensors are numbered 0, 1, ... in order of declaration, together with
 * objects; ckpt_save and ckpt_restore take one buffer for each.  All ranks declare a
 * tensor with the same shape, dtype and kind; ranks that hold nothing of it need not.
 * A tensor that is refused is not declared at all.  Errors: CKPT_BAD_NAME, CKPT_INVALID
 * (box outside shape: the text names tensor, rank and box), CKPT_LIMIT.  What only the
 * whole shows (a name twice, overlapping pieces) is refused by ckpt_seal. */
CKPT_API enum ckpt_status ckpt_tensor(struct ckpt_state *s, const struct ckpt_tensor_desc *desc,
                                      const struct ckpt_piece *pieces, size_t count);

enum ckpt_object_scope {
    CKPT_OBJECT_SHARED = 0, /* the same on all ranks; one of them, chosen by name, writes it whole:
                               where they differ, all get what that one had */
    CKPT_OBJECT_RANK = 1,   /* this rank's own: stored as "NAME@RANK" */
    CKPT_OBJECT_SOLE = 2,   /* by key: only this rank declares it, under the name as it is: what
                               moves between ranks when their number changes */
};
/* Declares opaque bytes (random state, data-loader position, JSON) of at most
 * `capacity` bytes.  An object is copied before ckpt_save returns, and restored into any
 * capacity that holds it.
 *
 * What becomes of objects when the number of ranks changes:
 *   shared    every rank of any world declares it and gets the same bytes.
 *   per rank  rank r gets what rank r saved.  With fewer ranks the rest is left (unasked); with
 *             more, ranks beyond the old world have none (CKPT_RESTORE_PARTIAL, or start them
 *             afresh).
 *   by key    what belongs to a piece of work and not to a rank (the shards of a data loader,
 *             say): "loader/000", "loader/001" ...  Each key is declared by exactly one rank of
 *             a save; two ranks that declare one key refuse the commit with its name, and so
 *             does a key of the parent checkpoint that nobody declares any more.  The next
 *             launch asks which keys there are (ckpt_list), every rank takes the part that
 *             ckpt_deal gives it, and declares those: the same keys, on other ranks. */
CKPT_API enum ckpt_status ckpt_object(struct ckpt_state *s, const char *name, uint64_t capacity,
                                      enum ckpt_object_scope scope);

/* What a rank's local part is, without computing offsets by hand.
 *
 * Mesh: the rank sits at `coord` of a mesh of `mesh_ndim` axes; `placement` (one per
 * axis) says what that axis does to the tensor.  Arithmetic of PyTorch's DTensor: a
 * dimension of n over p parts goes in chunks of ceil(n / p), later ones may be short
 * or empty; several axes may split one dimension, left to right.  The buffer is the
 * dense row-major local tensor. */
enum ckpt_place { CKPT_REPLICATE = 0, CKPT_SHARD = 1, CKPT_SHARD_STRIDED = 2 };
struct ckpt_placement {
    uint32_t place; /* enum ckpt_place */
    uint32_t dim;
    uint32_t split_factor; /* CKPT_SHARD_STRIDED only */
    /* CKPT_SHARD only; NULL and 0 = none: the dimension is these lengths one behind the other
     * (q, k and v fused; gate and up), and each is split for itself. */
    const uint64_t *section;
    uint32_t section_count;
};
struct ckpt_mesh { /* arrays of `ndim` entries, borrowed during the call */
    uint32_t ndim;
    const uint32_t *size, *coord;
    const struct ckpt_placement *placement;
    /* NULL, or the tensor's shape as it is padded before it is split (a vocabulary rounded up
     * for tensor parallelism): the checkpoint has the shape without padding, the buffer has
     * room for this rank's part of it. */
    const uint64_t *padded;
};
/* How the usual layouts are said:
 *   tensor parallel                    SHARD of the dimension
 *   FSDP2 over it, one dimension       SHARD_STRIDED(dim, tp) on the axis of data parallelism,
 *                                      then SHARD(dim); or the axis of tensor parallelism first
 *   gate and up in one, over tp        SHARD_STRIDED(dim, 2); q, k and v in one: sections
 *   layers stacked in dimension 0      SHARD(0) over the stages, SHARD_STRIDED(0, v) with v
 *                                      virtual stages a rank
 *   experts stacked in dimension 0     SHARD(0) over ep and SHARD(1) over etp
 * A tensor whose layers lie in several allocations: the pieces of one layer, with the
 * layer's number put in front (off[0], len[0] = 1), and offset_bytes = the distance from the
 * lowest allocation, which is the buffer's base. */
/* At most `cap` pieces are written; *ret_count is how many there are (CKPT_LIMIT if
 * more than cap: a call with cap 0 measures).  Replicas are numbered over the
 * CKPT_REPLICATE axes. */
CKPT_API enum ckpt_status ckpt_mesh_pieces(const struct ckpt_mesh *mesh, uint32_t ndim,
                                           const uint64_t *shape, uint32_t dtype,
                                           struct ckpt_piece *pieces, size_t cap,
                                           size_t *ret_count);
/* Flat: the rank's buffer is elements [start, start + count) of its local array (ZeRO,
 * FSDP1, Megatron's distributed optimizer).  `boxes` says what that array is: the pieces of
 * ckpt_mesh_pieces (off, len, offset_bytes and stride; padded, strided and fused shards
 * included; leave the axis that the range is cut over out of that mesh), or boxes alone (all
 * strides 0), which lie dense one behind the other.  Of boxes alone a range beyond the end is
 * refused; otherwise what of the range no box covers is padding.  Replicas are the boxes'.
 *
 * One buffer for many tensors: each is a tensor of its own.  Where tensor t begins at element
 * b of the whole and this rank has [from, to) of it, its range is start = max(from, b) - b,
 * count = min(to, b + n) - b - start, and its ckpt_buffer begins at element
 * max(from, b) - from of the rank's buffer. */
struct ckpt_flat {
    uint32_t ndim;
    uint32_t dtype;
    const struct ckpt_piece *boxes;
    size_t box_count;
    uint64_t start, count; /* elements */
};
CKPT_API enum ckpt_status ckpt_flat_pieces(const struct ckpt_flat *flat, struct ckpt_piece *pieces,
                                           size_t cap, size_t *ret_count);

/* Ends the declaration: validates it, agrees on it with the daemon, gets and touches
 * the staging memory.  After this nothing can be declared.  `info` of the context says
 * what it took.  If the calling thread works with a CUDA device already, the staging memory is
 * pinned by it in the background, beside what the caller does next, and memory for the copies of
 * volatile tensors here.  After a failure: free it and declare a new state.  Errors: CKPT_NO_MEMORY
 * (admission: what was asked, what is left), CKPT_INVALID (a name twice, strides that
 * reach outside any buffer), CKPT_COVER (overlapping pieces: named), CKPT_LIMIT, STORE. */
CKPT_API enum ckpt_status ckpt_seal(struct ckpt_state *s, int timeout_ms);

/* -- saving -------------------------------------------------------------- */

/* The memory of one tensor or object, in order of declaration.  bytes: of the buffer
 * (checked against the pieces); for an object its present length. */
struct ckpt_buffer {
    void *base;
    uint64_t bytes;
};
struct ckpt_metric {
    const char *name; /* <= 64 bytes */
    double value;
};
struct ckpt_save_opts {
    size_t size;
    uint64_t step;                     /* not UINT64_MAX */
    const struct ckpt_metric *metrics; /* rank 0's are kept: loss=2.31 */
    uint32_t metric_count;             /* <= 64 */
    uint32_t flags;                    /* CKPT_SAVE_* */
    int timeout_ms;                    /* how long the whole save may take; 0 = 3,600,000 */
};
enum ckpt_save_flags {
    CKPT_SAVE_ALLOW_VANISHED = 1, /* tensors of the parent checkpoint may be missing */
    CKPT_SAVE_AUDIT = 2,          /* audit the fence of this save; below */
    CKPT_SAVE_NO_AUDIT = 4,       /* not even of the first save */
};

/* Starts a save and returns; `op` names it.  Called by all ranks.  The state must not
 * change until ckpt_fence returns (except volatile tensors and objects, copied at
 * once).  A save that meets one still copying waits for that copy.  A ckptd that is gone is
 * waited for 10 s; a save that it has then still to give room for is given up, and both that
 * one and this one are CKPT_DAEMON_GONE.  When it is back, saves work again.
 *
 * Tensors may lie in host memory and on any CUDA devices of the process, each buffer where it
 * is; objects lie in host memory.  What is on a device belongs to its primary context, the CUDA
 * runtime's: other ones (cuCtxCreate, green contexts) are not served.  stream (cudaStream_t): the
 * copy waits for what is on it now, on private streams; the host does not wait.  It belongs to the
 * calling thread's current device, in a thread that has not used CUDA yet to the one that the state
 * lies on; NULL = the default streams of all devices that the state lies on and of the thread's own (here,
 * in ckpt_fence_stream and in ckpt_restore).  Volatile tensors on devices are copied
 * before later work on `stream` runs; everything else may be used, but not changed, until a
 * fence.  Without device memory it must be NULL (CKPT_UNSUPPORTED).  A stream that is being
 * captured into a graph is refused (CKPT_WRONG_STATE); captures of other threads are left
 * alone.  A device that fails ends the save (DEVICE class), not the process, and states
 * without memory on it go on.
 *
 * A buffer on a device whose address other memory took since the save before (pinned, or another
 * device's) ends this save with CKPT_ABORTED; the next one finds it where it is now.
 * Fence audit: at the fence of a state's first save in a launch, of saves with CKPT_SAVE_AUDIT,
 * and with CKPT_AUDIT=1 of all (CKPT_AUDIT=0: of none), what this rank saved is read again and
 * compared.  Tensors that changed before the fence are named, the save fails with CKPT_ABORTED
 * on all ranks, and up to 64 MiB of such tensors count as volatile from then on.  Until a save
 * has passed, the next one is audited, too.  Price: an audited save waits for its own copies
 * (at most 5 s; of device memory only until they are queued), its fence for a second copy and
 * its digests (ckpt_info: audit), and it is staged behind its fence only; the next save or
 * restore, behind what is on its stream, counts as one, ckpt_wait in the thread that saved, and 60 s
 * (or half of timeout_ms).
 * Errors: CKPT_INVALID (count is not what was declared, a buffer too small),
 * CKPT_EXISTS (this step is already committed in this epoch), CKPT_SUPERSEDED (a newer
 * launch took over: stop), BUSY, STORE and DEVICE classes: training goes on, earlier
 * checkpoints are untouched. */
CKPT_API enum ckpt_status ckpt_save(struct ckpt_state *s, const struct ckpt_save_opts *opts,
                                    const struct ckpt_buffer *buffers, size_t count, void *stream,
                                    uint64_t *ret_op);

/* Blocks until every save begun on `s` has copied the state out of the caller's memory;
 * call it before anything changes the state.  Returns at once when nothing is being
 * copied.  A save that failed meanwhile is not an error here, nor is one that was given up
 * because ckptd is gone (ckpt_save).
 * Error: CKPT_TIMEOUT: it is still being copied.  With a timeout_ms above 0 that save is given up,
 * since the state is about to change: training may go on, and the memory must stay where it is
 * until a fence returns CKPT_OK.  With 0 this is a look, which ends nothing. */
CKPT_API enum ckpt_status ckpt_fence(struct ckpt_state *s, int timeout_ms);
/* The same for work on a CUDA stream: later work on `stream` waits for the last copy; the host
 * waits only until that is queued (with an arena as large as the state: not at all in
 * practice), for host memory of the caller until it is copied, at most the context's timeout.
 * With host memory alone it is ckpt_fence.  On a stream that is being captured it becomes a
 * node of the graph, which waits at each launch for what was queued by then: after a later
 * save launch the graph behind another fence, or it may run ahead of copies that are not
 * queued yet.  The state must outlive the graph.  Before the state's first save or restore there is
 * nothing to wait for, and on a capturing stream this is CKPT_WRONG_STATE.
 * A fence that fails gives up the save that it did not protect: training may go on. */
CKPT_API enum ckpt_status ckpt_fence_stream(struct ckpt_state *s, void *stream);

/* How safe a save is. */
enum ckpt_level {
    CKPT_LEVEL_NONE = 0,
    CKPT_LEVEL_PROCESS = 1, /* in host memory that one kill of the job's cgroup takes along */
    CKPT_LEVEL_STAGED = 2,  /* in host memory that the trainer's death does not take */
    CKPT_LEVEL_LOCAL = 3,   /* all ranks durable and committed in the home */
    CKPT_LEVEL_REPLICATED = 4,
    CKPT_LEVEL_REMOTE = 5,
};
/* Waits until save `op` has reached `level`.  CKPT_OK; CKPT_TIMEOUT; CKPT_NOT_PLANNED
 * (policy does not send it there); the status the save failed with, with its text.
 * Staged (process) satisfies no wait for staged: that one then waits for local. */
CKPT_API enum ckpt_status ckpt_wait(struct ckpt *c, uint64_t op, enum ckpt_level level,
                                    int timeout_ms);
/* Gives up a save that is not committed yet, for all ranks: it is ABORTED. */
CKPT_API enum ckpt_status ckpt_cancel(struct ckpt *c, uint64_t op);

/* -- restoring ----------------------------------------------------------- */

enum ckpt_restore_flags {
    /* Tensors the checkpoint does not have are left as they are.  It forgives nothing else: what
     * the checkpoint has and the patterns take comes whole, or the restore fails. */
    CKPT_RESTORE_PARTIAL = 1,
    /* A tensor that was saved as another floating-point type than it is declared is converted,
     * element by element: F64, F32, BF16, F16, F8_E4M3, F8_E5M2 and the FNUZ ones, any to any.
     * Without it such a tensor is CKPT_MISMATCH.  The rule: rounded once, to the nearest, ties
     * to even; subnormals are kept and made; what would round beyond the largest finite value
     * becomes infinity where the type has one, else (F8_E4M3, FNUZ) the largest finite value
     * of its sign; an infinity becomes NaN in a type that has none; NaN becomes the type's
     * quiet NaN of the same sign.  Scales in other tensors are not applied.  The number of
     * finite values that overflowed is in the report.  Locked tensors are not converted. */
    CKPT_RESTORE_CONVERT = 2,
};
/* A tensor that was saved as `from` is restored as `to`.  `*` in `from` is any run of bytes,
 * each as short as can be from left to right; those in `to`, as many, stand for them in order:
 * "model.*" → "module.model.*".  At most 8 in one.  The first rule that matches a saved name is
 * applied, once, so there are no loops and names can be exchanged; a name without a rule stays.
 * Two saved names that become one that is asked for are CKPT_INVALID. */
struct ckpt_rename {
    const char *from, *to;
};
/* What became of a caller's communicator, as far as this rank knows. */
enum ckpt_comm_end {
    CKPT_COMM_KEPT = 0, /* left in order: it is as it was */
    /* A rank failed or did not come: aborted here, so it is not yours any more.  Where the abort
     * waits for ranks that do not come, it goes on doing so in a thread of the library. */
    CKPT_COMM_ABORTED = 1,
    CKPT_COMM_LOST = 2, /* this rank could not come, others may wait for it: abort it yourself */
};
/* Replicas that restore together: the ranks of a communicator that hold the same tensors on
 * devices read each byte once between them, and NCCL brings it to the others.  Worth its while
 * where they are on several nodes: the ranks of one node read each byte once in any case.
 *
 * All its ranks restore at the same time, the same point with the same options; before training
 * starts, as NCCL wants the collectives of two communicators in one order on all ranks.  Shared
 * are pieces that are declared as held by as many replicas as the communicator has ranks and lie
 * densely on its device.  Objects, optional tensors and all others are read by each rank, and so
 * is everything with CKPT_RESTORE_PARTIAL or CKPT_RESTORE_CONVERT.
 *
 * It is never needed: without NCCL (the process's own, else libnccl.so.2; CKPT_NCCL names one),
 * with ranks that ask for different things, and when one of them dies, hangs or cannot read its
 * share, each reads everything by itself.  What became of it: ckpt_info. */
struct ckpt_fanout {
    size_t size;
    /* ncclComm_t, made with blocking = 0 (one that blocks may hold the call beyond any time
     * limit) and idle.  NULL: one is made for the restore, on the calling thread's device, unless
     * the environment has NCCL_COMM_BLOCKING=1. */
    void *comm;
    /* Without comm: this rank among those that take part, and a call that copies buf (len bytes)
     * from their rank 0 to all, 0 = fine; made once by each of them, first of all, whatever
     * becomes of its restore (but not where the options make no sense). */
    uint32_t rank, count;
    int (*broadcast)(void *ctx, void *buf, size_t len);
    void *broadcast_ctx;
    int timeout_ms; /* for one step of the others; 0 = 60,000 */
    /* Set to CKPT_COMM_*, whatever becomes of the restore (but not where the options make no
     * sense).  No rank can be sure of another: one may leave in order while another, failing
     * behind the last step of all, aborts.  So before `comm` is used again, ranks tell each other
     * by another way; unless all have kept it, who still has it aborts it. */
    uint32_t comm_lost;
};
struct ckpt_restore_opts { /* NULL = the defaults; borrowed during the call */
    size_t size;
    uint32_t flags; /* CKPT_RESTORE_* */
    int timeout_ms; /* 0 = 3,600,000 */
    /* Of what is declared, by declared name (a per-rank object's is NAME@RANK): restored is
     * what matches any of `only` (none: everything) and none of `except`; the rest stays as it
     * is.  A tied tensor has no memory of its own, so it can be asked for only together with
     * its target (CKPT_INVALID names both).  `*` is any run of bytes, `?` one byte, all else
     * itself.  Patterns and renames: 1,024 and 48 KiB together.  All ranks of a launch give the
     * same ones. */
    const char *const *only;
    size_t only_count;
    const char *const *except;
    size_t except_count;
    const struct ckpt_rename *renames;
    size_t rename_count;
    struct ckpt_fanout *fanout; /* NULL = none */
};
/* Fills the buffers of the declared state (any layout, whatever it was saved with) and
 * blocks until done.  point NULL = the launch's resume point.  In TRAIN mode another point
 * than the one this run of steps began from, or the same one once something was saved, is a
 * rollback: called by all ranks, it moves the head of the job's history to a new epoch.
 * Where one has begun and failed, saves are CKPT_REFUSED until it is asked for again.
 * buffers[i].bytes of an object is set to its length.
 * Errors: CKPT_NOT_FOUND (the point, or a tensor: named), CKPT_MISMATCH (dtype, shape, or a
 * tied tensor that has bytes of its own in the checkpoint; tensor and rank are named),
 * CKPT_INVALID and CKPT_LIMIT (a pattern or rename, a tied tensor without its target: named),
 * CKPT_CORRUPT (no copy has the right bytes: tensor and object named; the launch must
 * end, the next one goes further back), STORE class, CKPT_TIMEOUT, CKPT_REFUSED (the other
 * ranks have gone back to another point since: ask for that one).
 * CKPT_UNSUPPORTED: a piece with a stride of 0 or less can be saved, not filled.
 * Buffers may lie on devices as in ckpt_save: they are filled after what is on `stream` now,
 * and later work on it finds them filled.
 * On any error the buffers' contents are undefined.  Behind CKPT_DEVICE "copies to the device do not
 * end" the device may still write there: the buffers stay mapped until the process ends. */
CKPT_API enum ckpt_status ckpt_restore(struct ckpt_state *s, const struct ckpt_point *point,
                                       struct ckpt_buffer *buffers, size_t count, void *stream,
                                       const struct ckpt_restore_opts *opts);

/* What the last restore into a state did to each tensor and object. */
enum ckpt_fate {
    CKPT_FATE_LOADED = 1,   /* converted if dtype and saved_dtype differ, renamed if the names do */
    CKPT_FATE_TIED = 2,     /* no memory of its own: its target was restored */
    CKPT_FATE_MISSING = 3,  /* it, or what it is tied to, is not in the checkpoint: left as it was
                               (partial, optional) */
    CKPT_FATE_LEFT_OUT = 4, /* by the patterns: left as it was */
    CKPT_FATE_UNASKED = 5,  /* in the checkpoint, and no rank of the launch declared it */
};
struct ckpt_restored {
    size_t size;
    const char *name;            /* as declared; NULL if unasked */
    const char *saved_name;      /* in the checkpoint; NULL unless loaded or unasked */
    uint32_t fate;               /* enum ckpt_fate */
    uint32_t dtype, saved_dtype; /* 0 where there is none */
    uint64_t bytes;              /* that came to this rank, as declared */
    uint64_t overflowed; /* of this rank's elements: finite values that the dtype cannot hold */
};
/* Entry number i: first what was declared, in that order, then, by name, what nobody asked for:
 * at most 4,096 of them (how many in all: ckpt_info), and none where ranks of other nodes may
 * have asked.  CKPT_NOT_FOUND after the last one; CKPT_WRONG_STATE if no restore into the
 * state has ended well.  The names belong to the state, until its next restore. */
CKPT_API enum ckpt_status ckpt_restored(struct ckpt_state *s, uint64_t i,
                                        struct ckpt_restored *ret);

/* What a checkpoint holds, before anything is declared. */
struct ckpt_list;
enum ckpt_list_flags { CKPT_LIST_OBJECTS = 1 }; /* objects only */
struct ckpt_list_opts {                         /* NULL = the defaults */
    size_t size;
    uint32_t flags;      /* CKPT_LIST_* */
    int timeout_ms;      /* 0 = 60,000 */
    const char *pattern; /* only names that match (`*`, `?`); NULL = all */
};
struct ckpt_listed {
    size_t size;
    const char *name;
    const char *alias; /* tied: the tensor that has the bytes; else NULL */
    uint32_t dtype, kind, ndim;
    uint32_t object; /* 1: opaque bytes; per-rank ones are called NAME@RANK */
    uint64_t bytes;  /* of the whole tensor; of an object: a capacity that holds it; tied: 0 */
    uint64_t shape[CKPT_MAX_DIMS];
};
/* The tensors and objects of a checkpoint in the order of their names' bytes, the same on all
 * ranks.  point NULL = the launch's resume point.  *ret: free with ckpt_list_free.  Errors:
 * CKPT_NOT_FOUND (no such point), CKPT_LIMIT (more than 1,048,576 entries: give a pattern),
 * CKPT_TIMEOUT, STORE class. */
CKPT_API enum ckpt_status ckpt_list(struct ckpt *c, const struct ckpt_point *point,
                                    const struct ckpt_list_opts *opts, struct ckpt_list **ret);
CKPT_API uint64_t ckpt_list_count(const struct ckpt_list *l);
/* Entry number i; its names belong to the list.  CKPT_NOT_FOUND after the last one. */
CKPT_API enum ckpt_status ckpt_list_at(const struct ckpt_list *l, uint64_t i,
                                       struct ckpt_listed *ret);
CKPT_API void ckpt_list_free(struct ckpt_list *l); /* NULL is fine */
/* How `count` things in a fixed order (the keys of a list, say) go to `world` ranks: in runs,
 * the first count % world ranks get one more than the others.  Rank `rank` gets those from
 * *ret_first on.  Every thing goes to exactly one rank; with fewer things than ranks the last
 * ranks get none. */
CKPT_API enum ckpt_status ckpt_deal(uint64_t count, uint32_t rank, uint32_t world,
                                    uint64_t *ret_first, uint64_t *ret_count);

/* -- asking -------------------------------------------------------------- */

struct ckpt_info {
    size_t size;
    uint64_t epoch;          /* of this launch */
    uint32_t scoped;         /* 1: ckptd shares this process's fate: staged is (process) */
    uint32_t private_daemon; /* 1: this process started it */
    uint64_t state_bytes, arena_bytes, ram_left_bytes; /* of the last sealed state */
    uint64_t saves_begun, saves_committed, saves_failed;
    uint64_t last_step_committed; /* UINT64_MAX = none */
    uint64_t blocked_ns;          /* caller's time inside save and fence, last save */
    uint64_t copy_ns;             /* length of the last copy out */
    uint64_t restored_bytes;      /* by the last ckpt_restore */
    char why[512];                /* why this resume point */
    /* Of this rank's part of the save begun last: what is durable, and all of it.  The time
     * that is left follows from two looks. */
    uint64_t save_done_bytes, save_total_bytes;
    /* By the last ckpt_restore: tensors and objects declared here that the checkpoint does not
     * have (partial, optional), and those it has that no rank of the launch declared;
     * UINT32_MAX = not known, because ranks of other nodes may have. */
    uint32_t restore_missing, restore_unasked;
    /* Of this rank's part of the restore begun last: what has arrived, and all of it (0: not
     * planned yet).  To be asked for by another thread than the one that waits in ckpt_restore. */
    uint64_t restore_done_bytes, restore_total_bytes;
    /* What tensors may lie on: "4 CUDA devices by libcudart.so.13", or "host memory only: " and
     * why; and why copies go one by one, or staging memory is not pinned, if a device's driver
     * refused that. */
    char devices[384];
    /* The last fence audit: what it found and took, or why there was none; "" = none yet. */
    char audit[512];
    /* By the last ckpt_restore with a fan-out: bytes that came from other ranks, and why it was
     * not used or given up; "" = it went well. */
    uint64_t restored_from_ranks;
    char fanout[256];
};
CKPT_API enum ckpt_status ckpt_info(struct ckpt *c, struct ckpt_info *ret);

/* The words for the last error of this thread: what failed, on what, what to do.
 * Valid until the thread's next call.  Never NULL. */
CKPT_API const char *ckpt_error(void);
CKPT_API enum ckpt_class ckpt_status_class(enum ckpt_status st);
CKPT_API const char *ckpt_status_name(enum ckpt_status st);
/* "MAJOR.MINOR.PATCH" */
CKPT_API const char *ckpt_version(void);

#ifdef __cplusplus
}
#endif
