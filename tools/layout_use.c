/* Layouts in the verbs. */
#include "tools/layout_use.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "formats/desc.h"
#include "tools/output.h"

#define PIECES_FEW 64

/* -- options ------------------------------------------------------------- */

static enum ckpt_status read_all(int fd, char *to, size_t want, size_t *ret_len, const char *path,
                                 struct ckpt_err *err)
{
    size_t len = 0;
    while (len < want) {
        ssize_t n = read(fd, to + len, want - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, errno, "cannot read layout file %s", path);
        if (n == 0)
            break;
        len += (size_t)n;
    }
    *ret_len = len;
    return CKPT_OK;
}

static enum ckpt_status read_file(struct layout_option *o, const char *path, struct ckpt_err *err)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) != 0)
        return err_errno(err, errno, "cannot open layout file %s (a mesh looks like tp=4,dp=2)",
                         path);
    if (!S_ISREG(stat.st_mode) && !S_ISFIFO(stat.st_mode))
        return err_set(err, CKPT_INVALID, "layout file %s is no file", path);
    o->text = malloc(TOPOLOGY_FILE_MAX + 1); /* one more, so that a longer one shows */
    if (!o->text)
        return err_set(err, CKPT_NO_MEMORY, "no memory for layout file %s", path);
    o->path = path;
    return read_all(fd, o->text, TOPOLOGY_FILE_MAX + 1, &o->len, path, err);
}

enum ckpt_status layout_option_add(struct layout_option *o, const char *value, struct ckpt_err *err)
{
    bool mesh = strchr(value, '=') && !strchr(value, '/');
    if (mesh ? o->mesh != NULL : o->path != NULL)
        return err_set(err, CKPT_INVALID, "two %s were given: %s and %s",
                       mesh ? "meshes" : "layout files", mesh ? o->mesh : o->path, value);
    if (!mesh)
        return read_file(o, value, err);
    struct topology_mesh m;
    o->mesh = value;
    return topology_mesh_parse(value, &m, err);
}

void layout_option_fini(struct layout_option *o)
{
    free(o->text);
    *o = (struct layout_option){ 0 };
}

/* -- lists --------------------------------------------------------------- */

/* The one dimension along which all boxes are shorter than the tensor; else `ndim`. */
static uint32_t cut_dim(const struct index_tensor *t)
{
    uint32_t found = t->ndim;
    for (uint32_t i = 0; i < t->run_count; i++) {
        for (uint32_t d = 0; d < t->ndim; d++) {
            if (t->runs[i].box0.len[d] == t->shape[d])
                continue;
            if (found != t->ndim && found != d)
                return t->ndim;
            found = d;
        }
    }
    return found;
}

static enum ckpt_status collect(struct layout_list *l, struct reader *r, struct ckpt_err *err)
{
    uint64_t count = reader_tensor_count(r);
    l->tensors = calloc(count + 1, sizeof(*l->tensors));
    l->described = calloc(count + 1, sizeof(*l->described));
    if (!l->tensors || !l->described)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    for (uint64_t i = 0; i < count; i++) {
        const struct index_tensor *t;
        enum ckpt_status st = reader_tensor_at(r, i, &t, err);
        if (st != CKPT_OK)
            return st;
        if (t->alias)
            continue;
        l->tensors[l->count] = t;
        l->described[l->count++] =
            (struct topology_tensor){ .name = t->name,
                                      .dtype = t->dtype,
                                      .kind = t->kind,
                                      .object = (t->flags & DECL_OBJECT) != 0,
                                      .ndim = t->ndim,
                                      .shape = t->shape,
                                      .cut_dim = cut_dim(t) };
    }
    return CKPT_OK;
}

enum ckpt_status layout_list_init(struct layout_list *l, struct reader *r,
                                  const struct layout_option *o, struct ckpt_err *err)
{
    const struct topology_source from = {
        .mesh = o->mesh, .file = o->path, .rules = o->text, .rules_len = o->len
    };
    *l = (struct layout_list){ 0 };
    enum ckpt_status st = collect(l, r, err);
    if (st == CKPT_OK)
        st = topology_new(&from, l->described, l->count, &l->topology, err);
    return st;
}

void layout_list_fini(struct layout_list *l)
{
    topology_free(l->topology);
    free(l->tensors);
    free(l->described);
    *l = (struct layout_list){ 0 };
}

enum ckpt_status layout_check_rank(const struct topology *t, uint64_t rank, struct ckpt_err *err)
{
    uint32_t world = topology_mesh(t)->world;
    if (rank < world)
        return CKPT_OK;
    char ranks[OUTPUT_TEXT];
    return err_set(err, CKPT_INVALID, "rank %llu: the mesh has %s, 0 to %u",
                   (unsigned long long)rank, output_count(world, "rank", ranks), world - 1);
}

