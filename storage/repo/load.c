/* Runs one batch: the head says where the chunks lie, one vectored get fetches them.
 *
 *   pack    | head | A | B ....... | C | D |        what the batch wants: A B C D
 *   direct    A, B wanted whole by one fragment each and lying alike in pack and slot:
 *             one range straight into the slot
 *   window    C, D coded, or wanted in part or by several: ranges rounded to 4 KiB into
 *             working memory, then decoded once and laid into each consumer's slot
 *
 * A pack wanted whole is first taken for an image, so that head and body are one get.
 * Nothing is believed before CRC32C of what is stored and XXH3 of what it decodes to
 * were compared.  What fails is asked for again: once with the head read afresh (the
 * pack may have been coded anew under the same name), then from the next tier. */
#include "storage/repo/load.h"

#include <assert.h>
#include <sys/mman.h>

#include "formats/pack.h"
#include "storage/repo/life.h"

#define WINDOW_ALIGN (UINT64_C(2) << 20)  /* of a huge page */
#define WINDOW_JOIN  (UINT64_C(64) << 10) /* ranges nearer than this are read as one */

struct load_work {
    uint64_t window_bytes;
    uint8_t *window; /* what goes not straight into a slot */
    uint8_t *raw;    /* one decoded chunk */
    uint8_t *head;
    struct pack_chunk *chunks;  /* of the head, or as guessed */
    struct pack_chunk *told;    /* what the head says, beside a guess */
    struct store_range *ranges; /* STORE_RANGES_MAX */
    size_t range_count;
    uint8_t *state;   /* enum chunk_state of each chunk of the batch */
    uint64_t *placed; /* where in the window a chunk lies */
    struct codec *codec;
};
enum chunk_state {
    CHUNK_WANTED,
    CHUNK_DIRECT, /* asked for, lies in its slot */
    CHUNK_WINDOW, /* asked for, lies in the window */
    CHUNK_DONE,
};

/* One attempt at one tier. */
struct attempt {
    struct load_work *w;
    struct store *s;
    const char *job;
    const struct ckpt_name *name;
    const struct plan_batch *batch;
    void *const *slots;
    struct load_stats *stats;
    const char *key;
    uint64_t head_bytes;
    struct pack_head head;
    uint32_t bad_chunk; /* one that failed, for the message; UINT32_MAX = none */
};

struct load_work *load_work_new(uint64_t slot_bytes)
{
    struct load_work *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    /* A chunk and its rounding always fit. */
    w->window_bytes = align_up(slot_bytes, CKPT_BLOCK) + 2 * CKPT_BLOCK;
    w->window = aligned_alloc(WINDOW_ALIGN, align_up(w->window_bytes, WINDOW_ALIGN));
    if (w->window) /* direct reads into small pages are slower by a third */
        (void)madvise(w->window, w->window_bytes, MADV_HUGEPAGE);
    w->raw = aligned_alloc(CKPT_BLOCK, CKPT_CHUNK_BYTES_MAX);
    w->head = aligned_alloc(CKPT_BLOCK, pack_head_bytes(CKPT_PACK_CHUNKS_MAX));
    w->chunks = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->chunks));
    w->told = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->told));
    w->ranges = calloc(STORE_RANGES_MAX + 1, sizeof(*w->ranges));
    w->state = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->state));
    w->placed = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->placed));
    w->codec = codec_new();
    if (w->window && w->raw && w->head && w->chunks && w->told && w->ranges && w->state &&
        w->placed && w->codec)
        return w;
    load_work_free(w);
    return NULL;
}

void load_work_free(struct load_work *w)
{
    if (!w)
        return;
    free(w->window);
    free(w->raw);
    free(w->head);
    free(w->chunks);
    free(w->told);
    free(w->ranges);
    free(w->state);
    free(w->placed);
    codec_free(w->codec);
    free(w);
}

static uint32_t use_of(const struct plan_batch *b, uint32_t consumer)
{
    uint32_t low = 0, high = b->use_count;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (b->uses[mid].consumer <= consumer)
            low = mid;
        else
            high = mid;
    }
    assert(b->uses[low].consumer == consumer);
    return low;
}

static uint32_t consumer_of(const struct plan_batch *b, const struct plan_frag *f)
{
    return b->parts[f->part].consumer;
}

