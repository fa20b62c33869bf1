/* A hash table of names. */
#include "s3/sink_objects.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>

#include "formats/digest.h"

#include "check.h"

#define SLOTS (2 * SINK_OBJECTS_MAX) /* a power of two */

struct object {
    char *key, *bytes; /* bytes: of small ones */
    uint64_t len;
    uint64_t parts; /* length of the parts of an upload under way */
    bool there;     /* false: removed, or not complete yet */
};

struct sink_objects {
    pthread_mutex_t lock;
    size_t used;
    struct object *slots[SLOTS];
};

struct sink_objects *sink_objects_new(void)
{
    struct sink_objects *o = calloc(1, sizeof(*o));
    CHECK(o);
    pthread_mutex_init(&o->lock, NULL);
    return o;
}

void sink_objects_free(struct sink_objects *o)
{
    for (size_t i = 0; i < SLOTS; i++) {
        if (o->slots[i]) {
            free(o->slots[i]->key);
            free(o->slots[i]->bytes);
            free(o->slots[i]);
        }
    }
    free(o);
}

/* Under the lock.  NULL: not there, and not to be made (or no room). */
static struct object *find(struct sink_objects *o, const char *key, bool make)
{
    size_t at = digest_hash(key, strlen(key)) % SLOTS;
    for (; o->slots[at]; at = (at + 1) % SLOTS)
        if (strcmp(o->slots[at]->key, key) == 0)
            return o->slots[at];
    if (!make || o->used >= SINK_OBJECTS_MAX)
        return NULL;
    struct object *object = calloc(1, sizeof(*object));
    CHECK(object);
    object->key = strdup(key);
    CHECK(object->key);
    o->slots[at] = object;
    o->used++;
    return object;
}

int sink_objects_put(struct sink_objects *o, const char *key, const char *bytes, uint64_t len,
                     bool if_absent)
{
    int status = 507;
    pthread_mutex_lock(&o->lock);
    struct object *object = find(o, key, true);
    if (object && object->there && if_absent) {
        status = 412;
    } else if (object) {
        free(object->bytes);
        object->bytes = NULL;
        if (bytes) {
            object->bytes = malloc(len + 1);
            CHECK(object->bytes);
            memcpy(object->bytes, bytes, len);
        }
        object->len = len;
        object->there = true;
        status = 200;
    }
    pthread_mutex_unlock(&o->lock);
    return status;
}

int sink_objects_part(struct sink_objects *o, const char *key, uint64_t len)
{
    pthread_mutex_lock(&o->lock);
    struct object *object = find(o, key, true);
    if (object)
        object->parts += len;
    pthread_mutex_unlock(&o->lock);
    return object ? 200 : 507;
}

int sink_objects_complete(struct sink_objects *o, const char *key)
{
    int status = 404;
    pthread_mutex_lock(&o->lock);
    struct object *object = find(o, key, false);
    if (object && object->parts > 0) {
        free(object->bytes);
        object->bytes = NULL;
        object->len = object->parts;
        object->parts = 0;
        object->there = true;
        status = 200;
    }
    pthread_mutex_unlock(&o->lock);
    return status;
}

int sink_objects_get(struct sink_objects *o, const char *key, char **ret_bytes, uint64_t *ret_len)
{
    int status = 404;
    *ret_bytes = NULL;
    *ret_len = 0;
    pthread_mutex_lock(&o->lock);
    const struct object *object = find(o, key, false);
    if (object && object->there) {
        status = 200;
        *ret_len = object->len;
        if (object->bytes) {
            *ret_bytes = malloc(object->len + 1);
            CHECK(*ret_bytes);
            memcpy(*ret_bytes, object->bytes, object->len);
        }
    }
    pthread_mutex_unlock(&o->lock);
    return status;
}

void sink_objects_remove(struct sink_objects *o, const char *key)
{
    pthread_mutex_lock(&o->lock);
    struct object *object = find(o, key, false);
    if (object) {
        object->there = false;
        free(object->bytes);
        object->bytes = NULL;
    }
    pthread_mutex_unlock(&o->lock);
}

/* ---- listing ---- */

static int compare_keys(const void *left, const void *right)
{
    const struct object *const *l = left, *const *r = right;
    return strcmp((*l)->key, (*r)->key);
}

