/*
 * Flags and YAML: one table a room, <room>_flags.def, with rows
 *
 *     FLAG(field, type, "flag.name", "yaml.path", "default", class, "help")
 *
 *   field    member of the room's struct <room>_config
 *   type     STRING BOOL INT UINT64 DOUBLE DURATION BYTES LIST (see enum flag_type for the C type of the field)
 *   flag     name without the leading '-'; "" = YAML only
 *   yaml     dotted path; "" = flag only
 *   default  text, parsed like a value given by the user ("" for an empty string or list)
 *   class    BASIC ADVANCED EXPERIMENTAL
 *
 * Out of a table come the struct members (FLAG_FIELDS below), the parser, the defaults, -help, /config and docs/reference/flags.md.
 * Precedence: default < YAML file < command line. Unknown flag or key, a bad value, a key given twice: an error that names it
 * (and for YAML the line). Secrets (type SECRET) are strings that are masked as ******** wherever they are printed.
 *
 * Used by one thread at start; the structs are immutable afterwards.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"

enum flag_type {
    FLAG_STRING,   /* const char *, never NULL */
    FLAG_SECRET,   /* const char * */
    FLAG_BOOL,     /* bool */
    FLAG_INT,      /* int64_t */
    FLAG_UINT64,   /* uint64_t */
    FLAG_DOUBLE,   /* double */
    FLAG_DURATION, /* int64_t milliseconds; Go or Prometheus syntax: 1h30m, 13h0m0s, 1d, 250ms, 0 */
    FLAG_BYTES,    /* uint64_t; plain number, or with KiB/MiB/GiB/KB/MB/GB */
    FLAG_LIST,     /* struct flag_list; comma-separated on the command line, a sequence or that string in YAML */
    FLAG_TREE,     /* const char *; in YAML whatever stands there. Only of flags that are accepted without effect */
};

struct flag_list {
    const char **items;
    size_t n;
};

enum flag_class { FLAG_CLASS_BASIC, FLAG_CLASS_ADVANCED, FLAG_CLASS_EXPERIMENTAL };

struct flag_def {
    enum flag_type type;
    const char *flag;
    const char *yaml;
    const char *def;
    enum flag_class cls;
    const char *help;
    size_t offset;
};

/* The C type of each flag type, for the struct members made out of a table. */
#define FLAG_C_STRING const char *
#define FLAG_C_SECRET const char *
#define FLAG_C_BOOL bool
#define FLAG_C_INT int64_t
#define FLAG_C_UINT64 uint64_t
#define FLAG_C_DOUBLE double
#define FLAG_C_DURATION int64_t
#define FLAG_C_BYTES uint64_t
#define FLAG_C_LIST struct flag_list

/* In a room's header:  struct log_config {
 *                      #define FLAG FLAG_FIELD
 *                      #include "log/log_flags.def"
 *                      #undef FLAG
 *                      };
 * In its .c file:      const struct flag_def log_flags[] = {
 *                      #define FLAG(...) FLAG_ROW(log_config, __VA_ARGS__)
 *                      #include "log/log_flags.def"
 *                      #undef FLAG
 *                      };                                              */
#define FLAG_FIELD(field, type, flag, yaml, def, cls, help) FLAG_C_##type field;
#define FLAG_ROW(config, field, type, flag, yaml, def, cls, help)                                                      \
    {FLAG_##type, flag, yaml, def, FLAG_CLASS_##cls, help, offsetof(struct config, field)},

/*
 * A flag of another program that is accepted without effect, so that configurations written for it go on working: it is checked by its type, is never shown among
 * the values, and whoever gives it something else than its default is told so. default_only: anything else is an error, because ignoring it would take away what
 * was relied on (protection, encryption, durability); the default is what happens anyway.
 */
struct flag_accepted {
    const char *flag; /* "" = YAML only; "a.*": all that begin with "a." and have no row before this one */
    const char *yaml; /* "" = flag only; "a.*" */
    enum flag_type type; /* FLAG_TREE for those with '*': their values are not looked at */
    const char *def;
    bool default_only;
    const char *why; /* it has no effect */
};

struct flag_set;

struct flag_set *flag_set_new(void);
void flag_set_free(struct flag_set *fs); /* frees every parsed string and list too */

/* Adds a room's table; config is its struct, filled with the defaults at once. A flag name or path used twice asserts. */
void flag_set_add(struct flag_set *fs, const char *room, const struct flag_def *defs, size_t n, void *config);

/* The table of what is accepted without effect; once, before flag_set_parse. Not copied. A name that a room's flag has is that flag. */
void flag_set_accept(struct flag_set *fs, const struct flag_accepted *table, size_t n);
/* After flag_set_parse: appends the names of those that were given something else than their default, "-a, -b"; how many they are. */
size_t flag_set_print_ignored(const struct flag_set *fs, struct buf *out);

/*
 * Parses argv[1..]. "-name=value", "-name value", "--name=value"; a bool alone means true. Reads the file of -config.file (a flag that
 * some room has registered, as is -config.expand-env) first and then lets the command line override it. Words that are no flags
 * are an error, but for those after "--" ... there are none: also an error.
 */
bool flag_set_parse(struct flag_set *fs, int argc, char **argv, struct err *err);

/* Is the word, "-name" without a value, of a flag that takes its value from the next word? For those who have other words beside flags. */
bool flag_set_wants_word(struct flag_set *fs, const char *word);

/*
 * What configurations have in common is said once: each flag of prefix `to` that nobody has set takes the value of the flag of prefix `from` with the
 * same rest of the name, if that was set. After flag_set_parse.
 */
void flag_set_inherit(struct flag_set *fs, const char *from, const char *to);

/* One value, as if by flag; for per-tenant limits and tests. */
bool flag_value_parse(enum flag_type type, struct slice text, void *ret_field, struct flag_set *owner, struct err *err);
void flag_value_print(enum flag_type type, const void *field, struct buf *out);

/* `-help` (basic) or `-help-all`. */
void flag_set_print_help(const struct flag_set *fs, bool all, struct buf *out);
/* Reference page in Markdown. */
void flag_set_print_markdown(const struct flag_set *fs, struct buf *out);
void flag_set_print_accepted_markdown(const struct flag_set *fs, struct buf *out);
/* YAML as /config shows it, 4-space indent: all values, only those that differ from the defaults, or the defaults. Secrets masked. */
enum flag_dump { FLAG_DUMP_ALL, FLAG_DUMP_DIFF, FLAG_DUMP_DEFAULTS };
void flag_set_print_yaml(const struct flag_set *fs, enum flag_dump mode, struct buf *out);

/* "1h30m", "13h0m0s", "5m", "1d12h", "250ms", "0" -> ms. Prints Go's form: "13h0m0s". */
bool duration_parse(struct slice text, int64_t *ret_ms, struct err *err);
void duration_print(int64_t ms, struct buf *out);
/* Prometheus's form: "5m", "1h30m", "1d". */
void duration_print_prometheus(int64_t ms, struct buf *out);
