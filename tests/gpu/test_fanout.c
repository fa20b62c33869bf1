/* Restores that ranks share by NCCL (fanout.c, fanout_plan.c), end to end: the public API, a
 * ckptd for each rank as on nodes of their own, a CUDA runtime and an NCCL with real asynchrony
 * (fakes/fake_cudart.h, fake_nccl.h).
 *
 * Whatever happens to the fan-out, every byte of every rank is compared; where it works, what
 * the nodes read from the store is counted in their logs. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "e2e/kit.h"
#include "fakes/fake_cudart.h"
#include "fakes/fake_nccl.h"
#include "libckpt/nccl_api.h"

#define PARTS_MAX 10
#define NODES     3
#define TENSOR(n, t, d, how_, ...)                                                      \
    {                                                                                   \
        .name = (n), .dtype = (t), .ndim = (d), .how = (how_), .shape = { __VA_ARGS__ } \
    }

static struct kit nodes[NODES];
static uint64_t seed;

/* -- several nodes ---------------------------------------------------------------------- */

static void start_nodes(void)
{
    kit_begin("fanout");
    CHECK_EQ(kit_stop(), 0);
    snprintf(kit.store, sizeof(kit.store), "dir://%s/store?shared=1", kit.root);
    kit_start(); /* node 0 */
    nodes[0] = kit;
    for (int i = 1; i < NODES; i++) {
        nodes[i] = kit;
        snprintf(nodes[i].socket, sizeof(kit.socket), "%s/sock%d", kit.root, i);
        snprintf(nodes[i].log, sizeof(kit.log), "%s/log%d", kit.root, i);
        kit = nodes[i];
        kit_start();
        nodes[i] = kit;
        kit = nodes[0];
    }
}

static int stop_nodes(void)
{
    for (int i = 1; i < NODES; i++) {
        nodes[i].cases = kit.cases;
        struct kit mine = kit;
        kit = nodes[i];
        CHECK_EQ(kit_stop(), 0);
        kit = mine;
    }
    return kit_end();
}

/* Bytes that the nodes' restores have read from the store so far. */
static uint64_t read_bytes(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < NODES; i++) {
        FILE *f = fopen(nodes[i].log, "re");
        char line[4096];
        while (f && fgets(line, sizeof(line), f)) {
            const char *at = strstr(line, "restore begins") ? strstr(line, " bytes=") : NULL;
            sum += at ? strtoull(at + 7, NULL, 10) : 0;
        }
        if (f)
            fclose(f);
    }
    return sum;
}

/* -- ranks ---------------------------------------------------------------------------------- */

/* The callback's ways from rank 0 to the others: shared memory. */
struct hall {
    atomic_int said, there;
    unsigned char bytes[256];
};

struct scene {
    const struct kit_part *parts;
    size_t count;
    const int *where; /* per part: device, -1 = host; NULL = device 0 */
    bool own_comm;    /* the caller's communicator */
    enum fake_nccl_fault fault;
    uint32_t who; /* which rank it happens to */
    unsigned nth;
    const char *fails; /* or a function of NCCL that returns an error there */
    int result;
    void (*before)(struct kit_rank *r, struct ckpt_restore_opts *o); /* anything else */
    int timeout_ms;
    uint32_t flags;
    const char *why; /* part of what must be said of it; NULL = it went well */
    uint64_t step;   /* filled: what was saved */
    struct hall *hall;
};

struct trainer {
    struct kit_rank *r;
    const struct scene *scene;
    fake_stream stream;
    struct ckpt_buffer at[PARTS_MAX];
    bool on_device[PARTS_MAX];
};

static int tell(void *ctx, void *buf, size_t len)
{
    struct trainer *t = ctx;
    struct hall *h = t->scene->hall;
    CHECK(len <= sizeof(h->bytes));
    if (t->r->rank == 0) {
        memcpy(h->bytes, buf, len);
        atomic_store(&h->said, 1);
    }
    while (!atomic_load(&h->said))
        kit_pause(1);
    memcpy(buf, h->bytes, len);
    return 0;
}

