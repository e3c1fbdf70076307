/* The least that anybody pays, from a process that holds nothing.
 *
 * raw N PROGRAM: forks and execs PROGRAM N times, all of them before the first is waited for: from the
 * first fork to the last wait. Without PROGRAM (as "raw", started by itself through a link named
 * "tiny") it just exits.
 *
 * raw replace N CALLS: N children wait for ever. For each line of its input each of them is told to
 * end, reaped, and followed by a fork that makes CALLS system calls of the kinds that a supervisor's
 * child makes (open, fstat, read, fcntl, prctl, getresuid, getpid, close), says that it is ready, and
 * waits in its turn: from the first signal to the last word, whose seconds are printed, as 0 is once
 * the first ones wait.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

static void tell(double seconds)
{
	printf("%.6f\n", seconds);
	fflush(stdout);
}

static int run_all(int count, char *program)
{
	double begun = now();
	char *arguments[] = {program, NULL};
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			execv(program, arguments);
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
	tell(now() - begun);
	return 0;
}

static void child(int calls, int ready)
{
	char buffer[4096];
	struct stat found;
	uid_t ids[3];
	for (; calls > 8; calls -= 8) {
		int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &found) != 0 || read(fd, buffer, sizeof buffer) <= 0 ||
		    fcntl(fd, F_GETFD) < 0 || prctl(PR_GET_DUMPABLE) < 0 ||
		    getresuid(&ids[0], &ids[1], &ids[2]) != 0 || getpid() < 2 || close(fd) != 0)
			_exit(111);
	}
	if (write(ready, "", 1) != 1)
		_exit(111);
	for (;;)
		pause();
}

static int fork_child(int calls, int ready, pid_t *pid)
{
	*pid = fork();
	if (*pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		child(calls, ready);
	}
	return *pid < 0;
}

static int hear(int count, int ready)
{
	char buffer[4096];
	while (count > 0) {
		ssize_t heard = read(ready, buffer, sizeof buffer);
		if (heard <= 0)
			return 111;
		count -= (int)heard;
	}
	return 0;
}

static int replace(int count, int calls)
{
	int ready[2];
	char line[16];
	pid_t *children = calloc((size_t)count, sizeof *children);
	if (!children || pipe(ready) != 0)
		return 111;
	for (int i = 0; i < count; i++)
		if (fork_child(0, ready[1], &children[i]))
			return 111;
	if (hear(count, ready[0]))
		return 111;
	tell(0);
	while (fgets(line, sizeof line, stdin)) {
		double begun = now();
		for (int i = 0; i < count; i++)
			kill(children[i], SIGTERM);
		for (int i = 0; i < count; i++)
			if (wait(NULL) < 0 || fork_child(calls, ready[1], &children[i]))
				return 111;
		if (hear(count, ready[0]))
			return 111;
		tell(now() - begun);
	}
	/* The children are let go of by their death signal. */
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3)
		return run_all(atoi(argv[1]), argv[2]);
	if (argc == 4 && strcmp(argv[1], "replace") == 0)
		return replace(atoi(argv[2]), atoi(argv[3]));
	return 0;
}
