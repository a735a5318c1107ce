/*-------------------------------------------------------------------------
 *
 * mqtt_settings.h
 *		What the publisher for MQTT goes by.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MQTT_SETTINGS_H
#define MQTT_SETTINGS_H

#include "common/broker_settings.h"
#include "mqtt_message.h"

/* From one reading of the settings to the next. */
typedef struct MqttSettings
{
	BrokerSettings broker;
	MqttIdentity identity;
	bool		accept_unheard; /* no subscriber is no failure */
	MqttMessageOptions message;
} MqttSettings;

#endif							/* MQTT_SETTINGS_H */
