/* Fail the n-th: of every C library function that the engine calls, and of every
 * operation of a store, for every n until a run passes untouched.  After each: a clean
 * status with words, no memory or descriptor leaked, no temporary file after the next
 * open, what was committed is whole, and the same work and the next save succeed. */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#include "props/engine_kit.h"
#include "storage/repo/catalog.h"
#include "storage/repo/launch.h"
#include "storage/repo/launch_nodes.h"
#include "storage/repo/life.h"
#include "storage/repo/scrub.h"
#include "storage/store/file_io.h"
#include "storage/store/wrap.h"
#include "store/scratch.h"
#include "torture/inject.h"

#define WORLD     2
#define PREPARED  3 /* saves: two committed, one undecided */
#define BIG_BYTES (5 * MIB)

static char base[200];
static struct kit_layout layout;
static uint64_t injections;
static uint8_t *big;

/* ---- the works: each on a prepared store, which it is handed open ---- */

static struct ckpt_name named(uint64_t epoch, uint64_t step)
{
    return (struct ckpt_name){ epoch, step, attempt_of(KIT_JOB, epoch, WORLD, step, 0) };
}

static enum ckpt_status save_and_publish(struct store *s, const struct ckpt_name *name,
                                         struct ckpt_err *err)
{
    struct kit_save how = { .name = *name, .codec = { CODEC_ZSTD, 1 } };
    struct record_commit record;
    enum ckpt_status st = CKPT_OK;
    for (uint32_t rank = 0; rank < WORLD && st == CKPT_OK; rank++)
        st = kit_save_part(s, &layout, rank, &how, err);
    return st == CKPT_OK ? publish(s, KIT_JOB, name, WORLD, &record, err) : st;
}

static enum ckpt_status work_save(struct store *s, struct ckpt_err *err)
{
    struct ckpt_name name = named(1, 50);
    struct record_repo repo;
    enum ckpt_status st = repo_open(s, true, &repo, err);
    return st == CKPT_OK ? save_and_publish(s, &name, err) : st;
}

static enum ckpt_status work_load(struct store *s, struct ckpt_err *err)
{
    struct ckpt_name name = named(1, 1);
    struct load_stats stats = { 0 };
    return kit_restore(&s, 1, &name, &layout, &stats, err);
}

static enum ckpt_status work_verify(struct store *s, struct ckpt_err *err)
{
    struct ckpt_name name = named(1, 1);
    struct scrub_report report;
    return scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, err);
}

/* Decides an attempt of the launch before, too. */
static enum ckpt_status work_resolve(struct store *s, struct ckpt_err *err)
{
    struct launch_who who = { .job = KIT_JOB, .token = "t2", .world = WORLD, .nonce = { 2 } };
    struct lineage_wish wish = { 0 };
    struct record_resolved r = { 0 };
    uint64_t epoch;
    enum ckpt_status st = launch_claim(s, &who, &epoch, err);
    if (st == CKPT_OK)
        st = launch_resolve(s, KIT_JOB, epoch, &wish, &r, err);
    if (st == CKPT_OK)
        record_resolved_fini(&r);
    return st;
}

static enum ckpt_status work_delete(struct store *s, struct ckpt_err *err)
{
    struct ckpt_name name = named(1, 1);
    struct life_gc_options gc = { .abort_keep_ns = INT64_MAX / 2 };
    struct life_gc_report report;
    struct catalog c = { 0 };
    enum life life;
    uint64_t n;
    enum ckpt_status st = life_look(s, KIT_JOB, &name, false, &life, &n, NULL, err);
    if (st == CKPT_OK && life != LIFE_GONE)
        st = life_delete(s, KIT_JOB, &name, "test", err);
    if (st == CKPT_OK)
        st = life_gc(s, KIT_JOB, &gc, &report, err);
    if (st == CKPT_OK)
        st = catalog_read(s, KIT_JOB, CATALOG_ALL | CATALOG_SIZES, &c, err);
    if (st == CKPT_OK)
        catalog_fini(&c);
    return st;
}

