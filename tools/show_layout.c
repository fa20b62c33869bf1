/* Draws who holds what.
 *
 * Each tensor becomes parts (box, ranks); tensors whose names differ in numbers alone and
 * whose parts are the same become one drawing. */
#include "tools/show_layout.h"

#include <fnmatch.h>
#include <stdio.h>

#include "formats/dtype.h"
#include "tools/draw.h"
#include "tools/output.h"

struct figure {
    char *name; /* numbers that differ are "*"; owned */
    uint64_t tensors, bytes;
    const struct index_tensor *t; /* the first of them */
    const struct index_tensor *last;
    struct draw_part *parts; /* owned */
    size_t part_count;
    char *how; /* in words; owned; NULL = as saved */
};
struct drawer {
    const struct show_layout *s;
    struct layout_list list; /* with a target */
    struct figure *figures;
    size_t count, cap;
};
/* A box and one of those that hold it. */
struct holder {
    struct box box;
    uint32_t rank;
};
struct holders {
    struct holder *at;
    size_t count, cap;
};

/* -- parts --------------------------------------------------------------- */

static enum ckpt_status add_holder(struct holders *h, const struct box *box, uint32_t rank,
                                   struct ckpt_err *err)
{
    if (h->count == h->cap) {
        size_t cap = h->cap ? 2 * h->cap : 64;
        struct holder *more = reallocarray(h->at, cap, sizeof(*more));
        if (!more)
            return err_set(err, CKPT_NO_MEMORY, "no memory to draw");
        h->at = more;
        h->cap = cap;
    }
    h->at[h->count] = (struct holder){ .rank = rank };
    h->at[h->count].box.ndim = box->ndim;
    memcpy(h->at[h->count].box.off, box->off, box->ndim * sizeof(box->off[0]));
    memcpy(h->at[h->count].box.len, box->len, box->ndim * sizeof(box->len[0]));
    h->count++;
    return CKPT_OK;
}

static enum ckpt_status saved_holders(const struct index_tensor *t, struct holders *h,
                                      struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t r = 0; r < t->run_count; r++) {
        for (uint32_t i = 0; st == CKPT_OK && i < t->runs[r].count; i++) {
            uint32_t rank;
            struct box box = index_run_box(&t->runs[r], i, &rank);
            st = add_holder(h, &box, rank, err);
        }
    }
    return st;
}

static enum ckpt_status target_holders(const struct layout_list *l, size_t i, struct holders *h,
                                       struct ckpt_err *err)
{
    uint32_t world = topology_mesh(l->topology)->world;
    enum ckpt_status st = CKPT_OK;
    for (uint32_t rank = 0; st == CKPT_OK && rank < world; rank++) {
        CLEANUP_FREE struct layout_piece *pieces = NULL;
        struct topology_shard shard;
        size_t count = 0;
        st = layout_pieces_of(l->topology, i, rank, &shard, &pieces, &count, err);
        for (size_t k = 0; st == CKPT_OK && k < count; k++)
            st = add_holder(h, &pieces[k].box, rank, err);
    }
    return st;
}

static int by_box(const void *a, const void *b)
{
    const struct holder *x = a, *y = b;
    int order = memcmp(&x->box, &y->box, sizeof(x->box));
    if (order)
        return order;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* "3", "0..7", "0..24 by 8", "0 1 4 5 and 12 more" */
static void ranks_label(const struct holder *h, size_t n, char ret[DRAW_LABEL])
{
    uint32_t step = n > 1 ? h[1].rank - h[0].rank : 1;
    bool even = true;
    for (size_t i = 1; i < n; i++)
        even &= h[i].rank - h[i - 1].rank == step;
    if (n == 1)
        snprintf(ret, DRAW_LABEL, "%u", h[0].rank);
    else if (even && step == 1)
        snprintf(ret, DRAW_LABEL, "%u..%u", h[0].rank, h[n - 1].rank);
    else if (n == 2)
        snprintf(ret, DRAW_LABEL, "%u %u", h[0].rank, h[1].rank);
    else if (even)
        snprintf(ret, DRAW_LABEL, "%u..%u by %u", h[0].rank, h[n - 1].rank, step);
    else if (n <= 4)
        snprintf(ret, DRAW_LABEL, n > 3 ? "%u %u %u %u" : "%u %u %u", h[0].rank, h[1].rank,
                 h[2].rank, h[n - 1].rank);
    else
        snprintf(ret, DRAW_LABEL, "%u %u and %zu more", h[0].rank, h[1].rank, n - 2);
}

/* The same label is the same owner. */
static uint32_t owner_of(const struct draw_part *parts, size_t count, const char *label,
                         uint32_t first_rank)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(parts[i].label, label) == 0)
            return parts[i].owner;
    }
    uint32_t owner = first_rank;
    for (size_t i = 0; i < count; i++) {
        if (parts[i].owner == owner) { /* another set of ranks with the same first one */
            owner += 1 << 20;
            i = SIZE_MAX; /* from the start */
        }
    }
    return owner;
}

