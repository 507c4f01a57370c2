#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/limits.h"

static struct flag_set *defaults(struct limits *l)
{
    struct flag_set *fs = flag_set_new();
    flag_set_add(fs, "limits", limits_flags, limits_flags_n, l);
    return fs;
}

Test(limits, defaults_parse_and_are_valid)
{
    struct limits l;
    struct err err = ERR_NONE;
    struct flag_set *fs = defaults(&l);
    cr_expect(limits_validate(&l, &err), "%s", err.text);
    cr_expect_float_eq(l.ingestion_rate, 10000, 0);
    cr_expect_eq(l.ingestion_burst_size, 200000);
    cr_expect_eq(l.max_label_names_per_series, 30);
    cr_expect_eq(l.max_label_names_per_info_series, 80);
    cr_expect_eq(l.creation_grace_period, 600000);
    cr_expect_eq(l.past_grace_period, 0);
    cr_expect_eq(l.query_ingesters_within, 13 * 3600 * 1000);
    cr_expect_eq(l.max_global_series_per_user, 150000);
    cr_expect_eq(l.drop_labels.n, 0);
    cr_expect(l.enforce_metadata_metric_name);
    cr_expect_eq(limits_names(&l), LIMITS_NAMES_LEGACY);
    cr_expect_eq(limits_long_values(&l), LIMITS_VALUE_ERROR);
    cr_expect_eq(limits_reads(&l), LIMITS_READ_EVENTUAL);
    flag_set_free(fs);
}

Test(limits, yaml_paths_are_the_fields_names)
{
    for (size_t i = 0; i < limits_flags_n; i++)
        cr_expect_eq(strncmp(limits_flags[i].yaml, "limits.", 7), 0, "%s", limits_flags[i].yaml);
}

Test(limits, values_outside_an_enumeration_are_named)
{
    struct limits l;
    struct err err = ERR_NONE;
    struct flag_set *fs = defaults(&l);
    l.name_validation_scheme = "ascii";
    cr_expect_not(limits_validate(&l, &err));
    cr_expect_eq(err.code, ERR_CONFIG);
    cr_expect_str_eq(err.text, "limits.name_validation_scheme: invalid value \"ascii\", allowed are: legacy, utf8");
    l.name_validation_scheme = "utf8";
    cr_expect(limits_validate(&l, &err));
    l.out_of_order_time_window = -1;
    cr_expect_not(limits_validate(&l, &err));
    cr_expect_str_eq(err.text, "limits.out_of_order_time_window: must not be negative");
    flag_set_free(fs);
}

/* One line of flags.tsv: flag, type, default, class, values, yaml. */
static bool split(char *line, char *columns[6])
{
    for (int i = 0; i < 6; i++) {
        columns[i] = strsep(&line, "\t\n");
        if (!columns[i])
            return false;
    }
    return true;
}

static bool same_value(const struct flag_def *def, const char *want)
{
    union {
        int64_t i;
        uint64_t u;
        double d;
        bool b;
        const char *s;
        struct flag_list l;
    } a = {0}, b = {0};
    if (def->type == FLAG_STRING || def->type == FLAG_LIST)
        return strcmp(def->def, want) == 0;
    struct limits owner_of_strings;
    struct flag_set *fs = defaults(&owner_of_strings);
    bool ok = flag_value_parse(def->type, slice_of(def->def), &a, fs, NULL) &&
              flag_value_parse(def->type, slice_of(want), &b, fs, NULL);
    flag_set_free(fs);
    return ok && memcmp(&a, &b, 8) == 0;
}

Test(limits, names_paths_defaults_and_classes_are_mimirs)
{
    static const char *const classes[] = {"basic", "advanced", "experimental"};
    FILE *f = fopen(TEST_SHARED_DIR "/mimir/flags.tsv", "r");
    if (!f) {
        cr_assert_null(getenv("CI"),
                       "no flags.tsv in " TEST_SHARED_DIR "/mimir: put the shared folder beside the clone");
        cr_skip_test("no shared folder");
    }
    size_t found = 0;
    char line[4096];
    while (fgets(line, sizeof(line), f)) {
        char *col[6];
        if (!split(line, col))
            continue;
        for (size_t i = 0; i < limits_flags_n; i++) {
            const struct flag_def *def = &limits_flags[i];
            if (strcmp(def->yaml, col[5]) != 0)
                continue;
            found++;
            cr_expect_str_eq(def->flag, col[0]);
            cr_expect(same_value(def, col[2]), "%s: %s, Mimir has %s", def->yaml, def->def, col[2]);
            cr_expect_str_eq(classes[def->cls], col[3], "%s", def->yaml);
        }
    }
    fclose(f);
    size_t ours = 0;
    for (size_t i = 0; i < limits_flags_n; i++)
        ours += strncmp(limits_flags[i].help, "Brunn only.", 11) == 0;
    cr_expect_eq(found + ours, limits_flags_n, "%zu of %zu limits are in flags.tsv, %zu are ours", found, limits_flags_n, ours);
}
