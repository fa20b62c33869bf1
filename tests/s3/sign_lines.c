/* The signer as a filter, for tests in other languages: a JSON object per line in, with the
 * members of struct s3_request and struct s3_keys, and the signature as a JSON object per
 * line out. */
#include <jansson.h>
#include <stdio.h>

#include "storage/store/s3_sign.h"

#include "check.h"

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    CHECK(text);
    return text;
}

/* [["name", "value"], ...] */
static size_t pairs_of(const json_t *array, struct s3_pair pairs[S3_SIGN_PAIRS_MAX])
{
    size_t n = json_array_size(array);
    CHECK(n <= S3_SIGN_PAIRS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(array, i);
        pairs[i].name = json_string_value(json_array_get(pair, 0));
        pairs[i].value = json_string_value(json_array_get(pair, 1));
        CHECK(pairs[i].name);
    }
    return n;
}

static void sign_line(const char *line)
{
    struct s3_pair query[S3_SIGN_PAIRS_MAX], headers[S3_SIGN_PAIRS_MAX];
    struct s3_signer signer;
    struct s3_signature s;
    struct s3_keys keys = { .generation = 0 };
    json_t *in = json_loads(line, 0, NULL);
    CHECK(in);
    struct s3_request r = { .method = text_of(in, "method"),
                            .host = text_of(in, "host"),
                            .path = text_of(in, "path"),
                            .query = query,
                            .query_count = pairs_of(json_object_get(in, "query"), query),
                            .headers = headers,
                            .header_count = pairs_of(json_object_get(in, "headers"), headers),
                            .payload_hash = text_of(in, "payload_hash"),
                            .time_s = json_integer_value(json_object_get(in, "time_s")) };
    snprintf(keys.id, sizeof(keys.id), "%s", text_of(in, "id"));
    snprintf(keys.secret, sizeof(keys.secret), "%s", text_of(in, "secret"));
    snprintf(keys.token, sizeof(keys.token), "%s", text_of(in, "token"));
    CHECK_OK(s3_signer_init(&signer, text_of(in, "region"), text_of(in, "service"), NULL));
    CHECK_OK(s3_sign(&signer, &keys, &r, &s, NULL));
    json_t *out = json_pack("{s:s, s:s, s:s}", "target", s.target, "date", s.date, "authorization",
                            s.authorization);
    CHECK(out && json_dumpf(out, stdout, JSON_COMPACT) == 0);
    putchar('\n');
    fflush(stdout);
    json_decref(out);
    json_decref(in);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) >= 0)
        sign_line(line);
    free(line);
    return 0;
}
