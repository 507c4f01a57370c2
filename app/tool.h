/* `brunn tool ...`: commands for people, run instead of the process. Private to app/. */
#pragma once

/* argv[0] is "tool". Returns the exit status. */
int tool_main(int argc, char **argv);
