/* Writes a small store directory through the real encoders: make_store DIRECTORY.
 * What it holds follows from formulas that tests/python/test_reader.py repeats:
 * element i of tensor number n is i * 7 + n ("wide": i / 1000), cut to its width;
 * U4 is filled by bytes.  Two ranks; rank 0's packs are images, rank 1's are zstd.
 * Run once per format version; the files are committed and never written again. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "formats/index.h"
#include "formats/pack.h"

#include "check.h"

#define JOB       "demo"
#define WORLD     2
#define SLOT      (UINT64_C(8) << 20)
#define TIME_NS   INT64_C(1767225600000000000)
#define OBJECT_IN 37 /* bytes in the object, of 108 */

/* Rank r holds rows[r] of it (or columns, if `dim` is 1); 0: nothing. */
static const struct {
    const char *name, *alias;
    uint8_t dtype, kind;
    uint16_t flags;
    uint32_t ndim, dim;
    uint64_t shape[3], part[WORLD];
    uint32_t replicas;
} model[] = {
    { "embed/weight", NULL, CKPT_DTYPE_BF16, 0, 0, 2, 0, { 129, 64 }, { 65, 64 }, 1 },
    { "head/weight",
      "embed/weight",
      CKPT_DTYPE_BF16,
      0,
      DECL_ALIAS,
      2,
      0,
      { 129, 64 },
      { 0, 0 },
      1 },
    { "layers.0/w", NULL, CKPT_DTYPE_F32, 0, 0, 2, 1, { 96, 80 }, { 40, 40 }, 1 },
    { "layers.0/cube", NULL, CKPT_DTYPE_I16, 0, 0, 3, 1, { 3, 5, 7 }, { 3, 2 }, 1 },
    { "optim/flat", NULL, CKPT_DTYPE_F32, 0, DECL_VOLATILE, 1, 0, { 40001 }, { 20001, 20000 }, 1 },
    { "q4", NULL, CKPT_DTYPE_U4, 0, 0, 2, 0, { 6, 16 }, { 0, 6 }, 1 },
    { "scales", NULL, CKPT_DTYPE_F8_E4M3, DECL_BLOCKED, 0, 1, 0, { 10 }, { 8, 2 }, 1 },
    { "locked", NULL, CKPT_DTYPE_U8, DECL_LOCKED, 0, 1, 0, { 99 }, { 99, 99 }, WORLD },
    { "step", NULL, CKPT_DTYPE_I64, 0, 0, 0, 0, { 0 }, { 1, 1 }, WORLD },
    { "empty", NULL, CKPT_DTYPE_F16, 0, 0, 2, 0, { 0, 7 }, { 0, 0 }, 1 },
    { "rng/0", NULL, CKPT_DTYPE_U8, 0, DECL_OBJECT, 1, 0, { 108 }, { 108, 0 }, 1 },
    { "wide", NULL, CKPT_DTYPE_I32, 0, 0, 2, 0, { 3, 450000 }, { 0, 3 }, 1 },
};
#define TENSORS ARRAY_COUNT(model)

static const struct ckpt_name older = { 1, 50, UINT64_C(0x1111) };
static struct ckpt_name name = { 1, 100, 0 };
static const char *root;

static void write_file(const char *key, const void *bytes, size_t len)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", root, key);
    for (char *at = path + strlen(root); (at = strchr(at + 1, '/'));) {
        *at = 0;
        mkdir(path, 0755);
        *at = '/';
    }
    CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, bytes, len) != (ssize_t)len) {
        perror(path);
        exit(1);
    }
}

static void write_buf(struct key key, struct buf *b)
{
    CHECK(!b->failed);
    write_file(key.text, b->data, b->len);
    buf_fini(b);
}

