/* The dir store below its contract: the order of operations that makes an object
 * durable, what it does when one of them fails, leftovers, and trouble with the
 * directory itself.
 * (It covers store_dir_put.c, store_dir_get.c and store_dir_list.c too.) */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "storage/store/store.h"
#include "store/scratch.h"
#include "store/trace_io.h"

#include "check.h"

#define MIB1 ((size_t)1 << 20)

static char scratch[200];
static char *big; /* 4 MiB, aligned */

static struct store *open_at(const char *name, const struct store_options *given)
{
    struct store_options options = { .create = true, .io = "threads" };
    struct ckpt_err err = { 0 };
    char url[512];
    struct store *s = NULL;
    snprintf(url, sizeof(url), "dir://%s/%s", scratch, name);
    if (store_open(url, given ? given : &options, &s, &err) != CKPT_OK)
        fprintf(stderr, "%s\n", err_text(&err));
    CHECK(s);
    return s;
}

static struct store *open_traced(const char *name)
{
    file_io_set_maker(trace_maker);
    struct store *s = open_at(name, NULL);
    file_io_set_maker(NULL);
    return s;
}

static enum ckpt_status put_big(struct store *s, const char *key, size_t len, struct ckpt_err *err)
{
    struct iovec iov = { big, len };
    return store_put(s, key, &iov, 1, 0, err);
}

static int temp_files(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s/.tmp", scratch, name);
    DIR *dir = opendir(path);
    int n = 0;
    for (const struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir))
        n += e->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return n;
}

/* Rule S1 as a sequence of operations. */
static int test_order(void)
{
    struct store *s = open_traced("order");
    trace_reset(NULL, 0, 0, 0);
    CHECK_OK(put_big(s, "j/d/p", MIB1 + 5, NULL));
    CHECK_STR(trace.text, "open:TEMP mkdir:.tmp open:TEMP fallocate write truncate "
                          "fdatasync rename:j/d/p mkdir:j mkdir:j/d rename:j/d/p");
    trace_reset(NULL, 0, 0, 0);
    CHECK_OK(put_big(s, "j/d/p", MIB1, NULL));
    CHECK_STR(trace.text, "open:TEMP fallocate write truncate fdatasync rename:j/d/p");
    trace_reset(NULL, 0, 0, 0);
    CHECK_OK(store_sync(s, "j/d/", NULL));
    CHECK_STR(trace.text, "open:j/d/ fsync open:j/d open:j fsync open:. fsync");
    trace_reset(NULL, 0, 0, 0);
    CHECK_OK(store_put_record(s, "j/c/r", "r", 1, NULL));
    CHECK_STR(trace.text, "open:TEMP write fdatasync link:j/c/r mkdir:j mkdir:j/c "
                          "link:j/c/r unlink:TEMP open:j/c fsync open:j fsync open:. fsync");
    trace_reset(NULL, 0, 0, 0); /* the other writer may have died before its fsync */
    CHECK_OK(store_put_record(s, "j/c/r", "r", 1, NULL));
    CHECK_STR(trace.text, "open:TEMP write fdatasync link:j/c/r unlink:TEMP stat:j/c/r open:j/c/r "
                          "read open:j/c fsync open:j fsync open:. fsync");
    store_close(s);
    return 5;
}

/* The root too: each new directory is named for good before it is used. */
static int test_root_is_durable(void)
{
    char want[1200];
    trace_reset(NULL, 0, 0, 0);
    store_close(open_traced("made/root"));
    snprintf(want, sizeof(want),
             "mkdir:%s/made open:%s fsync mkdir:%s/made/root open:%s/made fsync", scratch, scratch,
             scratch, scratch);
    CHECK(strstr(trace.text, want));
    return 1;
}

/* Directories without objects are no prefixes, and a remove takes them away. */
static int test_empty_directories(void)
{
    struct store *s = open_at("empty", NULL);
    struct store_entry page[4];
    size_t count;
    bool more;
    char path[512];
    CHECK_OK(put_big(s, "j/d/e/x", 10, NULL));
    CHECK_OK(put_big(s, "j/y", 10, NULL));
    CHECK_OK(store_remove(s, "j/d/e/x", NULL));
    snprintf(path, sizeof(path), "%s/empty/j/d", scratch);
    CHECK(access(path, F_OK) < 0);
    CHECK_EQ(mkdir(path, 0700), 0); /* as another writer just before its rename */
    CHECK_OK(store_list(s, "j/", true, "", page, 4, &count, &more, NULL));
    CHECK(count == 1 && strcmp(page[0].key, "j/y") == 0);
    store_close(s);
    return 2;
}

