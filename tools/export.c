/* A checkpoint as safetensors files and objects.
 *
 * Every tensor is declared whole, or as a rank holds it, with its place in the mapped
 * output file as the destination; then it is a restore like any other: plan, load, copy. */
#include "tools/export.h"

#include <fnmatch.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/mman.h>

#include "formats/convert.h"
#include "formats/desc.h"
#include "formats/dtype.h"
#include "formats/foreign/safetensors.h"
#include "storage/repo/load.h"
#include "tools/export_files.h"
#include "tools/output.h"

struct item {
    const struct index_tensor *t; /* borrowed from the reader */
    char *name;                   /* in the file; owned */
    uint8_t dtype;                /* in the file */
    uint32_t ndim;                /* of the array in the file */
    uint64_t shape[CKPT_DIMS_MAX];
    struct layout_piece *pieces; /* in it; owned */
    size_t piece_count;
    uint64_t bytes;
    size_t file;   /* which safetensors file */
    uint8_t *base; /* destination, row-major */
    bool is_object;
    bool owned; /* base is our own mapping (objects) */
};
struct exporter {
    struct store *const *stores;
    size_t store_count;
    const char *job;
    struct ckpt_name name;
    const struct export_options *o;
    struct reader *reader;
    struct item *items;
    size_t item_count, file_count;
    struct tie { /* tied tensors that were asked for */
        const struct index_tensor *t;
        char *name; /* in the file; owned */
    } * ties;
    size_t tie_count;
    void *room;              /* CONVERT_ROOM */
    struct layout_list list; /* with a layout */
    struct decl decl;
    struct export_files files;
    struct export_report report;
};

/* -- what is wanted ------------------------------------------------------ */

static uint8_t file_dtype(const struct exporter *x, const struct index_tensor *t)
{
    bool other = t->kind != DECL_LOCKED && convert_can(t->dtype, x->o->dtype);
    return other ? (uint8_t)x->o->dtype : t->dtype;
}

/* The whole tensor, dense; of a locked one the boxes in which it was saved. */
static enum ckpt_status whole_item(struct item *item, struct ckpt_err *err)
{
    const struct index_tensor *t = item->t;
    item->ndim = t->ndim;
    memcpy(item->shape, t->shape, t->ndim * sizeof(item->shape[0]));
    if (t->kind == DECL_LOCKED)
        return layout_saved_pieces(t, &item->pieces, &item->piece_count, err);
    item->pieces = calloc(1, sizeof(*item->pieces));
    if (!item->pieces)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    item->piece_count = 1;
    item->pieces[0].box = box_whole(t->ndim, t->shape);
    dense_strides(t->ndim, t->shape, 1, item->pieces[0].stride);
    return CKPT_OK;
}

/* What the rank holds of it; *ret_held false: nothing. */
static enum ckpt_status rank_item(struct exporter *x, struct item *item, bool *ret_held,
                                  struct ckpt_err *err)
{
    struct topology_shard shard;
    size_t i = layout_list_find(&x->list, item->t->name);
    enum ckpt_status st = layout_list_pieces(&x->list, i, (uint32_t)x->o->rank, &shard,
                                             &item->pieces, &item->piece_count, err);
    if (st != CKPT_OK)
        return st;
    *ret_held = shard.held;
    item->ndim = shard.ndim;
    memcpy(item->shape, shard.shape, shard.ndim * sizeof(item->shape[0]));
    return CKPT_OK;
}

static enum ckpt_status add_item(struct exporter *x, const struct index_tensor *t, const char *name,
                                 struct ckpt_err *err)
{
    struct item item = { .t = t,
                         .dtype = file_dtype(x, t),
                         .is_object = (t->flags & DECL_OBJECT) != 0 };
    bool held = true;
    CLEANUP_FREE char *copy = strdup(name);
    struct item *more = reallocarray(x->items, x->item_count + 1, sizeof(*more));
    if (more)
        x->items = more;
    if (!more || !copy)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    enum ckpt_status st = x->o->layout ? rank_item(x, &item, &held, err) : whole_item(&item, err);
    if (st == CKPT_OK && held) {
        struct box whole = box_whole(item.ndim, item.shape);
        /* Places are of the saved elements. */
        for (size_t i = 0; i < item.piece_count && item.dtype != t->dtype; i++)
            item.pieces[i].offset_bytes = item.pieces[i].offset_bytes / (dtype_bits(t->dtype) / 8) *
                                          (dtype_bits(item.dtype) / 8);
        item.bytes = box_bytes(&whole, dtype_bits(item.dtype));
        item.name = TAKE_PTR(copy);
        x->items[x->item_count++] = item;
    } else {
        free(item.pieces);
    }
    return st;
}

