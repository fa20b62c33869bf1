/* Reading manifests: hostile bytes until every digest and limit is checked. */
#include "formats/desc.h"
#include "formats/manifest.h"
#include "formats/manifest_layout.h"

static enum ckpt_status bad(struct ckpt_err *err, const char *what)
{
    return err_set(err, CKPT_CORRUPT, "damaged manifest: %s", what);
}

uint32_t manifest_header_peek(const void *bytes, size_t len)
{
    if (len < 64 || memcmp(bytes, MANIFEST_MAGIC, 8) != 0)
        return 0;
    struct cursor c = cursor_over((const uint8_t *)bytes + MANIFEST_HEADER_BYTES_AT, 4);
    uint32_t n = cursor_u32(&c);
    return n < MANIFEST_FIXED_BYTES + sizeof(struct digest) || n > MANIFEST_HEADER_BYTES_MAX ? 0
                                                                                             : n;
}

void manifest_header_fini(struct manifest_header *h)
{
    if (!h)
        return;
    for (uint32_t i = 0; h->blocks && i < h->block_count; i++)
        free(h->blocks[i].first);
    free(h->blocks);
    free(h->packs);
    h->blocks = NULL;
    h->packs = NULL;
    h->block_count = h->pack_count = 0;
}

static struct ckpt_name get_name(struct cursor *c)
{
    struct ckpt_name name;
    name.epoch = cursor_u64(c);
    name.step = cursor_u64(c);
    name.attempt = cursor_u64(c);
    return name;
}

/* The cursor stands behind magic, version. */
static void get_fixed(struct cursor *c, struct manifest_header *h)
{
    h->flags = cursor_u16(c);
    h->header_bytes = cursor_u32(c);
    h->name = get_name(c);
    h->rank = cursor_u32(c);
    h->world = cursor_u32(c);
    h->try_ = cursor_u32(c);
    h->pack_count = cursor_u32(c);
    h->block_count = cursor_u32(c);
    h->metric_count = cursor_u32(c);
    cursor_copy(c, h->node, sizeof(h->node));
    h->parent = get_name(c);
    h->time_ns = (int64_t)cursor_u64(c);
    h->raw_bytes = cursor_u64(c);
    h->chunk_count = cursor_u64(c);
    h->tensor_count = cursor_u64(c);
    uint16_t fail = cursor_u16(c);
    uint8_t has_parent = cursor_u8(c);
    cursor_zero(c, 5);
    cursor_zero(c, MANIFEST_RESERVED_BYTES);
    h->has_parent = has_parent;
    h->fail_status = (enum ckpt_status)fail;
    if (has_parent > 1 || !status_known(fail))
        cursor_fail(c);
}

static enum ckpt_status check_fixed(const struct manifest_header *h, struct ckpt_err *err)
{
    static const struct ckpt_name none;
    bool failed = h->flags & MANIFEST_FLAG_FAILED;
    if (h->flags & ~(MANIFEST_FLAG_FAILED | MANIFEST_FLAG_VANISHED_OK))
        return bad(err, "unknown flags");
    if (!h->world || h->world > CKPT_RANKS_MAX || h->rank >= h->world)
        return bad(err, "rank and world do not fit");
    if (!h->has_parent && !name_equal(&h->parent, &none))
        return bad(err, "a parent that is none");
    if (failed != (h->fail_status != CKPT_OK))
        return bad(err, "flag and status of failure differ");
    if (failed &&
        (h->pack_count || h->block_count || h->chunk_count || h->tensor_count || h->raw_bytes))
        return bad(err, "a failed part that holds something");
    if (h->metric_count > RECORD_METRICS_MAX || h->tensor_count > CKPT_TENSORS_MAX ||
        h->chunk_count > DECL_CHUNKS_MAX || h->raw_bytes > DECL_BYTES_MAX)
        return bad(err, "counts beyond the limits");
    return CKPT_OK;
}

