/* Reading manifests, ahead where it pays. */
#include "storage/repo/publish_feed.h"

#include <assert.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "storage/crew.h"

struct feed_job {
    struct crew_job base;
    struct feed *feed;
    struct feed_part part;
    bool busy; /* of the crew, or done and not yet asked for */
    bool done;
};
struct feed {
    struct store *store;
    const char *job;
    struct ckpt_name name;
    uint32_t world, next, asked; /* ranks: the next to hand out; the next to be read */
    uint64_t bytes;              /* of the manifest handed out last */
    struct crew *crew;           /* NULL: the caller's thread reads */
    int event_fd;
    struct feed_job jobs[FEED_AHEAD_MAX]; /* rank % FEED_AHEAD_MAX */
};

/* --- one manifest --------------------------------------------------------------- */

void merge_manifest_fini(struct merge_manifest *m)
{
    manifest_header_fini(&m->header);
    free(m->bytes);
}

enum ckpt_status merge_read(struct store *s, const char *job, const struct ckpt_name *name,
                            uint32_t rank, struct merge_manifest *ret, struct ckpt_err *err)
{
    struct key key = key_manifest(job, name, rank);
    struct merge_manifest m = { 0 };
    struct ckpt_err why = { 0 };
    enum ckpt_status st =
        store_get_all(s, key.text, MERGE_MANIFEST_BYTES_MAX, &m.bytes, &m.len, &why);
    if (st == CKPT_OK) {
        uint32_t header_bytes = manifest_header_peek(m.bytes, m.len);
        if (header_bytes == 0 || header_bytes > m.len)
            st = err_set(&why, CKPT_CORRUPT, "this is no manifest, or it is cut short");
        else
            st = manifest_header_decode(m.bytes, header_bytes, NULL, &m.header, &why);
    }
    if (st == CKPT_OK) {
        *ret = m;
        return st;
    }
    free(m.bytes);
    return err_set(err, st, "manifest of rank %u (%s): %s", rank, key.text, err_text(&why));
}

static enum ckpt_status decode_blocks(struct feed_part *p, struct manifest_claims *claims,
                                      struct ckpt_err *err)
{
    const struct manifest_header *h = &p->from.header;
    uint64_t end = h->header_bytes;
    for (uint32_t i = 0; i < h->block_count; i++) {
        const struct manifest_block *b = &h->blocks[i];
        if (b->offset != end || b->bytes > p->from.len - b->offset)
            return err_set(err, CKPT_CORRUPT,
                           "block %u of rank %u's manifest is not where it must be", i, h->rank);
        end += b->bytes;
        enum ckpt_status st = manifest_block_decode(
            h, i, (const uint8_t *)p->from.bytes + b->offset, b->bytes, &p->blocks[i], err);
        if (st != CKPT_OK) {
            err_prefix(err, "manifest of rank %u", h->rank);
            return st;
        }
        st = manifest_claims_add(claims, &p->blocks[i], err);
        if (st != CKPT_OK)
            return st;
    }
    if (end != p->from.len)
        return err_set(err, CKPT_CORRUPT, "rank %u's manifest goes on behind its last block",
                       h->rank);
    return manifest_claims_finish(claims, err);
}

/* Every block, each behind the other, each chunk claimed by one box. */
static enum ckpt_status decode_body(struct feed_part *p, struct ckpt_err *err)
{
    const struct manifest_header *h = &p->from.header;
    struct manifest_claims claims;
    p->blocks = calloc(h->block_count + (size_t)1, sizeof(*p->blocks));
    if (!p->blocks)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the manifest of rank %u", h->rank);
    enum ckpt_status st = manifest_claims_init(&claims, h, err);
    if (st != CKPT_OK)
        return st;
    st = decode_blocks(p, &claims, err);
    manifest_claims_fini(&claims);
    p->entry = (struct index_rank){ .sha = sha256_of(p->from.bytes, h->header_bytes),
                                    .header_bytes = h->header_bytes,
                                    .bytes = p->from.len };
    return st;
}

static void read_part(const struct feed *f, struct store *s, struct feed_part *p)
{
    p->status = merge_read(s, f->job, &f->name, p->rank, &p->from, &p->err);
    if (p->status == CKPT_OK)
        p->body = decode_body(p, &p->body_err);
}

