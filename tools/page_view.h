/* A daemon's status as text.  The page is JSON whose members name their units
 * ("arena_bytes", "age_seconds"), so this shows any page: plain members one a line,
 * lists of objects as tables.  A daemon that learns to tell more needs no new tool. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "formats/base.h"

enum ckpt_status page_view_print(const json_t *page, FILE *to, struct ckpt_err *err)
    CKPT_MUST_CHECK;
