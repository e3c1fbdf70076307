/* Lets a program and what it forks read and write pipes one byte at a time.
 *
 *     short PROGRAM ARGUMENT...
 *
 * A call that asks for more is made to ask for one byte, so the kernel itself does the rest: nothing is lost
 * that was not asked for. What becomes another program is let go of. Exits as PROGRAM does. x86-64 only.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static struct tracee {
	pid_t pid;
	unsigned long long asked; /* 0: for no more than it gets */
} tracees[4096];
static size_t known;
static unsigned long long shortened;

static struct tracee *of(pid_t pid, int *fresh)
{
	for (size_t i = 0; i < known; i++)
		if (tracees[i].pid == pid)
			return &tracees[i];
	if (known == sizeof tracees / sizeof *tracees)
		abort();
	*fresh = 1;
	tracees[known] = (struct tracee){.pid = pid};
	return &tracees[known++];
}

static void forget(pid_t pid)
{
	for (size_t i = 0; i < known; i++)
		if (tracees[i].pid == pid)
			tracees[i--] = tracees[--known];
}

static int leads_to(pid_t pid, const char *name, char *target, size_t size)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	ssize_t length = readlink(path, target, size - 1);
	target[length < 0 ? 0 : length] = 0;
	return length > 0;
}

static void at_call(struct tracee *one)
{
	struct __ptrace_syscall_info info;
	struct user_regs_struct regs;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, one->pid, sizeof info, &info) <= 0
	    || ptrace(PTRACE_GETREGS, one->pid, 0, &regs) != 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_EXIT && one->asked) {
		/* The program may rely on what it has put there. */
		regs.rdx = one->asked;
		one->asked = 0;
		ptrace(PTRACE_SETREGS, one->pid, 0, &regs);
	}
	if (info.op != PTRACE_SYSCALL_INFO_ENTRY)
		return;
	char name[32], target[64];
	snprintf(name, sizeof name, "fd/%d", (int)regs.rdi);
	if ((regs.orig_rax != SYS_read && regs.orig_rax != SYS_write) || regs.rdx < 2
	    || !leads_to(one->pid, name, target, sizeof target) || strncmp(target, "pipe:", 5) != 0)
		return;
	one->asked = regs.rdx;
	regs.rdx = 1;
	shortened++;
	ptrace(PTRACE_SETREGS, one->pid, 0, &regs);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	pid_t root = fork();
	if (root == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	int status, code = 1;
	waitpid(root, &status, 0);
	ptrace(PTRACE_SETOPTIONS, root, 0,
	       PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE
		       | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
	int fresh;
	of(root, &fresh);
	ptrace(PTRACE_SYSCALL, root, 0, 0);
	for (;;) {
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0)
			break;
		if (!WIFSTOPPED(status)) {
			forget(pid);
			if (pid == root)
				code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		fresh = 0;
		struct tracee *one = of(pid, &fresh);
		int number = WSTOPSIG(status), event = status >> 16;
		if (fresh) {
			number = 0;
		} else if (number == (SIGTRAP | 0x80)) {
			at_call(one);
			number = 0;
		} else if (event == PTRACE_EVENT_EXEC) {
			char target[4096];
			number = 0;
			if (leads_to(pid, "exe", target, sizeof target) && strcmp(target, argv[1]) != 0) {
				forget(pid);
				ptrace(PTRACE_DETACH, pid, 0, 0);
				continue;
			}
		} else if (event != 0) {
			number = 0;
		}
		ptrace(PTRACE_SYSCALL, pid, 0, number);
	}
	fprintf(stderr, "short: %llu calls\n", shortened);
	return code;
}
