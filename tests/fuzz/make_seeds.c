/* Small inputs for the targets whose decoders have no golden bytes of their own.
 * usage: make_seeds DIRECTORY     writes DIRECTORY/<target>/<number> */
#include <sys/stat.h>

#include "formats/codec.h"
#include "formats/index.h"
#include "formats/report.h"
#include "formats/select.h"
#include "formats/wire.h"
#include "golden/samples.h"
#include "unit/decl_random.h"

static const char *root;
static unsigned written;

static void write_seed(const char *target, const void *bytes, size_t len)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", root, target);
    (void)mkdir(path, 0777);
    snprintf(path, sizeof(path), "%s/%s/%04u", root, target, written++);
    FILE *f = fopen(path, "we");
    CHECK(f != NULL);
    CHECK_EQ(fwrite(bytes, 1, len, f), len);
    CHECK_EQ(fclose(f), 0);
}

/* --- declarations and manifests -------------------------------------------------- */

static void fill(unsigned long long *seed, void *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)to)[i] = (uint8_t)test_rand(seed);
}

static struct manifest_header seed_header(unsigned long long *seed, bool failed)
{
    struct manifest_header h = { .name = { 3, 20, 5 }, .rank = 1, .world = 4, .job = "job" };
    h.has_parent = below(seed, 2);
    h.parent = h.has_parent ? (struct ckpt_name){ 2, 10, 5 } : (struct ckpt_name){ 0 };
    h.metric_count = 1;
    snprintf(h.metrics[0].name, sizeof(h.metrics[0].name), "loss");
    if (failed) {
        h.flags = MANIFEST_FLAG_FAILED;
        h.fail_status = CKPT_IO;
        snprintf(h.fail_text, sizeof(h.fail_text), "disk");
    }
    return h;
}

static void seed_manifest(unsigned long long *seed, const struct decl *d)
{
    struct manifest_header h = seed_header(seed, false);
    struct digest *digests = calloc(d->chunk_count + 1, sizeof(*digests));
    struct manifest_pack *packs = calloc(d->slot_count + 1, sizeof(*packs));
    struct manifest_seen seen[8];
    struct manifest_source from = { .d = d, .digests = digests, .seen = seen };
    CLEANUP_BUF struct buf b = { 0 };
    struct sha256 sha;
    CHECK(digests && packs);
    fill(seed, digests, d->chunk_count * sizeof(*digests));
    for (size_t i = 0; i < d->piece_count && from.seen_count < ARRAY_COUNT(seen); i++) {
        const struct decl_piece *p = &d->pieces[i];
        if (box_volume(&p->box))
            seen[from.seen_count++] =
                (struct manifest_seen){ p->tensor, { .box = tile_at(&p->box, p->tile, 0) } };
    }
    for (uint32_t i = 0; i < d->slot_count; i++)
        packs[i] = (struct manifest_pack){ .slot = i, .chunks = d->slots[i].chunks };
    h.pack_count = d->slot_count;
    h.packs = packs;
    manifest_encode_source(&h, &from, &b, &sha);
    CHECK(!b.failed);
    if (b.len < 4000)
        write_seed("manifest", b.data, b.len);
    free(digests);
    free(packs);
}

static void seed_decls(unsigned long long *seed)
{
    for (unsigned i = 0; i < 24; i++) {
        struct decl d = { 0 };
        CLEANUP_BUF struct buf b = { 0 };
        random_decl(seed, &d, i % 6);
        CHECK_OK(decl_finish(&d, CKPT_SLOT_BYTES_MIN, NULL));
        decl_encode(&d, &b);
        write_seed("decl", b.data, b.len);
        seed_manifest(seed, &d);
        decl_fini(&d);
    }
    struct manifest_header h = seed_header(seed, true);
    CLEANUP_BUF struct buf b = { 0 };
    struct sha256 sha;
    manifest_encode_failed(&h, &b, &sha);
    write_seed("manifest", b.data, b.len);
}

/* --- indexes ---------------------------------------------------------------------- */

/* Rows of [rows, 6] over `world` ranks; the last may have fewer. */
static struct index_tensor seed_tensor(char *name, uint64_t rows, uint32_t world)
{
    struct index_tensor t = { .name = name, .dtype = CKPT_DTYPE_F32, .ndim = 2 };
    uint64_t each = div_up(rows, world);
    t.shape[0] = rows;
    t.shape[1] = 6;
    t.runs = calloc(world, sizeof(*t.runs));
    struct index_from *from = calloc(world, sizeof(*from));
    CHECK(t.runs && from);
    size_t n = 0;
    for (uint32_t r = 0; r * each < rows; r++, n++) {
        from[n] = (struct index_from){ box_whole(2, t.shape), r };
        from[n].box.off[0] = r * each;
        from[n].box.len[0] = min_u64(each, rows - r * each);
    }
    t.run_count = (uint32_t)index_fold(from, n, 2, t.runs);
    free(from);
    return t;
}