/* -- pieces -------------------------------------------------------------- */

enum ckpt_status layout_pieces_of(const struct topology *t, size_t i, uint32_t rank,
                                  struct topology_shard *ret_shard, struct layout_piece **ret,
                                  size_t *ret_count, struct ckpt_err *err)
{
    struct layout_out out = { .cap = PIECES_FEW };
    for (;;) {
        struct ckpt_err why = { 0 };
        out.piece = calloc(out.cap, sizeof(*out.piece));
        if (!out.piece)
            return err_set(err, CKPT_NO_MEMORY, "no memory for %zu pieces", out.cap);
        enum ckpt_status st = topology_pieces(t, i, rank, &out, ret_shard, &why);
        if (st == CKPT_OK)
            break;
        free(out.piece);
        if (st != CKPT_LIMIT || out.count <= out.cap)
            return err_set(err, st, "%s", err_text(&why));
        out.cap = out.count;
    }
    *ret = out.piece;
    *ret_count = out.count;
    return CKPT_OK;
}

enum ckpt_status layout_saved_pieces(const struct index_tensor *t, struct layout_piece **ret,
                                     size_t *ret_count, struct ckpt_err *err)
{
    unsigned bits = dtype_bits(t->dtype);
    size_t count = 0, n = 0;
    for (uint32_t r = 0; r < t->run_count; r++)
        count += t->runs[r].count;
    struct layout_piece *pieces = calloc(count + 1, sizeof(*pieces));
    if (!pieces)
        return err_set(err, CKPT_NO_MEMORY, "no memory for %zu pieces", count);
    for (uint32_t r = 0; r < t->run_count; r++) {
        for (uint32_t i = 0; i < t->runs[r].count; i++) {
            struct layout_piece *p = &pieces[n++];
            uint32_t rank;
            uint64_t at = 0;
            p->box = index_run_box(&t->runs[r], i, &rank);
            p->replica_count = 1;
            dense_strides(t->ndim, t->shape, 1, p->stride);
            for (uint32_t d = 0; d < t->ndim; d++)
                at += p->box.off[d] * (uint64_t)p->stride[d];
            p->offset_bytes = at * bits / 8;
        }
    }
    *ret = pieces;
    *ret_count = n;
    return CKPT_OK;
}

enum ckpt_status layout_list_pieces(const struct layout_list *l, size_t i, uint32_t rank,
                                    struct topology_shard *ret_shard, struct layout_piece **ret,
                                    size_t *ret_count, struct ckpt_err *err)
{
    const struct index_tensor *t = l->tensors[i];
    struct layout_piece *pieces;
    size_t count;
    enum ckpt_status st = layout_pieces_of(l->topology, i, rank, ret_shard, &pieces, &count, err);
    if (st != CKPT_OK)
        return st;
    struct box whole = box_whole(t->ndim, t->shape);
    if (t->kind == DECL_LOCKED && count == 1 && box_equal(&pieces[0].box, &whole)) {
        free(pieces);
        return layout_saved_pieces(t, ret, ret_count, err);
    }
    *ret = pieces;
    *ret_count = count;
    return CKPT_OK;
}

enum ckpt_status layout_declare_piece(struct decl *d, const struct layout_piece *piece,
                                      struct ckpt_err *err)
{
    struct decl_piece p = { .box = piece->box,
                            .offset_bytes = piece->offset_bytes,
                            .replica_count = 1 };
    memcpy(p.stride, piece->stride, sizeof(p.stride));
    return decl_add_piece(d, &p, err);
}

static int by_name(const void *key, const void *of)
{
    return strcmp(key, (*(const struct index_tensor *const *)of)->name);
}

size_t layout_list_find(const struct layout_list *l, const char *name)
{
    const struct index_tensor **at =
        bsearch(name, l->tensors, l->count, sizeof(*l->tensors), by_name);
    return at ? (size_t)(at - l->tensors) : SIZE_MAX;
}

enum ckpt_status layout_list_declare(const struct layout_list *l, size_t i, uint32_t rank,
                                     struct decl *d, struct topology_shard *ret_shard,
                                     struct ckpt_err *err)
{
    const struct index_tensor *t = l->tensors[i];
    struct desc desc = { .name = t->name };
    CLEANUP_FREE struct layout_piece *pieces = NULL;
    size_t count = 0;
    DESC_COPY(&desc, t);
    enum ckpt_status st = layout_list_pieces(l, i, rank, ret_shard, &pieces, &count, err);
    if (st != CKPT_OK || !ret_shard->held)
        return st;
    st = decl_add_desc(d, &desc, err);
    for (size_t k = 0; st == CKPT_OK && k < count; k++)
        st = layout_declare_piece(d, &pieces[k], err);
    return st;
}