static enum ckpt_status make_parts(struct holders *h, struct figure *f, struct ckpt_err *err)
{
    size_t next;
    f->parts = calloc(h->count + 1, sizeof(*f->parts));
    if (!f->parts)
        return err_set(err, CKPT_NO_MEMORY, "no memory to draw");
    if (h->count > 0)
        qsort(h->at, h->count, sizeof(*h->at), by_box);
    for (size_t i = 0; i < h->count; i = next) {
        struct draw_part *p = &f->parts[f->part_count];
        for (next = i + 1; next < h->count && box_equal(&h->at[i].box, &h->at[next].box);)
            next++;
        p->box = h->at[i].box;
        ranks_label(&h->at[i], next - i, p->label);
        p->owner = owner_of(f->parts, f->part_count, p->label, h->at[i].rank);
        f->part_count++;
    }
    return CKPT_OK;
}

/* -- figures ------------------------------------------------------------- */

/* "model.layers.*.mlp.w1" of a name with numbers. */
static char *general_name(const char *name)
{
    char *ret = strdup(name), *to = ret;
    for (const char *at = name; ret && *at;) {
        bool start = at == name || at[-1] == '.' || at[-1] == '/';
        size_t digits = strspn(at, "0123456789");
        bool number = start && digits > 0 && (!at[digits] || strchr("./", at[digits]));
        if (number)
            *to++ = '*';
        else
            *to++ = *at;
        at += number ? digits : 1;
    }
    if (ret)
        *to = 0;
    return ret;
}

static bool same_figure(const struct figure *a, const struct figure *b)
{
    if (strcmp(a->name, b->name) != 0 || a->t->dtype != b->t->dtype || a->t->ndim != b->t->ndim ||
        memcmp(a->t->shape, b->t->shape, a->t->ndim * sizeof(a->t->shape[0])) != 0 ||
        a->part_count != b->part_count)
        return false;
    for (size_t i = 0; i < a->part_count; i++) {
        if (a->parts[i].owner != b->parts[i].owner ||
            !box_equal(&a->parts[i].box, &b->parts[i].box))
            return false;
    }
    return true;
}

static void figure_fini(struct figure *f)
{
    free(f->name);
    free(f->parts);
    free(f->how);
}

/* Takes the figure, or counts it to the one that is alike. */
static enum ckpt_status keep(struct drawer *d, struct figure *f, struct ckpt_err *err)
{
    for (size_t i = d->count; i-- > 0;) {
        if (!same_figure(&d->figures[i], f))
            continue;
        d->figures[i].tensors++;
        d->figures[i].bytes += f->bytes;
        d->figures[i].last = f->t;
        figure_fini(f);
        return CKPT_OK;
    }
    if (d->count == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 64;
        struct figure *more = reallocarray(d->figures, cap, sizeof(*more));
        if (!more) {
            figure_fini(f);
            return err_set(err, CKPT_NO_MEMORY, "no memory to draw");
        }
        d->figures = more;
        d->cap = cap;
    }
    d->figures[d->count++] = *f;
    return CKPT_OK;
}

static enum ckpt_status add_tensor(struct drawer *d, const struct index_tensor *t,
                                   struct ckpt_err *err)
{
    struct box whole = box_whole(t->ndim, t->shape);
    struct figure f = { .name = general_name(t->name),
                        .t = t,
                        .tensors = 1,
                        .bytes = box_bytes(&whole, dtype_bits(t->dtype)) };
    struct holders h = { 0 };
    size_t i = d->s->target ? layout_list_find(&d->list, t->name) : 0;
    enum ckpt_status st = f.name ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "no memory to draw");
    if (st == CKPT_OK)
        st = d->s->target ? target_holders(&d->list, i, &h, err) : saved_holders(t, &h, err);
    if (st == CKPT_OK)
        st = make_parts(&h, &f, err);
    if (st == CKPT_OK && d->s->target) {
        char how[200];
        f.how = strdup(topology_to_text(d->list.topology, i, how, sizeof(how)));
    }
    free(h.at);
    if (st == CKPT_OK)
        return keep(d, &f, err);
    figure_fini(&f);
    return st;
}

/* -- output -------------------------------------------------------------- */

