/*-------------------------------------------------------------------------
 *
 * http_status.h
 *		Lists of the status codes of responses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HTTP_STATUS_H
#define OUTBOX_HTTP_STATUS_H

extern const char *http_status_list_problem(const char *list);
extern bool http_status_list_has(const char *list, int status);

#endif							/* OUTBOX_HTTP_STATUS_H */
