/* See s3_site.h. */
#include "storage/store/s3_site.h"

#include <stdio.h>

static struct {
    pthread_mutex_t lock;
    struct s3_site *sites; /* all of it under lock */
} table = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Two URLs that lead to the same place by the same means. */
static bool same_place(const struct s3_place *a, const struct s3_place *b)
{
    return strcmp(a->bucket, b->bucket) == 0 && strcmp(a->prefix, b->prefix) == 0 &&
           strcmp(a->host, b->host) == 0 && strcmp(a->base, b->base) == 0 &&
           strcmp(a->region, b->region) == 0 && strcmp(a->profile, b->profile) == 0 &&
           strcmp(a->ca_file, b->ca_file) == 0 && a->tls == b->tls && a->aws == b->aws &&
           a->virtual_host == b->virtual_host && a->payload == b->payload &&
           a->connections == b->connections;
}

static void site_free(struct s3_site *site)
{
    s3_creds_unref(site->creds);
    s3_http_share_free(site->share);
    pthread_mutex_destroy(&site->shared.lock);
    free(site);
}

static enum ckpt_status site_new(const struct s3_place *place, struct s3_site **ret,
                                 struct ckpt_err *err)
{
    struct s3_site *site = calloc(1, sizeof(*site));
    if (!site)
        return err_set(err, CKPT_NO_MEMORY, "no memory to open s3://%s", place->bucket);
    site->place = *place;
    site->refs = 1;
    pthread_mutex_init(&site->shared.lock, NULL);
    snprintf(site->shared.region, sizeof(site->shared.region), "%s", place->region);
    struct s3_creds_options options = { .profile = place->profile[0] ? place->profile : NULL,
                                        .region = place->region };
    enum ckpt_status st = s3_creds_new(&options, &site->creds, err);
    if (st == CKPT_OK)
        st = s3_http_share_new(&site->share, err);
    if (st != CKPT_OK)
        site_free(site);
    else
        *ret = site;
    return st;
}

enum ckpt_status s3_site_get(const struct s3_place *place, struct s3_site **ret,
                             struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    pthread_mutex_lock(&table.lock);
    struct s3_site *site = table.sites;
    while (site && !same_place(&site->place, place))
        site = site->next;
    if (site) {
        site->refs++;
    } else {
        st = site_new(place, &site, err);
        if (st == CKPT_OK) {
            site->next = table.sites;
            table.sites = site;
        }
    }
    pthread_mutex_unlock(&table.lock);
    if (st == CKPT_OK)
        *ret = site;
    return st;
}

struct s3_site *s3_site_ref(struct s3_site *site)
{
    pthread_mutex_lock(&table.lock);
    site->refs++;
    pthread_mutex_unlock(&table.lock);
    return site;
}

void s3_site_unref(struct s3_site *site)
{
    if (!site)
        return;
    pthread_mutex_lock(&table.lock);
    bool last = --site->refs == 0;
    struct s3_site **at = &table.sites;
    while (last && *at != site)
        at = &(*at)->next;
    if (last)
        *at = site->next;
    pthread_mutex_unlock(&table.lock);
    if (last)
        site_free(site);
}

void s3_site_region(struct s3_site *site, char ret[S3_REGION_MAX + 1])
{
    pthread_mutex_lock(&site->shared.lock);
    memcpy(ret, site->shared.region, S3_REGION_MAX + 1);
    pthread_mutex_unlock(&site->shared.lock);
}

void s3_site_set_region(struct s3_site *site, const char *region)
{
    pthread_mutex_lock(&site->shared.lock);
    snprintf(site->shared.region, sizeof(site->shared.region), "%s", region);
    site->shared.counts.moved++;
    pthread_mutex_unlock(&site->shared.lock);
}

int64_t s3_site_skew_s(struct s3_site *site)
{
    pthread_mutex_lock(&site->shared.lock);
    int64_t skew_s = site->shared.skew_s;
    pthread_mutex_unlock(&site->shared.lock);
    return skew_s;
}

void s3_site_set_skew(struct s3_site *site, int64_t skew_s)
{
    pthread_mutex_lock(&site->shared.lock);
    site->shared.skew_s = skew_s;
    pthread_mutex_unlock(&site->shared.lock);
}

bool s3_site_ordered(struct s3_site *site)
{
    pthread_mutex_lock(&site->shared.lock);
    bool ordered = !site->shared.unordered;
    pthread_mutex_unlock(&site->shared.lock);
    return ordered;
}

void s3_site_set_unordered(struct s3_site *site)
{
    pthread_mutex_lock(&site->shared.lock);
    site->shared.unordered = true;
    pthread_mutex_unlock(&site->shared.lock);
}

void s3_site_counts(struct s3_site *site, struct s3_counts *ret)
{
    pthread_mutex_lock(&site->shared.lock);
    *ret = site->shared.counts;
    pthread_mutex_unlock(&site->shared.lock);
}
