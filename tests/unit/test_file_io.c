/* The I/O engines: any transfer is the identity, errors come out, a ring that the
 * kernel refuses becomes threads with the reason, and short results are finished.
 * (It covers file_uring.c, file_threads.c and file_sys.c too.) */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "storage/store/file_io.h"
#include "storage/store/file_sys.h"
#include "storage/store/store.h"
#include "store/scratch.h"

#include "check.h"

#define CAP ((size_t)12 << 20)

static char scratch[200];
static char *bytes, *got;

static int open_file(struct file_io *io, const char *name, int flags)
{
    char path[400];
    snprintf(path, sizeof(path), "%s/%s", scratch, name);
    int fd = io->ops->open(io, AT_FDCWD, path, flags, 0600);
    CHECK(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    return fd;
}

static int test_any_transfer(struct file_io *io, const char *name)
{
    enum { ROUNDS = TEST_COUNT(30), MANY = 40 };
    unsigned long long seed = test_seed(42);
    for (int round = 0; round < ROUNDS; round++) {
        struct iovec iov[MANY];
        struct file_io_range ranges[MANY];
        int count = (int)(test_rand(&seed) % MANY);
        size_t at = 0, start = test_rand(&seed) % 10000;
        for (int i = 0; i < count; i++) {
            size_t n = test_rand(&seed) % (test_rand(&seed) % 4 ? 100000 : (5 << 20));
            n = at + n > CAP ? 0 : n;
            iov[i] = (struct iovec){ bytes + at, n };
            ranges[i] = (struct file_io_range){ start + at, n, got + at };
            at += n;
        }
        int fd = open_file(io, name, O_RDWR | O_CREAT | O_TRUNC);
        CHECK_EQ(io->ops->write(io, fd, iov, count, start), 0);
        memset(got, 0, CAP);
        for (int i = count; i > 1; i--) { /* ranges in any order */
            int j = (int)(test_rand(&seed) % (unsigned)i);
            struct file_io_range swap = ranges[i - 1];
            ranges[i - 1] = ranges[j];
            ranges[j] = swap;
        }
        CHECK_EQ(io->ops->read(io, fd, ranges, (size_t)count), 0);
        CHECK(memcmp(got, bytes, at) == 0);
        CHECK_EQ(io->ops->close(io, fd), 0);
    }
    return ROUNDS;
}

static int test_direct(struct file_io *io, const char *name)
{
    int fd = open_file(io, name, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT);
    struct iovec iov[2] = { { bytes, 5 << 20 }, { bytes + (6 << 20), 4096 } };
    CHECK_EQ(io->ops->fallocate(io, fd, (5 << 20) + 4096), 0);
    CHECK_EQ(io->ops->write(io, fd, iov, 2, 0), 0);
    CHECK_EQ(io->ops->truncate(io, fd, (5 << 20) + 99), 0);
    CHECK_EQ(io->ops->fdatasync(io, fd), 0);
    struct file_io_range r[3] = { { 0, 5 << 20, got }, { 4096, 3 << 20, got + (6 << 20) } };
    CHECK_EQ(io->ops->read(io, fd, r, 2), 0);
    CHECK(memcmp(got, bytes, 5 << 20) == 0);
    CHECK(memcmp(got + (6 << 20), bytes + 4096, 3 << 20) == 0);
    r[2] = (struct file_io_range){ 5 << 20, 4096,
                                   got + (10 << 20) }; /* the file ends inside this block */
    CHECK_EQ(io->ops->read(io, fd, r, 3), -ENODATA);
    CHECK_EQ(io->ops->close(io, fd), 0);
    return 3;
}

static int test_errors(struct file_io *io, const char *name)
{
    struct iovec iov = { bytes, 9 << 20 };
    struct file_io_range r = { 0, 9 << 20, got }, end = { 9 << 20, 0, got };
    struct stat st;
    CHECK_EQ(io->ops->write(io, -1, &iov, 1, 0), -EBADF);
    CHECK_EQ(io->ops->read(io, -1, &r, 1), -EBADF);
    CHECK_EQ(io->ops->close(io, -1), -EBADF);
    CHECK_EQ(io->ops->stat(io, AT_FDCWD, "/no/such/file", &st), -ENOENT);
    CHECK_EQ(io->ops->open(io, AT_FDCWD, "/no/such/file", O_RDONLY, 0), -ENOENT);
    int fd = open_file(io, name, O_RDWR | O_CREAT | O_TRUNC);
    CHECK_EQ(io->ops->write(io, fd, &iov, 1, 0), 0);
    CHECK_EQ(io->ops->read(io, fd, &end, 1), 0);
    r.offset = 1; /* one byte too far */
    CHECK_EQ(io->ops->read(io, fd, &r, 1), -ENODATA);
    atomic_bool cancel = true;
    io->cancel = &cancel;
    r.offset = 0;
    CHECK_EQ(io->ops->read(io, fd, &r, 1), -ECANCELED);
    CHECK_EQ(io->ops->write(io, fd, &iov, 1, 0), -ECANCELED);
    cancel = false;
    io->deadline_ns = 1;
    CHECK_EQ(io->ops->read(io, fd, &r, 1), -ETIMEDOUT);
    io->deadline_ns = 0;
    CHECK_EQ(io->ops->read(io, fd, &r, 1), 0);
    io->cancel = NULL;
    CHECK_EQ(io->ops->close(io, fd), 0);
    return 11;
}

struct elsewhere {
    struct file_io *io;
    int cases;
};

static void *elsewhere_main(void *arg)
{
    struct elsewhere *e = arg;
    e->cases = test_any_transfer(e->io, "elsewhere");
    return NULL;
}

/* Opened by one thread, used by another, then by the first again. */
static int test_other_thread(struct file_io *io)
{
    struct elsewhere e = { .io = io };
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, elsewhere_main, &e), 0);
    pthread_join(thread, NULL);
    return e.cases + test_any_transfer(io, "back");
}

