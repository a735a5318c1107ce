/*-------------------------------------------------------------------------
 *
 * fuzz_brokers.c
 *		What a server of NATS or a broker of MQTT sends, as modules/ parses it.
 *
 * An input is a byte of options, see below, a byte that says where a frame is cut,
 * and what is sent.
 *
 * What has to hold: a frame takes no more bytes than there are, and a part of one is
 * not taken for another.  A message is delivered only by an acknowledgement: for
 * NATS, JSON by the server's own parser that names a stream and no error; for MQTT,
 * a reason code that is no error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fuzz.h"
#include "mqtt_reason.h"
#include "nats_reply.h"

/* The byte of options */
#define OPTION_MQTT		0x01	/* not NATS */
#define OPTION_ACCEPT	0x02	/* MQTT: no subscriber is no failure */

/* Reason codes of MQTT */
#define NO_MATCHING_SUBSCRIBERS	0x10
#define FIRST_ERROR				0x80

/* The beginning of a frame of "len" bytes, in a block of its own. */
static const char *
cut_frame(const char *frame, Size len, uint8 cut, Size *part_len)
{
	char	   *part;

	*part_len = cut * len / 256;
	part = palloc(Max(*part_len, 1));
	memcpy(part, frame, *part_len);
	return part;
}

static bool
has_member(Jsonb *object, const char *name)
{
	JsonbValue	value;

	return getKeyJsonValueFromContainer(&object->root, name, strlen(name),
										&value) != NULL;
}

/* May this be an acknowledgement of JetStream? */
static void
check_acknowledgement(const NatsText *payload)
{
	const char *text = pnstrdup(payload->data, payload->len);
	Jsonb	   *jsonb;

	if (strlen(text) != payload->len || !fuzz_is_json(text))
		fuzz_fail("delivered by what is not JSON");

	/* what is no jsonb for another reason than its grammar has been looked at */
	jsonb = fuzz_jsonb(text);
	if (jsonb == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(jsonb) || !has_member(jsonb, "stream") ||
		has_member(jsonb, "error"))
		fuzz_fail("delivered by what is no acknowledgement");
}

static void
use_nats(FuzzInput *input, uint8 cut)
{
	NatsInfo	info = {0};
	NatsFrame	frame;
	Size		len;

	while ((len = nats_parse(input->data, input->len, &frame)) > 0)
	{
		NatsFrame	part;
		Verdict		verdict;
		Size		part_len;
		const char *part_data = cut_frame(input->data, len, cut, &part_len);

		if (len > input->len)
			fuzz_fail("a frame of more bytes than there are");
		if (nats_parse(part_data, part_len, &part) != 0 ||
			part.op != NATS_INCOMPLETE)
			fuzz_fail("a part of a frame is one");
		if (frame.op == NATS_INFO)
			(void) nats_info_parse(&frame.words, &info);
		else if (frame.op == NATS_MSG)
		{
			nats_reply_judge(&frame, &info, &verdict);
			if (verdict.outcome == OUTBOX_DELIVERED)
				check_acknowledgement(&frame.payload);
			else if (verdict.error == NULL)
				fuzz_fail("no reason");
		}
		input->data += len;
		input->len -= len;
	}
	if (frame.op != NATS_INCOMPLETE && frame.op != NATS_INVALID)
		fuzz_fail("a frame of no bytes");
}

static void
use_mqtt(FuzzInput *input, uint8 cut, bool accept)
{
	MqttPacket	packet;
	Size		len;

	while ((len = mqtt_parse(input->data, input->len, &packet)) > 0)
	{
		MqttPacket	part;
		Verdict		verdict;
		Size		part_len;
		const char *part_data = cut_frame(input->data, len, cut, &part_len);

		if (len > input->len)
			fuzz_fail("a packet of more bytes than there are");
		if (mqtt_parse(part_data, part_len, &part) != 0 ||
			part.kind != MQTT_INCOMPLETE)
			fuzz_fail("a part of a packet is one");
		mqtt_reason_judge(&packet, accept, &verdict);
		if (verdict.outcome != OUTBOX_DELIVERED && verdict.error == NULL)
			fuzz_fail("no reason");
		if (verdict.outcome == OUTBOX_DELIVERED &&
			(packet.reason >= FIRST_ERROR ||
			 (packet.reason == NO_MATCHING_SUBSCRIBERS && !accept)))
			fuzz_fail("delivered by an error");
		input->data += len;
		input->len -= len;
	}
	if (packet.kind != MQTT_INCOMPLETE && packet.kind != MQTT_INVALID)
		fuzz_fail("a packet of no bytes");
}

/* FuzzTarget */
void
fuzz_brokers(FuzzInput *input)
{
	uint8		options = fuzz_byte(input);
	uint8		cut = fuzz_byte(input);

	if (options & OPTION_MQTT)
		use_mqtt(input, cut, (options & OPTION_ACCEPT) != 0);
	else
		use_nats(input, cut);
}
