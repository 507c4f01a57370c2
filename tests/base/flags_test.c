#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/flags.h"

struct cfg {
    const char *file;
    bool expand;
    const char *name;
    const char *password;
    bool on;
    int64_t count;
    int64_t timeout;
    uint64_t size;
    double rate;
    struct flag_list list;
};

#define ROW(field, type, ...) FLAG_ROW(cfg, field, type, __VA_ARGS__)
static const struct flag_def defs[] = {
    ROW(file, STRING, "config.file", "", "", BASIC, "file")
    ROW(expand, BOOL, "config.expand-env", "", "false", BASIC, "expand")
    ROW(name, STRING, "a.name", "a.name", "joe", BASIC, "name")
    ROW(password, SECRET, "a.password", "a.password", "", BASIC, "password")
    ROW(on, BOOL, "a.on", "a.b.on", "false", BASIC, "on")
    ROW(count, INT, "a.count", "a.b.count", "7", ADVANCED, "count")
    ROW(timeout, DURATION, "timeout", "timeout", "1h30m", BASIC, "timeout")
    ROW(size, BYTES, "size", "size", "1MiB", BASIC, "size")
    ROW(rate, DOUBLE, "rate", "rate", "0.5", BASIC, "rate")
    ROW(list, LIST, "list", "list", "", BASIC, "list | with a bar")
};

static struct cfg cfg;
static struct flag_set *fs;

static void setup(void)
{
    fs = flag_set_new();
    flag_set_add(fs, "room", defs, sizeof(defs) / sizeof(defs[0]), &cfg);
}

static void teardown(void)
{
    flag_set_free(fs);
}

TestSuite(flags, .init = setup, .fini = teardown);

static bool parse(struct err *err, int n, char **words)
{
    char *argv[16] = {"prog"};
    for (int i = 0; i < n; i++)
        argv[i + 1] = words[i];
    return flag_set_parse(fs, n + 1, argv, err);
}
#define PARSE(err, ...) parse(err, sizeof((char *[]){__VA_ARGS__}) / sizeof(char *), (char *[]){__VA_ARGS__})