static int test_sync_covers_everything_below(void)
{
    struct store *s = open_traced("sync");
    CHECK_OK(put_big(s, "j/d/1/n/p", 10, NULL));
    CHECK_OK(put_big(s, "j/d/2/n/p", 10, NULL));
    CHECK_OK(put_big(s, "k/x", 10, NULL));
    trace_reset(NULL, 0, 0, 0);
    CHECK_OK(store_sync(s, "j/d/", NULL));
    static const char *const covered[] = { "open:j/d/ fsync",     "open:j/d/1/ fsync",
                                           "open:j/d/1/n/ fsync", "open:j/d/2/ fsync",
                                           "open:j/d/2/n/ fsync", "open:j fsync",
                                           "open:. fsync" };
    for (size_t i = 0; i < ARRAY_COUNT(covered); i++)
        CHECK(strstr(trace.text, covered[i]));
    CHECK(!strstr(trace.text, "open:k"));
    trace_reset(NULL, 0, 0, 0);
    CHECK_OK(store_sync(s, "", NULL));
    CHECK(strstr(trace.text, "open:k/ fsync") && strstr(trace.text, "open:j/d/2/n/ fsync"));
    CHECK(!strstr(trace.text, ".tmp"));
    store_close(s);
    return ARRAY_COUNT(covered) + 2;
}

/* Every operation of a put fails once: nothing half-made is visible or left over. */
static int test_each_failure(void)
{
    static const char *const ops[] = { "open",  "fallocate", "write", "truncate",
                                       "mkdir", "rename",    "link" };
    static const struct {
        int error;
        enum ckpt_status st;
        const char *hint;
    } kinds[] = { { -ENOSPC, CKPT_FULL, "free space" },
                  { -EIO, CKPT_IO, "dmesg" },
                  { -EROFS, CKPT_DENIED, "read-only" },
                  { -EMFILE, CKPT_IO, "ulimit" },
                  { -EDQUOT, CKPT_FULL, "quota" } };
    int cases = 0;
    for (size_t i = 0; i < ARRAY_COUNT(ops); i++) {
        for (size_t k = 0; k < ARRAY_COUNT(kinds); k++, cases++) {
            char name[40];
            snprintf(name, sizeof(name), "fail-%zu-%zu", i, k);
            struct store *s = open_traced(name);
            bool record = strcmp(ops[i], "link") == 0;
            struct iovec iov = { big, MIB1 };
            struct ckpt_err err = { 0 };
            struct store_stat stat;
            trace_reset(ops[i], 0, 1, kinds[k].error);
            CHECK_EQ(store_put(s, "j/p", &iov, 1, record ? STORE_IF_ABSENT : 0, &err), kinds[k].st);
            CHECK(strstr(err.text, "j/p") && strstr(err.text, kinds[k].hint));
            CHECK(strstr(err.text, scratch));
            trace_reset(NULL, 0, 0, 0);
            CHECK_EQ(store_stat(s, "j/p", &stat, NULL), CKPT_NOT_FOUND);
            CHECK_EQ(temp_files(name), 0);
            CHECK_OK(put_big(s, "j/p", MIB1, NULL));
            store_close(s);
        }
    }
    return cases;
}

/* A directory that cannot be synced fails the record, though it is linked. */
static int test_directory_fsync_fails(void)
{
    struct store *s = open_traced("dirsync");
    CHECK_OK(store_put_record(s, "j/a", "a", 1, NULL));
    for (int nth = 0; nth < 2; nth++) {
        char key[8];
        snprintf(key, sizeof(key), "j/%d", nth);
        trace_reset("fsync", nth, 1, -EIO);
        CHECK_EQ(store_put_record(s, key, "b", 1, NULL), CKPT_IO);
        trace_reset("fsync", nth, 1, -EIO);
        CHECK_EQ(store_sync(s, "j/", NULL), CKPT_IO);
    }
    trace_reset("fsync", 0, 9, -EINVAL); /* a filesystem without it */
    CHECK_OK(store_sync(s, "j/", NULL));
    char text[600];
    store_to_text(s, text, sizeof(text));
    CHECK(strstr(text, "cannot sync directories"));
    store_close(s);
    return 5;
}

