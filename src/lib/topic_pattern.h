/*-------------------------------------------------------------------------
 *
 * topic_pattern.h
 *		Patterns of topics: which topics are meant.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TOPIC_PATTERN_H
#define OUTBOX_TOPIC_PATTERN_H

/* The longest pattern, without its "!"; in bytes, as for topics. */
#define TOPIC_PATTERN_BYTES	255

extern const char *topic_pattern_problem(const char *pattern);
extern bool topic_patterns_match(char *const *patterns, int n,
								 const char *topic);

#endif							/* OUTBOX_TOPIC_PATTERN_H */