/* Larger than one piece: what io_uring carries. */
static enum ckpt_status work_big(struct store *s, struct ckpt_err *err)
{
    struct iovec iov = { big, BIG_BYTES };
    enum ckpt_status st = store_put(s, "big", &iov, 1, STORE_DIRECT_HINT, err);
    if (st != CKPT_OK)
        return st;
    CLEANUP_FREE uint8_t *back = kit_aligned(CKPT_BLOCK, BIG_BYTES);
    struct store_range range = { .bytes = BIG_BYTES, .base = back };
    st = store_get(s, "big", &range, 1, err);
    if (st == CKPT_OK)
        CHECK(memcmp(big, back, BIG_BYTES) == 0);
    return st;
}

/* Each rank's node tells, as if it had one of its own. */
static enum ckpt_status tell_nodes(struct store *s, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t rank = 0; rank < WORLD && st == CKPT_OK; rank++) {
        struct record_node n = { 0 };
        st = launch_inventory(s, KIT_JOB, &n, err);
        if (st != CKPT_OK)
            return st;
        CHECK_EQ(n.count, PREPARED * WORLD); /* all that lies there, or an error */
        n.node[0] = (uint8_t)(rank + 1);
        n.ranks = &rank;
        n.rank_count = 1;
        st = launch_put_node(s, KIT_JOB, 1, &n, err);
        n.ranks = NULL;
        record_node_fini(&n);
    }
    return st;
}

/* What nodes tell is all read, or it is an error: nobody resumes from less than there is. */
static enum ckpt_status gather_nodes(struct store *s, struct launch_nodes *n,
                                     struct launch_listings *at, struct ckpt_err *err)
{
    CLEANUP_ROSTER struct roster held = { 0 };
    uint32_t missing = 0;
    bool pending = true;
    enum ckpt_status st = roster_commits(s, KIT_JOB, &at->commits, err);
    if (st == CKPT_OK)
        st = launch_nodes_read(s, KIT_JOB, 1, WORLD, n, err);
    if (st == CKPT_OK)
        st = launch_nodes_missing(n, WORLD, &missing, err);
    if (st != CKPT_OK)
        return st;
    CHECK(missing == WORLD && n->count == WORLD);
    st = launch_nodes_held(n, KIT_JOB, WORLD, &held, err);
    if (st == CKPT_OK)
        st = roster_helds(s, KIT_JOB, &at->helds, err);
    if (st != CKPT_OK)
        return st;
    CHECK_EQ(held.count, PREPARED);
    st = launch_nodes_pending(KIT_JOB, n, &held, at, &pending, err);
    CHECK(st != CKPT_OK || !pending); /* the newest is there */
    return st;
}

static enum ckpt_status work_nodes(struct store *s, struct ckpt_err *err)
{
    struct ckpt_name name = named(1, 2);
    struct key held = key_held(KIT_JOB, &name);
    struct launch_listings at = { 0 };
    struct launch_nodes n = { 0 };
    struct store_stat stat;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = tell_nodes(s, err);
    if (st == CKPT_OK)
        st = gather_nodes(s, &n, &at, err);
    launch_nodes_fini(&n);
    if (st == CKPT_OK)
        st = store_remove(s, held.text, err);
    if (st == CKPT_OK)
        st = launch_hold(s, s, KIT_JOB, &at.commits, &(bool){ false }, err);
    launch_listings_fini(&at);
    if (st != CKPT_OK)
        return st;
    st = store_stat(s, held.text, &stat, &why);
    CHECK(st != CKPT_NOT_FOUND);
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
}