static uint8_t *frag_memory(const struct attempt *a, const struct plan_frag *f)
{
    return (uint8_t *)a->slots[use_of(a->batch, consumer_of(a->batch, f))] + f->slot_offset;
}

/* The only fragment, if it wants the whole chunk; else NULL. */
static const struct plan_frag *whole_frag(const struct plan_batch *b, const struct plan_chunk *c)
{
    const struct plan_frag *f = &b->frags[c->first_frag];
    struct box tile = plan_tile(b, c);
    return c->frag_count == 1 && box_contains(&b->parts[f->part].box, &tile) ? f : NULL;
}

/* --- the head ------------------------------------------------------------------- */

/* Checks the head's bytes in w->head; its chunks go to `chunks`. */
static enum ckpt_status take_head(struct attempt *a, struct pack_chunk *chunks,
                                  struct ckpt_err *err)
{
    const struct manifest_pack *pack = &a->batch->pack;
    a->head.chunks = chunks;
    enum ckpt_status st = pack_head_decode(a->w->head, a->head_bytes, pack->chunks, &a->head, err);
    if (st != CKPT_OK)
        return st;
    const struct pack_head *h = &a->head;
    if (!name_equal(&h->name, a->name) || h->rank != a->batch->rank || h->slot != pack->slot ||
        h->job_hash != digest_hash(a->job, strlen(a->job)) || !digest_equal(&h->id, &pack->id))
        return err_set(err, CKPT_CORRUPT, "%s is another pack under this name", a->key);
    return CKPT_OK;
}

static enum ckpt_status read_head(struct attempt *a, struct ckpt_err *err)
{
    const struct store_range range = { .bytes = a->head_bytes, .base = a->w->head };
    enum ckpt_status st = store_get(a->s, a->key, &range, 1, err);
    if (st != CKPT_OK)
        return st;
    a->stats->read_bytes += a->head_bytes;
    return take_head(a, a->w->chunks, err);
}

/* Of a pack that is wanted whole the head can be guessed: that of an image.  Then head and
 * body come with one get, instead of one behind the other through a full queue. */
static bool guess_head(struct attempt *a)
{
    const struct plan_batch *b = a->batch;
    uint64_t used = 0;
    if (b->chunk_count != b->pack.chunks)
        return false;
    for (uint32_t i = 0; i < b->chunk_count; i++) {
        if (b->chunks[i].index != i || a->w->state[i] != CHUNK_WANTED)
            return false;
        uint32_t bytes = b->chunks[i].raw_bytes;
        a->w->chunks[i] = (struct pack_chunk){ .offset = image_offset_next(&used, bytes),
                                               .stored_bytes = bytes,
                                               .raw_bytes = bytes,
                                               .codec = CODEC_STORED };
    }
    a->head.body_bytes = align_up(used, CKPT_BLOCK);
    return true;
}

/* Compares the guess with what the head says, and takes over the sums. */
static bool guess_holds(struct attempt *a)
{
    for (uint32_t i = 0; i < a->batch->chunk_count; i++) {
        struct pack_chunk *guess = &a->w->chunks[i];
        const struct pack_chunk *told = &a->w->told[i];
        if (told->offset != guess->offset || told->stored_bytes != guess->stored_bytes ||
            told->raw_bytes != guess->raw_bytes || told->codec != CODEC_STORED || told->planes)
            return false;
        guess->crc = told->crc;
    }
    return true;
}

/* --- what to read, and whereto -------------------------------------------------- */

/* The last fragment of a slot may be read on to the end of its block, when blocks of
 * pack and slot match: nothing lies behind it, the pack's body goes on at least as far,
 * and direct I/O stays direct. */
static uint64_t direct_bytes(const struct attempt *a, const struct plan_frag *f, uint64_t offset,
                             uint64_t bytes)
{
    const struct plan_use *use = &a->batch->uses[use_of(a->batch, consumer_of(a->batch, f))];
    bool last = f->slot_offset + bytes == use->slot_used;
    bool alike = f->slot_offset % CKPT_BLOCK == offset % CKPT_BLOCK;
    return last && alike ? align_up(offset + bytes, CKPT_BLOCK) - offset : bytes;
}

