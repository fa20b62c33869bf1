/* Restores that ranks share by NCCL (fanout.c, fanout_plan.c), end to end: the public API, a
 * ckptd for each rank as on nodes of their own, a CUDA runtime and an NCCL with real asynchrony
 * (fakes/fake_cudart.h, fake_nccl.h).  Communicators that do not end
 * (nccl_end.c), in threads of the library (own_thread.c), too.
 *
 * Whatever happens to the fan-out, every byte of every rank is compared; where it works, what
 * the nodes read from the store is counted in their logs. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "e2e/kit.h"
#include "fakes/fake_cudart.h"
#include "fakes/fake_nccl.h"
#include "libckpt/nccl_api.h"

#define PARTS_MAX 10
#define NODES     3
#define ROWS      (TEST_TENTH > 1 ? 2500 : 5000)
#define TENSOR(n, t, d, how_, ...)                                                      \
    {                                                                                   \
        .name = (n), .dtype = (t), .ndim = (d), .how = (how_), .shape = { __VA_ARGS__ } \
    }

static const struct kit_part plain[] = {
    TENSOR("emb", CKPT_F32, 2, KIT_SAME, ROWS, 1500), /* 30 MB: units of 32 MiB, tiles of 4 */
    TENSOR("w", CKPT_BF16, 2, KIT_SAME, 700, 300),
    TENSOR("b", CKPT_F32, 1, KIT_SAME, 300),
    TENSOR("h", CKPT_F64, 3, KIT_SAME, 3, 200, 50),
    TENSOR("s", CKPT_F32, 0, KIT_FIRST, 0),
    { .name = "cfg", .object = true, .shape = { 500, 300 } },
    TENSOR("c", CKPT_F32, 1, KIT_SAME, 300),
};
#define PLAIN_B     2
#define PLAIN_C     6 /* of b's shape */
#define PLAIN_BYTES (ROWS * 1500 * 4 + 700 * 300 * 2 + 2 * 300 * 4 + 3 * 200 * 50 * 8)

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

extern int cudaFree(void *p), cudaSetDevice(int device);

/* The callback's ways from rank 0 to the others: shared memory. */
struct hall {
    atomic_int said, there, again;
    unsigned char bytes[256];
};

/* What a rank asks for although it cannot be. */
enum cannot { CAN, BUFFERS, PATTERNS, UNSEALED, NO_STATE };

/* One restore, and what happens in it. */
struct scene {
    const char *name;
    const int *where, *where_else; /* per part: device, -1 = host; where_else: of rank `who` */
    bool own_comm;                 /* the caller's communicator */
    uint32_t who;                  /* which rank it happens to */
    enum fake_nccl_fault fault;
    const char *fails; /* or a function of NCCL that returns `result` */
    const char *holds; /* one that does not come back, on all ranks, while the scene lasts */
    bool forever;      /* and not then either */
    unsigned nth;
    int result;
    const char *breaks; /* or one of CUDA, for good if it is sticky */
    bool sticky;
    bool device_fails; /* so much that the restore of that rank may fail, with words of it */
    enum cannot cannot;
    bool keeps;      /* the caller's communicator stays what it was */
    bool captured;   /* somebody captures a stream */
    bool elsewhere;  /* all is on device 1 and its default stream, device 0 is current */
    bool stays_away; /* that rank restores by itself */
    bool no_nccl;    /* it has none */
    bool blocks;     /* its environment makes every communicator block */
    int timeout_ms;
    uint32_t flags;
    const char *except;
    bool exchanges;          /* that rank takes b for c and c for b */
    const char *why;         /* part of what must be said of it; NULL = it went well */
    const char *words;       /* it ends with CKPT_CORRUPT and these words */
    bool anything_is_said;   /* `why`, or nothing */
    bool once;               /* the nodes read each byte once between them */
    bool slow;               /* copies take long */
    int in_front_ms;         /* as does what is on the stream before the restore */
    uint32_t other_pointers; /* a bit for each rank whose devices have host memory elsewhere */
};
/* A launch of them. */
struct play {
    const struct kit_part *parts;
    size_t count;
    const struct scene *scenes;
    size_t scene_count;
    struct hall *halls; /* per scene, and one */
};

struct trainer {
    struct kit_rank *r;
    const struct play *play;
    const struct scene *scene;
    fake_stream stream;
    struct ckpt_buffer at[PARTS_MAX];
    bool on_device[PARTS_MAX];
    struct hall *hall;
    int told;            /* calls of the callback */
    unsigned votes, ran; /* of the fake, before the restore */
};

