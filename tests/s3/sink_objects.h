/* What the sink server remembers: the names and lengths of objects.  Small ones (records,
 * probes) are kept with their bytes and their digests are checked, so that a client can do
 * its whole work; of bigger ones only the length stays.  Thread-safe. */
#pragma once

#include "s3/sink_head.h"

#define SINK_SMALL_MAX   65536
#define SINK_OBJECTS_MAX 131072

struct sink_objects;

/* `text` receives the XML of a listing; the caller frees it. */
struct sink_objects *sink_objects_new(void);
void sink_objects_free(struct sink_objects *o);

/* Puts an object; bytes NULL: only its length is known.  200, 412 (if_absent and there),
 * 507 (too many). */
int sink_objects_put(struct sink_objects *o, const char *key, const char *bytes, uint64_t len,
                     bool if_absent);
/* Adds the length of a part to a key under way; sink_objects_complete makes it an object. */
int sink_objects_part(struct sink_objects *o, const char *key, uint64_t len);
int sink_objects_complete(struct sink_objects *o, const char *key);
/* 200 or 404.  *ret_bytes: malloc'ed copy of a small object, NULL for others. */
int sink_objects_get(struct sink_objects *o, const char *key, char **ret_bytes, uint64_t *ret_len);
void sink_objects_remove(struct sink_objects *o, const char *key);
/* The XML of a listing, malloc'ed. */
char *sink_objects_list(struct sink_objects *o, const struct sink_head *head, size_t *ret_len);

/* NULL, or the code of S3 for what is wrong with the digests that the head names. */
const char *sink_check_body(const struct sink_head *head, const char *bytes, size_t len);
