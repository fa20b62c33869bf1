/* s3://bucket/prefix: the handle and its small operations.  See store_s3.h. */
#include "storage/store/store_s3.h"

#include <stdio.h>
#include <time.h>

#define SECOND_NS INT64_C(1000000000)

enum ckpt_status s3_run(struct store_s3 *s, const char *what, struct s3_call *calls, size_t count,
                        struct ckpt_err *err)
{
    const struct s3_limits limits = { .deadline_ns = s->base.deadline_ns,
                                      .cancel = s->base.cancel };
    return s3_caller_run(s->caller, &limits, what, calls, count, err);
}

/* DONE, or RUNNING by this handle now; false: another one is at it. */
static bool probe_begin(struct s3_site *site, struct s3_traits *ret, bool *ret_done)
{
    pthread_mutex_lock(&site->shared.lock);
    enum s3_probe before = site->shared.probe;
    *ret_done = before == S3_PROBE_DONE;
    if (*ret_done)
        *ret = site->shared.traits;
    else
        site->shared.probe = S3_PROBE_RUNNING;
    pthread_mutex_unlock(&site->shared.lock);
    return before != S3_PROBE_RUNNING;
}

static void probe_end(struct s3_site *site, const struct s3_traits *traits, bool done)
{
    pthread_mutex_lock(&site->shared.lock);
    site->shared.probe = done ? S3_PROBE_DONE : S3_PROBE_NONE;
    if (done)
        site->shared.traits = *traits;
    pthread_mutex_unlock(&site->shared.lock);
}

enum ckpt_status s3_traits(struct store_s3 *s, struct s3_traits *ret, struct ckpt_err *err)
{
    bool done;
    while (!probe_begin(s->site, ret, &done)) {
        enum ckpt_status st = store_check(&s->base, "put", err);
        if (st != CKPT_OK)
            return st;
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    }
    if (done)
        return CKPT_OK;
    struct s3_traits traits = { 0 };
    enum ckpt_status st = s3_probe_server(s, &traits, err);
    probe_end(s->site, &traits, st == CKPT_OK);
    if (st == CKPT_OK)
        *ret = traits;
    return st;
}

/* A ranged GET of one byte: unlike HEAD, its error has a body that tells a missing bucket
 * from a missing object. */
static bool take_byte(struct s3_call *call, const struct s3_answer *answer, uint64_t at,
                      const void *bytes, size_t len)
{
    (void)call, (void)bytes;
    return answer->status == 206 && at + len <= 1;
}

enum ckpt_status s3_stat(struct store *base, const char *key, struct store_stat *ret,
                         struct ckpt_err *err)
{
    struct store_s3 *s = store_s3_of(base);
    struct ckpt_err mine = { 0 };
    struct s3_call call = { .method = S3_GET, .key = key, .range = "bytes=0-0", .take = take_byte };
    enum ckpt_status st = s3_run(s, "stat", &call, 1, &mine);
    uint64_t bytes = call.ret.total;
    bool whole =
        call.ret.status == 200 && (call.ret.class_ == S3_GOOD || call.ret.class_ == S3_PERMANENT);
    if ((st == CKPT_CORRUPT && call.ret.status == 416) || whole) {
        /* Empty, or a server that does not know ranges: it is there, so HEAD will do. */
        struct s3_call head = { .method = S3_HEAD, .key = key };
        st = s3_run(s, "stat", &head, 1, err);
        call.ret = head.ret;
        bytes = head.ret.length;
    } else if (st != CKPT_OK) {
        return err_set(err, st, "%s", err_text(&mine));
    }
    if (st != CKPT_OK)
        return st;
    if (bytes == UINT64_MAX)
        return err_set(err, CKPT_UNSUPPORTED, "stat %s in %s: the server does not say its size",
                       key, base->url);
    *ret = (struct store_stat){ .bytes = bytes, .mtime_ns = call.ret.modified_s * SECOND_NS };
    return CKPT_OK;
}

static enum ckpt_status s3_remove(struct store *base, const char *key, struct ckpt_err *err)
{
    struct ckpt_err mine = { 0 };
    struct s3_call call = { .method = S3_DELETE, .key = key };
    enum ckpt_status st = s3_run(store_s3_of(base), "remove", &call, 1, &mine);
    return st == CKPT_OK || st == CKPT_NOT_FOUND ? CKPT_OK
                                                 : err_set(err, st, "%s", err_text(&mine));
}

