/*-------------------------------------------------------------------------
 *
 * mqtt_packet.c
 *		The packets of MQTT 5, as bytes.
 *
 * A packet is a byte with its kind, how many bytes follow, and these: a head that
 * its kind says, properties, and a payload.  What comes from the broker is trusted
 * in nothing: what does not end where it says, or is longer than any answer to a
 * publisher, is invalid, and the connection is then closed by whoever reads.
 *
 * What is put together is a head first, since the length in front of it has to be
 * known.  No state; only out of memory is thrown.
 *
 * Facts: OASIS, MQTT Version 5.0, chapters 2 and 3.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "mqtt_packet.h"

/* Answers to a publisher are short, but for a reason in words. */
#define MAX_ANSWER	(128 * 1024)

/* As many bytes as a length can have */
#define MAX_VARINT	4

/* The largest length that there can be */
#define MAX_LENGTH	268435455

/* What is left of a packet that is being read */
typedef struct Reader
{
	const unsigned char *p;
	const unsigned char *end;
	bool		failed;			/* it had less than was asked for */
} Reader;

static uint32
read_number(Reader *reader, int nbytes)
{
	uint32		value = 0;

	if (reader->end - reader->p < nbytes)
	{
		reader->failed = true;
		return 0;
	}
	while (nbytes-- > 0)
		value = (value << 8) | *reader->p++;
	return value;
}

/* A length of one to four bytes. */
static uint32
read_varint(Reader *reader)
{
	uint32		value = 0;

	for (int i = 0; i < MAX_VARINT; i++)
	{
		uint32		byte = read_number(reader, 1);

		value |= (byte & 0x7F) << (7 * i);
		if ((byte & 0x80) == 0)
			return value;
	}
	reader->failed = true;
	return 0;
}

/* A string, or the bytes of something else that has a length in front; palloc'd. */
static char *
read_string(Reader *reader)
{
	uint32		len = read_number(reader, 2);
	char	   *str;

	if (reader->failed || reader->end - reader->p < len)
	{
		reader->failed = true;
		return NULL;
	}
	str = pnstrdup((const char *) reader->p, len);
	reader->p += len;
	return str;
}

/* How many bytes the value of a property has; 0: it is a string or two. */
static int
property_size(int property)
{
	switch (property)
	{
		case MQTT_MAXIMUM_QOS:
		case 0x25:				/* retain available */
		case 0x28:				/* wildcard subscription available */
		case 0x29:				/* subscription identifier available */
		case 0x2A:				/* shared subscription available */
			return 1;
		case MQTT_SERVER_KEEP_ALIVE:
		case MQTT_RECEIVE_MAXIMUM:
		case 0x22:				/* topic alias maximum */
			return 2;
		case MQTT_MAXIMUM_PACKET_SIZE:
		case 0x11:				/* session expiry interval */
			return 4;
		default:
			return 0;
	}
}

/* Is the property a string?  Of those that an answer can have, all others are not. */
static bool
is_string_property(int property)
{
	return property == MQTT_REASON_STRING ||
		property == 0x12 ||		/* assigned client identifier */
		property == 0x15 ||		/* authentication method */
		property == 0x16 ||		/* authentication data */
		property == 0x1A ||		/* response information */
		property == 0x1C;		/* server reference */
}

/* Take the value of a property that is a number. */
static void
take_number(MqttPacket *packet, int property, uint32 value)
{
	if (property == MQTT_MAXIMUM_QOS)
		packet->maximum_qos = value;
	else if (property == MQTT_SERVER_KEEP_ALIVE)
		packet->keep_alive = value;
	else if (property == MQTT_RECEIVE_MAXIMUM)
		packet->receive_maximum = Max(value, 1);
	else if (property == MQTT_MAXIMUM_PACKET_SIZE)
		packet->maximum_size = Min(value, packet->maximum_size);
}

/* Read the properties, which are behind everything else of an answer. */
static void
read_properties(Reader *reader, MqttPacket *packet)
{
	uint32		len;
	Reader		properties = *reader;

	/* short forms of packets leave them out */
	if (reader->p == reader->end)
		return;
	len = read_varint(&properties);
	if (properties.failed || properties.end - properties.p < len)
	{
		reader->failed = true;
		return;
	}
	properties.end = properties.p + len;
	while (properties.p < properties.end && !properties.failed)
	{
		int			property = read_varint(&properties);
		int			size = property_size(property);

		if (size > 0)
			take_number(packet, property, read_number(&properties, size));
		else if (property == MQTT_USER_PROPERTY)
		{
			(void) read_string(&properties);
			(void) read_string(&properties);
		}
		else if (is_string_property(property))
		{
			char	   *value = read_string(&properties);

			if (property == MQTT_REASON_STRING)
				packet->reason_string = value;
		}
		else
			properties.failed = true;
	}
	reader->failed = properties.failed;
}

