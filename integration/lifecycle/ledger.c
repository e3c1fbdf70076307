/* A task that tells of itself: ledger FOLDER NAME MILLISECONDS [polite|leave]
 *
 * Takes an flock without waiting, appends "start PID CHAIN MASTER CODE" and "end PID CHAIN MASTER
 * CODE" to FOLDER/ledger.NAME, or "overlap PID CHAIN MASTER 0" when another run holds the flock.
 * It is deaf to SIGTERM: what should have waited for its end is caught by it. Unless it is polite.
 * With "leave" it leaves a deaf process behind, in a session of its own, which holds the flock.
 * CODE is its exit status, another one for each run (1 to 250): the run's name in the history.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LINE 48

static int ledger;

static void say(const char *word, int chain, int master, int code)
{
	char line[LINE + 1];
	int length = snprintf(line, sizeof line, "%s %d %d %d %d", word, getpid(), chain, master, code);
	memset(line + length, ' ', LINE - 1 - length);
	line[LINE - 1] = '\n';
	if (write(ledger, line, LINE) != LINE)
		_exit(251);
}

static int parent_of(int pid)
{
	char path[64], text[512];
	int parent = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY);
	ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
	text[got > 0 ? got : 0] = 0;
	char *after = strrchr(text, ')');
	if (after)
		sscanf(after + 1, " %*c %d", &parent);
	return parent;
}

static void leave(void)
{
	if (fork() == 0) {
		setsid();
		if (fork() == 0) {
			for (int fd = 0; fd < 3; fd++)
				close(fd);
			sleep(600);
		}
		_exit(0);
	}
	wait(NULL);
}

int main(int argc, char **argv)
{
	char path[512];
	struct stat found;
	if (argc < 4 || argc > 5)
		return 252;
	const char *mode = argc == 5 ? argv[4] : "";
	snprintf(path, sizeof path, "%s/ledger.%s", argv[1], argv[2]);
	ledger = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
	snprintf(path, sizeof path, "%s/flock.%s", argv[1], argv[2]);
	int lock = open(path, O_RDWR | O_CREAT, 0644);
	int chain = getppid(), master = parent_of(chain);
	if (ledger < 0 || lock < 0)
		return 253;
	if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
		say("overlap", chain, master, 0);
		return 254;
	}
	if (fstat(ledger, &found) != 0)
		return 255;
	int code = (int)(found.st_size / LINE % 250) + 1;
	if (strcmp(mode, "polite") != 0)
		signal(SIGTERM, SIG_IGN);
	if (strcmp(mode, "leave") == 0)
		leave();
	say("start", chain, master, code);
	long millis = atol(argv[3]);
	struct timespec pause = {millis / 1000, millis % 1000 * 1000000};
	while (nanosleep(&pause, &pause) != 0)
		;
	say("end", chain, master, code);
	return code;
}