static int test_engine(struct file_io *io)
{
    int cases = test_other_thread(io) + test_any_transfer(io, "any") + test_direct(io, "direct") +
                test_errors(io, "errors");
    file_io_free(io);
    return cases;
}

/* What the kernel may answer to one pread or pwrite, and what follows. */
static int test_advance(void)
{
    struct file_piece p = { .base = bytes, .bytes = 8192, .offset = 4096 };
    CHECK_EQ(file_piece_advance(&p, 5000), 1); /* direct: go on at a block */
    CHECK(p.base == bytes + 4096 && p.bytes == 4096 && p.offset == 8192);
    CHECK_EQ(file_piece_advance(&p, -EINTR), 1);
    CHECK_EQ(file_piece_advance(&p, -EAGAIN), 1);
    CHECK_EQ(p.bytes, 4096);
    CHECK_EQ(file_piece_advance(&p, 4096), 0);
    p = (struct file_piece){ .base = bytes + 1, .bytes = 100, .offset = 3 };
    CHECK_EQ(file_piece_advance(&p, 30), 1); /* unaligned: to the byte */
    CHECK(p.base == bytes + 31 && p.bytes == 70 && p.offset == 33);
    CHECK_EQ(file_piece_advance(&p, 71), -EIO); /* more than was asked for */
    CHECK_EQ(file_piece_advance(&p, 0), -ENODATA);
    CHECK_EQ(file_piece_advance(&p, -ENOSPC), -ENOSPC);
    p.write = true;
    CHECK_EQ(file_piece_advance(&p, 0), -EIO);
    int rounds = 0;
    while (file_piece_advance(&p, -EAGAIN) == 1) /* not for ever */
        CHECK(++rounds < 1000);
    p = (struct file_piece){ .base = bytes, .bytes = 4096 };
    for (rounds = 0; file_piece_advance(&p, 100) == 1;)
        CHECK(++rounds < 1000);
    return 12;
}

static int test_pieces(void)
{
    struct iovec iov[4] = { { bytes, 0 }, { bytes, FILE_IO_PIECE + 1 }, { bytes, 0 }, { got, 5 } };
    struct file_pieces pieces = file_pieces_of_write(3, iov, 4, 7);
    struct file_piece p;
    CHECK(file_pieces_many(&pieces));
    CHECK(file_pieces_next(&pieces, &p) && p.bytes == FILE_IO_PIECE && p.offset == 7);
    CHECK(file_pieces_next(&pieces, &p) && p.bytes == 1 && p.offset == 7 + FILE_IO_PIECE);
    CHECK(!file_pieces_many(&pieces));
    CHECK(file_pieces_next(&pieces, &p) && p.bytes == 5 && p.base == got && p.write);
    CHECK_EQ(p.offset, 8 + FILE_IO_PIECE);
    CHECK(!file_pieces_next(&pieces, &p));
    return 4;
}

