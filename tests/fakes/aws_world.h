/* What credentials are looked for in, as a test wants it: variables, files, and answers of
 * STS, the container endpoint and the metadata service, behind s3_fetch_fn.
 *
 * Whatever is secret in it holds the word CANARY, and world_check_err sees to it that no
 * error and no description holds that. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "storage/store/s3_creds.h"

#define WORLD_VARS     24
#define WORLD_REPLIES  12
#define WORLD_REQUESTS 16

/* What is answered to the requests whose URL contains `url`. */
struct world_reply {
    const char *method, *url;
    enum ckpt_status st; /* CKPT_OK: an HTTP answer */
    int status;
    const char *body;
    size_t len; /* 0 = strlen(body) */
};
struct world_request {
    char method[8], url[1200], headers[20000], body[64000];
    bool direct;
};

struct world {
    char dir[200], config[300], credentials[300];
    const char *vars[2 * WORLD_VARS + 1]; /* names and values in turn */
    struct world_reply replies[WORLD_REPLIES];
    pthread_mutex_t lock;                          /* for what follows */
    struct world_request requests[WORLD_REQUESTS]; /* the first ones */
    int count;
    _Atomic(bool) gate; /* true: answers wait */
    atomic_int waiting; /* at the gate */
};

/* With empty files and no variables but those that lead to them. */
void world_init(struct world *w);
void world_fini(struct world *w);
/* Sets or (NULL) removes a variable; the strings are borrowed. */
void world_set(struct world *w, const char *name, const char *value);
void world_config(struct world *w, const char *text);
void world_credentials(struct world *w, const char *text);
/* A file below dir; its path stays until world_fini (and is one of a few). */
const char *world_file(struct world *w, const char *name, const char *text);
/* Adds a reply; a later one for the same method and url takes its place. */
void world_reply(struct world *w, const char *method, const char *url, int status,
                 const char *body);
void world_reply_failure(struct world *w, const char *method, const char *url, enum ckpt_status st);
/* Removes replies and what was recorded. */
void world_forget(struct world *w);

s3_env_fn world_env;     /* arg: the world */
s3_fetch_fn world_fetch; /* arg: the world; what has no reply is UNREACHABLE */

struct s3_creds *world_creds(struct world *w, const char *profile);
/* Fails the test when the text holds CANARY. */
void world_check_text(const char *text);
