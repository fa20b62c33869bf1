/* A status page as Prometheus' text format (version 0.0.4).
 *
 *     # HELP ckpt_tier_lag Checkpoints that are to go there and are not there yet.
 *     # TYPE ckpt_tier_lag gauge
 *     ckpt_tier_lag{tier="remote1"} 2
 *
 * Pure: page in, text out.  The page is foreign: what has not the shape of one is left out.
 * No series occurs twice: of two sessions of one rank the one that is not over counts. */
#pragma once

#include "formats/base.h"

/* Bounds the number of series, whatever the page holds. */
#define METRICS_SERIES_MAX 65536

/* *ret is malloc'ed (caller frees), *ret_len bytes, with a NUL behind them.  page: JSON, NULL =
 * no ckptd answered: only ckpt_up 0 is told.  CKPT_CORRUPT: the page is no JSON object. */
enum ckpt_status metrics_text(const char *page, size_t len, char **ret, size_t *ret_len,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
