/* The ini files of the AWS tools.  A file is read whole, cut into lines in place, and
 * each setting becomes one entry that points into it. */
#include "storage/store/s3_profile.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <pwd.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>

enum which { CREDENTIALS, CONFIG, FILES };

struct setting {
    enum which file;
    enum s3_section section;
    const char *name;   /* of the section */
    const char *parent; /* "s3" of what is indented below "s3 =", or NULL */
    const char *key, *value;
};

struct s3_profiles {
    char *bytes[FILES]; /* lines and their parts end in NUL */
    size_t len[FILES];
    char path[FILES][1024];
    char places[2 * 1024 + 16];
    struct setting *settings;
    size_t count, cap;
};

const char *s3_env_get(s3_env_fn *env, void *env_arg, const char *name)
{
    const char *value = env ? env(env_arg, name) : getenv(name);
    return value && value[0] ? value : NULL;
}

const char *s3_profile_name(const char *asked, s3_env_fn *env, void *env_arg, bool *ret_named)
{
    const char *name = asked && asked[0] ? asked : s3_env_get(env, env_arg, "AWS_DEFAULT_PROFILE");
    if (!name)
        name = s3_env_get(env, env_arg, "AWS_PROFILE");
    *ret_named = name != NULL;
    return name ? name : "default";
}

/* ---- files ---- */

/* "~/x" is below the home, others stay. */
static enum ckpt_status find_file(s3_env_fn *env, void *env_arg, const char *variable,
                                  const char *fallback, char *ret, size_t cap, struct ckpt_err *err)
{
    const char *path = s3_env_get(env, env_arg, variable);
    const char *home = "";
    char buf[4096];
    struct passwd entry, *found = NULL;
    if (!path)
        path = fallback;
    if (strncmp(path, "~/", 2) == 0) {
        home = s3_env_get(env, env_arg, "HOME");
        path++;
        if (!home && getpwuid_r(geteuid(), &entry, buf, sizeof(buf), &found) == 0 && found)
            home = found->pw_dir;
    }
    if (snprintf(ret, cap, "%s%s", home ? home : "", path) >= (int)cap)
        return err_set(err, CKPT_LIMIT, "%s: the path is longer than %zu bytes", variable, cap - 1);
    return CKPT_OK;
}

static enum ckpt_status read_fd(int fd, const char *path, char **ret, size_t *ret_len,
                                struct ckpt_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode) || st.st_size > S3_PROFILE_FILE_MAX)
        return err_set(err, CKPT_INVALID, "%s is not a file of at most 1 MiB", path);
    size_t cap = (size_t)st.st_size, len = 0;
    char *bytes = malloc(cap + 1);
    if (!bytes)
        return err_set(err, CKPT_NO_MEMORY, "%s: out of memory", path);
    while (len < cap) {
        ssize_t n = read(fd, bytes + len, cap - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            free(bytes);
            return err_errno(err, errno, "%s", path);
        }
        if (n == 0)
            break;
        len += (size_t)n;
    }
    bytes[len] = '\0';
    *ret = bytes;
    *ret_len = len;
    return CKPT_OK;
}

static enum ckpt_status read_file(const char *path, bool named, char **ret, size_t *ret_len,
                                  struct ckpt_err *err)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || (errno == EACCES && !named)))
        return CKPT_OK;
    if (fd < 0)
        return err_errno(err, errno, "%s", path);
    return read_fd(fd, path, ret, ret_len, err);
}

/* ---- lines ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Without blanks at both ends, in place. */
static char *trim(char *text)
{
    while (is_blank(*text))
        text++;
    for (size_t n = strlen(text); n > 0 && is_blank(text[n - 1]); n--)
        text[n - 1] = '\0';
    return text;
}

static void cut_comment(char *text)
{
    for (char *at = text; *at; at++) {
        if ((*at == '#' || *at == ';') && (at == text || is_blank(at[-1]))) {
            *at = '\0';
            return;
        }
    }
}

