/* The status table as strings and classes. */
#include "formats/status.h"

#include <stddef.h>

static const struct {
    const char *name;
    const char *sentence;
    enum ckpt_class class_;
} table[] = {
#define X(name_, number, c, s) \
    [number] = { .name = #name_, .sentence = s, .class_ = CKPT_CLASS_##c },
    CKPT_STATUSES(X)
#undef X
};

static const size_t table_count = sizeof(table) / sizeof(table[0]);

int status_known(unsigned number)
{
    return number < table_count && table[number].name != NULL;
}

enum ckpt_class status_class(enum ckpt_status st)
{
    return status_known(st) ? table[st].class_ : CKPT_CLASS_BUG;
}

const char *status_name(enum ckpt_status st)
{
    return status_known(st) ? table[st].name : "UNKNOWN";
}

const char *status_sentence(enum ckpt_status st)
{
    return status_known(st) ? table[st].sentence : "unknown status";
}