static enum ckpt_status add_tie(struct exporter *x, const struct index_tensor *t, const char *name,
                                struct ckpt_err *err)
{
    struct tie *more = reallocarray(x->ties, x->tie_count + 1, sizeof(*more));
    CLEANUP_FREE char *copy = strdup(name);
    if (more)
        x->ties = more;
    if (!more || !copy)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    x->ties[x->tie_count++] = (struct tie){ t, TAKE_PTR(copy) };
    return CKPT_OK;
}

/* A tied tensor is a note; the tensor that has the bytes comes along, wanted or not. */
static enum ckpt_status add_target(struct exporter *x, const char *name, struct ckpt_err *err)
{
    for (size_t i = 0; i < x->item_count; i++) {
        if (strcmp(x->items[i].t->name, name) == 0)
            return CKPT_OK;
    }
    const struct index_tensor *target;
    char renamed[CKPT_TENSOR_NAME_MAX + 1];
    enum ckpt_status st = reader_tensor(x->reader, name, &target, err);
    if (st == CKPT_OK)
        st = select_rename(x->o->select, target->name, renamed, err);
    return st == CKPT_OK ? add_item(x, target, renamed, err) : st;
}

/* A tensor of the checkpoint, if it is wanted. */
static enum ckpt_status choose_tensor(struct exporter *x, const struct index_tensor *t,
                                      struct ckpt_err *err)
{
    char name[CKPT_TENSOR_NAME_MAX + 1];
    enum ckpt_status st = select_rename(x->o->select, t->name, name, err);
    if (st != CKPT_OK || !select_wants(x->o->select, name) ||
        (x->o->glob && fnmatch(x->o->glob, t->name, 0) != 0))
        return st;
    return t->alias ? add_tie(x, t, name, err) : add_item(x, t, name, err);
}

struct file_name { /* what a tensor is called in the files, and what it was called */
    const char *name, *saved;
};

static int compare_file_names(const void *a, const void *b)
{
    return strcmp(((const struct file_name *)a)->name, ((const struct file_name *)b)->name);
}

/* Two tensors cannot have one name. */
static enum ckpt_status check_names(const struct exporter *x, struct ckpt_err *err)
{
    size_t n = x->item_count + x->tie_count;
    if (select_is_all(x->o->select) || x->o->select->renames == 0 || n == 0)
        return CKPT_OK;
    CLEANUP_FREE struct file_name *all = calloc(n, sizeof(*all));
    if (!all)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    for (size_t i = 0; i < x->item_count; i++)
        all[i] = (struct file_name){ x->items[i].name, x->items[i].t->name };
    for (size_t i = 0; i < x->tie_count; i++)
        all[x->item_count + i] = (struct file_name){ x->ties[i].name, x->ties[i].t->name };
    qsort(all, n, sizeof(*all), compare_file_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(all[i].name, all[i - 1].name) == 0)
            return err_set(err, CKPT_INVALID, "--rename: %.300s and %.300s both become %.300s",
                           all[i - 1].saved, all[i].saved, all[i].name);
    return CKPT_OK;
}

