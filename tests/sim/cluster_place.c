/* Places: what stores are to the jobs.  A call travels to the place, has its effect, and
 * travels back; either way may be slow, cut or closed to it, and it may be that only the
 * answer is lost.  In a worker's own turn (its start, before it serves) all of it happens
 * at once. */
#include <stdio.h>

#include "sim/cluster.h"
#include "sim/sim_wraps.h"
#include "storage/store/store_impl.h"

struct place places[PLACES];
static int64_t cut_until[SIM_NODES][PLACES];

struct handle {
    struct store base;
    uint32_t place, node;
};

/* ---- objects ---- */

static uint32_t lower_bound(const struct place *p, const char *key)
{
    uint32_t low = 0, high = p->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (strcmp(p->objects[mid].key, key) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct place_object *find(struct place *p, const char *key)
{
    uint32_t at = lower_bound(p, key);
    return at < p->count && strcmp(p->objects[at].key, key) == 0 ? &p->objects[at] : NULL;
}

const struct place_object *place_find(uint32_t place, const char *key)
{
    return find(&places[place], key);
}

static struct place_object *insert(struct place *p, const char *key)
{
    if (p->count == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 256;
        p->objects = __real_realloc(p->objects, p->cap * sizeof(*p->objects));
        CHECK(p->objects);
    }
    uint32_t at = lower_bound(p, key);
    memmove(&p->objects[at + 1], &p->objects[at], (p->count++ - at) * sizeof(*p->objects));
    p->objects[at] = (struct place_object){ .key = __real_strdup(key) };
    CHECK(p->objects[at].key);
    return &p->objects[at];
}

static void erase(struct place *p, uint32_t at)
{
    __real_free(p->objects[at].key);
    __real_free(p->objects[at].bytes);
    memmove(&p->objects[at], &p->objects[at + 1], (--p->count - at) * sizeof(*p->objects));
}

void places_reset(void)
{
    memset(cut_until, 0, sizeof(cut_until));
    for (uint32_t i = 0; i < PLACES; i++) {
        while (places[i].count > 0)
            erase(&places[i], places[i].count - 1);
        places[i].owner = i < PLACE_NEAR ? -1 : (int32_t)(i - PLACE_NEAR);
        places[i].slow_until = 0;
    }
}

const char *place_name(uint32_t place)
{
    return place == PLACE_HOME ? "home" : place == PLACE_FAR ? "far" : "near";
}

void place_lose(uint32_t place)
{
    while (places[place].count > 0)
        erase(&places[place], places[place].count - 1);
}

void place_unsync(uint32_t place)
{
    struct place *p = &places[place];
    for (uint32_t i = p->count; i-- > 0;) {
        if (p->objects[i].synced || sim_rand(2) == 0)
            continue;
        sim_saw(SEEN_write_unsynced_lost);
        sim_note("%s: %s was not synced, and is gone", place_name(place), p->objects[i].key);
        erase(p, i);
    }
}

/* ---- the way ---- */

void place_cut(uint32_t node, uint32_t place, int64_t until_ns)
{
    cut_until[node][place] = until_ns;
}

bool place_is_cut(uint32_t node, uint32_t place)
{
    return node < SIM_NODES && !sim.calm && sim.now < cut_until[node][place];
}

static bool own(const struct handle *h)
{
    return places[h->place].owner == (int32_t)h->node;
}

static int64_t latency(const struct handle *h)
{
    int64_t most = own(h) ? SIM_MS / 2 : 20 * SIM_MS;
    if (!sim.calm && sim.now < places[h->place].slow_until)
        most = 5 * SIM_S;
    return sim_between(most / 100, most);
}

/* Nobody answers: refused at once, or waited for until the caller has enough. */
static enum ckpt_status silence(const struct handle *h, const char *what, struct ckpt_err *err)
{
    int64_t until = sim.now + (sim_rand(2) ? sim_between(SIM_MS, SIM_S) : 120 * SIM_S);
    enum ckpt_status st = CKPT_OK;
    while (st == CKPT_OK && sim.now < until) {
        int64_t step = until - sim.now < 5 * SIM_S ? until - sim.now : 5 * SIM_S;
        sim_nap(step);
        st = store_check(&h->base, what, err);
    }
    return st != CKPT_OK ? st
                         : err_set(err, CKPT_UNREACHABLE, "%s: %s cannot be reached", what,
                                   place_name(h->place));
}

static enum ckpt_status trouble(const struct handle *h, const char *what, struct ckpt_err *err)
{
    static const enum ckpt_status some[] = { CKPT_IO, CKPT_UNREACHABLE, CKPT_TIMEOUT,
                                             CKPT_NO_MEMORY };
    return err_set(err, some[sim_rand(ARRAY_COUNT(some))], "%s: trouble in %s", what,
                   place_name(h->place));
}

/* The call arrives, if it does. */
static enum ckpt_status there(const struct handle *h, const char *what, struct ckpt_err *err)
{
    if (!sim_in_task()) {
        if (!place_is_cut(h->node, h->place))
            return CKPT_OK;
        return err_set(err, CKPT_UNREACHABLE, "%s: cut off from %s", what, place_name(h->place));
    }
    sim_nap(latency(h));
    if (place_is_cut(h->node, h->place)) {
        sim_saw(SEEN_link_cut);
        return silence(h, what, err);
    }
    if (sim_chance(sim_faults.store_hang) && sim_chance(100)) {
        sim_saw(SEEN_store_hang);
        return silence(h, what, err);
    }
    if (sim_chance(sim_faults.store_error) && sim_chance(300)) {
        sim_saw(SEEN_store_error);
        return trouble(h, what, err);
    }
    return CKPT_OK;
}

/* And its answer. */
static enum ckpt_status back(const struct handle *h, const char *what, enum ckpt_status st,
                             struct ckpt_err *err)
{
    if (!sim_in_task())
        return st;
    if (sim_rand(2))
        sim_nap(latency(h));
    bool cut = place_is_cut(h->node, h->place);
    if (!cut && !(sim_chance(sim_faults.store_error) && sim_chance(300)))
        return st;
    sim_saw(cut ? SEEN_cut_answer_lost : SEEN_store_error_after);
    if (err)
        *err = (struct ckpt_err){ 0 };
    return cut ? silence(h, what, err) : trouble(h, what, err);
}

static enum ckpt_status missing(const struct handle *h, const char *key, struct ckpt_err *err)
{
    return err_set(err, CKPT_NOT_FOUND, "%s: there is no %s", place_name(h->place), key);
}

/* ---- calls ---- */

static enum ckpt_status put_now(struct handle *h, const char *key, const struct iovec *iov,
                                int count, unsigned flags, struct ckpt_err *err)
{
    struct place *p = &places[h->place];
    struct place_object *o = find(p, key);
    uint64_t len = store_iov_bytes(iov, count);
    if (o && (flags & STORE_IF_ABSENT)) {
        if (o->len == len && store_iov_equal(iov, count, 0, o->bytes, len))
            return CKPT_OK;
        return err_set(err, CKPT_CONFLICT, "put %s: there are other bytes", key);
    }
    if (strstr(key, "/d/") && sim_chance(sim_faults.store_full)) {
        sim_saw(SEEN_store_full);
        return err_set(err, CKPT_FULL, "%s is full", place_name(h->place));
    }
    if (!o)
        o = insert(p, key);
    __real_free(o->bytes);
    o->bytes = __real_malloc(len + 1);
    CHECK(o->bytes);
    o->len = 0;
    for (int i = 0; i < count; i++) {
        memcpy((uint8_t *)o->bytes + o->len, iov[i].iov_base, iov[i].iov_len);
        o->len += iov[i].iov_len;
    }
    o->mtime_ns = sim.now;
    o->synced = p->owner < 0 || (flags & STORE_IF_ABSENT);
    truth_put(h->place, h->node, o);
    return CKPT_OK;
}

static enum ckpt_status net_put(struct store *s, const char *key, const struct iovec *iov,
                                int count, unsigned flags, struct ckpt_err *err)
{
    struct handle *h = (struct handle *)s;
    enum ckpt_status st = there(h, "put", err);
    if (st == CKPT_OK)
        st = back(h, "put", put_now(h, key, iov, count, flags, err), err);
    return st;
}

static enum ckpt_status get_now(struct handle *h, const char *key, const struct store_range *ranges,
                                size_t count, struct ckpt_err *err)
{
    const struct place_object *o = find(&places[h->place], key);
    if (!o)
        return missing(h, key, err);
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].offset > o->len || ranges[i].bytes > o->len - ranges[i].offset)
            return err_set(err, CKPT_CORRUPT, "get %s: it ends before that", key);
        memcpy(ranges[i].base, (const uint8_t *)o->bytes + ranges[i].offset, ranges[i].bytes);
    }
    return CKPT_OK;
}

