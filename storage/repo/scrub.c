/* The walk over a checkpoint: index, manifests, packs, and the records last, so that a
 * repair puts the commit only over things that are whole.
 *
 * With a second store, what is wrong is replaced by that store's object if that one
 * checks.  A crash in the middle leaves some objects mended; a second repair goes on. */
#include "storage/repo/scrub.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "formats/pack.h"
#include "storage/repo/life.h"
#include "storage/repo/publish_merge.h"
#include "storage/repo/scrub_check.h"

struct scrub {
    struct scrub_context c;
    struct store *s, *good; /* good: NULL when only looking */
    const struct scrub_callbacks *cb;
    struct scrub_report report;
    uint64_t total;
    bool bad; /* something is wrong and stayed wrong */
};

static void report(struct scrub *sc, enum scrub_kind kind, const char *key, const char *text)
{
    struct scrub_finding f = { .kind = kind };
    snprintf(f.key, sizeof(f.key), "%s", key);
    snprintf(f.text, sizeof(f.text), "%s", text);
    sc->report.missing += kind == SCRUB_MISSING;
    sc->report.damaged += kind == SCRUB_DAMAGED;
    sc->report.extra += kind == SCRUB_EXTRA;
    sc->report.awaited += kind == SCRUB_AWAITED;
    if (sc->cb && sc->cb->finding)
        sc->cb->finding(sc->cb->arg, &f);
}

/* True for what is a fact about the object; anything else is trouble in looking. */
static bool is_finding(enum ckpt_status st)
{
    return st == CKPT_CORRUPT || st == CKPT_NOT_FOUND || st == CKPT_UNSUPPORTED ||
           st == CKPT_MISMATCH;
}

/* A damaged object is replaced at one stroke: without a record for a moment, gc would give the
 * checkpoint up, and a resolver would not see it.  A missing one goes only where nobody has
 * decided meanwhile: c/ may be an ABORT by now. */
static enum ckpt_status replace(struct scrub *sc, const struct scrub_object *o, bool missing,
                                struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st =
        store_get_all(sc->good, o->key.text, MERGE_MANIFEST_BYTES_MAX, &bytes, &len, err);
    if (st != CKPT_OK)
        return st;
    const struct iovec iov = { bytes, len };
    struct key folder = o->key;
    strrchr(folder.text, '/')[1] = 0;
    if (o->record && missing)
        return store_put(sc->s, o->key.text, &iov, 1, STORE_IF_ABSENT, err);
    st = store_put(sc->s, o->key.text, &iov, 1, 0, err);
    return st == CKPT_OK && o->record ? store_sync(sc->s, folder.text, err) : st;
}

static enum ckpt_status mend(struct scrub *sc, const struct scrub_object *o, bool missing,
                             struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    enum ckpt_status st = o->check(&sc->c, sc->good, o, &why);
    if (st != CKPT_OK) {
        sc->bad = true;
        return is_finding(st) ? CKPT_OK : err_set(err, st, "%s", err_text(&why));
    }
    st = replace(sc, o, missing, err);
    if (st != CKPT_OK)
        return st;
    st = o->check(&sc->c, sc->s, o, err);
    sc->report.repaired += st == CKPT_OK;
    return st;
}

/* CKPT_OK: looked at, whatever was found. */
static enum ckpt_status look_at(struct scrub *sc, const struct scrub_object *o,
                                struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    enum ckpt_status st = o->check(&sc->c, sc->s, o, &why);
    sc->report.objects++;
    if (st == CKPT_OK)
        return st;
    if (!is_finding(st))
        return err_set(err, st, "%s", err_text(&why));
    if (st == CKPT_NOT_FOUND && o->may_come && !sc->good) {
        report(sc, SCRUB_AWAITED, o->key.text, "it has not arrived here");
        return CKPT_OK;
    }
    report(sc, st == CKPT_NOT_FOUND ? SCRUB_MISSING : SCRUB_DAMAGED, o->key.text,
           st == CKPT_NOT_FOUND ? "it is not there" : err_text(&why));
    if (sc->good)
        return mend(sc, o, st == CKPT_NOT_FOUND, err);
    sc->bad = true;
    return CKPT_OK;
}

/* --- one rank ------------------------------------------------------------------- */

static enum ckpt_status list_chunks(struct scrub *sc, uint32_t rank,
                                    const struct manifest_header *h, struct scrub_chunk *chunks,
                                    struct ckpt_err *err)
{
    for (uint32_t i = 0; i < h->block_count; i++) {
        const struct manifest_tensors *t;
        enum ckpt_status st = reader_block(sc->c.r, rank, i, &t, err);
        if (st != CKPT_OK)
            return st;
        for (size_t k = 0; k < t->count; k++) {
            for (uint32_t b = 0; b < t->tensors[k].box_count; b++) {
                const struct manifest_box *box = &t->tensors[k].boxes[b];
                for (uint64_t n = 0; n < box->chunks; n++)
                    chunks[box->first_chunk + n] = (struct scrub_chunk){ &t->tensors[k], box, n };
            }
        }
    }
    for (uint64_t i = 0; i < h->chunk_count; i++) {
        if (!chunks[i].box)
            return err_set(err, CKPT_CORRUPT, "chunk %" PRIu64 " belongs to no box", i);
    }
    return CKPT_OK;
}

