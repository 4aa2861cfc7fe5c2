# numpy's new arrays in shared memory (NEP 49), so that an answer lies where it can be sent from without a copy.
# Part of `_framing.pyx`, which includes it. numpy is met at run time only, through the table of functions that it
# offers to C: whoever never calls `place_arrays` (the manager) never needs numpy.
#
#   Segment.offer ──▶ offered ──numpy allocates──▶ taken ──the array, and every view of it, is gone──▶ offered
#                        └─ withdraw ─▶ not offered, and taken or free
#
# A table of blocks stands below numpy's handler. An allocation that suits an offered block takes it; all others,
# and whatever finds no block, go to the handler that was there before. Nothing is made or mapped within an
# allocation. An array may live as long as it likes: its block is just not offered meanwhile, and memory whose
# Segment is gone is unmapped when the array is. Before a fork, the arrays in blocks move to private memory at the
# same address: a child must not write to what its parent reads.

cdef extern from *:
    """
    #if defined(__linux__)
    #include <pthread.h>
    #include <string.h>

    #define STARCORE_BLOCKS 64

    typedef struct {
        void *ctx;
        void *(*malloc)(void *ctx, size_t size);
        void *(*calloc)(void *ctx, size_t count, size_t size);
        void *(*realloc)(void *ctx, void *at, size_t size);
        void (*free)(void *ctx, void *at, size_t size);
    } starcore_allocator;

    typedef struct {    /* PyDataMem_Handler, version 1 */
        char name[127];
        unsigned char version;
        starcore_allocator allocator;
    } starcore_handler;

    typedef struct {
        char *at;       /* NULL: the entry is free */
        size_t size;
        int offered;
        int taken;
        int private;    /* no longer the file's memory, since a fork */
        int orphan;     /* its Segment is gone */
    } starcore_block;

    static starcore_block starcore_blocks[STARCORE_BLOCKS];
    static pthread_mutex_t starcore_lock = PTHREAD_MUTEX_INITIALIZER;
    static starcore_allocator *starcore_below = NULL;
    static size_t starcore_least, starcore_most, starcore_taken = 0;
    static int starcore_forked = 0;

    static starcore_block *starcore_block_of(const char *at) {
        if (starcore_taken)
            for (starcore_block *block = starcore_blocks; block < starcore_blocks + STARCORE_BLOCKS; block++)
                if (block->taken && block->at <= at && at < block->at + block->size)
                    return block;
        return NULL;
    }

    static void *starcore_malloc(void *ctx, size_t size) {
        starcore_block *best = NULL;
        if (size >= starcore_least) {
            pthread_mutex_lock(&starcore_lock);
            for (starcore_block *block = starcore_blocks; block < starcore_blocks + STARCORE_BLOCKS; block++)
                if (block->offered && !block->taken && block->size >= size && block->size / 2 <= size
                    && starcore_taken + block->size <= starcore_most && (!best || block->size < best->size))
                    best = block;
            if (best) {
                best->taken = 1;
                starcore_taken += best->size;
            }
            pthread_mutex_unlock(&starcore_lock);
        }
        return best ? best->at : starcore_below->malloc(starcore_below->ctx, size);
    }

    static void *starcore_calloc(void *ctx, size_t count, size_t size) {
        return starcore_below->calloc(starcore_below->ctx, count, size);
    }

    static int starcore_give_back(void *at) {
        int found = 0;
        pthread_mutex_lock(&starcore_lock);
        starcore_block *block = starcore_block_of(at);
        if (block) {
            found = 1;
            block->taken = 0;
            starcore_taken -= block->size;
            if (block->orphan) {
                munmap(block->at, block->size);
                memset(block, 0, sizeof *block);
            }
        }
        pthread_mutex_unlock(&starcore_lock);
        return found;
    }

    static void starcore_free(void *ctx, void *at, size_t size) {
        if (!starcore_taken || !starcore_give_back(at))
            starcore_below->free(starcore_below->ctx, at, size);
    }

    static void *starcore_realloc(void *ctx, void *at, size_t size) {
        size_t room = 0;
        if (starcore_taken) {
            pthread_mutex_lock(&starcore_lock);
            starcore_block *block = starcore_block_of(at);
            room = block ? block->size : 0;
            pthread_mutex_unlock(&starcore_lock);
        }
        if (!room)
            return starcore_below->realloc(starcore_below->ctx, at, size);
        if (size <= room)
            return at;
        void *moved = starcore_below->malloc(starcore_below->ctx, size);
        if (moved) {
            memcpy(moved, at, room);
            starcore_give_back(at);
        }
        return moved;
    }

    static void starcore_before_fork(void) {
        pthread_mutex_lock(&starcore_lock);
        for (starcore_block *block = starcore_blocks; block < starcore_blocks + STARCORE_BLOCKS; block++) {
            if (!block->taken || block->private)
                continue;
            void *copy = mmap(NULL, block->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (copy == MAP_FAILED)
                continue;
            memcpy(copy, block->at, block->size);
            if (mremap(copy, block->size, block->size, MREMAP_MAYMOVE | MREMAP_FIXED, block->at) == MAP_FAILED)
                munmap(copy, block->size);
            else {
                block->private = 1;
                block->offered = 0;
            }
        }
    }

    static void starcore_after_fork(void) { pthread_mutex_unlock(&starcore_lock); }

    static void starcore_in_child(void) {
        starcore_forked = 1;
        for (starcore_block *block = starcore_blocks; block < starcore_blocks + STARCORE_BLOCKS; block++)
            block->offered = 0;
        pthread_mutex_unlock(&starcore_lock);
    }

    static starcore_handler starcore_placement = {
        "starcore_placement", 1,
        {NULL, starcore_malloc, starcore_calloc, starcore_realloc, starcore_free}
    };

    /* Numbers 304 and 305 of numpy's table are PyDataMem_SetHandler and PyDataMem_GetHandler, since 1.22. */
    static int starcore_place(PyObject *table, size_t least, size_t most) {
        void **functions = PyCapsule_GetPointer(table, NULL);
        if (!functions)
            return -1;
        if (!starcore_below) {
            PyObject *old = ((PyObject *(*)(void))functions[305])();  /* kept for ever: arrays of ours refer to it */
            starcore_handler *handler = old ? PyCapsule_GetPointer(old, "mem_handler") : NULL;
            if (!handler)
                return -1;
            if (handler->version != 1 || pthread_atfork(starcore_before_fork, starcore_after_fork, starcore_in_child))
                return 0;
            starcore_below = &handler->allocator;
        }
        starcore_least = least;
        starcore_most = most;
        PyObject *ours = PyCapsule_New(&starcore_placement, "mem_handler", NULL);
        PyObject *before = ours ? ((PyObject *(*)(PyObject *))functions[304])(ours) : NULL;
        Py_XDECREF(ours);
        if (!before)
            return -1;
        Py_DECREF(before);
        return 1;
    }

    static int starcore_offer(void *at, size_t size, int number) {
        if (!starcore_below || starcore_forked)
            return -1;
        pthread_mutex_lock(&starcore_lock);
        for (int i = 0; number < 0 && i < STARCORE_BLOCKS; i++)
            if (!starcore_blocks[i].at) {
                number = i;
                starcore_blocks[i].at = at;
                starcore_blocks[i].size = size;
            }
        if (number >= 0 && !starcore_blocks[number].private)
            starcore_blocks[number].offered = 1;
        pthread_mutex_unlock(&starcore_lock);
        return number;
    }

    static void starcore_withdraw(int number) {
        pthread_mutex_lock(&starcore_lock);
        starcore_blocks[number].offered = 0;
        pthread_mutex_unlock(&starcore_lock);
    }

    static int starcore_is_taken(int number) { return starcore_blocks[number].taken; }
    static int starcore_is_private(int number) { return starcore_blocks[number].private; }

    /* The Segment goes: 1 where its memory is still an array's, which will unmap it. */
    static int starcore_leave(int number) {
        pthread_mutex_lock(&starcore_lock);
        starcore_block *block = &starcore_blocks[number];
        int taken = block->taken;
        block->offered = 0;
        block->orphan = taken;
        if (!taken)
            memset(block, 0, sizeof *block);
        pthread_mutex_unlock(&starcore_lock);
        return taken;
    }
    #else
    static int starcore_place(PyObject *table, size_t least, size_t most) { return 0; }
    static int starcore_offer(void *at, size_t size, int number) { return -1; }
    static void starcore_withdraw(int number) {}
    static int starcore_is_taken(int number) { return 0; }
    static int starcore_is_private(int number) { return 0; }
    static int starcore_leave(int number) { return 0; }
    #endif
    """
    int starcore_place(object table, size_t least, size_t most) except -1
    int starcore_offer(void *at, size_t size, int number)
    void starcore_withdraw(int number)
    bint starcore_is_taken(int number)
    bint starcore_is_private(int number)
    bint starcore_leave(int number)


def place_arrays(table, size_t least, size_t most):
    """Have numpy put new arrays of this context into segments that are offered to it.

    Parameters
    ----------
    table : capsule
        numpy's functions for C: ``_ARRAY_API`` of its module ``_multiarray_umath``.
    least : int
        Arrays of fewer bytes go where they always went.
    most : int
        So many bytes of segments may hold arrays at a time.

    Returns
    -------
    bool
        Whether it is done; not on every system, and not with a handler of an unknown version in place.
    """
    return bool(starcore_place(table, least, most))