static void begin(struct trainer *t, struct kit_rank *r)
{
    const struct scene *m = r->arg;
    *t = (struct trainer){ .r = r, .scene = m };
    memcpy(kit.socket, nodes[r->rank % NODES].socket, sizeof(kit.socket));
    fake_seed(seed + r->rank, 100);
    kit_open(r);
    kit_declare(r, m->parts, m->count);
    t->stream = fake_stream_new(0);
    for (size_t i = 0; i < r->count; i++) {
        int device = m->where ? m->where[i] : 0;
        t->at[i] = r->buffers[i];
        t->on_device[i] = device >= 0 && !r->parts[i].object && t->at[i].bytes;
        if (t->on_device[i])
            t->at[i].base = fake_malloc(device, t->at[i].bytes);
    }
}

static void finish(struct trainer *t)
{
    fake_sync(t->stream);
    for (size_t i = 0; i < t->r->count; i++)
        if (t->on_device[i])
            fake_free(t->at[i].base);
    KIT_OK(ckpt_progress(t->r->c, CKPT_FINISHED));
    kit_close(t->r);
}

static void save(struct kit_rank *r)
{
    struct trainer t;
    uint64_t op;
    begin(&t, r);
    uint64_t step = r->point.size ? r->point.step + 1 : 1;
    kit_fill(r, step);
    for (size_t i = 0; i < r->count; i++)
        if (t.on_device[i])
            memcpy(fake_look(t.at[i].base), r->buffers[i].base, t.at[i].bytes);
        else
            t.at[i].bytes = r->buffers[i].bytes;
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step };
    KIT_OK(ckpt_save(r->s, &o, t.at, r->count, t.stream, &op));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 50000));
    finish(&t);
}

static void check_bytes(struct trainer *t)
{
    struct kit_rank *r = t->r;
    fake_sync(t->stream);
    for (size_t i = 0; i < r->count; i++)
        if (t->on_device[i])
            memcpy(r->buffers[i].base, fake_look(t->at[i].base), t->at[i].bytes);
        else
            r->buffers[i].bytes = t->at[i].bytes;
    kit_check(r, r->point.step);
}

/* Also the last of its stream before the restore: what is there then must not remain. */
static void scribble(void *arg)
{
    struct trainer *t = arg;
    for (size_t i = 0; i < t->r->count; i++)
        if (t->on_device[i])
            memset(fake_look(t->at[i].base), 0x77, t->at[i].bytes);
}

extern nccl_result ncclCommInitRankConfig(nccl_comm *ret, int count, struct nccl_id id, int rank,
                                          struct nccl_config *config);
extern nccl_result ncclCommGetAsyncError(nccl_comm c, nccl_result *ret);
extern nccl_result ncclGetUniqueId(struct nccl_id *ret);

static nccl_comm make_comm(struct trainer *t)
{
    struct nccl_config config = { sizeof(config), NCCL_CONFIG_MAGIC, NCCL_OLDEST, 0 };
    struct nccl_id id;
    nccl_comm c;
    nccl_result r = NCCL_IN_PROGRESS;
    if (t->r->rank == 0)
        CHECK_EQ(ncclGetUniqueId(&id), 0);
    tell(t, &id, sizeof(id));
    CHECK_EQ(ncclCommInitRankConfig(&c, (int)t->r->world, id, (int)t->r->rank, &config),
             NCCL_IN_PROGRESS);
    while (r == NCCL_IN_PROGRESS)
        CHECK_EQ(ncclCommGetAsyncError(c, &r), 0);
    CHECK_EQ(r, NCCL_SUCCESS);
    return c;
}

static void expect(const struct trainer *t, const struct ckpt_fanout *f)
{
    const struct scene *m = t->scene;
    struct ckpt_info info = { .size = sizeof(info) };
    KIT_OK(ckpt_info(t->r->c, &info));
    bool well = info.fanout[0] == 0;
    if (well != (m->why == NULL) || (m->why && !strstr(info.fanout, m->why))) {
        fprintf(stderr, "rank %u: \"%s\" is said of the fan-out, not \"%s\"\n", t->r->rank,
                info.fanout, m->why ? m->why : "");
        exit(1);
    }
    CHECK(well == (info.restored_from_ranks > 0));
    CHECK_EQ(fake_nccl_alive(), m->own_comm && !f->comm_lost);
    atomic_fetch_add(&t->r->board->value[0], info.restored_bytes - info.restored_from_ranks);
    atomic_fetch_add(&t->r->board->value[1], info.restored_bytes);
}

