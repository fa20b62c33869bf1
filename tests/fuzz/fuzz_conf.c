/* ckptd.conf: any bytes are settings, or errors with words; and what is printed of settings is a
 * file that is read again. */
#include "ckptd/config.h"
#include "ckptd/config_file.h"
#include "fuzz/fuzz.h"

static char *nothing(const char *name)
{
    (void)name;
    return NULL;
}

static struct config *load(const char *text, size_t len)
{
    static char program[] = "ckptd", store[] = "--store=/s", file[] = "--config=f";
    static char *argv[] = { program, store, file };
    static struct config_errors errors;
    struct config_input in = { .argc = 3, .argv = argv, .getenv_ = nothing };
    struct config *c = NULL;
    in.text = text;
    in.text_len = len;
    enum ckpt_status st = config_load(&in, &c, &errors);
    FUZZ_CHECK((st == CKPT_OK) == (c != NULL) && (st == CKPT_OK) == (errors.count == 0));
    for (size_t i = 0; i < min_u64(errors.count, CONFIG_ERRORS_MAX); i++)
        FUZZ_CHECK(errors.list[i].text[0]);
    return c;
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    char *text = NULL;
    size_t text_len = 0;
    struct config *c = load((const char *)bytes, len), *again;
    if (!c)
        return;
    (void)config_keep(c, "job", CONFIG_KEEP);
    FILE *f = open_memstream(&text, &text_len);
    FUZZ_CHECK(f);
    config_print(c, f);
    FUZZ_CHECK(fclose(f) == 0);
    again = load(text, text_len);
    FUZZ_CHECK(again && again->crew == c->crew && again->remote_count == c->remote_count);
    config_free(again);
    config_free(c);
    free(text);
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    (void)bytes; /* nothing is summed */
    (void)len;
}
