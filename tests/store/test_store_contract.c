/* The contract suite over every backend and every wrapper over every backend.
 * (It covers store_mem.c too.) */
#include "storage/store/file_io.h"
#include "storage/store/wrap.h"
#include "storage/store/wrap_throttle.h"
#include "store/contract.h"
#include "store/scratch.h"

#include "check.h"

enum { WRAP_NONE, WRAP_COUNT, WRAP_FAULT, WRAP_VERIFY, WRAP_THROTTLE, WRAPS };
static const char *const wrap_names[] = { "", "count over ", "fault over ", "verify over ",
                                          "throttle over " };
static struct store_counts counts;
static struct wrap_fault_plan no_faults;
static struct store_throttle fast = { .bytes_per_s = UINT64_C(1) << 40 };

static enum ckpt_status open_any(const struct contract *c, bool readonly, struct store **ret,
                                 struct ckpt_err *err)
{
    struct store_options options = { .io = c->io, .create = true, .readonly = readonly };
    struct store *s;
    enum ckpt_status st = store_open(c->url, &options, &s, err);
    if (st != CKPT_OK)
        return st;
    *ret = s;
    if (c->wrapper == WRAP_COUNT)
        return wrap_count(s, &counts, ret, err);
    if (c->wrapper == WRAP_FAULT)
        return wrap_fault(s, &no_faults, ret, err);
    if (c->wrapper == WRAP_THROTTLE)
        return wrap_throttle(s, &fast, ret, err);
    return c->wrapper == WRAP_VERIFY ? wrap_verify(s, ret, err) : CKPT_OK;
}

static int run_all(const char *base, const char *io)
{
    int cases = 0;
    for (int wrapper = 0; wrapper < WRAPS; wrapper++) {
        char url[300], name[300];
        bool mem = strncmp(base, "mem:", 4) == 0;
        snprintf(url, sizeof(url), "%s-%s-%d%s", base, io, wrapper,
                 !mem && wrapper == WRAP_COUNT ? "?shared=1" : "");
        snprintf(name, sizeof(name), "%s%s io=%s", wrap_names[wrapper], mem ? "mem" : "dir", io);
        struct contract c = { .name = name,
                              .open = open_any,
                              .url = url,
                              .io = io,
                              .wrapper = wrapper,
                              .processes = !mem };
        cases += contract_run(&c);
    }
    return cases;
}

static bool uring_works(void)
{
    struct file_io *io;
    struct ckpt_err err = { 0 };
    if (file_io_uring_new(&io, &err) == CKPT_OK) {
        file_io_free(io);
        return true;
    }
    printf("SKIP: dir io=uring: %s\n", err_text(&err));
    return false;
}

int main(void)
{
    char root[200], base[256];
    scratch_make(root);
    snprintf(base, sizeof(base), "dir://%s/store", root);
    int cases = run_all("mem://contract", "auto") + run_all(base, "threads");
    if (uring_works())
        cases += run_all(base, "uring");
    CHECK(counts.puts > 0 && counts.gets > 0 && counts.errors > 0);
    CHECK_EQ(no_faults.hits, 0);
    scratch_remove(root);
    TEST_CASES(cases);
    return 0;
}