struct work {
    const char *name, *io;
    enum ckpt_status (*run)(struct store *s, struct ckpt_err *err);
    bool removes; /* step 1 */
};
static const struct work works[] = {
    { "save+publish", "threads", work_save, false },
    { "plan+load", "threads", work_load, false },
    { "verify", "threads", work_verify, false },
    { "resolve", "threads", work_resolve, false },
    { "delete+gc", "threads", work_delete, true },
    { "nodes", "threads", work_nodes, false },
    { "big", "uring", work_big, false },
};

/* ---- the prepared store ---- */

static void store_path(char path[300], const char *name)
{
    snprintf(path, 300, "%s/%s", base, name);
}

static enum ckpt_status open_at(const char *path, const char *io, struct store **ret,
                                struct ckpt_err *err)
{
    return store_open(path, &(struct store_options){ .io = io, .create = true }, ret, err);
}

static void prepare(void)
{
    char path[300];
    struct store *s;
    struct record_repo repo;
    struct kit_save undecided = { .name = named(1, 3) };
    struct launch_who who = { .job = KIT_JOB, .token = "t1", .world = WORLD, .nonce = { 1 } };
    struct lineage_wish wish = { 0 };
    struct record_resolved r = { 0 };
    uint64_t epoch;
    store_path(path, "made");
    CHECK_OK(open_at(path, "threads", &s, NULL));
    CHECK_OK(repo_open(s, true, &repo, NULL));
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    CHECK_OK(launch_resolve(s, KIT_JOB, epoch, &wish, &r, NULL));
    record_resolved_fini(&r);
    for (uint64_t step = 1; step <= 2; step++) {
        struct ckpt_name name = named(1, step);
        CHECK_OK(save_and_publish(s, &name, NULL));
    }
    kit_save_parts(s, &layout, &undecided);
    store_close(s);
}

static void copy_file(const char *from, const char *to)
{
    static char bytes[1 << 20];
    CLEANUP_FD int in = open(from, O_RDONLY | O_CLOEXEC);
    CLEANUP_FD int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    CHECK(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, bytes, sizeof(bytes))) > 0;)
        CHECK_EQ(write(out, bytes, (size_t)n), n);
}

static int copy_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    char from[300], to[300], name[900];
    (void)st, (void)ftw;
    store_path(from, "made");
    store_path(to, "run");
    snprintf(name, sizeof(name), "%s%s", to, path + strlen(from));
    if (flag == FTW_D)
        return mkdir(name, 0777);
    copy_file(path, name);
    return 0;
}

static void fresh_copy(char run[300])
{
    char made[300];
    store_path(run, "run");
    store_path(made, "made");
    scratch_remove(run);
    CHECK_EQ(nftw(made, copy_one, 16, FTW_PHYS), 0);
}

/* ---- after an injection ---- */

static int open_files(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void check_no_temporary(const char *run)
{
    char path[320];
    snprintf(path, sizeof(path), "%s/.tmp", run);
    DIR *dir = opendir(path);
    for (const struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir))
        CHECK(e->d_name[0] == '.');
    if (dir)
        closedir(dir);
}

static void must(enum ckpt_status st, const struct ckpt_err *err, const char *what)
{
    if (st == CKPT_OK)
        return;
    fprintf(stderr, "%s: afterwards: %s: %s\n", what, status_name(st), err_text(err));
    exit(1);
}

static void check_after(const struct work *w, const char *run, const char *what)
{
    struct store *s;
    struct ckpt_err err = { 0 };
    struct scrub_report report;
    struct ckpt_name next = named(9, 90);
    must(open_at(run, w->io, &s, &err), &err, what);
    check_no_temporary(run);
    must(w->run(s, &err), &err, what);
    must(save_and_publish(s, &next, &err), &err, what);
    must(scrub_verify(s, KIT_JOB, &next, CKPT_SLOT_BYTES_MAX, NULL, &report, &err), &err, what);
    for (uint64_t step = w->removes ? 2 : 1; step <= 2; step++) {
        struct ckpt_name name = named(1, step);
        must(scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, &err), &err, what);
    }
    store_close(s);
    check_no_temporary(run);
}

