/*-------------------------------------------------------------------------
 *
 * redis_settings.h
 *		What the publisher for Redis goes by.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REDIS_SETTINGS_H
#define REDIS_SETTINGS_H

#include "common/broker_settings.h"
#include "redis_entry.h"
#include "redis_reply.h"

/* From one reading of the settings to the next. */
typedef struct RedisSettings
{
	BrokerSettings broker;
	RedisWait	wait;
	RedisEntryOptions entry;
} RedisSettings;

#endif							/* REDIS_SETTINGS_H */
