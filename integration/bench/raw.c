/* raw N PROGRAM: forks and execs PROGRAM N times, all of them before the first is waited for, from a
 * process that holds nothing; prints the seconds from the first fork to the last wait. Without
 * PROGRAM (as "raw", started by itself through a link named "tiny") it just exits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec begun, ended;
	if (argc != 3)
		return 0;
	int count = atoi(argv[1]);
	char *arguments[] = {argv[2], NULL};
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			execv(argv[2], arguments);
			_exit(127);
		}
		if (pid < 0)
			return 111;
	}
	for (int i = 0; i < count; i++) {
		int status;
		if (wait(&status) < 0 || status != 0)
			return 111;
	}
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%.6f\n", (double)(ended.tv_sec - begun.tv_sec) + 1e-9 * (double)(ended.tv_nsec - begun.tv_nsec));
	return 0;
}