static enum ckpt_status get_texts(struct cursor *c, struct manifest_header *h, struct ckpt_err *err)
{
    cursor_str(c, h->job, sizeof(h->job));
    cursor_str(c, h->fail_text, sizeof(h->fail_text));
    for (uint32_t i = 0; cursor_ok(c) && i < h->metric_count; i++) {
        cursor_str(c, h->metrics[i].name, sizeof(h->metrics[i].name));
        h->metrics[i].value = cursor_f64(c);
        /* The commit takes rank 0's metrics over, and refuses such a one when it is read. */
        if (cursor_ok(c) && !h->metrics[i].name[0])
            return bad(err, "a metric without a name");
    }
    if (!cursor_ok(c))
        return bad(err, "header cut short");
    if (h->fail_text[0] && !(h->flags & MANIFEST_FLAG_FAILED))
        return bad(err, "words of failure in a part that did not fail");
    return job_name_check(h->job, NULL) == CKPT_OK ? CKPT_OK : bad(err, "no job name");
}

static enum ckpt_status get_packs(struct cursor *c, struct manifest_header *h, struct ckpt_err *err)
{
    uint32_t count = h->pack_count;
    uint64_t chunks = 0;
    if (count > cursor_left(c) / MANIFEST_PACK_BYTES)
        return bad(err, "more packs than the header can hold");
    h->packs = calloc((size_t)count + 1, sizeof(*h->packs));
    if (!h->packs)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a manifest's %u packs", count);
    for (uint32_t i = 0; i < count; i++) {
        struct manifest_pack *p = &h->packs[i];
        p->slot = cursor_u32(c);
        p->chunks = cursor_u32(c);
        cursor_copy(c, p->id.b, sizeof(p->id.b));
        p->first_chunk = chunks;
        chunks += p->chunks;
        if (!p->chunks || p->chunks > CKPT_PACK_CHUNKS_MAX || (i && p->slot <= p[-1].slot))
            return bad(err, "pack table");
    }
    return chunks == h->chunk_count ? CKPT_OK : bad(err, "packs and chunks do not add up");
}

static enum ckpt_status get_block(struct cursor *c, struct manifest_block *b, const char *before,
                                  struct ckpt_err *err)
{
    char first[CKPT_TENSOR_NAME_MAX + 1];
    b->bytes = cursor_u32(c);
    b->tensors = cursor_u32(c);
    b->boxes = cursor_u32(c);
    b->witnesses = cursor_u32(c);
    cursor_copy(c, b->digest.b, sizeof(b->digest.b));
    cursor_str(c, first, sizeof(first));
    /* Sizes bound the counts, so that arrays for them cannot be out of proportion. */
    uint64_t least = (uint64_t)b->tensors * (DESC_BYTES_MIN + 8) + (uint64_t)b->boxes * 32 +
                     (uint64_t)b->witnesses * sizeof(struct digest);
    if (!cursor_ok(c) || !b->tensors || b->bytes > MANIFEST_BLOCK_BYTES_MAX || b->bytes < least)
        return bad(err, "block table");
    if (before && strcmp(before, first) >= 0)
        return bad(err, "blocks are not sorted");
    if (tensor_name_check(first, strlen(first), NULL) != CKPT_OK)
        return bad(err, "a block without a name");
    b->first = strdup(first);
    return b->first ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "no memory for a manifest");
}

static enum ckpt_status get_blocks(struct cursor *c, struct manifest_header *h,
                                   struct ckpt_err *err)
{
    uint32_t count = h->block_count;
    uint64_t offset = h->header_bytes, tensors = 0;
    if (count > cursor_left(c) / MANIFEST_BLOCK_ENTRY_MIN)
        return bad(err, "more blocks than the header can hold");
    h->blocks = calloc((size_t)count + 1, sizeof(*h->blocks));
    if (!h->blocks)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a manifest's %u blocks", count);
    for (uint32_t i = 0; i < count; i++) {
        struct manifest_block *b = &h->blocks[i];
        enum ckpt_status st = get_block(c, b, i ? b[-1].first : NULL, err);
        if (st != CKPT_OK)
            return st;
        b->offset = offset;
        offset += b->bytes;
        tensors += b->tensors;
    }
    if (tensors != h->tensor_count)
        return bad(err, "blocks and tensors do not add up");
    return cursor_done(c) ? CKPT_OK : bad(err, "bytes left over in the header");
}