/* Where the parser stands. */
struct place {
    enum which file;
    bool known; /* the section is one of ours */
    enum s3_section section;
    const char *name;
    const char *parent; /* last setting, if it was empty: what is indented lies in it */
    bool any;           /* a section has begun */
};

/* "profile NAME", "services NAME"; NULL when `text` begins with another word. */
static char *after_word(char *text, const char *word)
{
    size_t n = strlen(word);
    return strncmp(text, word, n) == 0 && is_blank(text[n]) ? trim(text + n) : NULL;
}

static char *unquote(char *name)
{
    size_t n = strlen(name);
    if (n >= 2 && (name[0] == '"' || name[0] == '\'') && name[n - 1] == name[0]) {
        name[n - 1] = '\0';
        name++;
    }
    return name;
}

/* False: not a section's line. */
static bool begin_section(struct place *at, char *line)
{
    char *end = strchr(line, ']'), *name;
    if (!end)
        return false;
    *end = '\0';
    line = trim(line + 1);
    at->any = at->known = true;
    at->parent = NULL;
    at->section = S3_SECTION_PROFILE;
    if (at->file == CREDENTIALS) {
        at->name = unquote(line);
    } else if (strcmp(line, "default") == 0) {
        at->name = line;
    } else if ((name = after_word(line, "profile"))) {
        at->name = unquote(name);
    } else if ((name = after_word(line, "services"))) {
        at->name = unquote(name);
        at->section = S3_SECTION_SERVICES;
    } else {
        at->known = false; /* sso-session, plugins, what the future brings */
    }
    return true;
}

static bool add_setting(struct s3_profiles *p, struct setting setting)
{
    if (p->count == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 64;
        struct setting *more = reallocarray(p->settings, cap, sizeof(*more));
        if (!more)
            return false;
        p->settings = more;
        p->cap = cap;
    }
    p->settings[p->count++] = setting;
    return true;
}

/* A section without settings is there, too. */
static bool note_section(struct s3_profiles *p, const struct place *at)
{
    return !at->known ||
           add_setting(p, (struct setting){ at->file, at->section, at->name, NULL, "", "" });
}

static enum ckpt_status parse_setting(struct s3_profiles *p, struct place *at, char *line,
                                      bool indented, bool *ret_sound)
{
    char *equal = strchr(line, '=');
    *ret_sound = at->any && (equal || (indented && !at->parent));
    if (!*ret_sound || !equal || (indented && !at->parent))
        return CKPT_OK; /* the last is the second line of a value: none of ours has one */
    *equal = '\0';
    char *key = trim(line), *value = equal + 1;
    if (strcasecmp(key, "credential_process") != 0)
        cut_comment(value);
    value = trim(value);
    if (!indented)
        at->parent = value[0] ? NULL : key;
    if (!at->known)
        return CKPT_OK;
    struct setting s = {
        at->file, at->section, at->name, indented ? at->parent : NULL, key, value
    };
    return add_setting(p, s) ? CKPT_OK : CKPT_NO_MEMORY;
}

static enum ckpt_status parse_file(struct s3_profiles *p, enum which file, struct ckpt_err *err)
{
    struct place at = { .file = file };
    char *next = p->bytes[file];
    if (!next)
        return CKPT_OK;
    if (strlen(next) != p->len[file])
        return err_set(err, CKPT_INVALID, "%s holds NUL bytes", p->path[file]);
    if (strncmp(next, "\xef\xbb\xbf", 3) == 0) /* the mark that some editors write */
        next += 3;
    for (unsigned number = 1; next; number++) {
        char *raw = strsep(&next, "\n"), *line = trim(raw);
        bool indented = is_blank(raw[0]), sound = true;
        enum ckpt_status st = CKPT_OK;
        if (!line[0] || line[0] == '#' || line[0] == ';')
            continue;
        if (line[0] == '[' && !indented)
            sound = begin_section(&at, line) && note_section(p, &at);
        else
            st = parse_setting(p, &at, line, indented, &sound);
        if (st != CKPT_OK)
            return err_set(err, st, "%s: out of memory", p->path[file]);
        if (!sound)
            return err_set(err, CKPT_INVALID,
                           "%s:%u: neither \"[section]\" nor \"name = value\" inside one",
                           p->path[file], number);
    }
    return CKPT_OK;
}

