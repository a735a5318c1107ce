/*-------------------------------------------------------------------------
 *
 * media_type.h
 *		Media types, as the content types of events are.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MEDIA_TYPE_H
#define OUTBOX_MEDIA_TYPE_H

extern bool media_type_is_valid(const char *type);
extern bool media_type_is_json(const char *type);
extern bool media_type_is_cloudevents(const char *type);

#endif							/* OUTBOX_MEDIA_TYPE_H */
