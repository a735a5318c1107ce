/*-------------------------------------------------------------------------
 *
 * byte_queue.c
 *		Bytes that are put at one end of a buffer and taken at the other.
 *
 * A StringInfo that anybody may append to; up to its cursor, it was taken.  Under
 * load it may never be empty.  So what was taken is dropped from its front, or it
 * would grow with all that was ever put.
 *
 * No state.  Errors: those of a connection are answers; nothing is thrown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/byte_queue.h"

/* What a buffer has grown to beyond this, for large messages, is given back. */
#define KEEP_BYTES	(1024 * 1024)

/* How many bytes were not taken. */
Size
byte_queue_len(const StringInfoData *queue)
{
	return queue->len - queue->cursor;
}

/* So many bytes more were taken. */
void
byte_queue_take(StringInfo queue, Size len)
{
	Size		left;

	queue->cursor += len;
	left = byte_queue_len(queue);

	/* no more is moved than was taken since the last time */
	if (queue->cursor < left)
		return;
	memmove(queue->data, queue->data + queue->cursor, left);
	queue->data[left] = '\0';
	queue->len = left;
	queue->cursor = 0;
	if (left == 0 && queue->maxlen > KEEP_BYTES)
	{
		queue->data = repalloc(queue->data, KEEP_BYTES);
		queue->maxlen = KEEP_BYTES;
	}
}

/* Write what there is room for, of one that is not empty: as net_write(). */
ssize_t
byte_queue_write(StringInfo queue, NetConnection *net)
{
	ssize_t		len = net_write(net, queue->data + queue->cursor,
								byte_queue_len(queue));

	if (len > 0)
		byte_queue_take(queue, len);
	return len;
}
