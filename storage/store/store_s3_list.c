/* list of the S3 store: ListObjectsV2, page by page.
 *
 * The entries are kept as the `cap` smallest keys behind `after` that were seen.  With a
 * server that lists in byte order one or two pages are enough; with one that does not
 * (S3 Express), all pages are read, and memory stays the same.  Keys that are not ours by
 * form ("a folder/", ".tmp/") are passed over. */
#include <stdio.h>
#include <time.h>

#include "storage/store/s3_xml.h"
#include "storage/store/store_s3.h"

#define PAGE_KEYS 1000
/* 1,000 keys of 1,024 bytes, each three times as long when encoded, and what is around. */
#define PAGE_BYTES_MAX (UINT64_C(8) << 20)
#define TOKEN_MAX      2047
#define ROUNDS_MAX     3

struct listing {
    struct store_s3 *s;
    const char *prefix, *after;
    bool one_level, ordered;
    struct store_entry *entries;
    size_t cap, count;
    bool more;                    /* some key did not find room */
    char last[STORE_KEY_MAX + 2]; /* the largest key seen, as it came */
    bool disorder;                /* a page was not in byte order */
    bool truncated;
    char token[TOKEN_MAX + 1];
};

static bool take_page(struct s3_call *call, const struct s3_answer *answer, uint64_t at,
                      const void *bytes, size_t len)
{
    (void)answer;
    struct s3_page *page = call->arg;
    if (at == 0)
        page->len = 0;
    if (page->len + len > PAGE_BYTES_MAX)
        return false;
    if (page->len + len > page->cap) {
        size_t cap = max_u64(page->cap * 2, align_up(page->len + len, 65536));
        char *grown = realloc(page->bytes, cap);
        if (!grown)
            return false;
        page->bytes = grown;
        page->cap = cap;
    }
    memcpy(page->bytes + page->len, bytes, len);
    page->len += len;
    return true;
}

/* A page of HTML is no empty list. */
static bool is_list(const struct s3_call *call, const struct s3_answer *answer)
{
    const struct s3_page *page = call->arg;
    struct s3_xml x;
    if (answer->received == 0)
        return false;
    s3_xml_init(&x, page->bytes, page->len);
    return s3_xml_next(&x) == S3_XML_OPEN && strcmp(x.names[0], "ListBucketResult") == 0;
}

enum ckpt_status s3_list_page(struct store_s3 *s, const char *prefix, bool one_level,
                              const char *after, const char *token, unsigned max,
                              struct s3_page *page, struct ckpt_err *err)
{
    char full[2 * STORE_KEY_MAX + 4], start[2 * STORE_KEY_MAX + 4], keys[16];
    snprintf(full, sizeof(full), "%s%s", s->site->place.prefix, prefix);
    snprintf(start, sizeof(start), "%s%s", s->site->place.prefix, after);
    snprintf(keys, sizeof(keys), "%u", max);
    struct s3_call call = {
        .method = S3_GET, .key = "", .take = take_page, .check = is_list, .arg = page
    };
    size_t n = 0;
    call.query[n++] = (struct s3_pair){ "list-type", "2" };
    call.query[n++] = (struct s3_pair){ "encoding-type", "url" };
    call.query[n++] = (struct s3_pair){ "max-keys", keys };
    call.query[n++] = (struct s3_pair){ "prefix", full };
    if (one_level)
        call.query[n++] = (struct s3_pair){ "delimiter", "/" };
    if (token[0])
        call.query[n++] = (struct s3_pair){ "continuation-token", token };
    else if (after[0])
        call.query[n++] = (struct s3_pair){ "start-after", start };
    enum ckpt_status st = s3_run(s, "list", &call, 1, err);
    page->date_s = call.ret.date_s;
    return st;
}

