/* What sources of credentials answer, checked before it is believed: lengths, characters,
 * times.  Texts for people are bounded, and never hold what was sent as a secret. */
#include <jansson.h>
#include <stdio.h>
#include <time.h>

#include "storage/store/s3_creds_source.h"

/* Printable ASCII without blanks, 1 to max bytes. */
static bool is_key_text(const char *text, size_t max)
{
    size_t len = text ? strnlen(text, max + 1) : 0;
    if (len == 0 || len > max)
        return false;
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] >= 0x7f)
            return false;
    return true;
}

enum ckpt_status s3_answer_keys(const char *what, const char *id, const char *secret,
                                const char *token, const char *expires, struct s3_keys *ret,
                                struct ckpt_err *err)
{
    struct s3_keys keys = { .expires_s = INT64_MAX };
    if (!is_key_text(id, S3_KEY_ID_MAX))
        return err_set(err, CKPT_DENIED, "%s: the access key id is missing or none", what);
    if (!is_key_text(secret, S3_SECRET_MAX))
        return err_set(err, CKPT_DENIED, "%s: the secret access key is missing or none", what);
    if (token && !is_key_text(token, S3_SESSION_TOKEN_MAX))
        return err_set(err, CKPT_DENIED, "%s: the session token is none", what);
    if (expires && !s3_answer_time(expires, &keys.expires_s))
        return err_set(err, CKPT_DENIED, "%s: the expiration is no time of ISO 8601", what);
    snprintf(keys.id, sizeof(keys.id), "%s", id);
    snprintf(keys.secret, sizeof(keys.secret), "%s", secret);
    snprintf(keys.token, sizeof(keys.token), "%s", token ? token : "");
    *ret = keys;
    s3_keys_fini(&keys);
    return CKPT_OK;
}

static enum ckpt_status keys_of_object(const char *what, const json_t *object,
                                       const char *token_name, struct s3_keys *ret,
                                       struct ckpt_err *err)
{
    const char *code = json_string_value(json_object_get(object, "Code"));
    const json_t *token = json_object_get(object, token_name);
    const json_t *expires = json_object_get(object, "Expiration");
    char quote[100];
    if (code && strcmp(code, "Success") != 0) {
        s3_answer_quote(code, NULL, quote, sizeof(quote));
        return err_set(err, CKPT_DENIED, "%s answered with %s", what, quote);
    }
    if ((token && !json_is_string(token) && !json_is_null(token)) ||
        (expires && !json_is_string(expires) && !json_is_null(expires)))
        return err_set(err, CKPT_DENIED, "%s: %s or Expiration is no text", what, token_name);
    return s3_answer_keys(what, json_string_value(json_object_get(object, "AccessKeyId")),
                          json_string_value(json_object_get(object, "SecretAccessKey")),
                          json_string_value(token), json_string_value(expires), ret, err);
}

enum ckpt_status s3_answer_json(const char *what, const char *json, size_t len,
                                const char *token_name, struct s3_keys *ret, struct ckpt_err *err)
{
    json_t *object = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
    enum ckpt_status st;
    if (!json_is_object(object))
        st = err_set(err, CKPT_DENIED, "%s answered with something that is no JSON object", what);
    else
        st = keys_of_object(what, object, token_name, ret, err);
    json_decref(object);
    return st;
}

/* Exactly `digits` of them; -1 otherwise. */
static int take_number(const char **at, int digits)
{
    int n = 0;
    for (int i = 0; i < digits; i++, (*at)++) {
        if (**at < '0' || **at > '9')
            return -1;
        n = 10 * n + (**at - '0');
    }
    return n;
}

static bool take_char(const char **at, const char *any_of)
{
    if (!**at || !strchr(any_of, **at))
        return false;
    (*at)++;
    return true;
}

/* "Z", "+hh:mm", "+hhmm" to the end. */
static bool take_zone(const char *at, int *ret_s)
{
    int sign = *at == '-' ? -1 : 1;
    *ret_s = 0;
    if (take_char(&at, "zZ"))
        return *at == '\0';
    if (!take_char(&at, "+-"))
        return false;
    int hours = take_number(&at, 2);
    take_char(&at, ":");
    int minutes = take_number(&at, 2);
    *ret_s = sign * (3600 * hours + 60 * minutes);
    return hours >= 0 && hours < 24 && minutes >= 0 && minutes < 60 && *at == '\0';
}

bool s3_answer_time(const char *text, int64_t *ret_s)
{
    const char *at = text;
    struct tm tm = { 0 };
    int zone;
    tm.tm_year = take_number(&at, 4) - 1900;
    if (tm.tm_year < 70 || !take_char(&at, "-"))
        return false;
    tm.tm_mon = take_number(&at, 2) - 1;
    if (tm.tm_mon < 0 || tm.tm_mon > 11 || !take_char(&at, "-"))
        return false;
    tm.tm_mday = take_number(&at, 2);
    if (tm.tm_mday < 1 || tm.tm_mday > 31 || !take_char(&at, "Tt "))
        return false;
    tm.tm_hour = take_number(&at, 2);
    if (tm.tm_hour < 0 || tm.tm_hour > 23 || !take_char(&at, ":"))
        return false;
    tm.tm_min = take_number(&at, 2);
    if (tm.tm_min < 0 || tm.tm_min > 59 || !take_char(&at, ":"))
        return false;
    tm.tm_sec = take_number(&at, 2);
    if (tm.tm_sec < 0 || tm.tm_sec > 60)
        return false;
    if (take_char(&at, ".,"))
        at += strspn(at, "0123456789");
    if (!take_zone(at, &zone))
        return false;
    *ret_s = (int64_t)timegm(&tm) - zone;
    return true;
}

/* True if `text` holds 12 bytes in a row of `secret` (or all of a shorter one). */
static bool holds_part(const char *text, const char *secret)
{
    char part[13];
    size_t len = secret ? strlen(secret) : 0, step = sizeof(part) - 1;
    for (size_t i = 0; len > 0 && (i == 0 || i + step <= len); i++) {
        snprintf(part, sizeof(part), "%s", secret + i);
        if (strstr(text, part))
            return true;
    }
    return false;
}

void s3_answer_quote(const char *text, const char *secret, char *ret, size_t cap)
{
    snprintf(ret, cap, "%s", holds_part(text, secret) ? "" : text);
    for (char *at = ret; *at; at++)
        if (*at < ' ' || *at >= 0x7f)
            *at = '?';
}