static enum ckpt_status net_get(struct store *s, const char *key, const struct store_range *ranges,
                                size_t count, struct ckpt_err *err)
{
    struct handle *h = (struct handle *)s;
    enum ckpt_status st = there(h, "get", err);
    if (st == CKPT_OK)
        st = back(h, "get", get_now(h, key, ranges, count, err), err);
    return st;
}

static enum ckpt_status get_all_now(struct handle *h, const char *key, size_t max, void **ret,
                                    size_t *ret_len, struct ckpt_err *err)
{
    const struct place_object *o = find(&places[h->place], key);
    if (!o)
        return missing(h, key, err);
    if (o->len > max)
        return err_set(err, CKPT_LIMIT, "get %s: %zu bytes", key, o->len);
    *ret = malloc(o->len + 1);
    CHECK(*ret);
    memcpy(*ret, o->bytes, o->len);
    *ret_len = o->len;
    return CKPT_OK;
}

static enum ckpt_status net_get_all(struct store *s, const char *key, size_t max, void **ret,
                                    size_t *ret_len, struct ckpt_err *err)
{
    struct handle *h = (struct handle *)s;
    void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = there(h, "get", err);
    if (st == CKPT_OK)
        st = back(h, "get", get_all_now(h, key, max, &bytes, &len, err), err);
    if (st != CKPT_OK) {
        free(bytes);
        return st;
    }
    *ret = bytes;
    *ret_len = len;
    return CKPT_OK;
}

