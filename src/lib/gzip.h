/*-------------------------------------------------------------------------
 *
 * gzip.h
 *		Compress bytes, a piece at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GZIP_H
#define OUTBOX_GZIP_H

typedef struct GzipWork GzipWork;

extern GzipWork *gzip_begin(const char *data, Size len);
extern bool gzip_step(GzipWork *work, Size max);
extern const char *gzip_result(const GzipWork *work, Size *len);

#endif							/* OUTBOX_GZIP_H */
