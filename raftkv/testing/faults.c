/* A disk that fails on request, for the process that this is preloaded into.
 *
 * DISK_FAULTS names a file of rules, one a line, read again whenever it has changed:
 *
 *     OPERATION PART ERROR [AFTER]     OPERATION: write, read, sync, rename, unlink, allocate
 *                                      PART: of the path; ERROR: a number of errno, `short` (a write takes half),
 *                                      or `slow=MILLISECONDS`; AFTER: so many pass first
 *
 * Only file descriptors opened here and paths are looked at; what LMDB does through its memory map is not seen.
 * Each time that a rule is applied, a line is appended to the file named by DISK_FAULTS with ".hits" added.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MOST 16

struct rule {
    char operation[16];
    char part[128];
    int error, is_short, slow_ms;
    long after;
};

static struct rule rules[MOST];
static int count;
static struct timespec read_at;
static ino_t read_inode;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void load(const char *name) {
    struct stat now;
    if (stat(name, &now) != 0) {
        count = 0;
        return;
    }
    if (now.st_ino == read_inode && now.st_mtim.tv_sec == read_at.tv_sec && now.st_mtim.tv_nsec == read_at.tv_nsec)
        return;
    read_inode = now.st_ino;
    read_at = now.st_mtim;
    count = 0;
    FILE *file = fopen(name, "r");
    char what[32];
    char line[256];
    while (file && count < MOST && fgets(line, sizeof line, file)) {
        struct rule *one = &rules[count];
        memset(one, 0, sizeof *one);
        if (sscanf(line, "%15s %127s %31s %ld", one->operation, one->part, what, &one->after) < 3)
            continue;
        if (strcmp(what, "short") == 0)
            one->is_short = 1;
        else if (strncmp(what, "slow=", 5) == 0)
            one->slow_ms = atoi(what + 5);
        else
            one->error = atoi(what);
        count++;
    }
    if (file)
        fclose(file);
}

/* Returns the error, or 0; *halved says that a write is to be short. */
static int fault(const char *operation, const char *path, int *halved) {
    const char *name = getenv("DISK_FAULTS");
    if (!name || !path)
        return 0;
    struct rule found = {0};
    int hit = 0;
    pthread_mutex_lock(&lock);
    load(name);
    for (int i = 0; i < count && !hit; i++) {
        if (strcmp(rules[i].operation, operation) != 0 || !strstr(path, rules[i].part))
            continue;
        if (rules[i].after > 0) {
            rules[i].after--;
            continue;
        }
        found = rules[i];
        hit = 1;
    }
    if (hit) {
        char hits[4096];
        snprintf(hits, sizeof hits, "%s.hits", name);
        FILE *file = fopen(hits, "a");
        if (file) {
            fprintf(file, "%s %s\n", operation, path);
            fclose(file);
        }
    }
    pthread_mutex_unlock(&lock);
    if (!hit)
        return 0;
    if (found.slow_ms) {
        struct timespec pause = {found.slow_ms / 1000, (found.slow_ms % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
    if (found.is_short && halved)
        *halved = 1;
    return found.error;
}

static int fault_of_file(const char *operation, int fd, int *halved) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length <= 0 || path[0] != '/')
        return 0;
    path[length] = 0;
    return fault(operation, path, halved);
}

#define FAIL_IF(error)                                                                                                  \
    do {                                                                                                                \
        int failed_with = (error);                                                                                      \
        if (failed_with) {                                                                                              \
            errno = failed_with;                                                                                        \
            return -1;                                                                                                  \
        }                                                                                                               \
    } while (0)

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    int halved = 0;
    FAIL_IF(fault_of_file("write", fd, &halved));
    return real(fd, data, halved && size > 1 ? size / 2 : size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
    REAL(pread64);
    FAIL_IF(fault_of_file("read", fd, NULL));
    return real(fd, data, size, offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    return pread64(fd, data, size, offset);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    FAIL_IF(fault_of_file("sync", fd, NULL));
    return real(fd);
}

int fsync(int fd) {
    REAL(fsync);
    FAIL_IF(fault_of_file("sync", fd, NULL));
    return real(fd);
}

int posix_fallocate64(int fd, off64_t offset, off64_t size) {
    REAL(posix_fallocate64);
    int error = fault_of_file("allocate", fd, NULL);
    return error ? error : real(fd, offset, size);
}

int posix_fallocate(int fd, off_t offset, off_t size) {
    return posix_fallocate64(fd, offset, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    FAIL_IF(fault("rename", from, NULL));
    return real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    FAIL_IF(fault("unlink", path, NULL));
    return real(path);
}
