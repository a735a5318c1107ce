/*-------------------------------------------------------------------------
 *
 * nats_reply.h
 *		What a server of NATS says of itself, and of a message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_REPLY_H
#define NATS_REPLY_H

#include "common/module.h"
#include "nats_protocol.h"

/* More than any server has in a nonce; what is behind it is cut off. */
#define NATS_NONCE_SIZE 256

/* What matters of INFO. */
typedef struct NatsInfo
{
	Size		max_payload;	/* bytes of header and payload in a message */
	bool		headers;		/* it knows of headers */
	bool		jetstream;		/* it has JetStream itself */
	bool		tls_offered;
	bool		lame_duck;		/* it will end, and wants us to leave */
	char		nonce[NATS_NONCE_SIZE]; /* to be signed; empty: none */
} NatsInfo;

extern bool nats_info_parse(const NatsText *json, NatsInfo *info);
extern void nats_reply_judge(const NatsFrame *frame, const NatsInfo *info,
							 Verdict *verdict);

#endif							/* NATS_REPLY_H */