/* What a failing machine may be called: never that the data is wrong, absent or decided
 * otherwise. */
static void check_status(enum ckpt_status st, const struct ckpt_err *err, const char *what)
{
    bool clean = st == CKPT_OK || st == CKPT_NO_MEMORY || st == CKPT_IO || st == CKPT_FULL;
    if (clean && (st == CKPT_OK || err->text[0]))
        return;
    fprintf(stderr, "%s: %s: \"%s\"\n", what, status_name(st), err->text);
    exit(1);
}

/* ---- C library functions ---- */

struct fault {
    enum inject_site site;
    int error;
};
static const struct fault faults[] = {
    { INJECT_MALLOC, ENOMEM },    { INJECT_CALLOC, ENOMEM },
    { INJECT_REALLOC, ENOMEM },   { INJECT_ALIGNED_ALLOC, ENOMEM },
    { INJECT_STRDUP, ENOMEM },    { INJECT_OPENAT, EMFILE },
    { INJECT_OPENAT, EIO },       { INJECT_PREAD, INJECT_SHORT },
    { INJECT_PREAD, EINTR },      { INJECT_PREAD, EAGAIN },
    { INJECT_PREAD, EIO },        { INJECT_PWRITE, INJECT_SHORT },
    { INJECT_PWRITE, EINTR },     { INJECT_PWRITE, EAGAIN },
    { INJECT_PWRITE, ENOSPC },    { INJECT_PWRITE, EIO },
    { INJECT_FALLOCATE, ENOSPC }, { INJECT_FALLOCATE, EOPNOTSUPP },
    { INJECT_FTRUNCATE, EIO },    { INJECT_FDATASYNC, EIO },
    { INJECT_FSYNC, EIO },        { INJECT_RENAMEAT, ENOSPC },
    { INJECT_RENAMEAT, EIO },     { INJECT_LINKAT, ENOSPC },
    { INJECT_LINKAT, EIO },       { INJECT_MKDIRAT, ENOSPC },
    { INJECT_UNLINKAT, EIO },     { INJECT_FSTATAT, EIO },
    { INJECT_FSTAT, EIO },        { INJECT_FCNTL, EINVAL },
    { INJECT_FLOCK, ENOLCK },     { INJECT_FDOPENDIR, ENOMEM },
    { INJECT_READDIR, EIO },      { INJECT_GETRANDOM, EIO },
    { INJECT_CQE, INJECT_SHORT }, { INJECT_CQE, EINTR },
    { INJECT_CQE, EIO },          { INJECT_CQE, ENOSPC },
};

static bool transparent(const struct fault *f)
{
    return f->error == INJECT_SHORT || f->error == EINTR || f->error == EAGAIN ||
           f->error == EOPNOTSUPP;
}

/* One run with the nth call failing; false when nothing was left to fail. */
static bool one_fault(const struct work *w, const struct fault *f, unsigned long nth)
{
    char run[300], what[128];
    struct ckpt_err err = { 0 };
    struct store *s = NULL;
    snprintf(what, sizeof(what), "%s, %s %lu, %s", w->name, inject_names[f->site], nth,
             f->error < 0 ? "short" : strerrorname_np(f->error));
    fresh_copy(run);
    int files = open_files();
    long live = inject_live();
    inject_arm(f->site, nth, f->error);
    enum ckpt_status st = open_at(run, w->io, &s, &err);
    if (st == CKPT_OK)
        st = w->run(s, &err);
    store_close(s);
    unsigned hits = inject_disarm();
    check_status(st, &err, what);
    if ((hits == 0 || transparent(f)) && st != CKPT_OK) {
        fprintf(stderr, "%s: %s: \"%s\"\n", what, status_name(st), err.text);
        exit(1);
    }
    if (inject_live() != live || open_files() != files) {
        fprintf(stderr, "%s: %ld blocks, %d files leaked\n", what, inject_live() - live,
                open_files() - files);
        exit(1);
    }
    if (hits)
        check_after(w, run, what);
    injections += hits;
    return hits > 0;
}