/* Read what is behind the length of a packet. */
static void
read_body(Reader *reader, MqttPacket *packet)
{
	switch (packet->kind)
	{
		case MQTT_CONNACK:
			(void) read_number(reader, 1);	/* whether there was a session */
			packet->reason = read_number(reader, 1);
			break;
		case MQTT_PUBACK:
			packet->id = read_number(reader, 2);
			if (reader->p < reader->end)
				packet->reason = read_number(reader, 1);
			break;
		case MQTT_DISCONNECT:
			if (reader->p < reader->end)
				packet->reason = read_number(reader, 1);
			break;
		case MQTT_PINGRESP:
			return;
		default:
			reader->failed = true;
			return;
	}
	if (!reader->failed)
		read_properties(reader, packet);
}

/*
 * Parse the first packet in "len" bytes.  Returns how many of them it takes, and 0
 * if its kind is MQTT_INCOMPLETE or MQTT_INVALID.
 */
Size
mqtt_parse(const char *buf, Size len, MqttPacket *packet)
{
	Reader		reader = {
		.p = (const unsigned char *) buf,
		.end = (const unsigned char *) buf + len
	};
	uint32		body_len;

	memset(packet, 0, sizeof(*packet));
	packet->keep_alive = -1;
	packet->receive_maximum = PG_UINT16_MAX;
	packet->maximum_qos = 2;
	packet->maximum_size = MAX_LENGTH;
	if (len < 2)
		return 0;
	packet->kind = read_number(&reader, 1);
	body_len = read_varint(&reader);
	if (reader.failed)
	{
		packet->kind = len > MAX_VARINT ? MQTT_INVALID : MQTT_INCOMPLETE;
		return 0;
	}
	if (body_len > MAX_ANSWER)
	{
		packet->kind = MQTT_INVALID;
		return 0;
	}
	if (reader.end - reader.p < body_len)
	{
		packet->kind = MQTT_INCOMPLETE;
		return 0;
	}
	reader.end = reader.p + body_len;
	read_body(&reader, packet);
	if (reader.failed)
	{
		packet->kind = MQTT_INVALID;
		return 0;
	}
	return (const char *) reader.end - buf;
}

void
mqtt_put_uint16(StringInfo buf, uint16 value)
{
	/* there is one in front of each string: no call for each byte */
	appendStringInfoCharMacro(buf, value >> 8);
	appendStringInfoCharMacro(buf, value & 0xFF);
}

/* Of at most MQTT_MAX_STRING bytes */
void
mqtt_put_string(StringInfo buf, const char *str)
{
	Size		len = strlen(str);

	Assert(len <= MQTT_MAX_STRING);
	mqtt_put_uint16(buf, len);
	appendBinaryStringInfo(buf, str, len);
}

/* A property that is a string; without a value, one that is true. */
void
mqtt_put_property(StringInfo buf, MqttProperty property, const char *value)
{
	appendStringInfoChar(buf, property);
	if (value)
		mqtt_put_string(buf, value);
	else
		appendStringInfoChar(buf, 1);
}

void
mqtt_put_user_property(StringInfo buf, const char *name, const char *value)
{
	appendStringInfoChar(buf, MQTT_USER_PROPERTY);
	mqtt_put_string(buf, name);
	mqtt_put_string(buf, value);
}

static void
put_varint(StringInfo buf, uint32 value)
{
	do
	{
		appendStringInfoChar(buf, (value & 0x7F) | (value > 0x7F ? 0x80 : 0));
		value >>= 7;
	} while (value > 0);
}

/* Properties, which have their length in front. */
void
mqtt_put_properties(StringInfo buf, const StringInfoData *properties)
{
	put_varint(buf, properties->len);
	appendBinaryStringInfo(buf, properties->data, properties->len);
}

/* How many bytes a packet has, of which "len" are head and payload. */
Size
mqtt_packet_size(Size len)
{
	Size		size = len + 2;

	for (Size rest = len >> 7; rest > 0; rest >>= 7)
		size++;
	return size;
}

/* Append a packet as a whole or, out of memory, not at all. */
void
mqtt_append_packet(StringInfo out, MqttKind kind, const StringInfoData *head,
				   const char *payload, Size payload_len)
{
	Size		len = (head ? head->len : 0) + payload_len;

	enlargeStringInfo(out, mqtt_packet_size(len));
	appendStringInfoChar(out, kind);
	put_varint(out, len);
	if (head)
		appendBinaryStringInfo(out, head->data, head->len);
	if (payload_len > 0)
		appendBinaryStringInfo(out, payload, payload_len);
}