static enum ckpt_status choose(struct exporter *x, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint64_t i = 0; st == CKPT_OK && i < reader_tensor_count(x->reader); i++) {
        const struct index_tensor *t;
        st = reader_tensor_at(x->reader, i, &t, err);
        if (st == CKPT_OK)
            st = choose_tensor(x, t, err);
    }
    for (size_t i = 0; st == CKPT_OK && i < x->tie_count; i++)
        st = add_target(x, x->ties[i].t->alias, err); /* nothing, where the rank does not hold it */
    if (st == CKPT_OK)
        st = check_names(x, err);
    if (st == CKPT_OK && !select_is_all(x->o->select) && x->item_count == 0 && !x->o->layout)
        return err_set(err, CKPT_NOT_FOUND, "no tensor of %s@%llu matches --only and --exclude",
                       x->job, (unsigned long long)x->name.step);
    if (st == CKPT_OK && x->o->glob && x->item_count == 0 && !x->o->layout)
        return err_set(err, CKPT_NOT_FOUND, "no tensor of %s@%llu matches \"%s\"", x->job,
                       (unsigned long long)x->name.step, x->o->glob);
    return st;
}

/* As safetensors writers order them: wide elements first, so that all lie aligned. */
static int by_width_and_name(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    unsigned p = dtype_bits(x->dtype), q = dtype_bits(y->dtype);
    if (x->is_object != y->is_object)
        return x->is_object ? 1 : -1;
    return p != q ? (p > q ? -1 : 1) : strcmp(x->name, y->name);
}

/* A file closes when the next tensor would make it too large. */
static void deal_to_files(struct exporter *x)
{
    uint64_t max = x->o->file_bytes_max ? x->o->file_bytes_max : EXPORT_FILE_BYTES;
    uint64_t used = 0;
    if (x->item_count > 0)
        qsort(x->items, x->item_count, sizeof(*x->items), by_width_and_name);
    x->file_count = 1;
    for (size_t i = 0; i < x->item_count && !x->items[i].is_object; i++) {
        if (used > 0 && x->items[i].bytes > max - min_u64(used, max)) {
            x->file_count++;
            used = 0;
        }
        x->items[i].file = x->file_count - 1;
        used += x->items[i].bytes;
    }
}

/* -- the files ----------------------------------------------------------- */

static void file_name(const struct exporter *x, size_t file, char *ret, size_t cap)
{
    if (x->file_count == 1)
        snprintf(ret, cap, "model.safetensors");
    else
        snprintf(ret, cap, "model-%05zu-of-%05zu.safetensors", file + 1, x->file_count);
}

/* A tensor, as itself or as bytes with a note. */
static enum ckpt_status add_tensor(struct safetensors *s, const struct item *item,
                                   struct ckpt_err *err)
{
    if (safetensors_knows(item->dtype))
        return safetensors_add(s, item->name, item->dtype, item->ndim, item->shape, err);
    char key[CKPT_TENSOR_NAME_MAX + 32];
    char value[512];
    size_t len = (size_t)snprintf(value, sizeof(value), "%s [", dtype_name(item->dtype));
    for (uint32_t i = 0; i < item->ndim && len < sizeof(value); i++)
        len += (size_t)snprintf(value + len, sizeof(value) - len, "%s%llu", i ? "," : "",
                                (unsigned long long)item->shape[i]);
    if (len < sizeof(value))
        snprintf(value + len, sizeof(value) - len, "]");
    snprintf(key, sizeof(key), "ckpt.dtype.%s", item->name);
    enum ckpt_status st = safetensors_add_note(s, key, value, err);
    return st == CKPT_OK ? safetensors_add(s, item->name, CKPT_DTYPE_U8, 1, &item->bytes, err) : st;
}

/* "[8, 6]: [0:4, 0:6]; ...": of what shape the rank's array is a part, and which boxes. */
static enum ckpt_status add_shard_note(struct safetensors *s, const struct item *item,
                                       struct ckpt_err *err)
{
    char key[CKPT_TENSOR_NAME_MAX + 32], value[4096];
    size_t len = (size_t)snprintf(value, sizeof(value), "[");
    for (uint32_t d = 0; d < item->t->ndim; d++)
        len += (size_t)snprintf(value + len, sizeof(value) - len, "%s%llu", d ? ", " : "",
                                (unsigned long long)item->t->shape[d]);
    len += (size_t)snprintf(value + len, sizeof(value) - len, "]:");
    for (size_t i = 0; i < item->piece_count && len < sizeof(value); i++) {
        char box[400];
        if (sizeof(value) - len < sizeof(box) + 8) {
            snprintf(value + len, sizeof(value) - len, "; ...");
            break;
        }
        len += (size_t)snprintf(value + len, sizeof(value) - len, "%s %s", i ? ";" : "",
                                box_to_text(&item->pieces[i].box, box, sizeof(box)));
    }
    snprintf(key, sizeof(key), "ckpt.shard.%s", item->name);
    return safetensors_add_note(s, key, value, err);
}

