/* Private to base/: the flag set and how its files share it. */
#pragma once

#include "base/arena.h"
#include "base/flags.h"

/* One registered flag: the row, the value it fills, and where the value came from. */
struct flag {
    const struct flag_def *def;
    void *field;
    enum { FLAG_FROM_DEFAULT, FLAG_FROM_YAML, FLAG_FROM_COMMAND_LINE } source;
};

struct flag_room {
    const char *name;
    size_t first; /* index into flags */
    size_t n;
};

#define FLAG_MAX_ROOMS 64
#define FLAG_MAX_FLAGS 2048

struct flag_set {
    struct arena arena; /* every parsed string and list */
    struct flag_room rooms[FLAG_MAX_ROOMS];
    size_t n_rooms;
    struct flag flags[FLAG_MAX_FLAGS];
    size_t n_flags;
    const struct flag_accepted *accepted; /* or NULL */
    size_t n_accepted;
    bool *accepted_differs; /* of each: it was given, and not its default */
};

struct flag *flag_set_find_flag(struct flag_set *fs, struct slice name);
struct flag *flag_set_find_yaml(struct flag_set *fs, struct slice path);
/* Is path the path of a block ("limits" when there is "limits.x")? */
bool flag_set_is_block(const struct flag_set *fs, struct slice path);
/* Only blocks with flags of rooms, without those that are accepted without effect. */
bool flag_set_is_room_block(const struct flag_set *fs, struct slice path);
void flag_list_parse(struct slice text, struct flag_list *ret, struct flag_set *owner);
/* Parses a configuration file's bytes into the set: flags_yaml.c. */
bool flag_set_parse_yaml(struct flag_set *fs, const char *file, struct slice text, struct err *err);
/* ${VAR} and ${VAR:default} replaced by the environment's values; $${...} is not special. */
void flags_expand_env(struct slice text, struct buf *out);

const char *flag_type_name(enum flag_type type);

/* --- flags_accepted.c --- */

/* By name or by path; the other one is empty. */
const struct flag_accepted *flag_set_find_accepted(const struct flag_set *fs, struct slice flag, struct slice yaml);
/* Checks a value's text and remembers whether it is the default. */
bool flag_set_check_accepted(struct flag_set *fs, const struct flag_accepted *a, struct slice text, struct err *err);
/* The second half of that, for values that are no text. */
bool flag_set_note_accepted(struct flag_set *fs, const struct flag_accepted *a, bool differs, struct err *err);
void flag_set_print_accepted_help(const struct flag_set *fs, struct buf *out);
