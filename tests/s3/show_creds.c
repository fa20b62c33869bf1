/* Finds credentials as the product does, with its own HTTP, and prints a JSON object: for
 * tests that put sources of credentials in its way.  Prints secrets: they are the test's.
 *
 *   show_creds [PROFILE] */
#include <jansson.h>
#include <stdio.h>
#include <time.h>

#include "storage/store/s3_creds.h"

#include "check.h"

int main(int argc, char **argv)
{
    const struct s3_creds_options options = { .profile = argc > 1 ? argv[1] : NULL };
    struct s3_keys keys = { .generation = 0 };
    struct ckpt_err err = { 0 };
    struct s3_creds *creds;
    char text[512];
    CHECK_OK(s3_creds_new(&options, &creds, NULL));
    enum ckpt_status st = s3_creds_get(creds, time(NULL), NULL, &keys, &err);
    s3_creds_to_text(creds, text, sizeof(text));
    json_t *out = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "status", status_name(st),
                            "error", err.text, "text", text, "id", keys.id, "secret", keys.secret,
                            "token", keys.token, "expires_s", (json_int_t)keys.expires_s);
    CHECK(out && json_dumpf(out, stdout, 0) == 0);
    json_decref(out);
    s3_creds_unref(creds);
    s3_keys_fini(&keys);
    return 0;
}
