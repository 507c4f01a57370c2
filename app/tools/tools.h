/*
 * The command line tools for blocks and buckets: `brunn tool block`, `bucket`, `backfill`. Each prints what it finds on stdout and what goes wrong on stderr, and gives
 * the exit status: 0 all is well; 1 something is not, or could not be done; 2 the command line is wrong.
 *
 * argv[0] is the word after the tool's name ("ls"), flags and words follow in any order. A flag is one word, -name=value. One thread, one call a process.
 */
#pragma once

int tool_block(int argc, char **argv);    /* ls | verify | dump | cat-index DIR... */
int tool_bucket(int argc, char **argv);   /* ls | verify */
int tool_backfill(int argc, char **argv); /* FILE */