static void declare(struct decl *d, uint32_t rank)
{
    for (size_t i = 0; i < TENSORS; i++) {
        struct decl_tensor t = { .dtype = model[i].dtype,
                                 .kind = model[i].kind,
                                 .flags = model[i].flags,
                                 .ndim = model[i].ndim };
        CLEANUP_FREE char *text = strdup(model[i].name);
        CLEANUP_FREE char *alias = model[i].alias ? strdup(model[i].alias) : NULL;
        t.name = text;
        t.alias = alias;
        memcpy(t.shape, model[i].shape, sizeof(model[i].shape));
        t.block[0] = t.kind == DECL_BLOCKED ? 4 : 0;
        CHECK_OK(decl_add_tensor(d, &t, NULL));
        if (!model[i].part[rank])
            continue;
        struct decl_piece p = { .box = box_whole(t.ndim, t.shape),
                                .replica = model[i].replicas > 1 ? rank : 0,
                                .replica_count = model[i].replicas };
        uint32_t dim = model[i].dim;
        if (model[i].replicas == 1) {
            p.box.off[dim] = rank ? model[i].part[0] : 0;
            p.box.len[dim] = model[i].part[rank];
        }
        int64_t stride = 1;
        for (uint32_t k = t.ndim; k-- > 0;) {
            p.stride[k] = stride;
            stride *= (int64_t)p.box.len[k];
        }
        CHECK_OK(decl_add_piece(d, &p, NULL));
    }
    CHECK_OK(decl_finish(d, SLOT, NULL));
}

/* Byte b of tensor n in row-major order. */
static uint8_t byte_of(size_t n, uint64_t b)
{
    unsigned width = dtype_bits(model[n].dtype) / 8;
    width = width ? width : 1;
    if (model[n].flags & DECL_OBJECT)
        return b == 0 ? OBJECT_IN : b < 8 || b >= 8 + OBJECT_IN ? 0 : (uint8_t)(b * 7 + n);
    uint64_t i = b / width;
    uint64_t value = strcmp(model[n].name, "wide") == 0 ? i / 1000 : i * 7 + n;
    return (uint8_t)(value >> (8 * (b % width)));
}

/* The whole tensor, so that box_copy cuts tiles from it. */
static void fill_tile(const struct decl *d, const struct decl_tile *tile, uint8_t *to)
{
    const struct decl_tensor *t = &d->tensors[tile->tensor];
    unsigned bits = dtype_bits(t->dtype);
    struct box whole = box_whole(t->ndim, t->shape);
    uint64_t bytes = box_bytes(&whole, bits);
    CLEANUP_FREE uint8_t *all = malloc(bytes);
    for (uint64_t b = 0; b < bytes; b++)
        all[b] = byte_of(tile->tensor, b);
    struct strided from = dense_at(&whole, bits, all), into = dense_at(&tile->box, bits, to);
    box_copy(&tile->box, bits, &tile->box, &into, &whole, &from);
}

struct slot {
    uint8_t *image, *body;
    struct pack_chunk *chunks;
    uint32_t *raw_bytes;
    uint64_t used; /* of the body */
};

static void code_chunk(struct codec *codec, struct slot *s, uint32_t i, const uint8_t *raw)
{
    struct pack_chunk *c = &s->chunks[i];
    enum codec_id id;
    size_t n;
    uint64_t at = align_up(s->used, 8);
    CHECK_OK(codec_encode(codec, CODEC_ZSTD, 3, raw, c->raw_bytes, s->body + at, 2 * SLOT - at, &id,
                          &n));
    if (id == CODEC_STORED)
        memcpy(s->body + at, raw, n);
    c->offset = at;
    c->codec = (uint8_t)id;
    c->stored_bytes = (uint32_t)n;
    c->crc = crc32c(s->body + at, n);
    s->used = at + n;
}

static void write_pack(const struct decl *d, uint32_t rank, uint32_t slot, struct slot *s,
                       struct manifest_pack *pack)
{
    struct pack_head head = { .name = name, .job_hash = digest_hash(JOB, strlen(JOB)) };
    head.rank = rank;
    head.slot = slot;
    head.flags = rank == 0 ? PACK_FLAG_IMAGE : 0;
    head.id = pack->id;
    head.body_bytes = align_up(s->used, CKPT_BLOCK);
    head.chunk_count = d->slots[slot].chunks;
    head.chunks = s->chunks;
    uint32_t head_bytes = pack_head_bytes(head.chunk_count);
    struct buf out = { 0 };
    CHECK(buf_extend(&out, head_bytes));
    pack_head_encode(&head, out.data);
    buf_bytes(&out, rank == 0 ? s->image : s->body, head.body_bytes);
    write_buf(key_pack(JOB, &name, rank, slot, &pack->id), &out);
}