/* Decodes what encoding-type=url did, in place; '+' stands for a space there. */
static bool decode_key(char *text)
{
    char *to = text;
    for (const char *at = text; *at; at++) {
        unsigned c = (unsigned char)*at;
        if (c == '+') {
            c = ' ';
        } else if (c == '%') {
            char hex[3] = { at[1], at[1] ? at[2] : (char)0, 0 };
            char *end;
            c = (unsigned)strtoul(hex, &end, 16);
            if (end != hex + 2 || c == 0 || hex[0] == '-' || hex[0] == '+' || hex[0] == ' ')
                return false;
            at += 2;
        }
        *to++ = (char)c;
    }
    *to = 0;
    return true;
}

/* "2026-11-21T19:11:42.000Z" in Unix nanoseconds; 0 when it is none. */
static int64_t read_time(const char *text)
{
    struct tm tm = { 0 };
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    int64_t ms = 0;
    if (!rest)
        return 0;
    if (rest[0] == '.')
        ms = min_u64(strtoull(rest + 1, NULL, 10), 999);
    return timegm(&tm) * INT64_C(1000000000) + ms * 1000000;
}

/* Puts an entry where it belongs; the largest falls out when there is no room. */
static void keep_entry(struct listing *l, const char *key, struct store_stat stat)
{
    size_t at = l->count;
    while (at > 0 && strcmp(key, l->entries[at - 1].key) < 0)
        at--;
    if (at > 0 && strcmp(key, l->entries[at - 1].key) == 0)
        return;
    if (l->count == l->cap) {
        l->more = true;
        if (at == l->cap)
            return;
        l->count--;
    }
    memmove(&l->entries[at + 1], &l->entries[at], (l->count - at) * sizeof(l->entries[0]));
    snprintf(l->entries[at].key, sizeof(l->entries[at].key), "%s", key);
    l->entries[at].stat = stat;
    l->count++;
}

/* Order is that of objects among objects; prefixes come in a list of their own. */
static void check_order(struct listing *l, const char *key)
{
    if (strcmp(key, l->last) <= 0)
        l->disorder = true;
    snprintf(l->last, sizeof(l->last), "%.*s", STORE_KEY_MAX + 1, key);
}

/* A key as the server says it, with the place's prefix. */
static void see_key(struct listing *l, char *full, bool folded, struct store_stat stat)
{
    const char *place = l->s->site->place.prefix;
    size_t prefix_len = strlen(place), len;
    if (!decode_key(full) || strncmp(full, place, prefix_len) != 0)
        return;
    char *key = full + prefix_len;
    len = strlen(key);
    if (!folded)
        check_order(l, key);
    if (strncmp(key, l->prefix, strlen(l->prefix)) != 0 || len > STORE_KEY_MAX || len == 0)
        return;
    if (folded && key[len - 1] != '/')
        return;
    if (folded)
        key[len - 1] = 0;
    bool ours = store_key_valid(key);
    if (folded)
        key[len - 1] = '/';
    if (!ours || strcmp(key, l->after) <= 0)
        return;
    if (folded)
        stat = (struct store_stat){ .bytes = UINT64_MAX };
    keep_entry(l, key, stat);
}

struct element {
    char key[S3_XML_TEXT_MAX + 1];
    struct store_stat stat;
};

static void read_leaf(struct listing *l, const struct s3_xml *x, struct element *e)
{
    const char *name = x->names[x->depth], *parent = x->names[x->depth - 1];
    if (x->depth == 1 && strcmp(name, "IsTruncated") == 0)
        l->truncated = strcmp(x->text, "true") == 0;
    else if (x->depth == 1 && strcmp(name, "NextContinuationToken") == 0)
        snprintf(l->token, sizeof(l->token), "%.*s", TOKEN_MAX, x->text);
    else if (x->depth == 2 && (strcmp(name, "Key") == 0 || strcmp(name, "Prefix") == 0) &&
             (strcmp(parent, "Contents") == 0 || strcmp(parent, "CommonPrefixes") == 0))
        memcpy(e->key, x->text, strlen(x->text) + 1);
    else if (x->depth == 2 && strcmp(name, "Size") == 0)
        e->stat.bytes = min_u64(strtoull(x->text, NULL, 10), STORE_OBJECT_MAX * 1024);
    else if (x->depth == 2 && strcmp(name, "LastModified") == 0)
        e->stat.mtime_ns = read_time(x->text);
}