enum ckpt_status s3_profiles_load(s3_env_fn *env, void *env_arg, struct s3_profiles **ret,
                                  struct ckpt_err *err)
{
    static const char *const variables[FILES] = { "AWS_SHARED_CREDENTIALS_FILE",
                                                  "AWS_CONFIG_FILE" };
    static const char *const fallbacks[FILES] = { "~/.aws/credentials", "~/.aws/config" };
    struct s3_profiles *p = calloc(1, sizeof(*p));
    enum ckpt_status st = CKPT_OK;
    if (!p)
        return err_set(err, CKPT_NO_MEMORY, "out of memory for the AWS profiles");
    for (int i = 0; i < FILES && st == CKPT_OK; i++) {
        st = find_file(env, env_arg, variables[i], fallbacks[i], p->path[i], sizeof(p->path[i]),
                       err);
        if (st == CKPT_OK)
            st = read_file(p->path[i], s3_env_get(env, env_arg, variables[i]) != NULL, &p->bytes[i],
                           &p->len[i], err);
        if (st == CKPT_OK)
            st = parse_file(p, (enum which)i, err);
    }
    if (st != CKPT_OK) {
        s3_profiles_free(p);
        return st;
    }
    snprintf(p->places, sizeof(p->places), "%s and %s", p->path[CREDENTIALS], p->path[CONFIG]);
    *ret = p;
    return CKPT_OK;
}

void s3_profiles_free(struct s3_profiles *p)
{
    if (!p)
        return;
    for (int i = 0; i < FILES; i++) {
        if (p->bytes[i])
            OPENSSL_cleanse(p->bytes[i], p->len[i]);
        free(p->bytes[i]);
    }
    free(p->settings);
    free(p);
}

/* ---- looking up ---- */

static bool matches(const struct setting *s, enum s3_section section, const char *name,
                    const char *setting)
{
    size_t parent = s->parent ? strlen(s->parent) : 0;
    if (s->section != section || strcmp(s->name, name) != 0)
        return false;
    if (s->parent) {
        if (strncasecmp(setting, s->parent, parent) != 0 || setting[parent] != '.')
            return false;
        setting += parent + 1;
    }
    return strcasecmp(s->key, setting) == 0;
}

static const char *get_in(const struct s3_profiles *p, enum which file, enum s3_section section,
                          const char *name, const char *setting)
{
    for (size_t i = p->count; i > 0; i--) {
        const struct setting *s = &p->settings[i - 1];
        if (s->file == file && matches(s, section, name, setting))
            return s->value[0] ? s->value : NULL;
    }
    return NULL;
}

const char *s3_profiles_get(const struct s3_profiles *p, enum s3_section section, const char *name,
                            const char *setting)
{
    const char *value = get_in(p, CREDENTIALS, section, name, setting);
    return value ? value : get_in(p, CONFIG, section, name, setting);
}

void s3_profiles_keys(const struct s3_profiles *p, const char *profile, const char **ret_id,
                      const char **ret_secret, const char **ret_token)
{
    enum which file = get_in(p, CREDENTIALS, S3_SECTION_PROFILE, profile, "aws_access_key_id")
                          ? CREDENTIALS
                          : CONFIG;
    *ret_id = get_in(p, file, S3_SECTION_PROFILE, profile, "aws_access_key_id");
    *ret_secret = get_in(p, file, S3_SECTION_PROFILE, profile, "aws_secret_access_key");
    *ret_token = get_in(p, file, S3_SECTION_PROFILE, profile, "aws_session_token");
}

bool s3_profiles_have(const struct s3_profiles *p, const char *profile)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->settings[i].section == S3_SECTION_PROFILE &&
            strcmp(p->settings[i].name, profile) == 0)
            return true;
    return false;
}

const char *s3_profiles_places(const struct s3_profiles *p)
{
    return p->places;
}
