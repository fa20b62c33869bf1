/* The store contract, unchanged, on a real object store: the server of with_rgw.py; said
 * "virtual", with the bucket in the name of the host.
 * (It covers store_s3.c, store_s3_put.c, store_s3_get.c, store_s3_list.c,
 * store_s3_probe.c, s3_call.c, s3_site.c and s3_http.c too.) */
#include "storage/store/wrap.h"
#include "store/contract.h"

#include "check.h"

static enum ckpt_status open_s3(const struct contract *c, bool readonly, struct store **ret,
                                struct ckpt_err *err)
{
    struct store_options options = { .create = true, .readonly = readonly };
    struct store *s;
    enum ckpt_status st = store_open(c->url, &options, &s, err);
    if (st != CKPT_OK || c->wrapper == 0) {
        if (st == CKPT_OK)
            *ret = s;
        return st;
    }
    return wrap_verify(s, ret, err);
}

int main(int argc, char **argv)
{
    bool named = argc > 1 && strcmp(argv[1], "virtual") == 0;
    const char *endpoint = getenv(named ? "CKPT_TEST_S3_NAMED" : "CKPT_TEST_S3");
    const char *bucket = getenv(named ? "CKPT_TEST_BUCKET_NAMED" : "CKPT_TEST_BUCKET");
    char url[300];
    if (!endpoint || !bucket)
        TEST_SKIP("CKPT_TEST_S3 and CKPT_TEST_BUCKET name no server; see with_rgw.py");
    snprintf(url, sizeof(url), "s3://%s?endpoint=%s%s", bucket, endpoint,
             named ? "&style=virtual" : "");
    struct contract c = {
        .name = named ? "s3, virtual host" : "s3", .open = open_s3, .url = url, .processes = true
    };
    int cases = contract_run(&c);
    TEST_CASES(cases);
    return 0;
}