static enum ckpt_status net_stat(struct store *s, const char *key, struct store_stat *ret,
                                 struct ckpt_err *err)
{
    struct handle *h = (struct handle *)s;
    enum ckpt_status st = there(h, "stat", err);
    if (st != CKPT_OK)
        return st;
    const struct place_object *o = find(&places[h->place], key);
    if (o)
        *ret = (struct store_stat){ .bytes = o->len, .mtime_ns = o->mtime_ns };
    return back(h, "stat", o ? CKPT_OK : missing(h, key, err), err);
}

/* The entry for an object under a prefix; true if it is another than the last one. */
static bool fill_entry(const struct place_object *o, size_t prefix_len, bool one_level,
                       struct store_entry *e, const struct store_entry *last)
{
    const char *slash = one_level ? strchr(o->key + prefix_len, '/') : NULL;
    int len = slash ? (int)(slash - o->key) + 1 : (int)strlen(o->key);
    if (slash && last && strncmp(last->key, o->key, (size_t)len) == 0 && !last->key[len])
        return false;
    snprintf(e->key, sizeof(e->key), "%.*s", len, o->key);
    e->stat = slash ? (struct store_stat){ .bytes = UINT64_MAX }
                    : (struct store_stat){ .bytes = o->len, .mtime_ns = o->mtime_ns };
    return true;
}

