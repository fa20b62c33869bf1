/* Runs fio and reads its answer. */
#include "tools/bench_fio.h"

#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>

#include "formats/cursor.h"

#define FIO_ARGS 24

bool bench_fio_there(void)
{
    pid_t pid;
    int status;
    char *argv[] = { (char[]){ "fio" }, (char[]){ "--version" }, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    int failed = posix_spawnp(&pid, "fio", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return !failed && waitpid(pid, &status, 0) == pid && status == 0;
}

double bench_fio_parse(const char *text, size_t len, enum bench_fio_op op)
{
    /* Warnings may stand in front of the JSON. */
    const char *start = memchr(text, '{', len);
    if (!start)
        return 0;
    json_t *root = json_loadb(start, len - (size_t)(start - text), JSON_DISABLE_EOF_CHECK, NULL);
    const json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    const json_t *side = json_object_get(job, op == BENCH_READ ? "read" : "write");
    double bytes = json_number_value(json_object_get(side, "io_bytes"));
    double ms = json_number_value(json_object_get(side, "runtime"));
    bool failed = json_integer_value(json_object_get(job, "error")) != 0;
    json_decref(root);
    return failed || !(ms > 0) ? 0 : bytes / (ms / 1e3);
}

/* The lines that were fastest where they were looked for: fixed buffers, registered
 * files, preallocation, one fsync a file at the end. */
static void build_args(const struct bench_fio *f, enum bench_fio_op op, char text[][128],
                       char **argv)
{
    int n = 0;
    snprintf(text[n++], 128, "fio");
    snprintf(text[n++], 128, "--name=bench");
    snprintf(text[n++], 128, "--nrfiles=%u", f->files);
    snprintf(text[n++], 128, "--filesize=%llu", (unsigned long long)f->file_bytes);
    snprintf(text[n++], 128, "--size=%llu", (unsigned long long)(f->file_bytes * f->files));
    snprintf(text[n++], 128, "--openfiles=%u", f->files);
    snprintf(text[n++], 128, "--file_service_type=sequential");
    snprintf(text[n++], 128, "--rw=%s", op == BENCH_READ ? "read" : "write");
    snprintf(text[n++], 128, "--bs=4m");
    snprintf(text[n++], 128, "--direct=1");
    snprintf(text[n++], 128, "--ioengine=io_uring");
    snprintf(text[n++], 128, "--iodepth=%u", f->depth);
    snprintf(text[n++], 128, "--fixedbufs");
    snprintf(text[n++], 128, "--registerfiles");
    snprintf(text[n++], 128, "--group_reporting");
    snprintf(text[n++], 128, "--output-format=json");
    if (op != BENCH_READ) {
        snprintf(text[n++], 128, "--nonvectored=1");
        snprintf(text[n++], 128, "--end_fsync=1");
        snprintf(text[n++], 128, "--fallocate=posix");
        snprintf(text[n++], 128, "--refill_buffers");
    }
    for (int i = 0; i < n; i++)
        argv[i] = text[i];
    argv[n] = NULL;
}

static void keep_line(struct bench_fio *f, char *const *argv)
{
    size_t len = 0;
    for (; *argv && len < sizeof(f->line); argv++)
        len +=
            (size_t)snprintf(f->line + len, sizeof(f->line) - len, "%s%s", len ? " " : "", *argv);
}

static void read_all(int fd, struct buf *out)
{
    char part[4096];
    ssize_t n;
    while ((n = read(fd, part, sizeof(part))) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0)
            buf_bytes(out, part, (size_t)n);
    }
}

/* Its output; the directory goes by chdir, as fio takes ':' in paths for a separator. */
static enum ckpt_status run_fio(const struct bench_fio *f, char **argv, struct buf *out,
                                struct ckpt_err *err)
{
    int fds[2];
    pid_t pid;
    int status = -1;
    posix_spawn_file_actions_t actions;
    if (pipe2(fds, O_CLOEXEC) != 0)
        return err_errno(err, errno, "cannot make a pipe");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addchdir_np(&actions, f->dir);
    int failed = posix_spawnp(&pid, "fio", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    if (!failed) {
        read_all(fds[0], out);
        waitpid(pid, &status, 0);
    }
    close(fds[0]);
    if (failed)
        return err_errno(err, failed, "cannot run fio");
    if (status != 0 || out->failed)
        return err_set(err, CKPT_IO, "fio failed (status %d): %.400s", status,
                       out->data ? (const char *)out->data : "");
    return CKPT_OK;
}

static void remove_files(const struct bench_fio *f)
{
    for (unsigned i = 0; i < f->files; i++) {
        char path[4300];
        snprintf(path, sizeof(path), "%s/bench.0.%u", f->dir, i);
        unlink(path);
    }
}

enum ckpt_status bench_fio_run(struct bench_fio *f, enum bench_fio_op op, double *ret_rate,
                               struct ckpt_err *err)
{
    char text[FIO_ARGS][128];
    char *argv[FIO_ARGS + 1];
    CLEANUP_BUF struct buf out = { 0 };
    build_args(f, op, text, argv);
    keep_line(f, argv);
    if (op == BENCH_WRITE_NEW)
        remove_files(f);
    enum ckpt_status st = run_fio(f, argv, &out, err);
    if (st != CKPT_OK)
        return st;
    double rate = bench_fio_parse((const char *)out.data, out.len, op);
    if (!(rate > 0))
        return err_set(err, CKPT_IO, "fio reported no rate");
    *ret_rate = rate;
    return CKPT_OK;
}