static void test_faults(bool uring)
{
    unsigned long counts[INJECT_SITES] = { 0 };
    for (size_t i = 0; i < ARRAY_COUNT(works); i++) {
        if (strcmp(works[i].io, "uring") == 0 && !uring)
            continue;
        for (size_t k = 0; k < ARRAY_COUNT(faults); k++) {
            unsigned long nth = 0;
            for (; one_fault(&works[i], &faults[k], nth); nth += TEST_TENTH)
                counts[faults[k].site]++;
        }
    }
    for (int i = 0; i < INJECT_SITES; i++) {
        printf("%-14s %6lu injections\n", inject_names[i], counts[i]);
        CHECK(counts[i] > 0 || (i == INJECT_CQE && !uring));
    }
}

/* ---- operations of a store ---- */

static bool one_store_fault(const struct work *w, char op, enum wrap_fault_kind kind, uint64_t nth)
{
    char run[300], what[128];
    struct wrap_fault_rule rule = { .kind = kind, .status = CKPT_IO, .op = op, .nth = nth };
    struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
    struct ckpt_err err = { 0 };
    struct store *bare, *s;
    snprintf(what, sizeof(what), "%s, store %c %llu, kind %d", w->name, op, (unsigned long long)nth,
             (int)kind);
    fresh_copy(run);
    int files = open_files();
    long live = inject_live();
    CHECK_OK(open_at(run, w->io, &bare, NULL));
    CHECK_OK(wrap_fault(bare, &plan, &s, NULL));
    enum ckpt_status st = w->run(s, &err);
    store_close(s);
    check_status(st, &err, what);
    CHECK(plan.hits > 0 || st == CKPT_OK);
    CHECK_EQ(inject_live(), live);
    CHECK_EQ(open_files(), files);
    if (plan.hits)
        check_after(w, run, what);
    injections += plan.hits;
    return plan.hits > 0;
}

static void test_store_faults(void)
{
    static const char ops[] = { 'p', 'g', 's', 'l', 'r', 'y' };
    for (size_t op = 0; op < ARRAY_COUNT(ops); op++) {
        uint64_t count = 0;
        for (size_t i = 0; i < ARRAY_COUNT(works); i++) {
            static const enum wrap_fault_kind kinds[] = { FAULT_FAIL, FAULT_LOST_REPLY };
            for (size_t k = 0; works[i].run != work_big && k < ARRAY_COUNT(kinds); k++) {
                uint64_t nth = 1;
                for (; one_store_fault(&works[i], ops[op], kinds[k], nth); nth += TEST_TENTH)
                    count++;
            }
        }
        printf("store %c        %6llu injections\n", ops[op], (unsigned long long)count);
        CHECK(count > 0);
    }
}

static bool have_uring(void)
{
    struct file_io *io;
    struct ckpt_err err = { 0 };
    if (file_io_uring_new(&io, &err) == CKPT_OK) {
        file_io_free(io);
        return true;
    }
    printf("no failing completions: %s\n", err_text(&err));
    return false;
}

int main(void)
{
    struct kit_model m = { 0 };
    kit_calloc = inject_spared_calloc;
    kit_aligned = inject_spared_aligned;
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
    scratch_make(base);
    big = inject_spared_aligned(CKPT_BLOCK, BIG_BYTES);
    CHECK(big);
    memset(big, 0x5c, BIG_BYTES);
    kit_model_add(&m, "a.weight", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 70, 300 });
    kit_model_add(&m, "b.bias", CKPT_DTYPE_BF16, 1, (const uint64_t[]){ 77 });
    kit_layout_rows(&layout, &m, WORLD);
    prepare();
    test_faults(have_uring());
    test_store_faults();
    kit_layout_fini(&layout);
    free(big);
    scratch_remove(base);
    TEST_CASES(injections);
    return 0;
}
