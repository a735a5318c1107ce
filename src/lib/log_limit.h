/*-------------------------------------------------------------------------
 *
 * log_limit.h
 *		How often the log may say the same.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LOG_LIMIT_H
#define OUTBOX_LOG_LIMIT_H

/* The same is not said more often. */
#define LOG_PAUSE_MS	60000

extern bool log_is_due(const char *what, const char *which);
extern bool log_is_news(const char *what, const char *which);

#endif							/* OUTBOX_LOG_LIMIT_H */
