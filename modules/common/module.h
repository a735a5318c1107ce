/*-------------------------------------------------------------------------
 *
 * module.h
 *		What every publisher in modules/ does alike: settings, secrets,
 *		names, answers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MODULE_H
#define OUTBOX_MODULE_H

#include "utils/guc.h"

#include "outbox_publisher.h"

/* The modes of CloudEvents: a setting of all, and its values. */
typedef enum ModuleContentMode
{
	MODULE_BINARY,				/* attributes beside the payload */
	MODULE_STRUCTURED			/* an envelope */
} ModuleContentMode;

extern const struct config_enum_entry module_content_modes[];

/* What is said of one message or of all that are in flight. */
typedef struct Verdict
{
	OutboxOutcome outcome;
	bool		alone;			/* as in OutboxAnswer */
	int			status;
	const char *error;			/* NULL if delivered */
} Verdict;

extern void module_answer(OutboxPublisherState *state, int64 id,
						  const Verdict *verdict);

extern const char *module_ca_file(const char *own,
								  const OutboxPublisherState *state);
extern bool module_accept_unless(const char *problem);
extern bool module_check_template(char **newval, void **extra,
								  GucSource source);
extern bool module_read_secret(const char *path, const char **secret,
							   const char **reason);

extern const char *module_reserved_metadata(const OutboxMessage *message,
											const char *const *reserved);

#endif							/* OUTBOX_MODULE_H */
