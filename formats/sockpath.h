/* Where a user's ckptd for a store listens, when nobody says otherwise: a pure function
 * of the uid, the environment's strings and the store's text, so that the daemon and
 * the library find each other without a word.
 *
 *   runtime directory   $XDG_RUNTIME_DIR/ckpt, else /run/ckpt (root), else /tmp/ckpt-UID
 *   socket              <runtime directory>/<16 hex digits of H(uid, store)>.sock
 *   lock                <socket>.lock
 *
 * Whoever uses the directory makes it (0700) and checks owner and mode. */
#pragma once

#include "formats/base.h"

#define SOCKPATH_MAX 108 /* sun_path, NUL included */

/* The runtime directory; xdg: $XDG_RUNTIME_DIR or NULL (ignored unless absolute).
 * CKPT_LIMIT when no socket's name would fit behind it. */
enum ckpt_status sockpath_runtime(unsigned uid, const char *xdg, char ret[SOCKPATH_MAX],
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
/* One spelling for a private directory's store: "/p", "dir:///p" and (below `cwd`) "p"
 * become "/p", without double or trailing '/', "." parts.  Other URLs stay as they are. */
enum ckpt_status sockpath_store(const char *store, const char *cwd, char *ret, size_t cap,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* The socket's path; store: as from sockpath_store. */
enum ckpt_status sockpath_socket(unsigned uid, const char *xdg, const char *store,
                                 char ret[SOCKPATH_MAX], struct ckpt_err *err) CKPT_MUST_CHECK;