static enum ckpt_status is_there(struct store *s, const struct key *key, bool *ret,
                                 struct ckpt_err *err)
{
    struct store_stat stat;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = store_stat(s, key->text, &stat, &why);
    if (st != CKPT_OK && st != CKPT_NOT_FOUND)
        return err_set(err, st, "%s", err_text(&why));
    *ret = st == CKPT_OK;
    return CKPT_OK;
}

/* accounted: all of them lay here once. */
static enum ckpt_status look_at_packs(struct scrub *sc, uint32_t rank,
                                      const struct manifest_header *h,
                                      const struct scrub_chunk *chunks, bool accounted,
                                      struct ckpt_err *err)
{
    uint64_t each = h->pack_count ? h->raw_bytes / h->pack_count : 0;
    for (uint32_t i = 0; i < h->pack_count; i++) {
        const struct scrub_object o = {
            .key = key_pack(sc->c.job, &sc->c.name, rank, h->packs[i].slot, &h->packs[i].id),
            .check = scrub_check_pack,
            .may_come = !accounted,
            .rank = rank,
            .pack = &h->packs[i],
            .rank_chunks = chunks,
        };
        enum ckpt_status st = look_at(sc, &o, err);
        if (st != CKPT_OK)
            return st;
        sc->report.bytes += i + 1 < h->pack_count ? each : h->raw_bytes - each * i;
        if (sc->cb && sc->cb->progress)
            sc->cb->progress(sc->cb->arg, sc->report.bytes, sc->total);
    }
    return CKPT_OK;
}

static enum ckpt_status look_at_rank(struct scrub *sc, uint32_t rank, bool held,
                                     struct ckpt_err *err)
{
    const struct scrub_object m = { .key = key_manifest(sc->c.job, &sc->c.name, rank),
                                    .check = scrub_check_manifest,
                                    .record = true,
                                    .rank = rank };
    enum ckpt_status st = look_at(sc, &m, err);
    if (st != CKPT_OK)
        return st;
    const struct manifest_header *h;
    struct ckpt_err why = { 0 };
    CLEANUP_FREE struct scrub_chunk *chunks = NULL;
    st = reader_manifest(sc->c.r, rank, &h, &why);
    if (st == CKPT_OK) {
        chunks = calloc(h->chunk_count + 1, sizeof(*chunks));
        st = chunks ? list_chunks(sc, rank, h, chunks, &why)
                    : err_set(&why, CKPT_NO_MEMORY, "no memory for the chunks of rank %u", rank);
    }
    if (st != CKPT_OK) /* no store has it whole: that was reported, its packs stay unseen */
        return sc->bad && (st == CKPT_CORRUPT || st == CKPT_IO)
                   ? CKPT_OK
                   : err_set(err, st, "%s", err_text(&why));
    const struct scrub_object part = { .key = key_rank_held(sc->c.job, &sc->c.name, rank),
                                       .check = scrub_check_rank_held,
                                       .record = true,
                                       .rank = rank };
    /* Without h/ a part may still lack its account: it is on its way, or a crash came in
     * between. */
    bool accounted = held;
    if (!held)
        st = is_there(sc->s, &part.key, &accounted, err);
    if (st == CKPT_OK && !sc->report.dropped)
        st = look_at_packs(sc, rank, h, chunks, accounted, err);
    if (st == CKPT_OK && !sc->report.dropped && accounted)
        st = look_at(sc, &part, err);
    reader_forget(sc->c.r, rank);
    return st;
}

/* --- what nobody refers to ------------------------------------------------------ */

static enum ckpt_status known(struct scrub *sc, const struct key_data_parts *parts, bool *ret)
{
    const struct record_commit *commit = reader_commit(sc->c.r);
    *ret = parts->kind == KEY_INDEX && parts->k < commit->index_segments;
    if ((parts->kind == KEY_MANIFEST || parts->kind == KEY_RANK_HELD) &&
        parts->rank < commit->world)
        *ret = true;
    if (parts->kind != KEY_PACK || parts->rank >= commit->world)
        return CKPT_OK;
    const struct manifest_header *h;
    enum ckpt_status st = reader_manifest(sc->c.r, parts->rank, &h, NULL);
    if (st != CKPT_OK) /* nobody can say */
        *ret = true;
    for (uint32_t i = 0; st == CKPT_OK && i < h->pack_count && !*ret; i++)
        *ret = h->packs[i].slot == parts->slot && digest_equal(&h->packs[i].id, &parts->id);
    return CKPT_OK;
}

