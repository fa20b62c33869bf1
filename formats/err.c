/* Filling struct ckpt_err: first cause wins, context is put in front. */
#include <stdio.h>

#include "formats/base.h"

static bool already_set(const struct ckpt_err *err)
{
    return err->status != CKPT_OK && err->text[0];
}

enum ckpt_status err_set(struct ckpt_err *err, enum ckpt_status st, const char *fmt, ...)
{
    if (err && !already_set(err)) {
        va_list ap;
        va_start(ap, fmt);
        err->status = st;
        vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
    }
    return st;
}

static enum ckpt_status status_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return CKPT_FULL;
    case EACCES:
    case EPERM:
    case EROFS:
        return CKPT_DENIED;
    case ENOMEM:
        return CKPT_NO_MEMORY;
    case ENOENT:
        return CKPT_NOT_FOUND;
    case ETIMEDOUT:
        return CKPT_TIMEOUT;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ENOTCONN:
        return CKPT_UNREACHABLE;
    default:
        return CKPT_IO;
    }
}

enum ckpt_status err_errno(struct ckpt_err *err, int errnum, const char *fmt, ...)
{
    enum ckpt_status st = status_of_errno(errnum);
    if (err && !already_set(err)) {
        char what[sizeof(err->text) - 128];
        char why[96];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(what, sizeof(what), fmt, ap);
        va_end(ap);
        err->status = st;
        snprintf(err->text, sizeof(err->text), "%s: %s", what,
                 strerror_r(errnum, why, sizeof(why)));
    }
    return st;
}

void err_prefix(struct ckpt_err *err, const char *fmt, ...)
{
    if (!err)
        return;
    char front[512];
    char whole[sizeof(err->text) + sizeof(front) + 4];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(front, sizeof(front), fmt, ap);
    va_end(ap);
    snprintf(whole, sizeof(whole), "%s: %s", front, err_text(err));
    memcpy(err->text, whole, sizeof(err->text));
    err->text[sizeof(err->text) - 1] = 0;
}

const char *err_text(const struct ckpt_err *err)
{
    return err->text[0] ? err->text : status_sentence(err->status);
}