/* Joins a chunk to the range before it when pack and slot go on alike.  Between two
 * neighbours of a pack that are also neighbours of a slot lies only a gap. */
static bool join_direct(struct attempt *a, uint32_t i, uint64_t offset, const uint8_t *to)
{
    struct store_range *last = a->w->range_count ? &a->w->ranges[a->w->range_count - 1] : NULL;
    if (!last || i == 0 || a->w->state[i - 1] != CHUNK_DIRECT ||
        a->batch->chunks[i - 1].index + 1 != a->batch->chunks[i].index)
        return false;
    const struct plan_frag *f = &a->batch->frags[a->batch->chunks[i].first_frag];
    const struct plan_frag *before = &a->batch->frags[a->batch->chunks[i - 1].first_frag];
    uint8_t *base = last->base;
    if (consumer_of(a->batch, before) != consumer_of(a->batch, f) || offset < last->offset ||
        base + (offset - last->offset) != to)
        return false;
    last->bytes = offset - last->offset + direct_bytes(a, f, offset, a->batch->chunks[i].raw_bytes);
    return true;
}

static void want_direct(struct attempt *a, uint32_t i, const struct plan_frag *f)
{
    struct load_work *w = a->w;
    uint64_t offset = a->head_bytes + w->chunks[a->batch->chunks[i].index].offset;
    uint8_t *to = frag_memory(a, f);
    if (!join_direct(a, i, offset, to))
        w->ranges[w->range_count++] = (struct store_range){
            .offset = offset,
            .bytes = direct_bytes(a, f, offset, a->batch->chunks[i].raw_bytes),
            .base = to,
        };
    w->state[i] = CHUNK_DIRECT;
}

/* Reads [from, to) of the object, rounded to blocks, into the window; false if the
 * window is full. */
static bool want_window(struct attempt *a, uint32_t i, uint64_t *used, struct store_range **last)
{
    struct load_work *w = a->w;
    const struct pack_chunk *c = &w->chunks[a->batch->chunks[i].index];
    uint64_t object_end = a->head_bytes + a->head.body_bytes;
    uint64_t offset = a->head_bytes + c->offset;
    uint64_t from = offset / CKPT_BLOCK * CKPT_BLOCK;
    uint64_t to = min_u64(align_up(offset + c->stored_bytes, CKPT_BLOCK), object_end);
    struct store_range *r = *last;
    uint64_t end = r ? r->offset + r->bytes : 0;
    if (r && from >= r->offset && from <= end + WINDOW_JOIN) {
        uint64_t more = to > end ? to - end : 0;
        if (*used + more > w->window_bytes)
            return false;
        r->bytes += more;
        *used += more;
    } else {
        if (*used + (to - from) > w->window_bytes)
            return false;
        r = &w->ranges[w->range_count++];
        *r = (struct store_range){ .offset = from, .bytes = to - from, .base = w->window + *used };
        *used += to - from;
        *last = r;
    }
    w->placed[i] = (uint64_t)((uint8_t *)r->base - w->window) + (offset - r->offset);
    w->state[i] = CHUNK_WINDOW;
    return true;
}

/* Sets up ranges for chunks from *i on; stops when the window or the list is full. */
static void choose_ranges(struct attempt *a, uint32_t *i)
{
    struct load_work *w = a->w;
    struct store_range *last = NULL;
    uint64_t used = 0;
    w->range_count = 0;
    for (; *i < a->batch->chunk_count && w->range_count < STORE_RANGES_MAX; (*i)++) {
        const struct plan_chunk *c = &a->batch->chunks[*i];
        const struct pack_chunk *p = &w->chunks[c->index];
        if (w->state[*i] == CHUNK_DONE || p->raw_bytes != c->raw_bytes)
            continue;
        const struct plan_frag *f = whole_frag(a->batch, c);
        if (f && p->codec == CODEC_STORED && p->planes == 0) {
            want_direct(a, *i, f);
            continue;
        }
        if (!want_window(a, *i, &used, &last))
            return;
    }
}

/* --- check and lay out ---------------------------------------------------------- */