static void part_fini(struct feed_part *p)
{
    for (uint32_t i = 0; p->blocks && i < p->from.header.block_count; i++)
        manifest_tensors_fini(&p->blocks[i]);
    free(p->blocks);
    merge_manifest_fini(&p->from);
    *p = (struct feed_part){ 0 };
}

/* --- the crew ------------------------------------------------------------------- */

static void run_job(struct crew_job *base, void *work)
{
    struct feed_job *j = (struct feed_job *)base;
    read_part(j->feed, work, &j->part);
}

static void *work_new(void *arg, struct ckpt_err *err)
{
    const struct feed *f = arg;
    struct store *s;
    if (store_dup(f->store, &s, err) != CKPT_OK)
        return NULL;
    s->deadline_ns = f->store->deadline_ns;
    s->cancel = f->store->cancel;
    return s;
}

static void work_free(void *work)
{
    store_close(work);
}

/* Without a crew it is slower and right all the same. */
static void start_crew(struct feed *f)
{
    if (f->world < FEED_WORLD_MIN)
        return;
    f->event_fd = eventfd(0, EFD_CLOEXEC);
    const struct crew_options options = { .name = "manifests",
                                          .threads = FEED_THREADS,
                                          .nice = 10,
                                          .event_fd = f->event_fd,
                                          .work_new = work_new,
                                          .work_free = work_free,
                                          .arg = f };
    if (f->event_fd < 0 || crew_new(&options, &f->crew, NULL) != CKPT_OK)
        f->crew = NULL;
}

static void submit_ahead(struct feed *f)
{
    uint64_t ahead = f->bytes ? FEED_BYTES_MAX / f->bytes : FEED_THREADS;
    ahead = min_u64(max_u64(ahead, 1), FEED_AHEAD_MAX);
    for (; f->asked < f->world && f->asked < f->next + ahead; f->asked++) {
        struct feed_job *j = &f->jobs[f->asked % FEED_AHEAD_MAX];
        assert(!j->busy);
        *j = (struct feed_job){
            .base = { .run = run_job }, .feed = f, .part = { .rank = f->asked }, .busy = true
        };
        crew_submit(f->crew, &j->base);
    }
}

static void wait_for(struct feed *f, const struct feed_job *j)
{
    while (!j->done) {
        uint64_t count;
        struct crew_job *done;
        while ((done = crew_done(f->crew)) != NULL)
            ((struct feed_job *)done)->done = true;
        if (!j->done && read(f->event_fd, &count, sizeof(count)) < 0)
            assert(errno == EINTR);
    }
}

/* --- in order ------------------------------------------------------------------- */

enum ckpt_status feed_open(struct store *s, const char *job, const struct ckpt_name *name,
                           uint32_t world, struct feed **ret, struct ckpt_err *err)
{
    struct feed *f = calloc(1, sizeof(*f));
    if (!f)
        return err_set(err, CKPT_NO_MEMORY, "no memory to read manifests");
    f->store = s;
    f->job = job;
    f->name = *name;
    f->world = world;
    f->event_fd = -1;
    start_crew(f);
    *ret = f;
    return CKPT_OK;
}

const struct feed_part *feed_next(struct feed *f)
{
    assert(f->next < f->world);
    if (f->next > 0) {
        struct feed_job *last = &f->jobs[(f->next - 1) % FEED_AHEAD_MAX];
        f->bytes = last->part.from.len;
        part_fini(&last->part);
        last->busy = last->done = false;
    }
    struct feed_job *j = &f->jobs[f->next % FEED_AHEAD_MAX];
    if (f->crew) {
        submit_ahead(f);
        f->next++;
        wait_for(f, j);
        return &j->part;
    }
    j->part.rank = f->next++;
    read_part(f, f->store, &j->part);
    return &j->part;
}

void feed_close(struct feed *f)
{
    if (!f)
        return;
    crew_free(f->crew); /* ends what runs; what was not begun has read nothing */
    for (size_t i = 0; i < FEED_AHEAD_MAX; i++)
        part_fini(&f->jobs[i].part);
    if (f->event_fd >= 0)
        close(f->event_fd);
    free(f);
}