/* As Docker and Kubernetes do it: these calls answer `errnum`. */
static void forbid_uring(int errnum)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)errnum),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = ARRAY_COUNT(code), .filter = code };
    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void without_uring(int errnum, const char *name)
{
    struct ckpt_err err = { 0 };
    struct file_io *io = NULL, *before = NULL;
    bool worked = file_io_uring_new(&before, NULL) == CKPT_OK;
    forbid_uring(errnum);
    CHECK_EQ(file_io_new("uring", &io, &err), CKPT_UNSUPPORTED);
    CHECK(!io && strstr(err.text, name) && strstr(err.text, "threads"));
    CHECK_OK(file_io_new("auto", &io, NULL));
    CHECK_STR(io->ops->name, "threads");
    CHECK(strstr(io->why, "io_uring refused") && strstr(io->why, name));
    CHECK(test_engine(io) > 0);
    if (worked) { /* refused between open and first use */
        CHECK(test_any_transfer(before, "late") > 0);
        CHECK(strstr(before->why, name));
        CHECK(test_engine(before) > 0);
    }
    char url[300], text[600];
    struct store_options options = { .create = true };
    struct store *s;
    snprintf(url, sizeof(url), "%s/store", scratch);
    CHECK_OK(store_open(url, &options, &s, NULL));
    store_to_text(s, text, sizeof(text));
    CHECK(strstr(text, "io threads (io_uring refused") && strstr(text, name));
    store_close(s);
}

static int test_forbidden(void)
{
    static const struct {
        int errnum;
        const char *name;
    } answers[] = { { EPERM, "EPERM" }, { ENOSYS, "ENOSYS" }, { ENOMEM, "ENOMEM" } };
    for (size_t i = 0; i < ARRAY_COUNT(answers); i++) {
        fflush(stdout);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            without_uring(answers[i].errnum, answers[i].name);
            fflush(stdout);
            _exit(0);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    return 8 * ARRAY_COUNT(answers);
}

static enum ckpt_status no_engine(const char *engine, struct file_io **ret, struct ckpt_err *err)
{
    (void)ret;
    return err_set(err, CKPT_IO, "no %s today", engine);
}

static int test_choice(void)
{
    struct file_io *io;
    struct ckpt_err err = { 0 };
    CHECK_OK(file_io_new("threads", &io, NULL));
    CHECK_STR(io->ops->name, "threads");
    CHECK_STR(io->why, "asked for");
    file_io_free(io);
    CHECK_EQ(file_io_new("aio", &io, &err), CKPT_INVALID);
    file_io_set_maker(no_engine);
    memset(&err, 0, sizeof(err));
    CHECK_EQ(file_io_new(NULL, &io, &err), CKPT_IO);
    CHECK_STR(err.text, "no auto today");
    file_io_set_maker(NULL);
    file_io_free(NULL);
    return 4;
}

int main(void)
{
    unsigned long long seed = 11;
    scratch_make(scratch);
    bytes = aligned_alloc(4096, CAP);
    got = aligned_alloc(4096, CAP);
    for (size_t i = 0; i < CAP; i += 8) {
        unsigned long long z = test_rand(&seed);
        memcpy(bytes + i, &z, 8);
    }
    struct file_io *io;
    struct ckpt_err err = { 0 };
    CHECK_OK(file_io_threads_new(&io, NULL));
    int cases = test_engine(io) + test_advance() + test_pieces() + test_forbidden() + test_choice();
    if (file_io_uring_new(&io, &err) == CKPT_OK)
        cases += test_engine(io);
    else
        printf("SKIP: uring: %s\n", err_text(&err));
    free(bytes);
    free(got);
    scratch_remove(scratch);
    TEST_CASES(cases);
    return 0;
}
