/* Merges manifests: a range of ranks one after the other, several ranges at once. */
#include "storage/repo/publish_merge.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "storage/crew.h"
#include "storage/repo/publish_table.h"

#define FAILED_BYTES_MAX (UINT64_C(64) << 10)

static enum ckpt_status no_memory(struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "no memory to merge manifests");
}

/* --- reading one manifest ------------------------------------------------------- */

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

/* --- whose it is ---------------------------------------------------------------- */

/* All ranks are of one try, and go on from one checkpoint. */
static enum ckpt_status check_origin(const struct merge *m, uint32_t rank,
                                     const struct record_commit *own, struct ckpt_err *err)
{
    if (own->try_ == m->commit.try_ && own->has_parent == m->commit.has_parent &&
        (!own->has_parent || name_equal(&own->parent, &m->commit.parent)))
        return CKPT_OK;
    return err_set(err, CKPT_MISMATCH, "ranks %u and %u do not agree on the try or the parent",
                   m->first, rank);
}

static enum ckpt_status check_identity(const struct merge *m, uint32_t rank,
                                       const struct manifest_header *h, struct ckpt_err *err)
{
    const char *what = NULL;
    if (strcmp(h->job, m->job) != 0)
        what = "another job";
    else if (!name_equal(&h->name, &m->name))
        what = "another attempt";
    else if (h->rank != rank)
        what = "another rank";
    else if (h->world != m->world)
        what = "another world size";
    if (what)
        return err_set(err, CKPT_MISMATCH,
                       "the manifest under rank %u of %u is of %s: job %s, rank %u of %u", rank,
                       m->world, what, h->job, h->rank, h->world);
    struct record_commit own = { .try_ = h->try_,
                                 .has_parent = h->has_parent,
                                 .parent = h->parent };
    return rank == m->first ? CKPT_OK : check_origin(m, rank, &own, err);
}

/* The first rank speaks for all in what belongs to no tensor. */
static void take_identity(struct merge *m, const struct manifest_header *h)
{
    m->commit = (struct record_commit){ .name = m->name,
                                        .world = m->world,
                                        .try_ = h->try_,
                                        .has_parent = h->has_parent,
                                        .parent = h->parent,
                                        .vanished_allowed = h->flags & MANIFEST_FLAG_VANISHED_OK,
                                        .time_ns = h->time_ns,
                                        .metric_count = h->metric_count };
    memcpy(m->commit.metrics, h->metrics, sizeof(m->commit.metrics));
}

static enum ckpt_status take_failure(struct merge *m, const struct manifest_header *h,
                                     struct ckpt_err *err)
{
    m->fail_status = h->fail_status;
    m->fail_rank = h->rank;
    return err_set(err, CKPT_ABORTED, "rank %u could not save its part: %s", h->rank,
                   h->fail_text[0] ? h->fail_text : status_sentence(h->fail_status));
}

/* --- one manifest --------------------------------------------------------------- */

struct merger { /* of a range: what is used again for each manifest */
    struct merge *m;
    struct manifest_walk *walk;
    struct manifest_claims claims; /* of the manifest that is being added */
};

static enum ckpt_status add_block(struct merger *g, const struct merge_manifest *from,
                                  uint32_t block, uint64_t *end, struct ckpt_err *err)
{
    const struct manifest_header *h = &from->header;
    const struct manifest_block *b = &h->blocks[block];
    if (b->offset != *end || b->bytes > from->len - b->offset)
        return err_set(err, CKPT_CORRUPT, "block %u of rank %u's manifest is not where it must be",
                       block, h->rank);
    *end += b->bytes;
    enum ckpt_status st = manifest_walk_block(
        g->walk, h, block, (const uint8_t *)from->bytes + b->offset, b->bytes, err);
    while (st == CKPT_OK) {
        const struct manifest_tensor *t = NULL;
        bool expected = false;
        st = manifest_walk_next(g->walk, merge_expected(g->m), &t, &expected, err);
        if (st != CKPT_OK || !t)
            break;
        st = manifest_claims_add_one(&g->claims, t, err);
        if (st == CKPT_OK) {
            st = merge_add_tensor(g->m, h->rank, t, expected, err);
            if (st != CKPT_OK)
                return st; /* its words name the ranks */
        }
    }
    if (st != CKPT_OK)
        err_prefix(err, "manifest of rank %u", h->rank);
    return st;
}