static bool read_page(struct listing *l, const struct s3_page *page)
{
    struct s3_xml x;
    struct element e = { 0 };
    enum s3_xml_event event;
    s3_xml_init(&x, page->bytes, page->len);
    l->truncated = false;
    l->token[0] = 0;
    while ((event = s3_xml_next(&x)) == S3_XML_OPEN || event == S3_XML_CLOSE) {
        if (x.depth == 0 || (x.depth == 1 && event == S3_XML_OPEN))
            continue;
        const char *name = x.names[event == S3_XML_OPEN ? x.depth - 1 : x.depth];
        bool contents = strcmp(name, "Contents") == 0;
        bool folded = strcmp(name, "CommonPrefixes") == 0;
        if (event == S3_XML_OPEN && x.depth == 2)
            e.key[0] = 0, e.stat = (struct store_stat){ 0 };
        if (event == S3_XML_OPEN)
            continue;
        if (x.depth == 1 && (contents || folded)) {
            see_key(l, e.key, folded, e.stat);
        } else {
            read_leaf(l, &x, &e);
        }
    }
    return event == S3_XML_END && (!l->truncated || l->token[0]);
}

/* Enough is known: every key to come is larger than all that were kept. */
static bool enough(const struct listing *l)
{
    return !l->truncated || (l->ordered && l->more);
}

static enum ckpt_status list_once(struct listing *l, struct s3_page *page, struct ckpt_err *err)
{
    unsigned max = l->ordered ? (unsigned)min_u64(l->cap + 2, PAGE_KEYS) : PAGE_KEYS;
    l->count = 0;
    l->more = l->disorder = false;
    l->last[0] = l->token[0] = 0;
    do {
        char before[TOKEN_MAX + 1];
        memcpy(before, l->token, sizeof(before));
        enum ckpt_status st = s3_list_page(l->s, l->prefix, l->one_level,
                                           l->ordered ? l->after : "", l->token, max, page, err);
        if (st != CKPT_OK)
            return st;
        if (!read_page(l, page) || (l->truncated && strcmp(before, l->token) == 0))
            return err_set(err, CKPT_CORRUPT,
                           "list %s in %s: the answer is no list of objects that can be trusted",
                           l->prefix, l->s->base.url);
    } while (!enough(l) && !(l->ordered && l->disorder));
    return CKPT_OK;
}

/* A document that was damaged on its way is asked for again. */
static enum ckpt_status list_sound(struct listing *l, struct s3_page *page, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_CORRUPT;
    for (int i = 0; i < ROUNDS_MAX && st == CKPT_CORRUPT; i++) {
        memset(err, 0, sizeof(*err));
        st = list_once(l, page, err);
    }
    return st;
}

enum ckpt_status s3_list(struct store *base, const char *prefix, bool one_level, const char *after,
                         struct store_entry *entries, size_t cap, size_t *ret_count, bool *ret_more,
                         struct ckpt_err *err)
{
    struct store_s3 *s = store_s3_of(base);
    struct s3_page page = { 0 };
    struct listing l = { .s = s,
                         .prefix = prefix,
                         .after = after,
                         .one_level = one_level,
                         .ordered = s3_site_ordered(s->site),
                         .entries = entries,
                         .cap = cap };
    struct ckpt_err mine = { 0 };
    enum ckpt_status st = list_sound(&l, &page, &mine);
    if (st == CKPT_OK && l.ordered && l.disorder) {
        s3_site_set_unordered(s->site);
        l.ordered = false;
        st = list_sound(&l, &page, &mine);
    }
    free(page.bytes);
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&mine));
    *ret_count = l.count;
    *ret_more = l.more;
    return CKPT_OK;
}
