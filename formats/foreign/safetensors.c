/* safetensors: JSON by jansson, everything it says checked before it is believed.
 * A hostile header can claim any name, size and offset: names are those that our
 * tensors may have, sizes follow from shape and dtype, and the tensors must cover the
 * data exactly, one after the other. */
#include "formats/foreign/safetensors.h"

#include <jansson.h>
#include <stdio.h>

#include "formats/box.h"
#include "formats/dtype.h"
#include "formats/key.h"

bool safetensors_knows(unsigned dtype)
{
    return dtype_bits(dtype) != 0 && dtype != CKPT_DTYPE_C128 && dtype != CKPT_DTYPE_U4 &&
           dtype != CKPT_DTYPE_I4;
}

void safetensors_fini(struct safetensors *s)
{
    for (size_t i = 0; i < s->count; i++)
        free(s->tensors[i].name);
    for (size_t i = 0; i < s->note_count; i++) {
        free(s->notes[i].key);
        free(s->notes[i].value);
    }
    free(s->tensors);
    free(s->notes);
    *s = (struct safetensors){ 0 };
}

/* Appends a zeroed tensor of that name; NULL when out of memory. */
static struct safetensors_tensor *new_tensor(struct safetensors *s, const char *name)
{
    char *copy = strdup(name);
    if (!copy || !array_room((void **)&s->tensors, s->count, &s->cap, sizeof(*s->tensors))) {
        free(copy);
        return NULL;
    }
    struct safetensors_tensor *t = &s->tensors[s->count++];
    *t = (struct safetensors_tensor){ .name = copy };
    return t;
}

enum ckpt_status safetensors_add_note(struct safetensors *s, const char *key, const char *value,
                                      struct ckpt_err *err)
{
    char *k = strdup(key);
    char *v = strdup(value);
    if (!k || !v ||
        !array_room((void **)&s->notes, s->note_count, &s->note_cap, sizeof(*s->notes))) {
        free(k);
        free(v);
        return err_set(err, CKPT_NO_MEMORY, "no memory for the metadata of a safetensors file");
    }
    s->notes[s->note_count++] = (struct safetensors_note){ k, v };
    return CKPT_OK;
}

/* The bytes that shape and dtype amount to; false on overflow or a part of a byte. */
static bool dense_bytes(unsigned dtype, uint32_t ndim, const uint64_t *shape, uint64_t *ret)
{
    unsigned bits = dtype_bits(dtype);
    uint64_t bytes;
    if (!shape_bytes(ndim, shape, bits, &bytes))
        return false;
    struct box whole = box_whole(ndim, shape);
    uint64_t total_bits = box_volume(&whole) * bits;
    if (total_bits % 8 != 0)
        return false;
    *ret = total_bits / 8;
    return true;
}

/* -- parsing ------------------------------------------------------------- */

