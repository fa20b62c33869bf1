/* The engine without io_uring: the calling thread and a few helpers take pieces
 * from one batch and move them with pread and pwrite.
 *
 * Helpers start at the first transfer of more than one piece, so a handle that
 * only moves records never has any.  No lock is held across I/O. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "storage/store/file_sys.h"

#define HELPERS     (FILE_IO_DEPTH - 1)
#define STACK_BYTES (128 * 1024)

struct file_threads {
    struct file_io io;
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    struct {
        struct file_pieces pieces;
        struct file_piece next;
        bool has_next;
        int busy;  /* pieces being moved */
        int error; /* the first one */
        bool stop;
    } shared; /* under lock */
    pthread_t helpers[HELPERS];
    int started;
};

/* Called and returns with the lock held; it is dropped while a piece moves. */
static void move_pieces(struct file_threads *t)
{
    while (t->shared.has_next && t->shared.error == 0) {
        struct file_piece piece = t->shared.next;
        t->shared.has_next = file_pieces_next(&t->shared.pieces, &t->shared.next);
        t->shared.busy++;
        pthread_mutex_unlock(&t->lock);
        int rc = file_io_check(&t->io);
        if (rc == 0)
            rc = file_piece_run(&piece);
        pthread_mutex_lock(&t->lock);
        t->shared.busy--;
        if (rc < 0 && t->shared.error == 0)
            t->shared.error = rc;
    }
    if (t->shared.busy == 0)
        pthread_cond_signal(&t->idle);
}

static void *helper_main(void *arg)
{
    struct file_threads *t = arg;
    pthread_mutex_lock(&t->lock);
    while (!t->shared.stop) {
        if (t->shared.has_next && t->shared.error == 0)
            move_pieces(t);
        else
            pthread_cond_wait(&t->work, &t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* Fewer helpers than wanted only make less depth, so a failure is no error. */
static void start_helpers(struct file_threads *t)
{
    if (t->started > 0)
        return;
    sigset_t all, before;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0)
        return;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* helpers inherit: they take no signals */
    while (t->started < HELPERS &&
           pthread_create(&t->helpers[t->started], &attr, helper_main, t) == 0)
        t->started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
}

static int transfer(struct file_io *io, struct file_pieces pieces)
{
    struct file_threads *t = (struct file_threads *)io;
    if (!file_pieces_many(&pieces))
        return file_pieces_run(io, &pieces);
    start_helpers(t);
    pthread_mutex_lock(&t->lock);
    t->shared.pieces = pieces;
    t->shared.has_next = file_pieces_next(&t->shared.pieces, &t->shared.next);
    t->shared.error = 0;
    pthread_cond_broadcast(&t->work);
    move_pieces(t);
    while (t->shared.busy > 0)
        pthread_cond_wait(&t->idle, &t->lock);
    int rc = t->shared.error;
    t->shared.has_next = false;
    pthread_mutex_unlock(&t->lock);
    return rc;
}

static int threads_write(struct file_io *io, int fd, const struct iovec *iov, int count,
                         uint64_t offset)
{
    return transfer(io, file_pieces_of_write(fd, iov, count, offset));
}

static int threads_read(struct file_io *io, int fd, const struct file_io_range *ranges,
                        size_t count)
{
    return transfer(io, file_pieces_of_read(fd, ranges, count));
}

static void threads_free(struct file_io *io)
{
    struct file_threads *t = (struct file_threads *)io;
    pthread_mutex_lock(&t->lock);
    t->shared.stop = true;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < t->started; i++)
        pthread_join(t->helpers[i], NULL);
    pthread_cond_destroy(&t->work);
    pthread_cond_destroy(&t->idle);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static const struct file_io_ops threads_ops = {
    .name = "threads",
    FILE_SYS_OPS,
    .write = threads_write,
    .read = threads_read,
    .free = threads_free,
};

enum ckpt_status file_io_threads_new(struct file_io **ret, struct ckpt_err *err)
{
    struct file_threads *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the threads engine");
    t->io.ops = &threads_ops;
    snprintf(t->io.why, sizeof(t->io.why), "asked for");
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->idle, NULL);
    *ret = &t->io;
    return CKPT_OK;
}