static void seed_index(uint32_t world, size_t tensors)
{
    struct index_rank *ranks = calloc(world, sizeof(*ranks));
    struct index_tensor all[4];
    char names[4][8];
    const struct ckpt_name name = { 1, 2, 3 };
    struct buf *segments;
    uint32_t count, header_bytes;
    struct sha256 sha;
    for (size_t i = 0; i < tensors; i++) {
        snprintf(names[i], sizeof(names[i]), "t%zu", i);
        all[i] = seed_tensor(names[i], 5 + 7 * i, world);
    }
    if (tensors > 2) {
        all[2].run_count = 0;
        all[2].flags = DECL_ALIAS;
        all[2].alias = names[0];
        all[1].kind = DECL_BLOCKED;
        all[1].block[0] = 3;
    }
    const struct index_tensors list = { all, tensors };
    CHECK_OK(
        index_encode(&name, world, ranks, &list, &segments, &count, &header_bytes, &sha, NULL));
    CHECK_EQ(count, 1);
    write_seed("index", segments[0].data, segments[0].len);
    buf_fini(&segments[0]);
    free(segments);
    for (size_t i = 0; i < tensors; i++)
        free(all[i].runs);
    free(ranks);
}

/* --- messages, chunks, texts ------------------------------------------------------ */

static void put_tail(struct wire_msg *m, unsigned type, unsigned form)
{
    static const struct wire_frag frag = { .tensor = 1, .ndim = 2 };
    static const uint64_t box[4] = { 0, 0, 2, 3 };
    if (type == WIRE_HELLO)
        CHECK(wire_tail_str(m, "job") && wire_tail_str(m, "launch") && wire_tail_str(m, ""));
    else if (type == WIRE_SAVE && form)
        CHECK(wire_tail_str(m, "loss") && wire_tail(m, box, 8));
    else if (type == WIRE_FRAGS && form)
        CHECK(wire_tail(m, &frag, sizeof(frag)) && wire_tail(m, box, sizeof(box)));
    else if ((type == WIRE_LOAD || type == WIRE_LIST) && form)
        CHECK(wire_tail(m, "\1\2\0w*", 5));
    else if (type == WIRE_FAIL || type == WIRE_OP || type == WIRE_RESTORED || type == WIRE_LISTED)
        CHECK(wire_tail(m, "a text\n", 7));
}

static void seed_wire(void)
{
    static struct wire_msg m;
    uint64_t body[16] = { 0 };
    for (unsigned type = 0; type < 128; type++) {
        for (unsigned form = 0; wire_body_bytes(type) != SIZE_MAX && form < 2; form++) {
            struct wire_save save = { .op = 1, .metric_count = form };
            struct wire_frags frags = { .op = 1, .count = form };
            wire_begin(&m, (enum wire_type)type,
                       type == WIRE_SAVE    ? (void *)&save
                       : type == WIRE_FRAGS ? (void *)&frags
                                            : (void *)body);
            put_tail(&m, type, form);
            m.head.fds = form;
            write_seed("wire", m.bytes, m.len);
        }
    }
}

/* What is refused, or becomes too long a name when it is applied. */
static void seed_select_limits(void)
{
    char longest[CKPT_TENSOR_NAME_MAX + 1] = "*", stars[SELECT_STARS_MAX + 2] = "";
    CLEANUP_BUF struct buf rename = { 0 }, starry = { 0 };
    memset(longest + 1, 'x', CKPT_TENSOR_NAME_MAX - 1);
    memset(stars, '*', SELECT_STARS_MAX + 1);
    buf_u8(&rename, SELECT_RENAME);
    buf_str(&rename, "*");
    buf_str(&rename, longest);
    write_seed("select", rename.data, rename.len);
    buf_u8(&starry, SELECT_RENAME);
    buf_str(&starry, stars);
    buf_str(&starry, stars);
    write_seed("select", starry.data, starry.len);
}