static void save_slot(const struct decl *d, uint32_t rank, uint32_t slot, struct digest *digests,
                      struct manifest_pack *pack)
{
    uint32_t count = d->slots[slot].chunks;
    struct slot s = { .image = calloc(1, SLOT), .body = calloc(2, SLOT) };
    s.chunks = calloc(count, sizeof(*s.chunks));
    s.raw_bytes = calloc(count, sizeof(*s.raw_bytes));
    struct codec *codec = codec_new();
    struct decl_walk w = decl_walk_slot(d, slot);
    struct decl_tile tile;
    for (uint32_t i = 0; decl_walk_next(&w, &tile); i++) {
        uint8_t *raw = s.image + tile.place.offset;
        fill_tile(d, &tile, raw);
        digests[tile.chunk] = digest_of(raw, tile.bytes);
        s.raw_bytes[i] = tile.bytes;
        s.chunks[i] = (struct pack_chunk){ .offset = tile.place.offset,
                                           .stored_bytes = tile.bytes,
                                           .raw_bytes = tile.bytes,
                                           .crc = crc32c(raw, tile.bytes) };
        if (rank)
            code_chunk(codec, &s, i, raw);
        else
            s.used = tile.place.offset + tile.bytes;
    }
    *pack = (struct manifest_pack){ .slot = slot, .chunks = count };
    pack->id = pack_id(digests + d->slots[slot].first_chunk, s.raw_bytes, count);
    write_pack(d, rank, slot, &s, pack);
    codec_free(codec);
    free(s.image);
    free(s.body);
    free(s.chunks);
    free(s.raw_bytes);
}

static void save_rank(const struct decl *d, uint32_t rank, struct index_rank *ret)
{
    struct manifest_header h = { .name = name, .rank = rank, .world = WORLD, .try_ = 1 };
    CLEANUP_FREE struct digest *digests = calloc(d->chunk_count + 1, sizeof(*digests));
    CLEANUP_FREE struct manifest_pack *packs = calloc(d->slot_count + 1, sizeof(*packs));
    struct buf out = { 0 };
    for (uint32_t s = 0; s < d->slot_count; s++)
        save_slot(d, rank, s, digests, &packs[s]);
    snprintf(h.job, sizeof(h.job), JOB);
    h.node[0] = ret->node[0] = (uint8_t)(0xa0 + rank);
    h.packs = packs;
    h.pack_count = d->slot_count;
    h.has_parent = true;
    h.parent = older;
    h.time_ns = TIME_NS;
    h.metric_count = 1;
    snprintf(h.metrics[0].name, sizeof(h.metrics[0].name), "loss");
    h.metrics[0].value = 2.5;
    manifest_encode(&h, d, digests, &out, &ret->sha);
    ret->bytes = out.len;
    ret->header_bytes = manifest_header_peek(out.data, out.len);
    write_buf(key_manifest(JOB, &name, rank), &out);
    struct record_rank_held held = {
        .name = name, .rank = rank, .pack_count = d->slot_count, .stored_bytes = 1
    };
    struct key key = key_rank_held(JOB, &name, rank);
    record_rank_held_encode(&held, key.text, &out);
    write_buf(key, &out);
}

static void merge(const struct decl *d, struct index_tensors *to)
{
    to->tensors = calloc(TENSORS, sizeof(*to->tensors));
    to->count = TENSORS;
    for (size_t i = 0; i < TENSORS; i++) {
        size_t ordinal = d[0].by_name[i], n = 0;
        const struct decl_tensor *t = &d[0].tensors[ordinal];
        struct index_from from[WORLD];
        struct index_tensor *x = &to->tensors[i];
        *x = (struct index_tensor){ .name = strdup(t->name),
                                    .alias = t->alias ? strdup(t->alias) : NULL,
                                    .dtype = t->dtype,
                                    .kind = t->kind,
                                    .flags = t->flags,
                                    .ndim = t->ndim,
                                    .runs = calloc(WORLD, sizeof(*x->runs)) };
        memcpy(x->shape, t->shape, sizeof(x->shape));
        memcpy(x->block, t->block, sizeof(x->block));
        for (uint32_t r = 0; r < WORLD; r++) {
            const struct decl_tensor *mine = &d[r].tensors[ordinal];
            const struct decl_piece *p = &d[r].pieces[mine->first_piece];
            if (mine->piece_count && p->writes)
                from[n++] = (struct index_from){ .box = p->share, .rank = r };
        }
        x->run_count = (uint32_t)index_fold(from, n, t->ndim, x->runs);
    }
}

