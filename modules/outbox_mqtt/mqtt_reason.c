/*-------------------------------------------------------------------------
 *
 * mqtt_reason.c
 *		What a broker's reason code says, in words and for an event.
 *
 * No state; texts are constants or palloc'd.  Only out of memory is thrown.
 *
 * Facts: OASIS, MQTT Version 5.0, 2.4 and 3.4.2.1.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mqtt_reason.h"

#define NO_MATCHING_SUBSCRIBERS	0x10
#define FIRST_ERROR				0x80
#define MALFORMED_PACKET		0x81
#define PROTOCOL_ERROR			0x82
#define TOPIC_NAME_INVALID		0x90
#define PACKET_TOO_LARGE		0x95
#define PAYLOAD_FORMAT_INVALID	0x99

static const struct
{
	int			reason;
	const char *words;
}			reasons[] = {
	{NO_MATCHING_SUBSCRIBERS, "no matching subscribers"},
	{0x80, "unspecified error"},
	{MALFORMED_PACKET, "malformed packet"},
	{PROTOCOL_ERROR, "protocol error"},
	{0x83, "implementation specific error"},
	{0x84, "unsupported protocol version"},
	{0x85, "client identifier not valid"},
	{0x86, "bad user name or password"},
	{0x87, "not authorized"},
	{0x88, "server unavailable"},
	{0x89, "server busy"},
	{0x8A, "banned"},
	{0x8B, "server shutting down"},
	{0x8C, "bad authentication method"},
	{0x8D, "keep alive timeout"},
	{0x8E, "session taken over"},
	{TOPIC_NAME_INVALID, "topic name invalid"},
	{0x93, "receive maximum exceeded"},
	{PACKET_TOO_LARGE, "packet too large"},
	{0x96, "message rate too high"},
	{0x97, "quota exceeded"},
	{0x98, "administrative action"},
	{PAYLOAD_FORMAT_INVALID, "payload format invalid"},
	{0x9B, "QoS not supported"},
	{0x9C, "use another server"},
	{0x9D, "server moved"},
	{0x9F, "connection rate exceeded"}
};

/* The reason of a packet in words; the broker's own are behind it. */
const char *
mqtt_reason_text(const MqttPacket *packet)
{
	const char *words = "unknown reason";

	for (int i = 0; i < lengthof(reasons); i++)
	{
		if (reasons[i].reason == packet->reason)
			words = reasons[i].words;
	}
	return packet->reason_string ?
		psprintf("%s (%d): %s", words, packet->reason, packet->reason_string) :
		psprintf("%s (%d)", words, packet->reason);
}

/* May one of our messages be why the broker disconnects for this reason? */
bool
mqtt_reason_blames(int reason)
{
	return reason == MALFORMED_PACKET || reason == PROTOCOL_ERROR ||
		reason == TOPIC_NAME_INVALID || reason == PACKET_TOO_LARGE ||
		reason == PAYLOAD_FORMAT_INVALID;
}

/* What a PUBACK says of its message. */
void
mqtt_reason_judge(const MqttPacket *packet, bool accept_unheard,
				  Verdict *verdict)
{
	memset(verdict, 0, sizeof(*verdict));
	verdict->outcome = OUTBOX_DELIVERED;
	if (packet->reason < FIRST_ERROR &&
		(packet->reason != NO_MATCHING_SUBSCRIBERS || accept_unheard))
		return;

	verdict->status = packet->reason;
	verdict->error = mqtt_reason_text(packet);
	if (packet->reason == NO_MATCHING_SUBSCRIBERS)
		verdict->outcome = OUTBOX_FAILED;
	else if (packet->reason == TOPIC_NAME_INVALID ||
			 packet->reason == PAYLOAD_FORMAT_INVALID)
		verdict->outcome = OUTBOX_REJECTED;
	else
		verdict->outcome = OUTBOX_RETRY;
}
