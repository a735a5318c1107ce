/*-------------------------------------------------------------------------
 *
 * mqtt_packet.h
 *		The packets of MQTT 5, as bytes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MQTT_PACKET_H
#define MQTT_PACKET_H

#include "lib/stringinfo.h"

/* Kinds of packets, as their first byte has them */
typedef enum MqttKind
{
	MQTT_INCOMPLETE,			/* more bytes are needed */
	MQTT_CONNECT = 0x10,
	MQTT_CONNACK = 0x20,
	MQTT_PUBLISH = 0x32,		/* to be acknowledged (QoS 1) */
	MQTT_PUBACK = 0x40,
	MQTT_PINGREQ = 0xC0,
	MQTT_PINGRESP = 0xD0,
	MQTT_DISCONNECT = 0xE0,
	MQTT_INVALID = 0xFF			/* this is no MQTT, or more than we take */
} MqttKind;

/* Properties that matter to us, of those that a packet can have. */
typedef enum MqttProperty
{
	MQTT_PAYLOAD_IS_TEXT = 0x01,
	MQTT_CONTENT_TYPE = 0x03,
	MQTT_SERVER_KEEP_ALIVE = 0x13,
	MQTT_REASON_STRING = 0x1F,
	MQTT_RECEIVE_MAXIMUM = 0x21,
	MQTT_MAXIMUM_QOS = 0x24,
	MQTT_USER_PROPERTY = 0x26,
	MQTT_MAXIMUM_PACKET_SIZE = 0x27
} MqttProperty;

/* The longest string that there can be. */
#define MQTT_MAX_STRING 65535

/* A packet of the broker's; what its kind does not have is as in a new one. */
typedef struct MqttPacket
{
	MqttKind	kind;
	int			reason;			/* its reason code; 0: success */
	uint16		id;				/* PUBACK: the message's */
	char	   *reason_string;	/* palloc'd, or NULL */
	int			keep_alive;		/* CONNACK: seconds; -1: as we have said */
	int			receive_maximum;	/* unacknowledged messages; 65535 */
	int			maximum_qos;	/* 2 */
	Size		maximum_size;	/* of a packet, in bytes; as much as one can
								 * have */
} MqttPacket;

extern Size mqtt_parse(const char *buf, Size len, MqttPacket *packet);

extern void mqtt_put_uint16(StringInfo buf, uint16 value);
extern void mqtt_put_string(StringInfo buf, const char *str);
extern void mqtt_put_property(StringInfo buf, MqttProperty property,
							  const char *value);
extern void mqtt_put_user_property(StringInfo buf, const char *name,
								   const char *value);
extern void mqtt_put_properties(StringInfo buf, const StringInfoData *properties);
extern Size mqtt_packet_size(Size len);
extern void mqtt_append_packet(StringInfo out, MqttKind kind,
							   const StringInfoData *head,
							   const char *payload, Size payload_len);

#endif							/* MQTT_PACKET_H */