static enum ckpt_status decode_header(struct cursor *c, struct manifest_header *h,
                                      struct ckpt_err *err)
{
    cursor_bytes(c, 8);
    uint16_t version = cursor_u16(c);
    if (version != MANIFEST_VERSION)
        return err_set(err, CKPT_UNSUPPORTED, "manifest of version %u, this program reads %d",
                       version, MANIFEST_VERSION);
    get_fixed(c, h);
    if (!cursor_ok(c))
        return bad(err, "header");
    enum ckpt_status st = check_fixed(h, err);
    if (st == CKPT_OK)
        st = get_texts(c, h, err);
    if (st == CKPT_OK)
        st = get_packs(c, h, err);
    if (st == CKPT_OK)
        st = get_blocks(c, h, err);
    return st;
}

enum ckpt_status manifest_header_decode(const void *bytes, size_t len, const struct sha256 *sha,
                                        struct manifest_header *ret, struct ckpt_err *err)
{
    uint32_t n = manifest_header_peek(bytes, len);
    if (!n)
        return bad(err, "not a manifest");
    if (n > len)
        return bad(err, "cut short");
    struct sha256 is = sha256_of(bytes, n);
    if (sha && !sha256_equal(sha, &is))
        return bad(err, "the header's SHA-256 is not the one in the index");
    size_t body = n - sizeof(struct digest);
    struct digest sum = digest_of(bytes, body);
    if (memcmp(sum.b, (const uint8_t *)bytes + body, sizeof(sum.b)) != 0)
        return bad(err, "the header's digest does not match");
    struct cursor c = cursor_over(bytes, body);
    struct manifest_header h = { 0 };
    enum ckpt_status st = decode_header(&c, &h, err);
    if (st == CKPT_OK)
        *ret = h;
    else
        manifest_header_fini(&h);
    return st;
}

/* --- blocks ------------------------------------------------------------------- */

static enum ckpt_status get_box(struct cursor *c, const struct manifest_header *h,
                                const struct manifest_tensor *t, struct manifest_box *b,
                                struct ckpt_err *err)
{
    unsigned bits = dtype_bits(t->dtype);
    desc_decode_box(c, t->ndim, &b->box);
    for (uint32_t i = 0; i < t->ndim; i++)
        b->tile[i] = cursor_u64(c);
    b->first_chunk = cursor_u64(c);
    b->chunks = cursor_u64(c);
    if (!cursor_ok(c))
        return bad(err, "a box is cut short");
    if (box_check(&b->box, t->shape, bits, NULL) != CKPT_OK || !box_volume(&b->box))
        return bad(err, "a box outside its tensor, or empty");
    if (tile_check(&b->box, bits, b->tile, NULL) != CKPT_OK ||
        b->chunks != tile_count(&b->box, b->tile))
        return bad(err, "a box and its tiles do not fit");
    if (b->first_chunk > h->chunk_count || b->chunks > h->chunk_count - b->first_chunk)
        return bad(err, "chunks beyond the rank's last");
    b->digests = (const void *)cursor_bytes(c, b->chunks * sizeof(struct digest));
    return b->digests ? CKPT_OK : bad(err, "digests are cut short");
}

static enum ckpt_status get_witness(struct cursor *c, const struct manifest_tensor *t,
                                    struct manifest_witness *w, struct ckpt_err *err)
{
    unsigned bits = dtype_bits(t->dtype);
    desc_decode_box(c, t->ndim, &w->box);
    cursor_copy(c, w->digest.b, sizeof(w->digest.b));
    if (!cursor_ok(c) || box_check(&w->box, t->shape, bits, NULL) != CKPT_OK ||
        !box_volume(&w->box) || box_bytes(&w->box, bits) > CKPT_CHUNK_BYTES_MAX)
        return bad(err, "a witness");
    return CKPT_OK;
}

/* A block as it is read: where it is, what was counted, and room for the parts of the
 * tensor that comes next. */
struct reader {
    const struct manifest_header *h;
    const struct manifest_block *b;
    const char *next;   /* first name of the next block; NULL: this is the last */
    const char *before; /* name of the tensor before; NULL: none */
    struct manifest_box *boxes;
    struct manifest_witness *witnesses;
    uint32_t box_count, witness_count; /* so far */
};

static enum ckpt_status get_counts(struct reader *r, struct cursor *c, struct manifest_tensor *t,
                                   struct ckpt_err *err)
{
    t->box_count = cursor_u32(c);
    t->witness_count = cursor_u32(c);
    if (!cursor_ok(c) || t->box_count > r->b->boxes - r->box_count ||
        t->witness_count > r->b->witnesses - r->witness_count)
        return bad(err, "more boxes than the header says");
    if (t->alias && t->box_count)
        return bad(err, "an alias with boxes");
    r->box_count += t->box_count;
    r->witness_count += t->witness_count;
    return CKPT_OK;
}

