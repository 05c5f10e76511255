// A disk that breaks when it is told to: preloaded into a relay, it makes the calls fail with which LMDB
// writes its file. The file named by BROKEN_DISK says which: a call and an errno, as "fdatasync 5"; no
// such file, no fault. "short 0" is a write that ends half way, as the last free blocks make of it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

// The errno that this call is to fail with; -1 if it is to do its work.
static int fault_of(const char *call) {
    const char *path = getenv("BROKEN_DISK");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file) return -1;
    char broken[32];
    int cause;
    int is_told = fscanf(file, "%31s %d", broken, &cause) == 2 && strcmp(broken, call) == 0;
    fclose(file);
    return is_told ? cause : -1;
}

static int is_store(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && strcmp(name, "/data.mdb") == 0;
}

static int fails(const char *call, int fd) {
    int cause = is_store(fd) ? fault_of(call) : -1;
    if (cause < 0) return 0;
    errno = cause;
    return 1;
}

int fdatasync(int fd) { return fails("fdatasync", fd) ? -1 : REAL(fdatasync)(fd); }
int fsync(int fd) { return fails("fdatasync", fd) ? -1 : REAL(fsync)(fd); }

// LMDB writes its head page through a descriptor of its own, which syncs.
static const char *kind_of(int fd) { return fcntl(fd, F_GETFL) & O_DSYNC ? "head" : "write"; }

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    if (fails(kind_of(fd), fd)) return -1;
    if (fails("short", fd)) count /= 2;
    return REAL(pwrite)(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return pwrite(fd, bytes, count, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (fails("write", fd)) return -1;
    if (count > 1 && fails("short", fd)) count -= 1;
    return REAL(writev)(fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    if (fails("write", fd)) return -1;
    if (count > 1 && fails("short", fd)) count -= 1;
    return REAL(pwritev)(fd, parts, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    return pwritev(fd, parts, count, at);
}

int statvfs(const char *path, struct statvfs *disk) {
    int result = REAL(statvfs)(path, disk);
    if (result == 0 && fault_of("short") >= 0) disk->f_bavail = 0;
    return result;
}

int statvfs64(const char *path, struct statvfs64 *disk) {
    int result = REAL(statvfs64)(path, disk);
    if (result == 0 && fault_of("short") >= 0) disk->f_bavail = 0;
    return result;
}
