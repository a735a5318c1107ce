/*-------------------------------------------------------------------------
 *
 * version.h
 *		Which SQL objects a library works with.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_VERSION_H
#define OUTBOX_VERSION_H

extern bool version_serves(const char *library, const char *sql);

#endif							/* OUTBOX_VERSION_H */
