/* Words for what an object store answers: what failed, on what, what to do. */
#pragma once

#include "storage/store/s3_http.h"
#include "storage/store/s3_url.h"

/* The outcome of an exchange, out of what came back: <Code> of an error body, and of a
 * 2xx whose body is an error all the same. */
void s3_outcome_read(const struct s3_answer *answer, struct s3_outcome *ret);
/* What is known of the failure in a few words: "503 SlowDown", "connection refused". */
void s3_outcome_text(const struct s3_outcome *outcome, const struct s3_answer *answer, char *buf,
                     size_t cap);

struct s3_context {
    const char *what, *key; /* "put", "a/b" */
    const char *url;        /* of the store */
    const struct s3_place *place;
    const char *region;
    int64_t now_s; /* our clock */
};
/* Fills err and returns its status:
 *   NOT_FOUND    no such object          EXISTS       412
 *   DENIED       access, keys, clock     FULL         quota, no room
 *   UNREACHABLE  bucket, name, network, TLS, trouble inside the server
 *   CORRUPT      416                     UNSUPPORTED  501 and the like
 *   IO           anything else */
enum ckpt_status s3_trouble(const struct s3_context *context, const struct s3_outcome *outcome,
                            const struct s3_answer *answer, struct ckpt_err *err);