static enum ckpt_status parse_shape(const json_t *shape, struct safetensors_tensor *t,
                                    struct ckpt_err *err)
{
    if (!json_is_array(shape))
        return err_set(err, CKPT_CORRUPT, "tensor \"%.200s\" has no shape", t->name);
    size_t ndim = json_array_size(shape);
    if (ndim > CKPT_DIMS_MAX)
        return err_set(err, CKPT_LIMIT, "tensor \"%.200s\" has %zu dimensions; the limit is %d",
                       t->name, ndim, CKPT_DIMS_MAX);
    t->ndim = (uint32_t)ndim;
    for (size_t i = 0; i < ndim; i++) {
        const json_t *n = json_array_get(shape, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return err_set(err, CKPT_CORRUPT,
                           "tensor \"%.200s\": dimension %zu of its shape is no size", t->name, i);
        t->shape[i] = (uint64_t)json_integer_value(n);
    }
    return CKPT_OK;
}

static enum ckpt_status parse_offsets(const json_t *offsets, uint64_t data_bytes,
                                      struct safetensors_tensor *t, struct ckpt_err *err)
{
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return err_set(err, CKPT_CORRUPT, "tensor \"%.200s\": data_offsets are no range", t->name);
    t->begin = (uint64_t)json_integer_value(begin);
    t->bytes = (uint64_t)json_integer_value(end) - t->begin;
    if (t->begin > data_bytes || t->bytes > data_bytes - t->begin)
        return err_set(err, CKPT_CORRUPT,
                       "tensor \"%.200s\": its bytes %llu..%llu lie behind the end of the file "
                       "(%llu bytes of data): is the file cut short?",
                       t->name, (unsigned long long)t->begin,
                       (unsigned long long)(t->begin + t->bytes), (unsigned long long)data_bytes);
    return CKPT_OK;
}

static enum ckpt_status parse_tensor(const char *name, const json_t *value, uint64_t data_bytes,
                                     struct safetensors *s, struct ckpt_err *err)
{
    enum ckpt_status st = tensor_name_check(name, strlen(name), err);
    if (st != CKPT_OK)
        return st;
    struct safetensors_tensor *t = new_tensor(s, name);
    if (!t)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the header of a safetensors file");
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    if (!dtype)
        return err_set(err, CKPT_CORRUPT, "tensor \"%.200s\" has no dtype", name);
    t->dtype = dtype_parse(dtype, strlen(dtype));
    if (!t->dtype)
        return err_set(err, CKPT_UNSUPPORTED, "tensor \"%.200s\": dtype \"%.40s\" is not known",
                       name, dtype);
    st = parse_shape(json_object_get(value, "shape"), t, err);
    if (st == CKPT_OK)
        st = parse_offsets(json_object_get(value, "data_offsets"), data_bytes, t, err);
    if (st != CKPT_OK)
        return st;
    uint64_t bytes;
    if (!dense_bytes(t->dtype, t->ndim, t->shape, &bytes) || bytes != t->bytes)
        return err_set(err, CKPT_CORRUPT,
                       "tensor \"%.200s\": its shape and dtype do not amount to its %llu bytes",
                       name, (unsigned long long)t->bytes);
    return CKPT_OK;
}

static enum ckpt_status parse_notes(json_t *notes, struct safetensors *s, struct ckpt_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(notes) || json_object_size(notes) > SAFETENSORS_METADATA_MAX)
        return err_set(err, CKPT_CORRUPT, "__metadata__ is not an object of strings");
    json_object_foreach(notes, key, value)
    {
        if (!json_is_string(value))
            return err_set(err, CKPT_CORRUPT, "__metadata__: \"%.200s\" is not a string", key);
        enum ckpt_status st = safetensors_add_note(s, key, json_string_value(value), err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

static int by_begin(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    /* An empty tensor shares its begin with the one that follows. */
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* One after the other, without holes, to the end of the file. */
static enum ckpt_status check_cover(struct safetensors *s, struct ckpt_err *err)
{
    uint64_t at = 0;
    if (s->count > 0)
        qsort(s->tensors, s->count, sizeof(*s->tensors), by_begin);
    for (size_t i = 0; i < s->count; i++) {
        const struct safetensors_tensor *t = &s->tensors[i];
        if (t->begin != at)
            return err_set(err, CKPT_CORRUPT,
                           "tensor \"%.200s\" starts at byte %llu of the data, but %llu is next: "
                           "tensors overlap or leave a hole",
                           t->name, (unsigned long long)t->begin, (unsigned long long)at);
        at += t->bytes;
    }
    if (at != s->data_bytes)
        return err_set(err, CKPT_CORRUPT, "%llu bytes at the end of the file belong to no tensor",
                       (unsigned long long)(s->data_bytes - at));
    return CKPT_OK;
}

static enum ckpt_status parse_header(json_t *header, struct safetensors *s, struct ckpt_err *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value)
    {
        enum ckpt_status st = strcmp(name, "__metadata__") == 0
                                  ? parse_notes(value, s, err)
                                  : parse_tensor(name, value, s->data_bytes, s, err);
        if (st != CKPT_OK)
            return st;
    }
    return check_cover(s, err);
}

enum ckpt_status safetensors_parse(const void *bytes, size_t len, uint64_t file_bytes,
                                   struct safetensors *ret, struct ckpt_err *err)
{
    struct cursor c = cursor_over(bytes, len);
    uint64_t n = cursor_u64(&c);
    if (!cursor_ok(&c) || n > SAFETENSORS_HEADER_MAX || file_bytes < 8 || n > file_bytes - 8 ||
        n > cursor_left(&c) || n < 2 || *c.at != '{')
        return err_set(err, CKPT_CORRUPT, "not a safetensors file: its first bytes are no header");
    json_error_t why;
    json_t *header = json_loadb((const char *)c.at, (size_t)n, JSON_REJECT_DUPLICATES, &why);
    if (!header)
        return err_set(err, CKPT_CORRUPT, "the safetensors header is damaged: %s", why.text);
    struct safetensors s = { .data_begin = 8 + n, .data_bytes = file_bytes - 8 - n };
    enum ckpt_status st = parse_header(header, &s, err);
    json_decref(header);
    if (st != CKPT_OK)
        safetensors_fini(&s);
    else
        *ret = s;
    return st;
}

/* -- writing ------------------------------------------------------------- */

enum ckpt_status safetensors_add(struct safetensors *s, const char *name, unsigned dtype,
                                 uint32_t ndim, const uint64_t *shape, struct ckpt_err *err)
{
    uint64_t bytes;
    if (strcmp(name, "__metadata__") == 0)
        return err_set(err, CKPT_BAD_NAME, "no tensor of a safetensors file can be \"%s\"", name);
    if (!safetensors_knows(dtype))
        return err_set(err, CKPT_UNSUPPORTED, "safetensors has no dtype for tensor \"%.200s\" (%s)",
                       name, dtype_name(dtype));
    if (ndim > CKPT_DIMS_MAX || !dense_bytes(dtype, ndim, shape, &bytes) ||
        bytes > (UINT64_C(1) << 62) - s->data_bytes)
        return err_set(err, CKPT_LIMIT, "tensor \"%.200s\" does not fit a safetensors file", name);
    struct safetensors_tensor *t = new_tensor(s, name);
    if (!t)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the header of a safetensors file");
    t->dtype = dtype;
    t->ndim = ndim;
    memcpy(t->shape, shape, ndim * sizeof(*shape));
    t->begin = s->data_bytes;
    t->bytes = bytes;
    s->data_bytes += bytes;
    return CKPT_OK;
}

/* {"dtype": ..., "shape": [...], "data_offsets": [...]}, or NULL. */
static json_t *tensor_json(const struct safetensors_tensor *t)
{
    json_t *shape = json_array();
    for (uint32_t i = 0; i < t->ndim; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(t->dtype), "shape", shape,
                     "data_offsets", (json_int_t)t->begin, (json_int_t)(t->begin + t->bytes));
}

static json_t *header_json(const struct safetensors *s)
{
    json_t *header = json_object();
    json_t *notes = s->note_count ? json_object() : NULL;
    bool ok = header != NULL;
    for (size_t i = 0; i < s->note_count; i++)
        ok &= json_object_set_new(notes, s->notes[i].key, json_string(s->notes[i].value)) == 0;
    if (notes)
        ok &= json_object_set_new(header, "__metadata__", notes) == 0;
    for (size_t i = 0; i < s->count; i++)
        ok &= json_object_set_new(header, s->tensors[i].name, tensor_json(&s->tensors[i])) == 0;
    if (ok)
        return header;
    json_decref(header);
    return NULL;
}

enum ckpt_status safetensors_encode(struct safetensors *s, struct buf *out, struct ckpt_err *err)
{
    json_t *header = header_json(s);
    CLEANUP_FREE char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!text)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the header of a safetensors file");
    uint64_t len = strlen(text);
    uint64_t padded = align_up(len, 8);
    if (padded > SAFETENSORS_HEADER_MAX)
        return err_set(err, CKPT_LIMIT, "the header of a safetensors file would have %llu bytes",
                       (unsigned long long)padded);
    buf_u64(out, padded);
    buf_bytes(out, text, len);
    for (uint64_t i = len; i < padded; i++)
        buf_u8(out, ' ');
    if (out->failed)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the header of a safetensors file");
    s->data_begin = 8 + padded;
    return CKPT_OK;
}