static enum ckpt_status net_list(struct store *s, const char *prefix, bool one_level,
                                 const char *after, struct store_entry *entries, size_t cap,
                                 size_t *ret_count, bool *ret_more, struct ckpt_err *err)
{
    struct handle *h = (struct handle *)s;
    enum ckpt_status st = there(h, "list", err);
    if (st != CKPT_OK)
        return st;
    const struct place *p = &places[h->place];
    size_t n = 0, len = strlen(prefix);
    bool more = false;
    for (uint32_t i = lower_bound(p, strcmp(after, prefix) > 0 ? after : prefix); i < p->count;
         i++) {
        struct store_entry next;
        if (strncmp(p->objects[i].key, prefix, len) != 0)
            break;
        if (!fill_entry(&p->objects[i], len, one_level, &next, n ? &entries[n - 1] : NULL) ||
            strcmp(next.key, after) <= 0)
            continue;
        more = n == cap;
        if (more)
            break;
        entries[n++] = next;
    }
    *ret_count = n;
    *ret_more = more;
    return back(h, "list", CKPT_OK, err);
}

static enum ckpt_status net_remove(struct store *s, const char *key, struct ckpt_err *err)
{
    struct handle *h = (struct handle *)s;
    enum ckpt_status st = there(h, "remove", err);
    if (st != CKPT_OK)
        return st;
    struct place *p = &places[h->place];
    uint32_t at = lower_bound(p, key);
    if (at < p->count && strcmp(p->objects[at].key, key) == 0) {
        truth_removed(h->place, key);
        erase(p, at);
    }
    return back(h, "remove", CKPT_OK, err);
}

static enum ckpt_status net_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    struct handle *h = (struct handle *)s;
    enum ckpt_status st = there(h, "sync", err);
    if (st != CKPT_OK)
        return st;
    struct place *p = &places[h->place];
    size_t len = strlen(prefix);
    for (uint32_t i = lower_bound(p, prefix);
         i < p->count && strncmp(p->objects[i].key, prefix, len) == 0; i++)
        p->objects[i].synced = true;
    return back(h, "sync", CKPT_OK, err);
}

static enum ckpt_status net_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
{
    struct handle *h = (struct handle *)s;
    enum ckpt_status st = there(h, "ask the time", err);
    *ret_ns = sim.now;
    return st;
}

/* ---- handles ---- */

static enum ckpt_status net_dup(const struct store *s, struct store **ret, struct ckpt_err *err);

static void net_to_text(const struct store *s, char *buf, size_t cap)
{
    snprintf(buf, cap, "simulated: %s", place_name(((const struct handle *)s)->place));
}

static void net_close(struct store *s)
{
    store_base_fini(s);
    free(s);
}

static const struct store_ops ops = {
    .scheme = "sim",
    .put = net_put,
    .get = net_get,
    .get_all = net_get_all,
    .stat = net_stat,
    .list = net_list,
    .remove = net_remove,
    .sync = net_sync,
    .now = net_now,
    .dup = net_dup,
    .to_text = net_to_text,
    .close = net_close,
};

static enum ckpt_status open_handle(uint32_t place, uint32_t node, struct store **ret,
                                    struct ckpt_err *err)
{
    struct handle *h = calloc(1, sizeof(*h));
    CHECK(h);
    h->place = place;
    h->node = node;
    enum ckpt_status st = store_base_init(&h->base, &ops, place_name(place), err);
    *ret = &h->base;
    return st;
}

static enum ckpt_status net_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
{
    const struct handle *h = (const struct handle *)s;
    return open_handle(h->place, h->node, ret, err);
}

enum ckpt_status __wrap_store_open(const char *url, const struct store_options *options,
                                   struct store **ret, struct ckpt_err *err)
{
    (void)options;
    uint32_t node = (uint32_t)(sim_current - sim_nodes);
    uint32_t place = strcmp(url, "home") == 0  ? PLACE_HOME
                     : strcmp(url, "far") == 0 ? PLACE_FAR
                                               : PLACE_NEAR + node;
    return open_handle(place, node, ret, err);
}

struct store *place_open(uint32_t place)
{
    struct store *s;
    if (open_handle(place, SIM_NODES, &s, NULL) != CKPT_OK)
        abort();
    return s;
}

bool __wrap_store_url_shared(const char *url)
{
    return strcmp(url, "near") != 0 && places[PLACE_HOME].owner < 0;
}