static void figure_title(const struct figure *f, char *ret, size_t cap)
{
    char bytes[OUTPUT_TEXT], tensors[OUTPUT_TEXT];
    size_t len = (size_t)snprintf(ret, cap, "%s  %s [", f->tensors > 1 ? f->name : f->t->name,
                                  f->t->flags & DECL_OBJECT ? "object" : dtype_name(f->t->dtype));
    for (uint32_t d = 0; d < f->t->ndim && len < cap; d++)
        len += (size_t)snprintf(ret + len, cap - len, "%s%llu", d ? ", " : "",
                                (unsigned long long)f->t->shape[d]);
    if (len < cap)
        len += (size_t)snprintf(ret + len, cap - len, "]  %s", output_bytes(f->bytes, bytes));
    if (len < cap && f->tensors > 1)
        snprintf(ret + len, cap - len, " in %s", output_count(f->tensors, "tensor", tensors));
}

static void print_parts(const struct figure *f)
{
    char box[256];
    for (size_t i = 0; i < f->part_count && i < DRAW_BANDS_MAX; i++)
        output_line(stdout, "            %-20s rank %s",
                    box_to_text(&f->parts[i].box, box, sizeof(box)), f->parts[i].label);
    if (f->part_count > DRAW_BANDS_MAX)
        printf("            and %zu more\n", f->part_count - DRAW_BANDS_MAX);
}

static enum ckpt_status draw_figure(const struct figure *f, struct draw_svg *svg,
                                    struct ckpt_err *err)
{
    char title[CKPT_TENSOR_NAME_MAX + 600];
    struct draw_grid g;
    enum ckpt_status st = draw_grid_init(&g, f->t->ndim, f->t->shape, f->parts, f->part_count, err);
    if (st != CKPT_OK)
        return st;
    figure_title(f, title, sizeof(title));
    output_line(stdout, "%s", title);
    if (f->tensors > 1)
        output_line(stdout, "  from %s to %s", f->t->name, f->last->name);
    if (f->how)
        output_line(stdout, "  %s", f->how);
    if (f->bytes == 0)
        printf("  no elements\n");
    else if (g.too_many)
        print_parts(f);
    else
        draw_text(&g, f->parts, stdout);
    puts("");
    if (svg && f->bytes > 0)
        draw_svg_tensor(svg, title, &g, f->parts);
    return CKPT_OK;
}

static void heading(const struct drawer *d, char *ret, size_t cap)
{
    const struct layout_option *o = d->s->target;
    char ranks[OUTPUT_TEXT];
    uint32_t world =
        o ? topology_mesh(d->list.topology)->world : reader_commit(d->s->reader)->world;
    output_count(world, "rank", ranks);
    if (o)
        snprintf(ret, cap, "%s onto %s: %s", d->s->title, o->mesh ? o->mesh : o->path, ranks);
    else
        snprintf(ret, cap, "%s as saved by %s", d->s->title, ranks);
}

static enum ckpt_status draw_all(const struct drawer *d, struct ckpt_err *err)
{
    static const char explained[] =
        "Each area is a part of a tensor, with the numbers of the ranks that hold it.";
    static const char written[] =
        "Each area is a part of a tensor, with the rank that wrote it (of several that hold the "
        "same part, one writes, or each a share).";
    struct draw_svg svg = { 0 };
    char head[512];
    const char *words = d->s->target ? explained : written;
    heading(d, head, sizeof(head));
    output_line(stdout, "%s", head);
    output_line(stdout, "%s", words);
    puts("");
    draw_svg_heading(&svg, head);
    draw_svg_words(&svg, words);
    draw_svg_words(&svg, "Drawn to scale; one colour for each set of ranks.");
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < d->count; i++)
        st = draw_figure(&d->figures[i], d->s->svg ? &svg : NULL, err);
    if (st == CKPT_OK && d->s->svg)
        st = draw_svg_write(&svg, d->s->svg, err);
    draw_svg_fini(&svg);
    return st == CKPT_OK ? output_flush(err) : st;
}

enum ckpt_status show_layout(const struct show_layout *s, uint64_t *ret_matched,
                             struct ckpt_err *err)
{
    struct drawer d = { .s = s };
    enum ckpt_status st = CKPT_OK;
    *ret_matched = 0;
    if (s->target)
        st = layout_list_init(&d.list, s->reader, s->target, err);
    for (uint64_t i = 0; st == CKPT_OK && i < reader_tensor_count(s->reader); i++) {
        const struct index_tensor *t;
        st = reader_tensor_at(s->reader, i, &t, err);
        if (st != CKPT_OK || t->alias || (s->glob && fnmatch(s->glob, t->name, 0) != 0))
            continue;
        st = add_tensor(&d, t, err);
        ++*ret_matched;
    }
    if (st == CKPT_OK)
        st = draw_all(&d, err);
    for (size_t i = 0; i < d.count; i++)
        figure_fini(&d.figures[i]);
    free(d.figures);
    layout_list_fini(&d.list);
    return st;
}