static enum ckpt_status add_notes(const struct exporter *x, size_t file, struct safetensors *s,
                                  struct ckpt_err *err)
{
    char step[24], epoch[24];
    snprintf(step, sizeof(step), "%llu", (unsigned long long)x->name.step);
    snprintf(epoch, sizeof(epoch), "%llu", (unsigned long long)x->name.epoch);
    enum ckpt_status st = safetensors_add_note(s, "format", "pt", err);
    if (st == CKPT_OK)
        st = safetensors_add_note(s, "ckpt.job", x->job, err);
    if (st == CKPT_OK)
        st = safetensors_add_note(s, "ckpt.step", step, err);
    if (st == CKPT_OK)
        st = safetensors_add_note(s, "ckpt.epoch", epoch, err);
    for (size_t i = 0; st == CKPT_OK && i < x->tie_count; i++) {
        for (size_t k = 0; st == CKPT_OK && k < x->item_count; k++) {
            const struct item *item = &x->items[k];
            if (item->file == file && !item->is_object &&
                strcmp(item->t->name, x->ties[i].t->alias) == 0)
                st = safetensors_add_note(s, x->ties[i].name, item->name, err);
        }
    }
    return st;
}

/* Header in place, each tensor's base set. */
static enum ckpt_status fill_file(struct exporter *x, size_t file, struct safetensors *s,
                                  struct ckpt_err *err)
{
    CLEANUP_BUF struct buf head = { 0 };
    char name[64];
    void *map;
    for (size_t i = 0; i < x->item_count; i++) {
        const struct item *item = &x->items[i];
        enum ckpt_status st = CKPT_OK;
        bool here = item->file == file && !item->is_object;
        if (here)
            st = add_tensor(s, item, err);
        if (st == CKPT_OK && here && x->o->layout && x->item_count < SAFETENSORS_METADATA_MAX / 2)
            st = add_shard_note(s, item, err);
        if (st != CKPT_OK)
            return st;
    }
    enum ckpt_status st = add_notes(x, file, s, err);
    if (st == CKPT_OK)
        st = safetensors_encode(s, &head, err);
    file_name(x, file, name, sizeof(name));
    if (st == CKPT_OK)
        st = export_files_map(&x->files, name, s->data_begin + s->data_bytes, &map, err);
    if (st != CKPT_OK)
        return st;
    memcpy(map, head.data, head.len);
    size_t k = 0;
    for (size_t i = 0; i < x->item_count; i++) {
        if (x->items[i].file == file && !x->items[i].is_object)
            x->items[i].base = (uint8_t *)map + s->data_begin + s->tensors[k++].begin;
    }
    return CKPT_OK;
}