/* Every block, each behind the other, each chunk claimed by one box. */
static enum ckpt_status add_blocks(struct merger *g, const struct merge_manifest *from,
                                   struct ckpt_err *err)
{
    const struct manifest_header *h = &from->header;
    uint64_t end = h->header_bytes;
    enum ckpt_status st = manifest_claims_init(&g->claims, h, err);
    for (uint32_t i = 0; i < h->block_count && st == CKPT_OK; i++)
        st = add_block(g, from, i, &end, err);
    if (st == CKPT_OK)
        st = manifest_claims_finish(&g->claims, err);
    manifest_claims_fini(&g->claims);
    if (st == CKPT_OK && end != from->len)
        return err_set(err, CKPT_CORRUPT, "rank %u's manifest goes on behind its last block",
                       h->rank);
    return st;
}

static enum ckpt_status add_manifest(struct merger *g, const struct merge_manifest *from,
                                     struct ckpt_err *err)
{
    const struct manifest_header *h = &from->header;
    struct merge *m = g->m;
    m->hint = 0;
    enum ckpt_status st = add_blocks(g, from, err);
    if (st != CKPT_OK)
        return st;
    struct index_rank *rank = &m->ranks[h->rank];
    *rank = (struct index_rank){ .sha = sha256_of(from->bytes, h->header_bytes),
                                 .header_bytes = h->header_bytes,
                                 .bytes = from->len };
    memcpy(rank->node, h->node, sizeof(rank->node));
    m->commit.raw_bytes += h->raw_bytes;
    m->commit.pack_count += h->pack_count;
    m->commit.chunk_count += h->chunk_count;
    return CKPT_OK;
}

static enum ckpt_status add_rank(struct merger *g, struct store *s, uint32_t rank,
                                 struct ckpt_err *err)
{
    struct merge_manifest from;
    struct merge *m = g->m;
    enum ckpt_status st = merge_read(s, m->job, &m->name, rank, &from, err);
    if (st != CKPT_OK)
        return st;
    const struct manifest_header *h = &from.header;
    if (rank == m->first)
        take_identity(m, h);
    st = check_identity(m, rank, h, err);
    if (st == CKPT_OK && h->flags & MANIFEST_FLAG_FAILED)
        st = take_failure(m, h, err);
    if (st == CKPT_OK)
        st = add_manifest(g, &from, err);
    merge_manifest_fini(&from);
    return st;
}

/* A rank is missing; if one behind it has failed, nobody needs to wait for it.  Only
 * manifests as small as those of failed parts are looked at. */
