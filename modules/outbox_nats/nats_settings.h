/*-------------------------------------------------------------------------
 *
 * nats_settings.h
 *		What the publisher for NATS goes by.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NATS_SETTINGS_H
#define NATS_SETTINGS_H

#include "common/broker_settings.h"
#include "nats_connection.h"
#include "nats_message.h"

/* From one reading of the settings to the next. */
typedef struct NatsSettings
{
	BrokerSettings broker;
	NatsCredentials credentials;	/* if server.identity has any */
	NatsServer	server;
	NatsMessageOptions message;
} NatsSettings;

#endif							/* NATS_SETTINGS_H */