static void put_escaped(FILE *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '&')
            fputs("&amp;", out);
        else if (text[i] == '<')
            fputs("&lt;", out);
        else
            fputc(text[i], out);
    }
}

/* One key, or the prefix that it folds into; `last` is what was shown before. */
static bool list_one(FILE *out, const struct sink_head *head, const struct object *object,
                     char last[SINK_KEY_MAX + 1])
{
    const char *slash = head->delimiter ? strchr(object->key + strlen(head->prefix), '/') : NULL;
    size_t n = slash ? (size_t)(slash + 1 - object->key) : strlen(object->key);
    char name[SINK_KEY_MAX + 1];
    snprintf(name, sizeof(name), "%.*s", (int)n, object->key);
    if (strcmp(name, last) <= 0)
        return false;
    memcpy(last, name, sizeof(name));
    fputs(slash ? "<CommonPrefixes><Prefix>" : "<Contents><Key>", out);
    put_escaped(out, name, n);
    if (slash)
        fputs("</Prefix></CommonPrefixes>", out);
    else
        fprintf(out,
                "</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"0\"</ETag>"
                "<Size>%llu</Size><StorageClass>STANDARD</StorageClass></Contents>",
                (unsigned long long)object->len);
    return true;
}

/* Under the lock. */
static void list_all(struct sink_objects *o, FILE *out, const struct sink_head *head)
{
    struct object **found = calloc(o->used + 1, sizeof(struct object *));
    size_t count = 0, shown = 0, most = min_u64(head->max_keys, 1000);
    char last[SINK_KEY_MAX + 1], token[SINK_KEY_MAX + 1] = "";
    CHECK(found);
    for (size_t i = 0; i < SLOTS; i++)
        if (o->slots[i] && o->slots[i]->there &&
            strncmp(o->slots[i]->key, head->prefix, strlen(head->prefix)) == 0)
            found[count++] = o->slots[i];
    qsort(found, count, sizeof(struct object *), compare_keys);
    memcpy(last, head->after, sizeof(last));
    for (size_t i = 0; i < count; i++) {
        if (shown == most) {
            memcpy(token, last, sizeof(token));
            break;
        }
        shown += list_one(out, head, found[i], last);
    }
    free(found);
    fprintf(out, "<KeyCount>%zu</KeyCount><IsTruncated>%s</IsTruncated>", shown,
            token[0] ? "true" : "false");
    if (token[0]) {
        fputs("<NextContinuationToken>", out);
        put_escaped(out, token, strlen(token));
        fputs("</NextContinuationToken>", out);
    }
}

char *sink_objects_list(struct sink_objects *o, const struct sink_head *head, size_t *ret_len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_len);
    CHECK(out);
    fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
          "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
          out);
    pthread_mutex_lock(&o->lock);
    list_all(o, out, head);
    pthread_mutex_unlock(&o->lock);
    fputs("</ListBucketResult>", out);
    CHECK_EQ(fclose(out), 0);
    return text;
}

/* ---- digests ---- */

static void to_base64(const uint8_t *bytes, size_t n, char *ret)
{
    EVP_EncodeBlock((unsigned char *)ret, bytes, (int)n);
}

const char *sink_check_body(const struct sink_head *head, const char *bytes, size_t len)
{
    char text[80];
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (head->md5[0]) {
        CHECK(EVP_Digest(bytes, len, sum, &n, EVP_md5(), NULL));
        to_base64(sum, n, text);
        if (strcmp(text, head->md5) != 0)
            return "BadDigest";
    }
    if (head->crc32c[0]) {
        uint32_t crc = __builtin_bswap32(crc32c(bytes, len));
        memcpy(sum, &crc, sizeof(crc));
        to_base64(sum, sizeof(crc), text);
        if (strcmp(text, head->crc32c) != 0)
            return "BadDigest";
    }
    if (strlen(head->sha256) == 64) {
        struct sha256 sha = sha256_of(bytes, len);
        hex_encode(sha.b, sizeof(sha.b), text);
        if (strcmp(text, head->sha256) != 0)
            return "XAmzContentSHA256Mismatch";
    }
    return NULL;
}