struct extra_walk {
    struct scrub *sc;
    size_t prefix;
    unsigned h;
};

static enum ckpt_status each_entry(void *arg, const struct store_entry *e)
{
    struct extra_walk *w = arg;
    struct scrub *sc = w->sc;
    struct key_data_parts parts = { .name = sc->c.name };
    bool ok = false;
    key_parse_data(e->key + w->prefix, &parts);
    enum ckpt_status st = known(sc, &parts, &ok);
    if (st != CKPT_OK)
        return st;
    if (ok && key_shard(parts.kind == KEY_INDEX ? parts.k : parts.rank) != w->h)
        ok = false;
    if (!ok)
        report(sc, SCRUB_EXTRA, e->key, "nothing refers to it");
    return CKPT_OK;
}

static enum ckpt_status look_for_extra(struct scrub *sc, struct ckpt_err *err)
{
    for (unsigned h = 0; h < 16; h++) {
        struct key dir = key_data(sc->c.job, h, &sc->c.name);
        struct extra_walk w = { sc, strlen(dir.text), h };
        enum ckpt_status st = repo_list(sc->s, dir.text, false, each_entry, &w, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

/* --- whole ---------------------------------------------------------------------- */

/* The commit and the index are a pure function of the manifests: made again, they must
 * be the same.  Asked only when everything else was right. */
static enum ckpt_status compare_with_manifests(struct scrub *sc, struct ckpt_err *err)
{
    const struct record_commit *commit = reader_commit(sc->c.r);
    struct key key = key_commit(sc->c.job, &sc->c.name);
    struct ckpt_err why = { 0 };
    struct merge m;
    enum ckpt_status st = merge_all(&m, sc->s, sc->c.job, &sc->c.name, commit->world, &why);
    if (st == CKPT_OK)
        st = merge_finish(&m, &why);
    if (st == CKPT_OK) {
        CLEANUP_BUF struct buf is = { 0 }, must = { 0 };
        record_commit_encode(commit, key.text, &is);
        record_commit_encode(&m.commit, key.text, &must);
        if (is.failed || must.failed)
            st = err_set(&why, CKPT_NO_MEMORY, "no memory to compare commits");
        else if (is.len != must.len || memcmp(is.data, must.data, is.len) != 0)
            st = err_set(&why, CKPT_CORRUPT, "the commit does not follow from the manifests");
    }
    merge_fini(&m);
    if (st == CKPT_OK || status_class(st) == CKPT_CLASS_STORE ||
        status_class(st) == CKPT_CLASS_BUSY)
        return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
    report(sc, SCRUB_DAMAGED, key.text, err_text(&why));
    sc->bad = true;
    return CKPT_OK;
}

static enum ckpt_status look_at_records(struct scrub *sc, bool held, struct ckpt_err *err)
{
    const struct scrub_object commit = { .key = key_commit(sc->c.job, &sc->c.name),
                                         .check = scrub_check_commit,
                                         .record = true };
    const struct scrub_object h = { .key = key_held(sc->c.job, &sc->c.name),
                                    .check = scrub_check_held,
                                    .record = true };
    for (unsigned i = 0; i < 16 && sc->report.repaired; i++) {
        struct key dir = key_data(sc->c.job, i, &sc->c.name);
        enum ckpt_status st = store_sync(sc->s, dir.text, err);
        if (st != CKPT_OK)
            return st;
    }
    enum ckpt_status st = look_at(sc, &commit, err);
    if (st == CKPT_OK && held && !sc->report.dropped && !(sc->good && sc->bad))
        st = look_at(sc, &h, err);
    return st;
}

/* Records stay behind of what the home has dropped. */
static enum ckpt_status look_whether_dropped(struct scrub *sc, struct ckpt_err *err)
{
    enum life life;
    uint64_t n;
    enum ckpt_status st = life_look(sc->s, sc->c.job, &sc->c.name, true, &life, &n, NULL, err);
    sc->report.dropped = st == CKPT_OK && life == LIFE_GONE;
    return st;
}

static enum ckpt_status walk(struct scrub *sc, struct ckpt_err *err)
{
    const struct record_commit *commit = reader_commit(sc->c.r);
    struct key key = key_held(sc->c.job, &sc->c.name);
    bool held = false;
    enum ckpt_status st = look_whether_dropped(sc, err);
    if (st == CKPT_OK)
        st = is_there(sc->s, &key, &held, err);
    if (st == CKPT_OK && !held && sc->good)
        st = is_there(sc->good, &key, &held, err);
    sc->total = commit->raw_bytes;
    for (uint32_t k = 0; st == CKPT_OK && k < commit->index_segments; k++) {
        const struct scrub_object o = { .key = key_index(sc->c.job, &sc->c.name, k),
                                        .check = scrub_check_index,
                                        .k = k };
        st = look_at(sc, &o, err);
    }
    for (uint32_t rank = 0; st == CKPT_OK && rank < commit->world; rank++)
        st = look_at_rank(sc, rank, held, err);
    if (st == CKPT_OK)
        st = look_at_records(sc, held, err);
    if (st == CKPT_OK && !sc->bad)
        st = compare_with_manifests(sc, err);
    return st == CKPT_OK ? look_for_extra(sc, err) : st;
}

static bool context_init(struct scrub_context *c)
{
    c->chunks = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*c->chunks));
    c->raw_bytes = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*c->raw_bytes));
    c->digests = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*c->digests));
    c->decoded = malloc(CKPT_CHUNK_BYTES_MAX);
    c->codec = codec_new();
    return c->chunks && c->raw_bytes && c->digests && c->decoded && c->codec;
}

