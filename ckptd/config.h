/* What ckptd is told, from four places of rising strength:
 *
 *   built-in default  <  file (/etc/ckpt/ckptd.conf)  <  environment (CKPT_...)  <  flags
 *
 * One table (config_keys.h) has every option: its name in the file, the flag and the
 * variable are made of it, and so are --help, the example file and what --check prints.
 * Secrets are in none of these: credentials are found as AWS' own tools find them.
 *
 * A value that is wrong is refused wherever it stands, also where something stronger would
 * hide it.  Strings of argv and the environment are borrowed, those of the file are owned.
 * A config does not change once it is made, so threads may share it; a reload makes
 * another (config_reload), which borrows from the first. */
#pragma once

#include <stdio.h>

#include "ckptd/log.h"
#include "formats/base.h"
#include "formats/codec.h"
#include "storage/repo/keep_policy.h"
#include "storage/repo/policy.h"

#define CONFIG_FILE        "/etc/ckpt/ckptd.conf"
#define CONFIG_REMOTES_MAX 6
#define CONFIG_JOBS_MAX    64 /* sections */
#define CONFIG_ERRORS_MAX  16 /* that are told; there may be more */

struct config_key;
enum config_from { CONFIG_DEFAULT, CONFIG_FROM_FILE, CONFIG_FROM_ENV, CONFIG_FROM_FLAG };
struct config_value {
    const struct config_key *key;
    const char *text;
    enum config_from from;
    unsigned line;   /* CONFIG_FROM_FILE */
    const char *job; /* of the section [job PATTERN]; NULL: everywhere */
};
/* Of what a policy says what stays. */
enum config_keep {
    CONFIG_KEEP, /* the job, in all stores; each of the others: in one */
    CONFIG_KEEP_STORE,
    CONFIG_KEEP_LOCAL,
    CONFIG_KEEP_REMOTE,
    CONFIG_KEEPS
};
struct config_job {
    const char *pattern;
    struct keep_policy keep[CONFIG_KEEPS]; /* no rule: all stay */
};
struct config {
    const char *store;  /* URL as given */
    const char *socket; /* NULL = the default of this user and store */
    const char *io;     /* "auto", "uring", "threads" */
    const char *local;  /* where packs are saved, when that is not the store; else NULL */
    const char *remotes[CONFIG_REMOTES_MAX];
    size_t remote_count;
    struct policy remote_policy;
    bool remote_codec_given;
    enum codec_id remote_codec; /* STORED: as the packs are */
    int remote_codec_level;
    uint64_t remote_rate; /* bytes a second into each remote store; 0 = no limit */
    unsigned remote_streams;
    const char *metrics; /* address for Prometheus (metrics.h); NULL = none */
    int listen_fd;       /* -1 = bind the socket ourselves */
    unsigned crew;
    uint64_t slot_bytes;
    enum codec_id codec;
    int codec_level;
    unsigned stop_s; /* how long a stop may take */
    enum log_level log_level;
    struct keep_policy keep[CONFIG_KEEPS]; /* of jobs without a section; no rule: all stay */
    int64_t delete_grace_ns;               /* from a checkpoint's deletion to that of its data */
    bool private_, foreground, help, version, check, example, manual;
    /* where that is from */
    char *file; /* owned; NULL: none was read */
    char *text; /* owned: the file's, cut into values */
    char *raw;  /* owned: the file's, as it is */
    size_t raw_len;
    struct config_value *values; /* owned; weaker ones first */
    size_t value_count, value_cap;
    struct config_job *jobs; /* owned */
    size_t job_count, job_cap;
};
/* All that is wrong, each with its place: "/etc/ckpt/ckptd.conf:7: ...". */
struct config_errors {
    size_t count; /* may be more than are kept */
    struct ckpt_err list[CONFIG_ERRORS_MAX];
};
struct config_input {
    int argc;
    char *const *argv;
    char *(*getenv_)(const char *); /* getenv, or a test's */
    const char *text;               /* of the file, when it has been read already; else NULL */
    size_t text_len;
    const char *default_file; /* NULL: CONFIG_FILE */
};
/* The file is --config FILE, else $CKPT_CONFIG, else the default if it is there; "none" is
 * no file.  A private daemon, which a trainer starts for itself, reads no default file: what
 * a machine's owner said of his daemon is not meant for it. */
enum ckpt_status config_load(const struct config_input *in, struct config **ret,
                             struct config_errors *errors) CKPT_MUST_CHECK;
void config_free(struct config *c);

/* Reads the sources again.  What can change while ckptd runs is new in *ret, all else is as in
 * `start`, which must outlive it.  say: called for each difference between `now` (start, or
 * the last reload) and the sources. */
struct config_change {
    const char *name, *job; /* job: NULL, or the pattern of the section */
    char before[256], after[256];
    bool live; /* false: needs a restart */
};
enum ckpt_status config_reload(const struct config_input *in, const struct config *start,
                               const struct config *now,
                               void (*say)(void *arg, const struct config_change *c), void *arg,
                               struct config **ret, struct config_errors *errors) CKPT_MUST_CHECK;

/* What to keep of a job: of the first section whose pattern fits it and that says so, else what is
 * said for all.  NULL: everything. */
const struct keep_policy *config_keep(const struct config *c, const char *job,
                                      enum config_keep which);
/* True if copies of it are to be dropped anywhere. */
bool config_drops(const struct config *c, const char *job);
/* True if any job is to be pruned. */
bool config_keeps(const struct config *c);
/* Tells each setting that does nothing because another is missing, and where it stands
 * ("f:4: keep-local").  No error: a file may be for machines that have the other and for
 * some that have not, and who takes `keep` away must be heard. */
void config_idle(const struct config *c,
                 void (*say)(void *arg, const char *where, const char *missing), void *arg);

/* -- config_text.c: for people ------------------------------------------------------------- */

void config_print_usage(FILE *to);
/* All options as a file, each with what it means; what is set in it suits the systemd unit. */
void config_print_example(FILE *to);
/* ckptd(1), for man: what --help says, and the file. */
void config_print_manual(FILE *to);
/* The settings in force as a file, each with where it is from. */
void config_print(const struct config *c, FILE *to);