static enum ckpt_status find_failed(struct merge *m, struct store *s, uint32_t from,
                                    struct ckpt_err *err)
{
    for (uint32_t rank = from; rank < m->world; rank++) {
        struct key key = key_manifest(m->job, &m->name, rank);
        struct store_stat stat;
        struct merge_manifest part;
        if (store_stat(s, key.text, &stat, NULL) != CKPT_OK || stat.bytes > FAILED_BYTES_MAX ||
            merge_read(s, m->job, &m->name, rank, &part, NULL) != CKPT_OK)
            continue;
        enum ckpt_status st = CKPT_OK;
        if (part.header.flags & MANIFEST_FLAG_FAILED && name_equal(&part.header.name, &m->name) &&
            part.header.rank == rank && strcmp(part.header.job, m->job) == 0)
            st = take_failure(m, &part.header, err);
        merge_manifest_fini(&part);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

/* --- ranges of ranks ------------------------------------------------------------ */

/* One thread's share: a merge of its own, whose entries of ranks are the whole's. */
struct range {
    struct crew_job base;
    struct merge m;
    uint32_t end, at; /* ranks of it before `at` were added */
    enum ckpt_status status;
    struct ckpt_err err;
    unsigned number;
    atomic_uint *first_failed; /* of all ranges */
    bool done;
};

static void run_range(struct range *r, struct store *s)
{
    struct merger g = { .m = &r->m, .walk = manifest_walk_new() };
    r->status = g.walk ? CKPT_OK : no_memory(&r->err);
    for (r->at = r->m.first; r->status == CKPT_OK && r->at < r->end; r->at++) {
        if (atomic_load(r->first_failed) < r->number)
            break; /* nobody will ask for it */
        r->status = add_rank(&g, s, r->at, &r->err);
    }
    manifest_walk_free(g.walk);
    unsigned first = atomic_load(r->first_failed);
    while (r->status != CKPT_OK && r->number < first &&
           !atomic_compare_exchange_weak(r->first_failed, &first, r->number))
        ;
}

static void run_job(struct crew_job *base, void *work)
{
    run_range((struct range *)base, work);
}

static void *work_new(void *arg, struct ckpt_err *err)
{
    const struct store *from = arg;
    struct store *s;
    if (store_dup(from, &s, err) != CKPT_OK)
        return NULL;
    store_set_limits(s, from->deadline_ns, from->cancel);
    return s;
}

static void work_free(void *work)
{
    store_close(work);
}

static void wait_all(struct crew *c, int event_fd, unsigned count)
{
    while (count > 0) {
        uint64_t n;
        while (crew_done(c) != NULL)
            count--;
        if (count > 0 && read(event_fd, &n, sizeof(n)) < 0)
            assert(errno == EINTR);
    }
}

/* False: no threads to be had; nothing was read. */
static bool run_by_crew(struct range *ranges, unsigned count, struct store *s)
{
    CLEANUP_FD int event_fd = eventfd(0, EFD_CLOEXEC);
    struct crew *crew;
    const struct crew_options options = { .name = "manifests",
                                          .threads = count,
                                          .nice = 10, /* a trainer may be on this node */
                                          .event_fd = event_fd,
                                          .work_new = work_new,
                                          .work_free = work_free,
                                          .arg = s };
    if (event_fd < 0 || crew_new(&options, &crew, NULL) != CKPT_OK)
        return false;
    for (unsigned i = 0; i < count; i++) {
        ranges[i].base.run = run_job;
        crew_submit(crew, &ranges[i].base);
    }
    wait_all(crew, event_fd, count);
    crew_free(crew);
    return true;
}

/* In order of ranks; the first that failed is the answer. */
static enum ckpt_status join_ranges(struct merge *m, struct range *ranges, unsigned count,
                                    uint32_t *ret_rank, struct ckpt_err *err)
{
    for (unsigned i = 0; i < count; i++) {
        struct range *r = &ranges[i];
        *ret_rank = r->at;
        m->fail_status = r->m.fail_status;
        m->fail_rank = r->m.fail_rank;
        if (r->status != CKPT_OK)
            return err_set(err, r->status, "%s", err_text(&r->err));
        if (i == 0) {
            m->commit = r->m.commit;
            m->commit.raw_bytes = m->commit.pack_count = m->commit.chunk_count = 0;
        }
        enum ckpt_status st = check_origin(m, r->m.first, &r->m.commit, err);
        if (st == CKPT_OK)
            st = merge_join(m, &r->m, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

/* *ret_rank: how many ranks came before the first failure, at least. */
static enum ckpt_status add_all(struct merge *m, struct store *s, uint32_t *ret_rank,
                                struct ckpt_err *err)
{
    unsigned count = m->world < MERGE_SPLIT_WORLD ? 1 : MERGE_THREADS;
    atomic_uint first_failed = count;
    CLEANUP_FREE struct range *ranges = calloc(count, sizeof(*ranges));
    if (!ranges)
        return no_memory(err);
    for (unsigned i = 0; i < count; i++) {
        struct merge part = { .job = m->job, .name = m->name, .world = m->world };
        part.first = (uint32_t)((uint64_t)m->world * i / count);
        part.ranks = m->ranks;
        ranges[i] = (struct range){ .m = part,
                                    .end = (uint32_t)((uint64_t)m->world * (i + 1) / count),
                                    .number = i,
                                    .first_failed = &first_failed };
    }
    if (count == 1 || !run_by_crew(ranges, count, s)) {
        for (unsigned i = 0; i < count; i++)
            run_range(&ranges[i], s);
    }
    enum ckpt_status st = join_ranges(m, ranges, count, ret_rank, err);
    for (unsigned i = 0; i < count; i++)
        merge_table_fini(&ranges[i].m);
    return st;
}

enum ckpt_status merge_all(struct merge *m, struct store *s, const char *job,
                           const struct ckpt_name *name, uint32_t world, struct ckpt_err *err)
{
    *m = (struct merge){ .job = job, .name = *name, .world = world };
    if (world == 0 || world > CKPT_RANKS_MAX)
        return err_set(err, CKPT_LIMIT, "a world of %u ranks", world);
    m->ranks = calloc(world, sizeof(*m->ranks));
    if (!m->ranks)
        return no_memory(err);
    struct ckpt_err why = { 0 };
    uint32_t rank = 0;
    enum ckpt_status st = add_all(m, s, &rank, &why);
    if (st == CKPT_NOT_FOUND) {
        enum ckpt_status failed = find_failed(m, s, rank, err);
        if (failed != CKPT_OK)
            return failed;
    }
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
}

void merge_fini(struct merge *m)
{
    merge_table_fini(m);
    for (uint32_t i = 0; i < m->segment_count; i++)
        buf_fini(&m->segments[i]);
    free(m->segments);
    free(m->ranks);
    *m = (struct merge){ 0 };
}