/* Patterns of each kind, a few together; notes of each kind, and names. */
static void seed_restores(void)
{
    static const struct {
        enum select_kind kind;
        const char *pattern, *to;
    } rules[] = {
        { SELECT_ONLY, "layers.?.*", NULL },      { SELECT_EXCEPT, "*.bias", NULL },
        { SELECT_RENAME, "model.*", "module.*" }, { SELECT_RENAME, "*.l*.w", "x.*/*" },
        { SELECT_RENAME, "a.b.c.d", "rng@3" },    { SELECT_ONLY, "*", NULL },
        { SELECT_RENAME, "*.*.*.*", "*/*/*.*" },
    };
    struct report_note notes[] = { { 1, true, 0, NULL },
                                   { 7, false, CKPT_DTYPE_F16, NULL },
                                   { 39, false, CKPT_DTYPE_F32, (char[]){ "old.name" } } };
    char *names[] = { (char[]){ "left" }, (char[]){ "over" } };
    struct select s = { 0 };
    for (size_t i = 0; i < ARRAY_COUNT(rules); i++) {
        CLEANUP_BUF struct buf b = { 0 };
        CHECK_OK(select_add(&s, rules[i].kind, rules[i].pattern, rules[i].to, NULL));
        CHECK_OK(select_encode(&s, &b, NULL));
        write_seed("select", b.data, b.len);
    }
    select_fini(&s);
    seed_select_limits();
    for (size_t i = 0; i < 4; i++) {
        CLEANUP_BUF struct buf b = { 0 };
        const struct report r = { notes, i, names, i % 3, i * 100 };
        report_encode(&r, &b);
        write_seed("report", b.data, b.len);
    }
}

static void seed_codec(unsigned long long *seed)
{
    static const uint16_t sizes[] = { 0, 1, 100, 1000, 5000 };
    struct codec *codec = codec_new();
    CHECK(codec != NULL);
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        uint8_t raw[5000], out[8192] = { 0 };
        enum codec_id id;
        size_t n;
        for (size_t k = 0; k < sizes[i]; k++)
            raw[k] = (uint8_t)(test_rand(seed) & 3);
        CHECK_OK(
            codec_encode(codec, CODEC_ZSTD, 1, raw, sizes[i], out + 4, sizeof(out) - 4, &id, &n));
        if (id == CODEC_STORED)
            memcpy(out + 4, raw, n);
        out[0] = (uint8_t)id;
        out[2] = (uint8_t)sizes[i];
        out[3] = (uint8_t)(sizes[i] >> 8);
        write_seed("codec", out, 4 + n);
    }
    codec_free(codec);
}