static int tell(void *ctx, void *buf, size_t len)
{
    struct trainer *t = ctx;
    struct hall *h = t->hall;
    CHECK(len <= sizeof(h->bytes) && t->told++ == 0);
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
    const struct play *m = r->arg;
    *t = (struct trainer){ .r = r, .play = m };
    if (m->scene_count > 0) /* saved on one node */
        memcpy(kit.socket, nodes[r->rank % NODES].socket, sizeof(kit.socket));
    kit_open(r);
    kit_declare(r, m->parts, m->count);
    t->stream = fake_stream_new(0);
}

static void place(struct trainer *t, const int *where)
{
    struct kit_rank *r = t->r;
    for (size_t i = 0; i < r->count; i++) {
        int device = where ? where[i] : 0;
        t->at[i] = r->buffers[i];
        t->on_device[i] = device >= 0 && !r->parts[i].object && t->at[i].bytes;
        if (t->on_device[i])
            t->at[i].base = fake_malloc(device, t->at[i].bytes);
    }
}

static void unplace(struct trainer *t)
{
    fake_sync(t->stream);
    for (size_t i = 0; i < t->r->count; i++)
        if (t->on_device[i])
            CHECK_EQ(cudaFree(t->at[i].base), 0); /* when nothing works there any more */
}

static void save(struct kit_rank *r)
{
    struct trainer t;
    uint64_t op;
    begin(&t, r);
    uint64_t step = r->point.size ? r->point.step + 1 : 1;
    kit_fill(r, step);
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step };
    KIT_OK(ckpt_save(r->s, &o, r->buffers, r->count, NULL, &op));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 50000));
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    kit_close(r);
}

/* By a name, or a star and how names end. */
static bool left_out(const char *except, const char *name)
{
    size_t len = strlen(name), end = except ? strlen(except) - 1 : 0;
    if (except && except[0] == '*')
        return len >= end && strcmp(name + len - end, except + 1) == 0;
    return except && strcmp(except, name) == 0;
}

/* What is left out stays as it was. */
static void check_bytes(struct trainer *t)
{
    struct kit_rank *r = t->r;
    struct kit_part parts[PARTS_MAX]; /* under their names in the checkpoint */
    memcpy(parts, r->parts, r->count * sizeof(*parts));
    if (t->scene->exchanges && t->scene->who == r->rank) {
        parts[PLAIN_B].name = plain[PLAIN_C].name;
        parts[PLAIN_C].name = plain[PLAIN_B].name;
    }
    const struct kit_part *declared = r->parts;
    r->parts = parts;
    CHECK_EQ(cudaFree(NULL), 0); /* on no stream anything is left that writes late */
    for (size_t i = 0; i < r->count; i++) {
        if (t->on_device[i])
            memcpy(r->buffers[i].base, fake_look(t->at[i].base), t->at[i].bytes);
        else
            r->buffers[i].bytes = t->at[i].bytes;
        bool out = left_out(t->scene->except, r->parts[i].name);
        if (out)
            CHECK_EQ(*(uint8_t *)r->buffers[i].base, 0x77);
        else if (!kit_part_is(r, i, r->point.step)) {
            fprintf(stderr, "rank %u, scene %s: \"%s\" is wrong\n", r->rank, t->scene->name,
                    r->parts[i].name);
            exit(1);
        }
    }
    r->parts = declared;
}

/* The first vote, and all of the fan-out, waits for this stream. */
static void stay_in_front(const struct trainer *t)
{
    kit_pause(t->scene->in_front_ms);
    CHECK_EQ(fake_nccl_calls("AllReduce"), t->votes);
    CHECK_EQ(fake_nccl_ran(), t->ran);
}

/* The last of its stream before the restore: what is there then must not remain. */
static void scribble(void *arg)
{
    struct trainer *t = arg;
    if (t->scene->in_front_ms)
        stay_in_front(t);
    for (size_t i = 0; i < t->r->count; i++)
        if (t->on_device[i])
            memset(fake_look(t->at[i].base), 0x77, t->at[i].bytes);
}

extern nccl_result ncclCommInitRankConfig(nccl_comm *ret, int count, struct nccl_id id, int rank,
                                          struct nccl_config *config);
extern nccl_result ncclCommAbort(nccl_comm c);
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

