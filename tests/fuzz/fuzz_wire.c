/* Messages of the socket: the check of a whole message, and its tail read as each
 * receiver reads it.  The input is the message; descriptors count as many as its head
 * says, up to what a message can carry. */
#include "formats/select.h"
#include "formats/wire.h"
#include "fuzz/fuzz.h"

static struct wire_msg msg, copy;

static void read_strings(struct cursor *c, unsigned count)
{
    char text[512];
    for (unsigned i = 0; cursor_ok(c) && i < count; i++)
        cursor_str(c, text, sizeof(text));
}

static void read_metrics(struct cursor *c)
{
    struct wire_save save;
    memcpy(&save, wire_body(&msg), sizeof(save));
    for (uint32_t i = 0; cursor_ok(c) && i < save.metric_count; i++) {
        read_strings(c, 1);
        cursor_f64(c);
    }
}

static void read_frags(struct cursor *c)
{
    struct wire_frags frags;
    memcpy(&frags, wire_body(&msg), sizeof(frags));
    for (uint32_t i = 0; cursor_ok(c) && i < frags.count; i++) {
        struct wire_frag f = { 0 };
        cursor_copy(c, &f, sizeof(f));
        if (f.ndim > CKPT_DIMS_MAX)
            cursor_fail(c);
        for (uint32_t k = 0; cursor_ok(c) && k < 2 * f.ndim; k++)
            cursor_u64(c);
    }
}

static void read_rules(const uint8_t *tail, size_t n)
{
    struct select s;
    if (select_decode(tail, n, &s, NULL) == CKPT_OK)
        select_fini(&s);
}

static void check_text(void)
{
    char text[64], one[1];
    wire_text(&msg, text, sizeof(text));
    wire_text(&msg, one, sizeof(one));
    FUZZ_CHECK(strlen(text) < sizeof(text) && !one[0]);
    for (const char *at = text; *at; at++)
        FUZZ_CHECK((uint8_t)*at >= 0x20 && *at != 0x7f);
}

/* A checked message is made again from its parts. */
static void build_again(const uint8_t *tail, size_t len)
{
    wire_begin(&copy, (enum wire_type)msg.head.type, wire_body(&msg));
    FUZZ_CHECK(wire_tail(&copy, tail, len));
    copy.head.fds = copy.fd_count = msg.fd_count;
    copy.head.seq = msg.head.seq;
    copy.head.ack = msg.head.ack;
    FUZZ_CHECK(copy.len == msg.len && memcmp(copy.bytes, msg.bytes, msg.len) == 0);
    FUZZ_CHECK(!wire_tail(&copy, tail, WIRE_BYTES_MAX));
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    struct ckpt_err err = { 0 };
    if (len > WIRE_BYTES_MAX)
        return;
    memset(&msg.head, 0xa5, sizeof(msg.head)); /* what an earlier message left */
    memcpy(msg.bytes, bytes, len);
    msg.len = (uint32_t)len;
    msg.fd_count = msg.head.fds < WIRE_FDS_MAX ? msg.head.fds : WIRE_FDS_MAX;
    (void)wire_type_name(msg.head.type);
    if (wire_check(&msg, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return;
    }
    size_t n;
    const uint8_t *tail = wire_tail_of(&msg, &n);
    FUZZ_CHECK(tail + n == msg.bytes + msg.len);
    fuzz_touch(wire_body(&msg), wire_body_bytes(msg.head.type));
    struct cursor c = cursor_over(tail, n);
    if (msg.head.type == WIRE_HELLO)
        read_strings(&c, 3);
    else if (msg.head.type == WIRE_SAVE)
        read_metrics(&c);
    else if (msg.head.type == WIRE_FRAGS)
        read_frags(&c);
    else if (msg.head.type == WIRE_LOAD || msg.head.type == WIRE_LIST)
        read_rules(tail, n);
    check_text();
    build_again(tail, n);
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    if (len < sizeof(struct wire_head))
        return;
    fuzz_put_u32(bytes, WIRE_MAGIC);
    fuzz_put_u32(bytes + offsetof(struct wire_head, bytes), (uint32_t)len);
}
