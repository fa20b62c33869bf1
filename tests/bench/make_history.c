/* Makes a job of many checkpoints, for measuring what looks at all of them:
 *
 *     make_history DIR JOB COUNT
 *
 * One launch saved steps 10, 20, ... a minute apart, the last one now.  Records come from
 * the real encoders and are written without syncs; a rank's part is its `.h`, and small
 * files in the place of manifest, index and pack. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <time.h>

#include "storage/repo/repo.h"

#include "check.h"

#define MINUTE_NS (INT64_C(60) * 1000000000)

struct maker {
    const char *dir, *job;
    int64_t now_ns;
};

static void make_above(char *path)
{
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        CHECK(mkdir(path, 0777) == 0 || errno == EEXIST);
        *at = '/';
    }
}

static void write_key(const struct maker *m, struct key key, const void *bytes, size_t len)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", m->dir, key.text);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        make_above(path);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    }
    CHECK(fd >= 0);
    CHECK(write(fd, bytes, len) == (ssize_t)len);
    CHECK(close(fd) == 0);
}

static void write_record(const struct maker *m, struct key key, struct buf *b)
{
    CHECK(!b->failed);
    write_key(m, key, b->data, b->len);
    buf_fini(b);
}

/* Ages are those of the commit records. */
static void date_key(const struct maker *m, struct key key, int64_t time_ns)
{
    char path[4096];
    struct timespec at = { time_ns / 1000000000, time_ns % 1000000000 };
    snprintf(path, sizeof(path), "%s/%s", m->dir, key.text);
    CHECK(utimensat(AT_FDCWD, path, (struct timespec[]){ at, at }, 0) == 0);
}

static void make_launch(const struct maker *m)
{
    struct record_repo repo = { .format = REPO_FORMAT, .uuid = "made up to rank" };
    struct record_claim claim = { .token = "made up", .epoch = 1, .world = 1 };
    struct record_resolved resolved = { .epoch = 1, .kind = RESOLVED_NOTHING };
    struct key root = { KEY_REPO };
    struct buf b = { 0 };
    record_repo_encode(&repo, &b);
    write_record(m, root, &b);
    struct key key = key_claim(m->job, 1);
    record_claim_encode(&claim, key.text, &b);
    write_record(m, key, &b);
    key = key_resolved(m->job, 1);
    record_resolved_encode(&resolved, key.text, &b);
    write_record(m, key, &b);
}

static void make_part(const struct maker *m, const struct ckpt_name *name)
{
    static const char some[256];
    struct record_rank_held held = { .name = *name, .pack_count = 1, .stored_bytes = 256 };
    struct digest id = { { (uint8_t)name->step } };
    struct key key = key_rank_held(m->job, name, 0);
    struct buf b = { 0 };
    record_rank_held_encode(&held, key.text, &b);
    write_record(m, key, &b);
    write_key(m, key_manifest(m->job, name, 0), some, sizeof(some));
    write_key(m, key_index(m->job, name, 0), some, sizeof(some));
    write_key(m, key_pack(m->job, name, 0, 0, &id), some, sizeof(some));
}

static void make_commit(const struct maker *m, uint64_t step, int64_t time_ns)
{
    struct ckpt_name name = { 1, step, attempt_of(m->job, 1, 1, step, 0) };
    struct record_commit c = { .name = name,
                               .world = 1,
                               .time_ns = time_ns,
                               .raw_bytes = 1000,
                               .tensor_count = 1,
                               .pack_count = 1,
                               .chunk_count = 1,
                               .index_segments = 1,
                               .metric_count = 1,
                               .metrics = { { "loss", 1.0 + 1.0 / (double)step } } };
    struct record_held held = { .name = name, .world = 1, .stored_bytes = 256, .time_ns = time_ns };
    struct key key = key_commit(m->job, &name);
    struct buf b = { 0 };
    make_part(m, &name);
    record_commit_encode(&c, key.text, &b);
    write_record(m, key, &b);
    date_key(m, key, time_ns);
    key = key_held(m->job, &name);
    record_held_encode(&held, key.text, &b);
    write_record(m, key, &b);
}

int main(int argc, char **argv)
{
    struct timespec now;
    if (argc != 4) {
        fprintf(stderr, "usage: make_history DIR JOB COUNT\n");
        return 2;
    }
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    struct maker m = { .dir = argv[1], .job = argv[2], .now_ns = now.tv_sec * INT64_C(1000000000) };
    uint64_t count = strtoull(argv[3], NULL, 10);
    CHECK_OK(job_name_check(m.job, NULL));
    make_launch(&m);
    for (uint64_t i = 1; i <= count; i++)
        make_commit(&m, 10 * i, m.now_ns - (int64_t)(count - i) * MINUTE_NS);
    printf("%" PRIu64 " checkpoints of job %s in %s\n", count, m.job, m.dir);
    return 0;
}