static void expect(const struct trainer *t)
{
    const struct scene *m = t->scene;
    struct ckpt_info info = { .size = sizeof(info) };
    KIT_OK(ckpt_info(t->r->c, &info));
    bool well = info.fanout[0] == 0;
    bool fine = well ? !m->why || m->anything_is_said : m->why && strstr(info.fanout, m->why);
    if (!fine) {
        fprintf(stderr, "rank %u, scene %s: \"%s\" is said, not \"%s\"\n", t->r->rank, m->name,
                info.fanout, m->why ? m->why : "");
        exit(1);
    }
    if (!well || !m->anything_is_said) /* else this rank may own all there is to share */
        CHECK(well == (info.restored_from_ranks > 0));
    CHECK(m->words || info.restored_bytes >= info.restored_from_ranks);
}

/* Ours are gone; a caller's is as it was, or he hears that it is not, and who is to abort it. */
static void expect_comm(const struct trainer *t, const struct ckpt_fanout *f)
{
    const struct scene *m = t->scene;
    bool beyond = m->who == t->r->rank && (m->no_nccl || m->cannot == NO_STATE);
    CHECK(f->comm_lost == CKPT_COMM_KEPT || (m->own_comm && !m->keeps));
    CHECK_EQ(f->comm_lost == CKPT_COMM_LOST, m->own_comm && beyond);
}

/* As a caller does, who goes by what he is told alone. */
static void end_comm(const struct ckpt_fanout *f)
{
    if (f->comm && f->comm_lost != CKPT_COMM_ABORTED)
        CHECK_EQ(ncclCommAbort(f->comm), 0);
    while (fake_nccl_alive() > 0) /* or the alarm */
        kit_pause(1);
}

/* The others do not wait for it in the callback. */
static void cannot(struct trainer *t, const struct ckpt_restore_opts *o)
{
    struct ckpt_state *s = NULL;
    struct ckpt_restore_opts bad = *o;
    if (t->scene->cannot == BUFFERS) {
        KIT_FAILS(ckpt_restore(t->r->s, NULL, t->at, t->r->count - 1, t->stream, o), CKPT_INVALID,
                  "6 buffers for 7");
    } else if (t->scene->cannot == PATTERNS) {
        bad.only_count = 3;
        KIT_FAILS(ckpt_restore(t->r->s, NULL, t->at, t->r->count, t->stream, &bad), CKPT_INVALID,
                  "3 patterns at NULL");
    } else if (t->scene->cannot == UNSEALED) {
        KIT_OK(ckpt_state_new(t->r->c, &s));
        KIT_FAILS(ckpt_restore(s, NULL, NULL, 0, NULL, o), CKPT_WRONG_STATE, "not sealed");
        ckpt_state_free(s);
    } else {
        KIT_FAILS(ckpt_restore(NULL, NULL, NULL, 0, NULL, o), CKPT_INVALID, "state is NULL");
    }
    CHECK_EQ(t->told, 1);
}

/* Whatever became of a device. */
static void host_memory_goes_on(const struct kit_rank *r)
{
    struct kit_rank h = *r;
    h.memory = NULL;
    h.buffers = NULL;
    h.count = 0;
    h.s = NULL;
    kit_declare(&h, plain, ARRAY_COUNT(plain));
    kit_restore(&h);
    kit_forget(&h);
}

static bool on_devices(const struct trainer *t)
{
    bool any = false;
    for (size_t i = 0; i < t->r->count; i++)
        any |= t->on_device[i];
    return any;
}

static void one_restore(struct trainer *t, struct ckpt_restore_opts *o)
{
    const struct scene *m = t->scene;
    struct kit_rank *r = t->r;
    t->votes = fake_nccl_calls("AllReduce");
    t->ran = fake_nccl_ran();
    fake_launch(t->stream, scribble, t);
    if (m->elsewhere)
        CHECK_EQ(cudaSetDevice(0), 0);
    enum ckpt_status st =
        ckpt_restore(r->s, NULL, t->at, r->count, on_devices(t) ? t->stream : NULL, o);
    if (m->elsewhere)
        CHECK_EQ(cudaSetDevice(1), 0);
    if (m->device_fails && m->who == r->rank && st != CKPT_OK) {
        CHECK_EQ(st, CKPT_DEVICE);
        CHECK(strstr(ckpt_error(), "cudaError") || strstr(ckpt_error(), "CUDA ") ||
              strstr(ckpt_error(), "the device does not end a broadcast"));
        return;
    }
    if (m->words) {
        CHECK_EQ(st, CKPT_CORRUPT);
        CHECK(strstr(ckpt_error(), m->words));
    } else {
        KIT_OK(st);
        check_bytes(t);
    }
    if (o->fanout)
        expect(t);
}

