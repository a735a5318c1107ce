/*-------------------------------------------------------------------------
 *
 * mqtt_message.h
 *		An event as a message of MQTT 5, and the packet that begins it all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MQTT_MESSAGE_H
#define MQTT_MESSAGE_H

#include "mqtt_packet.h"
#include "outbox_publisher.h"

/* How messages are made: the settings, as they were when last read. */
typedef struct MqttMessageOptions
{
	const char *topic;			/* a template */
	bool		structured;		/* an envelope instead of properties */
} MqttMessageOptions;

/* Who we are; user and password may be NULL. */
typedef struct MqttIdentity
{
	const char *client_id;
	const char *user;
	const char *password;
} MqttIdentity;

extern void mqtt_connect_append(StringInfo out, const MqttIdentity *identity,
								int keep_alive);
extern bool mqtt_message_append(StringInfo out, const OutboxMessage *message,
								const MqttMessageOptions *options,
								const char *source, uint16 id, Size max_size,
								const char **reason);

#endif							/* MQTT_MESSAGE_H */
