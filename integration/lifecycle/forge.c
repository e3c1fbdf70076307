/* A program between two of the runner's images, which changes what the one hands over to the other.
 *
 * Compiled with -DREAL="PATH" -DWHEN="--internal-check" or "--internal-resume" or "--internal" for both,
 * and with -DWAY='c' and -DNUMBER=n: 'v' gives the handover version n, 't' keeps the first n per mille of
 * it, 'g' makes a byte at each n-th place another one, 'z' empties it, 'l' makes a number longer than any,
 * 'n' adds a field that nobody knows. Then it becomes REAL.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t forge(char *text, size_t length)
{
	char *begin, *end;
	size_t rest;
	switch (WAY) {
	case 'v':
	case 'l':
		begin = strstr(text, "\"version\":");
		if (!begin)
			_exit(120);
		begin += 10;
		end = begin + strspn(begin, "0123456789");
		rest = length - (size_t)(end - text);
		char fresh[64];
		int size = WAY == 'v' ? snprintf(fresh, sizeof fresh, "%d", NUMBER)
				      : snprintf(fresh, sizeof fresh, "%s", "99999999999999999999999999999999");
		memmove(begin + size, end, rest);
		memcpy(begin, fresh, size);
		return (size_t)(begin - text) + size + rest;
	case 't':
		return length * NUMBER / 1000;
	case 'g':
		for (size_t at = NUMBER; at < length; at += NUMBER)
			text[at] ^= 0x15;
		return length;
	case 'n': {
		static const char field[] = "{\"later\":[1],";
		memmove(text + sizeof field - 1, text + 1, length - 1);
		memcpy(text, field, sizeof field - 1);
		return length + sizeof field - 2;
	}
	default:
		return 0;
	}
}

int main(int argc, char **argv)
{
	(void)argc;
	int mine = 0;
	for (char **word = argv + 1; *word; word++)
		mine |= strncmp(*word, WHEN, strlen(WHEN)) == 0;
	for (int fd = 3; mine && fd < 1024; fd++) {
		char link[64], name[256];
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t got = readlink(link, name, sizeof name - 1);
		if (got < 0)
			continue;
		name[got] = 0;
		struct stat found;
		if (!strstr(name, "memfd:handover") || fstat(fd, &found) != 0)
			continue;
		size_t length = (size_t)found.st_size;
		char *text = calloc(1, length + 256);
		if (!text || pread(fd, text, length, 0) != (ssize_t)length)
			_exit(121);
		length = forge(text, length);
		int fresh = memfd_create("handover", MFD_ALLOW_SEALING);
		if (fresh < 0 || write(fresh, text, length) != (ssize_t)length)
			_exit(122);
		fcntl(fresh, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
		dup2(fresh, fd);
		close(fresh);
	}
	execv(REAL, argv);
	_exit(123);
}
