/*-------------------------------------------------------------------------
 *
 * frame.c
 *		AMQP 0-9-1 on the wire: frames in buffers.
 *
 * librabbitmq knows the methods, their arguments and the properties of a
 * message.  Nothing else of it is used: its connections wait.
 *
 * A frame is a byte for its type, two for its channel, four for the length of
 * its payload, the payload, and a byte that ends it.
 *
 * Memory: what is put goes to the end of a buffer; what is decoded is in a pool
 * of librabbitmq's, and refers to the frame.  Errors: what does not fit, or is
 * malformed, is an answer; only growing a buffer throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "frame.h"
#include "port/pg_bswap.h"

#define HEAD_SIZE 7

/* Large enough for any method of ours; before "tune", no frame is larger. */
#define METHOD_MAX AMQP_FRAME_MIN_SIZE

/* Large enough for the properties of any event: its metadata have 4 kB. */
#define PROPERTIES_MAX (64 * 1024)

/* What a header frame has before the properties: class, weight, body size. */
#define HEADER_FIXED 12

static void
put_uint16(char *to, uint16 value)
{
	uint16		n = pg_hton16(value);

	memcpy(to, &n, sizeof(n));
}

static void
put_uint32(char *to, uint32 value)
{
	uint32		n = pg_hton32(value);

	memcpy(to, &n, sizeof(n));
}

static uint16
get_uint16(const char *from)
{
	uint16		n;

	memcpy(&n, from, sizeof(n));
	return pg_ntoh16(n);
}

static uint32
get_uint32(const char *from)
{
	uint32		n;

	memcpy(&n, from, sizeof(n));
	return pg_ntoh32(n);
}

/*
 * Where the payload of the next frame goes, of which there is room for "room"
 * bytes.
 */
static char *
payload_place(StringInfo out, Size room)
{
	enlargeStringInfo(out, FRAME_OVERHEAD + room);
	return out->data + out->len + HEAD_SIZE;
}

/* The payload is there, and has this length: put the rest of the frame. */
static void
finish_frame(StringInfo out, uint8 type, uint16 channel, Size len)
{
	char	   *head = out->data + out->len;

	head[0] = type;
	put_uint16(head + 1, channel);
	put_uint32(head + 3, len);
	head[HEAD_SIZE + len] = (char) AMQP_FRAME_END;
	out->len += FRAME_OVERHEAD + len;
}

/* Make room for all that publishes a message with a body of this size. */
void
frame_reserve(StringInfo out, Size frame_max, Size body_size)
{
	Size		nframes = body_size / (frame_max - FRAME_OVERHEAD) + 3;

	enlargeStringInfo(out, METHOD_MAX + PROPERTIES_MAX + body_size +
					  nframes * FRAME_OVERHEAD);
}

/* What a connection begins with. */
void
frame_put_greeting(StringInfo out)
{
	appendBinaryStringInfo(out, "AMQP\0\0\x09\x01", 8);
}

/* False, and nothing is put, if the arguments are too long for a frame. */
bool
frame_put_method(StringInfo out, uint16 channel, amqp_method_number_t id,
				 void *arguments)
{
	char	   *place = payload_place(out, METHOD_MAX);
	amqp_bytes_t room = {METHOD_MAX - FRAME_OVERHEAD - 4, place + 4};
	int			len = amqp_encode_method(id, arguments, room);

	if (len < 0)
		return false;
	put_uint32(place, id);
	finish_frame(out, AMQP_FRAME_METHOD, channel, len + 4);
	return true;
}

/* False, and nothing is put, if the properties are too long for a frame. */
bool
frame_put_header(StringInfo out, uint16 channel, Size frame_max,
				 amqp_basic_properties_t *properties, Size body_size)
{
	Size		max = Min(frame_max - FRAME_OVERHEAD, PROPERTIES_MAX);
	char	   *place = payload_place(out, max);
	amqp_bytes_t room = {max - HEADER_FIXED, place + HEADER_FIXED};
	int			len = amqp_encode_properties(AMQP_BASIC_CLASS, properties,
											 room);

	if (len < 0)
		return false;
	put_uint16(place, AMQP_BASIC_CLASS);
	put_uint16(place + 2, 0);
	put_uint32(place + 4, (uint64) body_size >> 32);
	put_uint32(place + 8, (uint32) body_size);
	finish_frame(out, AMQP_FRAME_HEADER, channel, HEADER_FIXED + len);
	return true;
}

/* A body of any length, in as many frames as it takes. */
void
frame_put_body(StringInfo out, uint16 channel, Size frame_max,
			   const char *body, Size len)
{
	Size		max = frame_max - FRAME_OVERHEAD;

	while (len > 0)
	{
		Size		part = Min(len, max);

		memcpy(payload_place(out, part), body, part);
		finish_frame(out, AMQP_FRAME_BODY, channel, part);
		body += part;
		len -= part;
	}
}

void
frame_put_heartbeat(StringInfo out)
{
	payload_place(out, 0);
	finish_frame(out, AMQP_FRAME_HEARTBEAT, 0, 0);
}

/*
 * The frame that "data" begins with.  Returns how many bytes it has; 0 if they
 * are not all there yet; -1 if it is not a frame of at most "frame_max" bytes.
 */
int
frame_take(const char *data, Size len, Size frame_max, Frame *frame)
{
	if (len < HEAD_SIZE)
		return 0;
	frame->type = data[0];
	frame->channel = get_uint16(data + 1);
	frame->len = get_uint32(data + 3);
	frame->payload = data + HEAD_SIZE;
	if (frame->len > frame_max - FRAME_OVERHEAD)
		return -1;
	if (len < frame->len + FRAME_OVERHEAD)
		return 0;
	if ((uint8) frame->payload[frame->len] != AMQP_FRAME_END)
		return -1;
	return frame->len + FRAME_OVERHEAD;
}

/* Decode the payload of a method frame; false if that is malformed. */
bool
frame_decode_method(const Frame *frame, amqp_pool_t *pool,
					amqp_method_t *method)
{
	amqp_bytes_t encoded;

	if (frame->len < 4)
		return false;
	method->id = get_uint32(frame->payload);
	encoded.bytes = unconstify(char *, frame->payload + 4);
	encoded.len = frame->len - 4;
	return amqp_decode_method(method->id, pool, encoded,
							  &method->decoded) >= 0;
}

/* Decode the properties in a header frame; false if they are malformed. */
bool
frame_decode_header(const Frame *frame, amqp_pool_t *pool,
					amqp_basic_properties_t **properties)
{
	amqp_bytes_t encoded;
	void	   *decoded;

	if (frame->len < HEADER_FIXED ||
		get_uint16(frame->payload) != AMQP_BASIC_CLASS)
		return false;
	encoded.bytes = unconstify(char *, frame->payload + HEADER_FIXED);
	encoded.len = frame->len - HEADER_FIXED;
	if (amqp_decode_properties(AMQP_BASIC_CLASS, pool, encoded, &decoded) < 0)
		return false;
	*properties = decoded;
	return true;
}
