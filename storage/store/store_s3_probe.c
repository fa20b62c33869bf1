/* What this server can do, found by trying: the same name may stand before very different
 * programs, and versions differ.  All objects lie under .tmp/probe-<random>/ and are
 * removed again; one that cannot be removed (keys without s3:DeleteObject) does no harm.
 *
 *   1  a fresh object, if absent           must be there for GET and for LIST at once
 *   2  other bytes, if absent              412: conditional writes work
 *   3  other bytes, plainly                GET must give them at once
 *   4  three more keys                     LIST in byte order?
 *   5  bodies with a wrong digest          which of them are refused?
 *   6  remove                              GET must not find it
 *
 * A server that fails 1, 3 or 6 is refused: a commit that is there for one reader and not
 * for the next is no commit. */
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "storage/store/s3_xml.h"
#include "storage/store/store_s3.h"

struct probe {
    struct store_s3 *s;
    char dir[64];
    struct s3_traits *traits;
};

static void probe_key(const struct probe *p, const char *name, char ret[128])
{
    snprintf(ret, 128, "%s%s", p->dir, name);
}

static struct iovec text_iov(const char *text)
{
    struct iovec iov = { .iov_len = strlen(text) };
    memcpy(&iov.iov_base, &text, sizeof(text)); /* read only; an iovec cannot say so */
    return iov;
}

static enum ckpt_status put_text(const struct probe *p, const char *name, const char *text,
                                 bool if_absent, struct ckpt_err *err)
{
    char key[128];
    struct iovec iov = text_iov(text);
    struct s3_body body;
    s3_body_init(&p->s->site->place, S3_DIGEST_NONE, &iov, 1, &body);
    probe_key(p, name, key);
    if (if_absent)
        return s3_put_absent(p->s, key, &body, err);
    struct s3_call call = s3_put_call(key, &body);
    return s3_run(p->s, "probe", &call, 1, err);
}

/* Puts with a digest that is not that of the bytes.  *ret: it is turned away for that; a server
 * in trouble says nothing about it, and is asked until it does. */
static enum ckpt_status put_lie(const struct probe *p, const char *name, enum s3_digest wrong,
                                bool *ret, struct ckpt_err *err)
{
    struct ckpt_err mine = { 0 };
    char key[128];
    struct iovec iov = text_iov("these bytes"), other = text_iov("not these bytes");
    struct s3_body body, lie;
    s3_body_init(&p->s->site->place, S3_DIGEST_NONE, &iov, 1, &body);
    s3_body_init(&p->s->site->place, wrong, &other, 1, &lie);
    if (wrong == S3_DIGEST_SHA256)
        s3_payload_hash(&other, 1, body.payload_hash);
    else if (lie.header_count > 0)
        body.headers[body.header_count++] = lie.headers[0];
    probe_key(p, name, key);
    struct s3_call call = s3_put_call(key, &body);
    call.lie = true;
    enum ckpt_status st = s3_run(p->s, "probe", &call, 1, &mine);
    *ret = call.ret.class_ == S3_DAMAGED ||
           (call.ret.class_ == S3_PERMANENT && call.ret.status >= 400 && call.ret.status < 500);
    bool told = *ret || st == CKPT_OK || st == CKPT_UNSUPPORTED;
    return told ? CKPT_OK : err_set(err, st, "%s", err_text(&mine));
}

static bool holds(const struct probe *p, const char *name, const char *text, struct ckpt_err *err,
                  enum ckpt_status *ret_st)
{
    char key[128];
    bool equal = false;
    struct iovec iov = text_iov(text);
    probe_key(p, name, key);
    *ret_st = s3_compare(p->s, key, &iov, 1, &equal, err);
    return *ret_st == CKPT_OK && equal;
}

static enum ckpt_status refuse(const struct probe *p, const char *why, struct ckpt_err *err)
{
    return err_set(
        err, CKPT_UNSUPPORTED,
        "%s: %s; a store of checkpoints must give what was put, at once and to everybody",
        p->s->base.url, why);
}

/* `name` must be there with `text`, now. */
static enum ckpt_status must_hold(const struct probe *p, const char *name, const char *text,
                                  struct ckpt_err *err)
{
    struct ckpt_err mine = { 0 };
    enum ckpt_status st;
    if (holds(p, name, text, &mine, &st))
        return CKPT_OK;
    if (st != CKPT_OK && st != CKPT_NOT_FOUND)
        return err_set(err, st, "%s", err_text(&mine));
    return refuse(p, "an object that was just put is not read back", err);
}

static enum ckpt_status probe_conditional(const struct probe *p, struct ckpt_err *err)
{
    struct ckpt_err mine = { 0 };
    enum ckpt_status st = put_text(p, "m", "one", true, &mine);
    if (st == CKPT_UNSUPPORTED || st == CKPT_INVALID)
        return put_text(p, "m", "one", false, err); /* 501: it says so */
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&mine));
    st = must_hold(p, "m", "one", err);
    if (st != CKPT_OK)
        return st;
    st = put_text(p, "m", "two", true, &mine);
    p->traits->conditional = st == CKPT_CONFLICT;
    return st == CKPT_OK || st == CKPT_CONFLICT ? CKPT_OK : err_set(err, st, "%s", err_text(&mine));
}

