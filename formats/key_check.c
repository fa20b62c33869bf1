/* Names that come from outside, validated once at the edge: jobs, tags, tensors. */
#include "formats/key.h"
#include "formats/text.h"

static bool is_word_start(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool is_word(char c)
{
    return is_word_start(c) || c == '.' || c == '_' || c == '-';
}

/* The one rule of jobs and tags; `what` is "job" or "tag". */
static enum ckpt_status word_check(const char *what, const char *word, struct ckpt_err *err)
{
    size_t n = strlen(word);
    if (n == 0)
        return err_set(err, CKPT_BAD_NAME, "the %s name is empty", what);
    if (n > CKPT_JOB_NAME_MAX)
        return err_set(err, CKPT_BAD_NAME, "the %s name is %zu bytes long; the limit is %d", what,
                       n, CKPT_JOB_NAME_MAX);
    if (!is_word_start(word[0]))
        return err_set(err, CKPT_BAD_NAME,
                       "a %s name starts with a letter or digit, this one with byte 0x%02x", what,
                       (uint8_t)word[0]);
    for (size_t i = 1; i < n; i++) {
        if (!is_word(word[i]))
            return err_set(err, CKPT_BAD_NAME,
                           "a %s name has letters, digits, '.', '_' and '-' only; byte %zu of this "
                           "one is 0x%02x",
                           what, i, (uint8_t)word[i]);
    }
    if (strcmp(word, KEY_REPO) == 0)
        return err_set(err, CKPT_BAD_NAME, "\"%s\" is no %s name: it is reserved", word, what);
    return CKPT_OK;
}

enum ckpt_status job_name_check(const char *job, struct ckpt_err *err)
{
    return word_check("job", job, err);
}

enum ckpt_status tag_check(const char *tag, struct ckpt_err *err)
{
    return word_check("tag", tag, err);
}

/* How many bytes at the beginning are plain: 0x20 to 0x7e.  Eight at a time: in a byte
 * below 0x80, adding 1 sets the high bit of 0x7f alone, and subtracting 0x20 that of
 * what lies below it (a borrow from a lower byte only follows such a one). */
static size_t plain_prefix(const char *name, size_t len)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    size_t i = 0;
    for (uint64_t word; i + sizeof(word) <= len; i += sizeof(word)) {
        memcpy(&word, name + i, sizeof(word));
        if (word & high || (word + ones) & high || (word - 0x20 * ones) & high)
            break;
    }
    return i;
}

static enum ckpt_status utf8_check(const char *name, size_t len, struct ckpt_err *err)
{
    for (size_t i = plain_prefix(name, len); i < len;) {
        uint32_t code;
        size_t n = text_next(name + i, len - i, &code);
        if (n == 0)
            return err_set(err, CKPT_BAD_NAME,
                           "a tensor name is not valid UTF-8 at byte %zu (0x%02x)", i,
                           (uint8_t)name[i]);
        if (text_control(code))
            return err_set(err, CKPT_BAD_NAME,
                           "a tensor name has the control character U+%04X at byte %zu",
                           (unsigned)code, i);
        i += n;
    }
    return CKPT_OK;
}

/* Names become file names on export: no part may walk out of the directory. */
static enum ckpt_status parts_check(const char *name, size_t len, struct ckpt_err *err)
{
    for (size_t from = 0; from <= len;) {
        const char *slash = memchr(name + from, '/', len - from);
        size_t n = slash ? (size_t)(slash - name) - from : len - from;
        if (n == 0)
            return err_set(err, CKPT_BAD_NAME, "tensor name \"%.*s\" has an empty part", (int)len,
                           name);
        if (name[from] == '.' && (n == 1 || (n == 2 && name[from + 1] == '.')))
            return err_set(err, CKPT_BAD_NAME, "tensor name \"%.*s\" has the part \"%.*s\"",
                           (int)len, name, (int)n, name + from);
        from += n + 1;
    }
    return CKPT_OK;
}

enum ckpt_status tensor_name_check(const char *name, size_t len, struct ckpt_err *err)
{
    if (len == 0)
        return err_set(err, CKPT_BAD_NAME, "a tensor name is empty");
    if (len > CKPT_TENSOR_NAME_MAX)
        return err_set(err, CKPT_BAD_NAME, "a tensor name is %zu bytes long; the limit is %d", len,
                       CKPT_TENSOR_NAME_MAX);
    enum ckpt_status st = utf8_check(name, len, err);
    if (st != CKPT_OK)
        return st;
    return parts_check(name, len, err);
}