/* What goes wrong in this scene, or no more. */
static void arrange(const struct scene *m, bool now)
{
    fake_nccl_fault(now ? m->fault : FAKE_NCCL_NONE, m->nth);
    if (m->fails)
        fake_nccl_fail(m->fails, now ? m->nth : 0, m->result);
    if (m->breaks)
        fake_fail(m->breaks, now ? m->nth : 0, m->result, m->sticky);
}

static void act(struct trainer *t, const struct scene *m, struct hall *hall)
{
    struct kit_rank *r = t->r;
    bool me = m->who == r->rank;
    fake_stream own = t->stream, aside = fake_stream_new(0);
    if (m->elsewhere)
        CHECK_EQ(cudaSetDevice(1), 0);
    t->stream = m->elsewhere ? NULL : own;
    t->scene = m;
    t->hall = hall;
    t->told = 0;
    fake_seed(seed + r->rank, m->slow ? 40000 : 100);
    place(t, me && m->where_else ? m->where_else : m->where);
    struct ckpt_fanout f = { .size = sizeof(f),
                             .rank = r->rank,
                             .count = r->world,
                             .broadcast = tell,
                             .broadcast_ctx = t,
                             .timeout_ms = m->timeout_ms ? m->timeout_ms : 40000 };
    struct ckpt_restore_opts o = { .size = sizeof(o),
                                   .fanout = &f,
                                   .flags = m->flags,
                                   .except = &m->except,
                                   .except_count = m->except != NULL };
    static const struct ckpt_rename exchange[] = { { "b", "c" }, { "c", "b" } };
    if (m->exchanges && me) {
        o.renames = exchange;
        o.rename_count = ARRAY_COUNT(exchange);
    }
    f.comm = m->own_comm ? make_comm(t) : NULL;
    kit_scribble(r);
    if (me)
        arrange(m, true);
    if (m->holds)
        fake_nccl_hold(m->holds, true);
    setenv("NCCL_COMM_BLOCKING", m->blocks && me ? "1" : "0", 1);
    setenv("CKPT_NCCL", m->no_nccl && me ? "/nowhere/libnccl.so" : FAKE_NCCL, 1);
    if (m->stays_away && me)
        o.fanout = NULL;
    if (m->captured)
        fake_capture_begin(aside, true);
    if (m->cannot && me)
        cannot(t, &o);
    else
        one_restore(t, &o);
    CHECK(!m->captured || fake_capture_end(aside));
    if (me && m->fault == FAKE_NCCL_DIE)
        kit_kill(getpid(), SIGKILL); /* it was given up before it came to that */
    arrange(m, false);               /* what did not come to pass */
    expect_comm(t, &f);
    if (m->device_fails)
        host_memory_goes_on(r);
    end_comm(&f);
    if (m->holds && !m->forever)
        fake_nccl_hold(m->holds, false);
    unplace(t);
    if (m->elsewhere)
        CHECK_EQ(cudaSetDevice(0), 0);
    t->stream = own;
    fake_stream_free(aside);
}

static void meet(const struct kit_rank *r, atomic_int *there)
{
    atomic_fetch_add(there, 1);
    while (atomic_load(there) < (int)r->world)
        kit_pause(1);
}

/* All ranks, between scenes: what the nodes have read for the one before is looked at. */
static void between(const struct kit_rank *r, const struct play *m, size_t i, uint64_t *before)
{
    alarm(60); /* for each */
    meet(r, &m->halls[i].there);
    if (r->rank == 0) {
        uint64_t now = read_bytes(), bytes = now - *before;
        if (i > 0 && m->scenes[i - 1].once)
            CHECK(bytes >= PLAIN_BYTES && bytes < PLAIN_BYTES + NODES * 20000);
        *before = now;
    }
    meet(r, &m->halls[i].again);
}

/* Options that make no sense. */
static void refused(const struct kit_rank *r)
{
    struct ckpt_fanout f[] = {
        { .size = 3, .broadcast = tell, .count = 2 },
        { .size = sizeof(f[0]), .count = 2 },
        { .size = sizeof(f[0]), .broadcast = tell, .rank = 2, .count = 2 },
        { .size = sizeof(f[0]), .broadcast = tell, .count = 0 },
        { .size = sizeof(f[0]), .broadcast = tell, .count = UINT32_MAX },
        { .size = sizeof(f[0]), .broadcast = tell, .count = 2, .timeout_ms = -1 }
    };
    struct ckpt_restore_opts o = { .size = sizeof(o) };
    for (size_t i = 0; i < ARRAY_COUNT(f); i++) {
        o.fanout = &f[i];
        KIT_FAILS(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, &o), CKPT_INVALID,
                  "ckpt_fanout");
    }
}