/* The keys of a page in the order of the document; *ret_count of them end in a name of ours. */
static bool page_ordered(const struct s3_page *page, size_t *ret_count)
{
    struct s3_xml x;
    char last[S3_XML_TEXT_MAX + 1] = "";
    bool ordered = true;
    enum s3_xml_event event;
    s3_xml_init(&x, page->bytes, page->len);
    *ret_count = 0;
    while ((event = s3_xml_next(&x)) == S3_XML_OPEN || event == S3_XML_CLOSE) {
        if (event != S3_XML_CLOSE || strcmp(x.names[x.depth], "Key") != 0)
            continue;
        ordered = ordered && strcmp(x.text, last) > 0;
        memcpy(last, x.text, strlen(x.text) + 1);
        ++*ret_count;
    }
    return ordered;
}

static enum ckpt_status probe_list(const struct probe *p, struct ckpt_err *err)
{
    static const char *const names[] = { "z", "A", "m0" };
    struct s3_page page = { 0 };
    size_t count;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < ARRAY_COUNT(names); i++)
        st = put_text(p, names[i], "x", false, err);
    if (st == CKPT_OK)
        st = s3_list_page(p->s, p->dir, false, "", "", 100, &page, err);
    if (st == CKPT_OK) {
        if (!page_ordered(&page, &count))
            s3_site_set_unordered(p->s->site);
        if (count != 1 + ARRAY_COUNT(names))
            st = refuse(p, "a list does not show what was just put", err);
    }
    free(page.bytes);
    return st;
}

static enum ckpt_status probe_digest(const struct probe *p, struct ckpt_err *err)
{
    const struct s3_place *place = &p->s->site->place;
    bool is_signed =
        place->payload == S3_PAYLOAD_SIGNED || (place->payload == S3_PAYLOAD_AUTO && !place->tls);
    /* Where the body is signed anyway, its hash is the digest that costs nothing more. */
    static const enum s3_digest plain[] = { S3_DIGEST_SHA256, S3_DIGEST_CRC32C, S3_DIGEST_MD5 };
    static const enum s3_digest sealed[] = { S3_DIGEST_CRC32C, S3_DIGEST_SHA256, S3_DIGEST_MD5 };
    const enum s3_digest *order = is_signed ? plain : sealed;
    for (size_t i = 0; i < ARRAY_COUNT(plain); i++) {
        bool found;
        if (order[i] == S3_DIGEST_SHA256 && place->payload == S3_PAYLOAD_UNSIGNED)
            continue;
        enum ckpt_status st = put_lie(p, "w", order[i], &found, err);
        if (st != CKPT_OK)
            return st;
        if (found) {
            p->traits->digest = order[i];
            return CKPT_OK;
        }
    }
    return CKPT_OK;
}

static enum ckpt_status probe_removal(const struct probe *p, struct ckpt_err *err)
{
    struct ckpt_err mine = { 0 };
    enum ckpt_status st;
    char key[128];
    probe_key(p, "m", key);
    struct s3_call call = { .method = S3_DELETE, .key = key };
    st = s3_run(p->s, "probe", &call, 1, &mine);
    if (st == CKPT_DENIED)
        return CKPT_OK; /* keys that may not delete: nothing to find out */
    if (st != CKPT_OK && st != CKPT_NOT_FOUND)
        return err_set(err, st, "%s", err_text(&mine));
    memset(&mine, 0, sizeof(mine));
    if (holds(p, "m", "three", &mine, &st) || st == CKPT_OK)
        return refuse(p, "an object that was just removed is still read", err);
    return st == CKPT_NOT_FOUND ? CKPT_OK : err_set(err, st, "%s", err_text(&mine));
}

static void clean_up(const struct probe *p)
{
    static const char *const names[] = { "m", "z", "A", "m0", "w" };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char key[128];
        probe_key(p, names[i], key);
        struct s3_call call = { .method = S3_DELETE, .key = key, .once = true };
        if (s3_run(p->s, "probe", &call, 1, NULL) == CKPT_CANCELLED)
            return;
    }
}

static enum ckpt_status probe_all(const struct probe *p, struct ckpt_err *err)
{
    enum ckpt_status st = probe_conditional(p, err);
    if (st == CKPT_OK)
        st = put_text(p, "m", "three", false, err);
    if (st == CKPT_OK)
        st = must_hold(p, "m", "three", err);
    if (st == CKPT_OK)
        st = probe_list(p, err);
    if (st == CKPT_OK)
        st = probe_digest(p, err);
    return st == CKPT_OK ? probe_removal(p, err) : st;
}

/* What is true of an object of the probe would be taken for the truth about the caller's: "already
 * there" for a checkpoint that is held. */
static enum ckpt_status without_object(enum ckpt_status st)
{
    bool about_object =
        st == CKPT_EXISTS || st == CKPT_NOT_FOUND || st == CKPT_CONFLICT || st == CKPT_CORRUPT;
    return about_object ? CKPT_UNREACHABLE : st;
}

enum ckpt_status s3_probe_server(struct store_s3 *s, struct s3_traits *ret, struct ckpt_err *err)
{
    struct ckpt_err mine = { 0 };
    uint64_t random[2] = { (uint64_t)getpid(), (uint64_t)(uintptr_t)s };
    struct s3_traits traits = { 0 };
    struct probe p = { .s = s, .traits = &traits };
    if (getrandom(random, sizeof(random), GRND_NONBLOCK) < 0)
        random[1] ^= (uint64_t)time(NULL);
    snprintf(p.dir, sizeof(p.dir), "%s%016llx%016llx/", S3_PROBE_PREFIX,
             (unsigned long long)random[0], (unsigned long long)random[1]);
    enum ckpt_status st = probe_all(&p, &mine);
    clean_up(&p);
    if (st != CKPT_OK)
        return err_set(err, without_object(st), "%s", err_text(&mine));
    *ret = traits;
    return CKPT_OK;
}
