/* ckpt: the operator's tool.  Options of the tool itself, the list of verbs, help. */
#include "libckpt/ckpt.h"

#include <stdio.h>

#include "tools/manual.h"
#include "tools/output.h"
#include "tools/tool.h"

static const struct tool_verb *const verbs[] = {
    &cmd_ls,     &cmd_show,     &cmd_verify, &cmd_plan,  &cmd_restore, &cmd_save,
    &cmd_status, &cmd_top,      &cmd_run,    &cmd_tag,   &cmd_untag,   &cmd_prune,
    &cmd_delete, &cmd_undelete, &cmd_gc,     &cmd_bench, &cmd_doctor,
};

/* What follows the list of verbs. */
static const char overview[] =
    "  --store URL|DIR  where the checkpoints are (else the environment's CKPT_STORE)\n"
    "  --remote URL|DIR where they may lie, too (several times; else CKPT_REMOTE)\n"
    "  --json           answer as JSON\n"
    "  --version        print the version\n"
    "  --help           this text; \"ckpt VERB --help\" explains a verb\n"
    "\n"
    "A checkpoint is named JOB (what a restart would resume from), JOB@STEP (on the\n"
    "job's newest lineage) or JOB@STEP~EPOCH (an abandoned branch; \"ckpt ls --all\").\n"
    "\n"
    "Start here:\n"
    "  ckpt --store /data/ckpt ls                      what is there?\n"
    "  ckpt --store /data/ckpt verify                  is it sound?\n"
    "  ckpt --store /data/ckpt restore JOB --to DIR    write it as safetensors\n"
    "  ckpt --store /data/ckpt save F.safetensors --job J --step 0    put a file in\n"
    "  ckpt --store /data/ckpt prune JOB --keep-last 3 --dry-run      what may go?\n"
    "\n"
    "exit status: 0 fine, 1 damage found or incomplete, 2 usage, 3 not found,\n"
    "             4 store or I/O failure, 5 refused (conflict, policy)\n";

static void print_help(FILE *to)
{
    fputs("ckpt: checkpoints of training jobs: look at them, verify, restore, save, prune.\n\n"
          "usage: ckpt [--store URL|DIR] [--json] VERB [arguments]\n\n",
          to);
    for (size_t i = 0; i < ARRAY_COUNT(verbs); i++)
        fprintf(to, "  %-8s %s\n", verbs[i]->name, verbs[i]->summary);
    fprintf(to, "\n%s", overview);
}

static void print_verb_help(const struct tool_verb *v, FILE *to)
{
    fprintf(to, "usage: ckpt [--store URL|DIR] [--json] %s %s\n\n%s\n", v->name, v->arguments,
            v->help);
}

/* Takes `--store X`, `--store=X`, the same of --remote, and `--json` out of argv, wherever
 * they stand before "--".  Returns the new argc, or -1 when a value is missing. */
static int take_globals(struct tool *t, int argc, char **argv)
{
    int kept = 1;
    int i = 1;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *remote = NULL;
        if (strcmp(argv[i], "--json") == 0) {
            t->json = true;
        } else if (strncmp(argv[i], "--store=", 8) == 0) {
            t->store_url = argv[i] + 8;
        } else if (strcmp(argv[i], "--store") == 0) {
            if (++i == argc)
                return -1;
            t->store_url = argv[i];
        } else if (strncmp(argv[i], "--remote=", 9) == 0) {
            remote = argv[i] + 9;
        } else if (strcmp(argv[i], "--remote") == 0) {
            if (++i == argc)
                return -1;
            remote = argv[i];
        } else {
            argv[kept++] = argv[i];
        }
        if (remote && t->remote_count == TOOL_REMOTES_MAX)
            return -1;
        if (remote)
            t->remotes[t->remote_count++] = remote;
    }
    for (; i < argc; i++)
        argv[kept++] = argv[i];
    argv[kept] = NULL;
    return kept;
}

static const struct tool_verb *find_verb(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(verbs); i++) {
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    }
    return NULL;
}

static bool asks_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    }
    return false;
}

static int unknown_verb(const char *word)
{
    const char *names[ARRAY_COUNT(verbs)];
    for (size_t i = 0; i < ARRAY_COUNT(verbs); i++)
        names[i] = verbs[i]->name;
    const char *nearest = tool_nearest(word, names, ARRAY_COUNT(names));
    output_line(stderr, "ckpt: \"%s\" is no verb%s%s%s; \"ckpt --help\" lists them", word,
                nearest ? ": did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
    return TOOL_USAGE;
}

/* Words that stand before the verb and end the matter; -1 if it goes on. */
static int run_plain(const char *word)
{
    if (strcmp(word, "--version") == 0) {
        output_line(stdout, "ckpt %s", ckpt_version());
        return TOOL_FINE;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_help(stdout);
        return TOOL_FINE;
    }
    if (word[0] == '-') {
        output_line(stderr, "ckpt: %s is no option of ckpt; \"ckpt --help\" lists them", word);
        return TOOL_USAGE;
    }
    return -1;
}

/* "ckpt help [--man|--words] [VERB]" */
static int run_help(int argc, char **argv)
{
    bool man = argc > 2 && strcmp(argv[2], "--man") == 0;
    bool words = argc > 2 && strcmp(argv[2], "--words") == 0;
    const char *name = argc > 2 + (man || words) ? argv[2 + (man || words)] : NULL;
    const struct tool_verb *verb = name ? find_verb(name) : NULL;
    if (name && !verb)
        return unknown_verb(name);
    if (man)
        manual_page(stdout, verb, verbs, ARRAY_COUNT(verbs), overview);
    else if (words)
        manual_words(stdout, verb, verbs, ARRAY_COUNT(verbs));
    else if (verb)
        print_verb_help(verb, stdout);
    else
        print_help(stdout);
    return TOOL_FINE;
}

int main(int argc, char **argv)
{
    struct tool t = { .program = argv[0], .store_url = getenv("CKPT_STORE") };
    argc = take_globals(&t, argc, argv);
    if (argc < 0) {
        fprintf(stderr, "ckpt: --store and --remote need a directory or URL; at most %d --remote\n",
                TOOL_REMOTES_MAX);
        return TOOL_USAGE;
    }
    const char *remote = getenv("CKPT_REMOTE");
    if (t.remote_count == 0 && remote && *remote)
        t.remotes[t.remote_count++] = remote;
    if (argc < 2) {
        print_help(stdout);
        return TOOL_USAGE;
    }
    int code = run_plain(argv[1]);
    if (code >= 0)
        return code;
    if (strcmp(argv[1], "help") == 0)
        return run_help(argc, argv);
    const struct tool_verb *verb = find_verb(argv[1]);
    if (!verb)
        return unknown_verb(argv[1]);
    if (asks_help(argc - 1, argv + 1)) {
        print_verb_help(verb, stdout);
        return TOOL_FINE;
    }
    return verb->run(&t, argc - 1, argv + 1);
}