/* Objects are loaded into memory: their file holds less than the tensor does. */
static enum ckpt_status map_object(struct item *item, struct ckpt_err *err)
{
    void *map = mmap(NULL, max_u64(item->bytes, 1), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return err_errno(err, errno, "no memory for object \"%.200s\" (%llu bytes)", item->t->name,
                         (unsigned long long)item->bytes);
    item->base = map;
    item->owned = true;
    return CKPT_OK;
}

static enum ckpt_status make_files(struct exporter *x, struct ckpt_err *err)
{
    enum ckpt_status st = export_files_init(&x->files, x->o->dir, x->o->force, err);
    for (size_t file = 0; st == CKPT_OK && file < x->file_count; file++) {
        struct safetensors s = { 0 };
        st = fill_file(x, file, &s, err);
        safetensors_fini(&s);
    }
    for (size_t i = 0; st == CKPT_OK && i < x->item_count; i++) {
        if (x->items[i].is_object)
            st = map_object(&x->items[i], err);
    }
    return st;
}

/* -- the restore --------------------------------------------------------- */

static enum ckpt_status declare(struct exporter *x, struct ckpt_err *err)
{
    for (size_t i = 0; i < x->item_count; i++) {
        const struct index_tensor *t = x->items[i].t;
        struct desc desc = { .name = t->name };
        DESC_COPY(&desc, t);
        desc.dtype = x->items[i].dtype;
        enum ckpt_status st = decl_add_desc(&x->decl, &desc, err);
        for (size_t k = 0; st == CKPT_OK && k < x->items[i].piece_count; k++)
            st = layout_declare_piece(&x->decl, &x->items[i].pieces[k], err);
        if (st != CKPT_OK)
            return st;
    }
    return decl_finish(&x->decl, CKPT_SLOT_BYTES, err);
}

/* Where converted elements go. */
struct place {
    const struct box *held;
    const struct strided *to;
    unsigned bits;
};

static enum ckpt_status place_part(void *arg, const struct box *part, const void *bytes,
                                   struct ckpt_err *err)
{
    const struct place *p = arg;
    struct strided from = dense_at(part, p->bits, (void *)(uintptr_t)bytes);
    (void)err;
    box_copy(part, p->bits, p->held, p->to, part, &from);
    return CKPT_OK;
}

static void place_converted(struct exporter *x, const struct plan_iter *f, struct place *p,
                            const uint8_t *from)
{
    unsigned dtype = x->items[f->part->tensor].dtype;
    enum ckpt_status st = convert_box(&f->common, dtype, f->part->dtype, from, &x->room, place_part,
                                      p, &x->report.overflowed, NULL);
    (void)st; /* place_part cannot fail */
}

static uint64_t place_batch(struct exporter *x, const struct plan_batch *b, uint8_t *slot)
{
    uint64_t bytes = 0;
    struct plan_iter f = plan_iter_init(b, PLAN_ALL);
    while (plan_iter_next(&f)) {
        const struct item *item = &x->items[f.part->tensor];
        unsigned bits = dtype_bits(item->dtype);
        const struct layout_piece *piece = &item->pieces[f.part->piece];
        struct strided to = { .base = item->base + piece->offset_bytes };
        struct strided from = dense_at(&f.common, bits, slot + f.slot_offset);
        for (uint32_t d = 0; d < piece->box.ndim; d++)
            to.stride_bits[d] = piece->stride[d] * (int64_t)bits;
        bytes += box_bytes(&f.common, dtype_bits(item->t->dtype));
        if (f.part->dtype)
            place_converted(x, &f, &(struct place){ &piece->box, &to, bits }, slot + f.slot_offset);
        else
            box_copy(&f.common, bits, &piece->box, &to, &f.common, &from);
    }
    return bytes;
}

static enum ckpt_status load_batches(struct exporter *x, const struct plan *plan,
                                     struct load_work *work, void *slot, struct ckpt_err *err)
{
    struct load_stats stats = { 0 };
    for (size_t i = 0; i < plan->batch_count; i++) {
        enum ckpt_status st = load_batch(work, x->stores, x->store_count, x->job, &x->name,
                                         &plan->batches[i], &slot, &stats, err);
        if (st != CKPT_OK)
            return st;
        x->report.bytes += place_batch(x, &plan->batches[i], slot);
        if (x->o->progress)
            x->o->progress(x->o->progress_arg, x->report.bytes, plan->consumer_bytes[0]);
    }
    return CKPT_OK;
}

static enum ckpt_status load_all(struct exporter *x, struct ckpt_err *err)
{
    const struct decl *consumer = &x->decl;
    struct plan *plan = NULL;
    enum ckpt_status st = plan_new(x->reader, &consumer, 1, CKPT_SLOT_BYTES,
                                   PLAN_NO_UNASKED | PLAN_CONVERT, &plan, err);
    if (st != CKPT_OK)
        return st;
    struct load_work *work = load_work_new(CKPT_SLOT_BYTES);
    CLEANUP_FREE void *slot = aligned_alloc(CKPT_BLOCK, CKPT_SLOT_BYTES);
    x->room = aligned_alloc(CKPT_BLOCK, CONVERT_ROOM);
    if (work && slot && x->room)
        st = load_batches(x, plan, work, slot, err);
    else
        st = err_set(err, CKPT_NO_MEMORY, "no memory to restore with");
    load_work_free(work);
    plan_free(plan);
    return st;
}

/* -- the end ------------------------------------------------------------- */

static enum ckpt_status write_object(struct exporter *x, const struct item *item,
                                     struct ckpt_err *err)
{
    char name[CKPT_TENSOR_NAME_MAX + 16];
    struct cursor c = cursor_over(item->base, item->bytes);
    uint64_t len = cursor_u64(&c);
    if (!cursor_ok(&c) || len > cursor_left(&c))
        return err_set(err, CKPT_CORRUPT, "object \"%.200s\" says it has %llu bytes of %llu",
                       item->t->name, (unsigned long long)len, (unsigned long long)cursor_left(&c));
    snprintf(name, sizeof(name), "objects/%s", item->name);
    return export_files_write(&x->files, name, c.at, len, err);
}

/* {"metadata": {"total_size"}, "weight_map": {tensor: file}} */
static enum ckpt_status write_index(struct exporter *x, struct ckpt_err *err)
{
    json_t *map = json_object();
    json_int_t total = 0;
    char name[64];
    for (size_t i = 0; i < x->item_count && !x->items[i].is_object; i++) {
        file_name(x, x->items[i].file, name, sizeof(name));
        output_member(map, x->items[i].name, output_string(name));
        total += (json_int_t)x->items[i].bytes;
    }
    json_t *index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", total, "weight_map", map);
    CLEANUP_FREE char *text = index ? json_dumps(index, JSON_INDENT(2)) : NULL;
    json_decref(index);
    if (!text)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the index of files");
    return export_files_write(&x->files, "model.safetensors.index.json", text, strlen(text), err);
}

/* The index comes last: with it the set of files is complete. */
static enum ckpt_status finish(struct exporter *x, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < x->item_count; i++) {
        if (x->items[i].is_object)
            st = write_object(x, &x->items[i], err);
        if (x->items[i].is_object)
            x->report.objects++;
        else
            x->report.tensors++;
        x->report.converted += x->items[i].dtype != x->items[i].t->dtype;
    }
    if (st == CKPT_OK && x->file_count > 1)
        st = write_index(x, err);
    x->report.ties = x->tie_count;
    x->report.files = x->file_count;
    return st == CKPT_OK ? export_files_commit(&x->files, err) : st;
}