static void lay_out(const struct attempt *a, const struct plan_chunk *c, uint8_t *raw)
{
    struct box tile = plan_tile(a->batch, c), common;
    unsigned bits = dtype_bits(plan_saved(a->batch, c)->dtype);
    struct strided from = dense_at(&tile, bits, raw);
    for (uint32_t i = 0; i < c->frag_count; i++) {
        const struct plan_frag *f = &a->batch->frags[c->first_frag + i];
        bool meet = box_intersect(&tile, &a->batch->parts[f->part].box, &common);
        assert(meet); /* or there would be no fragment */
        struct strided to = dense_at(&common, bits, frag_memory(a, f));
        box_copy(&common, bits, &common, &to, &tile, &from);
    }
}

/* A chunk in the window: sum, decode (whole ones into their slot), digest, copy.  What is
 * stored as it is needs one pass for both sums. */
static bool finish_window(struct attempt *a, uint32_t i)
{
    const struct plan_chunk *c = &a->batch->chunks[i];
    const struct pack_chunk *p = &a->w->chunks[c->index];
    const struct plan_frag *f = whole_frag(a->batch, c);
    uint8_t *stored = a->w->window + a->w->placed[i], *raw = stored;
    bool plain = p->codec == CODEC_STORED && p->planes == 0;
    struct digest digest;
    uint32_t crc;
    if (plain && p->stored_bytes != c->raw_bytes)
        return false;
    if (plain)
        digest = digest_and_crc32c(stored, p->stored_bytes, &crc);
    else
        crc = crc32c(stored, p->stored_bytes);
    if (crc != p->crc)
        return false;
    if (!plain) {
        raw = f ? frag_memory(a, f) : a->w->raw;
        if (codec_decode(a->w->codec, p->codec, p->planes, stored, p->stored_bytes, raw,
                         c->raw_bytes) != CKPT_OK)
            return false;
        digest = digest_of(raw, c->raw_bytes);
    }
    if (!digest_equal(&digest, &c->digest))
        return false;
    if (!f || raw == stored)
        lay_out(a, c, raw);
    return true;
}

static bool finish_direct(const struct attempt *a, uint32_t i)
{
    const struct plan_chunk *c = &a->batch->chunks[i];
    const uint8_t *raw = frag_memory(a, &a->batch->frags[c->first_frag]);
    uint32_t crc;
    struct digest digest = digest_and_crc32c(raw, c->raw_bytes, &crc);
    return crc == a->w->chunks[c->index].crc && digest_equal(&digest, &c->digest);
}

static void finish_chunks(struct attempt *a, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        uint8_t *state = &a->w->state[i];
        if (*state == CHUNK_DONE)
            continue;
        bool ok = (*state == CHUNK_DIRECT && finish_direct(a, i)) ||
                  (*state == CHUNK_WINDOW && finish_window(a, i));
        *state = ok ? CHUNK_DONE : CHUNK_WANTED;
        if (ok)
            a->stats->raw_bytes += a->batch->chunks[i].raw_bytes;
        else
            a->bad_chunk = i;
    }
}

/* One get for head and body; *ret: the guess held and all chunks were looked at.
 * Otherwise nothing happened: what came may be anything and is asked for again, but of a store
 * that cannot be reached (CKPT_UNREACHABLE). */
static enum ckpt_status run_guess(struct attempt *a, bool *ret, struct ckpt_err *err)
{
    struct load_work *w = a->w;
    uint32_t n = a->batch->chunk_count, chosen = 0;
    struct ckpt_err why = { 0 };
    *ret = false;
    if (!guess_head(a))
        return CKPT_OK;
    choose_ranges(a, &chosen);
    w->ranges[w->range_count] = (struct store_range){ .bytes = a->head_bytes, .base = w->head };
    size_t count = w->range_count + 1;
    bool ok = chosen == n && count <= STORE_RANGES_MAX;
    enum ckpt_status st = ok ? store_get(a->s, a->key, w->ranges, count, &why) : CKPT_OK;
    if (st == CKPT_UNREACHABLE)
        return err_set(err, st, "%s", err_text(&why));
    ok = ok && st == CKPT_OK;
    for (size_t r = 0; ok && r < count; r++)
        a->stats->read_bytes += w->ranges[r].bytes;
    ok = ok && take_head(a, w->told, &why) == CKPT_OK && guess_holds(a);
    if (ok)
        finish_chunks(a, 0, n);
    for (uint32_t i = 0; i < n; i++)
        w->state[i] = w->state[i] == CHUNK_DONE ? CHUNK_DONE : CHUNK_WANTED;
    *ret = ok;
    return CKPT_OK;
}

