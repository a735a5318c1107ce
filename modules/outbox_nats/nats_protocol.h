/*-------------------------------------------------------------------------
 *
 * nats_protocol.h
 *		The text protocol of NATS, as bytes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_PROTOCOL_H
#define NATS_PROTOCOL_H

#include "lib/stringinfo.h"

/* What a server says. */
typedef enum NatsOp
{
	NATS_INCOMPLETE,			/* more bytes are needed */
	NATS_INVALID,				/* this is no NATS, or more than we take */
	NATS_INFO,
	NATS_MSG,
	NATS_PING,
	NATS_PONG,
	NATS_OK,
	NATS_ERR
} NatsOp;

/* A part of the buffer that was parsed; it does not end with a NUL. */
typedef struct NatsText
{
	const char *data;
	Size		len;
} NatsText;

/* One of the server's frames; what its op does not have is empty. */
typedef struct NatsFrame
{
	NatsOp		op;
	NatsText	words;			/* INFO's JSON, -ERR's words without quotes */
	NatsText	subject;		/* MSG: where it was sent to */
	NatsText	header;			/* MSG: with the line of version and status */
	NatsText	payload;		/* MSG */
} NatsFrame;

extern Size nats_parse(const char *buf, Size len, NatsFrame *frame);
extern int	nats_header_status(const NatsText *header);
extern void nats_append_header(StringInfo header, const char *name,
							   const char *value);
extern void nats_append_publish(StringInfo out, const char *subject,
								const char *reply, const StringInfoData *header,
								const char *payload, Size payload_len);
extern const char *nats_subject_problem(const char *subject);

#endif							/* NATS_PROTOCOL_H */