static void exporter_fini(struct exporter *x)
{
    for (size_t i = 0; i < x->item_count; i++) {
        if (x->items[i].owned)
            munmap(x->items[i].base, max_u64(x->items[i].bytes, 1));
        free(x->items[i].name);
        free(x->items[i].pieces);
    }
    for (size_t i = 0; i < x->tie_count; i++)
        free(x->ties[i].name);
    layout_list_fini(&x->list);
    free(x->items);
    free(x->ties);
    free(x->room);
    decl_fini(&x->decl);
    export_files_fini(&x->files);
    if (x->reader)
        reader_close(x->reader);
}

enum ckpt_status export_checkpoint(struct store *const *stores, size_t count, const char *job,
                                   const struct ckpt_name *name, const struct export_options *o,
                                   struct export_report *ret, struct ckpt_err *err)
{
    struct exporter x = {
        .stores = stores, .store_count = count, .job = job, .name = *name, .o = o
    };
    enum ckpt_status st = reader_open(stores, count, job, name, &x.reader, err);
    if (st == CKPT_OK && o->layout)
        st = layout_list_init(&x.list, x.reader, o->layout, err);
    if (st == CKPT_OK && o->layout)
        st = layout_check_rank(x.list.topology, o->rank, err);
    if (st == CKPT_OK)
        st = choose(&x, err);
    if (st == CKPT_OK) {
        deal_to_files(&x);
        st = make_files(&x, err);
    }
    if (st == CKPT_OK)
        st = declare(&x, err);
    if (st == CKPT_OK)
        st = load_all(&x, err);
    if (st == CKPT_OK)
        st = finish(&x, err);
    if (st == CKPT_OK)
        *ret = x.report;
    exporter_fini(&x);
    return st;
}