/* The head first, then what it says. */
static enum ckpt_status run_told(struct attempt *a, struct ckpt_err *err)
{
    struct load_work *w = a->w;
    enum ckpt_status st = read_head(a, err);
    for (uint32_t i = 0; st == CKPT_OK && i < a->batch->chunk_count;) {
        uint32_t from = i;
        choose_ranges(a, &i);
        st = w->range_count ? store_get(a->s, a->key, w->ranges, w->range_count, err) : CKPT_OK;
        if (st != CKPT_OK)
            return st;
        for (size_t r = 0; r < w->range_count; r++)
            a->stats->read_bytes += w->ranges[r].bytes;
        finish_chunks(a, from, i);
    }
    return st;
}

/* CKPT_CORRUPT: some chunks are still wanted. */
static enum ckpt_status run_attempt(struct attempt *a, struct ckpt_err *err)
{
    const struct manifest_pack *pack = &a->batch->pack;
    if (pack->chunks == 0 || pack->chunks > CKPT_PACK_CHUNKS_MAX)
        return err_set(err, CKPT_CORRUPT, "%s: the manifest says %u chunks", a->key, pack->chunks);
    a->head_bytes = pack_head_bytes(pack->chunks);
    a->bad_chunk = UINT32_MAX;
    bool looked;
    enum ckpt_status st = run_guess(a, &looked, err);
    if (st == CKPT_OK && !looked)
        st = run_told(a, err);
    if (st != CKPT_OK)
        return st;
    if (a->bad_chunk == UINT32_MAX)
        return CKPT_OK;
    char text[400];
    const struct plan_chunk *c = &a->batch->chunks[a->bad_chunk];
    struct box tile = plan_tile(a->batch, c);
    return err_set(err, CKPT_CORRUPT, "tensor %s, box %s: chunk %u of %s in %s is damaged",
                   plan_saved(a->batch, c)->name, box_to_text(&tile, text, sizeof(text)), c->index,
                   a->key, a->s->url);
}

/* --- the tiers ------------------------------------------------------------------ */

static uint32_t count_wanted(const struct load_work *w, uint32_t n)
{
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < n; i++)
        wanted += w->state[i] != CHUNK_DONE;
    return wanted;
}

/* Once, and if bytes were wrong, once more with a fresh head. */
static enum ckpt_status try_tier(struct attempt *a, bool *ret_retried, struct ckpt_err *err)
{
    uint32_t n = a->batch->chunk_count;
    for (int round = 0;; round++) {
        uint32_t wanted = count_wanted(a->w, n);
        struct ckpt_err why = { 0 };
        memset(&a->head, 0, sizeof(a->head));
        /* A range left half-filled by a failed get must not count as asked for. */
        for (uint32_t i = 0; i < n; i++)
            a->w->state[i] = a->w->state[i] == CHUNK_DONE ? CHUNK_DONE : CHUNK_WANTED;
        enum ckpt_status st = run_attempt(a, &why);
        if (*ret_retried)
            a->stats->retries += wanted - count_wanted(a->w, n);
        *ret_retried = true;
        if (st == CKPT_CORRUPT && round == 0)
            continue;
        return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
    }
}

/* The first store that has dropped its copy; NULL: none. */
static const char *who_dropped(struct store *const *tiers, size_t tier_count, const char *job,
                               const struct ckpt_name *name)
{
    enum life life;
    uint64_t n;
    for (size_t t = 0; t < tier_count; t++)
        if (life_look(tiers[t], job, name, true, &life, &n, NULL, NULL) == CKPT_OK &&
            life == LIFE_GONE)
            return tiers[t]->url;
    return NULL;
}