static void context_fini(struct scrub_context *c)
{
    reader_close(c->r);
    free(c->buffer);
    free(c->chunks);
    free(c->raw_bytes);
    free(c->digests);
    free(c->decoded);
    codec_free(c->codec);
}

/* The chain does not even begin: says which of its first two objects is wrong. */
static enum ckpt_status report_unopened(struct scrub *sc, enum ckpt_status st,
                                        const struct ckpt_err *why, struct ckpt_err *err)
{
    const struct scrub_object commit = { .key = key_commit(sc->c.job, &sc->c.name),
                                         .check = scrub_check_commit };
    struct ckpt_err text = { 0 };
    if (st != CKPT_CORRUPT && st != CKPT_UNSUPPORTED && st != CKPT_IO)
        return err_set(err, st, "%s", err_text(why));
    enum ckpt_status got = commit.check(&sc->c, sc->s, &commit, &text);
    struct key index = key_index(sc->c.job, &sc->c.name, 0);
    struct store_stat stat;
    struct ckpt_err none = { 0 };
    if (got == CKPT_CORRUPT)
        report(sc, SCRUB_DAMAGED, commit.key.text, err_text(&text));
    else if (got == CKPT_OK && store_stat(sc->s, index.text, &stat, &none) == CKPT_NOT_FOUND)
        report(sc, SCRUB_MISSING, index.text, "it is not there");
    else if (got == CKPT_OK && st != CKPT_IO)
        report(sc, SCRUB_DAMAGED, index.text, err_text(why));
    else
        return err_set(err, st, "%s", err_text(why));
    sc->bad = true;
    return CKPT_OK;
}

static enum ckpt_status scrub(struct scrub *sc, struct scrub_report *ret, struct ckpt_err *err)
{
    struct store *const tiers[] = { sc->s, sc->good };
    struct ckpt_err why = { 0 };
    enum ckpt_status st = CKPT_NO_MEMORY;
    if (!context_init(&sc->c))
        err_set(&why, st, "no memory to verify");
    else
        st = reader_open(tiers, sc->good ? 2 : 1, sc->c.job, &sc->c.name, &sc->c.r, &why);
    st = st == CKPT_OK ? walk(sc, err) : report_unopened(sc, st, &why, err);
    context_fini(&sc->c);
    sc->report.chunks = sc->c.chunks_checked;
    if (st != CKPT_OK)
        return st;
    *ret = sc->report;
    if (sc->bad)
        return err_set(err, CKPT_CORRUPT, "%" PRIu64 " objects damaged, %" PRIu64 " missing",
                       sc->report.damaged, sc->report.missing);
    if (sc->report.awaited)
        return err_set(err, CKPT_BUSY, "not all has arrived: %" PRIu64 " packs missing",
                       sc->report.awaited);
    return CKPT_OK;
}

enum ckpt_status scrub_verify(struct store *s, const char *job, const struct ckpt_name *name,
                              uint64_t slot_bytes_max, const struct scrub_callbacks *cb,
                              struct scrub_report *ret, struct ckpt_err *err)
{
    struct scrub sc = { .c = { .job = job, .name = *name, .slot_bytes_max = slot_bytes_max },
                        .s = s,
                        .cb = cb };
    return scrub(&sc, ret, err);
}

enum ckpt_status scrub_repair(struct store *bad, struct store *good, const char *job,
                              const struct ckpt_name *name, const struct scrub_callbacks *cb,
                              struct scrub_report *ret, struct ckpt_err *err)
{
    struct scrub sc = { .c = { .job = job, .name = *name, .slot_bytes_max = CKPT_SLOT_BYTES_MAX },
                        .s = bad,
                        .good = good,
                        .cb = cb };
    return scrub(&sc, ret, err);
}