static void seed_texts(void)
{
    static const char *const texts[][2] = {
        { "key", "fffffffffffffff8-fffffffffffffb4f-0123456789abcdef" },
        { "key", "fffffffffffffff8" },
        { "key", "0123456789abcdef0123456789abcdef" },
        { "key", "17.m" },
        { "key", "0.h" },
        { "key", "1048575-12-0123456789abcdef0123456789abcdef" },
        { "key", "i4294967295" },
        { "word", "llama-70b.run_7" },
        { "word", "ckpt.repo" },
        { "word", "model/layers.0/w\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80" },
        { "word", "a/../b" },
        { "word", "F8_E4M3FNUZ" },
        { "spec", "job" },
        { "spec", "job@latest" },
        { "spec", "job@120" },
        { "spec", "job@18446744073709551615~3" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        write_seed(texts[i][0], texts[i][1], strlen(texts[i][1]));
}

/* N, the JSON, and the size of the data in two bytes, as fuzz_safetensors.c takes it. */
static void seed_safetensors(void)
{
    static const struct {
        const char *json;
        uint16_t data;
    } all[] = {
        { "{}", 0 },
        { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24 },
        { "{\"b\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[8,10]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
          "\"__metadata__\":{\"format\":\"pt\"}}",
          10 },
        { "{\"e\":{\"dtype\":\"I64\",\"shape\":[0,4],\"data_offsets\":[0,0]}}", 0 },
        { "{\"w\":{\"dtype\":\"F99\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2 },
        { "{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8 },
        { "{\"w\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[5,2]}}", 8 },
        { "{\"w\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"
          "\"data_offsets\":[0,1]}}",
          1 },
        { "{\"__metadata__\":{\"n\":1}}", 0 },
        { "[1]", 0 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        uint8_t bytes[512] = { 0 };
        size_t len = strlen(all[i].json);
        bytes[0] = (uint8_t)len;
        memcpy(bytes + 8, all[i].json, len);
        bytes[8 + len] = (uint8_t)all[i].data;
        write_seed("safetensors", bytes, 8 + len + 2);
    }
}

/* Events for fuzz_session.c: a save from STATE to its end, and a restore. */
static void seed_session(void)
{
    enum { STATE, SAVE, FULL, FAIL, LOAD, BACK, CANCEL, NOTE, BACK_HERE = 0x70 };
    static const uint8_t save[][8] = {
        { STATE },
        { BACK_HERE, 0, 16 },
        { SAVE, 0, 0, 0, 1 },
        { BACK_HERE },
        { FULL, 0, 0, 0, 0, 0, 0, 0 },
        { FULL, 0, 0, 0, 1, 0, 1, 1 },
        { BACK_HERE, 1 },
        { BACK_HERE, 1 },
        { BACK_HERE, 1 },
        { BACK_HERE, 0 },
        { NOTE },
    };
    static const uint8_t load[][8] = {
        { STATE }, { BACK_HERE, 0, 16 }, { LOAD }, { BACK }, { 0xd0, 1 }, { 0xe0 }, { CANCEL },
    };
    static const uint8_t fail[][8] = {
        { STATE },
        { BACK_HERE, 0, 16 },
        { SAVE, 0, 0, 0, 1 },
        { BACK_HERE },
        { FAIL },
        { SAVE, 0, 0, 0, 1, 0, 1 },
        { 0xf0, 1 },
        { 0xf0, 0, 2 },
        { 0xf0, 0, 1 },
        { 0xf0, 0, 5 },
    };
    write_seed("session", save, sizeof(save));
    write_seed("session", load, sizeof(load));
    write_seed("session", fail, sizeof(fail));
}

static void seed_packs(void)
{
    for (unsigned i = SAMPLE_RECORDS; i < SAMPLES; i++) {
        CLEANUP_BUF struct buf b = { 0 };
        sample_at(i)->encode(&b);
        write_seed("pack", b.data, 128 + 32 * SAMPLE_CHUNKS);
    }
}

/* Every clause of a layout file, and some that are none. */
static void seed_layouts(void)
{
    static const char *const texts[] = {
        "mesh tp=2,pp=2\n* tp:0 # rows\n",
        "mesh tp=2,dp=3,zero=3\n*q_proj tp:-1\n*q_proj dp:flat cp:*\n",
        "mesh pp=2,vpp=2,ep=2\n*layers.* pp:layer\nexperts.* ep:expert pp:=-1\n",
        "mesh tp=2\n*q_proj tp:0[3+4+3]\n*.experts tp:2/3 pad:2=8\n",
        "mesh rep=2,dp=2,fsdp=1\nadamw.* skip\nrng@1 skip\n",
        "mesh tp=2\nmesh dp=2\n",
        "mesh tp=2,dp=6,pp=2,ep=3,etp=2\n*.experts tp:1\n",
        "* tp:=x\n",
        "mesh tp=4\n\n  \t\r\n* tp\n",
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        write_seed("layout", texts[i], strlen(texts[i]));
}

static void seed_settings(void)
{
    static const char *const texts[] = {
        "store = /s # here\n\tcrew=7  \r\n remote = /r\nremote = /q\nremote-rate = 2M\n",
        "keep = last=3,daily=2\n[job a*]\nkeep = all\n[ job b ]\nkeep=best=loss:min:2\n",
        "slot-bytes = 16M\ncodec = zstd:3\nremote-policy = every=10,last\nio = threads\n",
        "delete-grace = 36h\nlog-level = debug\nstop-seconds = 3\nsocket = /a.sock\n",
        "stor = /x\n[job x\n[tier y]\n[job a/b]\n--crew = 3\n= 3\ncrew =\ncrew = \"3\"\n",
        "secret-key = x\nprivate = yes\n[job a]\ncrew = 3\n[job a]\n",
        "crew = 3\ncrew = 4\n# a comment\n\n\001\n",
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        write_seed("conf", texts[i], strlen(texts[i]));
}

int main(int argc, char **argv)
{
    unsigned long long seed = 1;
    CHECK_EQ(argc, 2);
    root = argv[1];
    seed_decls(&seed);
    seed_index(1, 0);
    seed_index(1, 1);
    seed_index(4, 4);
    seed_wire();
    seed_restores();
    seed_codec(&seed);
    seed_texts();
    seed_packs();
    seed_safetensors();
    seed_layouts();
    seed_session();
    seed_settings();
    TEST_CASES(written);
    return 0;
}
