/*-------------------------------------------------------------------------
 *
 * mqtt_reason.h
 *		What a broker's reason code says, in words and for an event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MQTT_REASON_H
#define MQTT_REASON_H

#include "common/module.h"
#include "mqtt_packet.h"

extern const char *mqtt_reason_text(const MqttPacket *packet);
extern bool mqtt_reason_blames(int reason);
extern void mqtt_reason_judge(const MqttPacket *packet, bool accept_unheard,
							  Verdict *verdict);

#endif							/* MQTT_REASON_H */