static void publish(const struct decl *d, const struct index_rank *ranks)
{
    struct record_commit c = { .name = name, .world = WORLD, .try_ = 1, .has_parent = true };
    struct index_tensors tensors;
    struct buf *segments, out = { 0 };
    merge(d, &tensors);
    CHECK_OK(index_encode(&name, WORLD, ranks, &tensors, &segments, &c.index_segments,
                          &c.index_header_bytes, &c.index_sha, NULL));
    for (uint32_t k = 0; k < c.index_segments; k++)
        write_buf(key_index(JOB, &name, k), &segments[k]);
    free(segments);
    index_tensors_fini(&tensors);
    c.parent = older;
    c.time_ns = TIME_NS;
    c.tensor_count = TENSORS;
    for (uint32_t r = 0; r < WORLD; r++) {
        c.raw_bytes += d[r].raw_bytes;
        c.chunk_count += d[r].chunk_count;
        c.pack_count += d[r].slot_count;
    }
    struct key key = key_commit(JOB, &name);
    record_commit_encode(&c, key.text, &out);
    write_buf(key, &out);
    struct record_held held = { .name = name, .world = WORLD, .time_ns = TIME_NS };
    key = key_held(JOB, &name);
    record_held_encode(&held, key.text, &out);
    write_buf(key, &out);
}

/* What lies around a checkpoint: repository, launch, a later attempt given up, a
 * later checkpoint that was deleted (its commit and its life are all it has). */
static void write_others(void)
{
    struct buf out = { 0 };
    struct record_repo repo = { .format = 1, .time_ns = TIME_NS };
    struct record_claim claim = { .token = "t", .epoch = 1, .world = WORLD, .time_ns = TIME_NS };
    struct record_resolved resolved = { .epoch = 1, .kind = RESOLVED_NOTHING, .why = "new job" };
    struct record_abort abort_ = { .status = CKPT_FULL, .rank = 1, .by_epoch = 1 };
    struct record_life life = { .life = LIFE_DELETED, .time_ns = TIME_NS, .why = "a test" };
    struct ckpt_name dead = { 1, 120, attempt_of(JOB, 1, WORLD, 120, 1) };
    struct ckpt_name given_up = { 1, 110, attempt_of(JOB, 1, WORLD, 110, 1) };
    struct record_commit commit = { .name = dead, .world = WORLD, .index_segments = 1 };
    record_repo_encode(&repo, &out);
    write_file(KEY_REPO, out.data, out.len);
    buf_fini(&out);
    struct key key = key_claim(JOB, 1);
    record_claim_encode(&claim, key.text, &out);
    write_buf(key, &out);
    key = key_resolved(JOB, 1);
    record_resolved_encode(&resolved, key.text, &out);
    write_buf(key, &out);
    key = key_commit(JOB, &given_up);
    record_abort_encode(&abort_, key.text, &out);
    write_buf(key, &out);
    key = key_commit(JOB, &dead);
    record_commit_encode(&commit, key.text, &out);
    write_buf(key, &out);
    key = key_life(JOB, &dead, false, 1);
    record_life_encode(&life, key.text, &out);
    write_buf(key, &out);
}

int main(int argc, char **argv)
{
    struct decl d[WORLD] = { 0 };
    struct index_rank ranks[WORLD] = { 0 };
    if (argc != 2) {
        fprintf(stderr, "usage: make_store DIRECTORY\n");
        return 2;
    }
    root = argv[1];
    name.attempt = attempt_of(JOB, name.epoch, WORLD, name.step, 1);
    for (uint32_t r = 0; r < WORLD; r++) {
        declare(&d[r], r);
        save_rank(&d[r], r, &ranks[r]);
    }
    publish(d, ranks);
    write_others();
    for (uint32_t r = 0; r < WORLD; r++)
        decl_fini(&d[r]);
    return 0;
}