/* A failed fdatasync is never asked again of the same file. */
static int test_failed_sync(void)
{
    struct store *s = open_traced("syncfail");
    CHECK_OK(put_big(s, "j/first", 10, NULL));
    trace_reset("fdatasync", 0, 1, -EIO);
    CHECK_OK(put_big(s, "j/p", 100, NULL));
    CHECK_STR(trace.text, "open:TEMP write fdatasync unlink:TEMP "
                          "open:TEMP write fdatasync rename:j/p");
    trace_reset("fdatasync", 0, 2, -EIO);
    struct ckpt_err err = { 0 };
    CHECK_EQ(put_big(s, "j/q", 100, &err), CKPT_IO);
    CHECK(strstr(err.text, "fdatasync"));
    CHECK_STR(trace.text, "open:TEMP write fdatasync unlink:TEMP "
                          "open:TEMP write fdatasync unlink:TEMP");
    CHECK_EQ(temp_files("syncfail"), 0);
    store_close(s);
    return 2;
}

static void check_reads_back(struct store *s, const char *key, size_t len)
{
    void *got;
    size_t got_len;
    CHECK_OK(store_get_all(s, key, len, &got, &got_len, NULL));
    CHECK(got_len == len && memcmp(got, big, len) == 0);
    free(got);
}

/* Direct I/O refused at open, at write, at read: the bytes arrive all the same. */
static int test_direct_refused(void)
{
    static const char *const where[] = { "open!", "write", "read!" };
    for (size_t i = 0; i < ARRAY_COUNT(where); i++) {
        char text[600];
        struct store *s = open_traced(where[i]);
        void *at = aligned_alloc(4096, 3 * MIB1);
        struct store_range r = { 0, 2 * MIB1 + 7, at };
        trace_reset(NULL, 0, 0, 0);
        store_to_text(s, text, sizeof(text));
        CHECK(!strstr(text, "buffered"));
        trace_reset(where[i], 0, 1, -EINVAL);
        CHECK_OK(put_big(s, "p", 2 * MIB1 + 7, NULL));
        CHECK_OK(store_get(s, "p", &r, 1, NULL));
        CHECK_EQ(trace.seen > 0, 1);
        CHECK(memcmp(at, big, r.bytes) == 0);
        store_to_text(s, text, sizeof(text));
        CHECK(strstr(text, "buffered"));
        trace_reset(NULL, 0, 0, 0);
        CHECK_OK(put_big(s, "q", 2 * MIB1 + 7, NULL)); /* remembered */
        CHECK(!strstr(trace.text, "fallocate"));
        check_reads_back(s, "q", 2 * MIB1 + 7);
        CHECK_EQ(temp_files(where[i]), 0);
        free(at);
        store_close(s);
    }
    return ARRAY_COUNT(where);
}