/* Writes text to a file of its own and gives "-config.file=<path>". */
static char *config_file(const char *text)
{
    static char word[64];
    char path[] = "/tmp/flags_testXXXXXX";
    int fd = mkstemp(path);
    cr_assert(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    snprintf(word, sizeof(word), "-config.file=%s", path);
    return word;
}

Test(flags, defaults_are_parsed_at_registration)
{
    cr_assert_str_eq(cfg.name, "joe");
    cr_assert_eq(cfg.count, 7);
    cr_assert_eq(cfg.timeout, 5400000);
    cr_assert_eq(cfg.size, 1 << 20);
    cr_assert_eq(cfg.rate, 0.5);
    cr_assert_eq(cfg.list.n, 0);
}

Test(flags, the_command_line_takes_every_spelling)
{
    struct err err = ERR_NONE;
    cr_assert(PARSE(&err, "-a.name=x=y", "--a.count", "-5", "-a.on", "-list=a,b,c", "-timeout", "2d"), "%s", err.text);
    cr_assert_str_eq(cfg.name, "x=y");
    cr_assert_eq(cfg.count, -5);
    cr_assert(cfg.on);
    cr_assert_eq(cfg.list.n, 3);
    cr_assert_str_eq(cfg.list.items[2], "c");
    cr_assert_eq(cfg.timeout, 2 * 86400000);
}

Test(flags, what_is_wrong_is_named)
{
    static const struct {
        char *word;
        const char *text;
    } cases[] = {
        {"-nope=1", "unknown flag -nope (see -help)"},
        {"word", "unexpected argument \"word\": flags start with '-'"},
        {"-a.count=x", "invalid value for flag -a.count: not an integer: \"x\""},
        {"-a.on=maybe", "invalid value for flag -a.on: not a boolean: \"maybe\""},
        {"-timeout=5", "invalid value for flag -timeout: not a valid duration string: \"5\""},
        {"-timeout=", "invalid value for flag -timeout: empty duration string"},
        {"-size=3x", "invalid value for flag -size: not a size in bytes: \"3x\""},
        {"-rate=fast", "invalid value for flag -rate: not a number: \"fast\""},
        {"-a.name", "flag -a.name needs a value"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err err = ERR_NONE;
        cr_assert_not(PARSE(&err, cases[i].word));
        cr_assert_str_eq(err.text, cases[i].text);
    }
}

Test(flags, yaml_sets_and_the_command_line_overrides)
{
    struct err err = ERR_NONE;
    char *file = config_file("a:\n  name: yaml\n  b:\n    on: true\n    count: 3\nlist: [x, y]\ntimeout: 10s\n");
    cr_assert(PARSE(&err, file, "-a.name=flag"), "%s", err.text);
    cr_assert_str_eq(cfg.name, "flag");
    cr_assert(cfg.on);
    cr_assert_eq(cfg.count, 3);
    cr_assert_eq(cfg.list.n, 2);
    cr_assert_eq(cfg.timeout, 10000);
}

Test(flags, a_value_in_common_is_for_those_who_have_none_of_their_own)
{
    struct common {
        const char *name;
        int64_t count;
        const char *file;
    } common;
    static const struct flag_def common_defs[] = {
        FLAG_ROW(common, name, STRING, "common.a.name", "common.name", "", BASIC, "name")
        FLAG_ROW(common, count, INT, "common.a.count", "common.count", "7", BASIC, "count")
        FLAG_ROW(common, file, STRING, "common.a.only", "common.only", "", BASIC, "of nobody else")
    };
    struct err err = ERR_NONE;
    flag_set_add(fs, "common", common_defs, 3, &common);
    cr_assert(PARSE(&err, "-common.a.name=ann", "-common.a.count=8", "-a.count=9", "-common.a.only=x"), "%s", err.text);
    flag_set_inherit(fs, "common.a.", "a.");
    cr_expect_str_eq(cfg.name, "ann");
    cr_expect_eq(cfg.count, 9);
    cr_expect_str_eq(cfg.password, "");
}

static const struct flag_accepted accepted[] = {
    {"old.guard", "old.guard", FLAG_BOOL, "false", true, "nobody guards"},
    {"old.wait", "a.wait", FLAG_DURATION, "1h", false, "nobody waits"},
    {"", "old.rules", FLAG_TREE, "", true, "there are no rules"},
    {"gone.*", "gone.*", FLAG_TREE, "", false, "it is gone"},
};

static void accept_some(void)
{
    flag_set_accept(fs, accepted, sizeof(accepted) / sizeof(accepted[0]));
}

static const char *ignored(void)
{
    static char text[256];
    struct buf names;
    buf_init(&names, 0);
    flag_set_print_ignored(fs, &names);
    snprintf(text, sizeof(text), "%s", buf_cstr(&names));
    buf_release(&names);
    return text;
}

Test(flags, what_is_accepted_without_effect_is_named_when_it_differs)
{
    struct err err = ERR_NONE;
    accept_some();
    cr_assert(PARSE(&err, "-old.wait=60m", "-old.guard=false", "-a.count=1"), "%s", err.text);
    cr_expect_str_eq(ignored(), "", "60m is the default");
    cr_assert(PARSE(&err, "-old.wait", "2h", "-gone.far.away", "-1", "-gone.on", "-a.count=2"), "%s", err.text);
    cr_expect_str_eq(ignored(), "-old.wait, -gone.*");
    cr_expect_eq(cfg.count, 2);
}

Test(flags, what_is_accepted_without_effect_is_checked)
{
    static const struct {
        char *word;
        const char *text;
    } cases[] = {
        {"-old.wait=soon", "invalid value for flag -old.wait: not a valid duration string: \"soon\""},
        {"-old.guard", "invalid value for flag -old.guard: only its default (false) is accepted: nobody guards"},
        {"-older.wait=1h", "unknown flag -older.wait (see -help)"},
        {"-gone=1", "unknown flag -gone (see -help)"},
    };
    accept_some();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err err = ERR_NONE;
        cr_assert_not(PARSE(&err, cases[i].word));
        cr_expect_str_eq(err.text, cases[i].text);
    }
}

Test(flags, yaml_of_what_is_accepted_without_effect)
{
    static const struct {
        const char *yaml;
        const char *text;    /* NULL: it is good */
        const char *ignored;
    } cases[] = {
        {"old:\n  guard: false\n  rules: []\na:\n  wait: 1h\n  name: x\n", NULL, ""},
        {"old: {rules: {}}\ngone: {}\n", NULL, ""},
        {"gone: {x: {y: [1, {z: 2}]}, n: 1}\na: {wait: null}\n", NULL, "-gone.*"},
        {"gone:\na:\n  wait: 2h\n", NULL, "-old.wait"},
        {"old:\n  guard: true\n", ":2: invalid value for old.guard: only its default (false) is accepted: nobody guards", ""},
        {"old:\n  rules: [x]\n", ":2: invalid value for old.rules: only its default (empty) is accepted: there are no rules", ""},
        {"old:\n  more: 1\n", ":2: field old.more not found", ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        teardown();
        setup();
        accept_some();
        struct err err = ERR_NONE;
        bool good = PARSE(&err, config_file(cases[i].yaml));
        cr_expect_eq(good, !cases[i].text, "%s: %s", cases[i].yaml, err.text);
        cr_expect(!cases[i].text || strstr(err.text, cases[i].text), "for %s got %s", cases[i].yaml, err.text);
        cr_expect(cases[i].text || strcmp(ignored(), cases[i].ignored) == 0, "for %s got %s", cases[i].yaml, ignored());
    }
}

Test(flags, sizes_may_be_sums)
{
    struct err err = ERR_NONE;
    cr_assert(PARSE(&err, "-size=63KiB1023B"), "%s", err.text);
    cr_expect_eq(cfg.size, 65535);
    cr_expect_not(PARSE(&err, "-size=1KiB2x"));
    cr_expect_not(PARSE(&err, "-size="));
}

Test(flags, yaml_is_strict)
{
    static const struct {
        const char *yaml;
        const char *text;
    } cases[] = {
        {"a:\n  nope: 1\n", ":2: field a.nope not found"},
        {"nope:\n  x: 1\n", ":2: field nope not found"},
        {"a:\n  b:\n    count: x\n", ":3: invalid value for a.b.count: not an integer: \"x\""},
        {"rate: 1\nrate: 2\n", ":2: field rate already set"},
        {"rate: [1]\n", ":1: field rate does not take a list"},
        {"rate: {x: 1}\n", ":1: field rate is a value, not a block"},
        {"a: 5\n", ":1: field a not found"},
        {"- x\n", ":1: expected a mapping at the top"},
        {"rate: 1\n---\nrate: 2\n", ":2: only one YAML document is allowed"},
        {"rate: \"1\n", "found unexpected end of stream"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        teardown();
        setup();
        struct err err = ERR_NONE;
        cr_assert_not(PARSE(&err, config_file(cases[i].yaml)), "accepted: %s", cases[i].yaml);
        cr_assert_not_null(strstr(err.text, cases[i].text), "for %s got %s", cases[i].yaml, err.text);
    }
}

Test(flags, environment_is_expanded_only_when_asked)
{
    struct err err = ERR_NONE;
    setenv("FLAGS_TEST_NAME", "env", 1);
    char *file = config_file("a:\n  name: ${FLAGS_TEST_NAME}\n  password: ${FLAGS_TEST_NONE:fallback}\n");
    cr_assert(PARSE(&err, file, "-config.expand-env"), "%s", err.text);
    cr_assert_str_eq(cfg.name, "env");
    cr_assert_str_eq(cfg.password, "fallback");
    teardown();
    setup();
    cr_assert(PARSE(&err, file));
    cr_assert_str_eq(cfg.name, "${FLAGS_TEST_NAME}");
}

Test(flags, yaml_out_is_a_tree_with_masked_secrets)
{
    struct err err = ERR_NONE;
    cr_assert(PARSE(&err, "-a.password=geheim", "-a.count=9", "-list=p,q"));
    struct buf out;
    buf_init(&out, 0);
    flag_set_print_yaml(fs, FLAG_DUMP_DIFF, &out);
    cr_assert_str_eq(buf_cstr(&out), "a:\n    password: \"********\"\n    b:\n        count: 9\nlist: \n    - \"p\"\n    - \"q\"\n");
    buf_clear(&out);
    flag_set_print_yaml(fs, FLAG_DUMP_DEFAULTS, &out);
    cr_assert_not_null(strstr(buf_cstr(&out), "timeout: 1h30m0s\n"));
    cr_assert_not_null(strstr(buf_cstr(&out), "count: 7\n"));
    buf_release(&out);
}

Test(flags, durations_print_as_go_and_as_prometheus)
{
    static const struct {
        int64_t ms;
        const char *go, *prometheus;
    } cases[] = {
        {0, "0s", "0s"},           {250, "250ms", "250ms"},       {1500, "1.5s", "1s500ms"},
        {300000, "5m0s", "5m"},    {46800000, "13h0m0s", "13h"},  {86400000, "24h0m0s", "1d"},
        {-60000, "-1m0s", "-1m"},  {604800000, "168h0m0s", "1w"}, {694800000, "193h0m0s", "8d1h"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf out;
        buf_init(&out, 0);
        duration_print(cases[i].ms, &out);
        cr_assert_str_eq(buf_cstr(&out), cases[i].go);
        buf_clear(&out);
        duration_print_prometheus(cases[i].ms, &out);
        cr_assert_str_eq(buf_cstr(&out), cases[i].prometheus);
        buf_release(&out);
    }
}

Test(flags, a_printed_duration_reads_back_as_it_was)
{
    for (int64_t ms = 0; ms < 300000; ms += 37) {
        struct buf out;
        int64_t back = -1;
        buf_init(&out, 0);
        duration_print(ms, &out);
        cr_assert(duration_parse(buf_slice(&out), &back, NULL));
        cr_assert_eq(back, ms, "%s is %lld", buf_cstr(&out), (long long)back);
        buf_release(&out);
    }
}

Test(flags, help_and_reference_name_every_flag)
{
    struct buf out;
    buf_init(&out, 0);
    flag_set_print_help(fs, false, &out);
    cr_assert_not_null(strstr(buf_cstr(&out), "-a.name"));
    cr_assert_null(strstr(buf_cstr(&out), "-a.count"));
    buf_clear(&out);
    flag_set_print_markdown(fs, &out);
    cr_assert_not_null(strstr(buf_cstr(&out), "list \\| with a bar"));
    buf_release(&out);
}
