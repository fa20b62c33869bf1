/* The scripted world of aws_world.h. */
#include "fakes/aws_world.h"

#include <stdio.h>
#include <time.h>

#include "store/scratch.h"

#include "check.h"

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

void world_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    pthread_mutex_init(&w->lock, NULL);
    scratch_make(w->dir);
    snprintf(w->config, sizeof(w->config), "%s/config", w->dir);
    snprintf(w->credentials, sizeof(w->credentials), "%s/credentials", w->dir);
    world_set(w, "AWS_CONFIG_FILE", w->config);
    world_set(w, "AWS_SHARED_CREDENTIALS_FILE", w->credentials);
}

void world_fini(struct world *w)
{
    scratch_remove(w->dir);
    pthread_mutex_destroy(&w->lock);
}

void world_set(struct world *w, const char *name, const char *value)
{
    size_t i = 0;
    while (w->vars[i] && strcmp(w->vars[i], name) != 0)
        i += 2;
    CHECK(i < (size_t)2 * WORLD_VARS);
    w->vars[i] = name;
    w->vars[i + 1] = value;
}

const char *world_env(void *arg, const char *name)
{
    const struct world *w = arg;
    for (size_t i = 0; w->vars[i]; i += 2)
        if (strcmp(w->vars[i], name) == 0)
            return w->vars[i + 1];
    return NULL;
}

void world_config(struct world *w, const char *text)
{
    write_text(w->config, text);
}

void world_credentials(struct world *w, const char *text)
{
    write_text(w->credentials, text);
}

const char *world_file(struct world *w, const char *name, const char *text)
{
    static char paths[8][300];
    static size_t next;
    char *path = paths[next++ % 8];
    snprintf(path, 300, "%s/%s", w->dir, name);
    write_text(path, text);
    return path;
}

static void set_reply(struct world *w, const struct world_reply *reply)
{
    size_t i = 0;
    while (i < WORLD_REPLIES && w->replies[i].url &&
           (strcmp(w->replies[i].method, reply->method) != 0 ||
            strcmp(w->replies[i].url, reply->url) != 0))
        i++;
    CHECK(i < WORLD_REPLIES);
    w->replies[i] = *reply;
}

void world_reply(struct world *w, const char *method, const char *url, int status, const char *body)
{
    set_reply(w, &(struct world_reply){ method, url, CKPT_OK, status, body, 0 });
}

void world_reply_failure(struct world *w, const char *method, const char *url, enum ckpt_status st)
{
    set_reply(w, &(struct world_reply){ method, url, st, 0, NULL, 0 });
}

void world_forget(struct world *w)
{
    memset(w->replies, 0, sizeof(w->replies));
    memset(w->requests, 0, sizeof(w->requests));
    w->count = 0;
}

static void record(struct world *w, const struct s3_fetch_request *request)
{
    pthread_mutex_lock(&w->lock);
    if (w->count < WORLD_REQUESTS) {
        struct world_request *r = &w->requests[w->count];
        size_t len = 0;
        snprintf(r->method, sizeof(r->method), "%s", request->method);
        snprintf(r->url, sizeof(r->url), "%s", request->url);
        snprintf(r->body, sizeof(r->body), "%s", request->body ? request->body : "");
        r->headers[0] = '\0';
        for (size_t i = 0; i < S3_FETCH_HEADERS_MAX && request->headers[i]; i++)
            len += (size_t)snprintf(r->headers + len, sizeof(r->headers) - len, "%s\n",
                                    request->headers[i]);
        r->direct = request->direct;
    }
    w->count++;
    pthread_mutex_unlock(&w->lock);
}

enum ckpt_status world_fetch(void *arg, const struct s3_fetch_request *request,
                             struct s3_fetch_answer *ret, struct ckpt_err *err)
{
    struct world *w = arg;
    const struct timespec slice = { .tv_nsec = 1000000 };
    record(w, request);
    for (atomic_fetch_add(&w->waiting, 1); atomic_load(&w->gate);) {
        if (request->limits.cancel && atomic_load(request->limits.cancel)) {
            atomic_fetch_sub(&w->waiting, 1);
            return err_set(err, CKPT_CANCELLED, "cancelled");
        }
        nanosleep(&slice, NULL);
    }
    atomic_fetch_sub(&w->waiting, 1);
    for (size_t i = 0; i < WORLD_REPLIES && w->replies[i].url; i++) {
        const struct world_reply *r = &w->replies[i];
        if (strcmp(r->method, request->method) != 0 || !strstr(request->url, r->url))
            continue;
        if (r->st != CKPT_OK)
            return err_set(err, r->st, "the script says so");
        ret->status = r->status;
        ret->len = r->len ? r->len : strlen(r->body);
        CHECK(ret->len <= S3_FETCH_BODY_MAX);
        memcpy(ret->body, r->body, ret->len);
        ret->body[ret->len] = '\0';
        return CKPT_OK;
    }
    return err_set(err, CKPT_UNREACHABLE, "nobody is there");
}

struct s3_creds *world_creds(struct world *w, const char *profile)
{
    const struct s3_creds_options options = {
        .profile = profile, .env = world_env, .env_arg = w, .fetch = world_fetch, .fetch_arg = w
    };
    struct s3_creds *creds;
    CHECK_OK(s3_creds_new(&options, &creds, NULL));
    return creds;
}

void world_check_text(const char *text)
{
    if (strstr(text, "CANARY"))
        fprintf(stderr, "a secret is shown: %s\n", text);
    CHECK(text[0] && !strstr(text, "CANARY"));
}
