/* The head of a request to the sink server, taken apart: as much of HTTP/1.1 and of S3 as
 * clients of object stores send. */
#pragma once

#include "formats/base.h"

#define SINK_HEAD_MAX 16384
#define SINK_KEY_MAX  1024

enum sink_verb { SINK_GET, SINK_HEAD, SINK_PUT, SINK_DELETE, SINK_POST };

struct sink_head {
    enum sink_verb verb;
    char bucket[64];
    char key[SINK_KEY_MAX + 1]; /* decoded; "" = the bucket */
    bool counts;                /* GET /-/counts: not S3, the server's own */
    /* query */
    bool list, uploads, upload_id, part;
    char prefix[SINK_KEY_MAX + 1], after[SINK_KEY_MAX + 1];
    bool delimiter; /* "/" */
    unsigned max_keys;
    /* headers */
    uint64_t length;                  /* of the body on the wire */
    uint64_t decoded_length;          /* of the object, when it is sent in aws-chunks */
    bool chunked;                     /* Transfer-Encoding: not taken */
    bool range, from_end;             /* bytes first-last; from_end: the last `last` ones */
    uint64_t range_first, range_last; /* range_last UINT64_MAX = to the end */
    bool if_none_match, expect, close;
    char md5[25], sha256[65], crc32c[9]; /* as sent, "" = not */
};

/* Bytes of the head, 0 when more are needed, -1 when it is none. */
int sink_head_parse(const char *bytes, size_t len, struct sink_head *ret);