/* Aligned ranges are read direct, the others are not. */
static int test_direct_reads(void)
{
    struct store *s = open_traced("direct");
    char *at = aligned_alloc(4096, 4 * MIB1);
    CHECK_OK(put_big(s, "p", 3 * MIB1 + 9, NULL));
    static const struct {
        uint64_t offset, bytes, shift;
        const char *trace;
    } cases[] = {
        { 0, MIB1, 0, "open:p read!" },
        { 4096, MIB1, 0, "open:p read!" },
        { 0, 3 * MIB1 + 9, 0, "open:p read! read" },
        { 5, MIB1, 5, "open:p read! read" },
        { 5, MIB1, 0, "open:p read" },
        { 0, 4096, 0, "open:p read" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct store_range r = { cases[i].offset, cases[i].bytes, at + cases[i].shift };
        trace_reset(NULL, 0, 0, 0);
        CHECK_OK(store_get(s, "p", &r, 1, NULL));
        CHECK_STR(trace.text, cases[i].trace);
        CHECK(memcmp(r.base, big + r.offset, r.bytes) == 0);
    }
    trace_reset("read!", 0, 1, -ENODATA);
    struct store_range r = { 0, MIB1, at };
    CHECK_EQ(store_get(s, "p", &r, 1, NULL), CKPT_CORRUPT);
    free(at);
    store_close(s);
    return ARRAY_COUNT(cases) + 1;
}

static void make_file(const char *fmt, const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s/.tmp/%s", scratch, fmt, name);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
}

/* Leftovers go, files being written stay, on a shared store only our node's go. */
static int test_leftovers(void)
{
    struct store_options n1 = { .create = true, .io = "threads", .node = "n1" };
    struct store_options ro = { .readonly = true, .io = "threads", .node = "n1" };
    char path[512];
    struct store *s = open_at("left", &n1);
    CHECK_OK(put_big(s, "x", 10, NULL));
    make_file("left", "n1-4000000-1");
    make_file("left", "n2-4000000-1");
    make_file("left", "n11-1-1");
    snprintf(path, sizeof(path), "%s/left/.tmp/n1-4000000-2", scratch);
    int live = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(live >= 0 && flock(live, LOCK_EX) == 0);
    store_close(open_at("left", &ro));
    CHECK_EQ(temp_files("left"), 4);
    store_close(open_at("left?shared=1", &n1));
    CHECK_EQ(temp_files("left"), 3);
    store_close(open_at("left", &n1));
    CHECK_EQ(temp_files("left"), 1);
    close(live);
    store_close(open_at("left", &n1));
    CHECK_EQ(temp_files("left"), 0);
    store_close(s);
    return 4;
}

/* A writer killed at any moment leaves nothing visible, and its file is cleaned. */
static int test_killed_writer(void)
{
    enum { ROUNDS = 8 };
    struct store *s = open_at("killed", NULL);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            struct store *mine = open_at("killed", NULL);
            for (;;) {
                if (put_big(mine, "x", 4 * MIB1, NULL) != CKPT_OK)
                    _exit(1);
            }
        }
        usleep(3000 + 4000 * (unsigned)i);
        kill(pid, SIGKILL);
        CHECK_EQ(waitpid(pid, NULL, 0), pid);
        store_close(open_at("killed", NULL));
        CHECK_EQ(temp_files("killed"), 0);
        struct store_stat stat;
        if (store_stat(s, "x", &stat, NULL) == CKPT_OK)
            check_reads_back(s, "x", 4 * MIB1);
    }
    store_close(s);
    return ROUNDS;
}

