/*-------------------------------------------------------------------------
 *
 * frame.h
 *		AMQP 0-9-1 on the wire: frames in buffers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RABBITMQ_FRAME_H
#define OUTBOX_RABBITMQ_FRAME_H

#include <amqp.h>
#include <amqp_framing.h>

#include "lib/stringinfo.h"

/* What a frame has around its payload. */
#define FRAME_OVERHEAD 8

/* The largest frame that we ask for. */
#define FRAME_MAX (128 * 1024)

/* A frame as it came; "payload" is a part of the buffer that it is in. */
typedef struct Frame
{
	uint8		type;			/* AMQP_FRAME_... */
	uint16		channel;
	const char *payload;
	Size		len;
} Frame;

extern void frame_reserve(StringInfo out, Size frame_max, Size body_size);
extern void frame_put_greeting(StringInfo out);
extern bool frame_put_method(StringInfo out, uint16 channel,
							 amqp_method_number_t id, void *arguments);
extern bool frame_put_header(StringInfo out, uint16 channel, Size frame_max,
							 amqp_basic_properties_t *properties,
							 Size body_size);
extern void frame_put_body(StringInfo out, uint16 channel, Size frame_max,
						   const char *body, Size len);
extern void frame_put_heartbeat(StringInfo out);

extern int	frame_take(const char *data, Size len, Size frame_max,
					   Frame *frame);
extern bool frame_decode_method(const Frame *frame, amqp_pool_t *pool,
								amqp_method_t *method);
extern bool frame_decode_header(const Frame *frame, amqp_pool_t *pool,
								amqp_basic_properties_t **properties);

/* A text as librabbitmq wants it. */
static inline amqp_bytes_t
frame_text(const char *str)
{
	return amqp_cstring_bytes(str);
}

#endif							/* OUTBOX_RABBITMQ_FRAME_H */