static void restore(struct kit_rank *r)
{
    const struct scene *m = r->arg;
    struct trainer t;
    begin(&t, r);
    CHECK(r->point.size);
    struct ckpt_fanout f = { .size = sizeof(f),
                             .rank = r->rank,
                             .count = r->world,
                             .broadcast = tell,
                             .broadcast_ctx = &t,
                             .timeout_ms = m->timeout_ms };
    struct ckpt_restore_opts o = { .size = sizeof(o), .fanout = &f, .flags = m->flags };
    if (m->own_comm)
        f.comm = make_comm(&t);
    kit_scribble(r);
    if (m->fault && m->who == r->rank)
        fake_nccl_fault(m->fault, m->nth);
    if (m->fails && m->who == r->rank)
        fake_nccl_fail(m->fails, m->nth, m->result);
    if (m->before)
        m->before(r, &o);
    fake_launch(t.stream, scribble, &t);
    KIT_OK(ckpt_restore(r->s, NULL, t.at, r->count, t.stream, &o));
    check_bytes(&t);
    if (o.fanout)
        expect(&t, &f);
    finish(&t);
}

/* -- scenes ------------------------------------------------------------------------------------ */

static const struct kit_part plain[] = {
    TENSOR("emb", CKPT_F32, 2, KIT_SAME, 5000, 1500), /* 30 MB: units of 32 MiB, tiles of 4 */
    TENSOR("w", CKPT_BF16, 2, KIT_SAME, 700, 300),
    TENSOR("b", CKPT_F32, 1, KIT_SAME, 300),
    TENSOR("h", CKPT_F64, 3, KIT_SAME, 3, 200, 50),
    TENSOR("s", CKPT_F32, 0, KIT_FIRST, 0),
    { .name = "cfg", .object = true, .shape = { 500, 300 } },
};
#define PLAIN_BYTES (5000 * 1500 * 4 + 700 * 300 * 2 + 300 * 4 + 3 * 200 * 50 * 8)

static void play(const char *job, uint32_t world, kit_body body, struct scene *m, uint32_t killed)
{
    struct kit_crowd w;
    m->hall =
        mmap(NULL, sizeof(*m->hall), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(m->hall != MAP_FAILED);
    if (m->timeout_ms == 0)
        m->timeout_ms = 40000;
    kit_ranks(&w, job, world, body, m);
    kit_wait(&w, killed);
    munmap(m->hall, sizeof(*m->hall));
    kit.cases++;
}

static struct scene plain_scene(void)
{
    return (struct scene){ .parts = plain, .count = ARRAY_COUNT(plain) };
}

/* Each byte once between them; without it, once each. */
static void test_plain(void)
{
    struct scene m = plain_scene();
    play("plain", NODES, save, &m, 0);
    uint64_t before = read_bytes();
    play("plain", NODES, restore, &m, 0);
    uint64_t shared = read_bytes() - before;
    CHECK(shared >= PLAIN_BYTES && shared < PLAIN_BYTES + NODES * 20000);
    m.own_comm = true;
    before = read_bytes();
    play("plain", NODES, restore, &m, 0);
    CHECK_EQ(read_bytes() - before, shared);
    m.why = "converts";
    m.flags = CKPT_RESTORE_CONVERT;
    m.own_comm = false;
    before = read_bytes();
    play("plain", NODES, restore, &m, 0);
    CHECK(read_bytes() - before >= (uint64_t)NODES * PLAIN_BYTES);
}

int main(void)
{
    seed = test_seed(20261122);
    setenv("CKPT_CUDART", FAKE_CUDART, 1);
    setenv("CKPT_NCCL", FAKE_NCCL, 1);
    start_nodes();
    test_plain();
    return stop_nodes();
}
