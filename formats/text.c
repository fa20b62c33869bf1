/* Making text safe to show and fit for JSON. */
#include "formats/text.h"

char *text_clean(const char *text, char *ret, size_t cap)
{
    size_t len = strlen(text), to = 0, taken;
    for (size_t i = 0; i < len; i += taken) {
        uint32_t code = 0;
        size_t n = text_next(text + i, len - i, &code);
        bool shown = n && text_shown(code);
        taken = n ? n : 1;
        if (to + (shown ? n : 1) >= cap)
            break;
        if (shown)
            memmove(ret + to, text + i, n);
        else
            ret[to] = '?';
        to += shown ? n : 1;
    }
    ret[to] = 0;
    return ret;
}

char *text_valid(const char *text)
{
    static const char replacement[] = "\xef\xbf\xbd";
    const size_t replacement_bytes = sizeof(replacement) - 1;
    size_t len = strlen(text), to = 0, taken;
    char *ret = malloc(replacement_bytes * len + 1);
    for (size_t i = 0; ret && i < len; i += taken) {
        uint32_t code;
        size_t n = text_next(text + i, len - i, &code);
        taken = n ? n : 1;
        memcpy(ret + to, n ? text + i : replacement, n ? n : replacement_bytes);
        to += n ? n : replacement_bytes;
    }
    if (ret)
        ret[to] = 0;
    return ret;
}
