/* The default socket's path.  Pure: no file is looked at. */
#include "formats/sockpath.h"

#include <stdio.h>

#include "formats/digest.h"

#define SOCKET_PART 22 /* "/<16 digits>.sock" */

enum ckpt_status sockpath_runtime(unsigned uid, const char *xdg, char ret[SOCKPATH_MAX],
                                  struct ckpt_err *err)
{
    char path[SOCKPATH_MAX];
    int n;
    if (xdg && xdg[0] == '/')
        n = snprintf(path, sizeof(path), "%s/ckpt", xdg);
    else if (uid == 0)
        n = snprintf(path, sizeof(path), "/run/ckpt");
    else
        n = snprintf(path, sizeof(path), "/tmp/ckpt-%u", uid);
    if (n < 0 || (size_t)n + SOCKET_PART >= sizeof(path))
        return err_set(err, CKPT_LIMIT,
                       "XDG_RUNTIME_DIR \"%s\" is too long for a socket: set CKPT_SOCKET", xdg);
    memcpy(ret, path, (size_t)n + 1);
    return CKPT_OK;
}

/* Appends one part of a path to *at bytes in ret; false when there is no room. */
static bool add_part(char *ret, size_t cap, size_t *at, const char *part, size_t len)
{
    if (len == 0 || (len == 1 && part[0] == '.'))
        return true;
    if (*at + 1 + len >= cap)
        return false;
    ret[(*at)++] = '/';
    memcpy(ret + *at, part, len);
    *at += len;
    return true;
}

static bool add_path(char *ret, size_t cap, size_t *at, const char *path)
{
    for (const char *p = path; *p;) {
        size_t len = strcspn(p, "/");
        if (!add_part(ret, cap, at, p, len))
            return false;
        p += len + (p[len] == '/');
    }
    return true;
}

enum ckpt_status sockpath_store(const char *store, const char *cwd, char *ret, size_t cap,
                                struct ckpt_err *err)
{
    const char *path = strncmp(store, "dir://", 6) == 0 ? store + 6 : store;
    bool plain = !strstr(path, "://") && !strchr(path, '?');
    size_t at = 0;
    bool fits;
    if (!store[0])
        return err_set(err, CKPT_INVALID, "no store is given: set CKPT_STORE or --store");
    if (!plain) {
        at = strlen(store);
        fits = at < cap;
        if (fits)
            memcpy(ret, store, at);
    } else {
        fits = (path[0] == '/' || add_path(ret, cap, &at, cwd)) && add_path(ret, cap, &at, path);
        if (fits && at == 0)
            fits = cap > 1 && (ret[at++] = '/'); /* the root itself */
    }
    if (!fits)
        return err_set(err, CKPT_LIMIT, "the store's path \"%.64s...\" is too long", store);
    ret[at] = 0;
    return CKPT_OK;
}

enum ckpt_status sockpath_socket(unsigned uid, const char *xdg, const char *store,
                                 char ret[SOCKPATH_MAX], struct ckpt_err *err)
{
    char dir[SOCKPATH_MAX];
    enum ckpt_status st = sockpath_runtime(uid, xdg, dir, err);
    if (st != CKPT_OK)
        return st;
    char who[16];
    struct digest_state h;
    int n = snprintf(who, sizeof(who), "%u", uid);
    digest_begin(&h);
    digest_add(&h, who, (size_t)n + 1);
    digest_add(&h, store, strlen(store));
    struct digest d = digest_end(&h);
    char hex[17];
    hex_encode(d.b, 8, hex);
    snprintf(ret, SOCKPATH_MAX, "%.*s/%s.sock", SOCKPATH_MAX - SOCKET_PART - 1, dir, hex);
    return CKPT_OK;
}
