/* A repository: a store root with its ckpt.repo record.  Everything in storage/repo
 * works on plain store handles; one thread per handle. */
#pragma once

#include "formats/record.h"
#include "storage/store/store.h"

#define REPO_FORMAT 1

/* Reads ckpt.repo; with `create` makes it when the store is empty of it (racing
 * creators agree on one).  CKPT_NOT_FOUND: no repository here; CKPT_UNSUPPORTED: made
 * by a newer format. */
enum ckpt_status repo_open(struct store *s, bool create, struct record_repo *ret,
                           struct ckpt_err *err) CKPT_MUST_CHECK;

/* Can it be written?  Puts ckpt.repo's own bytes again, which changes nothing. */
enum ckpt_status repo_probe(struct store *s, struct ckpt_err *err) CKPT_MUST_CHECK;

/* Reads a record into malloc'ed memory (caller frees): store_get_all with the limit of
 * records.  CKPT_NOT_FOUND is returned without words in err. */
enum ckpt_status repo_get(struct store *s, const struct key *key, void **ret, size_t *ret_len,
                          struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same for a record of which a listing has told the size: one operation instead of two. */
enum ckpt_status repo_get_listed(struct store *s, const struct key *key, uint64_t bytes, void **ret,
                                 size_t *ret_len, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Puts an encoded record if absent. CKPT_NO_MEMORY when the buffer failed. */
enum ckpt_status repo_put(struct store *s, const struct key *key, const struct buf *b,
                          struct ckpt_err *err) CKPT_MUST_CHECK;
/* The newest number of a log <prefix><~n>, 0 = none: one entry of one listing. */
enum ckpt_status repo_log_newest(struct store *s, const char *prefix, uint64_t *ret_n,
                                 struct ckpt_err *err) CKPT_MUST_CHECK;
/* Calls `each` for every entry under prefix in listing order (pages inside); stops at
 * the first status that is not CKPT_OK and returns it; CKPT_CANCELLED from `each` means
 * "enough" and comes back as CKPT_OK. */
enum ckpt_status repo_list(struct store *s, const char *prefix, bool one_level,
                           enum ckpt_status (*each)(void *arg, const struct store_entry *e),
                           void *arg, struct ckpt_err *err) CKPT_MUST_CHECK;
