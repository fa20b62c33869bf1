/* The record that makes a store a repository, and how everyone above reads, puts
 * and lists records. */
#include "storage/repo/repo.h"

#include <inttypes.h>
#include <sys/random.h>

/* Entries of a listing's first and largest page.  A directory is read anew for each page:
 * pages that grow keep that near-linear, and a short listing cheap. */
#define PAGE_ENTRIES     256
#define PAGE_ENTRIES_MAX 8192

enum ckpt_status repo_get(struct store *s, const struct key *key, void **ret, size_t *ret_len,
                          struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    enum ckpt_status st = store_get_all(s, key->text, RECORD_BYTES_MAX, ret, ret_len, &why);
    if (st != CKPT_OK && st != CKPT_NOT_FOUND)
        return err_set(err, st, "%s", err_text(&why));
    return st;
}

enum ckpt_status repo_get_listed(struct store *s, const struct key *key, uint64_t bytes, void **ret,
                                 size_t *ret_len, struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    if (bytes > RECORD_BYTES_MAX)
        return err_set(err, CKPT_CORRUPT, "%s has %" PRIu64 " bytes: that is no record", key->text,
                       bytes);
    CLEANUP_FREE void *at = malloc(bytes + 1);
    if (!at)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the record %s", key->text);
    struct store_range whole = { .bytes = bytes, .base = at };
    enum ckpt_status st = store_get(s, key->text, &whole, 1, &why);
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? st : err_set(err, st, "%s", err_text(&why));
    *ret = TAKE_PTR(at);
    *ret_len = bytes;
    return CKPT_OK;
}

enum ckpt_status repo_put(struct store *s, const struct key *key, const struct buf *b,
                          struct ckpt_err *err)
{
    if (b->failed)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the record %s", key->text);
    return store_put_record(s, key->text, b->data, b->len, err);
}

enum ckpt_status repo_list(struct store *s, const char *prefix, bool one_level,
                           enum ckpt_status (*each)(void *arg, const struct store_entry *e),
                           void *arg, struct ckpt_err *err)
{
    CLEANUP_FREE struct store_entry *page = NULL;
    char after[STORE_KEY_MAX + 1] = "";
    bool more = true;
    for (size_t cap = PAGE_ENTRIES; more; cap = min_u64(4 * cap, PAGE_ENTRIES_MAX)) {
        size_t count = 0;
        free(page);
        page = malloc(cap * sizeof(*page));
        if (!page)
            return err_set(err, CKPT_NO_MEMORY, "no memory to list %s", prefix);
        enum ckpt_status st =
            store_list(s, prefix, one_level, after, page, cap, &count, &more, err);
        for (size_t i = 0; st == CKPT_OK && i < count; i++)
            st = each(arg, &page[i]);
        if (st != CKPT_OK)
            return st == CKPT_CANCELLED && (!err || err->status == CKPT_OK) ? CKPT_OK : st;
        if (count == 0)
            break;
        memcpy(after, page[count - 1].key, sizeof(after));
    }
    return CKPT_OK;
}

enum ckpt_status repo_log_newest(struct store *s, const char *prefix, uint64_t *ret_n,
                                 struct ckpt_err *err)
{
    CLEANUP_FREE struct store_entry *e = malloc(sizeof(*e));
    if (!e)
        return err_set(err, CKPT_NO_MEMORY, "no memory to list %s", prefix);
    size_t count = 0;
    bool more = false;
    enum ckpt_status st = store_list(s, prefix, false, "", e, 1, &count, &more, err);
    if (st != CKPT_OK)
        return st;
    uint64_t n = 0;
    if (count && (!key_number_parse(e->key + strlen(prefix), &n) || !n))
        return err_set(err, CKPT_CORRUPT, "%s is no entry of a log", e->key);
    *ret_n = n;
    return CKPT_OK;
}

static enum ckpt_status read_once(struct store *s, struct record_repo *ret, struct ckpt_err *err)
{
    const struct key key = { KEY_REPO };
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get(s, &key, &bytes, &len, err);
    return st == CKPT_OK ? record_repo_decode(bytes, len, KEY_REPO, ret, err) : st;
}

/* A whole store hangs on it: wrong bytes may be wrong from the way here only. */
static enum ckpt_status repo_read(struct store *s, struct record_repo *ret, struct ckpt_err *err)
{
    struct record_repo r;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = read_once(s, &r, &why);
    if (st == CKPT_CORRUPT) {
        why = (struct ckpt_err){ 0 };
        st = read_once(s, &r, &why);
    }
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? st : err_set(err, st, "%s", err_text(&why));
    if (r.format > REPO_FORMAT)
        return err_set(err, CKPT_UNSUPPORTED,
                       "%s: the repository has format %u, this program knows %u and older: use a "
                       "newer ckpt",
                       s->url, r.format, REPO_FORMAT);
    *ret = r;
    return CKPT_OK;
}

/* Racing creators write different uuids: one of them wins, the rest see CONFLICT and
 * read the winner's. */
static enum ckpt_status repo_create(struct store *s, struct ckpt_err *err)
{
    const struct key key = { KEY_REPO };
    struct record_repo r = { .format = REPO_FORMAT };
    if (getrandom(r.uuid, sizeof(r.uuid), 0) != (ssize_t)sizeof(r.uuid))
        return err_errno(err, errno, "no random bytes for the repository's uuid");
    enum ckpt_status st = store_now(s, &r.time_ns, err);
    if (st != CKPT_OK)
        return st;
    CLEANUP_BUF struct buf b = { 0 };
    record_repo_encode(&r, &b);
    struct ckpt_err why = { 0 };
    st = repo_put(s, &key, &b, &why);
    if (st != CKPT_OK && st != CKPT_CONFLICT)
        return err_set(err, st, "%s", err_text(&why));
    return CKPT_OK;
}

enum ckpt_status repo_open(struct store *s, bool create, struct record_repo *ret,
                           struct ckpt_err *err)
{
    enum ckpt_status st = repo_read(s, ret, err);
    if (st == CKPT_NOT_FOUND && create) {
        st = repo_create(s, err);
        if (st == CKPT_OK)
            st = repo_read(s, ret, err);
    }
    if (st == CKPT_NOT_FOUND)
        return err_set(err, CKPT_NOT_FOUND, "%s is no repository: it has no %s", s->url, KEY_REPO);
    return st;
}

enum ckpt_status repo_probe(struct store *s, struct ckpt_err *err)
{
    const struct key key = { KEY_REPO };
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get(s, &key, &bytes, &len, err);
    return st == CKPT_OK ? store_put_record(s, KEY_REPO, bytes, len, err) : st;
}
