/* What the parts of the status page have in common: numbers go in by their meter, so that a
 * page cannot hold one that the table (formats/meter.h) does not know. */
#pragma once

#include <jansson.h>

#include "ckptd/control.h"
#include "ckptd/progress.h"

/* A string of any bytes: JSON takes nothing but UTF-8; a client's words or a path may be
 * anything. */
json_t *status_text(const char *text);
/* A count or bytes; seconds. */
void status_count(json_t *to, enum meter_id id, uint64_t value);
void status_seconds(json_t *to, enum meter_id id, double value);
/* "eta", in seconds; none for PROGRESS_UNKNOWN. */
void status_left(json_t *to, double left);
/* "local", "home", "remote1": how a tier is called in what is short; a short word. */
#define STATUS_TIER_TEXT 24
char *status_tier_name(const struct control *c, uint32_t tier, char ret[STATUS_TIER_TEXT]);

/* status_page.c: true if a save waits for other nodes alone; *ret: the first rank whose part is
 * missing. */
bool status_elsewhere(const struct control *c, const char *job, const struct ckpt_name *name,
                      uint32_t *ret);

/* status_jobs.c: the jobs that this ckptd has seen: what is lost when, what is under way. */
json_t *status_jobs(const struct control *c);
