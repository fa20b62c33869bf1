/* The engine on a real object store (the server of with_rgw.py): sixteen committer
 * processes race and make one commit, the same bytes for all; what was saved comes back. */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "formats/digest.h"
#include "props/engine_kit.h"

enum { RACERS = 16, WORLD = 3, ROUNDS = 6 };

/* What a racer saw: in shared memory, each its own. */
struct racer {
    enum ckpt_status st;
    enum publish_state state;
    struct sha256 commit; /* of the record that lies under c/ */
    bool aborts;
};
static struct racer *racers;
static int *go; /* in shared memory, too */
static char url[300];

static void record_digest(struct store *s, const struct ckpt_name *name, struct sha256 *ret)
{
    struct key key = key_commit(KIT_JOB, name);
    void *bytes;
    size_t len;
    CHECK_OK(store_get_all(s, key.text, 1 << 20, &bytes, &len, NULL));
    *ret = sha256_of(bytes, len);
    free(bytes);
}

static void race(struct racer *r, const struct kit_save *how)
{
    struct store *s = kit_store(url);
    struct record_commit commit;
    struct record_abort why = { .status = CKPT_TIMEOUT, .rank = UINT32_MAX, .by_epoch = 2 };
    while (!__atomic_load_n(go, __ATOMIC_ACQUIRE))
        usleep(200);
    r->st = r->aborts ? publish_abort(s, KIT_JOB, &how->name, &why, NULL)
                      : publish(s, KIT_JOB, &how->name, WORLD, &commit, NULL);
    CHECK_OK(publish_look(s, KIT_JOB, &how->name, &r->state, NULL, NULL));
    record_digest(s, &how->name, &r->commit);
    store_close(s);
}

static void check_race(int round)
{
    bool committed = racers[0].state == PUBLISH_COMMITTED;
    CHECK(committed || round % 2);
    for (int i = 0; i < RACERS; i++) {
        const struct racer *r = &racers[i];
        CHECK_EQ(r->state, racers[0].state);
        CHECK(sha256_equal(&r->commit, &racers[0].commit));
        if (r->aborts)
            CHECK_EQ(r->st, committed ? CKPT_EXISTS : CKPT_OK);
        else
            CHECK_EQ(r->st, committed ? CKPT_OK : CKPT_ABORTED);
    }
}

static void run_race(struct store *s, const struct kit_layout *l, int round)
{
    struct kit_save how = { .name = { 1, (uint64_t)round + 1, (uint64_t)round + 1 } };
    pid_t pids[RACERS];
    kit_save_parts(s, l, &how);
    *go = 0;
    for (int i = 0; i < RACERS; i++) {
        racers[i] = (struct racer){ .aborts = round % 2 && i % 2 };
        pids[i] = fork();
        CHECK(pids[i] >= 0);
        if (pids[i] == 0) {
            race(&racers[i], &how);
            _exit(0);
        }
    }
    __atomic_store_n(go, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < RACERS; i++) {
        int status;
        CHECK(waitpid(pids[i], &status, 0) == pids[i] && WIFEXITED(status));
        CHECK_EQ(WEXITSTATUS(status), 0);
    }
    check_race(round);
}

static int test_race(struct store *s)
{
    struct kit_model m = { 0 };
    struct kit_layout l;
    kit_model_add(&m, "w", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 12, 8 });
    kit_layout_rows(&l, &m, WORLD);
    for (int round = 0; round < ROUNDS; round++)
        run_race(s, &l, round);
    kit_layout_fini(&l);
    return ROUNDS * RACERS;
}

/* Saved in one layout, restored in another. */
static int test_restore(struct store *s)
{
    enum { MODELS = 3 };
    unsigned long long rand = test_seed(20261121);
    struct kit_census census = { 0 };
    for (int i = 0; i < MODELS; i++) {
        struct kit_model m;
        struct kit_layout from, to;
        struct kit_save how = { .name = { 2, (uint64_t)i, (uint64_t)i } };
        struct record_commit commit;
        struct load_stats stats;
        kit_model_random(&m, &rand, &census);
        kit_layout_random(&from, &m, 3, &rand, &census);
        kit_layout_random(&to, &m, 2, &rand, &census);
        kit_save_parts(s, &from, &how);
        CHECK_OK(publish(s, KIT_JOB, &how.name, 3, &commit, NULL));
        CHECK_OK(kit_restore(&s, 1, &how.name, &to, &stats, NULL));
        kit_layout_fini(&from);
        kit_layout_fini(&to);
    }
    return MODELS;
}

int main(void)
{
    const char *endpoint = getenv("CKPT_TEST_S3"), *bucket = getenv("CKPT_TEST_BUCKET");
    if (!endpoint || !bucket)
        TEST_SKIP("CKPT_TEST_S3 and CKPT_TEST_BUCKET name no server; see with_rgw.py");
    snprintf(url, sizeof(url), "s3://%s/engine?endpoint=%s", bucket, endpoint);
    racers = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(racers != MAP_FAILED);
    go = (int *)(racers + RACERS);
    struct store *s = kit_store(url);
    struct record_repo repo;
    CHECK_OK(repo_open(s, true, &repo, NULL));
    int n = test_race(s) + test_restore(s);
    store_close(s);
    TEST_CASES(n);
    return 0;
}
