/*-------------------------------------------------------------------------
 *
 * mqtt_client.h
 *		A connection to a broker of MQTT 5, and the messages on their way to it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MQTT_CLIENT_H
#define MQTT_CLIENT_H

#include "common/net.h"
#include "mqtt_message.h"

typedef struct MqttClient MqttClient;

/* What it goes by, from one reading of the settings to the next. */
typedef struct MqttOptions
{
	Address		address;
	SSL_CTX    *tls;			/* NULL: without */
	MqttIdentity identity;
	bool		accept_unheard; /* no subscriber is no failure */
	int			max_messages;	/* unacknowledged at a time */
	MqttMessageOptions message;
} MqttOptions;

extern MqttClient *mqtt_client_create(OutboxPublisherState *state);
extern void mqtt_client_configure(MqttClient *client,
								  const MqttOptions *options);
extern void mqtt_client_submit(MqttClient *client,
							   const OutboxMessage *message);
extern void mqtt_client_advance(MqttClient *client);
extern int	mqtt_client_wait_for(MqttClient *client, OutboxSocket *socket,
								 long *timeout_ms);
extern void mqtt_client_cancel(MqttClient *client, int64 id);
extern void mqtt_client_probe(MqttClient *client);
extern void mqtt_client_destroy(MqttClient *client);

#endif							/* MQTT_CLIENT_H */
