/* Names of everything in a store (FORMAT.md, "Keys").
 *
 *   ckpt.repo
 *   <job>/l/<~epoch>/{claim,resolved,restored,progress,node-<node>-<ranks>,bad-<rank>}
 *   <job>/c/<name>            <job>/h/<name>
 *   <job>/d/<h>/<name>/<rank>.m   <rank>.h   <rank>-<slot>-<id>   i<k>
 *   <job>/t/<name>/<tag>/<~n>
 *   <job>/x/<name>/<~n>       <job>/x/<name>.h/<~n>
 *   <job>/o/<~epoch>/<uuid>
 *
 * ~n = 16 hex digits of 2^64-1-n, so that a listing shows the newest first.
 * Only validated jobs, tags and numbers go in, so no key needs escaping. */
#pragma once

#include "formats/digest.h"

#define KEY_MAX  512 /* longest key below plus NUL */
#define KEY_REPO "ckpt.repo"

/* A checkpoint's name: <~epoch>-<~step>-<attempt>, 50 characters.  attempt = first
 * 8 bytes of H(job, epoch, world, step, try). */
struct ckpt_name {
    uint64_t epoch, step, attempt;
};
#define NAME_TEXT (16 * 3 + 2 + 1)
struct key {
    char text[KEY_MAX];
};

/* [A-Za-z0-9][A-Za-z0-9._-]{0,127}, not "ckpt.repo".  The text says what is wrong. */
enum ckpt_status job_name_check(const char *job, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status tag_check(const char *tag, struct ckpt_err *err) CKPT_MUST_CHECK;
/* 1..1024 bytes of valid UTF-8 without control characters, NUL, leading or trailing
 * '/', empty, "." or ".." parts.  ('/' inside is allowed: it groups.) */
enum ckpt_status tensor_name_check(const char *name, size_t len, struct ckpt_err *err)
    CKPT_MUST_CHECK;

uint64_t attempt_of(const char *job, uint64_t epoch, uint32_t world, uint64_t step, uint32_t try_);
void name_to_text(const struct ckpt_name *name, char ret[NAME_TEXT]);
bool name_parse(const char *text, size_t len, struct ckpt_name *ret);
bool name_equal(const struct ckpt_name *a, const struct ckpt_name *b);

/* l/ */
struct key key_launches(const char *job);               /* prefix <job>/l/ */
struct key key_launch(const char *job, uint64_t epoch); /* prefix, ends in '/' */
struct key key_claim(const char *job, uint64_t epoch);
struct key key_resolved(const char *job, uint64_t epoch);
struct key key_restored(const char *job, uint64_t epoch);
struct key key_progress(const char *job, uint64_t epoch);
/* ranks: those that the record names, rising. */
struct key key_node(const char *job, uint64_t epoch, const uint8_t node[16], const uint32_t *ranks,
                    uint32_t count);
struct key key_bad(const char *job, uint64_t epoch, uint32_t rank);
/* c/ h/ d/ */
struct key key_commits(const char *job); /* prefix */
struct key key_commit(const char *job, const struct ckpt_name *name);
struct key key_helds(const char *job); /* prefix */
struct key key_held(const char *job, const struct ckpt_name *name);
struct key key_manifest(const char *job, const struct ckpt_name *name, uint32_t rank);
struct key key_rank_held(const char *job, const struct ckpt_name *name, uint32_t rank);
struct key key_pack(const char *job, const struct ckpt_name *name, uint32_t rank, uint32_t slot,
                    const struct digest *id);
struct key key_index(const char *job, const struct ckpt_name *name, uint32_t k);
/* The hex digit <h> (0..15) under which what belongs to a rank (or index segment k) lies. */
unsigned key_shard(uint32_t rank_or_k);
struct key key_data(const char *job, unsigned h,
                    const struct ckpt_name *name);      /* prefix, h 0..15 */
struct key key_data_shard(const char *job, unsigned h); /* prefix <job>/d/<h>/ */
/* t/ x/ */
struct key key_tags(const char *job);                                  /* prefix */
struct key key_tags_of(const char *job, const struct ckpt_name *name); /* prefix */
struct key key_tag(const char *job, const struct ckpt_name *name, const char *tag, uint64_t n);
struct key key_lives(const char *job);                                            /* prefix */
struct key key_life_of(const char *job, const struct ckpt_name *name, bool copy); /* prefix */
struct key key_life(const char *job, const struct ckpt_name *name, bool copy, uint64_t n);
/* o/, in a node's own directory: saves of the epoch there are of the home with this uuid. */
struct key key_owners(const char *job); /* prefix */
struct key key_owner(const char *job, uint64_t epoch, const uint8_t home[16]);

/* ~n: the inverse is the same function.  parse: exactly 16 lower-case digits. */
void key_number(uint64_t n, char ret[17]);
bool key_number_parse(const char *text, uint64_t *ret);

/* What a key under <job>/d/<h>/<name>/ is, for gc, drain and scrub. */
enum key_kind { KEY_OTHER, KEY_MANIFEST, KEY_RANK_HELD, KEY_PACK, KEY_INDEX };
struct key_data_parts {
    enum key_kind kind;
    struct ckpt_name name;
    uint32_t rank, slot, k;
    struct digest id;
};
/* `last`: the part after .../<name>/.  ret->name is left as the caller set it. */
enum key_kind key_parse_data(const char *last, struct key_data_parts *ret);
