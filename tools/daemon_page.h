/* The status page of this node's ckptd, for the verbs that show it. */
#pragma once

#include <jansson.h>

#include "tools/tool.h"

/* socket: --socket or NULL.  *ret: caller json_decrefs. */
enum ckpt_status daemon_page(const struct tool *t, const char *socket, json_t **ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
