/* A checkpoint as safetensors files and objects.
 *
 * Every tensor is declared whole, with its place in the mapped output file as the
 * destination; then it is a restore like any other: plan, load, copy. */
#include "tools/export.h"

#include <fnmatch.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/mman.h>

#include "formats/desc.h"
#include "formats/dtype.h"
#include "formats/foreign/safetensors.h"
#include "storage/repo/load.h"
#include "tools/export_files.h"

struct item {
    const struct index_tensor *t; /* borrowed from the reader */
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
    const struct index_tensor **ties; /* tied tensors that were asked for */
    size_t tie_count;
    struct decl decl;
    struct export_files files;
    struct export_report report;
};

/* -- what is wanted ------------------------------------------------------ */

static enum ckpt_status add_item(struct exporter *x, const struct index_tensor *t,
                                 struct ckpt_err *err)
{
    struct box whole = box_whole(t->ndim, t->shape);
    struct item *more = reallocarray(x->items, x->item_count + 1, sizeof(*more));
    if (!more)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    x->items = more;
    x->items[x->item_count++] = (struct item){ .t = t,
                                               .bytes = box_bytes(&whole, dtype_bits(t->dtype)),
                                               .is_object = (t->flags & DECL_OBJECT) != 0 };
    return CKPT_OK;
}

static enum ckpt_status add_tie(struct exporter *x, const struct index_tensor *t,
                                struct ckpt_err *err)
{
    const struct index_tensor **more = reallocarray(x->ties, x->tie_count + 1, sizeof(*more));
    if (!more)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    x->ties = more;
    x->ties[x->tie_count++] = t;
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
    enum ckpt_status st = reader_tensor(x->reader, name, &target, err);
    return st == CKPT_OK ? add_item(x, target, err) : st;
}

static enum ckpt_status choose(struct exporter *x, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint64_t i = 0; st == CKPT_OK && i < reader_tensor_count(x->reader); i++) {
        const struct index_tensor *t;
        st = reader_tensor_at(x->reader, i, &t, err);
        if (st == CKPT_OK && (!x->o->glob || fnmatch(x->o->glob, t->name, 0) == 0))
            st = t->alias ? add_tie(x, t, err) : add_item(x, t, err);
    }
    for (size_t i = 0; st == CKPT_OK && i < x->tie_count; i++)
        st = add_target(x, x->ties[i]->alias, err);
    if (st == CKPT_OK && x->o->glob && x->item_count == 0)
        return err_set(err, CKPT_NOT_FOUND, "no tensor of %s@%llu matches \"%s\"", x->job,
                       (unsigned long long)x->name.step, x->o->glob);
    return st;
}

/* As safetensors writers order them: wide elements first, so that all lie aligned. */
static int by_width_and_name(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    unsigned p = dtype_bits(x->t->dtype), q = dtype_bits(y->t->dtype);
    if (x->is_object != y->is_object)
        return x->is_object ? 1 : -1;
    return p != q ? (p > q ? -1 : 1) : strcmp(x->t->name, y->t->name);
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
    const struct index_tensor *t = item->t;
    if (safetensors_knows(t->dtype))
        return safetensors_add(s, t->name, t->dtype, t->ndim, t->shape, err);
    char key[CKPT_TENSOR_NAME_MAX + 32];
    char value[512];
    size_t len = (size_t)snprintf(value, sizeof(value), "%s [", dtype_name(t->dtype));
    for (uint32_t i = 0; i < t->ndim && len < sizeof(value); i++)
        len += (size_t)snprintf(value + len, sizeof(value) - len, "%s%llu", i ? "," : "",
                                (unsigned long long)t->shape[i]);
    if (len < sizeof(value))
        snprintf(value + len, sizeof(value) - len, "]");
    snprintf(key, sizeof(key), "ckpt.dtype.%s", t->name);
    enum ckpt_status st = safetensors_add_note(s, key, value, err);
    return st == CKPT_OK ? safetensors_add(s, t->name, CKPT_DTYPE_U8, 1, &item->bytes, err) : st;
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
                strcmp(item->t->name, x->ties[i]->alias) == 0)
                st = safetensors_add_note(s, x->ties[i]->name, item->t->name, err);
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
        if (item->file == file && !item->is_object)
            st = add_tensor(s, item, err);
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

/* Where a piece lies is our own business (place_batch); the plan only asks for boxes. */
static enum ckpt_status add_piece(struct exporter *x, const struct box *box, struct ckpt_err *err)
{
    struct decl_piece p = { .box = *box, .replica_count = 1 };
    return decl_add_piece(&x->decl, &p, err);
}

/* Locked tensors are only to be had as the boxes they were saved in. */
static enum ckpt_status add_saved_pieces(struct exporter *x, const struct index_tensor *t,
                                         struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t r = 0; r < t->run_count; r++) {
        for (uint32_t i = 0; st == CKPT_OK && i < t->runs[r].count; i++) {
            uint32_t rank;
            struct box box = index_run_box(&t->runs[r], i, &rank);
            st = add_piece(x, &box, err);
        }
    }
    return st;
}

static enum ckpt_status declare(struct exporter *x, struct ckpt_err *err)
{
    for (size_t i = 0; i < x->item_count; i++) {
        const struct index_tensor *t = x->items[i].t;
        struct desc desc = { .name = t->name };
        DESC_COPY(&desc, t);
        struct box whole = box_whole(t->ndim, t->shape);
        enum ckpt_status st = decl_add_desc(&x->decl, &desc, err);
        if (st == CKPT_OK)
            st = t->kind == DECL_LOCKED ? add_saved_pieces(x, t, err) : add_piece(x, &whole, err);
        if (st != CKPT_OK)
            return st;
    }
    return decl_finish(&x->decl, CKPT_SLOT_BYTES, err);
}

static uint64_t place_batch(struct exporter *x, const struct plan_batch *b, uint8_t *slot)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < b->frag_count; i++) {
        const struct plan_frag *f = &b->frags[i];
        const struct item *item = &x->items[f->tensor];
        unsigned bits = dtype_bits(item->t->dtype);
        struct box whole = box_whole(item->t->ndim, item->t->shape);
        struct strided to = dense_at(&whole, bits, item->base);
        struct strided from = dense_at(&f->common, bits, slot + f->slot_offset);
        box_copy(&f->common, bits, &whole, &to, &f->common, &from);
        bytes += box_bytes(&f->common, bits);
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
    enum ckpt_status st =
        plan_new(x->reader, &consumer, 1, CKPT_SLOT_BYTES, PLAN_NO_UNASKED, &plan, err);
    if (st != CKPT_OK)
        return st;
    struct load_work *work = load_work_new(CKPT_SLOT_BYTES);
    CLEANUP_FREE void *slot = aligned_alloc(CKPT_BLOCK, CKPT_SLOT_BYTES);
    if (work && slot)
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
    snprintf(name, sizeof(name), "objects/%s", item->t->name);
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
        json_object_set_new(map, x->items[i].t->name, json_string(name));
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
    }
    free(x->items);
    free(x->ties);
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
