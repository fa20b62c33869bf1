/* The law: restore ∘ save = identity, for any model and any two layouts of it. */
#include "props/engine_kit.h"

struct totals {
    uint64_t pairs, batches_read, coded;
    struct kit_census census;
};

static void one_pair(unsigned long long *rand, uint64_t number, struct totals *t)
{
    char url[512];
    const char *root = getenv("TEST_STORE"); /* an empty directory, else memory */
    snprintf(url, sizeof(url), "%s%llu", root ? root : "mem://reshard", (unsigned long long)number);
    const struct store_options options = { .create = true };
    struct store *s;
    CHECK_OK(store_open(url, &options, &s, NULL));
    struct kit_model m;
    struct kit_layout from, to;
    kit_model_random(&m, rand, &t->census);
    kit_layout_random(&from, &m, 1 + (uint32_t)(test_rand(rand) % 6), rand, &t->census);
    kit_layout_random(&to, &m, 1 + (uint32_t)(test_rand(rand) % 6), rand, &t->census);
    struct kit_save how = { .name = { 1, number, number } };
    if (test_rand(rand) % 3 == 0) {
        how.codec = (struct save_codec){ CODEC_ZSTD, 1 };
        t->coded++;
    }
    kit_save_parts(s, &from, &how);
    struct ckpt_err err = { 0 };
    struct record_commit commit;
    struct load_stats stats = { 0 };
    enum ckpt_status st = publish(s, KIT_JOB, &how.name, from.world, &commit, &err);
    if (st == CKPT_OK)
        st = kit_restore(&s, 1, &how.name, &to, &stats, &err);
    if (st != CKPT_OK) {
        fprintf(stderr, "pair %llu: %s: %s\n", (unsigned long long)number, status_name(st),
                err_text(&err));
        exit(1);
    }
    CHECK_EQ(stats.retries, 0);
    t->pairs++;
    kit_layout_fini(&from);
    kit_layout_fini(&to);
    store_close(s);
}

int main(void)
{
    unsigned long long rand = test_seed(20261);
    const char *n = getenv("TEST_PAIRS");
    uint64_t pairs = n ? strtoull(n, NULL, 0) : 400;
    struct totals t = { 0 };
    for (uint64_t i = 0; i < pairs; i++)
        one_pair(&rand, i, &t);
    const struct kit_census *c = &t.census;
    printf("layouts: whole %llu grid %llu flat %llu replicated %llu mesh %llu scattered %llu\n",
           (unsigned long long)c->whole, (unsigned long long)c->grid, (unsigned long long)c->flat,
           (unsigned long long)c->replicated, (unsigned long long)c->mesh,
           (unsigned long long)c->scattered);
    printf("tensors: large %llu scalar %llu empty %llu subbyte %llu blocked %llu locked %llu "
           "object %llu alias %llu; coded saves %llu\n",
           (unsigned long long)c->large, (unsigned long long)c->scalar,
           (unsigned long long)c->empty, (unsigned long long)c->subbyte,
           (unsigned long long)c->blocked, (unsigned long long)c->locked,
           (unsigned long long)c->object, (unsigned long long)c->alias,
           (unsigned long long)t.coded);
    CHECK(c->whole && c->grid && c->flat && c->replicated && c->mesh && c->scattered);
    CHECK(c->large && c->scalar && c->empty && c->subbyte && c->blocked && c->locked);
    CHECK(c->object && c->alias && t.coded);
    TEST_CASES(t.pairs);
    return 0;
}
