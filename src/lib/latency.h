/*-------------------------------------------------------------------------
 *
 * latency.h
 *		How long things took, counted by classes of time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LATENCY_H
#define OUTBOX_LATENCY_H

#define LATENCY_BUCKETS	18

/* So many took longer than the bound before, but no longer than this one. */
typedef struct LatencyHistogram
{
	int64		counts[LATENCY_BUCKETS];
	int64		sum_us;			/* of all of them, in microseconds */
} LatencyHistogram;

extern const double latency_bounds[LATENCY_BUCKETS];

extern void latency_add(LatencyHistogram *histogram, int64 us);

#endif							/* OUTBOX_LATENCY_H */
