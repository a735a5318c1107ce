/*-------------------------------------------------------------------------
 *
 * nats_reply.c
 *		What a server of NATS says of itself, and of a message.
 *
 * Only JetStream's acknowledgement, which names the stream that has stored the
 * message, says that it was delivered; a duplicate is one, too.  Of the errors,
 * a few are the message's or everybody's for sure.  All others may be those of
 * the stream that takes the subject.
 *
 * No state.  Texts are palloc'd in the current memory context; nothing but out of
 * memory is thrown, whatever the server says.
 *
 * Facts: https://docs.nats.io/reference/reference-protocols/nats-protocol, and
 * server/errors.json of https://github.com/nats-io/nats-server, 2.9.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "lib/json_members.h"
#include "nats_reply.h"

/* Status in a reply's header: nobody has subscribed to the subject. */
#define NO_RESPONDERS 503

/* Errors of JetStream whose meaning is not "this stream, for now". */
static const struct
{
	int			err_code;
	OutboxOutcome outcome;
}			outcomes[] =

{
	{10039, OUTBOX_UNAVAILABLE},	/* JetStream not enabled for account */
	{10076, OUTBOX_UNAVAILABLE},	/* JetStream not enabled */
	{10008, OUTBOX_UNAVAILABLE},	/* JetStream temporarily unavailable */
	{10054, OUTBOX_REJECTED},	/* larger than the stream's max_msg_size */
	{10097, OUTBOX_REJECTED},	/* the header is too large */
};

/* A member that is a number; 0 if it is none, or absurd. */
static int64
number_value(const char *value)
{
	char	   *end;
	int64		number;

	errno = 0;
	number = strtoll(value, &end, 10);
	return errno == 0 && *end == '\0' ? number : 0;
}

/* JsonMemberCB of INFO */
static void
info_member(void *arg, int depth, const char *top, const char *name,
			const char *value)
{
	NatsInfo   *info = arg;
	bool		is_true;

	if (depth != 1 || name == NULL)
		return;
	is_true = strcmp(value, "true") == 0;
	if (strcmp(name, "max_payload") == 0)
		info->max_payload = Min(Max(number_value(value), 0), MaxAllocSize / 2);
	else if (strcmp(name, "headers") == 0)
		info->headers = is_true;
	else if (strcmp(name, "jetstream") == 0)
		info->jetstream = is_true;
	else if (strcmp(name, "tls_required") == 0 ||
			 strcmp(name, "tls_available") == 0)
		info->tls_offered |= is_true;
	else if (strcmp(name, "ldm") == 0)
		info->lame_duck = is_true;
	else if (strcmp(name, "nonce") == 0)
		strlcpy(info->nonce, value, sizeof(info->nonce));
}

/* Read INFO's JSON; false if it is none. */
bool
nats_info_parse(const NatsText *json, NatsInfo *info)
{
	memset(info, 0, sizeof(*info));
	return json_members_read_plain(json->data, json->len, info_member, info);
}

/* What matters of an acknowledgement. */
typedef struct Acknowledgement
{
	bool		has_stream;
	bool		has_error;
	int			code;
	int			err_code;
	const char *description;
} Acknowledgement;

/* JsonMemberCB of an acknowledgement */
static void
acknowledgement_member(void *arg, int depth, const char *top, const char *name,
					   const char *value)
{
	Acknowledgement *ack = arg;

	if (top == NULL)
		return;
	if (strcmp(top, "error") == 0)
	{
		ack->has_error = true;
		if (depth != 2 || name == NULL)
			return;
		if (strcmp(name, "code") == 0)
			ack->code = (int) number_value(value);
		else if (strcmp(name, "err_code") == 0)
			ack->err_code = (int) number_value(value);
		else if (strcmp(name, "description") == 0)
			ack->description = value;
	}
	else if (depth == 1 && name != NULL && strcmp(name, "stream") == 0)
		ack->has_stream = true;
}

/*
 * What the server's reply says of a message.  The error is palloc'd or a
 * constant.
 */
void
nats_reply_judge(const NatsFrame *frame, const NatsInfo *info, Verdict *verdict)
{
	Acknowledgement ack = {0};
	bool		whole;

	memset(verdict, 0, sizeof(*verdict));
	verdict->status = nats_header_status(&frame->header);
	if (verdict->status == NO_RESPONDERS)
	{
		/*
		 * where another server of the cluster has it, only that one may be
		 * gone
		 */
		verdict->outcome = info->jetstream ? OUTBOX_FAILED : OUTBOX_UNAVAILABLE;
		verdict->error = info->jetstream ?
			"no stream takes this subject (no responders)" :
			"JetStream does not answer (no responders)";
		return;
	}

	whole = json_members_read_plain(frame->payload.data, frame->payload.len,
									acknowledgement_member, &ack);
	if (whole && ack.has_stream && !ack.has_error)
	{
		verdict->outcome = OUTBOX_DELIVERED;
		verdict->status = 0;
		verdict->error = NULL;
		return;
	}

	verdict->outcome = OUTBOX_RETRY;
	if (!whole || !ack.has_error)
	{
		/* somebody without JetStream has subscribed to the subject, too */
		verdict->error = "the reply is not an acknowledgement of JetStream";
		return;
	}
	verdict->status = ack.code;
	verdict->error = psprintf("%s (JetStream error %d)",
							  ack.description ? ack.description : "failed",
							  ack.err_code);
	for (int i = 0; i < lengthof(outcomes); i++)
	{
		if (ack.err_code == outcomes[i].err_code)
			verdict->outcome = outcomes[i].outcome;
	}
}