/* What was put is named for good when put returns. */
static enum ckpt_status s3_sync(struct store *base, const char *prefix, struct ckpt_err *err)
{
    (void)base, (void)prefix, (void)err;
    return CKPT_OK;
}

static enum ckpt_status s3_now(struct store *base, int64_t *ret_ns, struct ckpt_err *err)
{
    struct s3_page page = { 0 };
    enum ckpt_status st = s3_list_page(store_s3_of(base), "", false, "", "", 1, &page, err);
    free(page.bytes);
    if (st != CKPT_OK)
        return st;
    if (page.date_s == 0)
        return err_set(err, CKPT_UNSUPPORTED, "%s: the server does not say its time", base->url);
    *ret_ns = page.date_s * SECOND_NS;
    return CKPT_OK;
}

static void s3_to_text(const struct store *base, char *buf, size_t cap)
{
    static const char *const digests[] = { "not at all", "by CRC32C", "by SHA-256", "by MD5" };
    const struct store_s3 *s = (const struct store_s3 *)base;
    char region[S3_REGION_MAX + 1], host[S3_HOST_MAX + 1], keys[256], probed[160] = "";
    s3_site_region(s->site, region);
    s3_place_host(&s->site->place, region, host);
    s3_creds_to_text(s->site->creds, keys, sizeof(keys));
    pthread_mutex_lock(&s->site->shared.lock);
    const struct s3_traits *t = &s->site->shared.traits;
    if (s->site->shared.probe == S3_PROBE_DONE)
        snprintf(probed, sizeof(probed), ", bodies checked %s%s%s", digests[t->digest],
                 t->conditional ? "" : ", no conditional writes: only one writer at a time is safe",
                 s->site->shared.unordered ? ", unordered lists" : "");
    pthread_mutex_unlock(&s->site->shared.lock);
    snprintf(buf, cap, "%s (%s://%s, region %s, keys: %s%s)", base->url,
             s->site->place.tls ? "https" : "http", host, region, keys, probed);
}

static void s3_close(struct store *base)
{
    struct store_s3 *s = store_s3_of(base);
    s3_caller_free(s->caller);
    s3_site_unref(s->site);
    store_base_fini(base);
    free(s);
}

static enum ckpt_status s3_dup(const struct store *base, struct store **ret, struct ckpt_err *err);

static const struct store_ops s3_ops = {
    .scheme = "s3",
    .put = s3_put,
    .get = s3_get,
    .get_all = s3_get_all,
    .stat = s3_stat,
    .list = s3_list,
    .remove = s3_remove,
    .sync = s3_sync,
    .now = s3_now,
    .dup = s3_dup,
    .to_text = s3_to_text,
    .close = s3_close,
};

/* Takes the reference to `site`. */
static enum ckpt_status handle_new(const char *url, struct s3_site *site, bool attended,
                                   struct store **ret, struct ckpt_err *err)
{
    struct store_s3 *s = calloc(1, sizeof(*s));
    if (!s) {
        s3_site_unref(site);
        return err_set(err, CKPT_NO_MEMORY, "no memory to open %s", url);
    }
    s->site = site;
    s->attended = attended;
    enum ckpt_status st = store_base_init(&s->base, &s3_ops, url, err);
    if (st == CKPT_OK)
        st = s3_caller_new(site, s->base.url, attended, &s->caller, err);
    if (st != CKPT_OK)
        s3_close(&s->base);
    else
        *ret = &s->base;
    return st;
}

static enum ckpt_status s3_dup(const struct store *base, struct store **ret, struct ckpt_err *err)
{
    const struct store_s3 *s = (const struct store_s3 *)base;
    return handle_new(base->url, s3_site_ref(s->site), s->attended, ret, err);
}

/* Nothing is asked of the server yet: a store that is down when a daemon starts is
 * trouble for what needs it, not for the start. */
enum ckpt_status store_s3_open(const struct store_url *url, const struct store_options *options,
                               struct store **ret, struct ckpt_err *err)
{
    CLEANUP_FREE struct s3_place *place = calloc(1, sizeof(*place));
    if (!place)
        return err_set(err, CKPT_NO_MEMORY, "no memory to open an s3:// store");
    struct s3_site *site;
    enum ckpt_status st = s3_place_parse(url->path, url->query, NULL, NULL, place, err);
    if (st == CKPT_OK)
        st = s3_site_get(place, &site, err);
    return st == CKPT_OK ? handle_new(url->text, site, options->attended, ret, err) : st;
}
