/* The io_uring engine: up to FILE_IO_DEPTH pieces in flight from one thread.
 *
 * Only reads and writes go through the ring; everything else is one call at a
 * time by contract.  A ring in its cheapest mode belongs to the task that uses
 * it, and a handle may be opened by one thread and used by another: the ring is
 * therefore made at the first transfer, and made anew when the task changes.
 * Buffers are not registered: it gains nothing measurable at these sizes and is
 * charged to RLIMIT_MEMLOCK. */
#include <liburing.h>
#include <stdio.h>
#include <time.h>

#include "storage/store/file_sys.h"

#define SUBMIT_TRIES 100 /* of 1 ms, when the kernel takes nothing and has nothing of ours */

struct file_uring {
    struct file_io io;
    struct io_uring ring;
    bool ready;
    pid_t owner;              /* the task that made the ring */
    struct file_io *fallback; /* when a ring worked at open and is refused later */
    struct file_piece slots[FILE_IO_DEPTH];
    struct file_piece *unused[FILE_IO_DEPTH];
    int unused_count;
};

/* Cheapest first; a kernel that does not know a flag says EINVAL. */
static int ring_init(struct io_uring *ring)
{
    static const unsigned ladder[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        IORING_SETUP_COOP_TASKRUN,
        0,
    };
    int rc = -EINVAL;
    for (size_t i = 0; i < ARRAY_COUNT(ladder) && rc == -EINVAL; i++)
        rc = io_uring_queue_init(FILE_IO_DEPTH, ring, ladder[i]);
    return rc;
}

static void ring_drop(struct file_uring *u)
{
    if (u->ready)
        io_uring_queue_exit(&u->ring);
    u->ready = false;
}

/* A ring of this task, or the threads engine in its place. */
static int ring_ready(struct file_uring *u)
{
    pid_t task = gettid();
    if (u->fallback || (u->ready && u->owner == task))
        return 0;
    ring_drop(u);
    int rc = ring_init(&u->ring);
    if (rc == 0) {
        u->ready = true;
        u->owner = task;
        return 0;
    }
    if (file_io_threads_new(&u->fallback, NULL) != CKPT_OK)
        return rc;
    snprintf(u->io.why, sizeof(u->io.why), "now by threads: io_uring refused: %s",
             strerrorname_np(-rc));
    return 0;
}

static void submit_piece(struct file_uring *u, struct file_piece *p)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring); /* as many as there are slots */
    if (p->write)
        io_uring_prep_write(sqe, p->fd, p->base, (unsigned)p->bytes, p->offset);
    else
        io_uring_prep_read(sqe, p->fd, p->base, (unsigned)p->bytes, p->offset);
    io_uring_sqe_set_data(sqe, p);
}

static void nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* The next completion.  What the kernel has of ours may still read or write the
 * caller's memory, so this gives up (-errno) only when it has nothing. */
static int next_done(struct file_uring *u, struct file_piece **ret, int *ret_result)
{
    for (int tries = 0;;) {
        struct io_uring_cqe *cqe;
        int rc = io_uring_submit_and_wait(&u->ring, 1);
        if (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
            *ret = io_uring_cqe_get_data(cqe);
            *ret_result = cqe->res;
            io_uring_cqe_seen(&u->ring, cqe);
            return 0;
        }
        if (rc >= 0 || rc == -EINTR)
            continue;
        int in_flight = FILE_IO_DEPTH - u->unused_count;
        if (in_flight == (int)io_uring_sq_ready(&u->ring) && ++tries > SUBMIT_TRIES)
            return rc;
        nap();
    }
}

static int transfer(struct file_uring *u, struct file_pieces *pieces)
{
    int error = 0;
    for (int i = 0; i < FILE_IO_DEPTH; i++)
        u->unused[i] = &u->slots[i];
    u->unused_count = FILE_IO_DEPTH;
    for (;;) {
        while (error == 0 && u->unused_count > 0 && (error = file_io_check(&u->io)) == 0 &&
               file_pieces_next(pieces, u->unused[u->unused_count - 1]))
            submit_piece(u, u->unused[--u->unused_count]);
        if (u->unused_count == FILE_IO_DEPTH)
            return error;
        struct file_piece *done;
        int result;
        int rc = next_done(u, &done, &result);
        if (rc < 0) {
            ring_drop(u);
            return rc;
        }
        int more = file_piece_advance(done, result);
        if (more > 0 && error == 0) {
            submit_piece(u, done);
            continue;
        }
        u->unused[u->unused_count++] = done;
        if (more < 0 && error == 0)
            error = more;
    }
}

static int uring_write(struct file_io *io, int fd, const struct iovec *iov, int count,
                       uint64_t offset)
{
    struct file_uring *u = (struct file_uring *)io;
    struct file_pieces pieces = file_pieces_of_write(fd, iov, count, offset);
    if (!file_pieces_many(&pieces))
        return file_pieces_run(io, &pieces); /* a handle of records never makes a ring */
    int rc = ring_ready(u);
    if (rc < 0 || !u->fallback)
        return rc < 0 ? rc : transfer(u, &pieces);
    u->fallback->deadline_ns = io->deadline_ns;
    u->fallback->cancel = io->cancel;
    return u->fallback->ops->write(u->fallback, fd, iov, count, offset);
}

static int uring_read(struct file_io *io, int fd, const struct file_io_range *ranges, size_t count)
{
    struct file_uring *u = (struct file_uring *)io;
    struct file_pieces pieces = file_pieces_of_read(fd, ranges, count);
    if (!file_pieces_many(&pieces))
        return file_pieces_run(io, &pieces);
    int rc = ring_ready(u);
    if (rc < 0 || !u->fallback)
        return rc < 0 ? rc : transfer(u, &pieces);
    u->fallback->deadline_ns = io->deadline_ns;
    u->fallback->cancel = io->cancel;
    return u->fallback->ops->read(u->fallback, fd, ranges, count);
}

static void uring_free(struct file_io *io)
{
    struct file_uring *u = (struct file_uring *)io;
    ring_drop(u);
    file_io_free(u->fallback);
    free(u);
}

static const struct file_io_ops uring_ops = {
    .name = "uring",
    FILE_SYS_OPS,
    .write = uring_write,
    .read = uring_read,
    .free = uring_free,
};

enum ckpt_status file_io_uring_new(struct file_io **ret, struct ckpt_err *err)
{
    struct io_uring probe;
    int rc = ring_init(&probe);
    if (rc < 0)
        return err_set(err, CKPT_UNSUPPORTED, "io_uring refused: %s", strerrorname_np(-rc));
    io_uring_queue_exit(&probe);
    struct file_uring *u = calloc(1, sizeof(*u));
    if (!u)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the io_uring engine");
    u->io.ops = &uring_ops;
    snprintf(u->io.why, sizeof(u->io.why), "asked for");
    *ret = &u->io;
    return CKPT_OK;
}
