/* What it costs to find and to list checkpoints of a job that has ten thousand, in requests
 * that the server counted. */
#include <inttypes.h>
#include <stdio.h>

#include "formats/base.h"
#include "s3/fault_kit.h"
#include "storage/repo/catalog.h"
#include "unit/history_fixture.h"

#define CHECKPOINTS 10000
#define DELETED     3 /* of the newest */

static struct fault_server server;

static struct store *open_server(void)
{
    char url[200];
    struct store *s;
    snprintf(url, sizeof(url), "s3://bucket/x?endpoint=http://%s", server.s3);
    CHECK_OK(store_open(url, NULL, &s, NULL));
    return s;
}

/* Names and sizes are what lists show; the records themselves are zeros. */
static void fill(const char *folder, uint64_t steps, size_t size)
{
    size_t cap = steps * 96 + 256, len;
    char *json = malloc(cap);
    CHECK(json);
    len = (size_t)snprintf(json, cap, "{\"bucket\":\"bucket\",\"size\":%zu,\"keys\":[", size);
    for (uint64_t step = 1; step <= steps; step++) {
        struct ckpt_name name = fx_name(1, step);
        char text[NAME_TEXT];
        name_to_text(&name, text);
        len += (size_t)snprintf(json + len, cap - len, "%s\"x/" FX_JOB "/%s/%s\"",
                                step > 1 ? "," : "", folder, text);
    }
    snprintf(json + len, cap - len, "]}");
    fault_server_tell(&server, "/objects", json);
    free(json);
}

/* Runs `what` and says how many requests it took. */
static long long requests_of(void (*what)(struct store *s), struct store *s)
{
    long long before = fault_server_count(&server, "methods");
    what(s);
    return fault_server_count(&server, "methods") - before;
}

static void find_newest(struct store *s)
{
    struct catalog_spec spec = { .job = FX_JOB };
    struct ckpt_name name;
    CHECK_OK(catalog_find(s, &spec, &name, NULL));
    CHECK(name.epoch == 1 && name.step == CHECKPOINTS + 1);
}

static void list_newest(struct store *s)
{
    const struct catalog_wish wish = { .flags = CATALOG_SIZES | CATALOG_TAGS, .newest = 1 };
    struct catalog c;
    CHECK_OK(catalog_read_some(s, FX_JOB, &wish, &c, NULL));
    CHECK_EQ(c.count, 1);
    CHECK(c.entries[0].name.step == CHECKPOINTS + 1 && c.entries[0].commit.world == FX_WORLD);
    catalog_fini(&c);
}

static void find_below_deleted(struct store *s)
{
    struct catalog_spec spec = { .job = FX_JOB };
    struct ckpt_name name;
    CHECK_OK(catalog_find(s, &spec, &name, NULL));
    CHECK(name.epoch == 1 && name.step == CHECKPOINTS + 1 - DELETED);
}

/* Six checkpoints, each with all that is shown of it. */
static void list_few(struct store *s)
{
    struct catalog c;
    CHECK_OK(catalog_read(s, FX_JOB, CATALOG_SIZES | CATALOG_TAGS, &c, NULL));
    CHECK_EQ(c.count, 6);
    catalog_fini(&c);
}

static int test_few(void)
{
    struct store *s = open_server();
    fx_resolve(s, "one");
    for (uint64_t step = 1; step <= 6; step++)
        fx_commit(s, 1, step);
    /* l/ c/ h/ x/ t/ are listed, one `resolved`; c/ and h/ of each are read. */
    long long list = requests_of(list_few, s);
    printf("listing 6 checkpoints: %lld requests\n", list);
    CHECK(list <= 6 + 2 * 6);
    store_close(s);
    fault_server_tell(&server, "/reset", "null");
    return 1;
}

static int test_ten_thousand(void)
{
    struct store *s = open_server();
    fx_resolve(s, "one");
    fill("c", CHECKPOINTS, RECORD_ABORT_MAX + 44);
    fill("h", CHECKPOINTS, 100);
    fx_commit(s, 1, CHECKPOINTS + 1);
    long long find = requests_of(find_newest, s);
    /* Pages of 1,000 names. */
    long long list = requests_of(list_newest, s), pages = 2 * (CHECKPOINTS / 1000 + 6);
    printf("newest of %d: %lld requests; listing it: %lld\n", CHECKPOINTS, find, list);
    CHECK(find <= 3);
    CHECK(list <= pages + 6);
    for (uint64_t step = CHECKPOINTS + 2 - DELETED; step <= CHECKPOINTS + 1; step++) {
        struct ckpt_name name = fx_name(1, step);
        fx_life(s, &name, 1, LIFE_DELETED, 1);
    }
    find = requests_of(find_below_deleted, s);
    printf("below %d deleted ones: %lld requests\n", DELETED, find);
    CHECK(find <= pages + 12);
    store_close(s);
    return 3;
}

int main(void)
{
    setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", 1);
    unsetenv("AWS_SESSION_TOKEN");
    fault_server_start(&server, NULL);
    int n = test_few() + test_ten_thousand();
    fault_server_stop(&server);
    TEST_CASES(n);
    return 0;
}
