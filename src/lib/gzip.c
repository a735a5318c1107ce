/*-------------------------------------------------------------------------
 *
 * gzip.c
 *		Compress bytes, a piece at a time.
 *
 * The same bytes are always compressed to the same: there is no time in the header
 * of what comes out.  The level is the fastest, which makes most of JSON small
 * enough.
 *
 * Memory.  All of it is in the memory context in which the work was begun, what
 * zlib allocates as well, so that work may be left undone.
 *
 * Errors.  Thrown out of memory.  zlib's callback does not throw.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <zlib.h>

#include "utils/memutils.h"

#include "lib/gzip.h"

/* A window of 32 kB, as for deflate, in gzip's format. */
#define WINDOW_BITS		(15 + 16)

/* zlib's own default. */
#define MEMORY_LEVEL	8

struct GzipWork
{
	z_stream	stream;
	Size		left;			/* of the input, from stream.next_in on */
	char	   *result;
	Size		size;			/* that it can have at most */
};

static voidpf
allocate_for_zlib(voidpf context, uInt items, uInt size)
{
	return MemoryContextAllocExtended(context, (Size) items * size,
									  MCXT_ALLOC_NO_OOM);
}

static void
free_for_zlib(voidpf context, voidpf address)
{
	pfree(address);
}

/* Begin to compress "data", which must stay until that is done. */
GzipWork *
gzip_begin(const char *data, Size len)
{
	GzipWork   *work = palloc0(sizeof(GzipWork));
	z_stream   *stream = &work->stream;

	stream->zalloc = allocate_for_zlib;
	stream->zfree = free_for_zlib;
	stream->opaque = CurrentMemoryContext;
	if (deflateInit2(stream, Z_BEST_SPEED, Z_DEFLATED, WINDOW_BITS, MEMORY_LEVEL,
					 Z_DEFAULT_STRATEGY) != Z_OK)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed to begin to compress a request.")));
	stream->next_in = (Bytef *) unconstify(char *, data);
	work->left = len;

	/* room for all of it, whatever it is */
	work->size = deflateBound(stream, len);
	work->result = MemoryContextAllocExtended(CurrentMemoryContext, work->size,
											  MCXT_ALLOC_HUGE);
	stream->next_out = (Bytef *) work->result;
	return work;
}

/* Compress at most "max" bytes more; true when it is done. */
bool
gzip_step(GzipWork *work, Size max)
{
	z_stream   *stream = &work->stream;
	Size		done = stream->next_out - (Bytef *) work->result;
	int			code;

	stream->avail_in = (uInt) Min(work->left, Min(max, INT_MAX));
	stream->avail_out = (uInt) Min(work->size - done, INT_MAX);
	work->left -= stream->avail_in;
	code = deflate(stream, work->left == 0 ? Z_FINISH : Z_NO_FLUSH);
	Assert(stream->avail_in == 0);
	if (code != Z_STREAM_END)
		return false;
	(void) deflateEnd(stream);
	return true;
}

/* What came of it, when it is done. */
const char *
gzip_result(const GzipWork *work, Size *len)
{
	*len = (char *) work->stream.next_out - work->result;
	return work->result;
}