/* Into r->boxes and r->witnesses, which have the room. */
static enum ckpt_status get_parts(struct reader *r, struct cursor *c, struct manifest_tensor *t,
                                  struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    t->boxes = r->boxes;
    t->witnesses = r->witnesses;
    for (uint32_t i = 0; st == CKPT_OK && i < t->box_count; i++)
        st = get_box(c, r->h, t, &t->boxes[i], err);
    for (uint32_t i = 0; st == CKPT_OK && i < t->witness_count; i++)
        st = get_witness(c, t, &t->witnesses[i], err);
    if (st != CKPT_OK)
        err_prefix(err, "tensor %s", t->name);
    return st;
}

static enum ckpt_status check_order(struct reader *r, const char *name, struct ckpt_err *err)
{
    if (r->before ? strcmp(r->before, name) >= 0 : strcmp(r->b->first, name) != 0)
        return bad(err, "tensors are not sorted");
    r->before = name;
    return CKPT_OK;
}

static enum ckpt_status get_desc(struct reader *r, struct cursor *c, struct manifest_tensor *t,
                                 struct ckpt_err *err)
{
    struct desc desc;
    if (desc_decode(c, &desc, NULL) != CKPT_OK)
        return bad(err, "a tensor's description");
    DESC_COPY(t, &desc);
    t->name = desc.name;
    t->alias = desc.alias;
    return check_order(r, t->name, err);
}

static enum ckpt_status check_end(const struct reader *r, const struct cursor *c,
                                  struct ckpt_err *err)
{
    if (r->next && r->before && strcmp(r->before, r->next) >= 0)
        return bad(err, "tensors are not sorted");
    if (r->box_count != r->b->boxes || r->witness_count != r->b->witnesses || !cursor_done(c))
        return bad(err, "a block and its entry in the header differ");
    return CKPT_OK;
}

static enum ckpt_status get_tensors(struct reader *r, struct cursor *c, struct manifest_tensors *to,
                                    struct ckpt_err *err)
{
    const struct manifest_block *b = r->b;
    to->count = b->tensors;
    to->tensors = calloc(b->tensors, sizeof(*to->tensors));
    to->boxes = calloc((size_t)b->boxes + 1, sizeof(*to->boxes));
    to->witnesses = calloc((size_t)b->witnesses + 1, sizeof(*to->witnesses));
    if (!to->tensors || !to->boxes || !to->witnesses)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a block of %u tensors", b->tensors);
    for (size_t i = 0; i < to->count; i++) {
        r->boxes = to->boxes + r->box_count;
        r->witnesses = to->witnesses + r->witness_count;
        enum ckpt_status st = get_desc(r, c, &to->tensors[i], err);
        if (st == CKPT_OK)
            st = get_counts(r, c, &to->tensors[i], err);
        if (st == CKPT_OK)
            st = get_parts(r, c, &to->tensors[i], err);
        if (st != CKPT_OK)
            return st;
    }
    return check_end(r, c, err);
}

static enum ckpt_status begin_block(const struct manifest_header *h, uint32_t block,
                                    const void *bytes, size_t len, struct reader *ret,
                                    struct ckpt_err *err)
{
    if (block >= h->block_count || len != h->blocks[block].bytes)
        return bad(err, "a block of the wrong size");
    struct digest sum = digest_of(bytes, len);
    if (!digest_equal(&sum, &h->blocks[block].digest))
        return bad(err, "a block's digest does not match");
    const char *next = block + 1 < h->block_count ? h->blocks[block + 1].first : NULL;
    *ret = (struct reader){ .h = h, .b = &h->blocks[block], .next = next };
    return CKPT_OK;
}

enum ckpt_status manifest_block_decode(const struct manifest_header *h, uint32_t block,
                                       const void *bytes, size_t len, struct manifest_tensors *ret,
                                       struct ckpt_err *err)
{
    struct reader r;
    enum ckpt_status st = begin_block(h, block, bytes, len, &r, err);
    if (st != CKPT_OK)
        return st;
    struct manifest_tensors to = { 0 };
    struct cursor c = cursor_over(bytes, len);
    st = get_tensors(&r, &c, &to, err);
    if (st == CKPT_OK)
        *ret = to;
    else
        manifest_tensors_fini(&to);
    return st;
}

