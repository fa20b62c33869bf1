/* See config_file.h. */
#include "ckptd/config_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

enum ckpt_status config_file_read(const char *path, char **ret, size_t *ret_len,
                                  struct ckpt_err *err)
{
    struct stat s;
    size_t len = 0;
    CLEANUP_FREE char *text = NULL;
    /* Without waiting for whoever would write to a pipe of that name. */
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &s) < 0)
        return err_errno(err, errno, "%s", path);
    if (!S_ISREG(s.st_mode))
        return err_set(err, CKPT_INVALID, "%s is no plain file", path);
    if (s.st_mode & S_IWOTH)
        return err_set(err, CKPT_DENIED, "%s can be written by everybody: chmod o-w", path);
    if (s.st_size > (off_t)CONFIG_FILE_BYTES_MAX)
        return err_set(err, CKPT_LIMIT, "%s is larger than %llu KiB", path,
                       (unsigned long long)(CONFIG_FILE_BYTES_MAX / KIB));
    text = malloc(CONFIG_FILE_BYTES_MAX + 2);
    if (!text)
        return err_set(err, CKPT_NO_MEMORY, "no memory for %s", path);
    for (ssize_t n = 1; n > 0; len += (size_t)n) { /* it may grow while it is read */
        n = read(fd, text + len, CONFIG_FILE_BYTES_MAX + 1 - len);
        if (n < 0)
            return err_errno(err, errno, "%s", path);
    }
    if (len > CONFIG_FILE_BYTES_MAX)
        return err_set(err, CKPT_LIMIT, "%s grows while it is read", path);
    text[len] = 0;
    *ret = TAKE_PTR(text);
    *ret_len = len;
    return CKPT_OK;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Without blanks at both ends. */
static char *trim(char *text)
{
    while (blank(*text))
        text++;
    size_t len = strlen(text);
    while (len && blank(text[len - 1]))
        len--;
    text[len] = 0;
    return text;
}

static void cut_comment(char *text)
{
    for (char *p = text; *p; p++)
        if (*p == '#' && (p == text || blank(p[-1]) || p[-1] == '=')) {
            *p = 0;
            return;
        }
}

static bool says(struct config_cursor *at, struct config_line *ret, const char *why)
{
    snprintf(at->wrong, sizeof(at->wrong), "%s", why);
    ret->wrong = at->wrong;
    return true;
}

/* "[job PATTERN]" */
static bool open_section(char *line, struct config_cursor *at, struct config_line *ret)
{
    size_t len = strlen(line);
    at->skip = true;
    if (line[len - 1] != ']')
        return says(at, ret, "a section's line ends with \"]\"");
    line[len - 1] = 0;
    char *kind = trim(line + 1);
    if (strncmp(kind, "job", 3) != 0 || (kind[3] && !blank(kind[3])))
        return says(at, ret, "this section is not known: write [job PATTERN]");
    char *pattern = trim(kind + 3);
    if (!*pattern || strlen(pattern) > CKPT_JOB_NAME_MAX || strpbrk(pattern, " \t[]/"))
        return says(at, ret,
                    "write [job PATTERN]: a job's name, in which * and ? stand for others");
    at->skip = false;
    at->job = ret->job = pattern;
    return true;
}

static bool read_setting(char *line, struct config_cursor *at, struct config_line *ret)
{
    char *equals = strchr(line, '=');
    if (strncmp(line, "--", 2) == 0)
        return says(at, ret, "write options without \"--\", as in: store = /nvme/ckpt");
    if (!equals)
        return says(at, ret, "write NAME = VALUE, as in: store = /nvme/ckpt");
    *equals = 0;
    ret->key = trim(line);
    ret->value = trim(equals + 1);
    if (!*ret->key)
        return says(at, ret, "a name is missing before \"=\"");
    if (!*ret->value)
        return says(at, ret, "a value is missing: give one, or put a # before the line");
    if (*ret->value == '"' || *ret->value == '\'')
        return says(at, ret, "write the value without quotes");
    return true;
}

bool config_file_next(char *text, size_t len, struct config_cursor *at, struct config_line *ret)
{
    while (at->pos < len) {
        char *line = text + at->pos, *end = memchr(line, '\n', len - at->pos);
        size_t n = end ? (size_t)(end - line) : len - at->pos;
        at->pos += n + 1;
        at->number++;
        *ret = (struct config_line){ .number = at->number, .job = at->job };
        if (n && line[n - 1] == '\r')
            n--;
        line[n] = 0;
        if (n > CONFIG_LINE_MAX)
            return says(at, ret, "the line is longer than 4096 bytes");
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)line[i] < 0x20 && line[i] != '\t')
                return says(at, ret, "the line has control characters: is this a text file?");
        cut_comment(line);
        line = trim(line);
        if (*line == '[')
            return open_section(line, at, ret);
        if (*line && !at->skip)
            return read_setting(line, at, ret);
    }
    return false;
}