static void restore(struct kit_rank *r)
{
    const struct play *m = r->arg;
    struct trainer t;
    uint64_t bytes = 0;
    begin(&t, r);
    CHECK(r->point.size);
    if (m->scenes[0].other_pointers >> r->rank & 1)
        fake_other_pointers(); /* before a queue is made */
    refused(r);
    for (size_t i = 0; i < m->scene_count; i++) {
        between(r, m, i, &bytes);
        act(&t, &m->scenes[i], &m->halls[i]);
    }
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    kit_close(r);
    if (m->scenes[0].device_fails)
        _exit(0); /* what a lost device has is never freed */
}

/* A job's first start: there is nothing to restore, and nothing is wrong. */
static void start_first(struct kit_rank *r)
{
    const struct play *m = r->arg;
    struct trainer t;
    begin(&t, r);
    CHECK(!r->point.size);
    for (size_t i = 0; i < m->scene_count; i++) {
        t.scene = &m->scenes[i];
        t.hall = &m->halls[i];
        t.told = 0;
        struct ckpt_fanout f = { .size = sizeof(f), .rank = r->rank, .count = r->world };
        struct ckpt_restore_opts o = { .size = sizeof(o), .fanout = &f };
        f.broadcast = tell;
        f.broadcast_ctx = &t;
        f.comm = t.scene->own_comm ? make_comm(&t) : NULL;
        KIT_FAILS(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, &o), CKPT_NOT_FOUND,
                  "no checkpoint");
        expect_comm(&t, &f);
        end_comm(&f);
    }
    kit_close(r);
}

/* -- scenes ------------------------------------------------------------------------------------ */

#define SOON 300 /* a time limit that will pass, here and there too soon */

static size_t halls_bytes(const struct play *m)
{
    return (m->scene_count + 1) * sizeof(*m->halls);
}