static int test_open_errors(void)
{
    char path[600];
    snprintf(path, sizeof(path), "%s/file", scratch);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    char missing[600], below[600];
    snprintf(missing, sizeof(missing), "%s/missing/a", scratch);
    snprintf(below, sizeof(below), "%s/file/x", scratch);
    struct store_options create = { .create = true };
    struct store_options bad_io = { .io = "magic" };
    struct store_options bad_node = { .node = "../x" };
    const struct {
        const char *url;
        const struct store_options *options;
        enum ckpt_status st;
        const char *says;
    } cases[] = {
        { missing, NULL, CKPT_NOT_FOUND, "missing" },
        { path, NULL, CKPT_INVALID, "not a directory" },
        { below, &create, CKPT_INVALID, "not a directory" },
        { "", NULL, CKPT_INVALID, "no place" },
        { NULL, NULL, CKPT_INVALID, "no store" },
        { "dir://relative", NULL, CKPT_INVALID, "dir:///absolute" },
        { "dir:///tmp?color=red", NULL, CKPT_INVALID, "shared=1" },
        { "mem://x?shared=1", NULL, CKPT_INVALID, "no parameters" },
        { "ftp://host/x", NULL, CKPT_UNSUPPORTED, "dir://, mem://" },
        { scratch, &bad_io, CKPT_INVALID, "uring" },
        { scratch, &bad_node, CKPT_BAD_NAME, "node" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct ckpt_err err = { 0 };
        struct store *s = NULL;
        CHECK_EQ(store_open(cases[i].url, cases[i].options, &s, &err), cases[i].st);
        CHECK(!s && strstr(err.text, cases[i].says));
    }
    CHECK(store_url_shared("dir:///p?shared=1"));
    CHECK(!store_url_shared("dir:///p") && !store_url_shared("/p?shared=1"));
    CHECK(!store_url_shared("mem://x") && !store_url_shared("ftp://x?shared=1"));
    return ARRAY_COUNT(cases) + 5;
}

static int test_relative_and_plain_paths(void)
{
    char here[512];
    struct store_options create = { .create = true };
    struct store *s;
    CHECK(getcwd(here, sizeof(here)) && chdir(scratch) == 0);
    CHECK_OK(store_open("rel/a//b/", &create, &s, NULL));
    CHECK(chdir(here) == 0); /* the root is a descriptor by now */
    CHECK_OK(put_big(s, "x", 10, NULL));
    store_close(s);
    char path[600];
    snprintf(path, sizeof(path), "%s/rel/a/b/x", scratch);
    CHECK(access(path, R_OK) == 0);
    snprintf(path, sizeof(path), "%s/rel/a/b", scratch);
    CHECK_OK(store_open(path, NULL, &s, NULL));
    check_reads_back(s, "x", 10);
    store_close(s);
    return 2;
}

/* Moved away, or another directory in its place: a put says so, and works again when the
 * root is back; what is there can be read all the while. */
static int test_moved(void)
{
    char path[512], away[512];
    struct ckpt_err err = { 0 };
    struct store *s = open_at("moved", NULL);
    struct store_stat stat;
    snprintf(path, sizeof(path), "%s/moved", scratch);
    snprintf(away, sizeof(away), "%s/moved-away", scratch);
    CHECK_OK(store_put_record(s, "a", "1", 1, NULL));
    CHECK_EQ(rename(path, away), 0);
    for (int replaced = 0; replaced < 2; replaced++) {
        CHECK_EQ(store_put_record(s, "b", "2", 1, &err), CKPT_UNREACHABLE);
        CHECK(strstr(err.text, "renamed, replaced or unmounted") && strstr(err.text, path));
        CHECK_EQ(put_big(s, "p", MIB1, NULL), CKPT_UNREACHABLE);
        CHECK_OK(store_stat(s, "a", &stat, NULL));
        if (!replaced)
            CHECK_EQ(mkdir(path, 0700), 0);
    }
    CHECK_EQ(rmdir(path), 0); /* nothing got into it */
    CHECK_EQ(rename(away, path), 0);
    CHECK_EQ(store_stat(s, "b", &stat, NULL), CKPT_NOT_FOUND);
    CHECK_OK(store_put_record(s, "b", "2", 1, NULL));
    store_close(s);
    return 6;
}

/* A removed directory is not an empty store. */
static int test_vanished(void)
{
    struct store *s = open_at("vanish", NULL);
    struct store_stat stat;
    struct store_entry page[1];
    size_t count;
    bool more;
    char path[512];
    struct ckpt_err err = { 0 };
    CHECK_OK(put_big(s, "j/x", 10, NULL));
    snprintf(path, sizeof(path), "%s/vanish", scratch);
    scratch_remove(path);
    CHECK_EQ(store_stat(s, "j/x", &stat, &err), CKPT_UNREACHABLE);
    CHECK(strstr(err.text, "removed while it was in use") && strstr(err.text, path));
    CHECK_EQ(put_big(s, "j/y", 10, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(put_big(s, "j/y", MIB1, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_put_record(s, "r", "r", 1, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_list(s, "", false, "", page, 1, &count, &more, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_list(s, "j/", true, "", page, 1, &count, &more, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_sync(s, "j/", NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_sync(s, "", NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_remove(s, "j/x", NULL), CKPT_UNREACHABLE);
    store_close(s);
    return 9;
}

/* Links and foreign files in the tree are neither followed nor listed. */
static int test_foreign_things(void)
{
    struct store *s = open_at("foreign", NULL);
    struct store_entry page[4];
    struct store_stat stat;
    size_t count, len;
    bool more;
    void *got;
    char path[512];
    CHECK_OK(put_big(s, "j/x", 10, NULL));
    snprintf(path, sizeof(path), "%s/foreign/j/link", scratch);
    CHECK_EQ(symlink("/etc/passwd", path), 0);
    snprintf(path, sizeof(path), "%s/foreign/dirlink", scratch);
    CHECK_EQ(symlink("/etc", path), 0);
    snprintf(path, sizeof(path), "%s/foreign/j/fifo", scratch);
    CHECK_EQ(mkfifo(path, 0600), 0);
    snprintf(path, sizeof(path), "%s/foreign/j/back\\slash", scratch);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK_EQ(store_stat(s, "j/link", &stat, NULL), CKPT_NOT_FOUND);
    CHECK_EQ(store_get_all(s, "j/link", 1 << 20, &got, &len, NULL), CKPT_NOT_FOUND);
    struct ckpt_err err = { 0 };
    CHECK_EQ(store_get(s, "j/link", NULL, 0, &err), CKPT_IO);
    CHECK(strstr(err.text, "symbolic link"));
    CHECK_EQ(store_get(s, "j/fifo", NULL, 0, NULL), CKPT_NOT_FOUND);
    CHECK_OK(store_list(s, "", false, "", page, 4, &count, &more, NULL));
    CHECK(count == 1 && strcmp(page[0].key, "j/x") == 0);
    CHECK_OK(store_list(s, "dirlink/", false, "", page, 4, &count, &more, NULL));
    CHECK_EQ(count, 0);
    memset(&err, 0, sizeof(err));
    CHECK_EQ(put_big(s, "j/x/below", 10, &err), CKPT_IO);
    CHECK(strstr(err.text, "is an object"));
    CHECK_EQ(put_big(s, "j", 10, NULL), CKPT_IO);
    store_close(s);
    return 8;
}

static int test_shared_clock(void)
{
    struct store *s = open_at("clock?shared=1", NULL);
    int64_t now = 0;
    CHECK_OK(store_now(s, &now, NULL));
    CHECK(now > 0);
    CHECK_EQ(temp_files("clock"), 0);
    char text[600];
    store_to_text(s, text, sizeof(text));
    CHECK(strstr(text, "shared") && strstr(text, "io threads (asked for)"));
    store_close(s);
    return 2;
}

/* RLIMIT_NOFILE reached: named, and over when descriptors are free again. */
static int test_no_descriptors(void)
{
    struct store *s = open_at("emfile", NULL);
    struct rlimit old, low;
    struct ckpt_err err = { 0 };
    CHECK_OK(put_big(s, "x", 10, NULL));
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = 0;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    CHECK_EQ(put_big(s, "y", 10, &err), CKPT_IO);
    CHECK(strstr(err.text, "ulimit -n"));
    CHECK_EQ(store_get(s, "x", NULL, 0, NULL), CKPT_IO);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    CHECK_OK(put_big(s, "y", 10, NULL));
    store_close(s);
    return 3;
}

/* In a mount namespace of its own: a small tmpfs fills up, then turns read-only. */
static void full_and_readonly(void)
{
    char root[512];
    snprintf(root, sizeof(root), "%s/small", scratch);
    CHECK_EQ(mkdir(root, 0700), 0);
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK_EQ(mount("tmpfs", root, "tmpfs", 0, "size=3m"), 0);
    struct store *s = open_at("small", NULL);
    struct ckpt_err err = { 0 };
    CHECK_OK(put_big(s, "j/a", 2 * MIB1, NULL));
    CHECK_EQ(put_big(s, "j/b", 2 * MIB1, &err), CKPT_FULL);
    CHECK(strstr(err.text, "small/j/b") && strstr(err.text, "free space"));
    CHECK_EQ(temp_files("small"), 0);
    check_reads_back(s, "j/a", 2 * MIB1);
    CHECK_OK(store_put_record(s, "j/r", "r", 1, NULL)); /* small ones still fit */
    CHECK_OK(store_remove(s, "j/a", NULL));
    CHECK_OK(put_big(s, "j/b", 2 * MIB1, NULL));
    CHECK_EQ(mount(NULL, root, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    memset(&err, 0, sizeof(err));
    CHECK_EQ(store_put_record(s, "j/s", "s", 1, &err), CKPT_DENIED);
    CHECK(strstr(err.text, "read-only"));
    store_close(s);
    s = open_at("small", NULL); /* reading needs no writing */
    check_reads_back(s, "j/b", 2 * MIB1);
    store_close(s);
}

static int test_full_and_readonly(void)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (unshare(CLONE_NEWNS) != 0)
            _exit(77);
        full_and_readonly();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        printf("SKIP: full and read-only filesystem: no right to make a mount namespace\n");
        return 0;
    }
    CHECK_EQ(WEXITSTATUS(status), 0);
    return 5;
}

int main(void)
{
    unsigned long long seed = 7;
    scratch_make(scratch);
    big = aligned_alloc(4096, 4 * MIB1);
    for (size_t i = 0; i < 4 * MIB1; i++)
        big[i] = (char)test_rand(&seed);
    int cases = test_order() + test_root_is_durable() + test_empty_directories() +
                test_sync_covers_everything_below() + test_each_failure() +
                test_directory_fsync_fails() + test_failed_sync() + test_direct_refused() +
                test_direct_reads() + test_leftovers() + test_killed_writer() + test_open_errors() +
                test_relative_and_plain_paths() + test_vanished() + test_moved() +
                test_foreign_things() + test_shared_clock() + test_no_descriptors() +
                test_full_and_readonly();
    free(big);
    scratch_remove(scratch);
    TEST_CASES(cases);
    return 0;
}
