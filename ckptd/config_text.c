/* What people read of the options: --help, the example file, --check. */
#include "ckptd/config.h"
#include "ckptd/config_keys.h"

/* `text`, each line of it behind `before`. */
static void print_lines(FILE *to, const char *before, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        fprintf(to, "%s%.*s\n", before, (int)n, text);
        text += n + (text[n] == '\n');
    }
}

void config_print_usage(FILE *to)
{
    fputs("usage: ckptd --store DIR|URL [options]\n"
          "Keeps the checkpoints of the training jobs on this node.  A trainer that links libckpt\n"
          "finds it by its socket, and starts a private one when none is running.\n\n",
          to);
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        char option[64], env[64] = "";
        snprintf(option, sizeof(option), "--%s%s%s", k->name, k->argument ? " " : "",
                 k->argument ? k->argument : "");
        if (k->fallback)
            snprintf(env, sizeof(env), " (default: %s)", k->fallback);
        size_t n = strcspn(k->help, "\n");
        bool one = !k->help[n];
        fprintf(to, "  %-19s %.*s%s\n", option, (int)n, k->help, one ? env : "");
        if (!one)
            print_lines(to, "                      ", k->help + n + 1);
        if (!one && *env)
            fprintf(to, "                     %s\n", env);
    }
    fputs(
        "\n"
        "Each option that is a setting can stand in the file (\"store = /nvme/ckpt\"; --example prints\n"
        "one) and in the environment (CKPT_STORE, CKPT_REMOTE_RATE, ...).  Stronger is the environment,\n"
        "strongest the flag.  In the file \"keep...\" can also stand behind [job PATTERN], for jobs that\n"
        "fit the pattern: of the sections that fit and have it, the first counts.  SIGHUP: the file is\n"
        "read again; what cannot change while ckptd runs is named in the log, and a file that is wrong\n"
        "changes nothing.\n\n"
        "It ends on SIGTERM after it has finished what is staged.  Log: stderr.\n"
        "Try: ckptd --store /var/tmp/ckpts      and in another shell: ckpt status\n",
        to);
}

void config_print_example(FILE *to)
{
    fputs(
        "# Settings of ckptd; they lie in " CONFIG_FILE ".\n"
        "#\n"
        "# NAME = VALUE, one a line; a # begins a comment, at a line's beginning or behind a blank.\n"
        "# Stronger than this file: the environment (CKPT_STORE, ...), then ckptd's options.\n"
        "# Credentials do not belong here: they come from AWS_..., ~/.aws or the instance.\n"
        "#\n"
        "# Check it: ckptd --check        Read it again: systemctl reload ckptd\n"
        "# A reload changes what is marked \"live\"; the rest needs a restart.\n",
        to);
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *k = &config_keys[i];
        if (k->flags & CONFIG_FLAG_ONLY)
            continue;
        fputc('\n', to);
        print_lines(to, "# ", k->help);
        bool told = strstr(k->help, "(default:") != NULL; /* in words */
        fprintf(to, "# default: %s%s%s\n",
                k->fallback ? k->fallback
                : told      ? "see above"
                            : "none",
                k->flags & CONFIG_LIVE ? "; live" : "",
                k->flags & CONFIG_PER_JOB ? "; also behind [job PATTERN]" : "");
        fprintf(to, "%s%s = %s\n", k->flags & CONFIG_SHIPPED ? "" : "#", k->name, k->example);
    }
    fputs(
        "\n"
        "# For the jobs that fit a pattern: of the sections that fit and have a setting, the first counts.\n"
        "#[job debug-*]\n"
        "#keep = last=2\n",
        to);
}

/* Prints what `print` prints, as roff shows it letter by letter. */
static void print_literally(FILE *to, void (*print)(FILE *to))
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return;
    print(f);
    if (fclose(f) == 0) {
        fputs(".nf\n", to);
        for (size_t i = 0; i < len; i++) {
            bool begins = i == 0 || text[i - 1] == '\n';
            if (begins && (text[i] == '.' || text[i] == '\''))
                fputs("\\&", to);
            if (text[i] == '\\' || text[i] == '-')
                fputs(text[i] == '-' ? "\\-" : "\\e", to);
            else
                fputc(text[i], to);
        }
        fputs(".fi\n", to);
    }
    free(text);
}

void config_print_manual(FILE *to)
{
    fputs(".TH CKPTD 1 \"\" \"ckptd " CKPTD_VERSION "\"\n"
          ".SH NAME\nckptd \\- keeps the checkpoints of the training jobs on a node\n"
          ".SH DESCRIPTION\n",
          to);
    print_literally(to, config_print_usage);
    fputs(".SH FILES\n.I " CONFIG_FILE "\n.PP\nThe settings. With all of them:\n.PP\n", to);
    print_literally(to, config_print_example);
    fputs(".SH SEE ALSO\n.BR ckpt (1)\n", to);
}

static void print_value(const struct config_value *v, FILE *to)
{
    char env[64];
    int n = fprintf(to, "%s = %s", v->key->name, v->text);
    config_key_env(v->key, env);
    fprintf(to, "%*s # ", n < 40 ? 40 - n : 0, "");
    if (v->from == CONFIG_FROM_FILE)
        fprintf(to, "line %u\n", v->line);
    else
        fprintf(to, "%s%s\n", v->from == CONFIG_FROM_ENV ? "" : "--",
                v->from == CONFIG_FROM_ENV ? env : v->key->name);
}

static void print_key(const struct config *c, const struct config_key *k, FILE *to)
{
    bool any = false;
    for (size_t i = 0; i < c->value_count; i++) {
        if (c->values[i].key != k || c->values[i].job)
            continue;
        print_value(&c->values[i], to);
        any = true;
    }
    if (any || !k->fallback)
        return;
    int n = fprintf(to, "%s = %s", k->name, k->fallback);
    fprintf(to, "%*s # default\n", n < 40 ? 40 - n : 0, "");
}

void config_print(const struct config *c, FILE *to)
{
    fprintf(to, "# file: %s\n", c->file ? c->file : "none");
    for (size_t i = 0; i < config_key_count; i++)
        if (!(config_keys[i].flags & CONFIG_FLAG_ONLY))
            print_key(c, &config_keys[i], to);
    for (size_t i = 0; i < c->job_count; i++) {
        fprintf(to, "\n[job %s]\n", c->jobs[i].pattern);
        for (size_t k = 0; k < c->value_count; k++)
            if (c->values[k].job && strcmp(c->values[k].job, c->jobs[i].pattern) == 0)
                print_value(&c->values[k], to);
    }
}