/* What stays when no tier could: damage, then trouble, then absence. */
static enum ckpt_status give_up(const struct plan_batch *b, const char *key, const char *dropped,
                                enum ckpt_status st, const struct ckpt_err *why,
                                struct ckpt_err *err)
{
    char text[400];
    const char *tensor = plan_saved(b, &b->chunks[0])->name;
    struct box tile = plan_tile(b, &b->chunks[0]);
    box_to_text(&tile, text, sizeof(text));
    if (st == CKPT_NOT_FOUND)
        return err_set(
            err, CKPT_IO,
            "tensor %s, box %s: %s is missing in every store that is in reach here%s%s%s", tensor,
            text, key, dropped ? "; it was dropped from " : "", dropped ? dropped : "",
            dropped ? ", as another store held it" : "");
    if (strstr(err_text(why), "tensor "))
        return err_set(err, st, "%s", err_text(why));
    return err_set(err, st, "tensor %s, box %s, object %s: %s", tensor, text, key, err_text(why));
}

static unsigned weight(enum ckpt_status st)
{
    if (st == CKPT_CORRUPT || st == CKPT_UNSUPPORTED)
        return 3;
    return st == CKPT_NOT_FOUND ? 1 : 2;
}

enum ckpt_status load_batch(struct load_work *w, struct store *const *tiers, size_t tier_count,
                            const char *job, const struct ckpt_name *name,
                            const struct plan_batch *batch, void *const *slots,
                            struct load_stats *stats, struct ckpt_err *err)
{
    assert(batch->chunk_count <= CKPT_PACK_CHUNKS_MAX && tier_count > 0);
    struct key key = key_pack(job, name, batch->rank, batch->pack.slot, &batch->pack.id);
    struct attempt a = { .w = w,
                         .job = job,
                         .name = name,
                         .batch = batch,
                         .slots = slots,
                         .stats = stats,
                         .key = key.text };
    struct ckpt_err worst = { 0 };
    enum ckpt_status worst_st = CKPT_NOT_FOUND;
    bool retried = false;
    memset(w->state, CHUNK_WANTED, batch->chunk_count);
    for (size_t t = 0; t < tier_count; t++) {
        struct ckpt_err why = { 0 };
        a.s = tiers[t];
        enum ckpt_status st = try_tier(&a, &retried, &why);
        if (st == CKPT_OK)
            return st;
        if (st == CKPT_CANCELLED || st == CKPT_TIMEOUT || st == CKPT_NO_MEMORY)
            return err_set(err, st, "%s", err_text(&why));
        if (st == CKPT_CORRUPT || st == CKPT_NOT_FOUND)
            stats->damaged_tier |= UINT32_C(1) << t;
        if (st == CKPT_UNREACHABLE)
            stats->away_tier |= UINT32_C(1) << t;
        if (t == 0 || weight(st) > weight(worst_st)) {
            worst_st = st;
            worst = why;
        }
    }
    const char *dropped =
        worst_st == CKPT_NOT_FOUND ? who_dropped(tiers, tier_count, job, name) : NULL;
    return give_up(batch, key.text, dropped, worst_st, &worst, err);
}

enum ckpt_status load_measure(struct load_work *w, struct store *s, const char *job,
                              const struct ckpt_name *name, const struct plan_batch *batch,
                              void *const *slots, uint64_t *ret_bytes, struct ckpt_err *err)
{
    assert(batch->chunk_count <= CKPT_PACK_CHUNKS_MAX);
    struct key key = key_pack(job, name, batch->rank, batch->pack.slot, &batch->pack.id);
    struct load_stats stats = { 0 };
    struct attempt a = { .w = w,
                         .s = s,
                         .job = job,
                         .name = name,
                         .batch = batch,
                         .slots = slots,
                         .stats = &stats,
                         .key = key.text };
    if (batch->pack.chunks == 0 || batch->pack.chunks > CKPT_PACK_CHUNKS_MAX)
        return err_set(err, CKPT_CORRUPT, "%s: the manifest says %u chunks", a.key,
                       batch->pack.chunks);
    a.head_bytes = pack_head_bytes(batch->pack.chunks);
    memset(w->state, CHUNK_WANTED, batch->chunk_count);
    enum ckpt_status st = read_head(&a, err);
    for (uint32_t i = 0; st == CKPT_OK && i < batch->chunk_count;) {
        choose_ranges(&a, &i);
        for (size_t r = 0; r < w->range_count; r++)
            stats.read_bytes += w->ranges[r].bytes;
    }
    if (st == CKPT_OK)
        *ret_bytes = stats.read_bytes;
    return st;
}
