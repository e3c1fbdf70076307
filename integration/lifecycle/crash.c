/* Kills one process of a running tree at one exact system call, and then lets go of all the others.
 *
 *     crash PROGRAM ROLE CALL N PID      kill the first process of ROLE at its N-th CALL
 *     crash PROGRAM count - 0 PID        count until SIGTERM, then tell what there is to choose from
 *     crash hold PROGRAM ARGUMENT...     wait for a byte on standard input, then become PROGRAM
 *
 * It does what strace -f -e inject=CALL:signal=KILL:when=N does, but strace counts in every process
 * alike and cannot name the one that is meant. PID is "root" with its own calls; its direct children
 * whose command line says "runner: chain" are "chain"; every other process below it that still is
 * PROGRAM (logger, check, saver, a task between vfork and exec) is "other". What became another
 * program is let go of. CALL "any" is the N-th of all. The victim dies as it enters the call: what the call would have done is not
 * done, what the one before it did is.
 *
 * Says "ready", then "killed PID" or, after SIGTERM, lines "ROLE CALL COUNT" and "done".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OPEN, WRITE, RENAME, FCNTL, CLONE, EXEC, PIDFD, SEND, ANY, KINDS };
static const char *const kinds[KINDS] = {
	"openat", "write", "rename", "fcntl", "clone", "execve", "pidfd_send_signal", "sendto", "any"};
enum { ROOT, CHAIN, OTHER, ROLES };
static const char *const roles[ROLES] = {"root", "chain", "other"};

struct tracee {
	pid_t pid;
	unsigned count[KINDS];
};
static struct tracee tracees[4096];
static size_t known;
static unsigned most[ROLES][KINDS];
static volatile sig_atomic_t over;

static void end(int number)
{
	(void)number;
	over = 1;
}

static int kind_of(unsigned long long number)
{
	switch (number) {
#ifdef SYS_open
	case SYS_open:
#endif
	case SYS_openat:
	case SYS_openat2:
		return OPEN;
	case SYS_write:
	case SYS_writev:
		return WRITE;
#ifdef SYS_rename
	case SYS_rename:
#endif
	case SYS_renameat:
	case SYS_renameat2:
		return RENAME;
	case SYS_fcntl:
		return FCNTL;
#ifdef SYS_fork
	case SYS_fork:
	case SYS_vfork:
#endif
	case SYS_clone:
	case SYS_clone3:
		return CLONE;
	case SYS_execve:
	case SYS_execveat:
		return EXEC;
	case SYS_pidfd_send_signal:
	case SYS_kill:
		return PIDFD;
	case SYS_sendto:
	case SYS_sendmsg:
		return SEND;
	default:
		return -1;
	}
}

static struct tracee *of(pid_t pid)
{
	for (size_t i = 0; i < known; i++)
		if (tracees[i].pid == pid)
			return &tracees[i];
	if (known == sizeof tracees / sizeof *tracees)
		exit(111);
	memset(&tracees[known], 0, sizeof *tracees);
	tracees[known].pid = pid;
	return &tracees[known++];
}

static void forget(pid_t pid)
{
	struct tracee *gone = of(pid);
	*gone = tracees[--known];
}

static size_t file(pid_t pid, const char *name, char *into, size_t room)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? 0 : read(fd, into, room - 1);
	if (fd >= 0)
		close(fd);
	into[got > 0 ? got : 0] = 0;
	return got > 0 ? (size_t)got : 0;
}

static int role_of(pid_t pid, pid_t root)
{
	char text[512];
	int parent = 0;
	if (pid == root)
		return ROOT;
	file(pid, "stat", text, sizeof text);
	char *after = strrchr(text, ')');
	if (after)
		sscanf(after + 1, " %*c %d", &parent);
	file(pid, "cmdline", text, sizeof text);
	return parent == root && strncmp(text, "runner: chain", 13) == 0 ? CHAIN : OTHER;
}

static int is_program(pid_t pid, const struct stat *program)
{
	char path[64];
	struct stat found;
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	return stat(path, &found) == 0 && found.st_dev == program->st_dev && found.st_ino == program->st_ino;
}

int main(int argc, char **argv)
{
	if (argc >= 3 && strcmp(argv[1], "hold") == 0) {
		char byte;
		if (read(0, &byte, 1) == 1)
			execv(argv[2], argv + 2);
		return 111;
	}
	if (argc != 6)
		return 100;
	struct stat program;
	int role = -1, kind = -1;
	unsigned at = (unsigned)atoi(argv[4]);
	pid_t root = atoi(argv[5]);
	for (int i = 0; i < ROLES; i++)
		if (strcmp(argv[2], roles[i]) == 0)
			role = i;
	for (int i = 0; i < KINDS; i++)
		if (strcmp(argv[3], kinds[i]) == 0)
			kind = i;
	if (stat(argv[1], &program) != 0)
		return 111;
	struct sigaction action = {.sa_handler = end};
	sigaction(SIGTERM, &action, NULL);
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
		PTRACE_O_TRACEEXEC;
	if (ptrace(PTRACE_SEIZE, root, 0, options) != 0 || ptrace(PTRACE_INTERRUPT, root, 0, 0) != 0)
		return 111;
	int told = 0;
	while (!over) {
		int status;
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0)
			break;
		if (!WIFSTOPPED(status)) {
			forget(pid);
			continue;
		}
		int number = WSTOPSIG(status), event = status >> 16;
		long pass = 0;
		if (!told && pid == root) {
			/* Whatever stop comes first: it stands for the one that was asked for. */
			told = 1;
			puts("ready");
			fflush(stdout);
		}
		if (number == (SIGTRAP | 0x80)) {
			struct __ptrace_syscall_info info;
			if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof info, &info) > 0 &&
			    info.op == PTRACE_SYSCALL_INFO_ENTRY) {
				int seen[] = {kind_of(info.entry.nr), ANY}, mine = role_of(pid, root);
				for (int i = 0; i < 2; i++) {
					if (seen[i] < 0)
						continue;
					unsigned count = ++of(pid)->count[seen[i]];
					if (count > most[mine][seen[i]])
						most[mine][seen[i]] = count;
					if (mine == role && seen[i] == kind && count == at) {
						kill(pid, SIGKILL);
						printf("killed %d\n", pid);
						return 0;
					}
				}
			}
		} else if (event == PTRACE_EVENT_EXEC) {
			if (pid != root && !is_program(pid, &program)) {
				forget(pid);
				ptrace(PTRACE_DETACH, pid, 0, 0);
				continue;
			}
		} else if (event == PTRACE_EVENT_STOP) {
			if (number != SIGTRAP) {
				ptrace(PTRACE_LISTEN, pid, 0, 0);
				continue;
			}
		} else if (event == 0) {
			pass = number;
		}
		ptrace(PTRACE_SYSCALL, pid, 0, pass);
	}
	for (int i = 0; i < ROLES; i++)
		for (int j = 0; j < KINDS; j++)
			if (most[i][j])
				printf("%s %s %u\n", roles[i], kinds[j], most[i][j]);
	puts("done");
	return 0;
}