static void begin_play(const char *job, uint32_t world, kit_body body, struct play *m,
                       struct kit_crowd *w)
{
    m->halls =
        mmap(NULL, halls_bytes(m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(m->halls != MAP_FAILED);
    kit_ranks(w, job, world, body, m);
}

static void end_play(struct play *m, struct kit_crowd *w, uint32_t killed)
{
    kit_wait(w, killed);
    munmap(m->halls, halls_bytes(m));
    kit.cases += (long)m->scene_count;
}

static void play(const char *job, uint32_t world, kit_body body, struct play *m, uint32_t killed)
{
    struct kit_crowd w;
    begin_play(job, world, body, m, &w);
    end_play(m, &w, killed);
}

static void play_scenes(const char *job, uint32_t world, const struct scene *scenes, size_t count,
                        uint32_t killed)
{
    struct play m = { plain, ARRAY_COUNT(plain), scenes, count, NULL };
    play(job, world, restore, &m, killed);
}

/* Placements: on two devices and in host memory, in host memory alone, on another device. */
static const int some[PARTS_MAX] = { 0, -1, 0, 1, 0 },
                 host[PARTS_MAX] = { -1, -1, -1, -1, -1, -1, -1 };
static const int other[PARTS_MAX] = { 1, 1, 1, 1, 1, 1, 1 };
/* It goes another way, or wrong, in every place, and in the next scene all is well again. */
static const struct scene everything[] = {
    { .name = "plain", .once = true, .slow = true, .in_front_ms = 300 },
    { .name = "own", .own_comm = true, .once = true },
    { .name = "some", .where = some },
    { .name = "except", .except = "w" },
    { .name = "small", .except = "*b", .slow = true, .in_front_ms = 300 },
    { .name = "host", .where = host, .why = "not used: no tensor" },
    { .name = "other device", .where = other, .why = "not used: no tensor" },
    { .name = "one host", .where_else = host, .who = 1, .why = "o" },
    { .name = "differ", .where_else = some, .who = 1, .why = "do not ask for the same" },
    { .name = "elsewhere",
      .where = other,
      .own_comm = true,
      .elsewhere = true,
      .slow = true,
      .in_front_ms = 300 },
    { .name = "in front", /* for longer than any limit but the restore's */
      .in_front_ms = 7000,
      .timeout_ms = SOON,
      .why = ": ",
      .anything_is_said = true },
    { .name = "captured",
      .where = host,
      .own_comm = true,
      .captured = true,
      .keeps = true,
      .why = "not used: no tensor" },
    { .name = "no pins",
      .own_comm = true,
      .breaks = "HostRegister",
      .nth = 1,
      .result = 2,
      .who = 1,
      .timeout_ms = SOON,
      .why = ": " },
    { .name = "bad buffers", .cannot = BUFFERS, .why = "do not ask for the same" },
    { .name = "bad buffers, own",
      .own_comm = true,
      .cannot = BUFFERS,
      .who = 1,
      .keeps = true,
      .why = "do not ask for the same" },
    { .name = "bad patterns", .cannot = PATTERNS, .who = 1, .why = "do not ask for the same" },
    { .name = "bad patterns, own",
      .own_comm = true,
      .cannot = PATTERNS,
      .keeps = true,
      .why = "do not ask for the same" },
    { .name = "unsealed", .cannot = UNSEALED, .why = "do not ask for the same" },
    { .name = "unsealed, own",
      .own_comm = true,
      .cannot = UNSEALED,
      .who = 1,
      .keeps = true,
      .why = "do not ask for the same" },
    { .name = "no state", .cannot = NO_STATE, .why = "rank 0 has no" },
    { .name = "no state, own",
      .own_comm = true,
      .cannot = NO_STATE,
      .who = 1,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "own, one without",
      .own_comm = true,
      .no_nccl = true,
      .who = 1,
      .timeout_ms = SOON,
      .why = ": " },
    { .name = "other names", .exchanges = true, .who = 1, .why = "do not ask for the same" },
    { .name = "converting", .flags = CKPT_RESTORE_CONVERT, .why = "not used: a restore that" },
    { .name = "partial", .flags = CKPT_RESTORE_PARTIAL, .why = "not used: a partial" },
    { .name = "rank 0 without", .no_nccl = true, .why = "not used: " },
    { .name = "rank 0 blocks", .blocks = true, .why = "not used: " },
    { .name = "one blocks", .blocks = true, .who = 1, .timeout_ms = SOON, .why = ": " },
    { .name = "own, one blocks", .own_comm = true, .blocks = true, .once = true },
    { .name = "no id", .fails = "GetUniqueId", .nth = 1, .result = 2, .why = "rank 0 has no" },
    { .name = "away", .stays_away = true, .who = 1, .timeout_ms = SOON, .why = ": " },
    { .name = "one without", .no_nccl = true, .who = 1, .timeout_ms = SOON, .why = ": " },
    { .name = "init",
      .fails = "CommInitRankConfig",
      .nth = 1,
      .result = 5,
      .who = 1,
      .timeout_ms = SOON,
      .why = ": " },
    { .name = "group",
      .fails = "GroupStart",
      .nth = 1,
      .result = 3,
      .who = 1,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "broadcast",
      .fails = "Broadcast",
      .nth = 2,
      .result = 3,
      .who = 1,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "group end",
      .fails = "GroupEnd",
      .nth = 1,
      .result = 1,
      .who = 2,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "vote",
      .fails = "AllReduce",
      .nth = 1,
      .result = 3,
      .who = 0,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "last vote",
      .fails = "AllReduce",
      .nth = 2,
      .result = 3,
      .who = 0,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "asking",
      .fails = "CommGetAsyncError",
      .nth = 9,
      .result = 3,
      .who = 1,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "leaving", .fails = "CommFinalize", .nth = 1, .result = 3, .who = 1 },
    { .name = "hangs",
      .fault = FAKE_NCCL_HANG,
      .nth = 1,
      .who = 1,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "hangs later",
      .fault = FAKE_NCCL_HANG,
      .nth = 3,
      .who = 1,
      .timeout_ms = SOON,
      .own_comm = true,
      .why = "given up: " },
    { .name = "error",
      .fault = FAKE_NCCL_ASYNC,
      .nth = 3,
      .who = 2,
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "hangs, and all aborts",
      .fault = FAKE_NCCL_HANG,
      .nth = 3,
      .who = 1,
      .holds = "CommAbort",
      .timeout_ms = SOON,
      .why = "given up: " },
    { .name = "one aborts, none can destroy",
      .fails = "CommFinalize",
      .nth = 1,
      .result = 3,
      .who = 1,
      .holds = "CommDestroy" },
    { .name = "own again", .own_comm = true },
    { .name = "all is well", .once = true },
    { .name = "dies", .fault = FAKE_NCCL_DIE, .nth = 2, .who = 2, .timeout_ms = SOON, .why = ": " },
};

static void test_scenes(void)
{
    struct play m = { plain, ARRAY_COUNT(plain), NULL, 0, NULL };
    play("plain", NODES, save, &m, 0);
    play_scenes("plain", NODES, everything, ARRAY_COUNT(everything), 1 << 2);
    kit.kills++;
}

static void test_first_start(void)
{
    static const struct scene scenes[] = {
        { .name = "first" }, { .name = "first, own", .own_comm = true, .keeps = true }
    };
    struct play m = { plain, ARRAY_COUNT(plain), scenes, ARRAY_COUNT(scenes), NULL };
    play("first", NODES, start_first, &m, 0);
}

/* A device that would not find the words of a vote: one rank's, and all. */
static void test_other_pointers(void)
{
    static const struct scene one[] = {
        { .name = "one, own",
          .own_comm = true,
          .other_pointers = 2,
          .timeout_ms = SOON,
          .why = ": " },
        { .name = "one", .timeout_ms = SOON, .why = ": " },
    };
    static const struct scene all[] = {
        { .name = "all", .other_pointers = 7, .why = "not used: the device has host memory" },
    };
    play_scenes("plain", NODES, one, ARRAY_COUNT(one), 0);
    play_scenes("plain", NODES, all, ARRAY_COUNT(all), 0);
}

/* A rank dies; the others' aborts wait for it for good, they and their contexts do not. */
static void test_dies_alone(void)
{
    static const struct scene scenes[] = { { .name = "dies, and aborts wait",
                                             .fault = FAKE_NCCL_DIE,
                                             .nth = 2,
                                             .who = 1,
                                             .holds = "CommAbort",
                                             .forever = true,
                                             .timeout_ms = SOON,
                                             .why = ": " } };
    play_scenes("plain", NODES, scenes, 1, 1 << 1);
    kit.kills++;
}

/* A rank dies elsewhere; the others end with the right bytes. */
static void test_dies(void)
{
    for (unsigned nth = 3; getenv("CKPT_DEEP") && nth < 9; nth++) {
        const struct scene scenes[] = { { .name = "dies",
                                          .fault = FAKE_NCCL_DIE,
                                          .nth = nth,
                                          .who = nth % NODES,
                                          .timeout_ms = SOON,
                                          .why = ": ",
                                          .anything_is_said = true } };
        play_scenes("plain", NODES, scenes, 1, 1u << nth % NODES);
        kit.kills++;
    }
}

/* A device fails in the middle.  Its rank fails with words or reads for itself, the others do
 * not need it, and nobody takes what an aborted broadcast wrote late for the checkpoint. */
static void test_device_fails(void)
{
    static const struct {
        const char *function;
        unsigned nth;
        bool sticky;
    } all[] = {
        { "EventRecord", 1, false },      { "EventRecord", 2, false },
        { "EventRecord", 5, false },      { "EventRecord", 11, false },
        { "EventRecord", 9, true },       { "EventQuery", 2, true },
        { "EventQuery", 30, false },      { "EventQuery", 60, false },
        { "EventQuery", 100, false },     { "StreamWaitEvent", 2, false },
        { "StreamWaitEvent", 3, false },  { "StreamWaitEvent", 3, true },
        { "MemcpyBatchAsync", 1, false }, { "MemcpyBatchAsync", 1, true },
        { "HostRegister", 1, true },      { "StreamCreateWithFlags", 1, false },
    };
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        const struct scene scenes[] = { { .name = all[i].function,
                                          .own_comm = i % 2,
                                          .who = (uint32_t)i % NODES,
                                          .breaks = all[i].function,
                                          .nth = all[i].nth,
                                          .result = 700,
                                          .sticky = all[i].sticky,
                                          .device_fails = true,
                                          .timeout_ms = SOON,
                                          .why = ": ",
                                          .anything_is_said = true } };
        play_scenes("plain", NODES, scenes, 1, 0);
    }
}

/* One rank's share cannot be read: nobody takes what it has for the truth. */
static void test_damaged(void)
{
    static const struct scene scenes[] = {
        { .name = "damaged", .timeout_ms = 20000, .why = "given up: ", .words = "" }
    };
    snprintf(kit.store, sizeof(kit.store), "%s/store", kit.root);
    kit_damage("plain", 1);
    play_scenes("plain", NODES, scenes, 1, 0);
}

/* -- anything ------------------------------------------------------------------------------- */

struct mix {
    struct kit_part parts[PARTS_MAX];
    char names[PARTS_MAX][8];
    int where[PARTS_MAX];
};

static void make_mix(struct mix *m, unsigned long long *random)
{
    static const uint32_t types[] = { CKPT_F32, CKPT_BF16, CKPT_F64, CKPT_U8 };
    static const enum kit_how cuts[] = {
        KIT_SAME, KIT_SAME, KIT_SAME, KIT_ROWS, KIT_COLS, KIT_FLAT
    };
    memset(m, 0, sizeof(*m));
    for (int i = 0; i < PARTS_MAX; i++) {
        snprintf(m->names[i], sizeof(m->names[i]), "p%d", i);
        m->parts[i] = (struct kit_part){ .name = m->names[i],
                                         .dtype = types[test_rand(random) % ARRAY_COUNT(types)],
                                         .ndim = 2,
                                         .how = cuts[test_rand(random) % ARRAY_COUNT(cuts)],
                                         .shape = { 1 + test_rand(random) % (i ? 700 : 7000),
                                                    1 + test_rand(random) % 900 } };
        if (test_rand(random) % 6 == 0)
            m->parts[i].flags = test_rand(random) % 2 ? CKPT_VOLATILE : CKPT_OPTIONAL;
        m->where[i] = test_rand(random) % 4 ? 0 : (int)(test_rand(random) % 3) - 1;
    }
    m->parts[1].how = KIT_SAME; /* something to share */
    m->parts[1].flags = m->where[1] = 0;
    m->parts[4] = (struct kit_part){ .name = "cfg", .object = true, .shape = { 5000, 3000 } };
}

static void make_scene(struct scene *m, const int *where, uint32_t world,
                       unsigned long long *random)
{
    static const char *const fails[] = { "Broadcast", "GroupEnd", "AllReduce",
                                         "CommGetAsyncError" };
    *m = (struct scene){ .name = "random", .where = where, .own_comm = test_rand(random) % 2 };
    m->anything_is_said = true;
    m->why = ": ";
    if (test_rand(random) % 2)
        return;
    m->timeout_ms = SOON;
    m->who = (uint32_t)(test_rand(random) % world);
    m->nth = 1 + (unsigned)(test_rand(random) % 12);
    m->result = 3;
    uint64_t kind = test_rand(random) % 8;
    if (kind < 4)
        m->fails = fails[kind];
    else
        m->fault = kind < 6 ? FAKE_NCCL_HANG : FAKE_NCCL_ASYNC;
}

/* In the middle of it, a node's ckptd loses its worker. */
static void kill_a_worker(unsigned long long *random)
{
    struct kit mine = kit;
    kit_pause((long)(test_rand(random) % 1500));
    kit = nodes[test_rand(random) % NODES];
    kit_kill(kit_worker(), SIGKILL);
    kit = mine;
    kit.kills++;
}

static void test_anything(void)
{
    unsigned long long random = seed;
    int rounds = getenv("CKPT_DEEP") ? 12 : 1;
    for (int i = 0; i < rounds; i++) {
        struct mix m;
        struct scene scenes[4];
        char job[16];
        struct kit_crowd w;
        make_mix(&m, &random);
        uint32_t world = 2 + (uint32_t)(test_rand(&random) % 3);
        for (size_t k = 0; k < ARRAY_COUNT(scenes); k++)
            make_scene(&scenes[k], m.where, world, &random);
        struct play p = { m.parts, PARTS_MAX, scenes, ARRAY_COUNT(scenes), NULL };
        snprintf(job, sizeof(job), "any%d", i);
        play(job, 1 + (uint32_t)(test_rand(&random) % 4), save, &p, 0);
        begin_play(job, world, restore, &p, &w);
        if (test_rand(&random) % 2 || rounds == 1)
            kill_a_worker(&random);
        end_play(&p, &w, 0);
    }
}

int main(void)
{
    seed = test_seed(20261122);
    setenv("CKPT_CUDART", FAKE_CUDART, 1);
    setenv("CKPT_NCCL", FAKE_NCCL, 1);
    start_nodes();
    test_first_start();
    test_scenes();
    test_other_pointers();
    test_dies_alone();
    test_dies();
    test_device_fails();
    test_anything();
    test_damaged();
    return stop_nodes();
}