void manifest_tensors_fini(struct manifest_tensors *t)
{
    if (!t)
        return;
    free(t->tensors);
    free(t->boxes);
    free(t->witnesses);
    *t = (struct manifest_tensors){ 0 };
}

/* --- one tensor after the other ------------------------------------------------- */

struct manifest_walk {
    struct reader r;
    struct cursor c;
    uint32_t left; /* tensors */
    struct manifest_tensor t;
    struct manifest_box *boxes; /* room, used again */
    struct manifest_witness *witnesses;
    size_t box_cap, witness_cap;
};

struct manifest_walk *manifest_walk_new(void)
{
    return calloc(1, sizeof(struct manifest_walk));
}

void manifest_walk_free(struct manifest_walk *w)
{
    if (!w)
        return;
    free(w->boxes);
    free(w->witnesses);
    free(w);
}

enum ckpt_status manifest_walk_block(struct manifest_walk *w, const struct manifest_header *h,
                                     uint32_t block, const void *bytes, size_t len,
                                     struct ckpt_err *err)
{
    enum ckpt_status st = begin_block(h, block, bytes, len, &w->r, err);
    w->c = cursor_over(bytes, len);
    w->left = st == CKPT_OK ? w->r.b->tensors : 0;
    return st;
}

/* The description that was seen before, byte for byte, is right and needs no look. */
static bool take_known(struct manifest_walk *w, const struct manifest_known *known)
{
    if (!known || !known->bytes || known->len > cursor_left(&w->c) ||
        memcmp(w->c.at, known->bytes, known->len) != 0)
        return false;
    const uint8_t *at = cursor_bytes(&w->c, known->len);
    DESC_COPY(&w->t, &known->desc);
    w->t.name = (const char *)at + DESC_NAME_AT;
    w->t.alias = known->desc.alias ? w->t.name + strlen(w->t.name) + 1 : NULL;
    return true;
}

static bool make_room(struct manifest_walk *w)
{
    const struct manifest_tensor *t = &w->t;
    if (t->box_count > w->box_cap) {
        free(w->boxes);
        w->boxes = malloc(t->box_count * sizeof(*w->boxes));
        w->box_cap = w->boxes ? t->box_count : 0;
    }
    if (t->witness_count > w->witness_cap) {
        free(w->witnesses);
        w->witnesses = malloc(t->witness_count * sizeof(*w->witnesses));
        w->witness_cap = w->witnesses ? t->witness_count : 0;
    }
    w->r.boxes = w->boxes;
    w->r.witnesses = w->witnesses;
    return t->box_count <= w->box_cap && t->witness_count <= w->witness_cap;
}

enum ckpt_status manifest_walk_next(struct manifest_walk *w, const struct manifest_known *known,
                                    const struct manifest_tensor **ret, bool *ret_known,
                                    struct ckpt_err *err)
{
    if (w->left == 0) {
        *ret = NULL;
        return check_end(&w->r, &w->c, err);
    }
    *ret_known = take_known(w, known);
    enum ckpt_status st =
        *ret_known ? check_order(&w->r, w->t.name, err) : get_desc(&w->r, &w->c, &w->t, err);
    if (st == CKPT_OK)
        st = get_counts(&w->r, &w->c, &w->t, err);
    if (st == CKPT_OK && !make_room(w))
        return err_set(err, CKPT_NO_MEMORY, "no memory for %u boxes", w->t.box_count);
    if (st == CKPT_OK)
        st = get_parts(&w->r, &w->c, &w->t, err);
    w->left--;
    *ret = &w->t;
    return st;
}

/* --- finding ------------------------------------------------------------------ */

static const char *first_name(const void *of, uint32_t i)
{
    const struct manifest_header *h = of;
    return h->blocks[i].first;
}

uint32_t manifest_block_of(const struct manifest_header *h, const char *name)
{
    return desc_block_of(h, h->block_count, first_name, name);
}

uint32_t manifest_pack_of(const struct manifest_header *h, uint64_t ordinal)
{
    uint32_t low = 0, high = h->pack_count;
    if (ordinal >= h->chunk_count)
        return UINT32_MAX;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (h->packs[mid].first_chunk <= ordinal)
            low = mid;
        else
            high = mid;
    }
    return low;
}
