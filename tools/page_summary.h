/* A daemon's status for people: what its jobs do, what would be lost, how its tiers stand.
 * (page_view.h shows the whole page instead.)  Numbers that the page has not are "-". */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "formats/base.h"

/* before: an earlier page of the same daemon, of which rates are made; NULL: there is none.
 * CKPT_CORRUPT: the page is no object. */
enum ckpt_status page_summary_print(const json_t *page, const json_t *before, FILE *to,
                                    struct ckpt_err *err) CKPT_MUST_CHECK;
